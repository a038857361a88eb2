//! The bus between roles: durable streams, broadcasts, and requests. Transport, not truth.
//!
//! Three things and no more, so that an in-process bus and NATS JetStream give exactly the same:
//!
//! - **Streams** ([`Bus::append`], [`Bus::read`], [`Bus::trim`]): durable, ordered, positions dense
//!   from 1. `append` returns when the entry would survive `kill -9` and power loss. A stream at its
//!   limit refuses ([`BusError::Full`]); it never discards what was not trimmed.
//! - **Broadcasts** ([`Bus::publish`], [`Bus::subscribe`]): at most once, to whoever listens now. A
//!   slow subscriber loses the oldest and is told how many ([`Received::Lagged`]).
//! - **Requests** ([`Bus::request`], [`Bus::serve`]): one answer within a deadline, or an error.
//!
//! Subjects and stream names come from [`breeze_proto::subject`]: at most [`MAX_NAME_BYTES`] bytes,
//! tokens of `[A-Za-z0-9_-]` joined by dots. A subscription's pattern is a subject, or a prefix ended
//! by `.>`, as NATS writes it.
//!
//! # Cancellation
//! [`Bus::read`], [`Subscription::next`] and [`Service::next`] may be dropped at any time without
//! losing anything, so they fit a `select!`. A dropped [`Bus::append`] may or may not have happened.
//!
//! The backends here are [`EmbeddedBus`] (one process, segmented files), [`nats::NatsBus`] and, for tests,
//! `MemoryBus` (feature `testing`); the module `conformance` (same feature) says what every backend must give.

pub mod embedded;
mod hub;
mod name;
pub mod nats;
pub mod status;

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod memory;

pub use embedded::{BusStats, EmbeddedBus, EmbeddedBusConfig};
#[cfg(feature = "testing")]
pub use memory::MemoryBus;

use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt, time::Duration};

/// Largest payload of anything on the bus, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// Longest subject, pattern or stream name, in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// Position of an entry in its stream: dense, from 1.
pub type Position = u64;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The name is not one that every backend can carry, or a limit on names is reached. Nothing happened.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The stream is at its limit, or the disk in its reserve. Nothing was stored.
    #[error("stream {stream} is full: {reason}")]
    Full { stream: String, reason: String },
    /// Above [`MAX_PAYLOAD_BYTES`].
    #[error("payload of {len} bytes exceeds the limit of {limit}")]
    TooLarge { len: usize, limit: usize },
    /// Nobody serves the subject.
    #[error("nobody answers {0}")]
    NoResponder(String),
    /// No answer within the deadline; it may have been handled.
    #[error("no answer from {subject} within {timeout:?}")]
    Timeout { subject: String, timeout: Duration },
    /// The one who serves it has too many requests waiting.
    #[error("{0} is overloaded")]
    Overloaded(String),
    /// The bus does not answer; an append may or may not have happened.
    #[error("bus is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood.
    #[error("bus is corrupt: {0}")]
    Corrupt(String),
}

impl BusError {
    /// Whether it is certain that nothing was stored, published or handled.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_) | Self::Full { .. } | Self::TooLarge { .. } | Self::NoResponder(_) | Self::Overloaded(_)
        )
    }
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub position: Position,
    pub payload: Bytes,
}

/// Extent of a stream. Empty when `first > last`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Of the oldest entry that is still there; one above `last` when there is none.
    pub first: Position,
    /// Of the newest entry ever; 0 when there never was one.
    pub last: Position,
    /// What counts against the stream's limit: also trimmed entries that still take room.
    pub bytes: u64,
    /// Which stream of this name it is: another one when it was deleted, or lost with its disk, and made
    /// anew, so that its positions are those of other entries. Never another for the same stream; 0 when
    /// the backend does not know, as of one that nobody has written to.
    pub identity: u64,
}

/// A broadcast as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    Message {
        subject: String,
        payload: Bytes,
    },
    /// That many were lost here because this subscriber was slow. 0: the connection to the bus was lost
    /// for a while, and nobody knows whether something was.
    Lagged(u64),
}

/// Messages of a subscription; dropping it ends it.
#[async_trait]
pub trait Subscription: Send + fmt::Debug {
    /// The next; `None` when the bus has closed.
    async fn next(&mut self) -> Option<Received>;
}

/// A request to answer. Dropping it unanswered leaves the asker to its deadline.
pub struct Request {
    pub subject: String,
    pub payload: Bytes,
    pub reply: Box<dyn FnOnce(Bytes) + Send>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// Requests to a subject; dropping it ends the service. Several servers of one subject share its requests.
#[async_trait]
pub trait Service: Send + fmt::Debug {
    /// The next; `None` when the bus has closed.
    async fn next(&mut self) -> Option<Request>;
}

/// The trait. Shared as `Arc<dyn Bus>`.
#[async_trait]
pub trait Bus: Send + Sync + fmt::Debug {
    /// Appends one entry, durable when this returns. Of two appends to a stream the one that returned
    /// before the other began comes first; overlapping ones have any order. `id` is an optimisation: a backend may drop an
    /// entry whose id it saw in this stream within the last two minutes and return the first one's
    /// position; callers must not need it.
    async fn append(&self, stream: &str, id: &str, payload: Bytes) -> Result<Position, BusError>;

    /// Entries from `from` on (or from the oldest that is left), together at most `max_bytes` but at
    /// least one; waits up to `wait` for the first. Empty when none came. Never returns an entry that
    /// is not durable. A stream that nobody has written to yet is empty.
    async fn read(
        &self,
        stream: &str,
        from: Position,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, BusError>;

    /// Lets go of all entries before `before` (at most of all there are): no read returns them any
    /// more. Their room is free at the latest when as much again as a segment has been appended. A
    /// crash may undo a recent trim, so a reader keeps a cursor of its own.
    async fn trim(&self, stream: &str, before: Position) -> Result<(), BusError>;

    /// What the stream holds.
    async fn extent(&self, stream: &str) -> Result<Extent, BusError>;

    /// Broadcasts; never waits for a subscriber.
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError>;

    /// Listens from now on.
    async fn subscribe(&self, pattern: &str) -> Result<Box<dyn Subscription>, BusError>;

    /// Asks and waits for the answer.
    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError>;

    /// Answers requests from now on.
    async fn serve(&self, subject: &str) -> Result<Box<dyn Service>, BusError>;
}
