//! Tables as they are in the database, what the schema says of them, and their prepared statements.
//!
//! ```text
//! <prefix>_<family>.c_<name>   partition blob, kind tinyint, key blob -> value blob, version bigint, guard boolean
//!     kind 0  the head: version is the partition's, value the ids of its last commits
//!          1  a row
//!          2  an outbox item; key: version u64 | index u32, value: length u8 | topic | payload,
//!             version: the slot of its hint, negative
//!          3  how far items are delivered; the only kind that plain writes touch
//! <prefix>_<family>.m_<name>   partition blob, key blob -> value blob; the version is the write timestamp
//! <prefix>_<family>.outbox_slots
//!                              scope text, bucket tinyint, slot bigint, tab text, partition blob -> version, made bigint
//! <prefix>_<family>.outbox_numbers
//!                              scope text -> first, fence, last bigint
//! <prefix>_<family>.outbox_hints
//!                              what schema version 1 had in the place of both
//! <prefix>_config.breeze_schema
//!                              name text -> value text: version, lease, table/<name>
//! ```

use super::{
    Inner,
    connect::{Cluster, Mode, Route},
    slots::HintTables,
};
use crate::state::{Family, Serial, StateError, Table};
use parking_lot::RwLock;
use scylla::{errors::ExecutionError, statement::Statement, statement::prepared::PreparedStatement};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What rows are taken to have until some were seen; bounds the first page of a table.
const FIRST_ROW_BYTES: usize = 64 * 1024;
/// The schema is read again for a table that is not known, at most this often.
const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// Longest name of a table that CQL takes with our prefix.
pub(super) const MAX_CQL_NAME: usize = 46;

/// Items whose hints are looked for at once; what a delivery is through with is rarely more.
const LAST_ITEMS: usize = 64;

pub(super) const HEAD: i8 = 0;
pub(super) const ROW: i8 = 1;

/// What is fixed of a table for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) family: Family,
    /// `None`: of merges.
    pub(super) serial: Option<Serial>,
}

impl Spec {
    pub(super) const fn of(table: Table) -> Self {
        match table {
            Table::Commit(table) => Self { family: table.family, serial: Some(table.serial) },
            Table::Merge(table) => Self { family: table.family, serial: None },
        }
    }

    pub(super) const fn route(self) -> Route {
        match (self.family, self.serial) {
            (_, Some(Serial::Global)) => Route::Global,
            (Family::Config, Some(Serial::Local) | None) => Route::Config,
            (Family::Device | Family::Log, Some(Serial::Local) | None) => Route::Own,
        }
    }

    /// As the schema records it.
    pub(super) fn recorded(self) -> String {
        let kind = match self.serial {
            None => "merge",
            Some(Serial::Local) => "commit local",
            Some(Serial::Global) => "commit global",
        };
        format!("{kind} {}", family_name(self.family))
    }

    fn read(recorded: &str) -> Option<Self> {
        let families = [Family::Config, Family::Device, Family::Log];
        let kinds = [None, Some(Serial::Local), Some(Serial::Global)];
        let mut all = families.into_iter().flat_map(|family| kinds.map(|serial| Self { family, serial }));
        all.find(|spec| spec.recorded() == recorded)
    }
}

pub(super) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::Config => "config",
        Family::Device => "device",
        Family::Log => "log",
    }
}

/// The name of a table in CQL, without its keyspace.
pub(super) fn cql_name(table: Table) -> String {
    let kind = match table {
        Table::Commit(_) => 'c',
        Table::Merge(_) => 'm',
    };
    format!("{kind}_{}", table.name())
}

/// The statements. All but those of Paxos are idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Query {
    /// Head and rows of a commit table by their keys, at the table's level, or at the serial one.
    Keys,
    SerialKeys,
    SetHead,
    Put,
    PutIf,
    Delete,
    DeleteIf,
    /// Writes nothing that is read; carries the condition of a row that is not written.
    Guard,
    Item,
    Delivered,
    SetDelivered,
    Items,
    LastItems,
    DropItems,
    Merge,
    MergeAway,
    Get,
    Scan {
        to: bool,
        reverse: bool,
    },
    Slice,
    SameToken,
    Hint,
    Hints,
    DropHint,
    OldHints,
    DropOldHint,
    Numbers,
    SetFirst,
    SetFence,
    SetLast,
}

