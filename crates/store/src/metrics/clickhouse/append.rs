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
//!   For that the second must reach it while the token is remembered, so what was asked counts for
//!   [`fresh`] only, from when it was *asked*, by a clock that goes on while a machine sleeps; after that it
//!   is asked again. A kind that is in is not looked at again, so a slow server is only slow.
//! - Rows that are [`young`] are inserted whether they are there or not: their token is certainly remembered,
//!   so the server drops them and completes what roll-ups a crash left out.
//! - Of older rows the token may be forgotten, and roll-ups would count them twice. So it is seen whether
//!   the batch is there: a few of its rows first, all of it, part by part, where these are. The first part
//!   that is absent shows that the batch is, and is itself the look before the insert. If none is absent
//!   the batch is left alone; if a crash left something out of *its* roll-ups, upkeep finds and mends it.
//!
//! Positions that are partly appended are the [`MetricsError::Overlap`] of the trait.

use super::super::plan::DAY_MS;
use super::super::{Appended, FrozenBatch, InsertToken, MetricsError};
use super::ClickHouseMetrics;
use super::encode::{Encoded, encode, row_columns};
use super::literal::time;
use super::schema::Kind;
use ::clickhouse::Row;
use bytes::{BufMut, BytesMut};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use std::time::Duration;

/// Looks at one place whose answers came too late before this is given up: the process is being stopped.
const MAX_LOOKS: usize = 3;
/// Rows that one query looks for when all are.
const ROWS_A_LOOK: usize = 500;
/// Ranges of positions read to judge a token.
const MAX_RANGES: u64 = 1_000;
/// Bytes of a stream's name.
const MAX_STREAM_BYTES: usize = 256;
/// The last day that the server's `Date` holds.
const MAX_DAY: u32 = u16::MAX as u32;

/// How long what the server said counts for, of the time that it remembers a token for.
///
/// An insert that a look did not see landed after the look was asked. So if ours arrives within the window
/// after that, the token is remembered. [`fresh`] and [`young`] leave some of the window for ours to
/// arrive: the insert's timeout, and the server's for a request of which only a part comes.
fn fresh(window: Duration) -> Duration {
    window / 10
}

/// How young rows must be to be inserted unseen: an insert is not older than its rows.
fn young(window: Duration) -> Duration {
    window / 4 * 3
}

/// Places in a batch: of heartbeats and of named rows.
type Places = [Vec<usize>; 2];

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

