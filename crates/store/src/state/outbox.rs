//! Delivery of what commits put into their outbox.
//!
//! Every commit with items is followed by [`Outbox::deliver`] for its partition, so that who made it
//! reads what follows from it. What that leaves behind (a handler failed or panicked, the caller went
//! away) [`Outbox::run`] tries again with growing waits; what nobody delivered at all (a crash) its
//! sweep over the hints finds. A partition's items go one at a time, oldest first, and one that fails
//! holds back its own partition only.
//!
//! Deliveries repeat, and with several nodes an older item may be repeated after a younger one:
//! handlers are idempotent and compare versions.

mod locks;
mod queue;

use super::{CommitTable, HintPage, OutboxHint, OutboxPosition, State, StateError};
use async_trait::async_trait;
use bytes::Bytes;
use locks::Locks;
use parking_lot::Mutex;
use queue::{Added, Key, Queue};
use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::{Id, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

/// Partitions delivered at once, by callers and by [`Outbox::run`] together.
pub const MAX_CONCURRENT: usize = 64;
/// Of these, how many [`Outbox::run`] may take: callers always find some left.
pub const MAX_BACKGROUND: usize = 32;
/// How often the hints are swept for what was left behind.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// A delivery that takes longer has failed.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running deliveries may finish on shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Items read at once.
const PAGE: usize = 64;
/// Items of one partition delivered before others have their turn.
const MAX_TURN: usize = 16 * PAGE;
/// Hints read at once.
const HINTS: usize = 256;
/// A sweep that has more to read goes on at once while fewer partitions than this are known.
const SWEEP_ON_BELOW: usize = 1024;

/// Why something could not be delivered now; it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeliveryError(pub String);

impl From<StateError> for DeliveryError {
    fn from(error: StateError) -> Self {
        Self(error.to_string())
    }
}

/// One item on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub table: CommitTable,
    pub partition: Bytes,
    /// Its `version` is that of the commit.
    pub position: OutboxPosition,
    pub payload: Bytes,
}

/// What does the work of one topic.
#[async_trait]
pub trait Deliver: Send + Sync {
    /// Does it; again is harmless, see the module. An item that can never be done must be recorded
    /// elsewhere and answered `Ok`, or it blocks its partition for ever.
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError>;
}

/// The one who delivers. See the module.
pub struct Outbox {
    state: Arc<dyn State>,
    tables: HashMap<&'static str, CommitTable>,
    handlers: HashMap<&'static str, Arc<dyn Deliver>>,
    sweep_interval: Duration,
    /// One delivery a partition at a time.
    locks: Locks,
    running: Semaphore,
    /// What waits for [`Outbox::run`].
    queue: Mutex<Queue>,
    queued: Notify,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("topics", &self.handlers.keys()).finish_non_exhaustive()
    }
}

/// How a turn of one partition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Empty,
    More,
}

enum Finished {
    Delivered(Result<Turn, DeliveryError>),
    Swept(Result<HintPage, StateError>),
}

/// Queues a partition unless its delivery came to its end: also when the caller is dropped half-way.
struct Unfinished<'a> {
    outbox: &'a Outbox,
    key: Key,
    finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.outbox.leave(self.key.clone());
        }
    }
}

impl Outbox {
    /// For the partitions of `tables`; hints of other tables are left to those who own them.
    #[must_use]
    pub fn new(state: Arc<dyn State>, tables: &[CommitTable]) -> Self {
        Self {
            state,
            tables: tables.iter().map(|table| (table.name, *table)).collect(),
            handlers: HashMap::new(),
            sweep_interval: SWEEP_INTERVAL,
            locks: Locks::default(),
            running: Semaphore::new(MAX_CONCURRENT),
            queue: Mutex::default(),
            queued: Notify::new(),
        }
    }

    /// Registers the handler of a topic.
    #[must_use]
    pub fn on(mut self, topic: &'static str, handler: Arc<dyn Deliver>) -> Self {
        self.handlers.insert(topic, handler);
        self
    }

    /// Sweeps at another interval.
    #[must_use]
    pub const fn sweep_every(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// Delivers what waits in a partition, oldest first, until nothing is left or one fails.
    ///
    /// # Errors
    /// Why an item, or reading them, failed; it and the rest are left to [`Outbox::run`].
    pub async fn deliver(&self, table: CommitTable, partition: &[u8]) -> Result<(), DeliveryError> {
        let key = Key { table, partition: Bytes::copy_from_slice(partition) };
        let mut unfinished = Unfinished { outbox: self, key: key.clone(), finished: false };
        while self.turn(&key).await? == Turn::More {}
        unfinished.finished = true;
        Ok(())
    }

    fn leave(&self, key: Key) {
        metrics::counter!("breeze_outbox_left_behind_total", "table" => key.table.name).increment(1);
        if self.queue.lock().leave(key, Instant::now()) == Added::Full {
            metrics::counter!("breeze_outbox_queue_full_total").increment(1);
        }
        self.queued.notify_one();
    }

    /// Delivers what was left behind until `stop` completes, then lets running deliveries finish for a
    /// few seconds.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()> + Send) {
        let mut stop = pin!(stop);
        let mut running: JoinSet<Finished> = JoinSet::new();
        let mut delivering: HashMap<Id, Key> = HashMap::new();
        let mut sweeping: Option<Id> = None;
        let mut sweep_from: Option<Bytes> = None;
        let mut sweep_due = false;
        let mut sweeps = interval(self.sweep_interval);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while delivering.len() < MAX_BACKGROUND {
                let Some((key, hint)) = self.queue.lock().start(Instant::now()) else { break };
                let turn = Arc::clone(&self).turn_for(key.clone(), hint);
                delivering.insert(running.spawn(async { Finished::Delivered(turn.await) }).id(), key);
            }
            let (known, retry) = {
                let queue = self.queue.lock();
                (queue.len(), queue.next_retry().filter(|_| delivering.len() < MAX_BACKGROUND))
            };
            metrics::gauge!("breeze_outbox_partitions_waiting").set(known as f64);
            sweep_due |= sweep_from.is_some() && known < SWEEP_ON_BELOW;
            if sweep_due && sweeping.is_none() {
                sweep_due = false;
                let (state, from) = (Arc::clone(&self.state), sweep_from.take());
                let sweep = async move { Finished::Swept(state.outbox_hints(from, HINTS).await) };
                sweeping = Some(running.spawn(sweep).id());
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(finished) = running.join_next_with_id() => {
                    let (id, finished) = match finished {
                        Ok((id, finished)) => (id, Some(finished)),
                        Err(error) => (error.id(), None),
                    };
                    if sweeping == Some(id) {
                        sweeping = None;
                        if let Some(Finished::Swept(page)) = finished {
                            sweep_from = self.swept(page);
                        }
                    } else if let Some(key) = delivering.remove(&id) {
                        self.finish(&key, finished);
                    }
                }
                () = self.queued.notified() => {}
                () = async { sleep_until(retry.unwrap_or_else(Instant::now)).await }, if retry.is_some() => {}
                _ = sweeps.tick() => sweep_due = true,
            }
        }
        let drained = timeout(DRAIN, async { while running.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(deliveries = running.len(), "deliveries are cut off and will be repeated");
        }
    }

