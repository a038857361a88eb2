//! One batch on its way into the stores; see [`super`] for the order of the steps.

use super::{Halt, IDLE, LaneBoundary, Owner};
use crate::{
    clock::now_us,
    core::{
        inventory::{self, Applied},
        pending::{ENCODER_VERSION, InventoryWork, Pending},
    },
};
use breeze_proto::{
    id::DeviceId,
    subject::DIRECTORY_STREAM,
    v1::{InventorySection, StoredSection},
};
use breeze_store::{
    metrics::{FrozenBatch, InsertToken, MetricsError},
    model::{
        device_state,
        inventory::{section, section_row},
        lane::{ReceivedWrite, Recorded},
    },
    state::{MAX_MERGE_BYTES, MAX_MERGE_ROWS, Merge, StateError},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    time::Duration,
};

/// Bytes of received heartbeats that one record carries; the state takes 4 MiB.
const MAX_CARRY_BYTES: usize = 2 * 1024 * 1024;
/// Directory entries that are appended at a time, to share syncs.
const DIRECTORY_APPENDS: usize = 64;
/// Directory entries that wait for the stream to take them; more are dropped and counted.
const MAX_DIRECTORY_WAITING: usize = 100_000;
/// Between two tries of a step that failed.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// Whether a day of a batch is in the metrics store.
#[derive(Debug)]
enum Inserted {
    Yes,
    /// Its token's positions are another batch's.
    Overlaps(String),
}

