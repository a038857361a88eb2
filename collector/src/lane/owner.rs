//! The owner's loop: reading, timers, the lease, and when to flush.
//!
//! There are two cursors. What was *seen* counts for presence; what was *handled* has its rows made as
//! well. They are one while the metrics store keeps up. When a batch stays under way and the next one
//! is full, the lane is read ahead for presence alone, and its rows are made from the stream again when
//! the store takes batches: nothing piles up here, and nobody goes offline because a store is slow.

use super::{
    Halt, LaneDeps, READ_BYTES, TICK, Unstored,
    giving::{Ask, Giving, TrimHold},
    insert::{End, Inserting, ended},
    misplaced,
    snapshots::Snapshots,
    telling::{Telling, told},
};
use crate::{
    clock::{boot_us, now_us},
    core::{Drive, Effects, LaneCore, Push},
};
use anyhow::anyhow;
use breeze_bus::{BusError, Entry, Extent};
use breeze_proto::{subject, v1::LaneBoundary};
use breeze_store::{
    model::lane::{BoundaryAt, LaneRecord, ReceivedWrite},
    state::leases::Lease,
};
use prost::Message as _;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

/// A batch may be under way for so long before the lane is read ahead of it.
const AHEAD_AFTER: Duration = Duration::from_secs(1);
/// Between two tries to read a stream that cannot be read.
const READ_RETRY: Duration = Duration::from_millis(200);
/// How long a collector that stops waits for successors to ask for its lanes.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// Looks at the lane after which a stream that ends before what was read has started over. One look may
/// have been at a server that is behind.
const RESTART_LOOKS: u32 = 3;

/// The owner's own state.
#[derive(Debug)]
pub(super) struct Owner<'a> {
    pub(super) deps: &'a LaneDeps,
    pub(super) stream: String,
    pub(super) record: LaneRecord,
    pub(super) lease: Lease,
    /// As it was recorded last, and where.
    pub(super) boundary: LaneBoundary,
    pub(super) at: BoundaryAt,
    /// What the next record carries of received heartbeats; the last goes with the boundary.
    pub(super) carry: Vec<ReceivedWrite>,
    pub(super) snapshots: Snapshots,
    /// The recorded batch, while it is not applied.
    pub(super) inserting: Option<Inserting>,
    /// What the history is being told of presence.
    pub(super) telling: Option<Telling>,
    /// Rows were made of entries up to here.
    pub(super) handled: u64,
    /// Entries up to here count for presence; at least `handled`.
    pub(super) seen: u64,
    /// Raised for every flush; see [`breeze_store::model::device_state::version`].
    pub(super) writes: u64,
    pub(super) volume: Volume,
    pub(super) applied_us: u64,
    pub(super) flushed_us: u64,
    pub(super) asked: mpsc::Receiver<Ask>,
    pub(super) giving: Option<Giving>,
    pub(super) trim_hold: Option<TrimHold>,
    /// Of the stream that is read; 0: not known yet.
    pub(super) identity: u64,
    /// Nothing was read since it was last seen to be that one.
    pub(super) is_verified: bool,
    /// It was found to be another one.
    is_another: bool,
    ticked_us: u64,
    /// Looks at the lane since it was found to end before what was read.
    ends_early: u32,
    leaving_since: Option<Instant>,
    misplaced: misplaced::Teller,
}

/// Payload bytes of the stream since this ownership began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Volume {
    pub(super) seen: u64,
    pub(super) seen_entries: u64,
    pub(super) handled: u64,
    pub(super) applied: u64,
}

/// What ended a wait.
enum Event {
    Stop,
    Asked(Option<Ask>),
    Inserted(End),
    Told(bool),
    Read(Result<Vec<Entry>, BusError>),
    Passed,
}

/// What is taken over.
pub(super) struct Start {
    pub(super) record: LaneRecord,
    pub(super) lease: Lease,
    pub(super) boundary: LaneBoundary,
    pub(super) at: BoundaryAt,
    pub(super) snapshots: Snapshots,
}

