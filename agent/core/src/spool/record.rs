//! What the spool keeps, and where: a small map that survives crashes.

use breeze_proto::v1::Heartbeat;
use bytes::Bytes;

/// The storage failed; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the spool cannot be {action}: {cause}")]
pub struct StorageError {
    pub action: &'static str,
    pub cause: String,
}

/// Where the spool's records lie: a small map that survives crashes. A `put` replaces.
pub trait Storage {
    /// Calls `visit` with each record that is held, once, in order of key.
    ///
    /// # Errors
    /// [`StorageError`] if nothing can be read; damage in single records is skipped.
    fn load(&mut self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), StorageError>;
    /// Keeps a record; durable after the next [`Storage::commit`].
    ///
    /// # Errors
    /// [`StorageError`], and the record is as it was.
    fn put(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError>;
    /// A record's value.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be read.
    fn get(&mut self, key: u64) -> Result<Option<Vec<u8>>, StorageError>;
    /// Forgets a record; may come back after a crash.
    ///
    /// # Errors
    /// [`StorageError`], and the record may still be there.
    fn remove(&mut self, key: u64) -> Result<(), StorageError>;
    /// Keeps a record and forgets another one; a crash leaves both done or neither. Durable after the next
    /// [`Storage::commit`].
    ///
    /// # Errors
    /// [`StorageError`], and both are as they were.
    fn replace(&mut self, key: u64, value: &[u8], removed: u64) -> Result<(), StorageError>;
    /// Hands everything to the operating system (survives the process) and, if `durable`, to the
    /// device (survives a loss of power).
    ///
    /// # Errors
    /// [`StorageError`] if that is not certain.
    fn commit(&mut self, durable: bool) -> Result<(), StorageError>;
}

/// Numbers that outlive every heartbeat.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Counters {
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// Number of the next heartbeat on the live lane, from 1.
    #[prost(uint64, tag = "2")]
    pub next_live: u64,
    #[prost(uint64, tag = "3")]
    pub next_backlog: u64,
    #[prost(uint64, tag = "4")]
    pub session_counter: u64,
    /// Heartbeats dropped, ever.
    #[prost(uint64, tag = "5")]
    pub thinned: u64,
    /// Highest inventory revision given.
    #[prost(uint64, tag = "6")]
    pub inventory_revision: u64,
    /// The server's time as it was told last: until it is told again, documents expire by it too. Nothing
    /// else is judged by it, for it is a relay's word.
    #[prost(uint64, tag = "7")]
    pub server_us: u64,
    /// The server's time minus the monotonic clock, in the boot below.
    #[prost(sint64, tag = "8")]
    pub server_minus_mono_us: i64,
    #[prost(bytes = "bytes", tag = "9")]
    pub boot_id: Bytes,
}

/// What is kept of one heartbeat.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// With its boot id, always; `seq` 0 while it has no number.
    #[prost(message, optional, tag = "1")]
    pub heartbeat: Option<Heartbeat>,
    /// The server's time when it was taken, estimated; 0: unknown in that boot.
    #[prost(uint64, tag = "2")]
    pub server_us: u64,
}

/// A heartbeat's identity, below the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    pub incarnation: u64,
    /// [`Lane`] as it is encoded.
    pub lane: i32,
    pub seq: u64,
}

impl Number {
    #[must_use]
    pub fn of(heartbeat: &Heartbeat) -> Self {
        Self { incarnation: heartbeat.incarnation, lane: heartbeat.lane, seq: heartbeat.seq }
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub entries: usize,
    pub bytes: u64,
}

impl Default for Limits {
    /// Two weeks at one heartbeat a minute.
    fn default() -> Self {
        Self { entries: 20_000, bytes: 24 * 1024 * 1024 }
    }
}
