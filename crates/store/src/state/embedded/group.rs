//! A group of writes: judged one after the other, each seeing those before it, then made durable as
//! one batch.

use super::{
    engine::{Engine, Space, failed, now_s},
    layout::{self, Place, Stored},
    read,
};
use crate::state::{
    Assert, Commit, CommitOutcome, CommitTable, Merge, OutboxHint, OutboxPosition, StateError, Table, check,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What the group will change: values to put, `None` to delete.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Group<'e> {
    engine: &'e Engine,
    changes: [Changes; Space::ALL.len()],
    now_s: u64,
}

impl<'e> Group<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        Self { engine, changes: Default::default(), now_s: now_s() }
    }

    /// Makes all changes durable and visible at once. Whether there were any.
    pub(super) fn write(self) -> Result<bool, StateError> {
        let mut batch = self.engine.batch();
        for (space, changes) in Space::ALL.iter().zip(self.changes) {
            let space = self.engine.space(*space);
            for (key, change) in changes {
                match change {
                    Some(value) => batch.insert(space, key, value),
                    None => batch.remove(space, key),
                }
            }
        }
        if batch.is_empty() {
            return Ok(false);
        }
        batch.commit().map_err(failed)?;
        Ok(true)
    }

    pub(super) fn commit(&mut self, commit: Commit) -> Result<CommitOutcome, StateError> {
        let space = Space::of(commit.table.into());
        let place = Place::new(commit.table.name, &commit.partition);
        let stored = self.get(space, &place.version())?;
        let current = stored.map_or(Ok(0), |stored| layout::read_version(&stored))?;
        if let Some(rows) = self.conflict(space, &place, current, &commit.asserts)? {
            return Ok(CommitOutcome::Conflict { partition_version: current, rows });
        }
        // Nothing below fails, so that a commit is in the group whole or not at all.
        let version = current + 1;
        let changes = &mut self.changes[space as usize];
        changes.insert(place.version(), Some(layout::version_value(version)));
        for (key, value) in &commit.puts {
            changes.insert(place.row(key), Some(layout::row_value(version, value)));
        }
        for key in &commit.deletes {
            changes.insert(place.row(key), None);
        }
        for (index, item) in (0..).zip(&commit.outbox) {
            let value = layout::item_value(item.topic, &item.payload);
            changes.insert(place.item(OutboxPosition { version, index }), Some(value));
        }
        if !commit.outbox.is_empty() {
            let hint = layout::hint(commit.table.name, &commit.partition);
            self.changes[Space::Hints as usize].insert(hint, Some(layout::version_value(version)));
        }
        Ok(CommitOutcome::Applied { version })
    }

    /// The asserted rows that exist, if any assert does not hold.
    fn conflict(
        &self,
        space: Space,
        place: &Place,
        current: u64,
        asserts: &[Assert],
    ) -> Result<Option<Vec<crate::state::Row>>, StateError> {
        let mut holds = true;
        let mut rows = Vec::new();
        for assert in asserts {
            let found = match assert.key() {
                Some(key) => self.get(space, &place.row(key))?.map_or(Ok(None), |stored| read::row(key, &stored))?,
                None => None,
            };
            holds &= match assert {
                Assert::Absent(_) => found.is_none(),
                Assert::Exists(_) => found.is_some(),
                Assert::Version(_, version) => found.as_ref().is_some_and(|row| row.version == *version),
                Assert::PartitionVersion(version) => current == *version,
            };
            rows.extend(found);
        }
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        Ok((!holds).then_some(rows))
    }

    /// Merges some rows; those before one that fails stay merged, as the trait allows.
    pub(super) fn merge(&mut self, merges: &[Merge]) -> Result<(), StateError> {
        for merge in merges {
            let space = Space::of(Table::Merge(merge.table));
            let key = Place::new(merge.table.name, &merge.partition).row(&merge.key);
            if let Some(stored) = self.get(space, &key)? {
                let old = Stored::read(&stored)?;
                if !check::wins((merge.version, merge.value.as_deref()), old.rank()) {
                    continue;
                }
            }
            let stored = match &merge.value {
                Some(value) => layout::row_value(merge.version, value),
                None => layout::tombstone_value(merge.version, self.now_s),
            };
            self.changes[space as usize].insert(key, Some(stored));
        }
        Ok(())
    }

    /// Forgets items, and the hint with the last of them.
    pub(super) fn delivered(
        &mut self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        let space = Space::of(table.into());
        let place = Place::new(table.name, partition);
        let items = self.items(space, &place, usize::MAX)?;
        let after = place.item(through);
        let hint = layout::hint(table.name, partition);
        if !items.is_empty() && items.iter().all(|key| *key <= after) {
            self.changes[Space::Hints as usize].insert(hint, None);
        }
        for key in items.into_iter().filter(|key| *key <= after) {
            self.changes[space as usize].insert(key, None);
        }
        Ok(())
    }

    /// Here an item and its hint are one transaction, so a hint without items stands for nothing.
    pub(super) fn clear_hint(&mut self, hint: &OutboxHint) -> Result<bool, StateError> {
        let place = Place::new(&hint.table, &hint.partition);
        // The hint does not say the table's family: items are looked for in all.
        for space in [Space::ConfigCommits, Space::DeviceCommits, Space::LogCommits] {
            if !self.items(space, &place, 1)?.is_empty() {
                return Ok(false);
            }
        }
        let key = layout::hint(&hint.table, &hint.partition);
        if self.get(Space::Hints, &key)?.is_some() {
            self.changes[Space::Hints as usize].insert(key, None);
        }
        Ok(true)
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        match self.changes[space as usize].get(key) {
            Some(change) => Ok(change.as_deref().map(Bytes::copy_from_slice)),
            None => Ok(self.engine.get(space, key)?.map(|stored| Bytes::copy_from_slice(&stored))),
        }
    }

    /// Keys of a partition's items, oldest first, about `limit` of them.
    fn items(&self, space: Space, place: &Place, limit: usize) -> Result<BTreeSet<Vec<u8>>, StateError> {
        let range = place.rows_end()..place.items_end();
        let changes = &self.changes[space as usize];
        let mut keys = BTreeSet::new();
        for entry in self.engine.space(space).range(range.clone()) {
            let key = entry.key().map_err(failed)?.to_vec();
            if !matches!(changes.get(&key), Some(None)) {
                keys.insert(key);
            }
            if keys.len() >= limit {
                break;
            }
        }
        let added = changes.range(range).filter(|(_, change)| change.is_some());
        keys.extend(added.map(|(key, _)| key.clone()));
        Ok(keys)
    }
}
