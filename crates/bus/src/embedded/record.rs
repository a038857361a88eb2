//! Bytes of a segment file: a header, then records one behind the other.
//!
//! ```text
//! segment header, 24 bytes: magic (8) · first position (u64) · salt (u32) · CRC-32C of these (u32)
//! record header,  24 bytes: length (u32) · CRC-32C (u32) · position (u64) · durable (u64), then the payload
//! ```
//!
//! Integers are little endian. A record's CRC begins with the segment's salt, so nothing inside a
//! payload can pass for a record. `durable` is the stream's last acknowledged position when the
//! record was written: a damaged record that a later one says was acknowledged is corruption; one
//! that nobody vouches for is the torn tail of a crash.

use crate::{MAX_PAYLOAD_BYTES, Position};

/// Bytes before the first record.
pub(super) const SEGMENT_HEADER_BYTES: usize = 24;
/// Bytes before each payload.
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// One entry of a segment's sparse index for about so many bytes.
pub(super) const INDEX_STEP_BYTES: usize = 4096;

const MAGIC: &[u8; 8] = b"BREEZEB1";

pub(super) fn encode_segment_header(first: Position, salt: u32) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&first.to_le_bytes());
    header[16..20].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// (first position, salt); `None` if this is no whole header.
pub(super) fn decode_segment_header(bytes: &[u8]) -> Option<(Position, u32)> {
    let header = bytes.first_chunk::<SEGMENT_HEADER_BYTES>()?;
    let valid = &header[..8] == MAGIC && crc32c::crc32c(&header[..20]) == read_u32(header, 20)?;
    valid.then_some((read_u64(header, 8)?, read_u32(header, 16)?))
}

pub(super) fn encode_record(out: &mut Vec<u8>, salt: u32, position: Position, durable: Position, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = record_crc(salt, &out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Over the whole record but the CRC itself.
fn record_crc(salt: u32, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &record[..4]), &record[8..])
}

/// A record found at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) position: Position,
    pub(super) durable: Position,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    pub(super) const fn len(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len()
    }
}

/// Why there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRecord {
    /// The bytes end within it; `need` bytes would do.
    Incomplete { need: usize },
    /// Damaged, or something else.
    Bad,
}

/// The record at the front of `bytes`.
pub(super) fn decode_record(bytes: &[u8], salt: u32) -> Result<Record<'_>, NoRecord> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(NoRecord::Incomplete { need: RECORD_HEADER_BYTES });
    }
    let len = read_u32(bytes, 0).ok_or(NoRecord::Bad)? as usize;
    if len > MAX_PAYLOAD_BYTES {
        return Err(NoRecord::Bad);
    }
    let end = RECORD_HEADER_BYTES + len;
    let record = bytes.get(..end).ok_or(NoRecord::Incomplete { need: end })?;
    if Some(record_crc(salt, record)) != read_u32(record, 4) {
        return Err(NoRecord::Bad);
    }
    Ok(Record {
        position: read_u64(record, 8).ok_or(NoRecord::Bad)?,
        durable: read_u64(record, 16).ok_or(NoRecord::Bad)?,
        payload: &record[RECORD_HEADER_BYTES..],
    })
}

/// A sparse index: (records before, offset), ascending.
pub(super) type Index = Vec<(u32, u32)>;

/// Adds a record to the index if the last entry is far enough behind.
pub(super) fn index_record(index: &mut Index, number: u64, offset: u64) {
    let far = index.last().is_none_or(|(_, last)| offset >= u64::from(*last) + INDEX_STEP_BYTES as u64);
    if far && let (Ok(number), Ok(offset)) = (u32::try_from(number), u32::try_from(offset)) {
        index.push((number, offset));
    }
}

/// What a whole segment file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) records: u64,
    /// Offset behind the last good record.
    pub(super) end: u64,
    pub(super) index: Index,
}

/// Reads records from the header on, until the first that is not what must follow.
pub(super) fn scan(bytes: &[u8], first: Position, salt: u32) -> Scanned {
    let mut scanned = Scanned { records: 0, end: SEGMENT_HEADER_BYTES as u64, index: Index::new() };
    let mut offset = SEGMENT_HEADER_BYTES;
    while let Ok(record) = decode_record(&bytes[offset..], salt)
        && record.position == first + scanned.records
    {
        index_record(&mut scanned.index, scanned.records, offset as u64);
        scanned.records += 1;
        offset += record.len();
    }
    scanned.end = offset as u64;
    scanned
}

/// Whether some record behind `from` says that `position` had been acknowledged.
pub(super) fn is_vouched_for(bytes: &[u8], from: usize, position: Position, salt: u32) -> bool {
    let most = position + (bytes.len() / RECORD_HEADER_BYTES) as u64;
    (from..bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1)).any(|offset| {
        let plausible =
            |at: usize, low: Position| read_u64(bytes, offset + at).is_some_and(|found| (low..=most).contains(&found));
        plausible(8, position + 1) && plausible(16, position) && decode_record(&bytes[offset..], salt).is_ok()
    })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u32 = 0xdead_beef;

    fn segment(payloads: &[Vec<u8>], durable: impl Fn(Position) -> Position) -> Vec<u8> {
        let mut bytes = encode_segment_header(7, SALT).to_vec();
        for (position, payload) in (7..).zip(payloads) {
            encode_record(&mut bytes, SALT, position, durable(position), payload);
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_cut_leaves_exactly_the_whole_records(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20), cut in 0usize..2000) {
            let bytes = segment(&payloads, |_| 6);
            let cut = cut.clamp(SEGMENT_HEADER_BYTES, bytes.len());
            let scanned = scan(&bytes[..cut], 7, SALT);
            let mut end = SEGMENT_HEADER_BYTES;
            let mut whole = 0;
            for payload in &payloads {
                if end + RECORD_HEADER_BYTES + payload.len() > cut { break; }
                end += RECORD_HEADER_BYTES + payload.len();
                whole += 1;
            }
            prop_assert_eq!((scanned.records, scanned.end), (whole, end as u64));
            prop_assert!(!is_vouched_for(&bytes[..cut], end, 7 + whole, SALT));
        }

        #[test]
        fn a_flipped_bit_is_torn_or_corrupt_by_what_was_acknowledged(count in 2usize..12, victim in 0usize..11, bit in 0usize..400) {
            let payloads: Vec<_> = (0..count).map(|n| vec![n as u8; 26]).collect();
            let victim = victim % (count - 1);
            let record = RECORD_HEADER_BYTES + 26;
            let at = SEGMENT_HEADER_BYTES + victim * record;
            for acknowledged in [true, false] {
                let mut bytes = segment(&payloads, |position| if acknowledged { position - 1 } else { 6 });
                bytes[at + (bit / 8) % record] ^= 1 << (bit % 8);
                let scanned = scan(&bytes, 7, SALT);
                prop_assert_eq!(scanned.records, victim as u64);
                prop_assert_eq!(is_vouched_for(&bytes, at, 7 + scanned.records, SALT), acknowledged);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), SEGMENT_HEADER_BYTES..300)) {
            let scanned = scan(&bytes, 1, SALT);
            let _ = is_vouched_for(&bytes, scanned.end as usize, 1, SALT);
            let _ = decode_segment_header(&bytes);
        }
    }
}
