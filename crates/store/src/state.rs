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
//!   order they arrive; equal versions are the same write. A deletion is a merge without value and
//!   wins the same way. (On ScyllaDB: plain writes with the version as write timestamp.)
//!
//! A table takes one kind only, and its type says which, so the two cannot meet on a row.
//!
//! # Promises
//!
//! When a write returns `Ok` it survives `kill -9` and power loss. When it returns an error it may
//! or may not have happened, unless the error says which ([`StateError::is_definite`]).
//! A read sees every write that returned before it began. Nothing else is promised: no transaction
//! across partitions, no order between tables, no snapshot across the pages of a scan.

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;

/// Longest partition key, in bytes. Not empty.
pub const MAX_PARTITION_BYTES: usize = 512;
/// Longest row key, in bytes. May be empty.
pub const MAX_KEY_BYTES: usize = 1024;
/// Largest value, in bytes; larger things go to object storage.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Most rows that one commit touches (asserts, puts, deletes and outbox together).
pub const MAX_COMMIT_ROWS: usize = 2048;
/// Most rows that one page returns.
pub const MAX_PAGE_ROWS: usize = 1000;
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

/// A table that takes merges only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MergeTable {
    pub name: &'static str,
    pub family: Family,
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
    /// The partition's version: 0 when nothing was ever committed to it.
    PartitionVersion(u64),
}

/// Something to be done elsewhere because of a commit: recorded with it, delivered at least once,
/// in the order of versions within a partition, to the handler registered for its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxItem {
    pub topic: &'static str,
    pub payload: Bytes,
}

/// One conditional write.
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
    /// An assert did not hold and nothing was written. The asserted rows that exist, as they are.
    Conflict { partition_version: u64, rows: Vec<Row> },
}

/// One unconditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    pub table: MergeTable,
    pub partition: Bytes,
    pub key: Bytes,
    /// Fits an `i64`. From lane epoch and position, or from a clock that never goes back.
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
    /// Rows at most; capped at [`MAX_PAGE_ROWS`].
    pub limit: usize,
}

/// A page of rows. `next` is where to go on: put it into [`Scan::from`] (into `to` when reverse).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub rows: Vec<Row>,
    pub next: Option<Bytes>,
}

/// A page over whole tables. The cursor is opaque and stays valid while rows come and go.
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
}

impl StateError {
    /// Whether it is certain that a write did not happen.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::Full { .. })
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

    /// Partitions that may have undelivered items: those hinted at before their commit. A hint may
    /// be for nothing; an item is never without one.
    async fn outbox_hints(&self, limit: usize) -> Result<Vec<OutboxHint>, StateError>;

    /// Forgets a hint, if its partition has had no commit with an outbox since the hint was read.
    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<(), StateError>;
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
