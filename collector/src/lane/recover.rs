//! Taking a lane over from its record: the lease, what was received, the devices' rows, and the batch
//! that was recorded and perhaps not inserted.

use super::{
    Halt, LaneDeps, READ_BYTES, RETRY,
    giving::{self, Ask},
    insert::{BACKOFF_FIRST, BACKOFF_MOST, bounded},
    owner::{Owner, Start},
    shadow::{self, Followed},
    snapshots::Snapshots,
};
use crate::{
    clock::{boot_us, now_us},
    core::{Drive, Effects, LaneCore, pending::ENCODER_VERSION},
    members::Plan,
};
use anyhow::Context as _;
use breeze_proto::{
    id::DeviceId,
    shard::{LaneCount, SHARDS, Shard},
    v1::LaneBoundary,
};
use breeze_store::{
    model::{
        device_state::{self, DevicePage, DeviceRow},
        lane::{self, LaneRecord, ReceivedWrite, Recorded, Recovered},
    },
    state::{
        BUCKETS, StateError,
        leases::{Acquired, Lease},
    },
};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// Shards whose rows one commit rewrites when a stream has started over.
const SHARDS_PER_COMMIT: usize = 16;
/// Collectors that wait for the same lease to end do not all try at once.
const JITTER_MS: u64 = 200;
/// Looks at a stream that has nothing of what it says it has, before that counts as lost. One look may
/// have been at a server that is behind.
const LOSS_LOOKS: u32 = 10;

/// How waiting for a lane ended.
pub(super) enum Taken<'a> {
    Owned(Box<Owner<'a>>, mpsc::Sender<Ask>),
    NotMine,
}

/// Waits for the lane: free, it is loaded from its record; owned by a collector that is there, it is
/// followed and handed over.
pub(super) async fn take_over(deps: &LaneDeps) -> Result<Taken<'_>, Halt> {
    fix_lane_count(deps).await?;
    let record = deps.record();
    let was_mine = deps.plan() == Plan::Mine;
    loop {
        let (boot, now_ms) = (boot_us(), now_us() / 1000);
        let until_ms = now_ms + deps.config.lease_ms;
        let wait = Duration::from_millis(deps.config.lease_ms / 3);
        let acquired = bounded(wait, record.acquire(&deps.config.id, until_ms, now_ms)).await;
        let (holder, until_ms) = match acquired.context("acquiring the lane")? {
            Acquired::Yes(lease) => {
                deps.shared.set_fence(boot + deps.config.lease_ms * 1000);
                let (owner, asks) = load_owner(deps, record, lease).await?;
                return Ok(Taken::Owned(Box::new(owner), asks));
            }
            Acquired::Held { holder, until_ms } => (String::from_utf8_lossy(&holder).into_owned(), until_ms),
        };
        if deps.shares.is_there(&holder) && holder != deps.config.id {
            deps.shared.status.lock().trouble.clear();
            match shadow::follow(deps).await {
                Ok(Followed::Owned(owner, asks)) => return Ok(Taken::Owned(owner, asks)),
                Ok(Followed::NotMine) => return Ok(Taken::NotMine),
                Err(Halt::Failed(error)) => {
                    deps.shared.set_fence(0);
                    metrics::counter!("breeze_collector_lanes_not_followed_total").increment(1);
                    tracing::debug!(lane = %deps.shared.lane, error = format!("{error:#}"), "the lane is not followed");
                    super::pause(deps, RETRY / 5).await;
                }
                Err(halt) => return Err(halt),
            }
        } else {
            "another collector owns the lane".clone_into(&mut deps.shared.status.lock().trouble);
            let wait = Duration::from_millis(until_ms.saturating_sub(now_ms)).clamp(RETRY / 5, RETRY * 2);
            super::pause(deps, wait + Duration::from_millis(rand::random_range(0..JITTER_MS))).await;
        }
        if deps.stop.is_cancelled() {
            return Err(Halt::Stopped);
        }
        if (deps.plan() == Plan::Mine) != was_mine {
            return Ok(Taken::NotMine);
        }
    }
}

