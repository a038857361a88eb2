//! The history in a region's ClickHouse: two tables whose key is the entry's name, so an insert that is
//! repeated replaces what is the same. Reads take one entry a key (`FINAL`).

use super::{
    Cursor, Event, EventId, EventKind, EventPage, EventQuery, History, HistoryError, InventoryVersion, MAX_MS,
    VersionInfo, VersionPage, check_versions, checked, floor_ms, page_limit, section_name,
};
use crate::metrics::MetricsError;
use crate::metrics::clickhouse::client::Connection;
use crate::metrics::clickhouse::encode::{put_bytes, put_text};
use crate::metrics::clickhouse::literal::{device_literal, fixed_literal, text, time};
use crate::metrics::clickhouse::{ClickHouseConfig, check_schema};
use ::clickhouse::Row;
use async_trait::async_trait;
use breeze_proto::id::DeviceId;
use breeze_proto::v1::InventorySection;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Bytes of one insert; versions beyond go into another.
const MAX_INSERT_BYTES: usize = 16 << 20;

/// The engine. Holds connections and no task.
#[derive(Debug)]
pub struct ClickHouseHistory {
    connection: Connection,
    schema: OnceCell<()>,
}

#[derive(Debug, Row, Deserialize)]
struct EventRow {
    at_ms: i64,
    id: [u8; 16],
    kind_name: String,
    summary: String,
    details: String,
}

#[derive(Debug, Row, Deserialize)]
struct VersionRow {
    at_ms: i64,
    hash: [u8; 32],
    bytes: u64,
}

impl ClickHouseHistory {
    /// Connects nowhere yet; the schema is checked by the first call.
    ///
    /// # Errors
    /// [`HistoryError::Invalid`] if the configuration cannot be used.
    pub fn new(config: ClickHouseConfig) -> Result<Arc<Self>, HistoryError> {
        Ok(Arc::new(Self { connection: Connection::new(config)?, schema: OnceCell::new() }))
    }

    async fn ready(&self) -> Result<(), HistoryError> {
        self.schema.get_or_try_init(|| check_schema(&self.connection)).await?;
        Ok(())
    }

    fn floor_ms(&self) -> u64 {
        floor_ms(self.connection.config.retention_history_days)
    }

