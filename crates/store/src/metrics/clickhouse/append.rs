//! Appending a batch exactly once.
//!
//! An append (1) asks in one query what is there, (2) inserts heartbeats, (3) named values, and (4) the
//! row that says that these positions are appended. Each insert is one partition and one block, so it is
//! made whole or not at all, and carries a token.
//!
//! It may be repeated at any step, by anybody, after any pause:
//!
//! - If the last row is there, all is: nothing is done.
//! - Rows that are absent are inserted. Should an insert of the same batch be under way unseen (its sender
//!   timed out, or was stopped in the middle), then both bear one token, and the server keeps the first.
//!   For that the second must reach it while the token is remembered, so what was asked in (1) counts for
//!   [`FRESH`] only, by a clock that goes on while a machine sleeps; after that it is asked again.
//! - Rows that are young are inserted whether they are there or not: their token is certainly remembered,
//!   so the server drops them and completes what roll-ups a crash left out.
//! - Of older rows the token may be forgotten, and roll-ups would count them twice. So it is seen whether
//!   the batch is there: a few of its rows first, all of it where these are. Then it is left alone; if a
//!   crash left something out of *its* roll-ups, upkeep finds and mends it.
//!
//! Positions that are partly appended are the [`MetricsError::Overlap`] of the trait.

use super::super::plan::DAY_MS;
use super::super::{Appended, FrozenBatch, InsertToken, MetricsError};
use super::ClickHouseMetrics;
use super::encode::{Body, Encoded, encode, row_columns};
use super::literal::time;
use super::schema::Kind;
use ::clickhouse::Row;
use bytes::{BufMut, BytesMut};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use std::time::Duration;

/// How long an answer to "what is there?" counts.
const FRESH: Duration = Duration::from_secs(5);
/// Times that it is asked again because the process was stopped in between.
const MAX_LOOKS: usize = 3;
/// Rows that are looked for at first.
const SAMPLES: usize = 3;
/// Rows that one query looks for when all are.
const ROWS_A_LOOK: usize = 500;
/// Ranges of positions read to judge a token.
const MAX_RANGES: u64 = 1_000;
/// Bytes of a stream's name.
const MAX_STREAM_BYTES: usize = 256;
/// The last day that the server's `Date` holds.
const MAX_DAY: u32 = u16::MAX as u32;

/// What the server has of a batch.
#[derive(Debug, Row, Deserialize)]
struct Found {
    /// Appended positions of the stream and day that meet the token's, in order.
    ranges: Vec<(u64, u64)>,
    /// Of the rows looked for.
    heartbeats: u64,
    named: u64,
    now_ms: i64,
}