/// Makes everything as the former owner left it.
async fn load_owner(
    deps: &LaneDeps,
    record: LaneRecord,
    mut lease: Lease,
) -> Result<(Owner<'_>, mpsc::Sender<Ask>), Halt> {
    let recovered = record.recover().await.context("reading the lane's record")?;
    let core = load(deps, &recovered, &record, &mut lease).await?;
    *deps.shared.core.lock() = Some(core);
    let snapshots = Snapshots::new(recovered.deltas.into());
    let (asks, asked) = giving::channel();
    let start = Start { record, lease, boundary: recovered.boundary, at: recovered.at, snapshots };
    let mut owner = Owner::new(deps, start, asked);
    owner.snapshots.dirty = owner.shards_with_devices();
    owner.follow_stream().await?;
    owner.drive_again().await?;
    owner.seen = owner.handled;
    deps.shared.handled.send_replace(owner.handled);
    deps.shared.status.lock().trouble.clear();
    tracing::info!(lane = %deps.shared.lane, epoch = owner.lease.epoch, through = owner.handled, "lane taken over");
    Ok((owner, asks))
}

/// The lanes that the region was begun with are the configured ones, from the first start on.
async fn fix_lane_count(deps: &LaneDeps) -> Result<(), Halt> {
    let (region, lanes) = (&deps.config.region, deps.config.lanes);
    let held = lane::fix_lane_count(&*deps.state, region, lanes).await.context("reading the region's lane count")?;
    if held == lanes {
        Ok(())
    } else {
        Err(Halt::Misconfigured(anyhow::anyhow!(
            "lanes is {lanes}, but region {region:?} was begun with {held}: set lanes back to {held}; another number \
         would need a migration"
        )))
    }
}

async fn load(
    deps: &LaneDeps,
    recovered: &Recovered,
    record: &LaneRecord,
    lease: &mut Lease,
) -> Result<LaneCore, Halt> {
    let lanes = LaneCount::new(deps.config.lanes).context("lanes")?;
    let mut core =
        LaneCore::new(&deps.config.region, deps.config.offline_floor_ms * 1000).with_place(deps.shared.lane, lanes);
    for device in &recovered.received {
        core.load_received(device);
    }
    for bucket in 0..BUCKETS {
        let mut cursor = None;
        let mut loading = Loading::default();
        loop {
            let page = read_page(deps, bucket, cursor, record, lease).await?;
            for (id, row) in page.rows {
                if Shard::of(id).lane(lanes) == deps.shared.lane {
                    loading.take(&mut core, &deps.config.region, id, row);
                }
            }
            cursor = page.next;
            keep_lease(deps, record, lease).await?;
            if cursor.is_none() {
                break;
            }
        }
        loading.finish(&mut core, &deps.config.region);
        if deps.stop.is_cancelled() {
            return Err(Halt::Stopped);
        }
    }
    core.finish_loading(now_us());
    Ok(core)
}

/// A device's rows until all of them are there: whose it is stands in one of them only.
#[derive(Debug, Default)]
struct Loading {
    device: Option<DeviceId>,
    rows: Vec<DeviceRow>,
}

impl Loading {
    /// A device's rows come one after the other.
    fn take(&mut self, core: &mut LaneCore, region: &str, id: DeviceId, row: DeviceRow) {
        if self.device != Some(id) {
            self.finish(core, region);
            self.device = Some(id);
        }
        self.rows.push(row);
    }

    /// The store spans all regions, and a region's collectors judge and write of its own devices only.
    fn finish(&mut self, core: &mut LaneCore, region: &str) {
        let Some(id) = self.device.take() else { return };
        let is_of_another = self.rows.iter().any(|row| match row {
            DeviceRow::Facts(facts) => !facts.region.is_empty() && facts.region != region,
            DeviceRow::Latest(_) => false,
        });
        for row in self.rows.drain(..) {
            if !is_of_another {
                core.load_row(id, row);
            }
        }
    }
}

