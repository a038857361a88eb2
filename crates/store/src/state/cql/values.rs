//! Bound values, and numbers as CQL has them.

use super::errors::corrupt;
use crate::state::StateError;
use bytes::Bytes;
use scylla::{
    cluster::metadata::ColumnType,
    serialize::{
        SerializationError,
        value::SerializeValue,
        writers::{CellWriter, WrittenCellProof},
    },
};

/// One value of a statement in a batch, whose rows differ in length and types.
#[derive(Debug, Clone)]
pub(super) enum Arg {
    Blob(Bytes),
    Number(i64),
    /// A version that a row has, or none.
    Version(Option<i64>),
}

impl SerializeValue for Arg {
    fn serialize<'b>(
        &self,
        typ: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        match self {
            Self::Blob(bytes) => bytes.serialize(typ, writer),
            Self::Number(number) => number.serialize(typ, writer),
            Self::Version(version) => version.serialize(typ, writer),
        }
    }
}

/// A version as a `bigint`. Versions are below 2^62.
pub(super) fn bigint(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

pub(super) fn version(stored: i64) -> Result<u64, StateError> {
    u64::try_from(stored).map_err(|error| corrupt("a stored version is negative", error))
}
