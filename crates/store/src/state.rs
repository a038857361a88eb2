//! The state trait: what Breeze asks of a database, small enough that an embedded engine and
//! ScyllaDB both give exactly it.
//!
//! # The two kinds of write
//!
//! - [`State::commit`] is conditional and atomic within *one partition of one table*. A partition is
//!   one aggregate (a device, a user, a key), never a tenant. Every applied commit raises the
//!   partition's version by one; the rows it puts carry that version. (On ScyllaDB: one conditional
//!   batch, `IF` on a static version column.)
//! - [`State::merge`] is unconditional: of two writes to a row the higher version wins, in whatever
//!   order they arrive. A deletion is a merge without value and wins the same way. Equal versions
//!   should be the same write; where they are not, a deletion wins over a value and the greater
//!   value over the lesser, so that all replicas still agree. A deletion is remembered for
//!   [`TOMBSTONE_SECONDS`]; a write older than it that arrives later than that may reappear. (On
//!   ScyllaDB: plain writes with the version as write timestamp, and `gc_grace_seconds`; the server
//!   wants `restrict_future_timestamp: false`, since versions are not microseconds.)
//!
//! A table takes one kind only, and its type says which, so the two cannot meet on a row.
//!
//! # Promises
//!
//! When a write returns `Ok` it survives `kill -9` and power loss. When it returns an error it may
//! or may not have happened, or happen yet, unless the error says which
//! ([`StateError::is_definite`]); the same holds when the future of a write is dropped. Merges may
//! simply be repeated. A commit is repeated with the same asserts: when it then conflicts, the rows
//! of the conflict show whether it was the first attempt that did it.
//!
//! A read sees every write that returned before it began: within the region for [`Serial::Local`]
//! and merge tables, everywhere for [`Serial::Global`]. Nothing else is promised: no transaction
//! across partitions, no order between tables, no snapshot across the pages of a scan, nor between
//! two reads of one partition. Who needs a consistent picture of several rows reads
//! [`State::partition_version`] first, then the rows, and commits under
//! [`Assert::PartitionVersion`].
//!
//! # The outbox
//!
//! Items are delivered at least once. First deliveries within a partition come in the order of
//! versions, but a repetition of an older item may come after a younger one (two nodes may deliver
//! the same partition): handlers compare versions, as a merge does.
//!
//! Before a commit with items an engine makes a hint durable that names the partition and the
//! version the commit would have; embedded both are one transaction. A crash between the two leaves
//! a hint for nothing, and a paused writer may still commit long after its hint was read. So only
//! the engine can tell when a hint may go: when no item is left up to that version *and* the
//! partition's version has reached it, so that the commit can no longer apply (ScyllaDB's backend
//! raises the version itself, by an empty conditional commit, when a hint has waited long enough).

pub(crate) mod check;
pub mod claims;
pub mod cql;
pub mod embedded;
pub mod idempotency;
pub mod leases;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod outbox;
pub mod reservations;

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;

/// Longest partition key, in bytes. Not empty.
pub const MAX_PARTITION_BYTES: usize = 512;
/// Longest row key, in bytes. May be empty. (A bound of a scan may be one byte longer.)
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest name of a table, and longest topic: `[a-z0-9_.-]`, not empty.
pub const MAX_NAME_BYTES: usize = 64;
/// Largest value, in bytes; larger things go to object storage.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Most rows that one commit touches (asserts, puts, deletes and outbox together).
pub const MAX_COMMIT_ROWS: usize = 2048;
/// Most bytes of keys, values and payloads in one commit (databases refuse larger mutations).
pub const MAX_COMMIT_BYTES: usize = 4 * 1024 * 1024;
/// Most rows in one call of [`State::merge`].
pub const MAX_MERGE_ROWS: usize = 16 * 1024;
/// Most bytes of partitions, keys and values in one call of [`State::merge`].
pub const MAX_MERGE_BYTES: usize = 16 * 1024 * 1024;
/// Highest version of a merge.
pub const MAX_MERGE_VERSION: u64 = (1 << 62) - 1;
/// How long the deletion of a merged row is remembered, in seconds.
pub const TOMBSTONE_SECONDS: u64 = 10 * 24 * 3600;
/// Most rows that one page returns.
pub const MAX_PAGE_ROWS: usize = 1000;
/// A page ends after the row with which it exceeds this many bytes.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Buckets of [`State::scan_family`]: the top byte of the partition's hash.
pub const BUCKETS: u16 = 256;

