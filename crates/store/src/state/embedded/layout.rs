//! How keys and values lie on disk. Fixed for ever under the folder's format version.
//!
//! ```text
//! key    = table | bucket u8 | length u16 | partition | kind u8 | rest
//! table  = length u8 | name
//! kind   = 0 version  rest: nothing
//!          1 row      rest: the row's key
//!          2 item     rest: version u64 | index u32
//! hint   = table | length u16 | partition              (in a keyspace of its own)
//!
//! version, hint = 1 | version u64
//! row           = 1 | version u64 | value       or, deleted by a merge, 2 | version u64 | seconds u64
//! item          = 1 | length u8 | topic | payload
//! ```
//!
//! Integers are big endian, so that order in bytes is order in value. A table's bucket, a partition
//! and a partition's rows each are one range.

use crate::state::{OutboxPosition, StateError, check};
use bytes::Bytes;

const VERSION: u8 = 0;
const ROW: u8 = 1;
const ITEM: u8 = 2;

const PRESENT: u8 = 1;
const DELETED: u8 = 2;

/// A row's place is longer than its key by this at most.
pub(super) const MAX_CURSOR_BYTES: usize = 2 * 1024;

fn corrupt(what: &str) -> StateError {
    StateError::Corrupt(format!("a stored {what} has an unknown form"))
}

fn push_table(key: &mut Vec<u8>, table: &str) {
    debug_assert!(table.len() <= crate::state::MAX_NAME_BYTES, "names are checked before they get here");
    key.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
    key.extend_from_slice(table.as_bytes());
}

fn push_partition(key: &mut Vec<u8>, partition: &[u8]) {
    debug_assert!(partition.len() <= crate::state::MAX_PARTITION_BYTES, "partitions are checked before they get here");
    key.extend_from_slice(&u16::try_from(partition.len()).unwrap_or(u16::MAX).to_be_bytes());
    key.extend_from_slice(partition);
}

/// What the keys of one bucket of a table begin with.
pub(super) fn bucket(table: &str, bucket: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(table.len() + 2);
    push_table(&mut key, table);
    key.push(bucket);
    key
}

/// Makes the keys of one partition.
#[derive(Debug)]
pub(super) struct Place(Vec<u8>);

impl Place {
    pub(super) fn new(table: &str, partition: &[u8]) -> Self {
        let mut key = Vec::with_capacity(table.len() + partition.len() + 4);
        push_table(&mut key, table);
        key.push(check::bucket_of(partition));
        push_partition(&mut key, partition);
        Self(key)
    }

    fn key(&self, kind: u8, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.0.len() + 1 + rest.len());
        key.extend_from_slice(&self.0);
        key.push(kind);
        key.extend_from_slice(rest);
        key
    }

    pub(super) fn version(&self) -> Vec<u8> {
        self.key(VERSION, &[])
    }

    pub(super) fn row(&self, row: &[u8]) -> Vec<u8> {
        self.key(ROW, row)
    }

    /// The first key after all rows; also the first that an item may have.
    pub(super) fn rows_end(&self) -> Vec<u8> {
        self.key(ITEM, &[])
    }

    pub(super) fn item(&self, position: OutboxPosition) -> Vec<u8> {
        let mut rest = [0; 12];
        rest[..8].copy_from_slice(&position.version.to_be_bytes());
        rest[8..].copy_from_slice(&position.index.to_be_bytes());
        self.key(ITEM, &rest)
    }

    pub(super) fn items_end(&self) -> Vec<u8> {
        self.key(ITEM + 1, &[])
    }

    /// The row's own key from its place on disk.
    pub(super) fn row_key<'k>(&self, key: &'k [u8]) -> Result<&'k [u8], StateError> {
        match key.strip_prefix(self.0.as_slice()) {
            Some([ROW, row @ ..]) => Ok(row),
            Some(_) | None => Err(corrupt("row's key")),
        }
    }

    pub(super) fn item_position(&self, key: &[u8]) -> Result<OutboxPosition, StateError> {
        let Some([ITEM, rest @ ..]) = key.strip_prefix(self.0.as_slice()) else { return Err(corrupt("item's key")) };
        let (version, index) = rest.split_first_chunk().ok_or_else(|| corrupt("item's key"))?;
        let index = index.try_into().map_err(|_| corrupt("item's key"))?;
        Ok(OutboxPosition { version: u64::from_be_bytes(*version), index: u32::from_be_bytes(index) })
    }
}

