//! Commits: one conditional batch each, and the reads that decide what became of it.
//!
//! What is read first is a hint: the batch carries all of it as conditions (the partition's version
//! and the version of every asserted row), so that Paxos judges the asserts, not the read. A conflict is told only
//! from a read at the serial level. A batch whose answer was lost can apply as long as the partition's
//! version is the one it names and never again after that; it is sent again under the same condition,
//! so that one of the two at most applies, and found by its id.

use super::{
    Inner, errors,
    recent::{Id, Recent},
    run::{Measured, applied, back_off, count, rows_of},
    slots::{Left, now_ms},
    tables::{HEAD, Query, ROW, Relation},
    values::{self, Arg, bigint},
};
use crate::state::{Assert, Commit, CommitOutcome, OutboxItem, OutboxPosition, Row, StateError};
use bytes::Bytes;
use scylla::{
    errors::ExecutionError,
    statement::batch::{Batch, BatchType},
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};
use tokio::time::timeout_at;

/// Batches sent for one commit.
const MAX_ATTEMPTS: u32 = 200;
/// Rows read by one statement. ScyllaDB takes at most 100 by default.
const KEYS_AT_ONCE: usize = 90;

/// A commit, of a table that is known.
#[derive(Debug, Default)]
pub(super) struct Write {
    pub(super) partition: Bytes,
    pub(super) asserts: Vec<Assert>,
    pub(super) puts: Vec<(Bytes, Bytes)>,
    pub(super) deletes: Vec<Bytes>,
    pub(super) outbox: Vec<OutboxItem>,
}

/// What a partition holds of what a commit asserts.
#[derive(Debug, Default)]
struct Seen {
    version: u64,
    recent: Recent,
    rows: BTreeMap<Bytes, Row>,
    serial: bool,
}

impl Seen {
    fn holds(&self, assert: &Assert) -> bool {
        match assert {
            Assert::Absent(key) => !self.rows.contains_key(key),
            Assert::Exists(key) => self.rows.contains_key(key),
            Assert::Version(key, version) => self.rows.get(key).is_some_and(|row| row.version == *version),
            Assert::PartitionVersion(version) => self.version == *version,
        }
    }
}

impl Inner {
    pub(super) async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StateError> {
        let relation = self.relation(commit.table.into()).await?;
        let Commit { partition, asserts, puts, deletes, outbox, table: _ } = commit;
        self.write(&relation, &Write { partition, asserts, puts, deletes, outbox }).await
    }

    pub(super) async fn write(&self, relation: &Relation, write: &Write) -> Result<CommitOutcome, StateError> {
        let _measured = Measured::new("commit");
        let until = self.cluster.deadline();
        let _turn = self.turns.take(&relation.target, &write.partition, until).await;
        let id: Id = rand::random();
        // The version under which a batch may still apply whose answer was lost.
        let mut open: Option<u64> = None;
        let mut lost: Option<ExecutionError> = None;
        let mut seen = self.look(relation, write, false, until).await?;
        for attempt in 0..MAX_ATTEMPTS {
            if let Some(version) = seen.recent.version_of(&id, seen.version) {
                read_back(open, "applied");
                return Ok(CommitOutcome::Applied { version });
            }
            if let Some(base) = open
                && seen.serial
                && seen.version != base
            {
                if seen.version.saturating_sub(base) > super::recent::KEPT as u64 {
                    read_back(open, "undecided");
                    return Err(undecided(relation, "too many others have committed since"));
                }
                read_back(open, "absent");
                open = None;
            }
            if !write.asserts.iter().all(|assert| seen.holds(assert)) {
                if seen.serial {
                    let rows = seen.rows.into_values().collect();
                    return Ok(CommitOutcome::Conflict { partition_version: seen.version, rows });
                }
                seen = self.look(relation, write, true, until).await?;
                continue;
            }
            if Instant::now() >= until {
                break;
            }
            let slot = if write.outbox.is_empty() { 0 } else { self.hint(relation, write, &seen, until).await? };
            match self.attempt(relation, write, &seen, (id, slot), until).await {
                Ok(true) => return Ok(CommitOutcome::Applied { version: seen.version + 1 }),
                Ok(false) => {
                    metrics::counter!("breeze_state_contention_total", "table" => relation.name.clone()).increment(1);
                    back_off(attempt / 2).await;
                    let before = seen.version;
                    seen = self.settle(relation, write, open, until).await?;
                    if seen.version == before && !seen.serial {
                        seen = self.look(relation, write, true, until).await?;
                    }
                }
                Err(error) => {
                    count("commit", &error);
                    if errors::is_final(&error) && open.is_none() {
                        return Err(self.cluster.failed(&error));
                    }
                    open = Some(seen.version);
                    lost = Some(error);
                    metrics::counter!("breeze_state_read_backs_total").increment(1);
                    back_off(attempt).await;
                    seen = self.settle(relation, write, open, until).await?;
                }
            }
        }
        Err(lost.map_or_else(
            || undecided(relation, "others were always quicker"),
            |error| undecided(relation, &self.cluster.failed(&error).to_string()),
        ))
    }

    /// Leaves the hint for what would be committed; in which slot.
    async fn hint(&self, relation: &Relation, write: &Write, seen: &Seen, until: Instant) -> Result<i64, StateError> {
        let tables = self.hints_of(relation)?;
        let (partition, version) = (&write.partition, seen.version + 1);
        let hint = Left { table: &relation.name, partition, version, made_ms: now_ms() };
        self.leave_hint(&tables, hint, until).await
    }

