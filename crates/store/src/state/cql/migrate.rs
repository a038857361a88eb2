//! Creates and upgrades the schema: forward only, by one node at a time.
//!
//! A lease in the schema's own table (with a time to live, so that nobody's clock matters) lets one
//! node in; every step may be repeated, so that a node that died half-way is followed by another.

use super::{
    CqlConfig,
    connect::{Cluster, Mode, Route, keyspaces},
    run::applied,
    tables::{MAX_CQL_NAME, Spec, cql_name, family_name, read_schema, version_of},
};
use crate::state::{Family, StateError, TOMBSTONE_SECONDS, Table};
use scylla::{
    serialize::row::SerializeRow,
    statement::{Consistency, SerialConsistency, Statement},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Of the schema that this version makes and knows.
pub const SCHEMA_VERSION: u64 = 2;

/// How long the lease lasts unless it is renewed, which happens before every step.
const LEASE_SECONDS: i32 = 120;
/// How long to wait for another node that migrates.
const LEASE_WAIT: Duration = Duration::from_secs(300);
const LEASE_POLL: Duration = Duration::from_millis(300);
/// One change of the schema may take this long on a busy cluster.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Deleted hints are forgotten soon: one that comes back, from a replica that missed its deletion for so
/// long, is one for nothing, or in a slot that nobody reads. Not 0: servers keep writes for a replica that
/// is away no longer than this.
const HINT_GRACE_SECONDS: u64 = 3600;
/// Makes keyspaces and tables that are not there yet, and brings the schema to [`SCHEMA_VERSION`].
/// What was done, a line each; nothing where nothing was to be done. Several nodes may call it at the
/// same time.
///
/// # Errors
/// [`StateError::Schema`] when the schema is newer, or a table differs in what is fixed for ever;
/// [`StateError::Settings`] for the configuration; [`StateError::Unavailable`]: run it again.
pub async fn migrate(config: &CqlConfig, tables: &[Table]) -> Result<Vec<String>, StateError> {
    let replication = replication(config)?;
    for table in tables {
        check_name(*table)?;
    }
    let cluster = Cluster::connect(config).await?;
    let mut migration = Migration {
        cluster: &cluster,
        prefix: &config.keyspace_prefix,
        holder: format!("{:016x}", rand::random::<u64>()),
        scylla: is_scylla(&cluster).await?,
        done: Vec::new(),
    };
    migration.keyspaces(&replication).await?;
    migration.schema_table().await?;
    migration.acquire().await?;
    let outcome = migration.upgrade(tables).await;
    let released = migration.release().await;
    outcome.and(released)?;
    Ok(migration.done)
}

/// The options of a keyspace, after its data centres were looked at.
fn replication(config: &CqlConfig) -> Result<String, StateError> {
    let wrong = |said: String| Err(StateError::Settings(format!("replication: {said}")));
    for wanted in [&config.datacenter, &config.config_datacenter] {
        if !config.replication.contains_key(wanted) {
            return wrong(format!("data centre {wanted:?} is not in it"));
        }
    }
    let mut options = String::from("{'class': 'NetworkTopologyStrategy'");
    for (datacenter, copies) in &config.replication {
        if datacenter.contains('\'') || *copies == 0 {
            return wrong(format!("{datacenter:?} = {copies} cannot be"));
        }
        options.push_str(&format!(", '{datacenter}': {copies}"));
    }
    options.push('}');
    Ok(options)
}

/// The schema's own table is the only thing made without the lease. With its id given, nodes that make
/// it at the same time make the same one.
fn schema_table_id(prefix: &str) -> String {
    let hash = Sha256::digest(format!("breeze_schema of {prefix}"));
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn check_name(table: Table) -> Result<(), StateError> {
    let name = table.name();
    let plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if name.is_empty() || !plain || name.len() > MAX_CQL_NAME {
        return Err(StateError::Invalid(format!("table {name:?} is not 1 to {MAX_CQL_NAME} of a-z 0-9 _")));
    }
    Ok(())
}

async fn is_scylla(cluster: &Cluster) -> Result<bool, StateError> {
    let mut select = Statement::new(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'system' AND table_name = 'scylla_local'",
    );
    select.set_is_idempotent(true);
    select.set_consistency(Consistency::One);
    let answer = cluster.session.query_unpaged(select, ()).await.map_err(|error| cluster.failed(&error))?;
    Ok(answer.into_rows_result().is_ok_and(|rows| rows.rows_num() > 0))
}

struct Migration<'c> {
    cluster: &'c Cluster,
    prefix: &'c str,
    holder: String,
    scylla: bool,
    done: Vec<String>,
}

impl Migration<'_> {
    async fn change(&self, text: String) -> Result<(), StateError> {
        let mut statement = Statement::new(text);
        statement.set_request_timeout(Some(STEP_TIMEOUT));
        self.cluster.session.query_unpaged(statement, ()).await.map_err(|error| self.cluster.failed(&error))?;
        self.agreed().await
    }

    async fn agreed(&self) -> Result<(), StateError> {
        let agreed = self.cluster.session.await_schema_agreement().await;
        agreed.map(drop).map_err(|error| StateError::Unavailable(format!("nodes do not agree on the schema: {error}")))
    }

    async fn keyspaces(&mut self, replication: &str) -> Result<(), StateError> {
        let tablets = if self.scylla { " AND tablets = {'enabled': false}" } else { "" };
        for keyspace in keyspaces(self.prefix) {
            let found = self.replication_of(&keyspace).await?;
            match found {
                None => {
                    self.change(format!(
                        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}{tablets}"
                    ))
                    .await?;
                    self.done.push(format!("created keyspace {keyspace} with replication {replication}"));
                }
                Some(found) if found != replication => self.done.push(format!(
                    "keyspace {keyspace} has replication {found}, the configuration says {replication}: alter it by \
                     hand and rebuild or repair the new replicas; nothing was changed"
                )),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// As [`replication`] writes it.
    async fn replication_of(&self, keyspace: &str) -> Result<Option<String>, StateError> {
        let mut select =
            Statement::new("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?".to_owned());
        select.set_is_idempotent(true);
        select.set_consistency(Consistency::One);
        let answer = self.cluster.session.query_unpaged(select, (keyspace,)).await;
        let answer = answer.map_err(|error| self.cluster.failed(&error))?.into_rows_result();
        let answer = answer.map_err(|error| super::errors::corrupt("system_schema.keyspaces", error))?;
        let row = answer.maybe_first_row::<(BTreeMap<String, String>,)>();
        let row = row.map_err(|error| super::errors::corrupt("system_schema.keyspaces", error))?;
        Ok(row.map(|(mut options,)| {
            let class = options.remove("class").unwrap_or_default();
            let class = class.rsplit('.').next().unwrap_or_default().to_owned();
            let copies: String = options.iter().map(|(name, copies)| format!(", '{name}': {copies}")).collect();
            format!("{{'class': '{class}'{copies}}}")
        }))
    }

    async fn schema_table(&self) -> Result<(), StateError> {
        // ScyllaDB orders changes of the schema itself.
        let id = if self.scylla { String::new() } else { format!(" WITH id = {}", schema_table_id(self.prefix)) };
        let target = format!("{}_config.breeze_schema", self.prefix);
        self.change(format!("CREATE TABLE IF NOT EXISTS {target} (name text PRIMARY KEY, value text){id}")).await
    }

    /// A conditional change of a row of the schema's own table. Whether it applied.
    async fn conditional(&self, text: &str, values: impl SerializeRow) -> Result<bool, StateError> {
        let target = format!("{}_config.breeze_schema", self.prefix);
        let mut statement = Statement::new(text.replace("{}", &target));
        // Everybody who migrates, wherever: seen in every data centre when it returns.
        statement.set_consistency(Consistency::EachQuorum);
        statement.set_serial_consistency(Some(SerialConsistency::Serial));
        statement.set_execution_profile_handle(Some(self.cluster.profile(Route::Global, Mode::Serial)));
        statement.set_request_timeout(Some(STEP_TIMEOUT));
        let answer = self.cluster.session.query_unpaged(statement, values).await;
        let answer = answer.map_err(|error| self.cluster.failed(&error))?;
        applied(answer).ok_or_else(|| StateError::Unavailable("an answer does not say what happened".into()))
    }

    async fn acquire(&self) -> Result<(), StateError> {
        let until = Instant::now() + LEASE_WAIT;
        let insert = "INSERT INTO {} (name, value) VALUES ('lease', ?) IF NOT EXISTS USING TTL ?";
        loop {
            match self.conditional(insert, (&self.holder, LEASE_SECONDS)).await {
                Ok(true) => return Ok(()),
                // A lost answer is decided by whether it may be renewed.
                Ok(false) => {
                    if self.renew().await? {
                        return Ok(());
                    }
                }
                Err(error @ (StateError::Schema(_) | StateError::Refused(_))) => return Err(error),
                Err(error) => tracing::debug!(%error, "the lease of the migration is tried again"),
            }
            if Instant::now() >= until {
                return Err(StateError::Unavailable(format!(
                    "another node migrates {} since {} s; its lease ends {LEASE_SECONDS} s after it died",
                    self.prefix,
                    LEASE_WAIT.as_secs()
                )));
            }
            tokio::time::sleep(LEASE_POLL).await;
        }
    }

    async fn renew(&self) -> Result<bool, StateError> {
        let update = "UPDATE {} USING TTL ? SET value = ? WHERE name = 'lease' IF value = ?";
        self.conditional(update, (LEASE_SECONDS, &self.holder, &self.holder)).await
    }

    async fn still_ours(&self) -> Result<(), StateError> {
        if self.renew().await? {
            return Ok(());
        }
        Err(StateError::Unavailable("the lease of the migration was lost; run it again".into()))
    }

    async fn release(&self) -> Result<(), StateError> {
        self.conditional("DELETE FROM {} WHERE name = 'lease' IF value = ?", (&self.holder,)).await.map(drop)
    }

    async fn upgrade(&mut self, tables: &[Table]) -> Result<(), StateError> {
        let schema = read_schema(self.cluster, self.prefix, Route::Global).await?;
        let found = version_of(&schema)?;
        if found > SCHEMA_VERSION {
            return Err(StateError::Schema(format!(
                "it has version {found}, this makes {SCHEMA_VERSION}; there is no way back"
            )));
        }
        for version in found + 1..=SCHEMA_VERSION {
            self.still_ours().await?;
            self.step(version).await?;
        }
        for table in tables {
            self.table(*table, &schema).await?;
        }
        if found < SCHEMA_VERSION {
            self.still_ours().await?;
            let (to, was) = (SCHEMA_VERSION.to_string(), (found > 0).then(|| found.to_string()));
            let set = "UPDATE {} SET value = ? WHERE name = 'version' IF value = ?";
            if !self.conditional(set, (&to, was)).await? {
                return Err(StateError::Unavailable("the schema's version has moved; run it again".into()));
            }
            self.done.push(format!("schema version {found} -> {SCHEMA_VERSION}"));
        }
        Ok(())
    }

    /// What a version adds beyond tables of the model. A new version adds a match arm.
    async fn step(&self, version: u64) -> Result<(), StateError> {
        let tables = match version {
            1 => vec![hint_table(
                "outbox_hints",
                "scope text, bucket tinyint, tab text, partition blob, version bigint, made bigint, \
                 PRIMARY KEY ((scope, bucket), tab, partition)",
            )],
            // Hints in slots. The table of version 1 stays: processes of it may run until they are
            // replaced, and what they leave there is swept. They would not find what is in the slots, so
            // none of them may start any more.
            2 => vec![
                hint_table(
                    "outbox_slots",
                    "scope text, bucket tinyint, slot bigint, tab text, partition blob, version bigint, made bigint, \
                     PRIMARY KEY ((scope, bucket, slot), tab, partition)",
                ),
                hint_table("outbox_numbers", "scope text PRIMARY KEY, first bigint, fence bigint, last bigint"),
            ],
            _ => return Err(StateError::Schema(format!("nothing is known of version {version}"))),
        };
        for keyspace in keyspaces(self.prefix) {
            for table in &tables {
                self.change(format!("CREATE TABLE IF NOT EXISTS {keyspace}.{table}")).await?;
            }
        }
        Ok(())
    }

    async fn table(&mut self, table: Table, schema: &BTreeMap<String, String>) -> Result<(), StateError> {
        let (name, spec) = (cql_name(table), Spec::of(table));
        let key = format!("table/{name}");
        match schema.get(&key) {
            Some(recorded) if *recorded == spec.recorded() => return Ok(()),
            Some(recorded) => {
                return Err(StateError::Schema(format!(
                    "table {} is {recorded:?} and cannot become {:?}",
                    table.name(),
                    spec.recorded()
                )));
            }
            None => {}
        }
        self.still_ours().await?;
        let target = format!("{}_{}.{name}", self.prefix, family_name(spec.family));
        self.change(create(&target, table)).await?;
        // Recorded last: what is recorded is there.
        let record = "INSERT INTO {} (name, value) VALUES (?, ?) IF NOT EXISTS";
        self.conditional(record, (&key, spec.recorded())).await?;
        self.done.push(format!("created table {target} ({})", spec.recorded()));
        Ok(())
    }
}

fn hint_table(name: &str, columns: &str) -> String {
    format!(
        "{name} ({columns}) WITH gc_grace_seconds = {HINT_GRACE_SECONDS} \
         AND compaction = {{'class': 'LeveledCompactionStrategy'}}"
    )
}

fn create(target: &str, table: Table) -> String {
    let columns = match table {
        Table::Commit(_) => {
            "partition blob, kind tinyint, key blob, value blob, version bigint, guard boolean, \
             PRIMARY KEY (partition, kind, key)"
        }
        Table::Merge(_) => "partition blob, key blob, value blob, PRIMARY KEY (partition, key)",
    };
    // Small and read often: levelled. Overwritten all the time, or only ever appended: by size.
    let compaction = match (table, Spec::of(table).family) {
        (Table::Commit(_), Family::Config | Family::Device | Family::Log) | (Table::Merge(_), Family::Config) => {
            "LeveledCompactionStrategy"
        }
        (Table::Merge(_), Family::Device | Family::Log) => "SizeTieredCompactionStrategy",
    };
    format!(
        "CREATE TABLE IF NOT EXISTS {target} ({columns}) WITH gc_grace_seconds = {TOMBSTONE_SECONDS} \
         AND compaction = {{'class': '{compaction}'}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::CommitTable;
    use crate::state::Serial;

    #[test]
    fn replication_names_the_data_centres_in_use() {
        let mut config = CqlConfig { datacenter: "eu".into(), config_datacenter: "us".into(), ..CqlConfig::default() };
        config.replication = [("eu".to_owned(), 3)].into();
        assert!(matches!(replication(&config), Err(StateError::Settings(said)) if said.contains("us")));
        config.replication.insert("us".into(), 1);
        let options = replication(&config).expect("both are there");
        assert_eq!(options, "{'class': 'NetworkTopologyStrategy', 'eu': 3, 'us': 1}");
    }

    #[test]
    fn names_that_cql_does_not_take_are_refused() {
        for name in ["", "a.b", "a-b", "a_name_that_is_longer_than_what_the_database_takes"] {
            let table = CommitTable::new(name, Family::Config, Serial::Local);
            assert!(check_name(table.into()).is_err(), "{name}");
        }
        assert!(crate::model::tables().into_iter().all(|table| check_name(table).is_ok()));
    }
}