/// What lies behind a bucket's prefix: the partition, and the row's key if it is a row's.
pub(super) fn split_suffix(suffix: &[u8]) -> Result<(&[u8], Option<&[u8]>), StateError> {
    let (length, rest) = suffix.split_first_chunk().ok_or_else(|| corrupt("key"))?;
    let (partition, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or_else(|| corrupt("key"))?;
    match rest {
        [ROW, row @ ..] => Ok((partition, Some(row))),
        [VERSION] | [ITEM, ..] => Ok((partition, None)),
        _ => Err(corrupt("key")),
    }
}

pub(super) fn hint(table: &str, partition: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(table.len() + partition.len() + 3);
    push_table(&mut key, table);
    push_partition(&mut key, partition);
    key
}

/// The table and partition that a hint names.
pub(super) fn split_hint(key: &[u8]) -> Result<(&str, &[u8]), StateError> {
    let corrupt = || corrupt("hint's key");
    let (length, rest) = key.split_first().ok_or_else(corrupt)?;
    let (table, rest) = rest.split_at_checked((*length).into()).ok_or_else(corrupt)?;
    let (length, partition) = rest.split_first_chunk().ok_or_else(corrupt)?;
    if partition.len() != usize::from(u16::from_be_bytes(*length)) {
        return Err(corrupt());
    }
    Ok((std::str::from_utf8(table).map_err(|_| corrupt())?, partition))
}

pub(super) fn version_value(version: u64) -> Vec<u8> {
    let mut value = vec![PRESENT];
    value.extend_from_slice(&version.to_be_bytes());
    value
}

pub(super) fn read_version(value: &[u8]) -> Result<u64, StateError> {
    match value {
        [PRESENT, version @ ..] => version.try_into().map(u64::from_be_bytes).map_err(|_| corrupt("version")),
        _ => Err(corrupt("version")),
    }
}

pub(super) fn row_value(version: u64, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(9 + value.len());
    stored.push(PRESENT);
    stored.extend_from_slice(&version.to_be_bytes());
    stored.extend_from_slice(value);
    stored
}

/// `now_s`: when it was deleted, in seconds since the Unix epoch.
pub(super) fn tombstone_value(version: u64, now_s: u64) -> Vec<u8> {
    let mut stored = Vec::with_capacity(17);
    stored.push(DELETED);
    stored.extend_from_slice(&version.to_be_bytes());
    stored.extend_from_slice(&now_s.to_be_bytes());
    stored
}

/// A row as it lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored<'v> {
    Present { version: u64, value: &'v [u8] },
    Deleted { version: u64, at_s: u64 },
}

impl<'v> Stored<'v> {
    pub(super) fn read(stored: &'v [u8]) -> Result<Self, StateError> {
        let (kind, rest) = stored.split_first().ok_or_else(|| corrupt("row"))?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(|| corrupt("row"))?;
        let version = u64::from_be_bytes(*version);
        match *kind {
            PRESENT => Ok(Self::Present { version, value: rest }),
            DELETED => {
                let at_s = rest.try_into().map(u64::from_be_bytes).map_err(|_| corrupt("row"))?;
                Ok(Self::Deleted { version, at_s })
            }
            _ => Err(corrupt("row")),
        }
    }

    /// For the rule of merges.
    pub(super) const fn rank(self) -> (u64, Option<&'v [u8]>) {
        match self {
            Self::Present { version, value } => (version, Some(value)),
            Self::Deleted { version, .. } => (version, None),
        }
    }
}

pub(super) fn item_value(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(2 + topic.len() + payload.len());
    value.push(PRESENT);
    push_table(&mut value, topic);
    value.extend_from_slice(payload);
    value
}

/// Topic and payload.
pub(super) fn read_item(value: &[u8]) -> Result<(String, Bytes), StateError> {
    let [PRESENT, length, rest @ ..] = value else { return Err(corrupt("item")) };
    let (topic, payload) = rest.split_at_checked((*length).into()).ok_or_else(|| corrupt("item"))?;
    let topic = std::str::from_utf8(topic).map_err(|_| corrupt("item"))?;
    Ok((topic.to_owned(), Bytes::copy_from_slice(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes on disk, written out: they may not change under the same format version.
    #[test]
    fn keys_lie_as_documented() {
        let place = Place::new("user", b"ab");
        let bucket = check::bucket_of(b"ab");
        assert_eq!(place.version(), [b"\x04user".as_slice(), &[bucket], b"\0\x02ab\0"].concat());
        assert_eq!(place.row(b"k"), [b"\x04user".as_slice(), &[bucket], b"\0\x02ab\x01k"].concat());
        let item = place.item(OutboxPosition { version: 7, index: 3 });
        assert_eq!(item, [b"\x04user".as_slice(), &[bucket], b"\0\x02ab\x02\0\0\0\0\0\0\0\x07\0\0\0\x03"].concat());
        assert_eq!(hint("user", b"ab"), b"\x04user\0\x02ab");
        assert_eq!(row_value(1, b"v"), b"\x01\0\0\0\0\0\0\0\x01v");
        assert_eq!(tombstone_value(1, 2), b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
        assert_eq!(item_value("t", b"p"), b"\x01\x01tp");
        assert_eq!(check::bucket_of(b"123456789"), 0xe3, "the bucket is the top byte of CRC-32C");
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(table in "[a-z]{1,64}", partition in prop::collection::vec(any::<u8>(), 1..40),
                               key in prop::collection::vec(any::<u8>(), 0..40), version: u64, index: u32) {
            let place = Place::new(&table, &partition);
            let row = place.row(&key);
            prop_assert_eq!(place.row_key(&row).expect("own key"), key.as_slice());
            prop_assert!(place.version() < row && row < place.rows_end());
            let position = OutboxPosition { version, index };
            prop_assert_eq!(place.item_position(&place.item(position)).expect("own key"), position);
            prop_assert!(place.item(position) < place.items_end());
            let bucket = bucket(&table, check::bucket_of(&partition));
            let suffix = row.strip_prefix(bucket.as_slice()).expect("bucket is a prefix");
            prop_assert_eq!(split_suffix(suffix).expect("own key"), (partition.as_slice(), Some(key.as_slice())));
            let hint = hint(&table, &partition);
            prop_assert_eq!(split_hint(&hint).expect("own key"), (table.as_str(), partition.as_slice()));
        }

        /// Whatever lies on disk, reading it never panics.
        #[test]
        fn refuses_what_it_did_not_write(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = (Stored::read(&bytes), read_version(&bytes), read_item(&bytes), split_hint(&bytes),
                split_suffix(&bytes), Place::new("t", b"p").item_position(&bytes));
        }
    }
}
