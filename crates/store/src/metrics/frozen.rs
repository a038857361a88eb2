//! The frozen batch: rows of one day, encoded once and appended byte for byte.
//!
//! Layout, version 1, numbers as varints unless said otherwise: `"BZMB"`, version byte, base time;
//! count of heartbeats, then for each the device (16 bytes), signed distance to the base time and
//! twelve scalars; count of names, then length and text of each; count of named rows, then for each a
//! flag byte (1: device as before, 2: time as before), what the flags leave out, the name's index and
//! the value (8 bytes, little endian); crc32c of all before (4 bytes, little endian). The same rows
//! give the same bytes.

use super::varint::{Reader, corrupt, put, put_signed};
use super::{HeartbeatRow, MAX_BATCH_ROWS, MAX_SCALAR, MetricsError, NamedRow, SCALARS};
use breeze_proto::id::DeviceId;
use breeze_proto::limits::MAX_METRIC_NAME_BYTES;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"BZMB";
const VERSION: u8 = 1;
const SAME_DEVICE: u8 = 1;
const SAME_TIME: u8 = 2;
/// Device, time and twelve scalars of a byte each.
const LEAST_HEARTBEAT_BYTES: usize = 16 + 1 + SCALARS;
/// Flags, name and value.
const LEAST_NAMED_BYTES: usize = 1 + 1 + 8;
const TYPICAL_HEARTBEAT_BYTES: usize = 48;

/// Rows of one day, encoded once: what is appended, and appended again, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenBatch {
    bytes: Bytes,
}

/// What a frozen batch holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DecodedBatch {
    pub heartbeats: Vec<HeartbeatRow>,
    /// Distinct names; `named` refers to them by index.
    pub names: Vec<Arc<str>>,
    pub named: Vec<DecodedNamed>,
}

/// A named row, its name as an index into [`DecodedBatch::names`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodedNamed {
    pub device: DeviceId,
    pub at_ms: u64,
    pub name: u32,
    pub value: f64,
}

impl FrozenBatch {
    /// Encodes rows in the given order. Named rows that no engine could keep (an empty or overlong
    /// name, a value that is not finite) are left out and counted. Scalars above [`MAX_SCALAR`] are cut to it.
    #[must_use]
    pub fn encode(heartbeats: &[HeartbeatRow], named: &[NamedRow]) -> Self {
        let mut out = Vec::with_capacity(64 + heartbeats.len() * TYPICAL_HEARTBEAT_BYTES + named.len() * 16);
        let base = heartbeats.first().map(|row| row.at_ms).or(named.first().map(|row| row.at_ms)).unwrap_or(0);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        put(&mut out, base);
        put(&mut out, heartbeats.len() as u64);
        for row in heartbeats {
            out.extend_from_slice(&row.device.to_bytes());
            put_signed(&mut out, row.at_ms.wrapping_sub(base) as i64);
            for (&scalar, &most) in row.scalars.iter().zip(&MAX_SCALAR) {
                put(&mut out, scalar.min(most));
            }
        }
        encode_named(&mut out, base, named);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Self { bytes: Bytes::from(out) }
    }

    /// From bytes that [`FrozenBatch::as_bytes`] gave; checked when decoded.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The rows.
    ///
    /// # Errors
    /// [`MetricsError::Corrupt`] for anything that [`FrozenBatch::encode`] does not produce.
    pub fn decode(&self) -> Result<DecodedBatch, MetricsError> {
        let (body, crc) = self.bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("batch is cut short"))?;
        let mut reader = Reader::new(body);
        if reader.array()? != MAGIC {
            return Err(corrupt("not a batch of metrics"));
        }
        let version = reader.byte()?;
        if version != VERSION {
            return Err(MetricsError::Corrupt(format!("batch of unknown version {version}")));
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(corrupt("batch has a wrong checksum"));
        }
        let base = reader.varint()?;
        let heartbeats = decode_heartbeats(&mut reader, base)?;
        let names = decode_names(&mut reader)?;
        let named = decode_named(&mut reader, base, names.len())?;
        if reader.remaining() != 0 {
            return Err(corrupt("batch has bytes left over"));
        }
        if heartbeats.len() + named.len() > MAX_BATCH_ROWS {
            return Err(corrupt("batch has too many rows"));
        }
        Ok(DecodedBatch { heartbeats, names, named })
    }
}

