//! One lane in this process: owned, followed as a successor, or left to another collector.
//!
//! An owner reads the lane's stream, lets the core work, and records, inserts and merges what comes of
//! it, so that every heartbeat is stored exactly once whatever is killed and when. One batch, in this
//! order:
//!
//! 1. *record* the batch (its positions, days and encoder version) under the lease, together with
//!    what the batch before it, now applied, made of the received heartbeats;
//! 2. *append* its rows to the metrics store under the recorded tokens, and then its events to the
//!    history, while reading goes on;
//! 3. *merge* the devices' newest rows, and tell the directory of changed facts;
//! 4. *tell* the history of presence that has changed, now that it is stored;
//! 5. *trim* the stream behind what is recorded as applied.
//!
//! Whoever owns the lane next reads the record, drives the recorded and unconfirmed batch again from
//! the stream, byte for byte, and goes on behind it. A successor that the owner knows of follows the
//! lane beforehand ([`shadow`]) and is given it without a gap ([`giving`]).

mod flush;
mod giving;
mod insert;
mod misplaced;
mod owner;
mod recording;
mod recover;
mod sections;
mod shadow;
mod snapshots;
mod telling;
mod trouble;

use crate::{
    Config,
    clock::boot_us,
    core::LaneCore,
    directory::Teller,
    members::{Plan, Shares},
    push::Pusher,
    relays::Relays,
};
use breeze_bus::Bus;
use breeze_proto::shard::LaneId;
use breeze_store::{history::History, metrics::Metrics, model::lane::LaneRecord, state::State};
use parking_lot::Mutex;
use recover::Taken;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Payload bytes of one read.
const READ_BYTES: usize = 1024 * 1024;
/// How often timers run and the lag is measured.
const TICK: Duration = Duration::from_millis(500);
/// Between two tries to own the lane.
const RETRY: Duration = Duration::from_secs(1);
/// A lane that is another's and that nobody claims for so long beyond a lease is taken by whoever is there.
const ORPHAN: Duration = Duration::from_secs(5);

/// What other tasks may see of a lane.
#[derive(Debug)]
pub(crate) struct LaneShared {
    pub(crate) lane: LaneId,
    /// `None` while this process does not own the lane.
    pub(crate) core: Mutex<Option<LaneCore>>,
    /// Position up to which entries have been read for presence.
    pub(crate) handled: watch::Sender<u64>,
    pub(crate) status: Mutex<LaneStatus>,
    /// Told when this process takes the lane or gives it up.
    pub(crate) changed_hands: Notify,
    /// CLOCK_BOOTTIME until which this process may speak for the lane; 0 while it does not own it.
    fence_us: AtomicU64,
    is_done: AtomicBool,
}

/// For the status page.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneStatus {
    /// Entries of the stream that were not read yet.
    pub(crate) lag: u64,
    /// What is in the stream and not in the metrics store.
    pub(crate) unstored: Unstored,
    /// What keeps it from working; empty when it works.
    pub(crate) trouble: String,
    /// Why the metrics store does not take a batch; empty when it does.
    pub(crate) store_trouble: String,
    /// Of core counts in former ownerships.
    pub(crate) heartbeats_before: u64,
}

/// How far the metrics store is behind the stream. A second is usual, for rows are gathered.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Unstored {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Age of the oldest.
    pub(crate) seconds: f64,
}

impl LaneShared {
    pub(crate) fn new(lane: LaneId) -> Self {
        Self {
            lane,
            core: Mutex::new(None),
            handled: watch::channel(0).0,
            status: Mutex::default(),
            changed_hands: Notify::new(),
            fence_us: AtomicU64::new(0),
            is_done: AtomicBool::new(false),
        }
    }

    /// Whether this process owns the lane and its lease has certainly not run out. A process that was
    /// paused finds out here that it must be silent.
    pub(crate) fn is_owned(&self) -> bool {
        boot_us() < self.fence_us.load(Ordering::SeqCst)
    }

    /// Whether this process will do nothing more with the lane.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::SeqCst)
    }

    /// Runs on the core, while this process may speak for the lane.
    pub(crate) fn with_owned<T>(&self, run: impl FnOnce(&mut LaneCore) -> T) -> Option<T> {
        let mut core = self.core.lock();
        let core = core.as_mut().filter(|_| self.is_owned())?;
        Some(run(core))
    }

    fn set_fence(&self, until_boot_us: u64) {
        let before = self.fence_us.swap(until_boot_us, Ordering::SeqCst);
        if (before == 0) != (until_boot_us == 0) {
            self.changed_hands.notify_one();
        }
    }

    fn fence_us(&self) -> u64 {
        self.fence_us.load(Ordering::SeqCst)
    }
}

