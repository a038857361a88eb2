//! Taking a lane over: the lease, the record, the devices' rows, and the batch that was recorded and
//! perhaps not inserted.

use super::{Halt, LaneDeps, Owner, READ_BYTES, RETRY, Snapshots};
use crate::{
    clock::{boot_us, now_us},
    core::{Drive, Effects, LaneCore, pending::ENCODER_VERSION},
};
use anyhow::{Context as _, bail};
use breeze_proto::{
    shard::{LaneCount, SHARDS, Shard},
    subject,
    v1::LaneBoundary,
};
use breeze_store::{
    model::{
        device_state,
        lane::{self, LaneRecord, ReceivedWrite, Recorded, Recovered},
    },
    state::{
        BUCKETS,
        leases::{Acquired, Lease},
    },
};
use std::{collections::VecDeque, time::Duration};

/// Shards whose rows one commit rewrites when a stream has started over.
const SHARDS_PER_COMMIT: usize = 16;

/// Waits for the lease and makes everything as the former owner left it.
pub(super) async fn take_over(deps: &LaneDeps) -> Result<Owner<'_>, Halt> {
    let lane = deps.shared.lane;
    fix_lane_count(deps).await?;
    let record = LaneRecord::new(deps.state.clone(), &deps.config.region, lane);
    let (lease, lease_until_boot_us) = acquire(deps, &record).await?;
    let recovered = record.recover().await.context("reading the lane's record")?;
    let core = load(deps, &recovered).await?;
    *deps.shared.core.lock() = Some(core);
    let mut owner = Owner {
        deps,
        stream: subject::lane_stream(&deps.config.region, lane),
        record,
        lease,
        lease_until_boot_us,
        handled: recovered.boundary.last,
        boundary: recovered.boundary,
        carry: vec![],
        snapshots: Snapshots { deltas: recovered.deltas.into(), ..Snapshots::default() },
        writes: 0,
        directory: VecDeque::new(),
        applied_us: now_us(),
        flushed_us: now_us(),
        ticked_us: 0,
    };
    owner.snapshots.dirty = owner.shards_with_devices();
    owner.follow_stream().await?;
    owner.drive_again().await?;
    deps.shared.handled.send_replace(owner.handled);
    deps.shared.status.lock().trouble.clear();
    tracing::info!(%lane, epoch = owner.lease.epoch, through = owner.handled, "lane taken over");
    Ok(owner)
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

async fn acquire(deps: &LaneDeps, record: &LaneRecord) -> Result<(Lease, u64), Halt> {
    loop {
        let (boot, now_ms) = (boot_us(), now_us() / 1000);
        let until_ms = now_ms + deps.config.lease_ms;
        match record.acquire(&deps.config.id, until_ms, now_ms).await.context("acquiring the lane")? {
            Acquired::Yes(lease) => return Ok((lease, boot + deps.config.lease_ms * 1000)),
            Acquired::Held { until_ms, .. } => {
                "another collector owns the lane".clone_into(&mut deps.shared.status.lock().trouble);
                let wait = Duration::from_millis(until_ms.saturating_sub(now_ms)).clamp(RETRY / 5, RETRY * 2);
                tokio::select! {
                    () = deps.stop.cancelled() => return Err(Halt::Stopped),
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

async fn load(deps: &LaneDeps, recovered: &Recovered) -> Result<LaneCore, Halt> {
    let lanes = LaneCount::new(deps.config.lanes).context("lanes")?;
    let mut core = LaneCore::new(&deps.config.region, deps.config.offline_floor_ms * 1000);
    for device in &recovered.received {
        core.load_received(device);
    }
    for bucket in 0..BUCKETS {
        let mut cursor = None;
        loop {
            let page = device_state::scan(&*deps.state, bucket, cursor).await.context("reading device state")?;
            for (id, row) in page.rows {
                if Shard::of(id).lane(lanes) == deps.shared.lane {
                    core.load_row(id, row);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if deps.stop.is_cancelled() {
            return Err(Halt::Stopped);
        }
    }
    core.finish_loading(now_us());
    Ok(core)
}

impl Owner<'_> {
    /// All shards that hold anything: their rows may be behind the deltas.
    fn shards_with_devices(&self) -> std::collections::BTreeSet<Shard> {
        self.with_core(|core| (0..SHARDS).filter_map(Shard::new).filter(|shard| core.has_received(*shard)).collect())
    }

    /// A stream that ends before what was recorded is another one (its disk was lost): what was
    /// received stays, positions begin again, and tokens get another name.
    async fn follow_stream(&mut self) -> Result<(), Halt> {
        let extent = self.deps.bus.extent(&self.stream).await.context("measuring the lane")?;
        if extent.last >= self.boundary.last {
            return Ok(());
        }
        tracing::error!(
            stream = self.stream,
            recorded = self.boundary.last,
            found = extent.last,
            "the stream ends before what was recorded: it was lost and has started over"
        );
        let shards: Vec<_> = std::mem::take(&mut self.snapshots.dirty).into_iter().collect();
        for shards in shards.chunks(SHARDS_PER_COMMIT) {
            let rows = shards.iter().map(|shard| (*shard, self.with_core(|core| core.encode_shard(*shard, 0))));
            let write = ReceivedWrite { shards: rows.collect(), ..ReceivedWrite::default() };
            let boundary = self.boundary.clone();
            self.record_or_lose(&boundary, &write).await?;
        }
        let boundary = LaneBoundary { generation: self.boundary.generation + 1, ..LaneBoundary::default() };
        let forget = std::mem::take(&mut self.snapshots.deltas).into();
        self.record_or_lose(&boundary, &ReceivedWrite { forget, ..ReceivedWrite::default() }).await?;
        self.boundary = boundary;
        self.handled = 0;
        Ok(())
    }

    async fn record_or_lose(&self, boundary: &LaneBoundary, write: &ReceivedWrite) -> Result<(), Halt> {
        match self.record.record(&self.lease, boundary, write).await.context("recording")? {
            Recorded::Yes => Ok(()),
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
        let mut next = first;
        while next <= last {
            let entries = self.deps.bus.read(&self.stream, next, READ_BYTES, Duration::ZERO).await;
            let entries = entries.context("reading a recorded batch again")?;
            check_is_there(entries.first().map(|entry| entry.position), next)?;
            for entry in entries.into_iter().take_while(|entry| entry.position <= last) {
                next = entry.position + 1;
                let mut effects = Effects::default();
                self.with_core(|core| core.handle_entry(entry.position, entry.payload, Drive::Again, &mut effects));
            }
        }
        let pending = self.with_core(LaneCore::take_pending).context("a recorded batch is empty")?;
        metrics::counter!("breeze_collector_batches_driven_again_total").increment(1);
        tracing::info!(stream = self.stream, first, last, rows = pending.rows, "driving a recorded batch again");
        self.apply(pending, false).await
    }
}

fn check_is_there(found: Option<u64>, wanted: u64) -> anyhow::Result<()> {
    if found != Some(wanted) {
        bail!("entry {wanted} of a recorded batch is not in the stream any more");
    }
    Ok(())
}