/// What a table's rows are for; decides keyspace, replication and compaction where there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Tenancy, people, keys, claims: global.
    Config,
    /// Device state, lanes, presence: of a region.
    Device,
    /// What is appended and expires, or must never expire (audit).
    Log,
}

/// How far apart writers of a commit table may be. Fixed for a table for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Serial {
    /// All writers in one region (leases, boundaries, a tenant's configuration in its home region).
    Local,
    /// Everywhere (claims of what must be unique in the world).
    Global,
}

/// A table that takes commits only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitTable {
    pub name: &'static str,
    pub family: Family,
    pub serial: Serial,
}

impl CommitTable {
    #[must_use]
    pub const fn new(name: &'static str, family: Family, serial: Serial) -> Self {
        Self { name, family, serial }
    }
}

/// A table that takes merges only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MergeTable {
    pub name: &'static str,
    pub family: Family,
}

impl MergeTable {
    #[must_use]
    pub const fn new(name: &'static str, family: Family) -> Self {
        Self { name, family }
    }
}

/// Either kind, for reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    Commit(CommitTable),
    Merge(MergeTable),
}

impl Table {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Commit(table) => table.name,
            Self::Merge(table) => table.name,
        }
    }
}

impl From<CommitTable> for Table {
    fn from(table: CommitTable) -> Self {
        Self::Commit(table)
    }
}

impl From<MergeTable> for Table {
    fn from(table: MergeTable) -> Self {
        Self::Merge(table)
    }
}

/// A row as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: Bytes,
    pub value: Bytes,
    /// Of the commit that put it, or the merge that won.
    pub version: u64,
}

/// What must hold for a commit to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assert {
    /// No row has this key.
    Absent(Bytes),
    /// A row has this key.
    Exists(Bytes),
    /// The row with this key has exactly this version.
    Version(Bytes, u64),
    /// The partition's version: 0 when nothing was ever committed to it. It never goes back, not
    /// even when all rows of the partition are deleted.
    PartitionVersion(u64),
}

impl Assert {
    /// The row it is about; `None` for the partition.
    #[must_use]
    pub const fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Absent(key) | Self::Exists(key) | Self::Version(key, _) => Some(key),
            Self::PartitionVersion(_) => None,
        }
    }
}

/// Something to be done elsewhere because of a commit: recorded with it, delivered at least once,
/// to the handler registered for its topic; see the module on order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxItem {
    pub topic: &'static str,
    pub payload: Bytes,
}

/// One conditional write. A key may be asserted once, and put or deleted once. Without puts, deletes
/// and items it raises the partition's version, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub table: CommitTable,
    pub partition: Bytes,
    pub asserts: Vec<Assert>,
    pub puts: Vec<(Bytes, Bytes)>,
    pub deletes: Vec<Bytes>,
    pub outbox: Vec<OutboxItem>,
}

impl Commit {
    #[must_use]
    pub fn new(table: CommitTable, partition: impl Into<Bytes>) -> Self {
        Self { table, partition: partition.into(), asserts: vec![], puts: vec![], deletes: vec![], outbox: vec![] }
    }

    #[must_use]
    pub fn assert(mut self, assert: Assert) -> Self {
        self.asserts.push(assert);
        self
    }

    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.puts.push((key.into(), value.into()));
        self
    }

    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.deletes.push(key.into());
        self
    }

    #[must_use]
    pub fn outbox(mut self, topic: &'static str, payload: impl Into<Bytes>) -> Self {
        self.outbox.push(OutboxItem { topic, payload: payload.into() });
        self
    }
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum CommitOutcome {
    /// It is durable; the partition and the rows put have this version now.
    Applied { version: u64 },
    /// An assert did not hold and nothing was written. The asserted rows that exist, in the order of
    /// their keys, as they were found; a backend may have read them a moment after it judged.
    /// Never returned only because somebody else was writing at the same time.
    Conflict { partition_version: u64, rows: Vec<Row> },
}

/// One unconditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    pub table: MergeTable,
    pub partition: Bytes,
    pub key: Bytes,
    /// At most [`MAX_MERGE_VERSION`]. From lane epoch and position, or from a clock that never goes
    /// back.
    pub version: u64,
    /// `None` deletes.
    pub value: Option<Bytes>,
}

