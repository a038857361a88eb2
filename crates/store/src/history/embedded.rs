//! The history above the state trait, for the embedded engine and wherever there is no ClickHouse.
//!
//! Events are rows of a merge table whose partitions are a device's 30 days; the key is time and id, so the
//! newest are read backwards. Versions of an inventory section are one partition, contents and hashes in a
//! table each, so that listing reads no contents. All rows have the same version: what is recorded again
//! is the same. [`EmbeddedHistory::prune`] deletes what has expired, a bucket of the table at a time.

use super::{
    Cursor, Event, EventId, EventKind, EventPage, EventQuery, History, HistoryError, InventoryVersion, MAX_MS,
    RETENTION_DAYS, VersionInfo, VersionPage, check_versions, checked, floor_ms, page_limit, section_name,
};
use crate::state::{
    BUCKETS, Family, MAX_MERGE_BYTES, MAX_MERGE_ROWS, MAX_PAGE_ROWS, Merge, MergeTable, Scan, State, StateError,
};
use async_trait::async_trait;
use breeze_proto::id::DeviceId;
use breeze_proto::v1::InventorySection;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Partition: device (16 bytes), then the number of the 30 days (4 bytes, big endian). Key: time (8 bytes,
/// big endian), id (16 bytes).
pub const EVENTS: MergeTable = MergeTable::new("device_events", Family::Log);
/// Partition: device (16 bytes), then the section's name. Key: time (8 bytes, big endian), hash (32 bytes).
pub const INVENTORY_VERSIONS: MergeTable = MergeTable::new("inventory_versions", Family::Log);
/// Sizes of the versions, with the same partitions and keys.
pub const INVENTORY_HASHES: MergeTable = MergeTable::new("inventory_hashes", Family::Log);

const DAY_MS: u64 = 86_400_000;
/// Time in one partition of events.
const BUCKET_MS: u64 = 30 * DAY_MS;
/// Of every row: there is only one write of each.
const VERSION: u64 = 1;
/// Of a deletion, which wins.
const DELETED: u64 = 2;
/// Rows that one round of pruning reads of each table.
const PRUNE_ROWS: usize = 50_000;

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EmbeddedHistory {
    state: Arc<dyn State>,
    retention_days: u32,
    /// The bucket that is pruned next.
    bucket: Arc<AtomicU16>,
}

#[derive(Serialize, Deserialize)]
struct StoredEvent {
    kind: String,
    summary: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    details: String,
}

impl EmbeddedHistory {
    #[must_use]
    pub fn new(state: Arc<dyn State>) -> Self {
        Self { state, retention_days: RETENTION_DAYS, bucket: Arc::default() }
    }

    /// Keeps so many days, at least one.
    #[must_use]
    pub fn keeping(mut self, days: u32) -> Self {
        self.retention_days = days.max(1);
        self
    }

    /// Deletes what has expired in the next of the store's buckets, and says how many rows: each call
    /// takes the next one, so that calls every few minutes go through all in a day.
    ///
    /// # Errors
    /// [`HistoryError::Unavailable`] or [`HistoryError::Corrupt`] of the state; it may be run again.
    pub async fn prune(&self, now_ms: u64) -> Result<usize, HistoryError> {
        let bucket = self.bucket.fetch_add(1, Ordering::Relaxed) % BUCKETS;
        let floor_ms = now_ms.saturating_sub(u64::from(self.retention_days) * DAY_MS);
        let mut pruned = 0;
        for table in [EVENTS, INVENTORY_VERSIONS, INVENTORY_HASHES] {
            let (mut cursor, mut seen) = (None, 0);
            loop {
                let page = self.state.scan_family(table.into(), bucket, cursor, MAX_PAGE_ROWS).await?;
                seen += page.rows.len();
                let is_old = |key: &Bytes| key.first_chunk::<8>().is_some_and(|at| u64::from_be_bytes(*at) < floor_ms);
                let old = page.rows.into_iter().filter(|(_, row)| is_old(&row.key));
                let deletions: Vec<Merge> = old
                    .map(|(partition, row)| Merge { table, partition, key: row.key, version: DELETED, value: None })
                    .collect();
                pruned += deletions.len();
                if !deletions.is_empty() {
                    self.state.merge(deletions).await?;
                }
                cursor = page.next;
                if cursor.is_none() || seen >= PRUNE_ROWS {
                    break;
                }
            }
        }
        metrics::counter!("breeze_history_pruned_total").increment(pruned as u64);
        Ok(pruned)
    }

    async fn merge_all(&self, merges: Vec<Merge>) -> Result<(), HistoryError> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for merge in merges {
            let size = merge.partition.len() + merge.key.len() + merge.value.as_ref().map_or(0, Bytes::len);
            if chunk.len() == MAX_MERGE_ROWS || bytes + size > MAX_MERGE_BYTES {
                self.state.merge(std::mem::take(&mut chunk)).await?;
                bytes = 0;
            }
            bytes += size;
            chunk.push(merge);
        }
        if !chunk.is_empty() {
            self.state.merge(chunk).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl History for EmbeddedHistory {
    async fn record(&self, events: &[Event]) -> Result<(), HistoryError> {
        let events = checked(events)?;
        let mut merges = Vec::with_capacity(events.len());
        for event in &events {
            let stored = StoredEvent {
                kind: event.kind.as_str().to_owned(),
                summary: event.summary.clone(),
                details: event.details.clone(),
            };
            let value = serde_json::to_vec(&stored).map_err(|error| HistoryError::Invalid(error.to_string()))?;
            merges.push(Merge {
                table: EVENTS,
                partition: event_partition(event.device, event.at_ms / BUCKET_MS),
                key: key(event.at_ms, &event.id.0),
                version: VERSION,
                value: Some(value.into()),
            });
        }
        self.merge_all(merges).await?;
        metrics::counter!("breeze_history_events_total").increment(events.len() as u64);
        Ok(())
    }

    async fn events(&self, query: &EventQuery) -> Result<EventPage, HistoryError> {
        let limit = page_limit(query.limit);
        let to_ms = query.to_ms.min(MAX_MS + 1);
        // Exclusive: the cursor's own entry has been given.
        let end = match query.after {
            Some(Cursor { at_ms, id }) if at_ms < to_ms => key(at_ms, &id.0),
            Some(_) | None => key(to_ms, &[]),
        };
        let from_ms = query.from_ms.max(floor_ms(self.retention_days));
        let start = key(from_ms, &[]);
        let mut page = EventPage::default();
        if start >= end {
            return Ok(page);
        }
        let last_ms = query.after.map_or(to_ms - 1, |cursor| cursor.at_ms.min(to_ms - 1));
        // Nothing is of the future, and what is older than the floor has expired.
        let newest = last_ms.min(now_ms() + DAY_MS) / BUCKET_MS;
        let oldest = from_ms / BUCKET_MS;
        for bucket in (oldest..=newest).rev() {
            let partition = event_partition(query.device, bucket);
            let mut to = end.clone();
            loop {
                let scan = Scan { from: start.clone(), to: Some(to), reverse: true, limit: MAX_PAGE_ROWS };
                let found = self.state.scan(EVENTS.into(), &partition, scan).await?;
                for row in found.rows {
                    let event = event(query.device, &row.key, &row.value)?;
                    if !query.kinds.is_empty() && !query.kinds.contains(&event.kind) {
                        continue;
                    }
                    if page.events.len() == limit {
                        page.next = page.events.last().map(|event| Cursor { at_ms: event.at_ms, id: event.id });
                        return Ok(page);
                    }
                    page.events.push(event);
                }
                match found.next {
                    Some(next) => to = next,
                    None => break,
                }
            }
        }
        Ok(page)
    }

    async fn record_versions(&self, versions: &[InventoryVersion]) -> Result<(), HistoryError> {
        check_versions(versions)?;
        let mut merges = Vec::with_capacity(2 * versions.len());
        for version in versions {
            let partition = section_partition(version.device, version.section)?;
            let key = key(version.at_ms, &version.hash);
            let size = Bytes::copy_from_slice(&(version.content.len() as u64).to_be_bytes());
            // The content first: a listed version is there.
            for (table, value) in [(INVENTORY_VERSIONS, version.content.clone()), (INVENTORY_HASHES, size)] {
                let (partition, key) = (partition.clone(), key.clone());
                merges.push(Merge { table, partition, key, version: VERSION, value: Some(value) });
            }
        }
        self.merge_all(merges).await
    }

    async fn versions(
        &self,
        device: DeviceId,
        section: InventorySection,
        before_ms: u64,
        limit: usize,
    ) -> Result<VersionPage, HistoryError> {
        let limit = page_limit(limit);
        let partition = section_partition(device, section)?;
        let from = key(floor_ms(self.retention_days), &[]);
        let mut to = Some(key(before_ms, &[]));
        let mut versions = Vec::new();
        while let Some(end) = to.take().filter(|end| versions.len() < limit && *end > from) {
            let from = from.clone();
            let scan = Scan { from, to: Some(end), reverse: true, limit: limit - versions.len() };
            let found = self.state.scan(INVENTORY_HASHES.into(), &partition, scan).await?;
            for row in found.rows {
                let (at_ms, hash) = split::<32>(&row.key)?;
                let bytes = row.value.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
                versions.push(VersionInfo { at_ms, hash, bytes: bytes.ok_or_else(|| corrupt("a version's size"))? });
            }
            to = found.next;
        }
        Ok(VersionPage { versions, missing_regions: Vec::new() })
    }

    async fn version(
        &self,
        device: DeviceId,
        section: InventorySection,
        at_ms: u64,
        hash: [u8; 32],
    ) -> Result<Option<InventoryVersion>, HistoryError> {
        let partition = section_partition(device, section)?;
        let row = self.state.get(INVENTORY_VERSIONS.into(), &partition, &key(at_ms, &hash)).await?;
        Ok(row.map(|row| InventoryVersion { device, section, at_ms, hash, content: row.value }))
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn event_partition(device: DeviceId, bucket: u64) -> Bytes {
    let mut partition = BytesMut::with_capacity(20);
    partition.put_slice(&device.to_bytes());
    partition.put_u32(u32::try_from(bucket).unwrap_or(u32::MAX));
    partition.freeze()
}

fn section_partition(device: DeviceId, section: InventorySection) -> Result<Bytes, HistoryError> {
    let mut partition = BytesMut::with_capacity(24);
    partition.put_slice(&device.to_bytes());
    partition.put_slice(section_name(section)?.as_bytes());
    Ok(partition.freeze())
}

fn key(at_ms: u64, id: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(8 + id.len());
    key.put_u64(at_ms);
    key.put_slice(id);
    key.freeze()
}

fn split<const N: usize>(key: &[u8]) -> Result<(u64, [u8; N]), HistoryError> {
    let (at, id) = key.split_first_chunk::<8>().ok_or_else(|| corrupt("a key"))?;
    let id: [u8; N] = id.try_into().map_err(|_| corrupt("a key"))?;
    Ok((u64::from_be_bytes(*at), id))
}

fn event(device: DeviceId, key: &[u8], value: &[u8]) -> Result<Event, HistoryError> {
    let (at_ms, id) = split::<16>(key)?;
    let stored: StoredEvent = serde_json::from_slice(value).map_err(|_| corrupt("an event"))?;
    Ok(Event {
        device,
        id: EventId(id),
        at_ms,
        kind: EventKind::from_name(&stored.kind),
        summary: stored.summary,
        details: stored.details,
    })
}

fn corrupt(what: &str) -> HistoryError {
    HistoryError::Corrupt(format!("{what} of the history does not decode"))
}

impl From<StateError> for HistoryError {
    fn from(error: StateError) -> Self {
        // Whatever else it is, it may be tried again.
        if let StateError::Invalid(what) = error {
            Self::Invalid(what)
        } else if let StateError::Corrupt(what) = error {
            Self::Corrupt(what)
        } else {
            Self::Unavailable(error.to_string())
        }
    }
}
