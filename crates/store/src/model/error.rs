//! Why a call on the model failed.

use crate::state::{StateError, outbox::DeliveryError};

/// See the variants; what a caller may not reach is [`ModelError::NotFound`].
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    State(#[from] StateError),
    /// It is not there, or not in the caller's scope. Names the kind: "device".
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The record changed since the caller read it.
    #[error("the record changed in the meantime")]
    Version,
    /// The change is not possible as things are; the text is for people.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key was used for a different request.
    #[error("the idempotency key was used for another request")]
    IdempotencyConflict,
    /// A stored record does not decode.
    #[error("stored record is corrupt: {0}")]
    Corrupt(String),
}

impl From<ModelError> for DeliveryError {
    fn from(error: ModelError) -> Self {
        Self(error.to_string())
    }
}
