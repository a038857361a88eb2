//! The limits of [`crate::state`] as checks, so that every engine refuses the same requests.

use super::{
    BUCKETS, Commit, MAX_COMMIT_BYTES, MAX_COMMIT_ROWS, MAX_KEY_BYTES, MAX_MERGE_BYTES, MAX_MERGE_ROWS,
    MAX_MERGE_VERSION, MAX_NAME_BYTES, MAX_PAGE_ROWS, MAX_PARTITION_BYTES, MAX_VALUE_BYTES, Merge, Scan, StateError,
};
use std::collections::HashSet;

type Checked = Result<(), StateError>;

fn ensure(holds: bool, say: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(StateError::Invalid(say())) }
}

fn name(what: &str, name: &str) -> Checked {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    ensure(!name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed), || {
        format!("{what} {name:?} is not 1 to {MAX_NAME_BYTES} of a-z 0-9 _ . -")
    })
}

fn key(key: &[u8]) -> Checked {
    ensure(key.len() <= MAX_KEY_BYTES, || format!("a key of {} bytes exceeds {MAX_KEY_BYTES}", key.len()))
}

fn value(value: &[u8]) -> Checked {
    ensure(value.len() <= MAX_VALUE_BYTES, || format!("a value of {} bytes exceeds {MAX_VALUE_BYTES}", value.len()))
}

pub(crate) fn table(table: &str) -> Checked {
    name("table", table)
}

/// A table and partition, and the key of a row where one is named.
pub(crate) fn place(table: &str, partition: &[u8], row: Option<&[u8]>) -> Checked {
    name("table", table)?;
    ensure(!partition.is_empty() && partition.len() <= MAX_PARTITION_BYTES, || {
        format!("a partition of {} bytes is not within 1 to {MAX_PARTITION_BYTES}", partition.len())
    })?;
    row.map_or(Ok(()), key)
}

pub(crate) fn commit(commit: &Commit) -> Checked {
    place(commit.table.name, &commit.partition, None)?;
    let rows = commit.asserts.len() + commit.puts.len() + commit.deletes.len() + commit.outbox.len();
    ensure(rows <= MAX_COMMIT_ROWS, || format!("{rows} rows in a commit exceed {MAX_COMMIT_ROWS}"))?;
    let mut bytes = 0;
    let mut asserted = HashSet::new();
    for assert in &commit.asserts {
        if let Some(row) = assert.key() {
            key(row)?;
            bytes += row.len();
        }
        ensure(asserted.insert(assert.key()), || "something is asserted twice".into())?;
    }
    let mut written = HashSet::new();
    let deletes = commit.deletes.iter().map(|row| (row, None));
    for (row, put) in commit.puts.iter().map(|(row, put)| (row, Some(put))).chain(deletes) {
        key(row)?;
        put.map_or(Ok(()), |put| value(put))?;
        bytes += row.len() + put.map_or(0, bytes::Bytes::len);
        ensure(written.insert(row), || "a key is written twice".into())?;
    }
    for item in &commit.outbox {
        name("topic", item.topic)?;
        value(&item.payload)?;
        bytes += item.topic.len() + item.payload.len();
    }
    ensure(bytes <= MAX_COMMIT_BYTES, || format!("{bytes} bytes in a commit exceed {MAX_COMMIT_BYTES}"))
}

pub(crate) fn merges(merges: &[Merge]) -> Checked {
    ensure(merges.len() <= MAX_MERGE_ROWS, || format!("{} merges exceed {MAX_MERGE_ROWS}", merges.len()))?;
    let mut bytes = 0;
    for merge in merges {
        place(merge.table.name, &merge.partition, Some(&merge.key))?;
        merge.value.as_ref().map_or(Ok(()), |merged| value(merged))?;
        ensure(merge.version <= MAX_MERGE_VERSION, || {
            format!("version {} exceeds {MAX_MERGE_VERSION}", merge.version)
        })?;
        bytes += merge_bytes(merge);
    }
    ensure(bytes <= MAX_MERGE_BYTES, || format!("{bytes} bytes in one call exceed {MAX_MERGE_BYTES}"))
}

pub(crate) fn merge_bytes(merge: &Merge) -> usize {
    merge.partition.len() + merge.key.len() + merge.value.as_ref().map_or(0, bytes::Bytes::len)
}

pub(crate) fn scan(scan: &Scan) -> Checked {
    let longest = scan.from.len().max(scan.to.as_ref().map_or(0, bytes::Bytes::len));
    ensure(longest <= MAX_KEY_BYTES + 1, || format!("a bound of {longest} bytes exceeds {}", MAX_KEY_BYTES + 1))
}

pub(crate) fn bucket(bucket: u16) -> Result<u8, StateError> {
    u8::try_from(bucket).map_err(|_| StateError::Invalid(format!("bucket {bucket} is not below {BUCKETS}")))
}

/// The rows a page may hold: `asked`, where 0 stands for as many as there may be.
pub(crate) fn page_rows(asked: usize) -> usize {
    if asked == 0 { MAX_PAGE_ROWS } else { asked.min(MAX_PAGE_ROWS) }
}

/// The bucket of a partition in engines that choose the hash themselves. Fixed for ever.
pub(crate) fn bucket_of(partition: &[u8]) -> u8 {
    crc32c::crc32c(partition).to_be_bytes()[0]
}

/// Whether a write wins over what a row holds, by the rule of [`crate::state`]; `None` is a deletion.
pub(crate) fn wins(new: (u64, Option<&[u8]>), old: (u64, Option<&[u8]>)) -> bool {
    match new.0.cmp(&old.0) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => match (new.1, old.1) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(new), Some(old)) => new > old,
        },
    }
}
