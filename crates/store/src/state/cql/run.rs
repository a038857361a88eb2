//! Running statements: repetition within a deadline, latencies, what is counted.

use super::{
    Inner, errors,
    tables::{Query, Relation},
};
use crate::state::StateError;
use scylla::{
    errors::ExecutionError,
    response::{PagingState, PagingStateResponse, query_result::QueryResult, query_result::QueryRowsResult},
    serialize::row::SerializeRow,
};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout_at};

/// How long a request that may be repeated is, beyond what the driver does: a connection that was cut
/// is there again sooner, and a database that is away is told to be in time.
const PATIENCE: Duration = Duration::from_secs(2);
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_LAST: Duration = Duration::from_millis(500);

/// How often and how long something was tried.
pub(super) struct Tries {
    count: u32,
    began: Instant,
    until: Instant,
}

impl Tries {
    pub(super) fn new(until: Instant) -> Self {
        Self { count: 0, began: Instant::now(), until }
    }

    /// Waits after a failure. Whether to try once more.
    pub(super) async fn again(&mut self, operation: &'static str, error: &ExecutionError) -> bool {
        count(operation, error);
        self.count += 1;
        if errors::is_final(error) || Instant::now() >= self.until || self.began.elapsed() >= PATIENCE {
            return false;
        }
        metrics::counter!("breeze_state_retries_total", "operation" => operation).increment(1);
        back_off(self.count).await;
        true
    }
}

/// A random wait that grows with the attempts before it.
pub(super) async fn back_off(attempt: u32) {
    let longest = BACKOFF_FIRST.saturating_mul(1 << attempt.min(10)).min(BACKOFF_LAST);
    sleep(longest.mul_f64(rand::random::<f64>())).await;
}

/// Measures a call until it is dropped.
pub(super) struct Measured(&'static str, Instant);

impl Measured {
    pub(super) fn new(operation: &'static str) -> Self {
        Self(operation, Instant::now())
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        metrics::histogram!("breeze_state_seconds", "operation" => self.0).record(self.1.elapsed().as_secs_f64());
    }
}

/// Counts an attempt that failed.
pub(super) fn count(operation: &'static str, error: &ExecutionError) {
    if errors::is_timeout(error) {
        metrics::counter!("breeze_state_timeouts_total", "operation" => operation).increment(1);
    }
}

impl Inner {
    /// Runs a statement that is idempotent, again where that may help, until `until`.
    pub(super) async fn run(
        &self,
        operation: &'static str,
        relation: &Relation,
        query: Query,
        values: impl SerializeRow,
        until: Instant,
    ) -> Result<QueryResult, StateError> {
        let (answer, _) =
            self.run_page(operation, relation, query, values, (usize::MAX, PagingState::start()), until).await?;
        Ok(answer)
    }

    /// The same for a page of at most that many rows, from a place on; all where that is `usize::MAX`.
    pub(super) async fn run_page(
        &self,
        operation: &'static str,
        relation: &Relation,
        query: Query,
        values: impl SerializeRow,
        (rows, from): (usize, PagingState),
        until: Instant,
    ) -> Result<(QueryResult, PagingStateResponse), StateError> {
        let mut tries = Tries::new(until);
        loop {
            let once = self.once(relation, query, &values, rows, from.clone());
            let error = match timeout_at(until.into(), once).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => ExecutionError::RequestTimeout(self.cluster.request_timeout),
            };
            if !tries.again(operation, &error).await {
                return Err(self.cluster.failed(&error));
            }
        }
    }

    async fn once(
        &self,
        relation: &Relation,
        query: Query,
        values: &impl SerializeRow,
        rows: usize,
        from: PagingState,
    ) -> Result<(QueryResult, PagingStateResponse), ExecutionError> {
        let mut prepared = relation.prepare(&self.cluster, query).await?;
        let session = &self.cluster.session;
        if rows == usize::MAX {
            return Ok((session.execute_unpaged(&prepared, values).await?, PagingStateResponse::NoMorePages));
        }
        prepared.set_page_size(i32::try_from(rows).unwrap_or(i32::MAX).max(1));
        session.execute_single_page(&prepared, values, from).await
    }
}

/// The rows of an answer that has some.
pub(super) fn rows_of(answer: QueryResult) -> Result<QueryRowsResult, StateError> {
    answer.into_rows_result().map_err(|error| errors::corrupt("an answer without rows", error))
}

/// Whether a conditional statement or batch applied; `None` when the answer does not say. Cassandra
/// answers one row that says so, or one for each conditioned row that exists; ScyllaDB one for each
/// statement.
pub(super) fn applied(answer: QueryResult) -> Option<bool> {
    let rows = answer.into_rows_result().ok()?;
    let (column, _) = rows.column_specs().get_by_name("[applied]")?;
    let first = rows.first_row::<scylla::value::Row>().ok()?;
    first.columns.get(column)?.as_ref()?.as_boolean()
}