impl<'a> Owner<'a> {
    pub(super) fn new(deps: &'a LaneDeps, start: Start, asked: mpsc::Receiver<Ask>) -> Self {
        let (handled, identity) = (start.boundary.last, start.boundary.stream_identity);
        Self {
            deps,
            stream: subject::lane_stream(&deps.config.region, deps.shared.lane),
            record: start.record,
            lease: start.lease,
            boundary: start.boundary,
            at: start.at,
            carry: vec![],
            snapshots: start.snapshots,
            inserting: None,
            telling: None,
            handled,
            seen: handled,
            writes: 0,
            volume: Volume::default(),
            applied_us: now_us(),
            flushed_us: now_us(),
            asked,
            giving: None,
            trim_hold: None,
            identity,
            is_verified: false,
            is_another: false,
            ticked_us: 0,
            ends_early: 0,
            leaving_since: None,
            misplaced: misplaced::Teller::default(),
        }
    }

    /// Reads and flushes until something ends it.
    pub(super) async fn work(&mut self) -> Halt {
        match self.work_until_halt().await {
            Ok(never) => match never {},
            Err(Halt::Stopped) => {
                self.stop().await;
                Halt::Stopped
            }
            Err(halt) => {
                if self.is_another {
                    self.settle().await;
                }
                halt
            }
        }
    }

    async fn work_until_halt(&mut self) -> Result<std::convert::Infallible, Halt> {
        loop {
            self.turn().await?;
            self.tick().await?;
            self.keep_lease().await?;
            self.give_if_asked().await?;
            self.flush_if_due().await?;
        }
    }

    /// Waits for the next thing to happen and takes it. In order: the end, a successor, the batch that
    /// is under way, the stream.
    async fn turn(&mut self) -> Result<(), Halt> {
        self.check_leaving()?;
        let deps = self.deps;
        let is_full = self.with_core(|core| core.pending().is_full());
        // A store that is merely busy is waited for: reading twice costs more.
        let waits = is_full && self.inserting.as_ref().is_some_and(|held| held.since.elapsed() < AHEAD_AFTER);
        let is_behind = self.seen > self.handled;
        let wait = if is_behind && !is_full { Duration::ZERO } else { self.flush_after().min(TICK) };
        let event = tokio::select! {
            biased;
            () = deps.stop.cancelled(), if self.leaving_since.is_none() => Event::Stop,
            asked = self.asked.recv() => Event::Asked(asked),
            end = ended(&mut self.inserting) => Event::Inserted(end),
            done = told(&mut self.telling) => Event::Told(done),
            read = deps.bus.read(&self.stream, self.seen + 1, READ_BYTES, wait), if !waits => Event::Read(read),
            () = sleep(wait.min(AHEAD_AFTER / 4)), if waits => Event::Passed,
        };
        match event {
            Event::Stop => self.leaving_since = Some(Instant::now()),
            Event::Asked(Some(ask)) => self.handle_ask(ask),
            Event::Asked(None) => return Err(anyhow!("nobody answers successors any more").into()),
            Event::Inserted(end) => self.inserted(end).await?,
            Event::Told(is_done) => self.handle_told(is_done)?,
            Event::Read(read) => {
                let entries = self.check_read(read).await?;
                self.take(entries).await?;
                if is_behind && !self.with_core(|core| core.pending().is_full()) {
                    self.catch_up().await?;
                }
            }
            Event::Passed => {}
        }
        Ok(())
    }

    /// A collector that stops works on while a successor may come for the lane.
    fn check_leaving(&self) -> Result<(), Halt> {
        match self.leaving_since {
            Some(since) if since.elapsed() >= LEAVE_WAIT || !self.deps.shares.has_others() => Err(Halt::Stopped),
            Some(_) | None => Ok(()),
        }
    }

    /// A bus that does not answer is tried again: the lane is behind meanwhile, and its timers held.
    async fn check_read(&mut self, read: Result<Vec<Entry>, BusError>) -> Result<Vec<Entry>, Halt> {
        match read {
            Ok(entries) => Ok(entries),
            Err(error @ (BusError::Invalid(_) | BusError::Corrupt(_) | BusError::TooLarge { .. })) => {
                Err(anyhow::Error::from(error).context("reading the lane").into())
            }
            Err(error) => {
                self.deps.shared.status.lock().trouble = format!("reading the lane: {error}");
                metrics::counter!("breeze_collector_read_retries_total").increment(1);
                sleep(READ_RETRY).await;
                Ok(vec![])
            }
        }
    }

