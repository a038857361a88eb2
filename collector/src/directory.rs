//! Tells the directory stream of changed facts. The stream may live far away and be out of reach for
//! long: nobody's lane waits for it beyond a moment, and what it does not take is kept and tried again.

use breeze_bus::Bus;
use breeze_proto::subject::DIRECTORY_STREAM;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Entries that are appended at a time, to share syncs.
const APPENDS: usize = 64;
/// Entries that wait for the stream to take them; more are dropped and counted.
const MAX_WAITING: usize = 100_000;
/// How long a lane waits to see its changes taken, so that a batch counts as applied when they are.
const TELL_WAIT: Duration = Duration::from_millis(300);
/// One append.
const TRY: Duration = Duration::from_secs(5);
/// Between two tries when the stream took none.
const RETRY: Duration = Duration::from_secs(1);

/// Of one process, for all its lanes.
#[derive(Debug)]
pub(crate) struct Teller {
    bus: Arc<dyn Bus>,
    waiting: Mutex<VecDeque<Bytes>>,
    arrived: Notify,
    /// Entries that were told or dropped.
    settled: watch::Sender<u64>,
    given: Mutex<u64>,
    is_down: AtomicBool,
}

impl Teller {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            settled: watch::Sender::new(0),
            given: Mutex::new(0),
            is_down: AtomicBool::new(false),
        }
    }

    /// Takes changes and waits a moment until they are told.
    pub(crate) async fn tell(&self, changes: Vec<Bytes>) {
        if changes.is_empty() {
            return;
        }
        let ticket = {
            let mut waiting = self.waiting.lock();
            let mut given = self.given.lock();
            *given += changes.len() as u64;
            waiting.extend(changes);
            let over = waiting.len().saturating_sub(MAX_WAITING);
            waiting.drain(..over);
            metrics::counter!("breeze_collector_directory_dropped_total").increment(over as u64);
            self.settled.send_modify(|settled| *settled += over as u64);
            *given
        };
        self.arrived.notify_one();
        if !self.is_down.load(Ordering::SeqCst) {
            let mut settled = self.settled.subscribe();
            // Told later, if it does not come to it now.
            let _ = tokio::time::timeout(TELL_WAIT, settled.wait_for(|settled| *settled >= ticket)).await;
        }
    }

    /// Appends what is given until `stop`, and tries once more then.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let stopping = stop.is_cancelled();
            let failed = self.append_all().await;
            metrics::gauge!("breeze_collector_directory_waiting_entries").set(self.waiting.lock().len() as f64);
            if stopping {
                if failed {
                    let left = self.waiting.lock().len();
                    metrics::counter!("breeze_collector_directory_dropped_total").increment(left as u64);
                    tracing::warn!(left, "stopping with changes that the directory stream did not take");
                }
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.arrived.notified(), if !failed => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    /// Whether any was refused.
    async fn append_all(&self) -> bool {
        loop {
            let batch: Vec<Bytes> = {
                let mut waiting = self.waiting.lock();
                let many = waiting.len().min(APPENDS * 4);
                waiting.drain(..many).collect()
            };
            if batch.is_empty() {
                return false;
            }
            let append = |payload: Bytes| async move {
                let tried = tokio::time::timeout(TRY, self.bus.append(DIRECTORY_STREAM, "", payload.clone())).await;
                (payload, tried)
            };
            let mut results = stream::iter(batch).map(append).buffer_unordered(APPENDS);
            let (mut failed, mut told) = (Vec::new(), 0);
            while let Some((payload, result)) = results.next().await {
                match result {
                    Ok(Ok(_)) => told += 1,
                    Ok(Err(error)) => {
                        if !self.is_down.swap(true, Ordering::SeqCst) {
                            tracing::warn!(%error, "the directory stream does not take a change; it is tried again");
                        }
                        failed.push(payload);
                    }
                    Err(_) => {
                        self.is_down.store(true, Ordering::SeqCst);
                        failed.push(payload);
                    }
                }
            }
            self.settled.send_modify(|settled| *settled += told);
            if !failed.is_empty() {
                let mut waiting = self.waiting.lock();
                for payload in failed.into_iter().rev() {
                    waiting.push_front(payload);
                }
                return true;
            }
            self.is_down.store(false, Ordering::SeqCst);
        }
    }
}