impl Owner<'_> {
    /// Flushes what was gathered. `all`: also rows that would wait for a later flush.
    pub(super) async fn flush(&mut self, all: bool) -> Result<(), Halt> {
        let pending = self.with_core(|core| core.take_pending());
        self.flushed_us = now_us();
        let Some(pending) = pending else {
            self.merge(vec![], all).await?;
            if now_us().saturating_sub(self.applied_us) > IDLE.as_micros() as u64 {
                self.record_applied().await?;
            }
            return Ok(());
        };
        let mut days: Vec<u32> = pending.days.iter().map(|rows| rows.day).collect();
        days.sort_unstable();
        let boundary = LaneBoundary {
            generation: self.boundary.generation,
            first: pending.first,
            last: pending.last,
            days,
            encoder_version: ENCODER_VERSION,
            applied_through: self.boundary.last,
        };
        self.record_boundary(boundary).await?;
        self.trim().await;
        self.apply(pending, all).await
    }

    /// Records a boundary with what is to be carried; only then does it count here.
    async fn record_boundary(&mut self, boundary: LaneBoundary) -> Result<(), Halt> {
        if self.carry.is_empty() {
            self.carry.push(ReceivedWrite::default());
        }
        while !self.carry.is_empty() {
            let is_last = self.carry.len() == 1;
            let recorded = loop {
                self.check_fence()?;
                let target = if is_last { &boundary } else { &self.boundary };
                match self.record.record(&self.lease, target, &self.carry[0]).await {
                    Ok(recorded) => break recorded,
                    Err(error) if error.is_definite() && !matches!(error, StateError::Invalid(_)) => {
                        self.wait_after(&error, BACKOFF_FIRST).await?;
                    }
                    // It may have happened: only the record itself can tell.
                    Err(error) => return Err(anyhow::Error::from(error).context("recording a batch").into()),
                }
            };
            match recorded {
                Recorded::Yes => drop(self.carry.remove(0)),
                Recorded::Lost => return Err(Halt::Lost),
            }
        }
        self.boundary = boundary;
        Ok(())
    }

    /// Records that the last batch was applied, and lets go of it.
    pub(super) async fn record_applied(&mut self) -> Result<(), Halt> {
        if self.boundary.applied_through < self.boundary.last {
            let boundary = LaneBoundary { applied_through: self.boundary.last, ..self.boundary.clone() };
            self.record_boundary(boundary).await?;
            self.trim().await;
        }
        Ok(())
    }

    /// The stream keeps what is not recorded as applied. A trim that fails is made up by the next.
    async fn trim(&self) {
        if let Err(error) = self.deps.bus.trim(&self.stream, self.boundary.applied_through + 1).await {
            tracing::debug!(stream = self.stream, %error, "not trimmed");
        }
    }

    /// Inserts a recorded batch and everything that comes of it.
    pub(super) async fn apply(&mut self, pending: Pending, all: bool) -> Result<(), Halt> {
        for rows in &pending.days {
            if !self.boundary.days.contains(&rows.day) {
                tracing::error!(day = rows.day, "a batch driven again has rows of a day that was not recorded");
                continue;
            }
            let frozen = rows.freeze();
            while let Inserted::Overlaps(token) = self.append(&self.token(rows.day), &frozen).await? {
                self.begin_generation(&token).await?;
            }
        }
        metrics::counter!("breeze_collector_rows_total").increment(pending.rows as u64);
        let (sections, pushes) = self.apply_inventory(pending.inventory).await?;
        self.merge(sections, all).await?;
        for push in pushes {
            self.deps.pusher.send(push);
        }
        self.applied_us = now_us();
        self.prepare_carry();
        Ok(())
    }

    fn token(&self, day: u32) -> InsertToken {
        // A stream that started over counts from 1 again, so it needs another name.
        let stream = match self.boundary.generation {
            0 => self.stream.clone(),
            generation => format!("{}~{generation}", self.stream),
        };
        InsertToken { stream, first: self.boundary.first, last: self.boundary.last, day }
    }

    /// What the next record carries, as of the batch that was just applied.
    pub(super) fn prepare_carry(&mut self) {
        let through = self.boundary.last;
        let (parts, shards) = self.with_core(|core| core.take_received(through));
        let ids: Vec<_> = parts.iter().map(|(part, _)| (through, *part)).collect();
        self.snapshots.dirty.extend(shards);
        let (snapshots, forget) = self.snapshots.next(through);
        self.snapshots.add_deltas(ids);
        let mut last = ReceivedWrite { forget, ..ReceivedWrite::default() };
        let mut bytes = 0;
        let mut snapshots = snapshots.into_iter();
        for shard in snapshots.by_ref() {
            let set = self.with_core(|core| core.encode_shard(shard, through));
            let size = set.encoded_len();
            if bytes + size > MAX_CARRY_BYTES && !last.shards.is_empty() {
                self.snapshots.put_back(std::iter::once(shard).chain(snapshots));
                break;
            }
            bytes += size;
            last.shards.push((shard, set));
        }
        for (part, set) in parts {
            bytes += set.encoded_len();
            if bytes > MAX_CARRY_BYTES {
                // Shards' rows must come with the boundary that they are as of; deltas may come before.
                self.carry.push(ReceivedWrite { deltas: vec![(part, set)], ..ReceivedWrite::default() });
            } else {
                last.deltas.push((part, set));
            }
        }
        self.carry.push(last);
    }

    // ---- inventory ----

    async fn apply_inventory(
        &mut self,
        works: Vec<InventoryWork>,
    ) -> Result<(Vec<(DeviceId, StoredSection)>, Vec<crate::core::Push>), Halt> {
        let mut held: HashMap<(u32, InventorySection), Option<StoredSection>> = HashMap::new();
        let mut changed = HashMap::new();
        let mut pushes = Vec::new();
        for mut work in works {
            let which = (work.device, work.document.section());
            let device = self.with_core(|core| core.device_id(work.device));
            if which.1 == InventorySection::Unspecified {
                metrics::counter!("breeze_collector_inventory_refused_total").increment(1);
                continue;
            }
            if let std::collections::hash_map::Entry::Vacant(vacant) = held.entry(which) {
                let state = self.deps.state.clone();
                let read = self.persist_state("reading inventory", || section(&*state, device, which.1)).await?;
                vacant.insert(read.map(|(_, section)| section));
            }
            let base = held.entry(which).or_default();
            let document = std::mem::take(&mut work.document);
            work.document.section = document.section;
            match inventory::apply(base.as_ref(), document, work.received_us) {
                Applied::Changed(stored) if section_row(device, 0, &stored).is_some() => {
                    self.with_core(|core| core.handle_section(work.device, &stored));
                    *base = Some(*stored);
                    changed.insert(which, device);
                }
                Applied::Changed(_) => refuse_inventory(device, "too large to store"),
                Applied::Refused(why) => refuse_inventory(device, why),
                Applied::Held => {
                    // Also when a crash came between the section's merge and the facts'.
                    if let Some(stored) = base.as_ref() {
                        self.with_core(|core| core.handle_section(work.device, stored));
                    }
                }
                Applied::OtherBase => metrics::counter!("breeze_collector_inventory_other_base_total").increment(1),
            }
            pushes.push(self.with_core(|core| core.push_held(&work, base.as_ref())));
        }
        let sections = changed.into_iter().filter_map(|(which, device)| Some((device, held.remove(&which)??)));
        Ok((sections.collect(), pushes))
    }

    // ---- merges ----

    /// Merges changed sections and devices' rows, then tells the directory.
    async fn merge(&mut self, sections: Vec<(DeviceId, StoredSection)>, all: bool) -> Result<(), Halt> {
        if sections.is_empty() && self.directory.is_empty() && !self.with_core(|core| core.has_merges()) {
            return Ok(());
        }
        self.writes += 1;
        let version = device_state::version(self.lease.epoch, self.writes);
        let every_us = self.deps.config.latest_interval_ms * 1000;
        let out = self.with_core(|core| core.take_merges(version, now_us(), every_us, all));
        let mut merges: Vec<Merge> =
            sections.iter().filter_map(|(device, section)| section_row(*device, version, section)).collect();
        merges.extend(out.merges);
        for chunk in chunks(merges) {
            let state = self.deps.state.clone();
            self.persist_state("merging device state", || state.merge(chunk.clone())).await?;
        }
        for change in out.directory {
            if self.directory.len() >= MAX_DIRECTORY_WAITING {
                metrics::counter!("breeze_collector_directory_dropped_total").increment(1);
                continue;
            }
            self.directory.push_back(change.encode_to_vec().into());
        }
        self.tell_directory().await;
        Ok(())
    }

    /// Appends to the directory stream; what it does not take now is tried again with the next flush.
    async fn tell_directory(&mut self) {
        let bus = &self.deps.bus;
        let append = |payload: Bytes| async move {
            let result = bus.append(DIRECTORY_STREAM, "", payload.clone()).await;
            (payload, result)
        };
        let waiting = std::mem::take(&mut self.directory);
        let mut results = stream::iter(waiting).map(append).buffer_unordered(DIRECTORY_APPENDS);
        let mut failed = VecDeque::new();
        while let Some((payload, result)) = results.next().await {
            if let Err(error) = result {
                if failed.is_empty() {
                    tracing::warn!(%error, "the directory stream does not take a change; it is tried again");
                }
                failed.push_back(payload);
            }
        }
        drop(results);
        self.directory = failed;
    }

    // ---- stores that fail ----

    async fn persist_state<T, F>(&mut self, what: &'static str, step: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, StateError>>,
    {
        let mut backoff = BACKOFF_FIRST;
        loop {
            self.check_fence()?;
            match step().await {
                Ok(done) => return Ok(done),
                Err(error @ (StateError::Full { .. } | StateError::Unavailable(_))) => {
                    self.wait_after(&error, backoff).await?;
                    backoff = (backoff * 2).min(BACKOFF_MOST);
                }
                Err(error @ (StateError::Invalid(_) | StateError::Corrupt(_))) => {
                    return Err(anyhow::Error::from(error).context(what).into());
                }
            }
        }
    }

    async fn append(&mut self, token: &InsertToken, batch: &FrozenBatch) -> Result<Inserted, Halt> {
        let metrics = self.deps.metrics.clone();
        let mut backoff = BACKOFF_FIRST;
        loop {
            self.check_fence()?;
            match metrics.append(token, batch).await {
                Ok(_) => return Ok(Inserted::Yes),
                Err(error @ (MetricsError::Full { .. } | MetricsError::Unavailable(_))) => {
                    self.wait_after(&error, backoff).await?;
                    backoff = (backoff * 2).min(BACKOFF_MOST);
                }
                Err(MetricsError::Overlap(token)) => return Ok(Inserted::Overlaps(token)),
                Err(error @ (MetricsError::Invalid(_) | MetricsError::Corrupt(_))) => {
                    return Err(anyhow::Error::from(error).context("appending to the metrics store").into());
                }
            }
        }
    }

    /// The positions of the batch are stored already, of something else: the lane's record and the metrics
    /// do not belong together, as after only one of them was restored from a backup. As when a stream has
    /// started over, tokens get another name. What the metrics have and the record does not know of may be
    /// stored again.
    async fn begin_generation(&mut self, token: &str) -> Result<(), Halt> {
        metrics::counter!("breeze_collector_token_overlaps_total").increment(1);
        tracing::error!(
            stream = self.stream,
            token,
            "the metrics store has what the lane's record does not know of: one of them was restored from an older \
             copy; inserting goes on under another name, and some heartbeats may be stored twice"
        );
        let boundary = LaneBoundary { generation: self.boundary.generation + 1, ..self.boundary.clone() };
        self.record_boundary(boundary).await
    }

    /// Says what is wrong, waits, and keeps the lease meanwhile. Asked to stop, it leaves the rest to
    /// the next owner.
    async fn wait_after(&mut self, error: &(dyn std::error::Error + Sync), backoff: Duration) -> Result<(), Halt> {
        metrics::counter!("breeze_collector_store_retries_total").increment(1);
        tracing::warn!(lane = %self.deps.shared.lane, %error, "a store does not take a batch; trying again");
        self.deps.shared.status.lock().trouble = error.to_string();
        tokio::select! {
            () = self.deps.stop.cancelled() => return Err(Halt::Stopped),
            () = tokio::time::sleep(backoff) => {}
        }
        self.keep_lease().await
    }
}

fn refuse_inventory(device: DeviceId, why: &str) {
    metrics::counter!("breeze_collector_inventory_refused_total").increment(1);
    tracing::debug!(device.id = %device, why, "inventory refused");
}

/// Calls of [`breeze_store::state::State::merge`] within its limits.
fn chunks(merges: Vec<Merge>) -> Vec<Vec<Merge>> {
    let mut chunks: Vec<Vec<Merge>> = Vec::new();
    let mut bytes = 0;
    for merge in merges {
        let size = merge.partition.len() + merge.key.len() + merge.value.as_ref().map_or(0, Bytes::len);
        let fits = chunks.last().is_some_and(|chunk| chunk.len() < MAX_MERGE_ROWS) && bytes + size <= MAX_MERGE_BYTES;
        if !fits {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(merge);
        }
    }
    chunks
}