/// Why owning the lane ended.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Asked to.
    Stopped,
    /// The lease is somebody else's, or ran out before it could be prolonged.
    Lost,
    /// Handed to a successor, with nothing left to do.
    Given,
    /// It must not be worked on with this configuration.
    Misconfigured(anyhow::Error),
    /// What is stored and what is in memory may differ: recover.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Everything a lane needs.
#[derive(Debug, Clone)]
pub(crate) struct LaneDeps {
    pub(crate) config: Arc<Config>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) pusher: Pusher,
    pub(crate) directory: Arc<Teller>,
    pub(crate) shares: Shares,
    pub(crate) relays: Arc<Relays>,
    pub(crate) shared: Arc<LaneShared>,
    pub(crate) stop: CancellationToken,
}

impl LaneDeps {
    fn record(&self) -> LaneRecord {
        LaneRecord::new(self.state.clone(), &self.config.region, self.shared.lane)
    }

    fn plan(&self) -> Plan {
        self.shares.plan(&self.shared)
    }
}

/// Owns the lane again and again, whenever it is this collector's, until it is asked to stop.
pub(crate) async fn run(deps: LaneDeps) -> anyhow::Result<()> {
    let done = Done(deps.shared.clone());
    let lane = done.0.lane;
    loop {
        let halt = turn(&deps).await;
        deps.shared.set_fence(0);
        if let Some(core) = deps.shared.core.lock().take() {
            deps.shared.status.lock().heartbeats_before += core.counts().heartbeats;
        }
        deps.shared.status.lock().unstored = Unstored::default();
        let trouble = match halt {
            Halt::Stopped => return Ok(()),
            Halt::Misconfigured(error) => return Err(error),
            Halt::Given => {
                deps.shared.status.lock().trouble.clear();
                continue;
            }
            Halt::Lost => "another collector owns the lane".to_owned(),
            Halt::Failed(error) => {
                tracing::warn!(%lane, error = format!("{error:#}"), "lane stopped; it is taken up again from its record");
                format!("{error:#}")
            }
        };
        metrics::counter!("breeze_collector_lane_restarts_total").increment(1);
        deps.shared.status.lock().trouble = trouble;
        pause(&deps, RETRY).await;
    }
}

/// Says that the lane's task is over, however it ended.
struct Done(Arc<LaneShared>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.set_fence(0);
        self.0.is_done.store(true, Ordering::SeqCst);
        self.0.changed_hands.notify_one();
    }
}

/// Takes the lane when it is this collector's, and works on it until that ends.
async fn turn(deps: &LaneDeps) -> Halt {
    if deps.stop.is_cancelled() {
        return Halt::Stopped;
    }
    let taken = match deps.plan() {
        Plan::Mine => Box::pin(recover::take_over(deps)).await,
        Plan::Of(_) | Plan::Nobody => match wait_for_plan(deps).await {
            Waited::Changed => return Halt::Given,
            Waited::Orphaned => Box::pin(recover::take_over(deps)).await,
        },
    };
    let (mut owner, asked) = match taken {
        Ok(Taken::Owned(owner, asked)) => (owner, asked),
        Ok(Taken::NotMine) => return Halt::Given,
        Err(halt) => return halt,
    };
    let held = crate::held::serve(deps);
    let giving = giving::serve(deps, asked);
    tokio::select! {
        halt = Box::pin(owner.work()) => halt,
        error = held => Halt::Failed(error),
        error = giving => Halt::Failed(error),
    }
}

enum Waited {
    Changed,
    Orphaned,
}

/// Waits until the lane is to be this collector's, or has been nobody's for too long.
async fn wait_for_plan(deps: &LaneDeps) -> Waited {
    deps.shared.status.lock().trouble.clear();
    let mut plans = deps.shares.plans.clone();
    let orphan_us = ORPHAN.as_micros() as u64 + deps.config.lease_ms * 1000;
    let mut unclaimed_since = boot_us();
    loop {
        let plan = deps.plan();
        if deps.stop.is_cancelled() || plan == Plan::Mine {
            return Waited::Changed;
        }
        let now = boot_us();
        if plan == Plan::Nobody || deps.shares.members.lock().is_claimed(deps.shared.lane.number(), now) {
            unclaimed_since = now;
        } else if now - unclaimed_since > orphan_us + rand::random_range(0..1_000_000) {
            tracing::warn!(lane = %deps.shared.lane, "nobody takes the lane; taking it");
            return Waited::Orphaned;
        }
        tokio::select! {
            () = deps.stop.cancelled() => {}
            _ = plans.changed() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Waits, but not beyond the end.
async fn pause(deps: &LaneDeps, time: Duration) {
    tokio::select! {
        () = deps.stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