impl ClickHouseMetrics {
    pub(super) async fn append_batch(
        &self,
        token: &InsertToken,
        batch: &FrozenBatch,
    ) -> Result<Appended, MetricsError> {
        let is_name = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\'' | b'\\' | b'?');
        let is_sane = token.stream.len() <= MAX_STREAM_BYTES && token.stream.bytes().all(is_name);
        if !is_sane || token.first > token.last || token.day > MAX_DAY {
            return Err(MetricsError::Invalid(format!("token {token}: its name, range or day cannot be")));
        }
        let rows = batch.decode()?;
        let encoded = encode(token, &rows)?;
        if token.day < self.floors()[0] {
            let dropped = rows.heartbeats.len() + rows.named.len();
            metrics::counter!("breeze_metrics_expired_rows_total").increment(dropped as u64);
            return Ok(Appended::New);
        }
        drop(rows);
        for _ in 0..MAX_LOOKS {
            let looked = boot_time();
            let found = self.look(token, &encoded).await?;
            if !found.ranges.is_empty() {
                let is_whole = covers(&found.ranges, token.first, token.last);
                return if is_whole { Ok(Appended::Duplicate) } else { Err(MetricsError::Overlap(token.to_string())) };
            }
            let heartbeats = self.is_due(Kind::Scalars, token, &encoded, &found).await?;
            let named = self.is_due(Kind::Named, token, &encoded, &found).await?;
            if heartbeats && !self.insert_rows(Kind::Scalars, token, &encoded.heartbeats, looked).await?
                || named && !self.insert_rows(Kind::Named, token, &encoded.named, looked).await?
            {
                metrics::counter!("breeze_metrics_append_looks_total").increment(1);
                continue;
            }
            self.insert_appended(token).await?;
            return Ok(if heartbeats || named { Appended::New } else { Appended::Duplicate });
        }
        Err(MetricsError::Unavailable("this process is stopped again and again; nothing was sent".to_owned()))
    }

    /// Inserts unless what was asked at `looked` is too long ago; whether it did.
    async fn insert_rows(
        &self,
        kind: Kind,
        token: &InsertToken,
        body: &Body,
        looked: Duration,
    ) -> Result<bool, MetricsError> {
        if boot_time().saturating_sub(looked) > FRESH {
            return Ok(false);
        }
        let table = kind.raw();
        let bytes = body.bytes.clone();
        self.connection.insert(table, &kind.columns(), &format!("{token}:{table}"), bytes).await?;
        metrics::counter!("breeze_metrics_rows_total", "table" => table).increment(body.rows as u64);
        Ok(true)
    }

    async fn insert_appended(&self, token: &InsertToken) -> Result<(), MetricsError> {
        let mut row = BytesMut::new();
        super::encode::put_text(&mut row, &token.stream);
        row.put_u16_le(u16::try_from(token.day).unwrap_or(u16::MAX));
        row.put_u64_le(token.first);
        row.put_u64_le(token.last);
        let token = format!("{token}:appended");
        self.connection.insert("appended", "stream, day, first, last", &token, row.freeze()).await
    }

    async fn look(&self, token: &InsertToken, encoded: &Encoded) -> Result<Found, MetricsError> {
        let InsertToken { stream, first, last, day } = token;
        let count = |kind: Kind| {
            let len = encoded.len(kind);
            let mut places = vec![0, len / 2, len.saturating_sub(1)];
            places.truncate(SAMPLES);
            places.dedup();
            rows_stored(kind, *day, encoded, places.into_iter())
        };
        let sql = format!(
            "SELECT (SELECT groupArray(range) FROM (SELECT (first, last) AS range FROM appended WHERE day = toDate({day}) \
             AND stream = '{stream}' AND last >= {first} AND first <= {last} ORDER BY first, last LIMIT {MAX_RANGES})) \
             AS ranges, {} AS heartbeats, {} AS named, toUnixTimestamp64Milli(now64(3)) AS now_ms",
            count(Kind::Scalars),
            count(Kind::Named),
        );
        let query = self.connection.client().query_raw(&sql);
        self.connection.fetch_one(query.with_setting("select_sequential_consistency", "1")).await
    }

    /// Whether a kind's rows are to be inserted.
    async fn is_due(
        &self,
        kind: Kind,
        token: &InsertToken,
        encoded: &Encoded,
        found: &Found,
    ) -> Result<bool, MetricsError> {
        let len = encoded.len(kind);
        if len == 0 {
            return Ok(false);
        }
        let remembered_ms = self.connection.config.token_window_seconds.saturating_mul(1_000);
        let now_ms = u64::try_from(found.now_ms).unwrap_or(0);
        let stored = match kind {
            Kind::Scalars => found.heartbeats,
            Kind::Named => found.named,
        };
        if now_ms.saturating_sub(encoded.newest_ms) < remembered_ms || stored < SAMPLES.min(len) as u64 {
            return Ok(true);
        }
        for start in (0..len).step_by(ROWS_A_LOOK) {
            let places = start..len.min(start + ROWS_A_LOOK);
            let wanted = places.len() as u64;
            let sql = format!("SELECT {}", rows_stored(kind, token.day, encoded, places));
            let query = self.connection.client().query_raw(&sql).with_setting("max_query_size", "1048576");
            if self.connection.fetch_one::<u64>(query).await? < wanted {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// An expression that counts which of some rows are stored, exactly as they are.
fn rows_stored(kind: Kind, day: u32, encoded: &Encoded, places: impl Iterator<Item = usize>) -> String {
    let rows: Vec<String> = places.filter_map(|place| encoded.literal(kind, place)).collect();
    if rows.is_empty() {
        return "toUInt64(0)".to_owned();
    }
    let start = u64::from(day) * DAY_MS;
    let (from, to, columns) = (time(start), time(start + DAY_MS), row_columns(kind));
    format!(
        "assumeNotNull((SELECT toUInt64(uniqExact({columns})) FROM {} WHERE at >= {from} AND at < {to} \
         AND ({columns}) IN ({})))",
        kind.raw(),
        rows.join(", ")
    )
}

/// Whether every position from `first` to `last` is in one of `ranges`, which are in order.
fn covers(ranges: &[(u64, u64)], first: u64, last: u64) -> bool {
    let mut next = first;
    for &(start, end) in ranges {
        if start > next {
            return false;
        }
        if end >= last {
            return true;
        }
        next = next.max(end + 1);
    }
    false
}

/// Time since boot, time asleep included.
fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_covered_only_without_a_gap() {
        assert!(covers(&[(1, 5)], 2, 5));
        assert!(covers(&[(1, 3), (4, 9)], 2, 8));
        assert!(covers(&[(1, 9), (2, 3)], 2, 9));
        assert!(!covers(&[(1, 3), (5, 9)], 2, 8));
        assert!(!covers(&[(3, 9)], 2, 8));
        assert!(!covers(&[(1, 5)], 4, 6));
    }
}
