//! The state on ScyllaDB or Cassandra, by CQL. Docs: `docs/adr/0011-cql-state.md`.
//!
//! A commit is one conditional batch in one partition; a merge is a plain write with its version as
//! write timestamp. What was asked is judged by the servers' Paxos; what a lost answer leaves open is
//! read back at the serial level.

mod commit;
mod connect;
mod errors;
mod hints;
mod locks;
mod merge;
mod migrate;
mod outbox;
mod read;
mod recent;
mod run;
mod slots;
mod tables;
mod values;

pub use migrate::{SCHEMA_VERSION, migrate};

use super::{
    Commit, CommitOutcome, CommitTable, FamilyPage, HintPage, Merge, OutboxHint, OutboxPosition, Page, PendingItem,
    Row, Scan, State, StateError, Table, check,
};
use async_trait::async_trait;
use bytes::Bytes;
use connect::{Cluster, Route};
use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};
use tables::Catalog;

/// Where the database is, and who we are there.
#[derive(Clone)]
pub struct CqlConfig {
    /// `host:port`; nodes that are asked for the others. At least one.
    pub contact_points: Vec<String>,
    /// The data centre of this process: device and log tables are written and read there.
    pub datacenter: String,
    /// The data centre that coordinates the configuration, whichever node asks.
    pub config_datacenter: String,
    /// Keyspaces are `<prefix>_config`, `<prefix>_device` and `<prefix>_log`. `[a-z][a-z0-9_]*`.
    pub keyspace_prefix: String,
    pub username: Option<String>,
    pub password: Option<String>,
    /// PEM file of the authorities that sign the servers' certificates, which name IP addresses.
    /// Without it the connection is in plain text, and only to loopback.
    pub ca_file: Option<PathBuf>,
    /// Copies in each data centre; used by [`migrate`] when it creates keyspaces.
    pub replication: BTreeMap<String, u32>,
    /// How long one request may take. A call of the state makes several and takes at most three times as long.
    pub request_timeout: Duration,
    pub connect_timeout: Duration,
    /// The tables that must be there when connecting.
    pub tables: Vec<Table>,
}

impl Default for CqlConfig {
    fn default() -> Self {
        Self {
            contact_points: Vec::new(),
            datacenter: String::new(),
            config_datacenter: String::new(),
            keyspace_prefix: "breeze".into(),
            username: None,
            password: None,
            ca_file: None,
            replication: BTreeMap::new(),
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            tables: crate::model::tables(),
        }
    }
}

impl fmt::Debug for CqlConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CqlConfig")
            .field("contact_points", &self.contact_points)
            .field("datacenter", &self.datacenter)
            .field("config_datacenter", &self.config_datacenter)
            .field("keyspace_prefix", &self.keyspace_prefix)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("ca_file", &self.ca_file)
            .field("replication", &self.replication)
            .finish_non_exhaustive()
    }
}

/// See the module. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone)]
pub struct CqlState {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    catalog: Catalog,
    turns: locks::Turns,
}

impl fmt::Debug for CqlState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CqlState").field("cluster", &self.inner.cluster).finish_non_exhaustive()
    }
}

impl CqlState {
    /// Connects, and checks that the schema is one that this version knows and holds the tables of
    /// the configuration.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] when no contact point answers in time: try again.
    /// [`StateError::Schema`] when `breeze migrate` has to run, or a newer version has;
    /// [`StateError::Refused`] for credentials; [`StateError::Settings`] for the configuration.
    pub async fn connect(config: CqlConfig) -> Result<Self, StateError> {
        let cluster = Cluster::connect(&config).await?;
        let catalog = Catalog::load(&cluster, &config.keyspace_prefix).await?;
        catalog.check(&config.tables)?;
        Ok(Self { inner: Arc::new(Inner { cluster, catalog, turns: locks::Turns::default() }) })
    }

    /// Whether the database answers, at the level at which this process reads.
    ///
    /// # Errors
    /// As [`CqlState::connect`].
    pub async fn ping(&self) -> Result<(), StateError> {
        tables::read_schema(&self.inner.cluster, self.inner.catalog.prefix(), Route::Own).await.map(drop)
    }
}

#[async_trait]
impl State for CqlState {
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StateError> {
        check::commit(&commit)?;
        self.inner.commit(commit).await
    }

    async fn merge(&self, merges: Vec<Merge>) -> Result<(), StateError> {
        check::merges(&merges)?;
        merge::merge(&self.inner, merges).await
    }

    async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        check::place(table.name(), partition, Some(key))?;
        self.inner.get(table, partition, key).await
    }

    async fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError> {
        check::place(table.name, partition, None)?;
        let relation = self.inner.relation(table.into()).await?;
        self.inner.partition_version(&relation, partition).await
    }

    async fn scan(&self, table: Table, partition: &[u8], scan: Scan) -> Result<Page, StateError> {
        check::place(table.name(), partition, None)?;
        check::scan(&scan)?;
        let relation = self.inner.relation(table).await?;
        self.inner.scan(&relation, partition, &scan).await
    }

    async fn scan_family(
        &self,
        table: Table,
        bucket: u16,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError> {
        check::table(table.name())?;
        let bucket = check::bucket(bucket)?;
        let relation = self.inner.relation(table).await?;
        self.inner.scan_family(&relation, bucket, cursor, limit).await
    }

    async fn outbox(&self, table: CommitTable, partition: &[u8], limit: usize) -> Result<Vec<PendingItem>, StateError> {
        check::place(table.name, partition, None)?;
        self.inner.outbox(table, partition, limit).await
    }

    async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        check::place(table.name, partition, None)?;
        self.inner.outbox_delivered(table, partition, through).await
    }

    async fn outbox_hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        self.inner.hints_page(cursor, limit).await
    }

    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError> {
        self.inner.clear_hint(hint).await
    }
}
