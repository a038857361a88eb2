//! The opened fjall database: its keyspaces, and its errors in our words.

use super::{Config, folder::Folder, layout::Stored};
use crate::state::{Family, StateError, TOMBSTONE_SECONDS, Table};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, LsmError, OwnedWriteBatch, PersistMode, Snapshot, UserValue,
    compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict},
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// fjall's own threads, which flush and compact.
const WORKERS: usize = 2;
/// Journals that may pile up before an idle keyspace is flushed so that they can go.
const MAX_JOURNAL_BYTES: u64 = 256 * 1024 * 1024;
/// Below the numbers at which fjall halts writers without an end, so that a halt under a dead worker
/// cannot happen to us.
const MAX_SEALED_MEMTABLES: usize = 2;
const MAX_FIRST_LEVEL_TABLES: usize = 16;
const MAX_STALL: Duration = Duration::from_secs(30);
const STALL_STEP: Duration = Duration::from_millis(2);

/// A keyspace: by kind and family, so that rows of the two kinds cannot meet even on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    ConfigCommits,
    DeviceCommits,
    LogCommits,
    ConfigMerges,
    DeviceMerges,
    LogMerges,
    Hints,
}

impl Space {
    pub(super) const ALL: [Self; 7] = [
        Self::ConfigCommits,
        Self::DeviceCommits,
        Self::LogCommits,
        Self::ConfigMerges,
        Self::DeviceMerges,
        Self::LogMerges,
        Self::Hints,
    ];

    pub(super) const fn of(table: Table) -> Self {
        match table {
            Table::Commit(table) => match table.family {
                Family::Config => Self::ConfigCommits,
                Family::Device => Self::DeviceCommits,
                Family::Log => Self::LogCommits,
            },
            Table::Merge(table) => match table.family {
                Family::Config => Self::ConfigMerges,
                Family::Device => Self::DeviceMerges,
                Family::Log => Self::LogMerges,
            },
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ConfigCommits => "config.commits",
            Self::DeviceCommits => "device.commits",
            Self::LogCommits => "log.commits",
            Self::ConfigMerges => "config.merges",
            Self::DeviceMerges => "device.merges",
            Self::LogMerges => "log.merges",
            Self::Hints => "hints",
        }
    }

    fn keeps_tombstones(name: &str) -> bool {
        name.ends_with(".merges")
    }
}

/// An open database.
pub(super) struct Engine {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn open(folder: &Folder, config: &Config) -> Result<Self, StateError> {
        let complete = folder.begin()?;
        let filters =
            |name: &str| Space::keeps_tombstones(name).then(|| Arc::new(ExpireTombstones) as Arc<dyn Factory>);
        let database = Database::builder(folder.engine())
            .cache_size(config.cache_bytes)
            .worker_threads(WORKERS)
            .max_journaling_size(MAX_JOURNAL_BYTES)
            .with_compaction_filter_factories(Arc::new(filters))
            .open()
            .map_err(failed)?;
        let memtable = config.memtable_bytes;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
        let open = |space: &Space| database.keyspace(space.name(), options).map_err(failed);
        let spaces = Space::ALL.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        if !complete {
            database.persist(PersistMode::SyncAll).map_err(failed)?;
            folder.complete()?;
        }
        Ok(Self { database, spaces })
    }

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.database.snapshot()
    }

    /// For the writer, which alone changes what it reads; others read through a snapshot.
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<UserValue>, StateError> {
        self.space(space).get(key).map_err(failed)
    }

    /// A batch that is durable before any of it can be read.
    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::SyncData))
    }

    /// A batch that becomes durable by [`Engine::sync`].
    pub(super) fn unsynced_batch(&self) -> OwnedWriteBatch {
        self.database.batch()
    }

    /// Makes everything durable.
    pub(super) fn sync(&self) -> Result<(), StateError> {
        self.database.persist(PersistMode::SyncAll).map_err(failed)
    }

    /// Fails once anything of the engine, also in the background, has failed to write.
    pub(super) fn check(&self) -> Result<(), StateError> {
        self.database.persist(PersistMode::Buffer).map_err(failed)
    }

    /// Waits while flushes or compactions are far behind. fjall would wait too, but without looking
    /// whether the worker that it waits for is still alive.
    pub(super) fn wait_for_workers(&self) -> Result<(), StateError> {
        let began = Instant::now();
        let behind = |space: &Keyspace| {
            space.sealed_memtable_count() >= MAX_SEALED_MEMTABLES || space.l0_table_count() >= MAX_FIRST_LEVEL_TABLES
        };
        while self.spaces.iter().any(behind) && began.elapsed() < MAX_STALL {
            self.check()?;
            std::thread::sleep(STALL_STEP);
        }
        let stalled = began.elapsed();
        if stalled >= STALL_STEP {
            metrics::counter!("breeze_state_stall_ms_total").increment(u64::try_from(stalled.as_millis()).unwrap_or(0));
        }
        Ok(())
    }
}

pub(super) fn failed(error: fjall::Error) -> StateError {
    let said = error.to_string();
    let storage = matches!(&error, fjall::Error::Storage(LsmError::Io(_)));
    let machine = matches!(&error, fjall::Error::Io(_) | fjall::Error::Poisoned | fjall::Error::Locked);
    // What remains are forms of bytes on disk that fjall does not understand, checksums included.
    if storage || machine { StateError::Unavailable(said) } else { StateError::Corrupt(said) }
}

/// Seconds since the Unix epoch.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Lets compactions forget deletions that are older than [`TOMBSTONE_SECONDS`].
#[derive(Debug)]
struct ExpireTombstones;

struct OlderThan {
    before_s: u64,
}

impl Factory for ExpireTombstones {
    fn name(&self) -> &str {
        "expire-tombstones"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(OlderThan { before_s: now_s().saturating_sub(TOMBSTONE_SECONDS) })
    }
}

impl CompactionFilter for OlderThan {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        // A row that cannot be understood is kept: reading it will say so.
        match Stored::read(&item.value()?) {
            Ok(Stored::Deleted { at_s, .. }) if at_s < self.before_s => Ok(Verdict::Remove),
            Ok(_) | Err(_) => Ok(Verdict::Keep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::embedded::layout::{row_value, tombstone_value};

    #[test]
    fn compactions_forget_old_deletions_only() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::lock(root.path()).expect("nobody else is here");
        let engine = Engine::open(&folder, &Config::default()).expect("it opens");
        let old = now_s() - TOMBSTONE_SECONDS - 1;
        let rows = [
            ("old", tombstone_value(2, old)),
            ("young", tombstone_value(2, old + 60)),
            ("live", row_value(2, b"v")),
            ("not a row", vec![9]),
        ];
        for space in [Space::DeviceMerges, Space::DeviceCommits] {
            let space = engine.space(space);
            // An older write of the same row in a table below must not come back.
            space.insert("old", row_value(1, b"before")).expect("inserted");
            space.rotate_memtable_and_wait().expect("flushed");
            for (key, value) in &rows {
                space.insert(*key, value.clone()).expect("inserted");
            }
            space.rotate_memtable_and_wait().expect("flushed");
            space.major_compact().expect("compacted");
        }
        let found = |space: Space| {
            let keys = rows.iter().map(|(key, _)| engine.get(space, key.as_bytes()).expect("readable").is_some());
            keys.collect::<Vec<_>>()
        };
        assert_eq!(found(Space::DeviceMerges), [false, true, true, true]);
        assert_eq!(found(Space::DeviceCommits), [true; 4], "rows of commits have no tombstones");
    }
}