impl Query {
    fn text(self, target: &str, merges: bool) -> String {
        let t = target;
        let version = if merges { "writetime(value)" } else { "version" };
        let of_row = if merges { "partition = ?" } else { "partition = ? AND kind = 1" };
        match self {
            Self::Keys | Self::SerialKeys => {
                format!("SELECT kind, key, version, value FROM {t} WHERE partition = ? AND (kind, key) IN ?")
            }
            Self::SetHead => format!(
                "UPDATE {t} SET value = ?, version = ? WHERE partition = ? AND kind = 0 AND key = 0x IF version = ?"
            ),
            Self::Put => format!("UPDATE {t} SET value = ?, version = ? WHERE {of_row} AND key = ?"),
            Self::PutIf => format!("UPDATE {t} SET value = ?, version = ? WHERE {of_row} AND key = ? IF version = ?"),
            Self::Delete => format!("DELETE FROM {t} WHERE {of_row} AND key = ?"),
            Self::DeleteIf => format!("DELETE FROM {t} WHERE {of_row} AND key = ? IF version = ?"),
            Self::Guard => format!("DELETE guard FROM {t} WHERE {of_row} AND key = ? IF version = ?"),
            Self::Item => format!("UPDATE {t} SET value = ?, version = ? WHERE partition = ? AND kind = 2 AND key = ?"),
            Self::Delivered => format!("SELECT value FROM {t} WHERE partition = ? AND kind = 3 AND key = 0x"),
            Self::SetDelivered => {
                format!("INSERT INTO {t} (partition, kind, key, value) VALUES (?, 3, 0x, ?) USING TIMESTAMP ?")
            }
            Self::Items => format!("SELECT key, value FROM {t} WHERE partition = ? AND kind = 2 AND key > ?"),
            Self::LastItems => format!(
                "SELECT key, version FROM {t} WHERE partition = ? AND kind = 2 AND key > ? AND key <= ? \
                 ORDER BY kind DESC, key DESC LIMIT {LAST_ITEMS}"
            ),
            Self::DropItems => {
                format!("DELETE FROM {t} USING TIMESTAMP ? WHERE partition = ? AND kind = 2 AND key <= ?")
            }
            Self::Merge => format!("INSERT INTO {t} (partition, key, value) VALUES (?, ?, ?) USING TIMESTAMP ?"),
            Self::MergeAway => format!("DELETE FROM {t} USING TIMESTAMP ? WHERE partition = ? AND key = ?"),
            Self::Get => format!("SELECT {version}, value FROM {t} WHERE {of_row} AND key = ?"),
            Self::Scan { to, reverse } => {
                let to = if to { " AND key < ?" } else { "" };
                let order = match (reverse, merges) {
                    (false, _) => "",
                    (true, true) => " ORDER BY key DESC",
                    (true, false) => " ORDER BY kind DESC, key DESC",
                };
                format!("SELECT key, {version}, value FROM {t} WHERE {of_row} AND key >= ?{to}{order}")
            }
            Self::Slice => {
                let kind = if merges { "" } else { ", kind" };
                format!(
                    "SELECT token(partition), partition, key, {version}, value{kind} FROM {t} \
                     WHERE token(partition) >= ? AND token(partition) <= ?"
                )
            }
            Self::SameToken => format!("SELECT DISTINCT partition FROM {t} WHERE token(partition) = ?"),
            Self::Hint => format!(
                "INSERT INTO {t} (scope, bucket, slot, tab, partition, version, made) VALUES (?, ?, ?, ?, ?, ?, ?) \
                 USING TIMESTAMP ?"
            ),
            Self::Hints => format!(
                "SELECT tab, partition, version, made FROM {t} WHERE scope = ? AND bucket = ? AND slot = ? \
                 AND (tab, partition) > (?, ?)"
            ),
            Self::DropHint => format!(
                "DELETE FROM {t} USING TIMESTAMP ? WHERE scope = ? AND bucket = ? AND slot = ? AND tab = ? \
                 AND partition = ?"
            ),
            Self::OldHints => format!(
                "SELECT tab, partition, version, made FROM {t} WHERE scope = ? AND bucket = ? \
                 AND (tab, partition) > (?, ?)"
            ),
            Self::DropOldHint => format!(
                "DELETE FROM {t} USING TIMESTAMP ? WHERE scope = ? AND bucket = ? AND tab = ? AND partition = ?"
            ),
            Self::Numbers => format!("SELECT first, fence, last FROM {t} WHERE scope = ?"),
            Self::SetFirst => format!("UPDATE {t} USING TIMESTAMP ? SET first = ? WHERE scope = ?"),
            Self::SetFence => format!("UPDATE {t} USING TIMESTAMP ? SET fence = ? WHERE scope = ?"),
            Self::SetLast => format!("UPDATE {t} USING TIMESTAMP ? SET last = ? WHERE scope = ?"),
        }
    }