/// A page of the devices' rows, tried again for as long as the lease can be kept: beginning anew would
/// read all pages before it again.
async fn read_page(
    deps: &LaneDeps,
    bucket: u16,
    cursor: Option<Bytes>,
    record: &LaneRecord,
    lease: &mut Lease,
) -> Result<DevicePage, Halt> {
    let wait = Duration::from_millis(deps.config.lease_ms / 3);
    let mut backoff = BACKOFF_FIRST;
    loop {
        match bounded(wait, device_state::scan(&*deps.state, bucket, cursor.clone())).await {
            Ok(page) => return Ok(page),
            Err(error @ (StateError::Full { .. } | StateError::Unavailable(_))) => {
                metrics::counter!("breeze_collector_store_retries_total").increment(1);
                tracing::warn!(lane = %deps.shared.lane, %error, "device state is not read; trying again");
                deps.shared.status.lock().trouble = format!("reading device state: {error}");
            }
            Err(
                error @ (StateError::Refused(_)
                | StateError::Schema(_)
                | StateError::Invalid(_)
                | StateError::Corrupt(_)
                | StateError::Settings(_)),
            ) => return Err(anyhow::Error::from(error).context("reading device state").into()),
        }
        super::pause(deps, backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MOST);
        if deps.stop.is_cancelled() {
            return Err(Halt::Stopped);
        }
        keep_lease(deps, record, lease).await?;
    }
}

/// Many devices take longer to load than a lease lasts.
async fn keep_lease(deps: &LaneDeps, record: &LaneRecord, lease: &mut Lease) -> Result<(), Halt> {
    let (boot, ttl_us) = (boot_us(), deps.config.lease_ms * 1000);
    if boot + ttl_us / 2 < deps.shared.fence_us() {
        return Ok(());
    }
    let wait = Duration::from_millis(deps.config.lease_ms / 3);
    match bounded(wait, record.renew(lease, now_us() / 1000 + deps.config.lease_ms)).await {
        Ok(true) => deps.shared.set_fence(boot + ttl_us),
        Ok(false) => return Err(Halt::Lost),
        Err(error) => {
            tracing::warn!(lane = %deps.shared.lane, %error, "lease not prolonged");
            // It may be tried again while the lease lasts.
            if boot_us() >= deps.shared.fence_us() {
                return Err(anyhow::Error::from(error).context("prolonging the lease").into());
            }
        }
    }
    Ok(())
}

