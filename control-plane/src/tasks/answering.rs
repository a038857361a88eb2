//! Requests of one subject, answered some at a time.

use breeze_bus::{Request, Service};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Requests that are answered at a time, of each service; further ones wait in its queue.
const MAX_IN_FLIGHT: usize = 64;

/// Answers until `stop`, then finishes what is under way. `None` leaves the asker to its deadline.
///
/// # Errors
/// When the bus closes.
pub async fn answer_each<Answering>(
    mut service: Box<dyn Service>,
    stop: CancellationToken,
    answer: impl Fn(Bytes) -> Answering,
) -> anyhow::Result<()>
where
    Answering: Future<Output = Option<Bytes>> + Send + 'static,
{
    let running = TaskTracker::new();
    let turns = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            next = service.next() => next,
        };
        let Some(Request { payload, reply, .. }) = next else { break };
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { break };
        let answering = answer(payload);
        running.spawn(async move {
            if let Some(answer) = answering.await {
                reply(answer);
            }
            drop(turn);
        });
    }
    running.close();
    running.wait().await;
    Ok(())
}
