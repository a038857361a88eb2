//! Taking a lane over from an owner that is alive: this collector gets what the owner knows, follows the
//! stream as the owner does but without any effect, and asks for the lane when it is level. What the
//! owner had in memory is here then, and only the last batch and one commit lie between the two.

use super::{
    Halt, LaneDeps, READ_BYTES, RETRY, TICK,
    giving::{self, Ask, YIELD_WAIT},
    insert::bounded,
    owner::{Owner, Start},
    snapshots::Snapshots,
};
use crate::{
    clock::{boot_us, now_us},
    core::{Drive, Effects, LaneCore},
    members::Plan,
};
use anyhow::{Context as _, anyhow, bail, ensure};
use breeze_bus::Entry;
use breeze_proto::{id::DeviceId, shard::LaneCount, subject, v1};
use breeze_store::{
    model::{
        device_state,
        lane::{BoundaryAt, DeltaId, LaneRecord},
    },
    state::leases::{Acquired, Lease},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use std::{collections::VecDeque, time::Duration};
use tokio::sync::mpsc;

/// One page of a snapshot.
const PAGE_WAIT: Duration = Duration::from_secs(6);
/// Pages of a snapshot.
const MAX_PAGES: u32 = 4096;
/// Bytes of entries that wait for the owner's answer.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// How often facts are read again of devices whose inventory changed.
const REFRESH: Duration = Duration::from_secs(1);
/// Devices whose facts are read at a time.
const REFRESHES: usize = 32;
/// Devices whose inventory changed and is not in the store yet; beyond, the lane is loaded again.
const MAX_CHANGED: usize = 65_536;

/// How following a lane ended.
pub(super) enum Followed<'a> {
    Owned(Box<Owner<'a>>, mpsc::Sender<Ask>),
    /// It is not to be this collector's any more.
    NotMine,
}

struct Shadow<'a> {
    deps: &'a LaneDeps,
    record: LaneRecord,
    stream: String,
    core: LaneCore,
    position: u64,
    generation: u64,
    /// Devices whose inventory changed with the entry at that position or before.
    changed: Vec<(u64, DeviceId)>,
    deltas: VecDeque<DeltaId>,
    ticked_us: u64,
    refreshed: tokio::time::Instant,
}

/// Follows the lane until it is this collector's.
///
/// # Errors
/// When the owner does not answer, refuses, or is lost on the way: the lane is then taken like any other.
pub(super) async fn follow(deps: &LaneDeps) -> Result<Followed<'_>, Halt> {
    let mut shadow = load(deps).await.map_err(Halt::Failed)?;
    tracing::info!(lane = %deps.shared.lane, position = shadow.position, "following the lane");
    let mut asks_at = tokio::time::Instant::now();
    loop {
        if deps.stop.is_cancelled() {
            return Err(Halt::Stopped);
        }
        if deps.plan() != Plan::Mine {
            return Ok(Followed::NotMine);
        }
        if !shadow.step().await? || tokio::time::Instant::now() < asks_at {
            continue;
        }
        let (reply, waiting) = shadow.ask().await?;
        if reply.yielded {
            return Box::pin(shadow.take_over(&reply, waiting)).await;
        }
        tracing::debug!(lane = %deps.shared.lane, refusal = reply.refusal, "the lane is not given yet");
        shadow.handle(waiting)?;
        asks_at = tokio::time::Instant::now() + RETRY;
    }
}

