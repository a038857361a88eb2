//! The owner of one lane: reads its stream, lets the core work, and records, inserts and merges what
//! comes of it, so that every heartbeat is stored exactly once whatever is killed and when.
//!
//! One turn of a flush, in this order:
//!
//! 1. *record* the batch (its positions, days and encoder version) under the lease, together with
//!    what the batch before it, now applied, made of the received heartbeats;
//! 2. *append* its rows to the metrics store under the recorded tokens;
//! 3. *merge* the devices' newest rows, and tell the directory of changed facts;
//! 4. *trim* the stream behind what is recorded as applied.
//!
//! Whoever owns the lane next reads the record, drives the recorded and unconfirmed batch again from
//! the stream, byte for byte, and goes on behind it.

mod flush;
mod recover;

use crate::{
    Config,
    clock::{boot_us, now_us},
    core::{Drive, Effects, LaneCore, Push},
    push::Pusher,
};
use anyhow::Context as _;
use breeze_bus::{Bus, Entry};
use breeze_proto::{
    shard::{LaneId, Shard},
    subject,
    v1::LaneBoundary,
};
use breeze_store::{
    metrics::Metrics,
    model::lane::{DeltaId, LaneRecord, ReceivedWrite, Recorded},
    state::{State, leases::Lease},
};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Payload bytes of one read.
const READ_BYTES: usize = 1024 * 1024;
/// How often timers run and the lag is measured.
const TICK: Duration = Duration::from_millis(500);
/// After an applied batch nothing came for so long: that it was applied is recorded by itself.
const IDLE: Duration = Duration::from_secs(2);
/// Between two tries to own the lane.
const RETRY: Duration = Duration::from_secs(1);

/// What other tasks may see of a lane.
#[derive(Debug)]
pub(crate) struct LaneShared {
    pub(crate) lane: LaneId,
    /// `None` while this process does not own the lane.
    pub(crate) core: Mutex<Option<LaneCore>>,
    /// Position up to which entries have been handled.
    pub(crate) handled: watch::Sender<u64>,
    pub(crate) status: Mutex<LaneStatus>,
}

/// For the status page.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneStatus {
    /// Entries of the stream that were not handled yet.
    pub(crate) lag: u64,
    /// What keeps it from working; empty when it works.
    pub(crate) trouble: String,
    /// Of core counts in former ownerships.
    pub(crate) heartbeats_before: u64,
}

impl LaneShared {
    pub(crate) fn new(lane: LaneId) -> Self {
        Self { lane, core: Mutex::new(None), handled: watch::channel(0).0, status: Mutex::default() }
    }
}

/// Why owning the lane ended.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Asked to.
    Stopped,
    /// The lease is somebody else's, or ran out before it could be prolonged.
    Lost,
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

/// Everything a lane's owner needs.
#[derive(Debug, Clone)]
pub(crate) struct LaneDeps {
    pub(crate) config: Arc<Config>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) pusher: Pusher,
    pub(crate) shared: Arc<LaneShared>,
    pub(crate) stop: CancellationToken,
}