    /// Queues what a sweep has found; where the next goes on.
    fn swept(&self, page: Result<HintPage, StateError>) -> Option<Bytes> {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "cannot sweep the outbox");
                return None;
            }
        };
        for hint in page.hints {
            match self.tables.get(hint.table.as_str()) {
                Some(table) => {
                    let key = Key { table: *table, partition: hint.partition.clone() };
                    // What does not fit now is found again.
                    let _ = self.queue.lock().add(key, Some(hint));
                }
                None => tracing::debug!(table = hint.table, "an outbox hint names a table that is not ours"),
            }
        }
        page.next
    }

    fn finish(&self, key: &Key, finished: Option<Finished>) {
        let mut queue = self.queue.lock();
        match finished {
            Some(Finished::Delivered(Ok(Turn::Empty))) => queue.done(key),
            Some(Finished::Delivered(Ok(Turn::More))) => queue.again(key),
            Some(Finished::Delivered(Err(error))) => {
                tracing::warn!(table = key.table.name, %error, "a delivery failed and is tried again");
                queue.failed(key, Instant::now());
            }
            // A task without result has panicked: handlers cannot, so the store has.
            Some(Finished::Swept(_)) | None => queue.failed(key, Instant::now()),
        }
    }

    /// A turn that was queued; the hint that led to it goes when nothing is left.
    async fn turn_for(self: Arc<Self>, key: Key, hint: Option<OutboxHint>) -> Result<Turn, DeliveryError> {
        let turn = self.turn(&key).await?;
        if turn == Turn::Empty
            && let Some(hint) = hint
            && let Err(error) = self.state.outbox_clear_hint(&hint).await
        {
            tracing::debug!(table = key.table.name, %error, "a hint stays until the next sweep");
        }
        Ok(turn)
    }

    /// Delivers items of one partition, oldest first, until there are none, a turn is over or one fails.
    async fn turn(&self, key: &Key) -> Result<Turn, DeliveryError> {
        let _one_at_a_time = self.locks.hold(key).await;
        // Taken second: who waits for a partition holds no other back.
        let _permit = self.running.acquire().await.map_err(|error| DeliveryError(error.to_string()))?;
        let mut delivered = 0;
        while delivered < MAX_TURN {
            let items = self.state.outbox(key.table, &key.partition, PAGE).await?;
            if items.is_empty() {
                return Ok(Turn::Empty);
            }
            let (mut through, mut outcome) = (None, Ok(()));
            for item in items {
                let position = item.position;
                let (table, partition) = (key.table, key.partition.clone());
                outcome =
                    self.hand_over(&item.topic, &Delivery { table, partition, position, payload: item.payload }).await;
                if outcome.is_err() {
                    break;
                }
                delivered += 1;
                through = Some(position);
            }
            if let Some(through) = through {
                self.state.outbox_delivered(key.table, &key.partition, through).await?;
            }
            outcome?;
        }
        Ok(Turn::More)
    }

    /// Gives an item to its handler. A handler that panics has failed.
    async fn hand_over(&self, topic: &str, delivery: &Delivery) -> Result<(), DeliveryError> {
        let outcome = match self.handlers.get(topic) {
            Some(handler) => {
                let mut handling = pin!(handler.deliver(delivery));
                let caught = poll_fn(|context| {
                    // Its future is not polled again, and it shares nothing with us.
                    catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)))
                        .unwrap_or_else(|_| Poll::Ready(Err(DeliveryError("the handler panicked".into()))))
                });
                let in_time = timeout(DELIVERY_TIMEOUT, caught).await;
                in_time.unwrap_or_else(|elapsed| Err(DeliveryError(elapsed.to_string())))
            }
            None => Err(DeliveryError("nobody handles this topic".into())),
        };
        let name = if outcome.is_ok() { "breeze_outbox_delivered_total" } else { "breeze_outbox_failures_total" };
        metrics::counter!(name, "topic" => topic.to_owned()).increment(1);
        outcome.map_err(|DeliveryError(error)| DeliveryError(format!("{topic}: {error}")))
    }
}
