//! The relays that agents may be sent to. One partition: its version is the registry's, so that every
//! node of the control plane can tell which of two lists is the later.

use super::{
    error::ModelError,
    record::{self, MAX_ATTEMPTS},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, Scan, Serial, State, Table};
use serde::{Deserialize, Serialize};

pub const RELAYS: CommitTable = CommitTable::new("relays", Family::Config, Serial::Local);
/// The one partition.
pub const REGISTRY: &[u8] = b"registry";
/// Relays that can be registered: a signed list of them still fits into one message.
pub const MAX_RELAYS: usize = 500;

/// A registered relay; its row's key is the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRecord {
    pub id: String,
    pub region: String,
    /// `host:port` by which agents reach it over QUIC.
    pub quic: String,
    /// `host:port` by which agents reach it over WebSocket.
    pub wss: String,
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// All of them, as they were at a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    /// Of the partition: 0 when none was ever registered.
    pub version: u64,
    /// In the order of their ids.
    pub relays: Vec<RelayRecord>,
}

/// Registers a relay, or changes where it is. Whether it is new.
///
/// # Errors
/// [`ModelError::Conflict`] when there are [`MAX_RELAYS`], and the store's.
pub async fn put(state: &dyn State, relay: &RelayRecord) -> Result<bool, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let registry = list(state).await?;
        let held = registry.relays.iter().find(|held| held.id == relay.id);
        if held.is_none() && registry.relays.len() >= MAX_RELAYS {
            return Err(ModelError::Conflict(format!(
                "{MAX_RELAYS} relays are registered, which is as many as may be"
            )));
        }
        let record = RelayRecord { created_ms: held.map_or(relay.created_ms, |held| held.created_ms), ..relay.clone() };
        let commit = Commit::new(RELAYS, REGISTRY)
            .assert(Assert::PartitionVersion(registry.version))
            .put(relay.id.clone(), record::encode(&record));
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(held.is_none());
        }
    }
    Err(record::contended())
}

/// Takes a relay off the list. Whether it was on it.
///
/// # Errors
/// The store's.
pub async fn remove(state: &dyn State, id: &str) -> Result<bool, ModelError> {
    let key = id.to_owned();
    let commit = Commit::new(RELAYS, REGISTRY).assert(Assert::Exists(key.clone().into())).delete(key);
    Ok(matches!(state.commit(commit).await?, CommitOutcome::Applied { .. }))
}

/// One of them.
///
/// # Errors
/// The store's.
pub async fn find(state: &dyn State, id: &str) -> Result<Option<RelayRecord>, ModelError> {
    let found = record::read::<RelayRecord>(state, RELAYS, REGISTRY, id.as_bytes()).await?;
    Ok(found.map(|found| found.value))
}

/// The registry's version, without its relays.
///
/// # Errors
/// The store's.
pub async fn version(state: &dyn State) -> Result<u64, ModelError> {
    Ok(state.partition_version(RELAYS, REGISTRY).await?)
}

/// All of them. The version is read before the rows: a change meanwhile shows as a later version.
///
/// # Errors
/// The store's.
pub async fn list(state: &dyn State) -> Result<Registry, ModelError> {
    let version = version(state).await?;
    let mut relays = Vec::new();
    let mut scan = Scan::default();
    loop {
        let page = state.scan(Table::Commit(RELAYS), REGISTRY, scan.clone()).await?;
        for row in &page.rows {
            relays.push(record::decode::<RelayRecord>(&row.value)?);
        }
        match page.next {
            Some(next) => scan.from = next,
            None => return Ok(Registry { version, relays }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryState;

    fn relay(id: &str, quic: &str) -> RelayRecord {
        RelayRecord {
            id: id.into(),
            region: "eu".into(),
            quic: quic.into(),
            wss: quic.into(),
            created_ms: 1,
            updated_ms: 1,
        }
    }

    #[tokio::test]
    async fn every_change_is_a_version_and_a_relay_keeps_its_age() {
        let state = MemoryState::new();
        assert_eq!(list(&state).await.expect("reads"), Registry::default());
        assert!(put(&state, &relay("b", "b:1")).await.expect("puts"));
        assert!(put(&state, &relay("a", "a:1")).await.expect("puts"));
        let moved = RelayRecord { created_ms: 9, ..relay("b", "b:2") };
        assert!(!put(&state, &moved).await.expect("puts"));
        let registry = list(&state).await.expect("reads");
        assert_eq!(registry.version, 3);
        let shown: Vec<_> = registry.relays.iter().map(|relay| (relay.id.as_str(), relay.quic.as_str())).collect();
        assert_eq!(shown, [("a", "a:1"), ("b", "b:2")]);
        assert_eq!(find(&state, "b").await.expect("reads").expect("there").created_ms, 1);
        assert!(remove(&state, "a").await.expect("removes"));
        assert!(!remove(&state, "a").await.expect("reads"));
        assert_eq!(find(&state, "a").await.expect("reads"), None);
        assert_eq!(version(&state).await.expect("reads"), 4);
    }
}
