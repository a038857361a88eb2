//! One batch on its way into the stores; see [`super`] for the order of the steps.

use super::{
    Halt,
    insert::{BACKOFF_FIRST, Day, End, Inserting, bounded, ended},
    owner::Owner,
    recording::Recording,
    sections::AppliedInventory,
};
use crate::{
    clock::now_us,
    core::{
        LaneCore,
        events::PendingEvent,
        pending::{ENCODER_VERSION, InventoryWork, Pending},
    },
};
use breeze_proto::{
    id::DeviceId,
    v1::{LaneBoundary, StoredSection},
};
use breeze_store::{
    metrics::InsertToken,
    model::{
        device_state,
        inventory::section_row,
        lane::{ReceivedWrite, Recorded},
    },
    state::{MAX_MERGE_BYTES, MAX_MERGE_ROWS, Merge},
};
use bytes::Bytes;
use prost::Message as _;
use std::{sync::Arc, time::Duration};

/// Bytes of received heartbeats that one record carries; the state takes 4 MiB.
const MAX_CARRY_BYTES: usize = 2 * 1024 * 1024;
/// After an applied batch nothing came for so long: that it was applied is recorded by itself.
const IDLE: Duration = Duration::from_secs(2);
/// How long the last batch may take when the collector stops; its next owner drives it again.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What is left of a batch beside its rows.
#[derive(Debug)]
pub(super) struct Batch {
    inventory: Vec<InventoryWork>,
    events: Vec<PendingEvent>,
    /// Of `inventory`, once it is applied.
    applied: AppliedInventory,
    rows: usize,
    /// What received heartbeats it made, for the record after it.
    carry: Vec<ReceivedWrite>,
    /// [`super::owner::Volume::handled`] as of its end.
    handled_bytes: u64,
    /// When it was cut, by the wall clock.
    pub(super) oldest_us: u64,
}

/// Which devices' rows are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that have waited long enough, or must not.
    Due,
    All,
}