    const fn mode(self) -> Mode {
        match self {
            Self::SerialKeys | Self::SetHead | Self::PutIf | Self::DeleteIf | Self::Guard => Mode::Serial,
            Self::Keys
            | Self::Put
            | Self::Delete
            | Self::Item
            | Self::Delivered
            | Self::SetDelivered
            | Self::Items
            | Self::LastItems
            | Self::DropItems
            | Self::Merge
            | Self::MergeAway
            | Self::Get
            | Self::Scan { .. }
            | Self::Slice
            | Self::SameToken
            | Self::Hint
            | Self::Hints
            | Self::DropHint
            | Self::OldHints
            | Self::DropOldHint
            | Self::Numbers
            | Self::SetFirst
            | Self::SetFence
            | Self::SetLast => Mode::Plain,
        }
    }
}

/// A table of the database with its statements, prepared when first used.
#[derive(Debug)]
pub(super) struct Relation {
    /// As hints name it.
    pub(super) name: String,
    /// With its keyspace.
    pub(super) target: String,
    pub(super) spec: Spec,
    pub(super) route: Route,
    prepared: RwLock<HashMap<Query, PreparedStatement>>,
    row_bytes: AtomicUsize,
}

impl Relation {
    pub(super) fn new(prefix: &str, cql_name: &str, spec: Spec, route: Route) -> Self {
        let name = cql_name.split_once('_').map_or(cql_name, |(_, name)| name).to_owned();
        let target = format!("{prefix}_{}.{cql_name}", family_name(spec.family));
        let row_bytes = AtomicUsize::new(FIRST_ROW_BYTES);
        Self { name, target, spec, route, prepared: RwLock::default(), row_bytes }
    }

    pub(super) const fn merges(&self) -> bool {
        self.spec.serial.is_none()
    }

    pub(super) async fn prepare(&self, cluster: &Cluster, query: Query) -> Result<PreparedStatement, ExecutionError> {
        if let Some(prepared) = self.prepared.read().get(&query) {
            return Ok(prepared.clone());
        }
        let mut prepared = cluster.session.prepare(query.text(&self.target, self.merges())).await?;
        let mode = query.mode();
        prepared.set_execution_profile_handle(Some(cluster.profile(self.route, mode)));
        prepared.set_is_idempotent(mode == Mode::Plain);
        if query == Query::SerialKeys {
            prepared.set_consistency(self.route.serial_read());
        }
        self.prepared.write().insert(query, prepared.clone());
        Ok(prepared)
    }

