//! A state of plain maps, for tests: the reference that engines are compared with, and a store for
//! the unit tests of other crates. Nothing of it survives the process.

use super::{
    Assert, Commit, CommitOutcome, CommitTable, FamilyPage, HintPage, MAX_PAGE_BYTES, Merge, OutboxHint,
    OutboxPosition, Page, PendingItem, Row, Scan, State, StateError, Table, check,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

type Place = (&'static str, Bytes);

#[derive(Debug, Default)]
struct Partition {
    version: u64,
    rows: BTreeMap<Bytes, (u64, Bytes)>,
    outbox: BTreeMap<OutboxPosition, (String, Bytes)>,
}

#[derive(Debug, Default)]
struct Tables {
    commits: BTreeMap<Place, Partition>,
    /// A row without value is deleted.
    merges: BTreeMap<Place, BTreeMap<Bytes, (u64, Option<Bytes>)>>,
    /// The highest version with items.
    hints: BTreeMap<Place, u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryState {
    tables: Mutex<Tables>,
    unavailable: AtomicBool,
}

impl MemoryState {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every call fail with [`StateError::Unavailable`], without doing anything, until it is
    /// called with `false`.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.unavailable.store(unavailable, Ordering::SeqCst);
    }

    fn tables(&self) -> Result<parking_lot::MutexGuard<'_, Tables>, StateError> {
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(StateError::Unavailable("switched off by a test".into()));
        }
        Ok(self.tables.lock())
    }
}

impl Partition {
    fn holds(&self, assert: &Assert) -> bool {
        match assert {
            Assert::Absent(key) => !self.rows.contains_key(key),
            Assert::Exists(key) => self.rows.contains_key(key),
            Assert::Version(key, version) => self.rows.get(key).is_some_and(|row| row.0 == *version),
            Assert::PartitionVersion(version) => self.version == *version,
        }
    }

    fn conflict(&self, asserts: &[Assert]) -> CommitOutcome {
        let mut rows: Vec<Row> = asserts
            .iter()
            .filter_map(Assert::key)
            .filter_map(|key| self.rows.get_key_value(key))
            .map(|(key, (version, value))| Row { key: key.clone(), value: value.clone(), version: *version })
            .collect();
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        CommitOutcome::Conflict { partition_version: self.version, rows }
    }
}

impl Tables {
    /// The rows of one partition, deleted ones left out.
    fn rows(&self, table: Table, partition: &Bytes) -> Vec<Row> {
        match table {
            Table::Commit(table) => self.commits.get(&(table.name, partition.clone())).map_or_else(Vec::new, |found| {
                let row = |(key, (version, value)): (&Bytes, &(u64, Bytes))| Row {
                    key: key.clone(),
                    value: value.clone(),
                    version: *version,
                };
                found.rows.iter().map(row).collect()
            }),
            Table::Merge(table) => self.merges.get(&(table.name, partition.clone())).map_or_else(Vec::new, |found| {
                let row = |(key, (version, value)): (&Bytes, &(u64, Option<Bytes>))| {
                    value.clone().map(|value| Row { key: key.clone(), value, version: *version })
                };
                found.iter().filter_map(row).collect()
            }),
        }
    }

    fn partitions(&self, table: Table) -> Vec<Bytes> {
        let name = table.name();
        match table {
            Table::Commit(_) => self.commits.keys().filter(|place| place.0 == name).map(|p| p.1.clone()).collect(),
            Table::Merge(_) => self.merges.keys().filter(|place| place.0 == name).map(|p| p.1.clone()).collect(),
        }
    }
}

#[async_trait]
impl State for MemoryState {
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StateError> {
        check::commit(&commit)?;
        let mut tables = self.tables()?;
        let place = (commit.table.name, commit.partition);
        let partition = tables.commits.entry(place.clone()).or_default();
        if !commit.asserts.iter().all(|assert| partition.holds(assert)) {
            return Ok(partition.conflict(&commit.asserts));
        }
        partition.version += 1;
        let version = partition.version;
        for (key, value) in commit.puts {
            partition.rows.insert(key, (version, value));
        }
        for key in commit.deletes {
            partition.rows.remove(&key);
        }
        let hinted = !commit.outbox.is_empty();
        for (index, item) in (0..).zip(commit.outbox) {
            partition.outbox.insert(OutboxPosition { version, index }, (item.topic.to_owned(), item.payload));
        }
        if hinted {
            tables.hints.insert(place, version);
        }
        Ok(CommitOutcome::Applied { version })
    }

    async fn merge(&self, merges: Vec<Merge>) -> Result<(), StateError> {
        check::merges(&merges)?;
        let mut tables = self.tables()?;
        for merge in merges {
            let rows = tables.merges.entry((merge.table.name, merge.partition)).or_default();
            let old = rows.get(&merge.key);
            if old.is_none_or(|old| check::wins((merge.version, merge.value.as_deref()), (old.0, old.1.as_deref()))) {
                rows.insert(merge.key, (merge.version, merge.value));
            }
        }
        Ok(())
    }