/// Owns the lane again and again until it is asked to stop.
pub(crate) async fn run(deps: LaneDeps) -> anyhow::Result<()> {
    let lane = deps.shared.lane;
    loop {
        let halt = match Box::pin(recover::take_over(&deps)).await {
            Ok(mut owner) => {
                let held = crate::held::serve(&deps);
                tokio::select! {
                    halt = Box::pin(owner.work()) => halt,
                    error = held => Halt::Failed(error),
                }
            }
            Err(halt) => halt,
        };
        if let Some(core) = deps.shared.core.lock().take() {
            deps.shared.status.lock().heartbeats_before += core.counts().heartbeats;
        }
        let trouble = match halt {
            Halt::Stopped => return Ok(()),
            Halt::Misconfigured(error) => return Err(error),
            Halt::Lost => "another collector owns the lane".to_owned(),
            Halt::Failed(error) => {
                tracing::warn!(%lane, error = format!("{error:#}"), "lane stopped; it is taken up again from its record");
                format!("{error:#}")
            }
        };
        metrics::counter!("breeze_collector_lane_restarts_total").increment(1);
        deps.shared.status.lock().trouble = trouble;
        tokio::select! {
            () = deps.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// The owner's own state.
#[derive(Debug)]
struct Owner<'a> {
    deps: &'a LaneDeps,
    stream: String,
    record: LaneRecord,
    lease: Lease,
    /// CLOCK_BOOTTIME at which the lease has certainly run out.
    lease_until_boot_us: u64,
    /// As it was recorded last.
    boundary: LaneBoundary,
    /// What the next record carries of received heartbeats; the last goes with the boundary.
    carry: Vec<ReceivedWrite>,
    snapshots: Snapshots,
    /// Entries up to here were handled.
    handled: u64,
    /// Raised for every flush; see [`breeze_store::model::device_state::version`].
    writes: u64,
    directory: VecDeque<Bytes>,
    applied_us: u64,
    flushed_us: u64,
    ticked_us: u64,
}

/// Which shards' rows are behind the deltas. Each flush writes a few, round after round, so that a
/// delta lives for about [`Snapshots::ROUND`] flushes and no flush writes everything.
#[derive(Debug, Default)]
struct Snapshots {
    dirty: BTreeSet<Shard>,
    /// Left to write in this round.
    round: VecDeque<Shard>,
    per_flush: usize,
    /// Stored deltas, ascending.
    deltas: VecDeque<DeltaId>,
    /// Deltas up to here are superfluous when the round is through.
    round_through: u64,
}

impl Snapshots {
    const ROUND: usize = 32;

    /// The shards whose rows the next record writes, and the deltas that it may delete: those that
    /// the round before has made superfluous, all of whose rows are stored by now. `through`: the
    /// applied position; shards that changed with it are dirty already.
    fn next(&mut self, through: u64) -> (Vec<Shard>, Vec<DeltaId>) {
        let mut forget = Vec::new();
        if self.round.is_empty() {
            while self.deltas.front().is_some_and(|(delta, _)| *delta <= self.round_through) {
                forget.extend(self.deltas.pop_front());
            }
            self.round = std::mem::take(&mut self.dirty).into_iter().collect();
            self.round_through = through;
            self.per_flush = self.round.len().div_ceil(Self::ROUND);
        }
        let take = self.per_flush.min(self.round.len());
        (self.round.drain(..take).collect(), forget)
    }

    /// For shards that the record had no room for: they are the next of the round. None may be lost, for
    /// the round's end deletes the deltas that hold them.
    fn put_back(&mut self, shards: impl DoubleEndedIterator<Item = Shard>) {
        for shard in shards.rev() {
            self.round.push_front(shard);
        }
    }

    /// Notes deltas of the newest batch. Those that a crash left of the same batch are there already.
    fn add_deltas(&mut self, ids: Vec<DeltaId>) {
        for id in ids {
            if self.deltas.back().is_none_or(|newest| *newest < id) {
                self.deltas.push_back(id);
            }
        }
    }
}

impl Owner<'_> {
    /// Reads and flushes until something ends it.
    async fn work(&mut self) -> Halt {
        match self.work_until_halt().await {
            Ok(never) => match never {},
            Err(Halt::Stopped) => match self.stop().await {
                Ok(()) | Err(Halt::Stopped) => Halt::Stopped,
                Err(halt) => {
                    tracing::warn!(lane = %self.deps.shared.lane, ?halt, "the last batch is left to the next owner");
                    Halt::Stopped
                }
            },
            Err(halt) => halt,
        }
    }

    async fn work_until_halt(&mut self) -> Result<std::convert::Infallible, Halt> {
        loop {
            if self.deps.stop.is_cancelled() {
                return Err(Halt::Stopped);
            }
            let entries = self.read().await?;
            for entry in entries {
                self.handle(entry, Drive::First).await?;
                if self.with_core(|core| core.pending().is_full()) {
                    self.flush(false).await?;
                }
            }
            self.tick().await?;
            self.keep_lease().await?;
            let now = now_us();
            if now.saturating_sub(self.flushed_us) >= self.flush_after_us() {
                self.flush(false).await?;
            }
        }
    }

    /// Waits for entries no longer than anything else can wait.
    async fn read(&self) -> Result<Vec<Entry>, Halt> {
        let wait = Duration::from_micros(self.flush_after_us()).min(TICK);
        let read = self.deps.bus.read(&self.stream, self.handled + 1, READ_BYTES, wait);
        let read = tokio::select! {
            () = self.deps.stop.cancelled() => return Err(Halt::Stopped),
            read = read => read,
        };
        let entries = read.context("reading the lane")?;
        if let Some(entry) = entries.first().filter(|entry| entry.position != self.handled + 1) {
            let lost = entry.position - self.handled - 1;
            metrics::counter!("breeze_collector_entries_lost_total").increment(lost);
            tracing::error!(stream = self.stream, lost, "entries were trimmed before they were read");
        }
        Ok(entries)
    }

    async fn handle(&mut self, entry: Entry, drive: Drive) -> Result<(), Halt> {
        let mut effects = Effects::default();
        self.with_core(|core| core.handle_entry(entry.position, entry.payload, drive, &mut effects));
        self.handled = entry.position;
        for (device, sample) in effects.live {
            // Whoever watches sees the next one if this is lost.
            let _ = self.deps.bus.publish(&subject::live(device), sample.encode_to_vec().into()).await;
        }
        self.send(effects.pushes);
        self.deps.shared.handled.send_replace(self.handled);
        Ok(())
    }

    fn send(&self, pushes: Vec<Push>) {
        for push in pushes {
            self.deps.pusher.send(push);
        }
    }

    /// Lets timers run and measures the lag, at most every [`TICK`].
    async fn tick(&mut self) -> Result<(), Halt> {
        let now = now_us();
        if now.saturating_sub(self.ticked_us) < TICK.as_micros() as u64 {
            return Ok(());
        }
        self.ticked_us = now;
        let last = self.deps.bus.extent(&self.stream).await.context("measuring the lane")?.last;
        let lag = last.saturating_sub(self.handled);
        self.with_core(|core| core.handle_tick(now, lag == 0));
        let mut status = self.deps.shared.status.lock();
        status.lag = lag;
        status.trouble.clear();
        Ok(())
    }

    /// How long after the last flush the next one is due: sooner when there is little to do.
    fn flush_after_us(&self) -> u64 {
        let full = self.deps.config.flush_interval_ms * 1000;
        let rows = self.with_core(|core| core.pending().rows) as u64;
        (full / 4 + full * rows / 100).clamp(full / 4, full)
    }

    /// Runs on the core. It is there for as long as the lane is owned.
    fn with_core<T>(&self, run: impl FnOnce(&mut LaneCore) -> T) -> T {
        let mut core = self.deps.shared.core.lock();
        let core = core.get_or_insert_with(|| LaneCore::new(&self.deps.config.region, 0));
        run(core)
    }

    /// Prolongs the lease when a third of it is over.
    async fn keep_lease(&mut self) -> Result<(), Halt> {
        let ttl_us = self.deps.config.lease_ms * 1000;
        let boot = boot_us();
        if boot + ttl_us * 2 / 3 < self.lease_until_boot_us {
            return Ok(());
        }
        let until_ms = now_us() / 1000 + self.deps.config.lease_ms;
        match self.record.renew(&mut self.lease, until_ms).await {
            Ok(Recorded::Yes) => self.lease_until_boot_us = boot + ttl_us,
            Ok(Recorded::Lost) => return Err(Halt::Lost),
            Err(error) => tracing::warn!(lane = %self.deps.shared.lane, %error, "lease not prolonged"),
        }
        self.check_fence()
    }

    /// Nothing is sent on a lease that has run out, also not after this machine has slept.
    fn check_fence(&self) -> Result<(), Halt> {
        if boot_us() < self.lease_until_boot_us { Ok(()) } else { Err(Halt::Lost) }
    }

    /// Leaves nothing behind: flushes, records that it was applied, gives the lane back.
    async fn stop(&mut self) -> Result<(), Halt> {
        self.flush(true).await?;
        self.record_applied().await?;
        self.record.release(self.lease.clone()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Shards' rows and stored deltas always give the newest state of every shard, and deltas do
        /// not pile up.
        #[test]
        fn no_delta_goes_before_its_shards_are_stored(
            batches in prop::collection::vec((prop::collection::btree_set(0u16..200, 0..12), 1usize..4), 1..300),
        ) {
            let mut snapshots = Snapshots::default();
            let mut newest: BTreeMap<u16, u64> = BTreeMap::new();
            let mut rows: BTreeMap<u16, u64> = BTreeMap::new();
            let mut deltas: BTreeMap<DeltaId, BTreeSet<u16>> = BTreeMap::new();
            for (through, (changed, room)) in (1..).zip(batches) {
                // As `prepare_carry` does, and the commit after it.
                snapshots.dirty.extend(changed.iter().copied().filter_map(Shard::new));
                let (mut shards, forget) = snapshots.next(through);
                snapshots.add_deltas(vec![(through, 0)]);
                // A record has room for so many.
                let rest = shards.split_off(room.min(shards.len()));
                snapshots.put_back(rest.into_iter());
                newest.extend(changed.iter().map(|shard| (*shard, through)));
                deltas.insert((through, 0), changed);
                rows.extend(shards.iter().map(|shard| (shard.number(), through)));
                for id in forget {
                    prop_assert!(deltas.remove(&id).is_some());
                }
                for (shard, newest) in &newest {
                    let in_delta = deltas.iter().filter(|(_, shards)| shards.contains(shard)).map(|(id, _)| id.0).max();
                    let stored = in_delta.max(rows.get(shard).copied());
                    prop_assert!(stored >= Some(*newest), "shard {} at {:?}, not {}", shard, stored, newest);
                }
                // A round of 200 shards takes 200 records at most.
                prop_assert!(deltas.len() <= 3 * 200);
            }
        }
    }
}
