//! The metrics engine of a region: ClickHouse over HTTP.
//!
//! An append is at most three inserts, each of one partition and one block, with bytes that are the same
//! every time and a token that the server remembers: heartbeats, named values, and last a row that says
//! which positions are appended. Before them one query asks what is there already, so an append is
//! exactly once within the window of the server's memory and beyond it; `append.rs` says how.
//!
//! Queries take the resolution that `plan.rs` chooses, in one statement whose rows, time and memory
//! are bounded. Roll-ups are made by materialized views with each insert; [`ClickHouseMetrics::maintain`]
//! makes those of past days again where they do not say what the rows say.

mod append;
pub(crate) mod client;
pub(crate) mod encode;
pub(crate) mod literal;
mod migrate;
mod query;
pub(crate) mod schema;
mod upkeep;

pub use client::ClickHouseConfig;
pub(crate) use migrate::check as check_schema;
pub use migrate::migrate;
pub use schema::SCHEMA_VERSION;

use super::plan::day_of;
use super::{Appended, FrozenBatch, InsertToken, Metrics, MetricsError, Query, QueryResult, Usage};
use async_trait::async_trait;
use client::Connection;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{OnceCell, Semaphore};

/// Inserts that the server remembers the tokens of, each table for itself.
///
/// Within it a repeated insert is dropped by the server, views and all. It must outlast what can be under
/// way unseen: an insert that was sent and lands after a second attempt has looked whether it is there.
/// That is seconds (the timeouts of [`ClickHouseConfig`] and of the server's reads), so at 100 inserts a
/// second, far above the few that a region makes, this is a hundred times enough. A repetition after any
/// longer pause is recognised by what is stored.
pub const TOKEN_WINDOW: u32 = 100_000;
/// How long at least the server remembers a token: [`TOKEN_WINDOW`] at 160 inserts a second.
pub const TOKEN_WINDOW_SECONDS: u64 = 600;

/// Appends that run at a time.
const MAX_RUNNING_APPENDS: usize = 64;
/// Queries that run at a time.
const MAX_RUNNING_QUERIES: usize = 16;
/// Queries that run or wait.
const MAX_QUERIES: usize = 512;

/// The engine. Shared as `Arc`; holds connections and no task.
pub struct ClickHouseMetrics {
    connection: Connection,
    clock: Clock,
    schema: OnceCell<()>,
    appends: Semaphore,
    running: Semaphore,
    admitted: Semaphore,
    upkeep: tokio::sync::Mutex<upkeep::Memory>,
}

/// Milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

impl fmt::Debug for ClickHouseMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseMetrics").field("config", &self.connection.config).finish_non_exhaustive()
    }
}

impl ClickHouseMetrics {
    /// Connects nowhere yet: the schema is checked by the first call that needs the server. For readers
    /// that start whether or not a region answers.
    ///
    /// # Errors
    /// [`MetricsError::Invalid`] if the configuration cannot be used.
    pub fn new(config: ClickHouseConfig) -> Result<Arc<Self>, MetricsError> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Self::with_clock(config, Arc::new(now))
    }

    /// As [`ClickHouseMetrics::new`], with a clock of one's own: it decides what has expired.
    ///
    /// # Errors
    /// [`MetricsError::Invalid`] if the configuration cannot be used.
    pub fn with_clock(config: ClickHouseConfig, clock: Clock) -> Result<Arc<Self>, MetricsError> {
        Ok(Arc::new(Self {
            connection: Connection::new(config)?,
            clock,
            schema: OnceCell::new(),
            appends: Semaphore::new(MAX_RUNNING_APPENDS),
            running: Semaphore::new(MAX_RUNNING_QUERIES),
            admitted: Semaphore::new(MAX_QUERIES),
            upkeep: tokio::sync::Mutex::default(),
        }))
    }

    /// Connects and checks the schema.
    ///
    /// # Errors
    /// [`MetricsError::Invalid`] for a configuration or a schema version that this program cannot use (say
    /// so and stop), [`MetricsError::Unavailable`] while the server does not answer (try again).
    pub async fn connect(config: ClickHouseConfig) -> Result<Arc<Self>, MetricsError> {
        let engine = Self::new(config)?;
        engine.ready().await?;
        Ok(engine)
    }

    /// Whether the server answers now.
    ///
    /// # Errors
    /// As [`ClickHouseMetrics::connect`].
    pub async fn ping(&self) -> Result<(), MetricsError> {
        self.ready().await?;
        self.connection.execute("SELECT 1").await
    }

    /// Where the engine is, for messages: "https://clickhouse.eu:8443/breeze".
    #[must_use]
    pub fn place(&self) -> String {
        self.connection.place()
    }

    async fn ready(&self) -> Result<(), MetricsError> {
        self.schema.get_or_try_init(|| migrate::check(&self.connection)).await.map(|_| ())
    }

    /// The first days that are kept of raw rows and of each roll-up.
    fn floors(&self) -> [u32; 4] {
        let today = day_of((self.clock)());
        self.connection.config.retention_days().map(|days| today.saturating_sub(days))
    }
}

#[async_trait]
impl Metrics for ClickHouseMetrics {
    async fn append(&self, token: &InsertToken, batch: &FrozenBatch) -> Result<Appended, MetricsError> {
        let _permit = self.appends.acquire().await.map_err(|_| stopped())?;
        self.ready().await?;
        let result = self.append_batch(token, batch).await;
        match &result {
            Ok(Appended::New) => metrics::counter!("breeze_metrics_batches_total").increment(1),
            Ok(Appended::Duplicate) => metrics::counter!("breeze_metrics_duplicate_batches_total").increment(1),
            Err(_) => metrics::counter!("breeze_metrics_append_failures_total").increment(1),
        }
        result
    }

    async fn query(&self, query: &Query) -> Result<QueryResult, MetricsError> {
        let busy = || MetricsError::Unavailable(format!("more than {MAX_QUERIES} queries are waiting"));
        let _admitted = self.admitted.try_acquire().map_err(|_| busy())?;
        let _running = self.running.acquire().await.map_err(|_| stopped())?;
        self.ready().await?;
        self.run_query(query).await
    }

    async fn usage(&self) -> Result<Usage, MetricsError> {
        self.ready().await?;
        let sql = "SELECT toUInt64(sum(bytes_on_disk)), toUInt64(sumIf(rows, table = 'heartbeats')), \
                   toUInt64(sumIf(rows, table = 'named')), toUInt64(count()) \
                   FROM system.parts WHERE database = ? AND active";
        let database = &self.connection.config.database;
        let (bytes, heartbeat_rows, named_rows, segments) =
            self.connection.fetch_one(self.connection.client().query(sql).bind(database)).await?;
        Ok(Usage { bytes, heartbeat_rows, named_rows, segments })
    }
}

fn stopped() -> MetricsError {
    MetricsError::Unavailable("the metrics engine has stopped".to_owned())
}