/// Where a scan within a partition goes on, and how far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Inclusive; empty: from the first.
    pub from: Bytes,
    /// Exclusive; `None`: to the last.
    pub to: Option<Bytes>,
    pub reverse: bool,
    /// Rows at most; capped at [`MAX_PAGE_ROWS`], which 0 stands for.
    pub limit: usize,
}

impl Scan {
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let to = prefix.iter().rposition(|&byte| byte != u8::MAX).map(|last| {
            let mut to = prefix[..=last].to_vec();
            to[last] += 1;
            Bytes::from(to)
        });
        Self { from: Bytes::copy_from_slice(prefix), to, reverse: false, limit: 0 }
    }

    #[must_use]
    pub const fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }

    #[must_use]
    pub const fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }
}

/// A page of rows. `next` is where to go on: put it into [`Scan::from`] (into `to` when reverse).
/// Only `next == None` is the end: a page may hold fewer rows than the limit, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub rows: Vec<Row>,
    pub next: Option<Bytes>,
}

/// A page over a whole table; as with [`Page`], only `next == None` is the end. The cursor is opaque and stays valid while rows come and go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FamilyPage {
    /// (partition, row)
    pub rows: Vec<(Bytes, Row)>,
    pub next: Option<Bytes>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The request breaks one of the limits of this module. Nothing happened.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The engine has no room left in its reserve: writes are refused until there is. Nothing happened.
    #[error(
        "storage is full: {free_bytes} bytes left, {reserve_bytes} are kept in reserve; free space on the data disk"
    )]
    Full { free_bytes: u64, reserve_bytes: u64 },
    /// The backend does not answer or has been poisoned; a write may or may not have happened.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood.
    #[error("storage is corrupt: {0}")]
    Corrupt(String),
    /// The backend's schema is missing, or none that this version knows. Nothing happened; the same
    /// would happen again.
    #[error("the storage's schema does not fit: {0}")]
    Schema(String),
    /// The backend does not let us in: credentials or permissions.
    #[error("storage refuses access: {0}")]
    Refused(String),
    /// The settings of the backend are wrong. Nothing happened.
    #[error("the storage's settings are wrong: {0}")]
    Settings(String),
}

impl StateError {
    /// Whether it is certain that a write did not happen.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::Full { .. } | Self::Schema(_) | Self::Settings(_))
    }
}

/// The trait. Shared as `Arc<dyn State>`; every method may be called from any task.
#[async_trait]
pub trait State: Send + Sync + fmt::Debug {
    /// Writes conditionally; see the module.
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StateError>;

    /// Writes unconditionally, all durable before this returns. Not atomic across rows.
    async fn merge(&self, merges: Vec<Merge>) -> Result<(), StateError>;

    /// One row. Rows deleted by a merge are absent.
    async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError>;

    /// The version of a partition of a commit table: 0 when nothing was ever committed to it.
    async fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError>;

    /// Rows of one partition in the order of their keys.
    async fn scan(&self, table: Table, partition: &[u8], scan: Scan) -> Result<Page, StateError>;

    /// Rows of all partitions in one of [`BUCKETS`] buckets of a table, partition by partition, so
    /// that indexes can be rebuilt. Each row that exists throughout is returned exactly once.
    async fn scan_family(
        &self,
        table: Table,
        bucket: u16,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError>;

    /// Undelivered outbox items of a partition, oldest first, at most `limit`.
    async fn outbox(&self, table: CommitTable, partition: &[u8], limit: usize) -> Result<Vec<PendingItem>, StateError>;

    /// Forgets delivered items of a partition, up to and including `through`.
    async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError>;

    /// Partitions that may have undelivered items, of all tables, page by page in no particular
    /// order. A hint may be for nothing; an item is never without one.
    async fn outbox_hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError>;

    /// Forgets a hint unless an undelivered item that it stands for is there or can still appear.
    /// Whether it is forgotten now.
    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError>;
}

/// Order of outbox items within a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxPosition {
    pub version: u64,
    pub index: u32,
}

/// An outbox item that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingItem {
    pub position: OutboxPosition,
    pub topic: String,
    pub payload: Bytes,
}

/// A partition that may have undelivered items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxHint {
    pub table: String,
    pub partition: Bytes,
    /// The engine's; opaque.
    pub token: Bytes,
}

/// A page of hints; only `next == None` is the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HintPage {
    pub hints: Vec<OutboxHint>,
    pub next: Option<Bytes>,
}
