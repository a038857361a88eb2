//! Delivery of what commits put into their outbox.
//!
//! Whoever commits with items calls [`Notifier::notify`] afterwards; the [`Dispatcher`] then hands the
//! items of that partition to their handlers, oldest first, one at a time. What was not notified (a
//! crash, a full queue) a sweep over the hints finds. A handler that fails is tried again, with
//! growing waits, and holds back its own partition only.
//!
//! Deliveries repeat, and with several nodes an older item may be repeated after a younger one:
//! handlers are idempotent and compare versions.

mod queue;

use super::{CommitTable, HintPage, OutboxHint, OutboxPosition, State, StateError};
use async_trait::async_trait;
use bytes::Bytes;
use queue::{Added, Key, Queue};
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

/// Partitions delivered at once.
pub const MAX_CONCURRENT: usize = 32;
/// Notifications that wait for the dispatcher; more are dropped and left to the sweep.
pub const MAX_NOTIFIED: usize = 4096;
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

/// Why a delivery failed; it goes to the log and the item is tried again.
pub type DeliveryError = Box<dyn std::error::Error + Send + Sync>;

/// One item on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub table: CommitTable,
    pub partition: Bytes,
    pub position: OutboxPosition,
    pub topic: String,
    pub payload: Bytes,
}

/// What takes the items of a topic.
#[async_trait]
pub trait OutboxHandler: Send + Sync {
    /// Does what the item says; idempotent, see the module. An item that can never be done must be
    /// recorded elsewhere and answered `Ok`, or it blocks its partition for ever.
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError>;
}

/// Tells the dispatcher of commits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier(mpsc::Sender<Key>);

impl Notifier {
    /// Says that a commit with items was applied. Never waits: what does not fit is found by the
    /// sweep.
    pub fn notify(&self, table: CommitTable, partition: impl Into<Bytes>) {
        if self.0.try_send(Key { table, partition: partition.into() }).is_err() {
            metrics::counter!("breeze_outbox_notifications_dropped_total").increment(1);
        }
    }
}

/// See the module. Made by [`Dispatcher::new`], run by [`Dispatcher::run`].
pub struct Dispatcher {
    state: Arc<dyn State>,
    tables: HashMap<&'static str, CommitTable>,
    handlers: Arc<HashMap<&'static str, Arc<dyn OutboxHandler>>>,
    notified: mpsc::Receiver<Key>,
    sweep_interval: Duration,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").field("topics", &self.handlers.keys()).finish_non_exhaustive()
    }
}

/// How a turn of one partition ended.
enum Turn {
    Empty,
    More,
    Failed,
}

enum Finished {
    Delivered(Turn),
    Swept(Result<HintPage, StateError>),
}

impl Dispatcher {
    /// `tables`: all whose commits have items; `handlers`: by topic.
    #[must_use]
    pub fn new(
        state: Arc<dyn State>,
        tables: impl IntoIterator<Item = CommitTable>,
        handlers: impl IntoIterator<Item = (&'static str, Arc<dyn OutboxHandler>)>,
    ) -> (Self, Notifier) {
        let (notifier, notified) = mpsc::channel(MAX_NOTIFIED);
        let tables = tables.into_iter().map(|table| (table.name, table)).collect();
        let handlers = Arc::new(handlers.into_iter().collect());
        (Self { state, tables, handlers, notified, sweep_interval: SWEEP_INTERVAL }, Notifier(notifier))
    }

    /// Sweeps at another interval.
    #[must_use]
    pub const fn sweep_every(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// Delivers until `stop` completes, then lets running deliveries finish for a few seconds.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        let mut queue = Queue::default();
        let mut running: JoinSet<Finished> = JoinSet::new();
        let mut delivering: HashMap<Id, Key> = HashMap::new();
        let mut sweeping: Option<Id> = None;
        let mut sweep_from: Option<Bytes> = None;
        let mut sweep_due = false;
        let mut sweeps = interval(self.sweep_interval);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while delivering.len() < MAX_CONCURRENT {
                let Some((key, hint)) = queue.start(Instant::now()) else { break };
                let (state, handlers) = (Arc::clone(&self.state), Arc::clone(&self.handlers));
                let turn = turn(state, handlers, key.clone(), hint);
                delivering.insert(running.spawn(async { Finished::Delivered(turn.await) }).id(), key);
            }
            sweep_due |= sweep_from.is_some() && queue.len() < SWEEP_ON_BELOW;
            if sweep_due && sweeping.is_none() {
                sweep_due = false;
                let (state, from) = (Arc::clone(&self.state), sweep_from.take());
                let sweep = async move { Finished::Swept(state.outbox_hints(from, HINTS).await) };
                sweeping = Some(running.spawn(sweep).id());
            }
            metrics::gauge!("breeze_outbox_partitions_waiting").set(queue.len() as f64);
            let retry = queue.next_retry().filter(|_| delivering.len() < MAX_CONCURRENT);
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
                            sweep_from = self.swept(page, &mut queue);
                        }
                    } else if let Some(key) = delivering.remove(&id) {
                        finish(&mut queue, key, finished);
                    }
                }
                Some(key) = self.notified.recv() => notified(&mut queue, key),
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
    fn swept(&self, page: Result<HintPage, StateError>, queue: &mut Queue) -> Option<Bytes> {
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
                    let _ = queue.add(key, Some(hint));
                }
                None => {
                    metrics::counter!("breeze_outbox_unknown_tables_total").increment(1);
                    tracing::debug!(table = hint.table, "an outbox hint names a table that nobody registered");
                }
            }
        }
        page.next
    }
}