/// What was found, and when it was asked ([`boot_time`]).
struct Look {
    found: Found,
    asked: Duration,
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
        let samples = Kind::BOTH.map(|kind| sample(encoded.len(kind)));
        // As a rule this look is all that both kinds need.
        let first = self.look(token, &encoded, &samples).await?;
        if let Some(appended) = appended(token, &first.found.ranges)? {
            return Ok(appended);
        }
        let mut is_new = false;
        for (kind, places) in Kind::BOTH.into_iter().zip(&samples) {
            match self.append_kind(kind, token, &encoded, places, &first).await? {
                Step::Inserted => is_new = true,
                Step::Stored => {}
                // By somebody else, meanwhile.
                Step::Appended => return Ok(if is_new { Appended::New } else { Appended::Duplicate }),
            }
        }
        self.insert_appended(token).await?;
        Ok(if is_new { Appended::New } else { Appended::Duplicate })
    }

    /// Inserts the rows of a kind unless they are stored; begins with the look `first` at `samples`.
    async fn append_kind(
        &self,
        kind: Kind,
        token: &InsertToken,
        encoded: &Encoded,
        samples: &[usize],
        first: &Look,
    ) -> Result<Step, MetricsError> {
        let len = encoded.len(kind);
        if len == 0 {
            return Ok(Step::Stored);
        }
        // The parts of the batch: what is stored stays so, hence none is asked for two times.
        let parts = (0..len).step_by(ROWS_A_LOOK).map(|start| (start..len.min(start + ROWS_A_LOOK)).collect());
        let mut at_hand = Some(first);
        for places in std::iter::once(samples.to_vec()).chain(parts) {
            let mut looks = 0;
            loop {
                let own;
                let look = match at_hand.take() {
                    Some(look) => look,
                    None => {
                        own = self.look_at(kind, token, encoded, &places).await?;
                        &own
                    }
                };
                if appended(token, &look.found.ranges)?.is_some() {
                    return Ok(Step::Appended);
                }
                if !self.is_due(kind, encoded, &look.found, places.len()) {
                    break;
                }
                if boot_time().saturating_sub(look.asked) <= fresh(self.window()) {
                    self.insert_rows(kind, token, encoded).await?;
                    return Ok(Step::Inserted);
                }
                metrics::counter!("breeze_metrics_append_looks_total").increment(1);
                looks += 1;
                if looks > MAX_LOOKS {
                    let what = "this process is stopped again and again; nothing was sent";
                    return Err(MetricsError::Unavailable(what.to_owned()));
                }
            }
        }
        Ok(Step::Stored)
    }

    /// Whether rows are to be inserted, of which `wanted` were looked for.
    fn is_due(&self, kind: Kind, encoded: &Encoded, found: &Found, wanted: usize) -> bool {
        let stored = match kind {
            Kind::Scalars => found.heartbeats,
            Kind::Named => found.named,
        };
        let age = u64::try_from(found.now_ms).unwrap_or(0).saturating_sub(encoded.newest_ms);
        Duration::from_millis(age) < young(self.window()) || stored < wanted as u64
    }

    /// How long at least the server remembers a token.
    fn window(&self) -> Duration {
        Duration::from_secs(self.connection.config.token_window_seconds)
    }

    async fn insert_rows(&self, kind: Kind, token: &InsertToken, encoded: &Encoded) -> Result<(), MetricsError> {
        let body = match kind {
            Kind::Scalars => &encoded.heartbeats,
            Kind::Named => &encoded.named,
        };
        let table = kind.raw();
        let bytes = body.bytes.clone();
        self.connection.insert(table, &kind.columns(), &format!("{token}:{table}"), bytes).await?;
        metrics::counter!("breeze_metrics_rows_total", "table" => table).increment(body.rows as u64);
        Ok(())
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

    /// As [`Self::look`], at rows of one kind.
    async fn look_at(
        &self,
        kind: Kind,
        token: &InsertToken,
        encoded: &Encoded,
        places: &[usize],
    ) -> Result<Look, MetricsError> {
        let places = match kind {
            Kind::Scalars => [places.to_vec(), Vec::new()],
            Kind::Named => [Vec::new(), places.to_vec()],
        };
        self.look(token, encoded, &places).await
    }

    /// Asks what is there: of positions, and of the rows at `places`.
    async fn look(&self, token: &InsertToken, encoded: &Encoded, places: &Places) -> Result<Look, MetricsError> {
        let InsertToken { stream, first, last, day } = token;
        let [heartbeats, named] = places;
        let sql = format!(
            "SELECT (SELECT groupArray(range) FROM (SELECT (first, last) AS range FROM appended WHERE day = toDate({day}) \
             AND stream = '{stream}' AND last >= {first} AND first <= {last} ORDER BY first, last LIMIT {MAX_RANGES})) \
             AS ranges, {} AS heartbeats, {} AS named, toUnixTimestamp64Milli(now64(3)) AS now_ms",
            rows_stored(Kind::Scalars, *day, encoded, heartbeats),
            rows_stored(Kind::Named, *day, encoded, named),
        );
        let query = self
            .connection
            .client()
            .query_raw(&sql)
            .with_setting("select_sequential_consistency", "1")
            .with_setting("max_query_size", "1048576");
        // From before it is sent: the answer may have lain here while this process was stopped. A later
        // answer would not count, so it is not waited for.
        let asked = boot_time();
        let found = self.connection.fetch_one_within(fresh(self.window()), query).await?;
        Ok(Look { found, asked })
    }
}

/// What became of a kind's rows.
enum Step {
    Inserted,
    Stored,
    /// The whole token is appended.
    Appended,
}

/// What ranges that are appended say of a token: nothing if there is none.
fn appended(token: &InsertToken, ranges: &[(u64, u64)]) -> Result<Option<Appended>, MetricsError> {
    if ranges.is_empty() {
        Ok(None)
    } else if covers(ranges, token.first, token.last) {
        Ok(Some(Appended::Duplicate))
    } else {
        Err(MetricsError::Overlap(token.to_string()))
    }
}

/// Places of the first, a middle and the last of so many rows.
fn sample(len: usize) -> Vec<usize> {
    let mut places = vec![0, len / 2, len.saturating_sub(1)];
    places.retain(|&place| place < len);
    places.dedup();
    places
}

/// An expression that counts which of some rows are stored, exactly as they are.
fn rows_stored(kind: Kind, day: u32, encoded: &Encoded, places: &[usize]) -> String {
    let rows: Vec<String> = places.iter().filter_map(|&place| encoded.literal(kind, place)).collect();
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
    fn a_few_rows_are_looked_for_first() {
        for (len, places) in
            [(0, vec![]), (1, vec![0]), (2, vec![0, 1]), (3, vec![0, 1, 2]), (1_000, vec![0, 500, 999])]
        {
            assert_eq!(sample(len), places, "{len}");
        }
    }

    /// A slow server is only slow, and an insert that was due arrives within the window.
    #[test]
    fn a_look_outlasts_a_slow_server_and_not_the_window() {
        let config = super::super::ClickHouseConfig::new("http://127.0.0.1:1", "breeze");
        let window = Duration::from_secs(config.token_window_seconds);
        // Until the answer of a query is not waited for any more.
        assert!(fresh(window) > 2 * (config.query_timeout + Duration::from_secs(5)));
        // The longest that the server waits for the rest of a request (`http_receive_timeout`), with room.
        let receive = 2 * Duration::from_secs(30);
        assert!(young(window) + fresh(window) + config.insert_timeout + receive <= window);
    }

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
