//! Reads: rows, ranges of a partition, and slices of the token ring.

use super::{
    Inner, errors,
    run::{Measured, rows_of},
    tables::{Query, ROW, Relation},
    values,
};
use crate::state::{
    FamilyPage, MAX_KEY_BYTES, MAX_PAGE_BYTES, MAX_PARTITION_BYTES, Page, Row, Scan, StateError, Table, check,
};
use bytes::{BufMut, Bytes, BytesMut};
use scylla::response::{PagingState, PagingStateResponse};
use std::time::Instant;

/// Tokens of one bucket: the ring's 2^64 by 256.
const BUCKET_TOKENS: i64 = 1 << 56;

/// What a page has room for.
struct Room {
    rows: usize,
    bytes: usize,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self { rows: check::page_rows(limit), bytes: MAX_PAGE_BYTES }
    }

    fn take(&mut self, bytes: usize) {
        self.rows -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    const fn is_full(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }

    fn fetch(&self, relation: &Relation) -> usize {
        self.rows.min(relation.rows_for(MAX_PAGE_BYTES))
    }
}

/// Token, partition, kind, key, version and value.
type Found = (i64, Bytes, i8, Bytes, Option<i64>, Option<Bytes>);

/// A place in the order of a table: where a page over it ended.
struct Position {
    token: i64,
    partition: Bytes,
    key: Bytes,
}

impl Position {
    fn cursor(&self) -> Bytes {
        let mut cursor = BytesMut::with_capacity(10 + self.partition.len() + self.key.len());
        cursor.put_i64(self.token);
        cursor.put_u16(u16::try_from(self.partition.len()).unwrap_or(u16::MAX));
        cursor.extend_from_slice(&self.partition);
        cursor.extend_from_slice(&self.key);
        cursor.freeze()
    }

    fn read(cursor: &Bytes) -> Option<Self> {
        let (token, rest) = cursor.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (partition, key) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let known = !partition.is_empty() && partition.len() <= MAX_PARTITION_BYTES && key.len() <= MAX_KEY_BYTES;
        known.then(|| Self {
            token: i64::from_be_bytes(*token),
            partition: Bytes::copy_from_slice(partition),
            key: Bytes::copy_from_slice(key),
        })
    }
}

/// The first key after one.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// First and last token of a bucket. The least of all stands for the ring's end and is no partition's.
const fn tokens(bucket: u8) -> (i64, i64) {
    let first = (bucket as i64 - 128) * BUCKET_TOKENS;
    let last = first + (BUCKET_TOKENS - 1);
    (if bucket == 0 { first + 1 } else { first }, last)
}

