//! The state on one machine, in one folder, on fjall (a log-structured merge tree).
//!
//! - Every write goes through one thread, which judges asserts one after the other and makes a group
//!   of writes durable by one `fdatasync` *before* they can be read or are acknowledged. So no
//!   reader ever acts on what a power cut could take back.
//! - Reads run on blocking threads, never on the caller's.
//! - Below [`Config::reserve_bytes`] of free disk writes are refused with [`StateError::Full`], since
//!   the engine must always be able to flush what it has accepted. When it fails all the same, it is
//!   closed and reopened under supervision; meanwhile calls fail with [`StateError::Unavailable`].
//!
//! The layout on disk is in the module `layout`, the folder's in `folder`. Deletions by a merge are
//! kept as rows and forgotten by compactions once they are older than
//! [`super::TOMBSTONE_SECONDS`].

mod engine;
mod folder;
mod group;
mod image;
mod layout;
mod read;
mod readers;
mod writer;

use super::{
    Commit, CommitOutcome, CommitTable, FamilyPage, HintPage, Merge, OutboxHint, OutboxPosition, Page, PendingItem,
    Row, Scan, State, StateError, Table, check,
};
use async_trait::async_trait;
use bytes::Bytes;
use engine::Engine;
use folder::Folder;
pub use image::{Frozen, StateImage, restore};
use readers::Slot;
use std::{path::PathBuf, sync::Arc};
use tokio::sync::{mpsc, oneshot};
use writer::{Call, MAX_QUEUED, Writer};

/// How the embedded engine uses the machine.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Writes are refused when less than this is free on the folder's disk. Flushes and compactions
    /// of what was accepted need about eight times [`Self::memtable_bytes`].
    pub reserve_bytes: u64,
    /// For blocks read from disk.
    pub cache_bytes: u64,
    /// What each of seven keyspaces keeps in memory before it is flushed. Used when the folder is
    /// made.
    pub memtable_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { reserve_bytes: 512 * MIB, cache_bytes: 64 * MIB, memtable_bytes: 16 * MIB }
    }
}

/// See the module. Close it with [`EmbeddedState::close`] before the folder is opened again; if it is
/// dropped instead, its thread still ends, a moment later.
#[derive(Debug)]
pub struct EmbeddedState {
    calls: mpsc::Sender<Call>,
    slot: Arc<Slot>,
}

impl EmbeddedState {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] when another process has it or the disk fails,
    /// [`StateError::Corrupt`] when its format is not known.
    pub async fn open(folder: impl Into<PathBuf>, config: Config) -> Result<Self, StateError> {
        let folder = folder.into();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&folder, config)).await;
        opened.unwrap_or_else(|error| Err(StateError::Unavailable(format!("opening was cut off: {error}"))))
    }

    fn open_blocking(folder: &std::path::Path, config: Config) -> Result<Self, StateError> {
        let folder = Folder::lock(folder)?;
        let slot = Arc::new(Slot::new(Engine::open(&folder, &config)?));
        let (calls, queue) = mpsc::channel(MAX_QUEUED);
        let writer = Writer { folder, config, calls: queue, slot: Arc::clone(&slot) };
        let unavailable = |error: std::io::Error| StateError::Unavailable(format!("cannot start the writer: {error}"));
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(unavailable)?;
        // Owned by its queue: it ends when the last sender is dropped or asks it to.
        let thread = std::thread::Builder::new().name("state-writer".into());
        thread.spawn(move || writer.run(&clock)).map_err(unavailable)?;
        Ok(Self { calls, slot })
    }

    /// Finishes what was begun and releases the folder. Later calls fail with
    /// [`StateError::Unavailable`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.calls.send(Call::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Whether calls can be answered now.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] while the engine is being reopened, and after [`Self::close`].
    pub fn health(&self) -> Result<(), StateError> {
        self.slot.health()
    }

    async fn write<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, StateError>>) -> Call + Send,
    ) -> Result<T, StateError> {
        // So that nothing queues up behind an engine that is being reopened.
        self.slot.health()?;
        let (reply, answer) = oneshot::channel();
        let gone = || StateError::Unavailable("the writer is gone".into());
        self.calls.send(call(reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

#[async_trait]
impl State for EmbeddedState {
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StateError> {
        check::commit(&commit)?;
        self.write(|reply| Call::Commit(commit, reply)).await
    }

    async fn merge(&self, merges: Vec<Merge>) -> Result<(), StateError> {
        check::merges(&merges)?;
        if merges.is_empty() {
            return Ok(());
        }
        self.write(|reply| Call::Merge(merges, reply)).await
    }

    async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        check::place(table.name(), partition, Some(key))?;
        let (partition, key) = (Bytes::copy_from_slice(partition), Bytes::copy_from_slice(key));
        self.slot.read(move |view| view.row(table, &partition, &key)).await
    }

    async fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError> {
        check::place(table.name, partition, None)?;
        let partition = Bytes::copy_from_slice(partition);
        self.slot.read(move |view| view.partition_version(table, &partition)).await
    }

    async fn scan(&self, table: Table, partition: &[u8], scan: Scan) -> Result<Page, StateError> {
        check::place(table.name(), partition, None)?;
        check::scan(&scan)?;
        let partition = Bytes::copy_from_slice(partition);
        self.slot.read(move |view| view.page(table, &partition, &scan)).await
    }

    async fn scan_family(
        &self,
        table: Table,
        bucket: u16,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError> {
        check::table(table.name())?;
        let bucket = check::bucket(bucket)?;
        self.slot.read(move |view| view.family_page(table, bucket, cursor, limit)).await
    }

    async fn outbox(&self, table: CommitTable, partition: &[u8], limit: usize) -> Result<Vec<PendingItem>, StateError> {
        check::place(table.name, partition, None)?;
        let partition = Bytes::copy_from_slice(partition);
        self.slot.read(move |view| view.items(table, &partition, limit)).await
    }

    async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        check::place(table.name, partition, None)?;
        let partition = Bytes::copy_from_slice(partition);
        self.write(|reply| Call::Delivered { table, partition, through, reply }).await
    }

    async fn outbox_hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        self.slot.read(move |view| view.hints(cursor, limit)).await
    }

    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError> {
        check::place(&hint.table, &hint.partition, None)?;
        let hint = hint.clone();
        self.write(|reply| Call::ClearHint(hint, reply)).await
    }
}
