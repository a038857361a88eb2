//! Reads on an open engine. They run on blocking threads, each on a snapshot: outside of one fjall
//! shows a batch row by row while it is being applied.

use super::{
    engine::{Engine, Space, failed},
    layout::{self, MAX_CURSOR_BYTES, Place, Stored},
};
use crate::state::{
    CommitTable, FamilyPage, HintPage, MAX_PAGE_BYTES, OutboxHint, OutboxPosition, Page, PendingItem, Row, Scan,
    StateError, Table, check,
};
use bytes::Bytes;
use fjall::{Iter, Readable, Snapshot, UserValue};
use std::ops::Bound;

/// Most entries that one page looks at, deleted ones included.
const MAX_EXAMINED: usize = 16 * 1024;

type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

pub(super) fn row(key: &[u8], stored: &[u8]) -> Result<Option<Row>, StateError> {
    Ok(match Stored::read(stored)? {
        Stored::Present { version, value } => {
            Some(Row { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value), version })
        }
        Stored::Deleted { .. } => None,
    })
}

/// Counts what a page has taken.
struct Room {
    rows: usize,
    bytes: usize,
    examined: usize,
}

impl Room {
    const fn new(rows: usize) -> Self {
        Self { rows, bytes: MAX_PAGE_BYTES, examined: MAX_EXAMINED }
    }

    /// Whether another entry may be looked at.
    const fn look(&mut self) -> bool {
        let room = self.rows > 0 && self.bytes > 0 && self.examined > 0;
        self.examined = self.examined.saturating_sub(1);
        room
    }

    const fn take(&mut self, bytes: usize) {
        self.rows -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// An engine at one moment.
pub(super) struct View<'e> {
    engine: &'e Engine,
    snapshot: Snapshot,
}

impl<'e> View<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        Self { engine, snapshot: engine.snapshot() }
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<UserValue>, StateError> {
        self.snapshot.get(self.engine.space(space), key).map_err(failed)
    }

    fn range(&self, space: Space, range: Range) -> Iter {
        self.snapshot.range(self.engine.space(space), range)
    }

    pub(super) fn row(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        let stored = self.get(Space::of(table), &Place::new(table.name(), partition).row(key))?;
        stored.map_or(Ok(None), |stored| row(key, &stored))
    }

    pub(super) fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError> {
        let stored = self.get(Space::of(table.into()), &Place::new(table.name, partition).version())?;
        stored.map_or(Ok(0), |stored| layout::read_version(&stored))
    }

    pub(super) fn page(&self, table: Table, partition: &[u8], scan: &Scan) -> Result<Page, StateError> {
        let place = Place::new(table.name(), partition);
        let from = place.row(&scan.from);
        let to = scan.to.as_ref().map_or_else(|| place.rows_end(), |to| place.row(to));
        let mut page = Page::default();
        if from >= to {
            return Ok(page);
        }
        let mut entries = self.range(Space::of(table), (Bound::Included(from), Bound::Excluded(to)));
        let mut room = Room::new(check::page_rows(scan.limit));
        let mut last: Option<Bytes> = None;
        loop {
            let entry = if scan.reverse { entries.next_back() } else { entries.next() };
            let Some(entry) = entry else { return Ok(page) };
            if !room.look() {
                break;
            }
            let (key, stored) = entry.into_inner().map_err(failed)?;
            let key = place.row_key(&key)?;
            last = Some(Bytes::copy_from_slice(key));
            if let Some(row) = row(key, &stored)? {
                room.take(row.key.len() + row.value.len());
                page.rows.push(row);
            }
        }
        page.next = last.map(|last| if scan.reverse { last } else { [&last, [0].as_slice()].concat().into() });
        Ok(page)
    }

    pub(super) fn family_page(
        &self,
        table: Table,
        bucket: u8,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError> {
        let prefix = layout::bucket(table.name(), bucket);
        let from = cursor.map_or_else(
            || Ok(Bound::Included(prefix.clone())),
            |cursor| {
                let known = cursor.len() <= MAX_CURSOR_BYTES;
                known.then(|| Bound::Excluded([&prefix, cursor.as_ref()].concat())).ok_or_else(unknown_cursor)
            },
        )?;
        let mut page = FamilyPage::default();
        let mut room = Room::new(check::page_rows(limit));
        let mut last = None;
        for entry in self.range(Space::of(table), (from, Bound::Unbounded)) {
            let (key, stored) = entry.into_inner().map_err(failed)?;
            let Some(suffix) = key.strip_prefix(prefix.as_slice()) else { return Ok(page) };
            if !room.look() {
                page.next = last;
                return Ok(page);
            }
            last = Some(Bytes::copy_from_slice(suffix));
            let (partition, key) = layout::split_suffix(suffix)?;
            if let Some(row) = key.map_or(Ok(None), |key| row(key, &stored))? {
                room.take(partition.len() + row.key.len() + row.value.len());
                page.rows.push((Bytes::copy_from_slice(partition), row));
            }
        }
        Ok(page)
    }

    pub(super) fn items(
        &self,
        table: CommitTable,
        partition: &[u8],
        limit: usize,
    ) -> Result<Vec<PendingItem>, StateError> {
        let place = Place::new(table.name, partition);
        let range =
            (Bound::Included(place.item(OutboxPosition { version: 0, index: 0 })), Bound::Excluded(place.items_end()));
        let mut room = Room::new(check::page_rows(limit));
        let mut items = Vec::new();
        for entry in self.range(Space::of(table.into()), range) {
            if !room.look() {
                break;
            }
            let (key, value) = entry.into_inner().map_err(failed)?;
            let (topic, payload) = layout::read_item(&value)?;
            room.take(topic.len() + payload.len());
            items.push(PendingItem { position: place.item_position(&key)?, topic, payload });
        }
        Ok(items)
    }

    pub(super) fn hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        let from = match cursor {
            None => Bound::Unbounded,
            Some(cursor) if cursor.len() <= MAX_CURSOR_BYTES => Bound::Excluded(cursor.to_vec()),
            Some(_) => return Err(unknown_cursor()),
        };
        let mut page = HintPage::default();
        let mut room = Room::new(check::page_rows(limit));
        let mut last = None;
        for entry in self.range(Space::Hints, (from, Bound::Unbounded)) {
            if !room.look() {
                page.next = last;
                return Ok(page);
            }
            let (key, value) = entry.into_inner().map_err(failed)?;
            let (table, partition) = layout::split_hint(&key)?;
            let token = layout::read_version(&value)?.to_be_bytes();
            room.take(key.len());
            page.hints.push(OutboxHint {
                table: table.to_owned(),
                partition: Bytes::copy_from_slice(partition),
                token: Bytes::copy_from_slice(&token),
            });
            last = Some(Bytes::copy_from_slice(&key));
        }
        Ok(page)
    }
}

fn unknown_cursor() -> StateError {
    StateError::Invalid("the cursor is none of this table's".into())
}
