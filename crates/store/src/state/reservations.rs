//! Counters with a limit: uses of a key, devices of an organization.
//!
//! A place is first reserved, until a time; then confirmed or cancelled. A crash in between costs
//! nothing: a reservation that has expired is removed by the next one that needs its place. Counts
//! lie in a partition of the caller's choice, which may be that of the entity they belong to:
//!
//! ```text
//! ~res/count      confirmed places, u64
//! ~res/open/ID    a reservation: when it expires, milliseconds since the Unix epoch, u64
//! ~res/taken/ID   a confirmed place
//! ```
//!
//! Confirmed places are kept by id, so that confirming twice counts once.

use super::{Assert, Commit, CommitOutcome, CommitTable, MAX_COMMIT_ROWS, Scan, State, StateError};
use bytes::Bytes;
use std::sync::Arc;

/// Most reservations of one counter that are open at once.
pub const MAX_OPEN: usize = 900;
/// Attempts before contention is reported as an error.
const MAX_ATTEMPTS: usize = 100;
/// Expired reservations that one call removes.
const MAX_EXPIRED: usize = MAX_COMMIT_ROWS / 4;

const COUNT: &[u8] = b"~res/count";
const OPEN: &[u8] = b"~res/open/";
const TAKEN: &[u8] = b"~res/taken/";

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reserved {
    /// The place is held, or was taken by the same id before.
    Yes,
    /// All places are taken or held.
    Exhausted { taken: u64, held: u64 },
}

/// How a counter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Confirmed.
    pub taken: u64,
    /// Reserved, not expired.
    pub held: u64,
}

/// The counters of one table.
#[derive(Debug, Clone)]
pub struct Reservations {
    state: Arc<dyn State>,
    table: CommitTable,
}

/// A counter as it was read.
struct Seen {
    version: u64,
    taken: u64,
    held: Vec<Bytes>,
    expired: Vec<Bytes>,
}

impl Reservations {
    #[must_use]
    pub fn new(state: Arc<dyn State>, table: CommitTable) -> Self {
        Self { state, table }
    }

    /// Reserves a place for `id` until `expires_ms`, if fewer than `limit` are taken or held.
    /// Reserving again under the same id prolongs.
    ///
    /// # Errors
    /// Of the state; [`StateError::Unavailable`] when the counter is too contended, or has
    /// [`MAX_OPEN`] open reservations.
    pub async fn reserve(
        &self,
        partition: &[u8],
        id: &[u8],
        limit: u64,
        expires_ms: u64,
        now_ms: u64,
    ) -> Result<Reserved, StateError> {
        for _ in 0..MAX_ATTEMPTS {
            let seen = self.read(partition, now_ms).await?;
            if self.row(partition, &key(TAKEN, id)).await? {
                return Ok(Reserved::Yes);
            }
            let own = key(OPEN, id);
            let mut expired = seen.expired;
            expired.retain(|key| *key != own);
            // What this commit does not remove may still be confirmed, so it counts.
            let kept = expired.split_off(expired.len().min(MAX_EXPIRED)).len();
            let open = kept + seen.held.iter().filter(|key| **key != own).count();
            let held = open as u64;
            if seen.taken.saturating_add(held) >= limit {
                return Ok(Reserved::Exhausted { taken: seen.taken, held });
            }
            if open >= MAX_OPEN {
                return Err(StateError::Unavailable(format!("{MAX_OPEN} reservations are open")));
            }
            let mut commit = Commit::new(self.table, Bytes::copy_from_slice(partition))
                .assert(Assert::PartitionVersion(seen.version))
                .put(own, Bytes::copy_from_slice(&expires_ms.to_be_bytes()));
            for key in expired {
                commit = commit.delete(key);
            }
            if let CommitOutcome::Applied { .. } = self.state.commit(commit).await? {
                return Ok(Reserved::Yes);
            }
        }
        Err(contended())
    }

