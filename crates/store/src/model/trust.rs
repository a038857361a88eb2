//! The revocation set: one aggregate whose versions are dense; the versions of what is signed; and the
//! root documents, of which every node must show the same.

use super::{
    error::ModelError,
    record::{self, MAX_ATTEMPTS},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, Scan, Serial, State, Table};
use breeze_proto::id::DeviceId;
use bytes::Bytes;

pub const REVOCATIONS: CommitTable = CommitTable::new("revocations", Family::Config, Serial::Local);
/// The set's partition.
pub const SET: &[u8] = b"set";
pub const VERSIONS: CommitTable = CommitTable::new("document_versions", Family::Config, Serial::Local);
pub const ROOTS: CommitTable = CommitTable::new("roots", Family::Config, Serial::Local);
/// The one partition of [`ROOTS`].
const ALL_ROOTS: &[u8] = b"roots";
const RECORD: &[u8] = b"record";

/// A revocation that was added, or was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Of the set, in which it appeared. The partition's own: dense, since nothing else is committed there.
    pub version: u64,
    /// Whether this call added it.
    pub new: bool,
}

/// Adds a device with its notice (an encoded `SignedDocument`); one that is there stays as it is.
///
/// # Errors
/// The store's.
pub async fn revoke(state: &dyn State, device: DeviceId, notice: Bytes) -> Result<Added, ModelError> {
    let key = device.to_bytes().to_vec();
    let commit = Commit::new(REVOCATIONS, SET).assert(Assert::Absent(key.clone().into())).put(key, notice);
    match state.commit(commit).await? {
        CommitOutcome::Applied { version } => Ok(Added { version, new: true }),
        CommitOutcome::Conflict { rows, .. } => match rows.first() {
            Some(row) => Ok(Added { version: row.version, new: false }),
            None => Err(record::contended()),
        },
    }
}

/// Whether a device is in the set.
///
/// # Errors
/// The store's.
pub async fn is_revoked(state: &dyn State, device: DeviceId) -> Result<bool, ModelError> {
    Ok(state.get(Table::Commit(REVOCATIONS), SET, &device.to_bytes()).await?.is_some())
}

/// The set's version: 0 when nothing was ever revoked.
///
/// # Errors
/// The store's.
pub async fn revocations_version(state: &dyn State) -> Result<u64, ModelError> {
    Ok(state.partition_version(REVOCATIONS, SET).await?)
}

/// A page of the set: devices with their notices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationPage {
    pub revocations: Vec<(DeviceId, Bytes)>,
    /// Ask again after this one; `None` at the end.
    pub next: Option<DeviceId>,
}

/// Devices of the set after `after`, in the order of their ids.
///
/// # Errors
/// The store's.
pub async fn revocations(
    state: &dyn State,
    after: Option<DeviceId>,
    limit: usize,
) -> Result<RevocationPage, ModelError> {
    let mut scan = Scan::default().limit(limit);
    if let Some(after) = after {
        let mut from = after.to_bytes().to_vec();
        from.push(0);
        scan.from = from.into();
    }
    let page = state.scan(Table::Commit(REVOCATIONS), SET, scan).await?;
    let revocations: Vec<(DeviceId, Bytes)> =
        page.rows.into_iter().filter_map(|row| Some((DeviceId::from_slice(&row.key)?, row.value))).collect();
    let next = page.next.and_then(|_| revocations.last().map(|(id, _)| *id));
    Ok(RevocationPage { revocations, next })
}

/// What a document was signed from: nodes that know of more come later. `made_of` is a version in the
/// store, `period` a count of renewals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Knowledge {
    pub made_of: u64,
    pub period: u64,
}

/// A document's version in the store: `made_of:period:content`; or the content alone, as it once was.
fn split(text: &str) -> (Knowledge, &str) {
    let mut parts = text.splitn(3, ':');
    let numbers = (parts.next().and_then(|text| text.parse().ok()), parts.next().and_then(|text| text.parse().ok()));
    match (numbers, parts.next()) {
        ((Some(made_of), Some(period)), Some(content)) => (Knowledge { made_of, period }, content),
        (_, _) => (Knowledge::default(), text),
    }
}