    async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        check::place(table.name(), partition, Some(key))?;
        let rows = self.tables()?.rows(table, &Bytes::copy_from_slice(partition));
        Ok(rows.into_iter().find(|row| row.key == key))
    }

    async fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError> {
        check::place(table.name, partition, None)?;
        let place = (table.name, Bytes::copy_from_slice(partition));
        Ok(self.tables()?.commits.get(&place).map_or(0, |partition| partition.version))
    }

    async fn scan(&self, table: Table, partition: &[u8], scan: Scan) -> Result<Page, StateError> {
        check::place(table.name(), partition, None)?;
        check::scan(&scan)?;
        let mut rows = self.tables()?.rows(table, &Bytes::copy_from_slice(partition));
        rows.retain(|row| row.key >= scan.from && scan.to.as_ref().is_none_or(|to| row.key < *to));
        if scan.reverse {
            rows.reverse();
        }
        let more = cut(&mut rows, check::page_rows(scan.limit), |row| row.key.len() + row.value.len());
        let next =
            rows.last().filter(|_| more).map(|last| if scan.reverse { last.key.clone() } else { after(&last.key) });
        Ok(Page { rows, next })
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
        let tables = self.tables()?;
        let mut rows = Vec::new();
        for partition in tables.partitions(table) {
            if check::bucket_of(&partition) == bucket {
                rows.extend(tables.rows(table, &partition).into_iter().map(|row| (partition.clone(), row)));
            }
        }
        rows.retain(|(partition, row)| cursor.as_ref().is_none_or(|cursor| position(partition, &row.key) > *cursor));
        rows.sort_by_key(|(partition, row)| position(partition, &row.key));
        let more = cut(&mut rows, check::page_rows(limit), |(_, row)| row.key.len() + row.value.len());
        let next = rows.last().filter(|_| more).map(|(partition, row)| position(partition, &row.key));
        Ok(FamilyPage { rows, next })
    }

    async fn outbox(&self, table: CommitTable, partition: &[u8], limit: usize) -> Result<Vec<PendingItem>, StateError> {
        check::place(table.name, partition, None)?;
        let tables = self.tables()?;
        let Some(found) = tables.commits.get(&(table.name, Bytes::copy_from_slice(partition))) else {
            return Ok(Vec::new());
        };
        let item = |(position, (topic, payload)): (&OutboxPosition, &(String, Bytes))| PendingItem {
            position: *position,
            topic: topic.clone(),
            payload: payload.clone(),
        };
        Ok(found.outbox.iter().take(check::page_rows(limit)).map(item).collect())
    }

    async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        check::place(table.name, partition, None)?;
        let mut tables = self.tables()?;
        if let Some(found) = tables.commits.get_mut(&(table.name, Bytes::copy_from_slice(partition))) {
            found.outbox.retain(|position, _| *position > through);
        }
        Ok(())
    }

    async fn outbox_hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        let tables = self.tables()?;
        let mut hints: Vec<OutboxHint> = tables
            .hints
            .iter()
            .map(|((table, partition), version)| OutboxHint {
                table: (*table).to_owned(),
                partition: partition.clone(),
                token: Bytes::copy_from_slice(&version.to_be_bytes()),
            })
            .filter(|hint| {
                cursor.as_ref().is_none_or(|cursor| position(hint.table.as_bytes(), &hint.partition) > *cursor)
            })
            .collect();
        hints.sort_by_key(|hint| position(hint.table.as_bytes(), &hint.partition));
        let more = cut(&mut hints, check::page_rows(limit), |hint| hint.partition.len());
        let next = hints.last().filter(|_| more).map(|hint| position(hint.table.as_bytes(), &hint.partition));
        Ok(HintPage { hints, next })
    }

    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError> {
        let mut tables = self.tables()?;
        let place = tables.hints.keys().find(|place| place.0 == hint.table && place.1 == hint.partition).cloned();
        let Some(place) = place else { return Ok(true) };
        if tables.commits.get(&place).is_some_and(|partition| !partition.outbox.is_empty()) {
            return Ok(false);
        }
        tables.hints.remove(&place);
        Ok(true)
    }
}

/// Shortens a list to a page; whether anything was cut off.
fn cut<T>(rows: &mut Vec<T>, limit: usize, bytes: impl Fn(&T) -> usize) -> bool {
    let mut total = 0;
    let fits = |row: &T| {
        let starts_within = total <= MAX_PAGE_BYTES;
        total += bytes(row);
        starts_within
    };
    let keep = rows.iter().take(limit).map(fits).take_while(|fits| *fits).count();
    let more = keep < rows.len();
    rows.truncate(keep);
    more
}

/// The least key above `key`.
fn after(key: &[u8]) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    next.into()
}

/// Orders first by `outer`, then by `inner`, whatever their lengths.
fn position(outer: &[u8], inner: &[u8]) -> Bytes {
    let length = u16::try_from(outer.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), outer, inner].concat().into()
}
