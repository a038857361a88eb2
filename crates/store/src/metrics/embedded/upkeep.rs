//! Flushing memory, merging segments, sealing past days, dropping what has expired.
//!
//! Every step builds files beside the old ones and then replaces the manifest, so it can be killed at
//! any line: what the manifest does not name is deleted at the next start.

use super::super::{MetricsError, Resolution};
use super::manifest::{self, DayEntry, Manifest, Rollups, SegmentEntry};
use super::memtable::{DAY_MS, DayMem};
use super::merge::{ROLLUPS, merge};
use super::run::Table;
use super::segment::{Segment, SegmentWriter};
use super::{Shared, wal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Segments of one level of a day that are merged into the next level.
const FANOUT: usize = 8;

/// When upkeep first saw something that is not done at once. Milliseconds, as given to `maintain`.
#[derive(Debug, Default)]
pub(super) struct Clock {
    rows_since: Option<u64>,
    unsealed_since: BTreeMap<u32, u64>,
}

impl Shared {
    pub(super) fn flush_frozen_or_warn(&self) {
        if let Err(error) = self.flush_frozen() {
            metrics::counter!("breeze_metrics_flush_failures_total").increment(1);
            tracing::warn!(%error, "metrics were not flushed; upkeep tries again");
        }
    }

    /// Writes frozen memory to segments, one a day, and deletes its logs.
    pub(super) fn flush_frozen(&self) -> Result<(), MetricsError> {
        let mut manifest = self.manifest.lock();
        let Some(frozen) = self.inner.read().frozen.clone() else { return Ok(()) };
        let mut next = manifest.clone();
        let mut built = Vec::new();
        for (&day, mem) in frozen.mem.days.range(next.floors[0]..) {
            let id = take_id(&mut manifest, &mut next);
            match self.write_day(id, day, mem) {
                Ok(segment) => built.push(segment),
                Err(error) => {
                    built.iter().for_each(Segment::mark_obsolete);
                    return Err(error);
                }
            }
            next.days.entry(day).or_default().segments.push(SegmentEntry { id, level: 0 });
        }
        next.tokens = frozen.tokens.clone();
        next.tokens.forget_before(next.floors[0]);
        next.wal_first = frozen.wal_first;
        manifest::store(&self.config.dir, &next)?;
        *manifest = next;
        self.adopt(&manifest, built, |inner| inner.frozen = None);
        self.delete_logs(frozen.wal_first);
        metrics::counter!("breeze_metrics_flushes_total").increment(1);
        Ok(())
    }

    fn write_day(&self, id: u64, day: u32, mem: &DayMem) -> Result<Segment, MetricsError> {
        let mut writer = SegmentWriter::create(&self.segments_dir, id, day, Resolution::Raw)?;
        let devices = mem.devices();
        for table in Table::BOTH {
            for &device in &devices {
                for run in mem.runs(table, device, "") {
                    writer.push(table, run)?;
                }
            }
        }
        writer.finish()
    }

    fn delete_logs(&self, before: u64) {
        let Ok(numbers) = wal::list(&self.wal_dir) else { return };
        let mut left = 0;
        for number in numbers {
            let path = wal::path_of(&self.wal_dir, number);
            if number >= before {
                left += std::fs::metadata(&path).map_or(0, |meta| meta.len());
            } else if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete an old log of metrics; the next start will");
            }
        }
        self.wal_bytes.store(left, Ordering::Relaxed);
    }

    /// Whether rows in memory are old, or of a day that is to be sealed.
    pub(super) fn wants_flush(&self, now_ms: u64) -> bool {
        let mut clock = self.upkeep.lock();
        let inner = self.inner.read();
        if inner.frozen.is_some() {
            return true;
        }
        if inner.active.is_empty() {
            clock.rows_since = None;
            return false;
        }
        let since = *clock.rows_since.get_or_insert(now_ms);
        let today = day_of(now_ms);
        let is_due = |day: &u32| *day < today && self.is_seal_due(&mut clock.unsealed_since, *day, now_ms);
        let is_past_day_due = inner.active.days.keys().any(is_due);
        if now_ms.saturating_sub(since) >= self.config.flush_after_ms || is_past_day_due {
            clock.rows_since = None;
            return true;
        }
        false
    }

    fn is_seal_due(&self, unsealed_since: &mut BTreeMap<u32, u64>, day: u32, now_ms: u64) -> bool {
        let since = *unsealed_since.entry(day).or_insert(now_ms);
        let day_end = (u64::from(day) + 1) * DAY_MS;
        now_ms.saturating_sub(since) >= self.config.seal_after_ms
            || now_ms.saturating_sub(day_end) >= self.config.seal_after_ms
                && since == now_ms
                && self.was_never_sealed(day)
    }

    /// A day that has just ended, or that was left when the engine stopped, need not wait again.
    fn was_never_sealed(&self, day: u32) -> bool {
        !self.inner.read_recursive().days.get(&day).is_some_and(|files| files.rollups.iter().any(Option::is_some))
    }

    pub(super) fn maintain(&self, now_ms: u64) -> Result<(), MetricsError> {
        let mut clock = self.upkeep.lock();
        self.flush_frozen()?;
        let today = day_of(now_ms);
        let retention = &self.config;
        let floors = [
            retention.retention_raw_days,
            retention.retention_5m_days,
            retention.retention_1h_days,
            retention.retention_1d_days,
        ]
        .map(|days| today.saturating_sub(days));
        let days: Vec<(u32, DayEntry)> = self.manifest.lock().days.clone().into_iter().collect();
        for (day, entry) in days {
            if entry.is_sealed() {
                if !self.inner.read().active.days.contains_key(&day) {
                    clock.unsealed_since.remove(&day);
                }
            } else if day < floors[0] || day < today && self.is_seal_due(&mut clock.unsealed_since, day, now_ms) {
                self.merge_segments(day, &entry.segments, true)?;
                clock.unsealed_since.remove(&day);
            } else if let Some(sources) = ripe_level(&entry.segments) {
                self.merge_segments(day, sources, false)?;
            }
        }
        self.expire(floors)
    }

    /// Merges segments that follow each other into one, with roll-ups where the day is to be sealed.
    fn merge_segments(&self, day: u32, sources: &[SegmentEntry], is_seal: bool) -> Result<(), MetricsError> {
        let held: Vec<Arc<Segment>> = {
            let inner = self.inner.read();
            let files = inner.days.get(&day).map(|files| &files.segments[..]).unwrap_or_default();
            files.iter().filter(|file| sources.iter().any(|source| source.id == file.id)).cloned().collect()
        };
        if held.len() != sources.len() {
            return Ok(());
        }
        let needed = held.iter().map(|file| file.bytes).sum::<u64>().saturating_mul(2);
        if self.free_bytes()? < needed.saturating_add(self.config.reserve_bytes / 2) {
            metrics::counter!("breeze_metrics_merges_skipped_total").increment(1);
            tracing::warn!(needed_bytes = needed, "too little disk is free to merge metrics");
            return Ok(());
        }
        let count = if is_seal { 1 + ROLLUPS.len() } else { 1 };
        let ids: Vec<u64> = {
            let mut manifest = self.manifest.lock();
            let first = manifest.next_id;
            manifest.next_id += count as u64;
            (first..manifest.next_id).collect()
        };
        let merged = merge(&self.segments_dir, day, &held, &ids)?;
        let level = sources.iter().map(|source| source.level).max().unwrap_or(0) + 1;
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        let entry = next.days.entry(day).or_default();
        let is_source = |segment: &SegmentEntry| sources.iter().any(|source| source.id == segment.id);
        let at = entry.segments.iter().position(is_source).unwrap_or(0);
        entry.segments.retain(|segment| !is_source(segment));
        entry.segments.insert(at, SegmentEntry { id: ids[0], level });
        if is_seal {
            entry.rollups = Some(Rollups { of: ids[0], ids: [Some(ids[1]), Some(ids[2]), Some(ids[3])] });
        }
        manifest::store(&self.config.dir, &next)?;
        *manifest = next;
        let mut built = merged.rollups;
        built.push(merged.raw);
        self.adopt(&manifest, built, |_| {});
        metrics::counter!("breeze_metrics_merges_total").increment(1);
        Ok(())
    }

    /// Drops what lies before the floors. A floor never falls, whatever the clock does.
    fn expire(&self, floors: [u32; 4]) -> Result<(), MetricsError> {
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        for (floor, new) in next.floors.iter_mut().zip(floors) {
            *floor = new.max(*floor);
        }
        let floors = next.floors;
        for (&day, entry) in &mut next.days {
            // Unsealed only if its merge was skipped: its rows would be lost with their roll-ups.
            if day < floors[0] && entry.is_sealed() {
                entry.segments.clear();
            }
            if let Some(rollups) = &mut entry.rollups {
                for (id, &floor) in rollups.ids.iter_mut().zip(&floors[1..]) {
                    *id = id.filter(|_| day >= floor);
                }
            }
        }
        next.days.retain(|_, entry| entry.ids().next().is_some());
        next.tokens.forget_before(floors[0]);
        if next == *manifest {
            return Ok(());
        }
        manifest::store(&self.config.dir, &next)?;
        *manifest = next;
        self.adopt(&manifest, Vec::new(), |_| {});
        Ok(())
    }
}

pub(super) fn day_of(at_ms: u64) -> u32 {
    u32::try_from(at_ms / DAY_MS).unwrap_or(u32::MAX)
}

/// An id that is not used again even if the step fails: the manifest on disk may already name it.
fn take_id(manifest: &mut Manifest, next: &mut Manifest) -> u64 {
    let id = next.next_id;
    next.next_id += 1;
    manifest.next_id = next.next_id;
    id
}

/// The segments of the lowest level that has enough of them. They follow each other.
fn ripe_level(segments: &[SegmentEntry]) -> Option<&[SegmentEntry]> {
    segments.chunk_by(|a, b| a.level == b.level).rev().find(|level| level.len() >= FANOUT)
}