    /// Takes the place that `id` reserved. `false` when there is no reservation any more. Idempotent.
    ///
    /// # Errors
    /// Of the state, and as [`Self::reserve`].
    pub async fn confirm(&self, partition: &[u8], id: &[u8]) -> Result<bool, StateError> {
        for _ in 0..MAX_ATTEMPTS {
            // A reservation that has expired still counts until somebody needs its place, so it may
            // still be confirmed.
            let version = self.state.partition_version(self.table, partition).await?;
            if self.row(partition, &key(TAKEN, id)).await? {
                return Ok(true);
            }
            if !self.row(partition, &key(OPEN, id)).await? {
                return Ok(false);
            }
            let taken = self.taken(partition).await?;
            let commit = self.counted(partition, version, taken + 1).delete(key(OPEN, id)).put(key(TAKEN, id), "");
            if let CommitOutcome::Applied { .. } = self.state.commit(commit).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    /// Gives up a reservation; whether there was one. A confirmed place stays taken.
    ///
    /// # Errors
    /// Of the state.
    pub async fn cancel(&self, partition: &[u8], id: &[u8]) -> Result<bool, StateError> {
        let open = key(OPEN, id);
        let commit = Commit::new(self.table, Bytes::copy_from_slice(partition))
            .assert(Assert::Exists(open.clone()))
            .delete(open);
        Ok(matches!(self.state.commit(commit).await?, CommitOutcome::Applied { .. }))
    }

    /// Gives back a confirmed place; whether there was one.
    ///
    /// # Errors
    /// Of the state, and as [`Self::reserve`].
    pub async fn release(&self, partition: &[u8], id: &[u8]) -> Result<bool, StateError> {
        for _ in 0..MAX_ATTEMPTS {
            let version = self.state.partition_version(self.table, partition).await?;
            if !self.row(partition, &key(TAKEN, id)).await? {
                return Ok(false);
            }
            let taken = self.taken(partition).await?;
            let commit = self.counted(partition, version, taken.saturating_sub(1)).delete(key(TAKEN, id));
            if let CommitOutcome::Applied { .. } = self.state.commit(commit).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    /// How the counter stands.
    ///
    /// # Errors
    /// Of the state.
    pub async fn count(&self, partition: &[u8], now_ms: u64) -> Result<Count, StateError> {
        let seen = self.read(partition, now_ms).await?;
        Ok(Count { taken: seen.taken, held: seen.held.len() as u64 })
    }

    fn counted(&self, partition: &[u8], version: u64, taken: u64) -> Commit {
        Commit::new(self.table, Bytes::copy_from_slice(partition))
            .assert(Assert::PartitionVersion(version))
            .put(COUNT, Bytes::copy_from_slice(&taken.to_be_bytes()))
    }

    async fn read(&self, partition: &[u8], now_ms: u64) -> Result<Seen, StateError> {
        let version = self.state.partition_version(self.table, partition).await?;
        let mut seen = Seen { version, taken: self.taken(partition).await?, held: vec![], expired: vec![] };
        let mut scan = Scan::prefix(OPEN);
        loop {
            let page = self.state.scan(self.table.into(), partition, scan.clone()).await?;
            for row in page.rows {
                let expires_ms = number(&row.value)?;
                if expires_ms > now_ms { seen.held.push(row.key) } else { seen.expired.push(row.key) }
            }
            match page.next {
                Some(next) => scan.from = next,
                None => return Ok(seen),
            }
        }
    }

    async fn taken(&self, partition: &[u8]) -> Result<u64, StateError> {
        let row = self.state.get(self.table.into(), partition, COUNT).await?;
        row.map_or(Ok(0), |row| number(&row.value))
    }

    async fn row(&self, partition: &[u8], key: &[u8]) -> Result<bool, StateError> {
        Ok(self.state.get(self.table.into(), partition, key).await?.is_some())
    }
}

fn key(prefix: &[u8], id: &[u8]) -> Bytes {
    [prefix, id].concat().into()
}

fn number(value: &[u8]) -> Result<u64, StateError> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| StateError::Corrupt("a counter is not a number".into()))
}

fn contended() -> StateError {
    StateError::Unavailable("too many are writing to this counter at once".into())
}
