//! Requests that are answered the same when they are repeated.
//!
//! The request's hash and its answer are a row beside the entity that the request made, put by the
//! same commit. The entity's id derives from principal, route and idempotency key, so a repetition
//! finds the same partition, on any node.

use super::{Assert, Commit, Row, StateError};
use bytes::Bytes;
use sha2::{Digest, Sha256};

const PREFIX: &[u8] = b"~idem/";

/// A request that carries an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    row: Bytes,
    hash: [u8; 32],
}

/// What a repeated request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Replay {
    /// The same as before.
    Answer(Bytes),
    /// The key was used for a different request.
    Mismatch,
}

impl Request {
    /// `key`: of the client, at most 256 bytes. `body`: all that makes the request what it is.
    #[must_use]
    pub fn new(key: &str, body: &[u8]) -> Self {
        Self { row: [PREFIX, Sha256::digest(key).as_slice()].concat().into(), hash: Sha256::digest(body).into() }
    }

    /// The row's key in the entity's partition, to be read when a commit conflicts.
    #[must_use]
    pub fn row(&self) -> &Bytes {
        &self.row
    }

    /// Makes the commit apply once only, and keep its answer. When it conflicts, look among the
    /// conflict's rows for [`Self::row`] and [`Self::replay`] it.
    #[must_use]
    pub fn recorded(&self, commit: Commit, answer: &[u8]) -> Commit {
        let value = Bytes::from([self.hash.as_slice(), answer].concat());
        commit.assert(Assert::Absent(self.row.clone())).put(self.row.clone(), value)
    }

    /// # Errors
    /// [`StateError::Corrupt`] when the row is none that [`Self::recorded`] wrote.
    pub fn replay(&self, row: &Row) -> Result<Replay, StateError> {
        let (hash, answer) = row
            .value
            .split_first_chunk::<32>()
            .ok_or_else(|| StateError::Corrupt("a recorded answer cannot be understood".into()))?;
        Ok(if *hash == self.hash { Replay::Answer(Bytes::copy_from_slice(answer)) } else { Replay::Mismatch })
    }
}
