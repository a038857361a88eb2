//! Records of commit tables: one JSON value a row, read together with its version.

use super::error::ModelError;
use crate::state::{CommitTable, Row, State, Table};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Attempts of a read-change-commit cycle before it gives up as contended.
pub const MAX_ATTEMPTS: usize = 32;

/// A record and the version that it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    pub version: u64,
    pub value: T,
}

/// A record's row value.
pub(crate) fn encode<T: Serialize>(record: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(record).unwrap_or_else(|error| unreachable!("records are plain data: {error}")))
}

/// The record in a row value.
pub(crate) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, ModelError> {
    serde_json::from_slice(value).map_err(|error| ModelError::Corrupt(error.to_string()))
}

pub(crate) fn decode_row<T: DeserializeOwned>(row: &Row) -> Result<Versioned<T>, ModelError> {
    Ok(Versioned { version: row.version, value: decode(&row.value)? })
}

pub(crate) async fn read<T: DeserializeOwned>(
    state: &dyn State,
    table: CommitTable,
    partition: &[u8],
    key: &[u8],
) -> Result<Option<Versioned<T>>, ModelError> {
    state.get(Table::Commit(table), partition, key).await?.as_ref().map(decode_row).transpose()
}

/// A cycle of reading, changing and committing met others too often.
pub(crate) fn contended() -> ModelError {
    ModelError::Conflict("Too many changes at once; try again.".into())
}
