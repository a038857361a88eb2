//! Outbox items. What is delivered is remembered as a position, so that reading what is left does not
//! walk over what was deleted: queues with deletes are what these databases are bad at.

use super::{
    Inner, errors,
    run::{Measured, rows_of},
    tables::{Query, Relation},
    values::bigint,
};
use crate::state::{CommitTable, MAX_PAGE_BYTES, OutboxItem, OutboxPosition, PendingItem, StateError, check};
use bytes::{BufMut, Bytes, BytesMut};
use scylla::response::{PagingState, PagingStateResponse};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

/// How far ahead of our clock items are deleted. They carry times of the servers' clocks, and none
/// is ever written again.
const AHEAD: Duration = Duration::from_secs(3600);
/// Above the number of items of a commit.
const POSITIONS: i64 = 4096;

pub(super) fn item_key(position: OutboxPosition) -> Bytes {
    let mut key = BytesMut::with_capacity(12);
    key.put_u64(position.version);
    key.put_u32(position.index);
    key.freeze()
}

fn read_key(key: &[u8]) -> Result<OutboxPosition, StateError> {
    let unknown = || StateError::Corrupt("an outbox item's key has an unknown form".into());
    let (version, index) = key.split_first_chunk().ok_or_else(unknown)?;
    let index = index.try_into().map_err(|_| unknown())?;
    Ok(OutboxPosition { version: u64::from_be_bytes(*version), index: u32::from_be_bytes(index) })
}

pub(super) fn item_value(item: &OutboxItem) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + item.topic.len() + item.payload.len());
    value.put_u8(u8::try_from(item.topic.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(item.topic.as_bytes());
    value.extend_from_slice(&item.payload);
    value.freeze()
}

fn read_value(value: &Bytes) -> Result<(String, Bytes), StateError> {
    let unknown = || StateError::Corrupt("an outbox item has an unknown form".into());
    let (length, rest) = value.split_first().ok_or_else(unknown)?;
    let (topic, payload) = rest.split_at_checked(usize::from(*length)).ok_or_else(unknown)?;
    let topic = std::str::from_utf8(topic).map_err(|_| unknown())?;
    Ok((topic.to_owned(), value.slice_ref(payload)))
}

/// What the column of the version holds for an item, whose key has the version: the slot of its hint,
/// negative. Schema version 1 wrote the version there and had no slots.
pub(super) const fn item_slot(slot: i64) -> i64 {
    -slot
}

fn read_slot(stored: Option<i64>) -> i64 {
    stored.map_or(0, |stored| stored.saturating_neg().max(0))
}

impl Inner {
    pub(super) async fn outbox(
        &self,
        table: CommitTable,
        partition: &[u8],
        limit: usize,
    ) -> Result<Vec<PendingItem>, StateError> {
        let _measured = Measured::new("outbox");
        let relation = self.relation(table.into()).await?;
        let until = self.cluster.deadline();
        let after = self.delivered(&relation, partition, until).await?;
        self.items(&relation, partition, &after, check::page_rows(limit), until).await
    }

    /// The key of the last item that is delivered; empty before the first.
    async fn delivered(&self, relation: &Relation, partition: &[u8], until: Instant) -> Result<Bytes, StateError> {
        let answer = rows_of(self.run("read", relation, Query::Delivered, (partition,), until).await?)?;
        let row = answer.maybe_first_row::<(Option<Bytes>,)>();
        let row = row.map_err(|error| errors::corrupt(&relation.target, error))?;
        Ok(row.and_then(|(key,)| key).unwrap_or_default())
    }

    async fn items(
        &self,
        relation: &Relation,
        partition: &[u8],
        after: &Bytes,
        limit: usize,
        until: Instant,
    ) -> Result<Vec<PendingItem>, StateError> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut paging = PagingState::start();
        loop {
            let place = ((limit - items.len()).min(relation.rows_for(MAX_PAGE_BYTES)), paging);
            let values = (partition, after);
            let (answer, more) = self.run_page("read", relation, Query::Items, values, place, until).await?;
            let answer = rows_of(answer)?;
            relation.saw(answer.rows_num(), answer.rows_bytes_size());
            let rows = answer.rows::<(Bytes, Option<Bytes>)>();
            for row in rows.map_err(|error| errors::corrupt(&relation.target, error))? {
                let (key, value) = row.map_err(|error| errors::corrupt(&relation.target, error))?;
                let Some(value) = value else { continue };
                let (topic, payload) = read_value(&value)?;
                bytes += value.len();
                items.push(PendingItem { position: read_key(&key)?, topic, payload });
                if items.len() >= limit || bytes >= MAX_PAGE_BYTES {
                    return Ok(items);
                }
            }
            match more {
                PagingStateResponse::NoMorePages => return Ok(items),
                PagingStateResponse::HasMorePages { state } => paging = state,
            }
        }
    }

    /// The last undelivered items up to a position, latest first, each with the slot of its hint.
    pub(super) async fn last_items(
        &self,
        relation: &Relation,
        partition: &[u8],
        through: OutboxPosition,
        until: Instant,
    ) -> Result<Vec<(OutboxPosition, i64)>, StateError> {
        let after = self.delivered(relation, partition, until).await?;
        let values = (partition, after, item_key(through));
        let answer = rows_of(self.run("read", relation, Query::LastItems, values, until).await?)?;
        let rows = answer.rows::<(Bytes, Option<i64>)>();
        rows.map_err(|error| errors::corrupt(&relation.target, error))?
            .map(|row| {
                let (key, slot) = row.map_err(|error| errors::corrupt(&relation.target, error))?;
                Ok((read_key(&key)?, read_slot(slot)))
            })
            .collect()
    }

    pub(super) async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        let _measured = Measured::new("outbox_delivered");
        let relation = self.relation(table.into()).await?;
        let until = self.cluster.deadline();
        // A position of an item that is there: what is still to come has a higher one.
        let items = self.last_items(&relation, partition, through, until).await?;
        let Some(&(last, _)) = items.first() else { return Ok(()) };
        let order = bigint(last.version).saturating_mul(POSITIONS).saturating_add(i64::from(last.index));
        let key = item_key(last);
        self.run("write", &relation, Query::SetDelivered, (partition, &key, order), until).await?;
        // Only frees space: it is behind the position by now.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + AHEAD;
        let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        self.run("write", &relation, Query::DropItems, (now, partition, &key), until).await?;
        let left = self.items(&relation, partition, &key, 1, until).await?;
        if left.first().is_none_or(|next| next.position.version > last.version) {
            // Hints of items before those are cleared by a sweep.
            let slots: BTreeSet<i64> = items.into_iter().map(|(_, slot)| slot).collect();
            for slot in slots {
                self.drop_hint(&relation, partition, (slot, last.version), until).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_back_and_others_refused() {
        let item = OutboxItem { topic: "topic", payload: Bytes::from_static(b"payload") };
        let read = read_value(&item_value(&item)).expect("its own");
        assert_eq!(read, ("topic".to_owned(), item.payload));
        let position = OutboxPosition { version: 1 << 40, index: 7 };
        assert_eq!(read_key(&item_key(position)).expect("its own"), position);
        assert_eq!([Some(item_slot(9)), Some(9), None].map(read_slot), [9, 0, 0], "of version 1: in no slot");
        assert!(read_key(b"short").is_err() && read_value(&Bytes::from_static(b"\x09short")).is_err());
    }
}
