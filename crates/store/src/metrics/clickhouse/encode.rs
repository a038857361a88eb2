//! A frozen batch as the bodies of its inserts: RowBinary, in the order of the tables' keys, each row
//! named once. The same batch gives the same bytes.

use super::super::{DecodedBatch, DecodedNamed, HeartbeatRow, InsertToken, MetricsError, SCALARS};
use super::literal::{device_literal, text, time};
use super::schema::{Kind, is_wide};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Bytes of a heartbeat's row.
const HEARTBEAT_BYTES: usize = 16 + 8 + SCALARS * 4 + 3 * 4;

/// One insert: bytes and the rows in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) rows: usize,
    pub(super) bytes: Bytes,
}

/// A batch ready for its inserts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Encoded {
    pub(super) heartbeats: Body,
    pub(super) named: Body,
    /// The rows as they are inserted, in the order of their keys.
    pub(super) heartbeat_rows: Vec<HeartbeatRow>,
    pub(super) named_rows: Vec<DecodedNamed>,
    pub(super) names: Vec<Arc<str>>,
    /// The time of the newest row.
    pub(super) newest_ms: u64,
}

/// Encodes the rows of `batch`, which must be of the token's day.
pub(super) fn encode(token: &InsertToken, batch: &DecodedBatch) -> Result<Encoded, MetricsError> {
    let is_of_day = |at_ms: u64| at_ms / super::super::plan::DAY_MS == u64::from(token.day);
    let mut newest_ms = 0;
    for at_ms in batch.heartbeats.iter().map(|row| row.at_ms).chain(batch.named.iter().map(|row| row.at_ms)) {
        if !is_of_day(at_ms) {
            return Err(MetricsError::Invalid(format!("token {token}: a row is of another day")));
        }
        newest_ms = newest_ms.max(at_ms);
    }
    let heartbeat_rows = distinct(&batch.heartbeats, |row| (row.device, row.at_ms));
    let named_rows = distinct(&batch.named, |row| (row.device, &batch.names[row.name as usize], row.at_ms));

    let mut bytes = BytesMut::with_capacity(heartbeat_rows.len() * HEARTBEAT_BYTES);
    heartbeat_rows.iter().for_each(|row| put_heartbeat(&mut bytes, row));
    let heartbeats = Body { rows: heartbeat_rows.len(), bytes: bytes.freeze() };
    let mut bytes = BytesMut::with_capacity(named_rows.len() * 48);
    for row in &named_rows {
        bytes.put_slice(&row.device.to_bytes());
        put_text(&mut bytes, &batch.names[row.name as usize]);
        bytes.put_i64_le(row.at_ms as i64);
        bytes.put_f64_le(row.value);
    }
    let named = Body { rows: named_rows.len(), bytes: bytes.freeze() };
    Ok(Encoded { heartbeats, named, heartbeat_rows, named_rows, names: batch.names.clone(), newest_ms })
}

impl Encoded {
    /// How many rows there are of a kind.
    pub(super) fn len(&self, kind: Kind) -> usize {
        match kind {
            Kind::Scalars => self.heartbeat_rows.len(),
            Kind::Named => self.named_rows.len(),
        }
    }

    /// The row at a place, whole, as an SQL tuple of [`row_columns`].
    pub(super) fn literal(&self, kind: Kind, place: usize) -> Option<String> {
        match kind {
            Kind::Scalars => self.heartbeat_rows.get(place).map(|row| {
                let scalars: Vec<String> = row.scalars.iter().map(u64::to_string).collect();
                format!("({}, {}, {})", device_literal(row.device), time(row.at_ms), scalars.join(", "))
            }),
            Kind::Named => self.named_rows.get(place).map(|row| {
                let (device, name) = (device_literal(row.device), text(&self.names[row.name as usize]));
                format!("({device}, {name}, {}, {})", time(row.at_ms), row.value.to_bits())
            }),
        }
    }
}

/// What a row is compared by: all of it. A value by its bits, so that none equals another.
pub(super) fn row_columns(kind: Kind) -> String {
    match kind {
        Kind::Scalars => kind.columns(),
        Kind::Named => "device, name, at, reinterpretAsUInt64(value)".to_owned(),
    }
}

/// Rows in the order of their keys; of rows with the same key the last.
fn distinct<'a, T: Clone, K: Ord>(rows: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<T> {
    let mut sorted: Vec<&T> = rows.iter().collect();
    sorted.sort_by_key(|row| key(row));
    let mut kept: Vec<&T> = Vec::with_capacity(sorted.len());
    for row in sorted {
        match kept.last_mut() {
            Some(last) if key(last) == key(row) => *last = row,
            Some(_) | None => kept.push(row),
        }
    }
    kept.into_iter().cloned().collect()
}

fn put_heartbeat(out: &mut BytesMut, row: &HeartbeatRow) {
    out.put_slice(&row.device.to_bytes());
    out.put_i64_le(row.at_ms as i64);
    for (scalar, &value) in row.scalars.iter().enumerate() {
        if is_wide(scalar) {
            out.put_u64_le(value.min(super::super::MAX_SCALAR[scalar]));
        } else {
            out.put_u32_le(u32::try_from(value).unwrap_or(u32::MAX));
        }
    }
}

pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Length as LEB128, then the bytes.
pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let mut len = bytes.len();
    while len >= 0x80 {
        out.put_u8(len as u8 | 0x80);
        len >>= 7;
    }
    out.put_u8(len as u8);
    out.put_slice(bytes);
}