fn is_storable(row: &NamedRow) -> bool {
    !row.name.is_empty() && row.name.len() <= MAX_METRIC_NAME_BYTES && row.value.is_finite()
}

fn encode_named(out: &mut Vec<u8>, base: u64, named: &[NamedRow]) {
    let mut names: Vec<&str> = Vec::new();
    let mut indices: HashMap<&str, u64> = HashMap::new();
    let mut rows = Vec::new();
    let mut count = 0_u64;
    let mut previous: Option<(DeviceId, u64)> = None;
    for row in named.iter().filter(|row| is_storable(row)) {
        let index = *indices.entry(&row.name).or_insert_with(|| {
            names.push(&row.name);
            names.len() as u64 - 1
        });
        let same_device = previous.is_some_and(|(device, _)| device == row.device);
        let same_time = previous.is_some_and(|(_, at)| at == row.at_ms);
        rows.push(if same_device { SAME_DEVICE } else { 0 } | if same_time { SAME_TIME } else { 0 });
        if !same_device {
            rows.extend_from_slice(&row.device.to_bytes());
        }
        if !same_time {
            put_signed(&mut rows, row.at_ms.wrapping_sub(base) as i64);
        }
        put(&mut rows, index);
        rows.extend_from_slice(&row.value.to_bits().to_le_bytes());
        previous = Some((row.device, row.at_ms));
        count += 1;
    }
    if count < named.len() as u64 {
        metrics::counter!("breeze_metrics_invalid_rows_total").increment(named.len() as u64 - count);
    }
    put(out, names.len() as u64);
    for name in names {
        put(out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
    }
    put(out, count);
    out.extend_from_slice(&rows);
}

fn decode_heartbeats(reader: &mut Reader<'_>, base: u64) -> Result<Vec<HeartbeatRow>, MetricsError> {
    let count = reader.count(LEAST_HEARTBEAT_BYTES)?;
    if count > MAX_BATCH_ROWS {
        return Err(corrupt("batch has too many rows"));
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let device = decode_device(reader)?;
        let at_ms = base.wrapping_add_signed(reader.signed()?);
        let mut scalars = [0; SCALARS];
        for scalar in &mut scalars {
            *scalar = reader.varint()?;
        }
        rows.push(HeartbeatRow { device, at_ms, scalars });
    }
    Ok(rows)
}

fn decode_names(reader: &mut Reader<'_>) -> Result<Vec<Arc<str>>, MetricsError> {
    let count = reader.count(2)?;
    if count > MAX_BATCH_ROWS {
        return Err(corrupt("batch has too many names"));
    }
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        let len = reader.count(1)?;
        if len == 0 || len > MAX_METRIC_NAME_BYTES {
            return Err(corrupt("a metric's name is empty or too long"));
        }
        let text = std::str::from_utf8(reader.take(len)?).map_err(|_| corrupt("a metric's name is not text"))?;
        names.push(Arc::from(text));
    }
    Ok(names)
}

fn decode_named(reader: &mut Reader<'_>, base: u64, names: usize) -> Result<Vec<DecodedNamed>, MetricsError> {
    let count = reader.count(LEAST_NAMED_BYTES)?;
    if count > MAX_BATCH_ROWS {
        return Err(corrupt("batch has too many rows"));
    }
    let mut rows: Vec<DecodedNamed> = Vec::with_capacity(count);
    for _ in 0..count {
        let flags = reader.byte()?;
        let previous = rows.last();
        let device = match (flags & SAME_DEVICE != 0, previous) {
            (true, Some(row)) => row.device,
            (true, None) => return Err(corrupt("the first row has no device")),
            (false, _) => decode_device(reader)?,
        };
        let at_ms = match (flags & SAME_TIME != 0, previous) {
            (true, Some(row)) => row.at_ms,
            (true, None) => return Err(corrupt("the first row has no time")),
            (false, _) => base.wrapping_add_signed(reader.signed()?),
        };
        let name = reader.varint()?;
        let value = f64::from_bits(reader.u64()?);
        if flags & !(SAME_DEVICE | SAME_TIME) != 0 || name >= names as u64 || !value.is_finite() {
            return Err(corrupt("a named row is invalid"));
        }
        rows.push(DecodedNamed { device, at_ms, name: name as u32, value });
    }
    Ok(rows)
}

fn decode_device(reader: &mut Reader<'_>) -> Result<DeviceId, MetricsError> {
    DeviceId::from_slice(reader.take(16)?).ok_or_else(|| corrupt("a device's id is cut short"))
}