/// Everything that the owner knows, as of one position.
async fn load(deps: &LaneDeps) -> anyhow::Result<Shadow<'_>> {
    let lanes = LaneCount::new(deps.config.lanes).context("lanes")?;
    let mut core =
        LaneCore::new(&deps.config.region, deps.config.offline_floor_ms * 1000).with_place(deps.shared.lane, lanes);
    let mut waiting = Vec::new();
    let mut asked = v1::FollowLane { collector_id: deps.config.id.clone(), ..v1::FollowLane::default() };
    let subject = subject::lane_follow(&deps.config.region, deps.shared.lane);
    let (position, generation) = loop {
        let reply = deps.bus.request(&subject, asked.encode_to_vec().into(), PAGE_WAIT).await;
        let page = v1::LanePage::decode(reply.context("asking the lane's owner")?)?;
        ensure!(page.snapshot != 0, "the lane's owner refuses: {}", page.refusal);
        ensure!(asked.snapshot == 0 || asked.snapshot == page.snapshot, "the owner has begun another snapshot");
        asked = v1::FollowLane { snapshot: page.snapshot, page: asked.page + 1, ..asked };
        let (position, generation, is_last) = (page.position, page.generation, page.last);
        core.import(page, &mut waiting);
        if is_last {
            break (position, generation);
        }
        ensure!(asked.page < MAX_PAGES, "the snapshot does not end");
    };
    let record = deps.record();
    let deltas = record.deltas(0).await.context("reading the lane's deltas")?;
    Ok(Shadow {
        deps,
        record,
        stream: subject::lane_stream(&deps.config.region, deps.shared.lane),
        core,
        position,
        generation,
        changed: waiting.into_iter().map(|device| (position, device)).collect(),
        deltas: deltas.into(),
        ticked_us: 0,
        refreshed: tokio::time::Instant::now(),
    })
}

impl<'a> Shadow<'a> {
    /// Reads on. Whether everything has been read.
    async fn step(&mut self) -> anyhow::Result<bool> {
        let entries = self.read(self.position + 1, TICK / 5).await?;
        let is_level = entries.is_empty() || {
            let last = entries.last().map_or(self.position, |entry| entry.position);
            last >= self.deps.bus.extent(&self.stream).await.context("measuring the lane")?.last
        };
        self.handle(entries)?;
        let now = now_us();
        if now.saturating_sub(self.ticked_us) >= TICK.as_micros() as u64 {
            self.ticked_us = now;
            self.core.set_gone_relays(self.deps.relays.gone(boot_us()));
            self.core.handle_tick(now, is_level);
        }
        if self.refreshed.elapsed() >= REFRESH {
            self.refreshed = tokio::time::Instant::now();
            let (boundary, _) = self.record.boundary().await.context("reading the lane's boundary")?;
            self.refresh(boundary.applied_through).await?;
        }
        Ok(is_level)
    }

    async fn read(&self, from: u64, wait: Duration) -> anyhow::Result<Vec<Entry>> {
        let read = self.deps.bus.read(&self.stream, from, READ_BYTES, wait).await;
        let entries = read.context("following the lane")?;
        if entries.first().is_some_and(|entry| entry.position != from) {
            bail!("entries were trimmed before they were followed");
        }
        Ok(entries)
    }

    fn handle(&mut self, entries: Vec<Entry>) -> anyhow::Result<()> {
        for entry in entries {
            // Its effects are the owner's.
            self.core.handle_entry(entry.position, entry.payload, Drive::First, &mut Effects::default());
            self.position = entry.position;
        }
        self.core.discard_pending(&mut self.changed);
        ensure!(self.changed.len() <= MAX_CHANGED, "too much inventory changes");
        Ok(())
    }

    /// Reads facts again of devices whose inventory the owner has applied by now.
    async fn refresh(&mut self, applied_through: u64) -> anyhow::Result<()> {
        let (mut due, later): (Vec<_>, Vec<_>) =
            self.changed.drain(..).partition(|(position, _)| *position <= applied_through);
        self.changed = later;
        due.sort_by_key(|(_, device)| *device);
        due.dedup_by_key(|(_, device)| *device);
        let state = &*self.deps.state;
        let reads = due.into_iter().map(|(_, device)| async move {
            device_state::facts(state, device).await.map(|facts| facts.map(|(_, facts)| (device, facts)))
        });
        let mut reads = stream::iter(reads).buffer_unordered(REFRESHES);
        while let Some(read) = reads.try_next().await.context("reading facts")? {
            if let Some((device, facts)) = read {
                self.core.load_inventory_facts(device, facts);
            }
        }
        Ok(())
    }