    /// Takes entries that were not seen yet.
    async fn take(&mut self, entries: Vec<Entry>) -> Result<(), Halt> {
        if let Some(entry) = entries.first().filter(|entry| entry.position != self.seen + 1) {
            let lost = entry.position.saturating_sub(self.seen + 1);
            metrics::counter!("breeze_collector_entries_lost_total").increment(lost);
            tracing::error!(stream = self.stream, lost, "entries were trimmed before they were read");
            if self.seen == self.handled {
                self.handled += lost;
            }
            self.seen += lost;
        }
        for entry in entries {
            let is_full = self.with_core(|core| core.pending().is_full());
            if is_full && self.inserting.is_none() {
                self.flush(false).await?;
                if self.with_core(|core| core.pending().is_full()) {
                    // Read again when the bus tells which stream it is.
                    return Ok(());
                }
            } else if is_full && self.inserting.as_ref().is_some_and(|held| held.since.elapsed() < AHEAD_AFTER) {
                // Read again in a moment.
                return Ok(());
            }
            let is_behind = self.seen > self.handled || self.with_core(|core| core.pending().is_full());
            self.handle(entry, if is_behind { Drive::Ahead } else { Drive::First }).await;
        }
        Ok(())
    }

    /// Makes rows of what was read ahead, as far as a batch has room.
    async fn catch_up(&mut self) -> Result<(), Halt> {
        let read = self.deps.bus.read(&self.stream, self.handled + 1, READ_BYTES, Duration::ZERO).await;
        for entry in self.check_read(read).await? {
            if entry.position > self.seen || self.with_core(|core| core.pending().is_full()) {
                break;
            }
            self.handle(entry, Drive::Behind).await;
        }
        if self.handled == self.seen {
            self.with_core(LaneCore::clear_ahead);
            tracing::info!(stream = self.stream, through = self.handled, "the metrics store has caught up");
        }
        Ok(())
    }

    async fn handle(&mut self, entry: Entry, drive: Drive) {
        let mut effects = Effects::default();
        let size = entry.payload.len() as u64;
        self.is_verified = false;
        self.with_core(|core| core.handle_entry(entry.position, entry.payload, drive, &mut effects));
        if drive != Drive::Ahead {
            self.handled = entry.position;
            self.volume.handled += size;
        }
        if drive == Drive::Behind {
            return;
        }
        self.seen = entry.position;
        self.volume.seen += size;
        self.volume.seen_entries += 1;
        if !effects.live.is_empty() && self.deps.shared.is_owned() {
            for (device, sample) in effects.live {
                // Whoever watches sees the next one if this is lost.
                let _ = self.deps.bus.publish(&subject::live(device), sample.encode_to_vec().into()).await;
            }
        }
        self.send(effects.pushes);
        self.deps.shared.handled.send_replace(self.seen);
    }

    pub(super) fn send(&self, pushes: Vec<Push>) {
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
        if let Some(found) = self.with_core(LaneCore::take_misplaced) {
            self.misplaced.tell(&self.deps.config, self.deps.shared.lane, found);
        }
        let extent = match self.deps.bus.extent(&self.stream).await {
            Ok(extent) => extent,
            Err(error) => {
                self.check_read(Err(error)).await?;
                self.with_core(|core| core.handle_tick(now, false));
                return Ok(());
            }
        };
        self.check_identity(extent)?;
        self.ends_early = if extent.last < self.seen { self.ends_early + 1 } else { 0 };
        if self.ends_early >= RESTART_LOOKS {
            return Err(anyhow!("the stream ends before what was read: it was lost and has started over").into());
        }
        let lag = extent.last.saturating_sub(self.seen);
        // What is owned no longer is not judged either.
        if self.deps.shared.is_owned() {
            let gone = self.deps.relays.gone(boot_us());
            self.with_core(|core| {
                core.set_gone_relays(gone);
                core.handle_tick(now, lag == 0);
            });
        }
        let unstored = self.unstored(extent.last, now);
        let mut status = self.deps.shared.status.lock();
        status.lag = lag;
        status.unstored = unstored;
        status.trouble.clear();
        Ok(())
    }

