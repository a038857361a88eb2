//! Hints: where undelivered items may be. A hint is written before the commit that it is for, by a
//! plain write whose timestamp is the version that the commit would have, so that the later one stays.
//! [`super::slots`] says where they lie; here they are swept and forgotten.
//!
//! A table's hints belong to the data centre that coordinates it: only there may versions be raised.

use super::{
    Inner,
    commit::Write,
    errors,
    run::{Measured, rows_of},
    slots::{BUCKETS, HintTables, Left, bucket, now_ms},
    tables::{Query, Relation},
    values::{self, bigint},
};
use crate::state::{Assert, CommitOutcome, HintPage, OutboxHint, OutboxPosition, StateError, check};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::try_join_all;
use scylla::response::{PagingState, PagingStateResponse};
use std::time::{Duration, Instant};

/// How old a hint must be before the commit it is for is kept from applying. Longer than a commit
/// takes: a younger one is merely made to try again.
const GRACE: Duration = Duration::from_secs(60);
/// Attempts at raising a version.
const MAX_RAISES: u32 = 16;
/// What stands for the table without slots where a slot is named.
const OLD: i64 = 0;
/// The table without slots, once it is empty, is looked at again this often: a process of the version
/// before may still be running.
const OLD_EVERY: Duration = Duration::from_secs(60);
/// Slots kept open behind the last one for hints that stay, because nobody can deliver their items;
/// in an earlier slot they are carried to the last, or every sweep would read all slots since.
const KEPT_SLOTS: i64 = 32;
/// Hints carried at the same time: they share the read of the numbers.
const CARRIED_AT_ONCE: usize = 32;
/// After so many partitions read for one page no further slot is begun, also when nothing was found.
const MAX_READS: u32 = 256;

/// Where a page of hints goes on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    relation: usize,
    slot: i64,
    bucket: i8,
    table: String,
    partition: Bytes,
}

impl Place {
    fn cursor(&self) -> Bytes {
        let mut cursor = BytesMut::new();
        cursor.put_u8(u8::try_from(self.relation).unwrap_or(u8::MAX));
        cursor.put_i8(self.bucket);
        cursor.put_u8(u8::try_from(self.table.len()).unwrap_or(u8::MAX));
        cursor.put_i64(self.slot);
        cursor.extend_from_slice(self.table.as_bytes());
        cursor.extend_from_slice(&self.partition);
        cursor.freeze()
    }

    fn read(cursor: &[u8]) -> Option<Self> {
        let ([relation, bucket, length], rest) = cursor.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (table, partition) = rest.split_at_checked(usize::from(*length))?;
        Some(Self {
            relation: usize::from(*relation),
            slot: i64::from_be_bytes(*slot),
            bucket: bucket.cast_signed(),
            table: std::str::from_utf8(table).ok()?.to_owned(),
            partition: Bytes::copy_from_slice(partition),
        })
    }

    /// The beginning of a slot.
    fn go_to(&mut self, slot: i64) {
        *self = Self { relation: self.relation, slot, ..Self::default() };
    }

    fn next_bucket(&mut self) {
        *self = Self { relation: self.relation, slot: self.slot, bucket: self.bucket + 1, ..Self::default() };
    }

    fn at_beginning(&self) -> bool {
        self.bucket == 0 && self.table.is_empty()
    }
}

struct Token {
    version: u64,
    made_ms: i64,
    slot: i64,
}

impl Token {
    fn write(&self) -> Bytes {
        let mut token = BytesMut::with_capacity(24);
        token.put_u64(self.version);
        token.put_i64(self.made_ms);
        token.put_i64(self.slot);
        token.freeze()
    }

    fn read(token: &[u8]) -> Option<Self> {
        let (version, rest) = token.split_first_chunk()?;
        let (made, rest) = rest.split_first_chunk()?;
        let slot: [u8; 8] = rest.try_into().ok()?;
        let (made_ms, slot) = (i64::from_be_bytes(*made), i64::from_be_bytes(slot));
        Some(Self { version: u64::from_be_bytes(*version), made_ms, slot })
    }
}

/// A page that is being filled.
struct Filling {
    page: HintPage,
    limit: usize,
    reads: u32,
}

impl Inner {
    /// Forgets a hint for that version or an earlier one. Slot 0 is the table without slots.
    pub(super) async fn drop_hint(
        &self,
        relation: &Relation,
        partition: &[u8],
        (slot, version): (i64, u64),
        until: Instant,
    ) -> Result<(), StateError> {
        let tables = self.hints_of(relation)?;
        if slot != OLD {
            return self.drop_hint_from(&tables, slot, &relation.name, partition, version, until).await;
        }
        let scope = self.cluster.scope(relation.route);
        let values = (bigint(version), scope, bucket(partition), &relation.name, partition);
        self.run("hint", &tables.old, Query::DropOldHint, values, until).await.map(drop)
    }