    /// Inserts rows by the month of their time, each month in pieces of bounded size.
    async fn insert(
        &self,
        table: &'static str,
        columns: &str,
        rows: impl Iterator<Item = (u64, Bytes)>,
    ) -> Result<(), HistoryError> {
        let mut months: BTreeMap<(i16, i8), Vec<BytesMut>> = BTreeMap::new();
        for (at_ms, row) in rows {
            let pieces = months.entry(month(at_ms)).or_default();
            match pieces.last_mut() {
                Some(piece) if piece.len() + row.len() <= MAX_INSERT_BYTES => piece.put_slice(&row),
                Some(_) | None => pieces.push(BytesMut::from(&row[..])),
            }
        }
        for piece in months.into_values().flatten() {
            let bytes = piece.freeze();
            let digest = Sha256::digest(&bytes);
            let token: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            self.connection.insert(table, columns, &token, bytes).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl History for ClickHouseHistory {
    async fn record(&self, events: &[Event]) -> Result<(), HistoryError> {
        let events = checked(events)?;
        self.ready().await?;
        let rows = events.iter().map(|event| {
            let mut row = BytesMut::with_capacity(64 + event.summary.len() + event.details.len());
            row.put_slice(&event.device.to_bytes());
            row.put_i64_le(event.at_ms as i64);
            row.put_slice(&event.id.0);
            put_text(&mut row, event.kind.as_str());
            put_text(&mut row, &event.summary);
            put_text(&mut row, &event.details);
            (event.at_ms, row.freeze())
        });
        self.insert("device_events", "device, at, id, kind, summary, details", rows).await?;
        metrics::counter!("breeze_history_events_total").increment(events.len() as u64);
        Ok(())
    }

    async fn events(&self, query: &EventQuery) -> Result<EventPage, HistoryError> {
        self.ready().await?;
        let limit = page_limit(query.limit);
        let (from, to) = (time(query.from_ms.max(self.floor_ms()).min(MAX_MS)), time(query.to_ms.min(MAX_MS + 1)));
        let mut range = format!("device = {} AND at >= {from} AND at < {to}", device_literal(query.device));
        if let Some(Cursor { at_ms, id }) = query.after {
            let (at, id) = (time(at_ms.min(MAX_MS)), fixed_literal(&id.0));
            range.push_str(&format!(" AND (at < {at} OR (at = {at} AND id < {id}))"));
        }
        if !query.kinds.is_empty() {
            let kinds: Vec<String> = query.kinds.iter().map(|kind| text(kind.as_str())).collect();
            range.push_str(&format!(" AND kind IN ({})", kinds.join(", ")));
        }
        let sql = format!(
            "SELECT toUnixTimestamp64Milli(at) AS at_ms, id, CAST(kind, 'String') AS kind_name, summary, details \
             FROM device_events FINAL WHERE {range} ORDER BY at DESC, id DESC LIMIT {}",
            limit + 1
        );
        let statement = bounded(self.connection.client().query_raw(&sql));
        let mut rows: Vec<EventRow> = self.connection.fetch_all(statement).await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let event = |row: EventRow| Event {
            device: query.device,
            id: EventId(row.id),
            at_ms: u64::try_from(row.at_ms).unwrap_or(0),
            kind: EventKind::from_name(&row.kind_name),
            summary: row.summary,
            details: row.details,
        };
        let events: Vec<Event> = rows.into_iter().map(event).collect();
        let next = events.last().filter(|_| has_more).map(|event| Cursor { at_ms: event.at_ms, id: event.id });
        Ok(EventPage { events, next, missing_regions: Vec::new() })
    }

    async fn record_versions(&self, versions: &[InventoryVersion]) -> Result<(), HistoryError> {
        check_versions(versions)?;
        self.ready().await?;
        let mut rows = Vec::with_capacity(versions.len());
        for version in versions {
            let mut row = BytesMut::with_capacity(80 + version.content.len());
            row.put_slice(&version.device.to_bytes());
            put_text(&mut row, section_name(version.section)?);
            row.put_i64_le(version.at_ms as i64);
            row.put_slice(&version.hash);
            put_bytes(&mut row, &version.content);
            rows.push((version.at_ms, row.freeze()));
        }
        self.insert("inventory_versions", "device, section, at, hash, content", rows.into_iter()).await
    }

    async fn versions(
        &self,
        device: DeviceId,
        section: InventorySection,
        before_ms: u64,
        limit: usize,
    ) -> Result<VersionPage, HistoryError> {
        let section = section_name(section)?;
        self.ready().await?;
        let sql = format!(
            "SELECT toUnixTimestamp64Milli(at) AS at_ms, hash, toUInt64(length(content)) AS bytes \
             FROM inventory_versions FINAL WHERE device = {} AND section = '{section}' AND at >= {} AND at < {} \
             ORDER BY at DESC, hash DESC LIMIT {}",
            device_literal(device),
            time(self.floor_ms()),
            time(before_ms.min(MAX_MS + 1)),
            page_limit(limit)
        );
        let statement = bounded(self.connection.client().query_raw(&sql));
        let rows: Vec<VersionRow> = self.connection.fetch_all(statement).await?;
        let info = |row: VersionRow| VersionInfo {
            at_ms: u64::try_from(row.at_ms).unwrap_or(0),
            hash: row.hash,
            bytes: row.bytes,
        };
        Ok(VersionPage { versions: rows.into_iter().map(info).collect(), missing_regions: Vec::new() })
    }

    async fn version(
        &self,
        device: DeviceId,
        section: InventorySection,
        at_ms: u64,
        hash: [u8; 32],
    ) -> Result<Option<InventoryVersion>, HistoryError> {
        let name = section_name(section)?;
        self.ready().await?;
        let sql = format!(
            "SELECT hex(content) FROM inventory_versions FINAL WHERE device = {} AND section = '{name}' AND at = {} \
             AND hash = {} LIMIT 1",
            device_literal(device),
            time(at_ms.min(MAX_MS)),
            fixed_literal(&hash)
        );
        let statement = bounded(self.connection.client().query_raw(&sql));
        let rows: Vec<String> = self.connection.fetch_all(statement).await?;
        let Some(hex) = rows.first() else { return Ok(None) };
        Ok(Some(InventoryVersion { device, section, at_ms, hash, content: unhex(hex)? }))
    }
}

fn bounded(query: ::clickhouse::query::Query) -> ::clickhouse::query::Query {
    query
        .with_setting("max_execution_time", "15")
        .with_setting("max_memory_usage", (1_u64 << 30).to_string())
        .with_setting("max_threads", "2")
        .with_setting("select_sequential_consistency", "1")
}

/// Year and month in UTC, as the server's partitions are.
fn month(at_ms: u64) -> (i16, i8) {
    // Days to a civil date: http://howardhinnant.github.io/date_algorithms.html#civil_from_days
    let z = (at_ms / 86_400_000) as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year as i16, month as i8)
}

/// The driver's strings are text, and contents need not be.
fn unhex(hex: &str) -> Result<Bytes, HistoryError> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(pair).collect();
    bytes.map(Bytes::from).ok_or_else(|| HistoryError::Corrupt("a version's content is not hex".to_owned()))
}

impl From<MetricsError> for HistoryError {
    fn from(error: MetricsError) -> Self {
        match error {
            MetricsError::Invalid(what) => Self::Invalid(what),
            MetricsError::Corrupt(what) => Self::Corrupt(what),
            MetricsError::Overlap(_) | MetricsError::Full { .. } | MetricsError::Unavailable(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (days, expected) in
            [(0, (1970, 1)), (58, (1970, 2)), (59, (1970, 3)), (11_016, (2000, 2)), (20_100, (2025, 1))]
        {
            assert_eq!(month(days * 86_400_000), expected, "day {days}");
        }
    }
}