    /// Whether everything that was read so far came from the stream whose positions are recorded; `false`
    /// when the bus does not tell.
    pub(super) async fn check_stream(&mut self) -> Result<bool, Halt> {
        match self.deps.bus.extent(&self.stream).await {
            Ok(extent) => self.check_identity(extent).map(|()| true),
            Err(error) => self.check_read(Err(error)).await.map(|_| false),
        }
    }

    /// An identity never comes back, so what was read before it was asked for is of the same stream.
    fn check_identity(&mut self, extent: Extent) -> Result<(), Halt> {
        if self.identity == 0 {
            self.identity = extent.identity;
        } else if extent.identity != 0 && extent.identity != self.identity {
            self.is_another = true;
            return Err(anyhow!("the stream was deleted or lost, and made anew").into());
        }
        self.is_verified = true;
        Ok(())
    }

    fn unstored(&self, last: u64, now: u64) -> Unstored {
        let applied = if self.inserting.is_some() { self.boundary.applied_through } else { self.boundary.last };
        let entries = last.saturating_sub(applied);
        if entries == 0 {
            return Unstored::default();
        }
        let unread = last.saturating_sub(self.seen);
        let usual = self.volume.seen.checked_div(self.volume.seen_entries).unwrap_or(0);
        let mut oldest_us = self.inserting.as_ref().map_or(self.flushed_us, |held| held.batch.oldest_us);
        if self.seen > self.handled {
            oldest_us = oldest_us.min(self.with_core(|core| core.rows_us()));
        }
        Unstored {
            entries,
            bytes: self.volume.seen.saturating_sub(self.volume.applied) + unread * usual,
            seconds: now.saturating_sub(oldest_us) as f64 / 1e6,
        }
    }

    /// How long after the last flush the next one is due: sooner when there is little to do.
    fn flush_after(&self) -> Duration {
        let full = self.deps.config.flush_interval_ms * 1000;
        let rows = self.with_core(|core| core.pending().rows) as u64;
        Duration::from_micros((full / 4 + full * rows / 100).clamp(full / 4, full))
    }

    async fn flush_if_due(&mut self) -> Result<(), Halt> {
        let is_full = self.with_core(|core| core.pending().is_full());
        let is_due = now_us().saturating_sub(self.flushed_us) >= self.flush_after().as_micros() as u64;
        if self.giving.is_some() || !(is_full || is_due) {
            return Ok(());
        }
        if self.inserting.is_none() {
            return self.flush(false).await;
        }
        if is_due {
            // The rows wait; what is known of the devices does not.
            self.flushed_us = now_us();
            self.merge_due().await?;
        }
        Ok(())
    }

    /// Runs on the core. It is there for as long as the lane is owned.
    pub(super) fn with_core<T>(&self, run: impl FnOnce(&mut LaneCore) -> T) -> T {
        let mut core = self.deps.shared.core.lock();
        let core = core.get_or_insert_with(|| LaneCore::new(&self.deps.config.region, 0));
        run(core)
    }

    /// Prolongs the lease when a third of it is over.
    pub(super) async fn keep_lease(&mut self) -> Result<(), Halt> {
        let ttl_us = self.deps.config.lease_ms * 1000;
        let boot = boot_us();
        if boot + ttl_us * 2 / 3 < self.deps.shared.fence_us() {
            return Ok(());
        }
        let until_ms = now_us() / 1000 + self.deps.config.lease_ms;
        let renewed = super::insert::bounded(self.call_time(), self.record.renew(&mut self.lease, until_ms)).await;
        match renewed {
            Ok(true) => self.deps.shared.set_fence(boot + ttl_us),
            Ok(false) => return Err(Halt::Lost),
            Err(error) => {
                self.deps.shared.status.lock().trouble = format!("lease not prolonged: {error}");
                tracing::warn!(lane = %self.deps.shared.lane, %error, "lease not prolonged");
            }
        }
        self.check_fence()
    }

    /// One call of the state store: so short that there is time for another while the lease lasts.
    pub(super) fn call_time(&self) -> Duration {
        Duration::from_millis(self.deps.config.lease_ms / 3)
    }

    /// Nothing is sent on a lease that has run out, also not after this machine has slept.
    pub(super) fn check_fence(&self) -> Result<(), Halt> {
        if self.deps.shared.is_owned() { Ok(()) } else { Err(Halt::Lost) }
    }
}