    /// A data centre that does not answer hides its hints only, not those of others.
    pub(super) async fn hints_page(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        let _measured = Measured::new("outbox_hints");
        let unknown = || StateError::Invalid("the cursor is none of the hints'".into());
        let mut place =
            cursor.map_or_else(|| Some(Place::default()), |cursor| Place::read(&cursor)).ok_or_else(unknown)?;
        let mut filling = Filling { page: HintPage::default(), limit: check::page_rows(limit), reads: 0 };
        let (mut heard, mut failed) = (false, None);
        while let Some(tables) = self.catalog.hints().get(place.relation) {
            match self.hints_of_scope(tables, &mut place, &mut filling).await {
                Ok(true) => {
                    filling.page.next = Some(place.cursor());
                    return Ok(filling.page);
                }
                Ok(false) => heard = true,
                Err(error) => {
                    tracing::debug!(scope = self.cluster.scope(tables.route), %error, "hints cannot be read");
                    failed = Some(error);
                }
            }
            place = Place { relation: place.relation + 1, ..Place::default() };
        }
        match failed {
            Some(error) if !heard => Err(error),
            Some(_) | None => Ok(filling.page),
        }
    }

    /// Adds hints of a scope's slots, and closes those behind the fence that are empty. Whether the
    /// page is full.
    async fn hints_of_scope(
        &self,
        tables: &HintTables,
        place: &mut Place,
        filling: &mut Filling,
    ) -> Result<bool, StateError> {
        let until = self.cluster.deadline();
        if place.slot == OLD && self.old_hints(tables, place, filling).await? {
            return Ok(true);
        }
        let numbers = self.numbers(tables, until).await?;
        if numbers.last == 0 {
            return Ok(false);
        }
        if place.slot < numbers.first {
            place.go_to(numbers.first);
        }
        let mut first = numbers.first;
        if first < numbers.last {
            self.fence(tables, numbers, until).await?;
        }
        let mut full = false;
        while place.slot <= numbers.last && !full {
            let slot = place.slot;
            let (whole, before) = (place.at_beginning(), filling.page.hints.len());
            full = self.hints_of_slot(tables, place, filling).await?;
            let empty = whole && !full && filling.page.hints.len() == before;
            if empty && slot == first && slot < numbers.last {
                first = slot + 1;
            }
            if slot + KEPT_SLOTS < numbers.last {
                self.carry(tables, &mut filling.page.hints[before..]).await?;
            }
            if !full {
                place.go_to(slot + 1);
            }
        }
        if first > numbers.first {
            self.close(tables, first, until).await?;
            metrics::counter!("breeze_state_hint_slots_closed_total").increment((first - numbers.first).unsigned_abs());
        }
        Ok(full)
    }

    /// The hints of the table without slots, unless it was found empty a short while ago.
    async fn old_hints(
        &self,
        tables: &HintTables,
        place: &mut Place,
        filling: &mut Filling,
    ) -> Result<bool, StateError> {
        let (whole, before) = (place.at_beginning(), filling.page.hints.len());
        let fresh = tables.old_empty.lock().is_some_and(|since| since.elapsed() < OLD_EVERY);
        if whole && fresh {
            return Ok(false);
        }
        let full = self.hints_of_slot(tables, place, filling).await?;
        let empty = whole && !full && filling.page.hints.len() == before;
        *tables.old_empty.lock() = empty.then(Instant::now);
        Ok(full)
    }

    /// Whether the page is full before the slot has ended.
    async fn hints_of_slot(
        &self,
        tables: &HintTables,
        place: &mut Place,
        filling: &mut Filling,
    ) -> Result<bool, StateError> {
        if place.at_beginning() && filling.reads >= MAX_READS {
            return Ok(true);
        }
        while place.bucket < BUCKETS {
            if filling.page.hints.len() >= filling.limit {
                return Ok(true);
            }
            filling.reads += 1;
            if self.hints_of_bucket(tables, place, filling).await? {
                return Ok(true);
            }
            place.next_bucket();
        }
        Ok(false)
    }