impl Inner {
    pub(super) async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        let _measured = Measured::new("get");
        let relation = self.relation(table).await?;
        let answer = self.run("read", &relation, Query::Get, (partition, key), self.cluster.deadline()).await?;
        let answer = rows_of(answer)?;
        let row = answer.maybe_first_row::<(Option<i64>, Option<Bytes>)>();
        match row.map_err(|error| errors::corrupt(&relation.target, error))? {
            Some((Some(version), Some(value))) => {
                Ok(Some(Row { key: Bytes::copy_from_slice(key), value, version: values::version(version)? }))
            }
            Some(_) | None => Ok(None),
        }
    }

    pub(super) async fn scan(&self, relation: &Relation, partition: &[u8], scan: &Scan) -> Result<Page, StateError> {
        let _measured = Measured::new("scan");
        self.page(relation, partition, scan, self.cluster.deadline()).await
    }

    async fn page(
        &self,
        relation: &Relation,
        partition: &[u8],
        scan: &Scan,
        until: Instant,
    ) -> Result<Page, StateError> {
        let mut page = Page::default();
        if scan.to.as_ref().is_some_and(|to| *to <= scan.from) {
            return Ok(page);
        }
        let query = Query::Scan { to: scan.to.is_some(), reverse: scan.reverse };
        let mut room = Room::new(scan.limit);
        let mut paging = PagingState::start();
        loop {
            let from = (room.fetch(relation), paging);
            let (answer, more) = match &scan.to {
                Some(to) => self.run_page("read", relation, query, (partition, &scan.from, to), from, until).await?,
                None => self.run_page("read", relation, query, (partition, &scan.from), from, until).await?,
            };
            let answer = rows_of(answer)?;
            relation.saw(answer.rows_num(), answer.rows_bytes_size());
            let rows = answer.rows::<(Bytes, Option<i64>, Option<Bytes>)>();
            let mut rows = rows.map_err(|error| errors::corrupt(&relation.target, error))?;
            while let Some(row) = rows.next() {
                let (key, version, value) = row.map_err(|error| errors::corrupt(&relation.target, error))?;
                let (Some(version), Some(value)) = (version, value) else { continue };
                room.take(key.len() + value.len());
                page.rows.push(Row { key, value, version: values::version(version)? });
                if room.is_full() && (rows.rows_remaining() > 0 || !more.finished()) {
                    page.next =
                        page.rows.last().map(|last| if scan.reverse { last.key.clone() } else { after(&last.key) });
                    return Ok(page);
                }
            }
            match more {
                PagingStateResponse::NoMorePages => return Ok(page),
                PagingStateResponse::HasMorePages { state } => paging = state,
            }
        }
    }

    pub(super) async fn scan_family(
        &self,
        relation: &Relation,
        bucket: u8,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError> {
        let _measured = Measured::new("scan_family");
        let until = self.cluster.deadline();
        let (mut from, last) = tokens(bucket);
        let mut page = FamilyPage::default();
        let mut room = Room::new(limit);
        if let Some(cursor) = cursor {
            let at = Position::read(&cursor).filter(|at| (from..=last).contains(&at.token));
            let at = at.ok_or_else(|| StateError::Invalid("the cursor is none of this table's".into()))?;
            if self.rest(relation, &at, after(&at.key), &mut page, &mut room, until).await? {
                return Ok(page);
            }
            for partition in self.behind(relation, &at, until).await? {
                let next = Position { token: at.token, partition, key: Bytes::new() };
                if self.rest(relation, &next, Bytes::new(), &mut page, &mut room, until).await? {
                    return Ok(page);
                }
            }
            if at.token == last {
                return Ok(page);
            }
            from = at.token + 1;
        }
        self.slice(relation, (from, last), &mut page, &mut room, until).await?;
        Ok(page)
    }

    /// Adds the rows of one partition from a key on. Whether the page is full.
    async fn rest(
        &self,
        relation: &Relation,
        at: &Position,
        from: Bytes,
        page: &mut FamilyPage,
        room: &mut Room,
        until: Instant,
    ) -> Result<bool, StateError> {
        let scan = Scan { from, to: None, reverse: false, limit: room.rows };
        let found = self.page(relation, &at.partition, &scan, until).await?;
        for row in found.rows {
            room.take(row.key.len() + row.value.len());
            page.next =
                Some(Position { token: at.token, partition: at.partition.clone(), key: row.key.clone() }.cursor());
            page.rows.push((at.partition.clone(), row));
        }
        if room.is_full() || found.next.is_some() {
            return Ok(true);
        }
        page.next = None;
        Ok(false)
    }

    /// Other partitions that have the same token and come later. There are hardly ever any.
    async fn behind(&self, relation: &Relation, at: &Position, until: Instant) -> Result<Vec<Bytes>, StateError> {
        let answer = self.run("read", relation, Query::SameToken, (at.token,), until).await?;
        let answer = rows_of(answer)?;
        let rows = answer.rows::<(Bytes,)>().map_err(|error| errors::corrupt(&relation.target, error))?;
        let mut behind = Vec::new();
        for row in rows {
            let (partition,) = row.map_err(|error| errors::corrupt(&relation.target, error))?;
            if partition > at.partition {
                behind.push(partition);
            }
        }
        behind.sort_unstable();
        Ok(behind)
    }

    async fn slice(
        &self,
        relation: &Relation,
        (from, last): (i64, i64),
        page: &mut FamilyPage,
        room: &mut Room,
        until: Instant,
    ) -> Result<(), StateError> {
        let mut paging = PagingState::start();
        loop {
            let place = (room.fetch(relation), paging);
            let (answer, more) = self.run_page("read", relation, Query::Slice, (from, last), place, until).await?;
            let answer = rows_of(answer)?;
            relation.saw(answer.rows_num(), answer.rows_bytes_size());
            let mut rows: Vec<Found> = Vec::new();
            let wrong = |error: &dyn std::fmt::Display| errors::corrupt(&relation.target, error);
            if relation.merges() {
                for row in answer.rows::<(i64, Bytes, Bytes, Option<i64>, Option<Bytes>)>().map_err(|e| wrong(&e))? {
                    let (token, partition, key, version, value) = row.map_err(|e| wrong(&e))?;
                    rows.push((token, partition, ROW, key, version, value));
                }
            } else {
                for row in
                    answer.rows::<(i64, Bytes, Bytes, Option<i64>, Option<Bytes>, i8)>().map_err(|e| wrong(&e))?
                {
                    let (token, partition, key, version, value, kind) = row.map_err(|e| wrong(&e))?;
                    rows.push((token, partition, kind, key, version, value));
                }
            }
            let mut rows = rows.into_iter();
            while let Some((token, partition, kind, key, version, value)) = rows.next() {
                let (Some(version), Some(value)) = (version, value) else { continue };
                if kind != ROW {
                    continue;
                }
                room.take(key.len() + value.len());
                let at = Position { token, partition: partition.clone(), key: key.clone() };
                page.rows.push((partition, Row { key, value, version: values::version(version)? }));
                if room.is_full() && (rows.len() > 0 || !more.finished()) {
                    page.next = Some(at.cursor());
                    return Ok(());
                }
            }
            match more {
                PagingStateResponse::NoMorePages => return Ok(()),
                PagingStateResponse::HasMorePages { state } => paging = state,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::BUCKETS;

    #[test]
    fn buckets_cover_the_ring() {
        let (mut next, mut last) = (i64::MIN + 1, 0);
        for bucket in 0..BUCKETS {
            let (from, to) = tokens(u8::try_from(bucket).expect("256 of them"));
            assert_eq!(from, next);
            assert!(to > from);
            last = to;
            next = to.wrapping_add(1);
        }
        assert_eq!(last, i64::MAX);
    }

    #[test]
    fn cursors_are_read_back_and_strangers_refused() {
        let at = Position { token: -7, partition: "p".into(), key: "".into() };
        let back = Position::read(&at.cursor()).expect("its own");
        assert_eq!((back.token, back.partition, back.key), (-7, "p".into(), "".into()));
        for cursor in [&b""[..], b"1234567", b"12345678\x00\x00k", b"12345678\x00\x02k"] {
            assert!(Position::read(&Bytes::from_static(cursor)).is_none());
        }
    }
}
