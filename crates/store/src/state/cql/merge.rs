//! Merges: plain writes with their version as write timestamp, those of a partition together.

use super::{
    Inner,
    run::{Measured, Tries},
    tables::{Query, Relation},
    values::{Arg, bigint},
};
use crate::state::{Merge, StateError, check};
use bytes::Bytes;
use scylla::{
    errors::ExecutionError,
    statement::batch::{Batch, BatchType},
};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tokio::{task::JoinSet, time::timeout_at};

/// Requests of one call that are under way at the same time.
const MAX_CONCURRENT: usize = 64;
/// One request holds at most this many rows, and, beyond the first, bytes.
const MAX_BATCH_ROWS: usize = 64;
const MAX_BATCH_BYTES: usize = 64 * 1024;

type Group = (Arc<Relation>, Vec<Merge>);

pub(super) async fn merge(inner: &Arc<Inner>, merges: Vec<Merge>) -> Result<(), StateError> {
    let _measured = Measured::new("merge");
    metrics::counter!("breeze_state_merged_rows_total").increment(merges.len() as u64);
    let until = inner.cluster.deadline();
    let mut running = JoinSet::new();
    for (relation, rows) in groups(inner, merges).await? {
        if running.len() >= MAX_CONCURRENT {
            finished(running.join_next().await)?;
        }
        let inner = Arc::clone(inner);
        // Dropped with the call's future, which then says nothing of what happened.
        running.spawn(async move { inner.merge_group(&relation, &rows, until).await });
    }
    while let Some(one) = running.join_next().await {
        finished(Some(one))?;
    }
    Ok(())
}

fn finished(one: Option<Result<Result<(), StateError>, tokio::task::JoinError>>) -> Result<(), StateError> {
    match one {
        None => Ok(()),
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => Err(StateError::Unavailable(format!("a merge was cut off: {error}"))),
    }
}

/// Merges by partition, cut into requests.
async fn groups(inner: &Inner, merges: Vec<Merge>) -> Result<Vec<Group>, StateError> {
    let mut relations = HashMap::new();
    let mut last: HashMap<(&'static str, Bytes), (usize, usize)> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for merge in merges {
        let relation = match relations.get(merge.table.name) {
            Some(relation) => Arc::clone(relation),
            None => {
                let relation = inner.relation(merge.table.into()).await?;
                relations.insert(merge.table.name, Arc::clone(&relation));
                relation
            }
        };
        let bytes = check::merge_bytes(&merge);
        let (group, held) =
            last.entry((merge.table.name, merge.partition.clone())).or_insert((groups.len(), usize::MAX / 2));
        let room = *held + bytes <= MAX_BATCH_BYTES && groups.get(*group).is_some_and(|g| g.1.len() < MAX_BATCH_ROWS);
        if room && let Some((_, rows)) = groups.get_mut(*group) {
            *held += bytes;
            rows.push(merge);
        } else {
            (*group, *held) = (groups.len(), bytes);
            groups.push((relation, vec![merge]));
        }
    }
    Ok(groups)
}

impl Inner {
    async fn merge_group(&self, relation: &Relation, rows: &[Merge], until: Instant) -> Result<(), StateError> {
        let mut tries = Tries::new(until);
        loop {
            let sent = timeout_at(until.into(), self.merge_once(relation, rows)).await;
            let error = match sent {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => ExecutionError::RequestTimeout(self.cluster.request_timeout),
            };
            if !tries.again("merge", &error).await {
                return Err(self.cluster.failed(&error));
            }
        }
    }

    async fn merge_once(&self, relation: &Relation, rows: &[Merge]) -> Result<(), ExecutionError> {
        if let [row] = rows {
            let (query, values) = statement(row);
            let prepared = relation.prepare(&self.cluster, query).await?;
            self.cluster.session.execute_unpaged(&prepared, values).await?;
            return Ok(());
        }
        // Within one partition it is one mutation, without the batch log.
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        batch.set_consistency(relation.route.level());
        batch.set_execution_profile_handle(Some(self.cluster.profile(relation.route, super::connect::Mode::Plain)));
        let mut bound = Vec::with_capacity(rows.len());
        for row in rows {
            let (query, values) = statement(row);
            batch.append_statement(relation.prepare(&self.cluster, query).await?);
            bound.push(values);
        }
        self.cluster.session.batch(&batch, &bound).await?;
        Ok(())
    }
}

fn statement(merge: &Merge) -> (Query, Vec<Arg>) {
    let version = Arg::Number(bigint(merge.version));
    let (partition, key) = (Arg::Blob(merge.partition.clone()), Arg::Blob(merge.key.clone()));
    match &merge.value {
        Some(value) => (Query::Merge, vec![partition, key, Arg::Blob(value.clone()), version]),
        None => (Query::MergeAway, vec![version, partition, key]),
    }
}