    /// Adds hints of one partition. Whether there may be more of it.
    async fn hints_of_bucket(
        &self,
        tables: &HintTables,
        place: &mut Place,
        filling: &mut Filling,
    ) -> Result<bool, StateError> {
        let room = filling.limit - filling.page.hints.len();
        let until = self.cluster.deadline();
        let (scope, slot) = (self.cluster.scope(tables.route), place.slot);
        let target = if slot == OLD { &tables.old.target } else { &tables.slots.target };
        let mut paging = PagingState::start();
        loop {
            let (answer, more) = if slot == OLD {
                let values = (scope, place.bucket, &place.table, &place.partition);
                self.run_page("read", &tables.old, Query::OldHints, values, (room, paging), until).await?
            } else {
                let values = (scope, place.bucket, slot, &place.table, &place.partition);
                self.run_page("read", &tables.slots, Query::Hints, values, (room, paging), until).await?
            };
            let answer = rows_of(answer)?;
            let found = answer.rows_num();
            let rows = answer.rows::<(String, Bytes, Option<i64>, Option<i64>)>();
            for row in rows.map_err(|error| errors::corrupt(target, error))? {
                let (table, partition, version, made) = row.map_err(|error| errors::corrupt(target, error))?;
                let version = values::version(version.unwrap_or_default())?;
                let token = Token { version, made_ms: made.unwrap_or_default(), slot };
                place.table.clone_from(&table);
                place.partition.clone_from(&partition);
                filling.page.hints.push(OutboxHint { table, partition, token: token.write() });
            }
            match more {
                PagingStateResponse::NoMorePages => return Ok(false),
                PagingStateResponse::HasMorePages { .. } if found > 0 => return Ok(true),
                // Nothing but what was deleted, as yet.
                PagingStateResponse::HasMorePages { state } => paging = state,
            }
        }
    }

    /// Carries hints to the last slot, so that theirs can be closed.
    async fn carry(&self, tables: &HintTables, hints: &mut [OutboxHint]) -> Result<(), StateError> {
        for some in hints.chunks_mut(CARRIED_AT_ONCE) {
            try_join_all(some.iter_mut().map(|hint| self.carry_one(tables, hint))).await?;
        }
        Ok(())
    }

    async fn carry_one(&self, tables: &HintTables, hint: &mut OutboxHint) -> Result<(), StateError> {
        let Some(Token { version, made_ms, slot }) = Token::read(&hint.token) else { return Ok(()) };
        let until = self.cluster.deadline();
        let left = Left { table: &hint.table, partition: &hint.partition, version, made_ms };
        let to = self.leave_hint(tables, left, until).await?;
        self.drop_hint_from(tables, slot, &hint.table, &hint.partition, version, until).await?;
        hint.token = Token { version, made_ms, slot: to }.write();
        metrics::counter!("breeze_state_hints_carried_total").increment(1);
        Ok(())
    }

    pub(super) async fn clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError> {
        let _measured = Measured::new("outbox_clear_hint");
        let unknown = || StateError::Invalid("the token is none of a hint's".into());
        let token = Token::read(&hint.token).ok_or_else(unknown)?;
        // A table that this version does not know is somebody else's to deliver.
        let Some(relation) = self.catalog.named(&hint.table) else { return Ok(false) };
        let until = self.cluster.deadline();
        let mut version = self.partition_version(&relation, &hint.partition).await?;
        for _ in 0..MAX_RAISES {
            if version >= token.version {
                break;
            }
            let age = u64::try_from(now_ms().saturating_sub(token.made_ms)).unwrap_or(0);
            if Duration::from_millis(age) < GRACE {
                return Ok(false);
            }
            metrics::counter!("breeze_state_hint_raises_total").increment(1);
            let partition = hint.partition.clone();
            let raise = Write { partition, asserts: vec![Assert::PartitionVersion(version)], ..Write::default() };
            version = match self.write(&relation, &raise).await? {
                CommitOutcome::Applied { version } => version,
                CommitOutcome::Conflict { partition_version, .. } => partition_version,
            };
        }
        if version < token.version {
            return Ok(false);
        }
        // The version was read at the serial level, so items up to it are all to be seen.
        let through = OutboxPosition { version: token.version, index: u32::MAX };
        if !self.last_items(&relation, &hint.partition, through, until).await?.is_empty() {
            return Ok(false);
        }
        self.drop_hint(&relation, &hint.partition, (token.slot, token.version), until).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_and_tokens_are_read_back() {
        let partition = Bytes::from_static(b"p\0q");
        let place = Place { relation: 3, slot: 1 << 40, bucket: 2, table: "user".into(), partition };
        assert_eq!(Place::read(&place.cursor()).expect("its own"), place);
        assert!(Place::read(b"\x00\x00\x09short").is_none());
        let token = Token { version: 7, made_ms: -1, slot: 9 }.write();
        let read = Token::read(&token).expect("its own");
        assert_eq!((read.version, read.made_ms, read.slot), (7, -1, 9));
        assert!(Token::read(&token[..16]).is_none());
    }
}
