//! A recorded batch's rows on their way into the metrics store, while the lane is read on.
//!
//! The newest day goes first and alone: rows of late days never stand before today's. A store that does
//! not answer is tried again for as long as the lease is certainly held; whatever was sent by then may
//! still arrive, and is the recorded batch, byte for byte, whoever sends it.

use super::{LaneDeps, flush::Batch, recording::Recording};
use breeze_store::{
    metrics::{FrozenBatch, InsertToken, MetricsError},
    state::StateError,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Inserts of late days under way at a time.
const CONCURRENT: usize = 4;
/// One try of an insert.
pub(super) const TRY: Duration = Duration::from_secs(30);
/// Between two tries.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
pub(super) const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// A day of a batch, with its token.
pub(super) type Day = (InsertToken, Arc<FrozenBatch>);

/// How inserting a batch ended.
#[derive(Debug)]
pub(super) enum End {
    /// Its rows are in.
    Inserted,
    /// Its events are as well.
    Recorded,
    /// A token's positions are another batch's; these days are not in.
    Overlaps {
        token: String,
        left: Vec<Day>,
    },
    /// The lease may have run out.
    Fenced,
    Failed(anyhow::Error),
}

/// A batch that is being inserted or, after that, recorded in the history.
pub(super) struct Inserting {
    pub(super) batch: Batch,
    pub(super) since: Instant,
    pub(super) end: BoxFuture<'static, End>,
}

impl fmt::Debug for Inserting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inserting").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Inserting {
    pub(super) fn new(deps: LaneDeps, batch: Batch, days: Vec<Day>) -> Self {
        Self { batch, since: Instant::now(), end: Box::pin(insert(deps, days)) }
    }

    /// The rest of the way, for a batch that is under way since then.
    pub(super) fn recording(deps: LaneDeps, batch: Batch, since: Instant, recording: Recording) -> Self {
        Self { batch, since, end: Box::pin(recording.record(deps)) }
    }
}

/// How the batch that is being inserted ended; never, if none is.
pub(super) async fn ended(inserting: &mut Option<Inserting>) -> End {
    match inserting {
        Some(inserting) => (&mut inserting.end).await,
        None => std::future::pending().await,
    }
}

async fn insert(deps: LaneDeps, mut days: Vec<Day>) -> End {
    days.sort_by_key(|(token, _)| std::cmp::Reverse(token.day));
    let mut overlap = None;
    let mut left = Vec::new();
    let mut days = days.into_iter();
    let newest: Vec<Day> = days.by_ref().take(1).collect();
    for days in [newest, days.collect()] {
        let tries = days.into_iter().map(|day| append(&deps, day));
        let mut ends = stream::iter(tries).buffer_unordered(CONCURRENT);
        while let Some(end) = ends.next().await {
            match end {
                End::Inserted | End::Recorded => {}
                End::Overlaps { token, left: days } => {
                    overlap = Some(token);
                    left.extend(days);
                }
                end @ (End::Fenced | End::Failed(_)) => return end,
            }
        }
    }
    deps.shared.status.lock().store_trouble.clear();
    overlap.map_or(End::Inserted, |token| End::Overlaps { token, left })
}

async fn append(deps: &LaneDeps, (token, batch): Day) -> End {
    let mut retry = Retry::new();
    loop {
        if !deps.shared.is_owned() {
            return End::Fenced;
        }
        let tried = tokio::time::timeout(TRY, deps.metrics.append(&token, &batch)).await;
        let late = || MetricsError::Unavailable(format!("no answer in {} s", TRY.as_secs()));
        match tried.unwrap_or_else(|_| Err(late())) {
            Ok(_) => return End::Inserted,
            Err(error @ (MetricsError::Full { .. } | MetricsError::Unavailable(_))) => {
                retry.after(deps, &error, "the metrics store does not take a batch").await;
            }
            Err(MetricsError::Overlap(other)) => return End::Overlaps { token: other, left: vec![(token, batch)] },
            Err(error @ (MetricsError::Invalid(_) | MetricsError::Corrupt(_))) => {
                return End::Failed(anyhow::Error::from(error).context("appending to the metrics store"));
            }
        }
    }
}

/// Waits between tries of a store beside the state, longer each time.
pub(super) struct Retry(Duration);

impl Retry {
    pub(super) const fn new() -> Self {
        Self(BACKOFF_FIRST)
    }

    /// Says what is wrong, aloud only when it begins, and waits.
    pub(super) async fn after(&mut self, deps: &LaneDeps, error: &(dyn std::error::Error + Sync), what: &str) {
        metrics::counter!("breeze_collector_store_retries_total").increment(1);
        let before = std::mem::replace(&mut deps.shared.status.lock().store_trouble, error.to_string());
        if before.is_empty() {
            tracing::warn!(lane = %deps.shared.lane, %error, "{what}; trying again, presence goes on");
        }
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MOST);
    }
}

/// A call of the state store that is given up after so long: it may have happened.
pub(super) async fn bounded<T>(
    time: Duration,
    call: impl Future<Output = Result<T, StateError>>,
) -> Result<T, StateError> {
    match tokio::time::timeout(time, call).await {
        Ok(done) => done,
        Err(_) => Err(StateError::Unavailable(format!("no answer in {} ms", time.as_millis()))),
    }
}
