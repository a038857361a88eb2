//! Frames for agents, handed to the relays that hold them. A push is a hint: lost ones are counted and
//! made up by the next hello.

use crate::core::Push;
use breeze_bus::Bus;
use breeze_proto::{subject, v1};
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pushes that wait.
const MAX_WAITING: usize = 4096;
/// Pushes under way at a time.
const CONCURRENT: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Where pushes are put.
#[derive(Debug, Clone)]
pub(crate) struct Pusher(mpsc::Sender<Push>);

/// What [`run`] takes them from.
pub(crate) type Pushes = mpsc::Receiver<Push>;

pub(crate) fn channel() -> (Pusher, Pushes) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    (Pusher(sender), receiver)
}

impl Pusher {
    /// Never waits; drops and counts when too many do.
    pub(crate) fn send(&self, push: Push) {
        if self.0.try_send(push).is_err() {
            count("dropped");
        }
    }
}

/// Sends until `stop`.
pub(crate) async fn run(pushes: Pushes, bus: Arc<dyn Bus>, stop: CancellationToken) {
    let pushes = futures_util::stream::unfold(pushes, |mut pushes| async { Some((pushes.recv().await?, pushes)) });
    let sent = pushes.for_each_concurrent(CONCURRENT, |push| {
        let bus = bus.clone();
        async move { send(&*bus, push).await }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        () = sent => {}
    }
}

async fn send(bus: &dyn Bus, push: Push) {
    let request = v1::PushRequest {
        device_id: Bytes::copy_from_slice(&push.device.to_bytes()),
        session_epoch: push.session_epoch,
        frame: Some(push.frame),
    };
    let subject = subject::relay_push(&push.relay_id);
    match bus.request(&subject, request.encode_to_vec().into(), TIMEOUT).await {
        Ok(reply) => {
            let delivered = v1::PushReply::decode(reply).is_ok_and(|reply| reply.delivered);
            count(if delivered { "delivered" } else { "not_here" });
        }
        Err(error) => {
            tracing::debug!(relay.id = push.relay_id, %error, "not pushed");
            count("failed");
        }
    }
}

fn count(result: &'static str) {
    metrics::counter!("breeze_collector_pushes_total", "result" => result).increment(1);
}