/// The version of the signed document `name` with this content: the one it had when the content is
/// unchanged, else the next. `None` when another node signed it from more than `known`: read again.
///
/// # Errors
/// The store's.
pub async fn document_version(
    state: &dyn State,
    name: &str,
    known: Knowledge,
    content_sha256: &str,
) -> Result<Option<u64>, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let found = record::read::<String>(state, VERSIONS, name.as_bytes(), RECORD).await?;
        let assert = match &found {
            Some(found) => {
                let (before, content) = split(&found.value);
                if content == content_sha256 {
                    return Ok(Some(found.version));
                }
                // A period that lies further ahead was made by a clock that was wrong.
                let knew_more = before.made_of > known.made_of
                    || (before.made_of == known.made_of && before.period == known.period + 1);
                if knew_more {
                    return Ok(None);
                }
                Assert::Version(RECORD.into(), found.version)
            }
            None => Assert::Absent(RECORD.into()),
        };
        let content = format!("{}:{}:{content_sha256}", known.made_of, known.period);
        let commit = Commit::new(VERSIONS, name.to_owned()).assert(assert).put(RECORD, record::encode(&content));
        if let CommitOutcome::Applied { version } = state.commit(commit).await? {
            return Ok(Some(version));
        }
    }
    Err(record::contended())
}

/// Root documents that nodes have agreed on, version (from 1) and encoded `SignedRoot`. They prove
/// themselves by their signatures; the store only says which of two of one version counts.
///
/// # Errors
/// The store's.
pub async fn roots(state: &dyn State) -> Result<Vec<(u64, Bytes)>, ModelError> {
    let mut roots = Vec::new();
    let mut scan = Scan::default();
    loop {
        let page = state.scan(Table::Commit(ROOTS), ALL_ROOTS, scan.clone()).await?;
        for row in page.rows {
            let version: [u8; 8] =
                row.key.as_ref().try_into().map_err(|_| ModelError::Corrupt("a root's key".into()))?;
            roots.push((u64::from_be_bytes(version), row.value));
        }
        match page.next {
            Some(next) => scan.from = next,
            None => return Ok(roots),
        }
    }
}

/// Puts a root document forward as the one of its version. The one that counts: this, or the one that
/// was there.
///
/// # Errors
/// The store's.
pub async fn agree_on_root(state: &dyn State, version: u64, root: Bytes) -> Result<Bytes, ModelError> {
    let key = version.to_be_bytes().to_vec();
    let commit =
        Commit::new(ROOTS, ALL_ROOTS).assert(Assert::Absent(key.clone().into())).put(key.clone(), root.clone());
    match state.commit(commit).await? {
        CommitOutcome::Applied { .. } => Ok(root),
        CommitOutcome::Conflict { rows, .. } => {
            rows.into_iter().find(|row| row.key == key).map(|row| row.value).ok_or_else(record::contended)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryState;

    #[tokio::test]
    async fn who_knows_less_does_not_overwrite_who_knows_more() {
        let state = MemoryState::new();
        let at = |made_of, period| Knowledge { made_of, period };
        let sign = async |known, content: &str| document_version(&state, "relays", known, content).await.expect("ok");
        assert_eq!(sign(at(1, 5), "a").await, Some(1));
        assert_eq!(sign(at(2, 5), "b").await, Some(2));
        assert_eq!(sign(at(1, 5), "a").await, None, "an older list");
        assert_eq!(sign(at(1, 6), "a").await, None, "of a later period even");
        assert_eq!(sign(at(1, 5), "b").await, Some(2), "the same is the same");
        assert_eq!(sign(at(2, 4), "c").await, None);
        assert_eq!(sign(at(2, 3), "c").await, Some(3), "a clock that was far ahead does not count for ever");
        assert_eq!(sign(at(2, 6), "d").await, Some(4));
    }

    #[tokio::test]
    async fn a_version_of_before_is_followed() {
        let state = MemoryState::new();
        let old = Commit::new(VERSIONS, "config").put(RECORD, record::encode(&"abc".to_owned()));
        let _applied = state.commit(old).await.expect("writes");
        let version = document_version(&state, "config", Knowledge::default(), "abc").await.expect("reads");
        assert_eq!(version, Some(1));
        let version = document_version(&state, "config", Knowledge::default(), "abd").await.expect("writes");
        assert_eq!(version, Some(2));
    }

    #[tokio::test]
    async fn the_first_root_of_a_version_counts() {
        let state = MemoryState::new();
        let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
        assert_eq!(agree_on_root(&state, 1, one.clone()).await.expect("first"), one);
        assert_eq!(agree_on_root(&state, 1, two.clone()).await.expect("second"), one);
        assert_eq!(agree_on_root(&state, 2, two.clone()).await.expect("next"), two);
        assert_eq!(roots(&state).await.expect("reads"), [(1, one), (2, two)]);
    }
}