fn notified(queue: &mut Queue, key: Key) {
    match queue.add(key, None) {
        Added::Queued | Added::Known => {}
        Added::Full => metrics::counter!("breeze_outbox_notifications_dropped_total").increment(1),
    }
}

fn finish(queue: &mut Queue, key: Key, finished: Option<Finished>) {
    match finished {
        Some(Finished::Delivered(Turn::Empty)) => queue.done(&key),
        Some(Finished::Delivered(Turn::More)) => queue.again(&key),
        // A task without result has panicked in a handler.
        Some(Finished::Delivered(Turn::Failed) | Finished::Swept(_)) | None => queue.failed(&key, Instant::now()),
    }
}

/// Delivers items of one partition, oldest first, until there are none, a turn is over or one fails.
async fn turn(
    state: Arc<dyn State>,
    handlers: Arc<HashMap<&'static str, Arc<dyn OutboxHandler>>>,
    key: Key,
    hint: Option<OutboxHint>,
) -> Turn {
    match deliver(&*state, &handlers, &key).await {
        Ok(Turn::Empty) => {}
        Ok(turn) => return turn,
        Err(error) => {
            tracing::warn!(table = key.table.name, %error, "cannot read an outbox");
            return Turn::Failed;
        }
    }
    if let Some(hint) = hint
        && let Err(error) = state.outbox_clear_hint(&hint).await
    {
        tracing::debug!(table = key.table.name, %error, "a hint stays until the next sweep");
    }
    Turn::Empty
}

async fn deliver(
    state: &dyn State,
    handlers: &HashMap<&'static str, Arc<dyn OutboxHandler>>,
    key: &Key,
) -> Result<Turn, StateError> {
    let mut delivered = 0;
    while delivered < MAX_TURN {
        let items = state.outbox(key.table, &key.partition, PAGE).await?;
        if items.is_empty() {
            return Ok(Turn::Empty);
        }
        let mut through = None;
        let mut failed = false;
        for item in items {
            let position = item.position;
            let delivery = Delivery {
                table: key.table,
                partition: key.partition.clone(),
                position,
                topic: item.topic,
                payload: item.payload,
            };
            if !hand_over(handlers, &delivery).await {
                failed = true;
                break;
            }
            delivered += 1;
            through = Some(position);
        }
        if let Some(through) = through {
            state.outbox_delivered(key.table, &key.partition, through).await?;
        }
        if failed {
            return Ok(Turn::Failed);
        }
    }
    Ok(Turn::More)
}

/// Whether the item's handler has taken it.
async fn hand_over(handlers: &HashMap<&'static str, Arc<dyn OutboxHandler>>, delivery: &Delivery) -> bool {
    let outcome = match handlers.get(delivery.topic.as_str()) {
        Some(handler) => timeout(DELIVERY_TIMEOUT, handler.deliver(delivery)).await,
        None => Ok(Err("no handler takes this topic".into())),
    };
    let error: DeliveryError = match outcome {
        Ok(Ok(())) => {
            metrics::counter!("breeze_outbox_delivered_total", "topic" => delivery.topic.clone()).increment(1);
            return true;
        }
        Ok(Err(error)) => error,
        Err(elapsed) => elapsed.into(),
    };
    metrics::counter!("breeze_outbox_failures_total", "topic" => delivery.topic.clone()).increment(1);
    tracing::warn!(topic = delivery.topic, table = delivery.table.name, error, "a delivery failed and is tried again");
    false
}