    /// How many rows to ask for at once, so that they have `bytes` together. Cassandra counts pages in
    /// rows only.
    pub(super) fn rows_for(&self, bytes: usize) -> usize {
        (bytes / self.row_bytes.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Learns from rows that were read.
    pub(super) fn saw(&self, rows: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(rows) {
            let before = self.row_bytes.load(Ordering::Relaxed);
            self.row_bytes.store(each.max((7 * before + each) / 8).max(64), Ordering::Relaxed);
        }
    }
}

/// What the schema has: its tables, fixed in family and serial level.
#[derive(Debug)]
pub(super) struct Catalog {
    prefix: String,
    relations: RwLock<BTreeMap<String, Arc<Relation>>>,
    hints: Vec<Arc<HintTables>>,
    reloaded: RwLock<Option<Instant>>,
}

impl Catalog {
    /// # Errors
    /// [`StateError::Schema`] when there is none, or one of another version.
    pub(super) async fn load(cluster: &Cluster, prefix: &str) -> Result<Self, StateError> {
        let mut hints = Vec::new();
        for family in [Family::Config, Family::Device, Family::Log] {
            for serial in [Serial::Local, Serial::Global] {
                let spec = Spec { family, serial: Some(serial) };
                hints.push(Arc::new(HintTables::new(prefix, spec)));
            }
        }
        let catalog =
            Self { prefix: prefix.to_owned(), relations: RwLock::default(), hints, reloaded: RwLock::new(None) };
        catalog.reload(cluster).await?;
        Ok(catalog)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn reload(&self, cluster: &Cluster) -> Result<(), StateError> {
        let schema = read_schema(cluster, &self.prefix, Route::Own).await?;
        check_version(&schema)?;
        let mut relations = self.relations.write();
        for (name, recorded) in &schema {
            let Some(name) = name.strip_prefix("table/") else { continue };
            let Some(spec) = Spec::read(recorded) else {
                return Err(StateError::Schema(format!(
                    "table {name} is recorded as {recorded:?}, which is not known"
                )));
            };
            let made = || Arc::new(Relation::new(&self.prefix, name, spec, spec.route()));
            relations.entry(name.to_owned()).or_insert_with(made);
        }
        Ok(())
    }

    /// # Errors
    /// [`StateError::Schema`] for a table that is not there, or differs in what is fixed.
    pub(super) fn check(&self, tables: &[Table]) -> Result<(), StateError> {
        tables.iter().try_for_each(|table| match self.find(*table)? {
            Some(_) => Ok(()),
            None => Err(missing(*table)),
        })
    }

    fn find(&self, table: Table) -> Result<Option<Arc<Relation>>, StateError> {
        let Some(found) = self.relations.read().get(&cql_name(table)).cloned() else { return Ok(None) };
        let spec = Spec::of(table);
        if found.spec != spec {
            return Err(StateError::Schema(format!(
                "table {} is {:?} in the schema and {:?} here; that is fixed for ever",
                table.name(),
                found.spec.recorded(),
                spec.recorded()
            )));
        }
        Ok(Some(found))
    }

    /// The commit table that a hint names.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Relation>> {
        self.relations.read().get(&format!("c_{name}")).cloned()
    }

    /// The hints of all families and routes.
    pub(super) fn hints(&self) -> &[Arc<HintTables>] {
        &self.hints
    }

    /// Where the hints of a table are.
    pub(super) fn hints_of(&self, relation: &Relation) -> Option<&Arc<HintTables>> {
        self.hints.iter().find(|hints| hints.spec == relation.spec)
    }
}

impl Inner {
    pub(super) async fn relation(&self, table: Table) -> Result<Arc<Relation>, StateError> {
        if let Some(found) = self.catalog.find(table)? {
            return Ok(found);
        }
        let due = self.catalog.reloaded.read().is_none_or(|last| last.elapsed() >= RELOAD_EVERY);
        if due {
            *self.catalog.reloaded.write() = Some(Instant::now());
            self.catalog.reload(&self.cluster).await?;
        }
        self.catalog.find(table)?.ok_or_else(|| missing(table))
    }
}

fn missing(table: Table) -> StateError {
    StateError::Schema(format!("table {} is not in it; run `breeze migrate`", table.name()))
}

/// What the schema's own table says. Empty where it is not there.
pub(super) async fn read_schema(
    cluster: &Cluster,
    prefix: &str,
    route: Route,
) -> Result<BTreeMap<String, String>, StateError> {
    let mut select = Statement::new(format!("SELECT name, value FROM {prefix}_config.breeze_schema"));
    select.set_execution_profile_handle(Some(cluster.profile(route, Mode::Plain)));
    select.set_is_idempotent(true);
    let answer = match cluster.session.query_unpaged(select, ()).await {
        Ok(answer) => answer,
        Err(error) => {
            let error = cluster.failed(&error);
            return if matches!(error, StateError::Schema(_)) { Ok(BTreeMap::new()) } else { Err(error) };
        }
    };
    let rows = answer.into_rows_result().map_err(|error| super::errors::corrupt("the schema's table", error))?;
    let rows = rows.rows::<(String, Option<String>)>();
    let rows = rows.map_err(|error| super::errors::corrupt("the schema's table", error))?;
    let mut found = BTreeMap::new();
    for row in rows {
        let (name, value) = row.map_err(|error| super::errors::corrupt("the schema's table", error))?;
        found.insert(name, value.unwrap_or_default());
    }
    Ok(found)
}

/// The version that a schema has; 0 where there is none yet.
pub(super) fn version_of(schema: &BTreeMap<String, String>) -> Result<u64, StateError> {
    let Some(found) = schema.get("version") else { return Ok(0) };
    found.parse().map_err(|_| StateError::Schema(format!("its version is {found:?}, which is no number")))
}

fn check_version(schema: &BTreeMap<String, String>) -> Result<(), StateError> {
    let wanted = super::SCHEMA_VERSION;
    match version_of(schema)? {
        found if found == wanted => Ok(()),
        0 => Err(StateError::Schema("there is none yet; run `breeze migrate`".into())),
        found if found < wanted => {
            Err(StateError::Schema(format!("it has version {found}, this is for {wanted}; run `breeze migrate`")))
        }
        found => Err(StateError::Schema(format!(
            "it has version {found}, which a newer `breeze migrate` made; this knows {wanted}: install the newer version"
        ))),
    }
}