    /// Asks for the lane. Entries that come until the answer are not handled: where the owner ends is
    /// not known yet.
    async fn ask(&mut self) -> anyhow::Result<(v1::YieldReply, Vec<Entry>)> {
        let newest = self.deltas.back().map_or(0, |(through, _)| *through);
        let newer = self.record.deltas(newest).await.context("reading the lane's deltas")?;
        self.deltas.extend(newer);
        let asked = v1::YieldLane { collector_id: self.deps.config.id.clone() }.encode_to_vec();
        let subject = subject::lane_yield(&self.deps.config.region, self.deps.shared.lane);
        let request = self.deps.bus.request(&subject, asked.into(), YIELD_WAIT + RETRY);
        let mut request = std::pin::pin!(request);
        let (mut waiting, mut bytes) = (Vec::<Entry>::new(), 0);
        loop {
            let from = waiting.last().map_or(self.position, |entry| entry.position) + 1;
            tokio::select! {
                biased;
                reply = &mut request => {
                    return Ok((v1::YieldReply::decode(reply.context("asking for the lane")?)?, waiting));
                }
                entries = self.read(from, TICK), if bytes < MAX_WAITING_BYTES => {
                    let entries = entries?;
                    bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
                    waiting.extend(entries);
                }
            }
        }
    }

    /// The lane is given: reads to exactly where the owner ended, and owns it from there.
    async fn take_over(mut self, given: &v1::YieldReply, waiting: Vec<Entry>) -> Result<Followed<'a>, Halt> {
        let began = tokio::time::Instant::now();
        ensure_level(self.generation == given.generation && self.position <= given.through)?;
        let boot = boot_us();
        let lease = self.acquire().await?;
        self.deps.shared.set_fence(boot + self.deps.config.lease_ms * 1000);
        let mut beyond = waiting;
        let here = beyond.drain(..beyond.partition_point(|entry| entry.position <= given.through)).collect();
        self.handle(here)?;
        while self.position < given.through {
            let mut entries = self.read(self.position + 1, TICK).await?;
            entries.retain(|entry| entry.position <= given.through);
            ensure_level(!entries.is_empty())?;
            self.handle(entries)?;
        }
        self.refresh(u64::MAX).await?;
        let newest = self.deltas.back().map_or(0, |(through, _)| *through);
        let (boundary, newer) = tokio::join!(self.record.boundary(), self.record.deltas(newest));
        let ((boundary, at), newer) =
            (boundary.context("reading the boundary")?, newer.context("reading the lane's deltas")?);
        self.deltas.extend(newer);
        let is_there = boundary.last == given.through && boundary.applied_through == given.through;
        ensure_level(is_there && boundary.generation == given.generation)?;
        let (owner, asks) = self.into_owner(given, lease, boundary, at);
        metrics::counter!("breeze_collector_lanes_taken_warm_total").increment(1);
        tracing::info!(
            lane = %owner.deps.shared.lane, epoch = owner.lease.epoch, through = owner.handled,
            took.ms = began.elapsed().as_millis() as u64, "lane taken over from its owner"
        );
        Ok(Followed::Owned(Box::new(owner), asks))
    }

    async fn acquire(&self) -> anyhow::Result<Lease> {
        let now_ms = now_us() / 1000;
        let config = &self.deps.config;
        let wait = Duration::from_millis(config.lease_ms / 3);
        match bounded(wait, self.record.acquire(&config.id, now_ms + config.lease_ms, now_ms)).await? {
            Acquired::Yes(lease) => Ok(lease),
            Acquired::Held { .. } => Err(anyhow!("another collector was quicker")),
        }
    }

    fn into_owner(
        self,
        given: &v1::YieldReply,
        lease: Lease,
        boundary: v1::LaneBoundary,
        at: BoundaryAt,
    ) -> (Owner<'a>, mpsc::Sender<Ask>) {
        let Self { deps, record, mut core, deltas, .. } = self;
        core.take_over(given.live_since_us, given.ticked_us, deps.config.latest_interval_ms * 1000);
        // What the owner's timers have done is done here before anything is told.
        core.handle_tick(now_us().max(given.ticked_us), true);
        *deps.shared.core.lock() = Some(core);
        deps.shared.handled.send_replace(boundary.last);
        deps.shared.status.lock().trouble.clear();
        let (asks, asked) = giving::channel();
        let snapshots = Snapshots::new(deltas);
        let mut owner = Owner::new(deps, Start { record, lease, boundary, at, snapshots }, asked);
        owner.snapshots.dirty = owner.shards_with_devices();
        (owner, asks)
    }
}

fn ensure_level(is_level: bool) -> anyhow::Result<()> {
    ensure!(is_level, "the lane's record is not where its owner said: it is loaded again");
    Ok(())
}