impl Owner<'_> {
    /// Flushes what was gathered: records the batch and begins to insert it. There must be none under way.
    /// `all`: also rows that would wait for a later flush, and to the end.
    pub(super) async fn flush(&mut self, all: bool) -> Result<(), Halt> {
        let gathered_us = std::mem::replace(&mut self.flushed_us, now_us());
        match self.take_batch().await? {
            Some(pending) => self.begin(pending, gathered_us).await?,
            None if all => {}
            None => {
                self.merge(vec![], Which::Due).await?;
                if now_us().saturating_sub(self.applied_us) > IDLE.as_micros() as u64 {
                    self.record_applied().await?;
                }
            }
        }
        if all {
            self.finish(Which::Due).await?;
            self.merge(vec![], Which::All).await?;
        }
        Ok(())
    }

    /// What was gathered, once it is certain that it came from the stream whose positions it has: a
    /// recorded batch must be there to be read again. While the bus does not tell, it waits.
    async fn take_batch(&mut self) -> Result<Option<Pending>, Halt> {
        let is_empty = self.with_core(|core| core.pending().first == 0);
        if is_empty || !(self.is_verified || self.check_stream().await?) {
            return Ok(None);
        }
        Ok(self.with_core(LaneCore::take_pending))
    }

    /// Leaves nothing behind: flushes, records that it was applied, gives the lane back. What cannot be
    /// finished is left to the next owner, who may take the lane at once all the same.
    pub(super) async fn stop(&mut self) {
        let finish = async {
            self.finish(Which::Due).await?;
            self.flush(true).await?;
            self.record_applied().await
        };
        let finished = tokio::time::timeout(STOP_WAIT, Box::pin(finish)).await;
        if !matches!(finished, Ok(Ok(()))) {
            tracing::warn!(lane = %self.deps.shared.lane, ?finished, "the last batch is left to the next owner");
        }
        if self.check_fence().is_ok() {
            let released = bounded(STOP_WAIT, self.record.release(self.lease.clone())).await;
            if let Err(error) = released {
                tracing::warn!(lane = %self.deps.shared.lane, %error, "the lane stays leased until its lease ends");
            }
        }
    }

    /// As far as it goes, records what was received with the batch that was cut last: whoever reads a stream
    /// that was made anew does not read that batch again.
    pub(super) async fn settle(&mut self) {
        let finish = async {
            self.finish(Which::Due).await?;
            self.record_applied().await
        };
        let finished = tokio::time::timeout(STOP_WAIT, Box::pin(finish)).await;
        if !matches!(finished, Ok(Ok(()))) {
            tracing::warn!(lane = %self.deps.shared.lane, ?finished, "what the last batch received is not recorded");
        }
    }

    /// Records a batch and begins to insert it. `gathered_us`: since when it was gathered.
    async fn begin(&mut self, pending: Pending, gathered_us: u64) -> Result<(), Halt> {
        let mut days: Vec<u32> = pending.days.iter().map(|rows| rows.day).collect();
        days.sort_unstable();
        let boundary = LaneBoundary {
            generation: self.boundary.generation,
            first: pending.first,
            last: pending.last,
            days,
            encoder_version: ENCODER_VERSION,
            applied_through: self.boundary.last,
            stream_identity: self.identity,
        };
        // As of this batch, before the core goes on.
        let carry = self.prepare_carry(pending.last);
        self.record_boundary(boundary).await?;
        self.trim().await;
        self.insert(pending, carry, gathered_us);
        Ok(())
    }

    /// Begins to insert the recorded batch.
    pub(super) fn insert(&mut self, pending: Pending, carry: Vec<ReceivedWrite>, gathered_us: u64) {
        let mut days = Vec::new();
        for rows in &pending.days {
            if self.boundary.days.contains(&rows.day) {
                days.push((self.token(rows.day), Arc::new(rows.freeze())));
            } else {
                tracing::error!(day = rows.day, "a batch driven again has rows of a day that was not recorded");
            }
        }
        let batch = Batch {
            inventory: pending.inventory,
            events: pending.events,
            applied: AppliedInventory::default(),
            rows: pending.rows,
            carry,
            handled_bytes: self.volume.handled,
            oldest_us: gathered_us,
        };
        self.inserting = Some(Inserting::new(self.deps.clone(), batch, days));
    }

    /// Waits for the batch under way, if there is one, and for everything that comes of it.
    async fn finish(&mut self, which: Which) -> Result<(), Halt> {
        while self.inserting.is_some() {
            let end = ended(&mut self.inserting).await;
            self.end(end, which).await?;
        }
        Ok(())
    }

    /// As [`Owner::finish`] to the end of an ownership's beginning.
    pub(super) async fn finish_driving_again(&mut self) -> Result<(), Halt> {
        while self.inserting.is_some() {
            let end = tokio::select! {
                () = self.deps.stop.cancelled() => return Err(Halt::Stopped),
                end = ended(&mut self.inserting) => Some(end),
                () = tokio::time::sleep(super::TICK) => None,
            };
            match end {
                Some(end) => self.end(end, Which::Due).await?,
                None => self.keep_lease().await?,
            }
        }
        Ok(())
    }

    /// The batch under way has ended.
    pub(super) async fn inserted(&mut self, end: End) -> Result<(), Halt> {
        self.end(end, Which::Due).await
    }

    async fn end(&mut self, end: End, which: Which) -> Result<(), Halt> {
        let Some(Inserting { mut batch, since, .. }) = self.inserting.take() else { return Ok(()) };
        match end {
            End::Inserted => {
                metrics::counter!("breeze_collector_rows_total").increment(batch.rows as u64);
                // Events before sections: who drives this batch again finds the sections as they were
                // until their events are recorded.
                let recording = self.prepare_history(&mut batch).await?;
                if recording.is_empty() {
                    return self.apply(batch, which).await;
                }
                self.inserting = Some(Inserting::recording(self.deps.clone(), batch, since, recording));
                Ok(())
            }
            End::Recorded => self.apply(batch, which).await,
            End::Overlaps { token, left } => {
                self.begin_generation(&token).await?;
                let again = |(token, frozen): Day| (self.token(token.day), frozen);
                let days = left.into_iter().map(again).collect();
                self.inserting = Some(Inserting::new(self.deps.clone(), batch, days));
                Ok(())
            }
            End::Fenced => Err(Halt::Lost),
            End::Failed(error) => Err(Halt::Failed(error)),
        }
    }

    /// What the history is to be told of a batch, whose inventory is applied here and stored later.
    async fn prepare_history(&mut self, batch: &mut Batch) -> Result<Recording, Halt> {
        let stream = self.token_stream();
        let mut recording = Recording::default();
        for event in std::mem::take(&mut batch.events) {
            recording.add_event(&stream, event);
        }
        batch.applied = self.apply_inventory(std::mem::take(&mut batch.inventory), &stream, &mut recording).await?;
        Ok(recording)
    }

    /// What comes of a batch whose rows are inserted and whose events are recorded.
    async fn apply(&mut self, batch: Batch, which: Which) -> Result<(), Halt> {
        self.merge(batch.applied.sections, which).await?;
        self.send(batch.applied.pushes);
        self.applied_us = now_us();
        self.volume.applied = batch.handled_bytes;
        self.carry = batch.carry;
        Ok(())
    }

    /// Records a boundary with what is to be carried; only then does it count here.
    pub(super) async fn record_boundary(&mut self, boundary: LaneBoundary) -> Result<(), Halt> {
        if self.carry.is_empty() {
            self.carry.push(ReceivedWrite::default());
        }
        while !self.carry.is_empty() {
            let is_last = self.carry.len() == 1;
            let target = if is_last { boundary.clone() } else { self.boundary.clone() };
            self.record_part(&target).await?;
            self.carry.remove(0);
        }
        self.boundary = boundary;
        Ok(())
    }

    /// All that the next boundary carries but the last part.
    pub(super) async fn record_first_parts(&mut self) -> Result<ReceivedWrite, Halt> {
        while self.carry.len() > 1 {
            let target = self.boundary.clone();
            self.record_part(&target).await?;
            self.carry.remove(0);
        }
        Ok(self.carry.pop().unwrap_or_default())
    }

    /// Until it is known to be recorded, or the lease runs out: a commit that may have happened is
    /// made again, which tells.
    async fn record_part(&mut self, target: &LaneBoundary) -> Result<(), Halt> {
        let mut backoff = BACKOFF_FIRST;
        loop {
            self.keep_lease().await?;
            let recorded = self.record.record(&self.lease, self.at, target, &self.carry[0]);
            match bounded(self.call_time(), recorded).await {
                Ok(Recorded::Yes(at)) => {
                    self.at = at;
                    return Ok(());
                }
                Ok(Recorded::Lost) => return Err(Halt::Lost),
                Err(error) => self.after_failure("recording a batch", error, &mut backoff).await?,
            }
        }
    }

    /// Records that the last batch was applied, and lets go of it.
    pub(super) async fn record_applied(&mut self) -> Result<(), Halt> {
        if self.inserting.is_none() && self.boundary.applied_through < self.boundary.last {
            let boundary = LaneBoundary { applied_through: self.boundary.last, ..self.boundary.clone() };
            self.record_boundary(boundary).await?;
            self.trim().await;
        }
        Ok(())
    }

    /// The stream keeps what is not recorded as applied, and for a moment what a successor has still to
    /// read. A trim that fails is made up by the next.
    async fn trim(&mut self) {
        let mut before = self.boundary.applied_through + 1;
        if let Some(hold) = &self.trim_hold {
            if hold.is_over() {
                self.trim_hold = None;
            } else {
                before = before.min(hold.position + 1);
            }
        }
        // Of another stream with this name these would be entries that nobody has read. If it is one, the
        // next look tells.
        if !self.deps.shared.is_owned() || !matches!(self.check_stream().await, Ok(true)) {
            return;
        }
        if let Err(error) = self.deps.bus.trim(&self.stream, before).await {
            tracing::debug!(stream = self.stream, %error, "not trimmed");
        }
    }

    fn token(&self, day: u32) -> InsertToken {
        InsertToken { stream: self.token_stream(), first: self.boundary.first, last: self.boundary.last, day }
    }

    /// A stream that started over counts from 1 again, so it needs another name.
    fn token_stream(&self) -> String {
        match self.boundary.generation {
            0 => self.stream.clone(),
            generation => format!("{}~{generation}", self.stream),
        }
    }

    /// What the record after a batch's application carries: the core must not have gone beyond `through`,
    /// the batch's end.
    pub(super) fn prepare_carry(&mut self, through: u64) -> Vec<ReceivedWrite> {
        let (parts, shards) = self.with_core(|core| core.take_received(through));
        let ids: Vec<_> = parts.iter().map(|(part, _)| (through, *part)).collect();
        self.snapshots.dirty.extend(shards);
        let (snapshots, forget) = self.snapshots.next(through);
        self.snapshots.add_deltas(ids);
        let mut carry = Vec::new();
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
                carry.push(ReceivedWrite { deltas: vec![(part, set)], ..ReceivedWrite::default() });
            } else {
                last.deltas.push((part, set));
            }
        }
        carry.push(last);
        carry
    }

    // ---- merges ----

    /// Merges rows that have waited long enough.
    pub(super) async fn merge_due(&mut self) -> Result<(), Halt> {
        self.merge(vec![], Which::Due).await
    }

    /// Finishes everything for a successor. Newest values are stored as far as they are due, as with any
    /// flush: it has them too, but may die before it stores them. Whether it came to that within `time`; the
    /// lane is worked on otherwise.
    pub(super) async fn finish_for_successor(&mut self, time: Duration) -> Result<bool, Halt> {
        if let Some(pending) = self.take_batch().await? {
            self.begin(pending, now_us()).await?;
        } else if self.with_core(|core| core.pending().first != 0) {
            return Ok(false);
        }
        let until = tokio::time::Instant::now() + time;
        while self.inserting.is_some() {
            match tokio::time::timeout_at(until, ended(&mut self.inserting)).await {
                Ok(end) => self.end(end, Which::Due).await?,
                Err(_) => return Ok(false),
            }
        }
        self.merge(vec![], Which::Due).await?;
        Ok(true)
    }

    /// Merges changed sections and devices' rows, then tells the directory.
    async fn merge(&mut self, sections: Vec<(DeviceId, StoredSection)>, which: Which) -> Result<(), Halt> {
        if sections.is_empty() && !self.with_core(|core| core.has_merges()) {
            self.begin_telling();
            return Ok(());
        }
        self.writes += 1;
        let version = device_state::version(self.lease.epoch, self.writes);
        let every_us = self.deps.config.latest_interval_ms * 1000;
        let through = self.boundary.last;
        let out = self.with_core(|core| match which {
            Which::Due => core.take_merges(version, now_us(), every_us, false, through),
            Which::All => core.take_merges(version, now_us(), every_us, true, through),
        });
        let mut merges: Vec<Merge> =
            sections.iter().filter_map(|(device, section)| section_row(*device, version, section)).collect();
        merges.extend(out.merges);
        for chunk in chunks(merges) {
            let state = self.deps.state.clone();
            self.persist_state("merging device state", || state.merge(chunk.clone())).await?;
        }
        let changes = out.directory.iter().map(|change| Bytes::from(change.encode_to_vec()));
        self.deps.directory.tell(changes.collect()).await;
        self.begin_telling();
        Ok(())
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
        self.next_generation().await
    }

    /// From now on tokens have another name, the recorded batch's included.
    pub(super) async fn next_generation(&mut self) -> Result<(), Halt> {
        let boundary = LaneBoundary { generation: self.boundary.generation + 1, ..self.boundary.clone() };
        self.record_boundary(boundary).await
    }
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