impl Owner<'_> {
    /// All shards that hold anything: their rows may be behind the deltas.
    pub(super) fn shards_with_devices(&self) -> std::collections::BTreeSet<Shard> {
        self.with_core(|core| (0..SHARDS).filter_map(Shard::new).filter(|shard| core.has_received(*shard)).collect())
    }

    /// A stream that was made anew, or ends before what was recorded, is another one (it was deleted, or its
    /// disk lost): what was received stays, positions begin again, and tokens get another name.
    async fn follow_stream(&mut self) -> Result<(), Halt> {
        let extent = self.deps.bus.extent(&self.stream).await.context("measuring the lane")?;
        let (known, found) = (self.boundary.stream_identity, extent.identity);
        self.identity = found;
        let is_another = known != 0 && found != 0 && known != found;
        if self.boundary.last == 0 || (!is_another && extent.last >= self.boundary.last) {
            return Ok(());
        }
        metrics::counter!("breeze_collector_streams_restarted_total").increment(1);
        tracing::error!(
            stream = self.stream,
            recorded = self.boundary.last,
            found = extent.last,
            "the stream is another one than was recorded: it was deleted or lost, and is read from its beginning"
        );
        self.with_core(LaneCore::forget_positions);
        let shards: Vec<_> = std::mem::take(&mut self.snapshots.dirty).into_iter().collect();
        for shards in shards.chunks(SHARDS_PER_COMMIT) {
            let rows = shards.iter().map(|shard| (*shard, self.with_core(|core| core.encode_shard(*shard, 0))));
            let write = ReceivedWrite { shards: rows.collect(), ..ReceivedWrite::default() };
            let boundary = self.boundary.clone();
            self.record_or_lose(&boundary, &write).await?;
        }
        let boundary = LaneBoundary {
            generation: self.boundary.generation + 1,
            stream_identity: found,
            ..LaneBoundary::default()
        };
        let forget = self.snapshots.take_deltas();
        self.record_or_lose(&boundary, &ReceivedWrite { forget, ..ReceivedWrite::default() }).await?;
        self.boundary = boundary;
        self.handled = 0;
        Ok(())
    }

    async fn record_or_lose(&mut self, boundary: &LaneBoundary, write: &ReceivedWrite) -> Result<(), Halt> {
        match self.record.record(&self.lease, self.at, boundary, write).await.context("recording")? {
            Recorded::Yes(at) => {
                self.at = at;
                Ok(())
            }
            Recorded::Lost => Err(Halt::Lost),
        }
    }

    /// The recorded batch, if it was not recorded as applied: once more, byte for byte.
    async fn drive_again(&mut self) -> Result<(), Halt> {
        let (first, last) = (self.boundary.first, self.boundary.last);
        if self.boundary.applied_through >= last {
            return Ok(());
        }
        if self.boundary.encoder_version != ENCODER_VERSION {
            return Err(anyhow::anyhow!(
                "a batch was recorded by encoder version {}, this is version {ENCODER_VERSION}",
                self.boundary.encoder_version
            )
            .into());
        }
        let lost = self.read_again(first, last).await?;
        if !self.check_stream().await? {
            return Err(anyhow::anyhow!("the bus does not say which stream a recorded batch was read from").into());
        }
        if lost > 0 {
            metrics::counter!("breeze_collector_entries_lost_total").increment(lost);
            tracing::error!(
                stream = self.stream,
                first,
                last,
                lost,
                "entries of a recorded batch are not in the stream any more; what is there is inserted under another \
                 name, and some heartbeats may be stored twice"
            );
            // The metrics store may have the whole batch under the recorded name.
            self.next_generation().await?;
        }
        let Some(pending) = self.with_core(LaneCore::take_pending) else {
            return self.record_applied().await;
        };
        metrics::counter!("breeze_collector_batches_driven_again_total").increment(1);
        tracing::info!(stream = self.stream, first, last, rows = pending.rows, "driving a recorded batch again");
        let carry = self.prepare_carry(last);
        self.insert(pending, carry, now_us());
        self.finish_driving_again().await
    }

    /// Takes what the stream has of a recorded batch. How many entries are not there any more.
    async fn read_again(&mut self, first: u64, last: u64) -> Result<u64, Halt> {
        let (mut next, mut lost, mut looks) = (first, 0, 0);
        while next <= last {
            self.keep_lease().await?;
            let entries = self.deps.bus.read(&self.stream, next, READ_BYTES, Duration::ZERO).await;
            let entries = entries.context("reading a recorded batch again")?;
            let Some(found) = entries.first().map(|entry| entry.position) else {
                looks += 1;
                if looks >= LOSS_LOOKS {
                    lost += last + 1 - next;
                    break;
                }
                super::pause(self.deps, RETRY / 5).await;
                if self.deps.stop.is_cancelled() {
                    return Err(Halt::Stopped);
                }
                continue;
            };
            lost += found.min(last + 1).saturating_sub(next);
            next = found.max(next);
            for entry in entries.into_iter().take_while(|entry| entry.position <= last) {
                next = entry.position + 1;
                let mut effects = Effects::default();
                self.with_core(|core| core.handle_entry(entry.position, entry.payload, Drive::Again, &mut effects));
            }
        }
        Ok(lost)
    }
}
