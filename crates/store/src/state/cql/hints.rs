//! Hints: where undelivered items may be. A hint is written before the commit that it is for, by a
//! plain write whose timestamp is the version that the commit would have, so that the later one stays.
//!
//! A table's hints belong to the data centre that coordinates it: only there may versions be raised.

use super::{
    Inner,
    commit::Write,
    errors,
    run::{Measured, rows_of},
    tables::Query,
    tables::Relation,
    values::{self, bigint},
};
use crate::state::{Assert, CommitOutcome, HintPage, OutboxHint, OutboxPosition, StateError, check};
use bytes::{BufMut, Bytes, BytesMut};
use scylla::response::PagingState;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Partitions that the hints of a scope are spread over.
const BUCKETS: i8 = 4;
/// How old a hint must be before the commit it is for is kept from applying. Longer than a commit
/// takes: a younger one is merely made to try again.
const GRACE: Duration = Duration::from_secs(60);
/// Attempts at raising a version.
const MAX_RAISES: u32 = 16;

fn bucket(partition: &[u8]) -> i8 {
    (check::bucket_of(partition) % BUCKETS.unsigned_abs()).cast_signed()
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Where a page of hints goes on.
#[derive(Debug, Default)]
struct Place {
    relation: usize,
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
        cursor.extend_from_slice(self.table.as_bytes());
        cursor.extend_from_slice(&self.partition);
        cursor.freeze()
    }

    fn read(cursor: &[u8]) -> Option<Self> {
        let ([relation, bucket, length], rest) = cursor.split_first_chunk()?;
        let (table, partition) = rest.split_at_checked(usize::from(*length))?;
        Some(Self {
            relation: usize::from(*relation),
            bucket: bucket.cast_signed(),
            table: std::str::from_utf8(table).ok()?.to_owned(),
            partition: Bytes::copy_from_slice(partition),
        })
    }
}

struct Token {
    version: u64,
    made_ms: i64,
}

impl Token {
    fn write(&self) -> Bytes {
        let mut token = BytesMut::with_capacity(16);
        token.put_u64(self.version);
        token.put_i64(self.made_ms);
        token.freeze()
    }

    fn read(token: &[u8]) -> Option<Self> {
        let (version, made) = token.split_first_chunk()?;
        let made: [u8; 8] = made.try_into().ok()?;
        Some(Self { version: u64::from_be_bytes(*version), made_ms: i64::from_be_bytes(made) })
    }
}

impl Inner {
    fn hints_of(&self, relation: &Relation) -> Result<Arc<Relation>, StateError> {
        let found = self.catalog.hints_of(relation).map(Arc::clone);
        found.ok_or_else(|| StateError::Schema(format!("table {} cannot have an outbox", relation.name)))
    }

    pub(super) async fn leave_hint(
        &self,
        relation: &Relation,
        partition: &Bytes,
        version: u64,
        until: Instant,
    ) -> Result<(), StateError> {
        let hints = self.hints_of(relation)?;
        let scope = self.cluster.scope(relation.route);
        let version = bigint(version);
        let values = (scope, bucket(partition), &relation.name, partition, version, now_ms(), version);
        self.run("hint", &hints, Query::Hint, values, until).await.map(drop)
    }

    /// Forgets a hint for that version or an earlier one.
    pub(super) async fn drop_hint(
        &self,
        relation: &Relation,
        partition: &[u8],
        version: u64,
        until: Instant,
    ) -> Result<(), StateError> {
        let hints = self.hints_of(relation)?;
        let values =
            (bigint(version), self.cluster.scope(relation.route), bucket(partition), &relation.name, partition);
        self.run("hint", &hints, Query::DropHint, values, until).await.map(drop)
    }

    /// A data centre that does not answer hides its hints only, not those of others.
    pub(super) async fn hints_page(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        let _measured = Measured::new("outbox_hints");
        let limit = check::page_rows(limit);
        let unknown = || StateError::Invalid("the cursor is none of the hints'".into());
        let mut place =
            cursor.map_or_else(|| Some(Place::default()), |cursor| Place::read(&cursor)).ok_or_else(unknown)?;
        let mut page = HintPage::default();
        let (mut heard, mut failed) = (false, None);
        while let Some(hints) = self.catalog.hints().get(place.relation) {
            let outcome = self.hints_of_bucket(hints, &mut place, limit, &mut page).await;
            let skipped = match outcome {
                Ok(true) => {
                    page.next = Some(place.cursor());
                    return Ok(page);
                }
                Ok(false) => {
                    heard = true;
                    false
                }
                Err(error) => {
                    tracing::debug!(scope = self.cluster.scope(hints.route), %error, "hints cannot be read");
                    failed = Some(error);
                    true
                }
            };
            let next = if skipped || place.bucket + 1 >= BUCKETS { None } else { Some(place.bucket + 1) };
            place = Place {
                relation: if next.is_some() { place.relation } else { place.relation + 1 },
                bucket: next.unwrap_or(0),
                ..Place::default()
            };
        }
        match failed {
            Some(error) if !heard => Err(error),
            Some(_) | None => Ok(page),
        }
    }

    /// Adds hints of one bucket. Whether the page is full.
    async fn hints_of_bucket(
        &self,
        hints: &Relation,
        place: &mut Place,
        limit: usize,
        page: &mut HintPage,
    ) -> Result<bool, StateError> {
        let room = limit - page.hints.len();
        let until = self.cluster.deadline();
        let values = (self.cluster.scope(hints.route), place.bucket, &place.table, &place.partition);
        let from = (room, PagingState::start());
        let (answer, more) = self.run_page("read", hints, Query::Hints, values, from, until).await?;
        let answer = rows_of(answer)?;
        let rows = answer.rows::<(String, Bytes, Option<i64>, Option<i64>)>();
        for row in rows.map_err(|error| errors::corrupt(&hints.target, error))? {
            let (table, partition, version, made) = row.map_err(|error| errors::corrupt(&hints.target, error))?;
            let token =
                Token { version: values::version(version.unwrap_or_default())?, made_ms: made.unwrap_or_default() };
            place.table.clone_from(&table);
            place.partition.clone_from(&partition);
            page.hints.push(OutboxHint { table, partition, token: token.write() });
        }
        Ok(!more.finished())
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
        if self.last_item(&relation, &hint.partition, through, until).await?.is_some() {
            return Ok(false);
        }
        self.drop_hint(&relation, &hint.partition, token.version, until).await?;
        Ok(true)
    }
}
