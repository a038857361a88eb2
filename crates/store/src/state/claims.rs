//! Names that belong to one owner: e-mail addresses, slugs, serial numbers.
//!
//! A claim is a partition of its own, so that it needs no transaction with the entity that it names:
//! claim first, then make the entity, then release if that failed. The owner is the entity's id,
//! which derives from the request, so a repeated request meets its own claim. What a crash leaves
//! behind is a claim whose owner does not exist; a reconciler finds it with
//! [`State::scan_family`] and releases it.

use super::{Assert, Commit, CommitOutcome, CommitTable, State, StateError};
use bytes::Bytes;
use std::sync::Arc;

const OWNER: &[u8] = b"owner";

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Claimed {
    /// The name is the caller's, now or since earlier.
    Yes,
    /// It is somebody else's.
    By(Bytes),
}

/// The claims of one table. The table is [`super::Serial::Global`] where names are unique in the
/// world.
#[derive(Debug, Clone)]
pub struct Claims {
    state: Arc<dyn State>,
    table: CommitTable,
}

impl Claims {
    #[must_use]
    pub fn new(state: Arc<dyn State>, table: CommitTable) -> Self {
        Self { state, table }
    }

    /// Claims a name of a kind ("email") for an owner. Names are compared byte by byte: normalise
    /// them before.
    ///
    /// # Errors
    /// Of the state. After an error that is not definite, claim again: it is idempotent.
    pub async fn claim(&self, kind: &str, name: &str, owner: &[u8]) -> Result<Claimed, StateError> {
        let commit = Commit::new(self.table, partition(kind, name)?)
            .assert(Assert::Absent(Bytes::from_static(OWNER)))
            .put(OWNER, Bytes::copy_from_slice(owner));
        match self.state.commit(commit).await? {
            CommitOutcome::Applied { .. } => Ok(Claimed::Yes),
            CommitOutcome::Conflict { rows, .. } => match rows.into_iter().next() {
                Some(row) if row.value == owner => Ok(Claimed::Yes),
                Some(row) => Ok(Claimed::By(row.value)),
                None => Err(StateError::Unavailable(format!("the {kind} was released meanwhile"))),
            },
        }
    }

    /// Releases the owner's claim; whether it was the owner's.
    ///
    /// # Errors
    /// Of the state.
    pub async fn release(&self, kind: &str, name: &str, owner: &[u8]) -> Result<bool, StateError> {
        let partition = partition(kind, name)?;
        let Some(row) = self.state.get(self.table.into(), &partition, OWNER).await? else { return Ok(false) };
        if row.value != owner {
            return Ok(false);
        }
        let commit =
            Commit::new(self.table, partition).assert(Assert::Version(row.key.clone(), row.version)).delete(row.key);
        // A conflict means that the claim has been released, and perhaps given away, since it was read.
        Ok(matches!(self.state.commit(commit).await?, CommitOutcome::Applied { .. }))
    }

    /// Whose a name is.
    ///
    /// # Errors
    /// Of the state.
    pub async fn owner(&self, kind: &str, name: &str) -> Result<Option<Bytes>, StateError> {
        let row = self.state.get(self.table.into(), &partition(kind, name)?, OWNER).await?;
        Ok(row.map(|row| row.value))
    }
}

fn partition(kind: &str, name: &str) -> Result<Bytes, StateError> {
    if kind.is_empty() || kind.contains('\0') || name.is_empty() {
        return Err(StateError::Invalid("a claim needs a kind and a name".into()));
    }
    Ok([kind, "\0", name].concat().into())
}
