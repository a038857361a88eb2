//! Named leases with an epoch: who owns a lane, who sequences an audit chain.
//!
//! A lease is a partition; what its holder records under it lies in the same partition and is
//! committed with [`Lease::fence`], so that a holder that was paused and replaced can record nothing
//! more. Time is the caller's (`now_ms`, milliseconds since the Unix epoch, of clocks that are held
//! together); it decides only when a lease may be taken from its holder. Safety rests on the epoch,
//! which rises with every acquisition, even of the same holder, and never repeats.
//!
//! ```text
//! ~lease/held    epoch u64 | holder      put when acquired and when released
//! ~lease/until   milliseconds u64        put when acquired, renewed and released
//! ```

use super::{Assert, Commit, CommitOutcome, CommitTable, Row, State, StateError};
use bytes::Bytes;
use std::sync::Arc;

const HELD: &[u8] = b"~lease/held";
const UNTIL: &[u8] = b"~lease/until";

/// A lease that the caller holds, or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub partition: Bytes,
    /// Rises strictly from holder to holder.
    pub epoch: u64,
    /// Until when it is the caller's, in milliseconds since the Unix epoch.
    pub until_ms: u64,
    version: u64,
}

impl Lease {
    /// What makes a commit to the lease's partition conflict once somebody else holds it.
    #[must_use]
    pub fn fence(&self) -> Assert {
        Assert::Version(Bytes::from_static(HELD), self.version)
    }

    /// Whether the rows of a commit's conflict say that the lease is still held.
    #[must_use]
    pub fn is_held_in(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| row.key == HELD && row.version == self.version)
    }
}

/// What became of an attempt to acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    Yes(Lease),
    /// It is somebody's until then.
    Held {
        holder: Bytes,
        until_ms: u64,
    },
}

/// The leases of one table.
#[derive(Debug, Clone)]
pub struct Leases {
    state: Arc<dyn State>,
    table: CommitTable,
}

impl Leases {
    #[must_use]
    pub fn new(state: Arc<dyn State>, table: CommitTable) -> Self {
        Self { state, table }
    }

    /// Acquires a lease that is free, has expired, or is held under the same holder's name (a
    /// restarted process takes over from itself at once).
    ///
    /// # Errors
    /// Of the state. After an error that is not definite, acquire again.
    pub async fn acquire(
        &self,
        partition: &[u8],
        holder: &[u8],
        until_ms: u64,
        now_ms: u64,
    ) -> Result<Acquired, StateError> {
        let partition = Bytes::copy_from_slice(partition);
        let held = self.state.get(self.table.into(), &partition, HELD).await?;
        let mut epoch = 0;
        let mut commit = Commit::new(self.table, partition.clone());
        match held {
            None => commit = commit.assert(Assert::Absent(Bytes::from_static(HELD))),
            Some(row) => {
                let (last, current) = read_held(&row)?;
                let until = self.state.get(self.table.into(), &partition, UNTIL).await?;
                let until = until.ok_or_else(corrupt)?;
                let until_ms = number(&until.value)?;
                if current != holder && until_ms > now_ms {
                    return Ok(Acquired::Held { holder: Bytes::copy_from_slice(current), until_ms });
                }
                epoch = last;
                // Both rows as they were read: a renewal in between wins over a taker.
                commit = commit
                    .assert(Assert::Version(row.key.clone(), row.version))
                    .assert(Assert::Version(until.key, until.version));
            }
        }
        epoch += 1;
        commit = commit.put(HELD, held_value(epoch, holder)).put(UNTIL, until_value(until_ms));
        match self.state.commit(commit).await? {
            CommitOutcome::Applied { version } => Ok(Acquired::Yes(Lease { partition, epoch, until_ms, version })),
            CommitOutcome::Conflict { rows, .. } => {
                let holder = rows.iter().find(|row| row.key == HELD).map(read_held).transpose()?;
                let holder = holder.map_or_else(Bytes::new, |(_, holder)| Bytes::copy_from_slice(holder));
                // Somebody was quicker, or renewed; when it ends is not known here.
                Ok(Acquired::Held { holder, until_ms: now_ms })
            }
        }
    }

    /// Prolongs a lease; `false` when it is somebody else's by now. One that has expired but was not
    /// taken may still be renewed.
    ///
    /// # Errors
    /// Of the state. The lease counts as held until its old `until_ms` only.
    pub async fn renew(&self, lease: &mut Lease, until_ms: u64) -> Result<bool, StateError> {
        let commit =
            Commit::new(self.table, lease.partition.clone()).assert(lease.fence()).put(UNTIL, until_value(until_ms));
        let applied = matches!(self.state.commit(commit).await?, CommitOutcome::Applied { .. });
        if applied {
            lease.until_ms = until_ms;
        }
        Ok(applied)
    }

    /// What hands a lease to `to` as part of a commit under [`Lease::fence`]: it is theirs to acquire at
    /// once, and nobody else's until `until_ms`.
    #[must_use]
    pub fn hand_over(commit: Commit, lease: &Lease, to: &[u8], until_ms: u64) -> Commit {
        commit.put(HELD, held_value(lease.epoch, to)).put(UNTIL, until_value(until_ms))
    }

    /// Who holds a lease and until when, whether that is over or not; `None` for one that is free.
    ///
    /// # Errors
    /// Of the state.
    pub async fn holder(&self, partition: &[u8]) -> Result<Option<(Bytes, u64)>, StateError> {
        let Some(row) = self.state.get(self.table.into(), partition, HELD).await? else { return Ok(None) };
        let (_, holder) = read_held(&row)?;
        if holder.is_empty() {
            return Ok(None);
        }
        let until = self.state.get(self.table.into(), partition, UNTIL).await?.ok_or_else(corrupt)?;
        Ok(Some((Bytes::copy_from_slice(holder), number(&until.value)?)))
    }

    /// Gives a lease back, so that the next need not wait; `false` when it was not held any more.
    ///
    /// # Errors
    /// Of the state.
    pub async fn release(&self, lease: Lease) -> Result<bool, StateError> {
        let commit = Commit::new(self.table, lease.partition.clone())
            .assert(lease.fence())
            .put(HELD, held_value(lease.epoch, b""))
            .put(UNTIL, until_value(0));
        Ok(matches!(self.state.commit(commit).await?, CommitOutcome::Applied { .. }))
    }
}

fn held_value(epoch: u64, holder: &[u8]) -> Bytes {
    [epoch.to_be_bytes().as_slice(), holder].concat().into()
}

fn until_value(until_ms: u64) -> Bytes {
    Bytes::copy_from_slice(&until_ms.to_be_bytes())
}

fn read_held(row: &Row) -> Result<(u64, &[u8]), StateError> {
    let (epoch, holder) = row.value.split_first_chunk().ok_or_else(corrupt)?;
    Ok((u64::from_be_bytes(*epoch), holder))
}

fn number(value: &[u8]) -> Result<u64, StateError> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| corrupt())
}

fn corrupt() -> StateError {
    StateError::Corrupt("a lease cannot be understood".into())
}