    /// Looks again: at the serial level as long as a batch may still apply.
    async fn settle(
        &self,
        relation: &Relation,
        write: &Write,
        open: Option<u64>,
        until: Instant,
    ) -> Result<Seen, StateError> {
        if open.is_none() {
            return self.look(relation, write, false, until).await;
        }
        // To give up would leave the caller not knowing: until the last moment.
        loop {
            match self.look(relation, write, true, until).await {
                Ok(seen) => return Ok(seen),
                Err(error) if Instant::now() >= until => return Err(undecided(relation, &error.to_string())),
                Err(error) => tracing::debug!(table = relation.name, %error, "a commit is still to be read back"),
            }
        }
    }

    /// Reads the head and the asserted rows.
    async fn look(&self, relation: &Relation, write: &Write, serial: bool, until: Instant) -> Result<Seen, StateError> {
        let keys = write.asserts.iter().filter_map(Assert::key).map(|key| (ROW, key.clone()));
        let wanted: Vec<(i8, Bytes)> = std::iter::once((HEAD, Bytes::new())).chain(keys).collect();
        let (operation, query) = if serial { ("serial_read", Query::SerialKeys) } else { ("read", Query::Keys) };
        let mut seen = Seen { serial, ..Seen::default() };
        for some in wanted.chunks(KEYS_AT_ONCE) {
            let answer = self.run(operation, relation, query, (&write.partition, some), until).await?;
            let answer = rows_of(answer)?;
            let rows = answer.rows::<(i8, Bytes, Option<i64>, Option<Bytes>)>();
            for row in rows.map_err(|error| errors::corrupt(&relation.target, error))? {
                let (kind, key, version, value) = row.map_err(|error| errors::corrupt(&relation.target, error))?;
                let Some(version) = version else { continue };
                let (version, value) = (values::version(version)?, value.unwrap_or_default());
                if kind == HEAD {
                    seen.version = version;
                    seen.recent = Recent::read(&value)?;
                } else {
                    seen.rows.insert(key.clone(), Row { key, value, version });
                }
            }
        }
        Ok(seen)
    }

    /// Sends the batch once. Whether it applied.
    async fn attempt(
        &self,
        relation: &Relation,
        write: &Write,
        seen: &Seen,
        marks: (Id, i64),
        until: Instant,
    ) -> Result<bool, ExecutionError> {
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_execution_profile_handle(Some(self.cluster.profile(relation.route, super::connect::Mode::Serial)));
        batch.set_consistency(relation.route.level());
        batch.set_serial_consistency(Some(relation.route.serial()));
        let mut bound = Vec::new();
        for (query, values) in statements(write, seen, marks) {
            batch.append_statement(relation.prepare(&self.cluster, query).await?);
            bound.push(values);
        }
        let sent = timeout_at(until.into(), self.cluster.session.batch(&batch, &bound)).await;
        // An answer that cannot be read is one that was lost: the partition is read back.
        let lost = ExecutionError::RequestTimeout(self.cluster.request_timeout);
        match sent {
            Ok(answer) => applied(answer?).ok_or(lost),
            Err(_) => Err(lost),
        }
    }

    /// At the serial level, so that rows that are read later at the table's are not older: whatever
    /// made this version is at a quorum then.
    pub(super) async fn partition_version(&self, relation: &Relation, partition: &[u8]) -> Result<u64, StateError> {
        let _measured = Measured::new("partition_version");
        let write = Write { partition: Bytes::copy_from_slice(partition), ..Write::default() };
        Ok(self.look(relation, &write, true, self.cluster.deadline()).await?.version)
    }
}

/// The statements of a batch with their values, the head's first: with its id and the slot of its hint.
fn statements(write: &Write, seen: &Seen, (id, slot): (Id, i64)) -> Vec<(Query, Vec<Arg>)> {
    let partition = || Arg::Blob(write.partition.clone());
    let version = seen.version + 1;
    let mut asserted: HashMap<&Bytes, Arg> = write
        .asserts
        .iter()
        .filter_map(Assert::key)
        .map(|key| (key, Arg::Version(seen.rows.get(key).map(|row| bigint(row.version)))))
        .collect();
    let was = (seen.version > 0).then_some(bigint(seen.version));
    let recent = Arg::Blob(seen.recent.and(id).into());
    let mut all = vec![(Query::SetHead, vec![recent, Arg::Number(bigint(version)), partition(), Arg::Version(was)])];
    for (key, value) in &write.puts {
        let mut values =
            vec![Arg::Blob(value.clone()), Arg::Number(bigint(version)), partition(), Arg::Blob(key.clone())];
        let condition = asserted.remove(key);
        let query = if condition.is_some() { Query::PutIf } else { Query::Put };
        values.extend(condition);
        all.push((query, values));
    }
    for key in &write.deletes {
        let mut values = vec![partition(), Arg::Blob(key.clone())];
        let condition = asserted.remove(key);
        let query = if condition.is_some() { Query::DeleteIf } else { Query::Delete };
        values.extend(condition);
        all.push((query, values));
    }
    for (key, condition) in asserted {
        all.push((Query::Guard, vec![partition(), Arg::Blob(key.clone()), condition]));
    }
    for (index, item) in (0..).zip(&write.outbox) {
        let key = super::outbox::item_key(OutboxPosition { version, index });
        let value = super::outbox::item_value(item);
        let slot = Arg::Number(super::outbox::item_slot(slot));
        all.push((Query::Item, vec![Arg::Blob(value), slot, partition(), Arg::Blob(key)]));
    }
    all
}

/// Counts what became of a batch whose answer was lost, where one was.
fn read_back(open: Option<u64>, decided: &'static str) {
    if open.is_some() {
        metrics::counter!("breeze_state_decided_total", "decided" => decided).increment(1);
    }
}

fn undecided(relation: &Relation, why: &str) -> StateError {
    StateError::Unavailable(format!("a commit to {} may or may not have happened: {why}", relation.name))
}
