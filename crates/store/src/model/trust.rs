//! The revocation set: one aggregate whose versions are dense, and the versions of what is signed.

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

/// The version of the signed document `name` with this content: the one it had when the content is
/// unchanged, else the next.
///
/// # Errors
/// The store's.
pub async fn document_version(state: &dyn State, name: &str, content_sha256: &str) -> Result<u64, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let found = record::read::<String>(state, VERSIONS, name.as_bytes(), RECORD).await?;
        let assert = match &found {
            Some(found) if found.value == content_sha256 => return Ok(found.version),
            Some(found) => Assert::Version(RECORD.into(), found.version),
            None => Assert::Absent(RECORD.into()),
        };
        let content = content_sha256.to_owned();
        let commit = Commit::new(VERSIONS, name.to_owned()).assert(assert).put(RECORD, record::encode(&content));
        if let CommitOutcome::Applied { version } = state.commit(commit).await? {
            return Ok(version);
        }
    }
    Err(record::contended())
}
