//! The tables: what each is, how it is packed, and the statements that make it.
//!
//! Raw rows are wide and of whole numbers, ordered by device and time, a partition a day. `T64` drops
//! the high bits that a block does not use, so a column may be wider than what is usually in it. Named
//! values are a row each, ordered by device, name and time: a name is a range of the key, so a prefix is
//! one too, and a `Map` a heartbeat takes a tenth more bytes on the recorded series.
//!
//! Both are `ReplacingMergeTree`: the same key again replaces, the last inserted wins. Roll-ups are
//! `AggregatingMergeTree`, filled by materialized views with every insert; `last` is the greatest of
//! tuples that begin with the time. Every table remembers tokens, and syncs a part before it answers.

use super::super::{Resolution, SCALAR_NAMES, SCALARS};
use super::client::ClickHouseConfig;

/// The schema that this program makes and reads. Versions only rise; a server with a higher one belongs to
/// a newer program.
pub const SCHEMA_VERSION: u32 = 1;

/// Which schema a database has, one row a version.
pub(super) const VERSION_TABLE: &str = "breeze_schema";

/// The roll-ups, finest first, with the ends of their tables' names.
pub(super) const ROLL_UPS: [(Resolution, &str); 3] =
    [(Resolution::FiveMinutes, "5m"), (Resolution::Hour, "1h"), (Resolution::Day, "1d")];

/// Whether a scalar has 64 bits: bytes of the network and uptime.
pub(super) const fn is_wide(scalar: usize) -> bool {
    super::super::MAX_SCALAR[scalar] > u32::MAX as u64
}

const fn number(scalar: usize) -> &'static str {
    if is_wide(scalar) { "UInt64" } else { "UInt32" }
}

/// Which of the two kinds of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Scalars,
    Named,
}

impl Kind {
    pub(super) const BOTH: [Self; 2] = [Self::Scalars, Self::Named];

    /// The table of raw rows.
    pub(super) const fn raw(self) -> &'static str {
        match self {
            Self::Scalars => "heartbeats",
            Self::Named => "named",
        }
    }

    /// The table of a resolution.
    pub(super) fn table(self, resolution: Resolution) -> String {
        match resolution {
            Resolution::Raw => self.raw().to_owned(),
            Resolution::FiveMinutes => format!("{}_5m", self.raw()),
            Resolution::Hour => format!("{}_1h", self.raw()),
            Resolution::Day => format!("{}_1d", self.raw()),
        }
    }

    /// The key's columns but the time.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Scalars => "device",
            Self::Named => "device, name",
        }
    }

    /// The columns of a raw row, as inserted.
    pub(super) fn columns(self) -> String {
        match self {
            Self::Scalars => format!("device, at, {}", SCALAR_NAMES.join(", ")),
            Self::Named => "device, name, at, value".to_owned(),
        }
    }

    /// The series' columns.
    pub(super) fn values(self) -> &'static [&'static str] {
        match self {
            Self::Scalars => &SCALAR_NAMES,
            Self::Named => &["value"],
        }
    }
}

/// One table.
#[derive(Debug, Clone)]
pub(super) struct TableSpec {
    pub(super) name: String,
    columns: String,
    engine: &'static str,
    /// Expression of the partition.
    pub(super) partition: &'static str,
    order: &'static str,
    /// Column by whose time rows expire, and after how many days.
    ttl: Option<(&'static str, u32)>,
}

impl TableSpec {
    pub(super) fn create(&self, token_window: u32) -> String {
        let ttl = self.ttl().map(|ttl| format!(" TTL {ttl}")).unwrap_or_default();
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = {} PARTITION BY {} ORDER BY ({}){ttl} \
             SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = {token_window}, \
             fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1",
            self.name, self.columns, self.engine, self.partition, self.order
        )
    }

    /// As the server prints it, so that a changed retention can be seen.
    pub(super) fn ttl(&self) -> Option<String> {
        // A day more than is shown: what is not to be seen any more is kept from queries by the day.
        self.ttl.map(|(column, days)| format!("toDate({column}) + toIntervalDay({})", u64::from(days) + 1))
    }
}

/// All tables, in the order in which they are made.
pub(super) fn tables(config: &ClickHouseConfig) -> Vec<TableSpec> {
    let [raw, five_minutes, hour, day] = config.retention_days();
    let mut tables = vec![heartbeats(raw), named(raw), appended(raw)];
    for kind in Kind::BOTH {
        for ((resolution, _), days) in ROLL_UPS.into_iter().zip([five_minutes, hour, day]) {
            tables.push(roll_up(kind, resolution, days));
        }
    }
    tables.extend(
        super::super::super::history::clickhouse_schema::tables(config.retention_history_days)
            .into_iter()
            .map(TableSpec::from),
    );
    tables
}

/// A table of another part of the store that lives in the same database.
pub(crate) struct Extra {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static str,
    pub(crate) engine: &'static str,
    pub(crate) partition: &'static str,
    pub(crate) order: &'static str,
    pub(crate) ttl: Option<(&'static str, u32)>,
}

impl From<Extra> for TableSpec {
    fn from(extra: Extra) -> Self {
        Self {
            name: extra.name.to_owned(),
            columns: extra.columns.to_owned(),
            engine: extra.engine,
            partition: extra.partition,
            order: extra.order,
            ttl: extra.ttl,
        }
    }
}

const TIME: &str = "at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1))";

fn heartbeats(days: u32) -> TableSpec {
    let mut columns = format!("device FixedString(16) CODEC(ZSTD(1)), {TIME}");
    for (scalar, name) in SCALAR_NAMES.iter().enumerate() {
        // Uptime rises as time does.
        let codec = if *name == "uptime_s" { "DoubleDelta" } else { "T64" };
        columns.push_str(&format!(", {name} {} CODEC({codec}, ZSTD(1))", number(scalar)));
    }
    TableSpec {
        name: Kind::Scalars.raw().to_owned(),
        columns,
        engine: "ReplacingMergeTree",
        partition: "toDate(at)",
        order: "device, at",
        ttl: Some(("at", days)),
    }
}

fn named(days: u32) -> TableSpec {
    TableSpec {
        name: Kind::Named.raw().to_owned(),
        columns: format!(
            "device FixedString(16) CODEC(ZSTD(1)), name LowCardinality(String) CODEC(ZSTD(1)), {TIME}, \
             value Float64 CODEC(ZSTD(1))"
        ),
        engine: "ReplacingMergeTree",
        partition: "toDate(at)",
        order: "device, name, at",
        ttl: Some(("at", days)),
    }
}

/// Which positions of which streams are appended, whole, roll-ups and all.
fn appended(days: u32) -> TableSpec {
    TableSpec {
        name: "appended".to_owned(),
        columns: "stream LowCardinality(String), day Date, first UInt64 CODEC(DoubleDelta, ZSTD(1)), \
                  last UInt64 CODEC(DoubleDelta, ZSTD(1))"
            .to_owned(),
        engine: "ReplacingMergeTree",
        partition: "day",
        order: "stream, last, first",
        ttl: Some(("day", days)),
    }
}

fn roll_up(kind: Kind, resolution: Resolution, days: u32) -> TableSpec {
    let mut columns = match kind {
        Kind::Scalars => "device FixedString(16) CODEC(ZSTD(1))".to_owned(),
        Kind::Named => "device FixedString(16) CODEC(ZSTD(1)), name LowCardinality(String) CODEC(ZSTD(1))".to_owned(),
    };
    columns.push_str(
        ", at DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), n SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1))",
    );
    let mut last = "at DateTime64(3, 'UTC')".to_owned();
    for (place, name) in kind.values().iter().enumerate() {
        let (number, sum, codec) = match kind {
            Kind::Scalars => (number(place), "UInt64", "T64, ZSTD(1)"),
            Kind::Named => ("Float64", "Float64", "ZSTD(1)"),
        };
        columns.push_str(&format!(
            ", min_{name} SimpleAggregateFunction(min, {number}) CODEC({codec}), \
             max_{name} SimpleAggregateFunction(max, {number}) CODEC({codec}), \
             sum_{name} SimpleAggregateFunction(sum, {sum}) CODEC({codec})"
        ));
        last.push_str(&format!(", {name} {number}"));
    }
    columns.push_str(&format!(", last SimpleAggregateFunction(max, Tuple({last})) CODEC(ZSTD(1))"));
    TableSpec {
        name: kind.table(resolution),
        columns,
        engine: "AggregatingMergeTree",
        partition: match resolution {
            Resolution::Raw | Resolution::FiveMinutes | Resolution::Hour => "toDate(at)",
            // Ten years of days would be too many parts.
            Resolution::Day => "toYYYYMM(at)",
        },
        order: match kind {
            Kind::Scalars => "device, at",
            Kind::Named => "device, name, at",
        },
        ttl: Some(("at", days)),
    }
}

/// The view that fills a roll-up.
pub(super) fn view(kind: Kind, resolution: Resolution) -> String {
    let table = kind.table(resolution);
    format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS {table}_view TO {table} AS {}",
        roll_up_select(kind, resolution, kind.raw())
    )
}

/// Rolls rows of `source` up.
pub(super) fn roll_up_select(kind: Kind, resolution: Resolution, source: &str) -> String {
    let key = kind.key();
    let seconds = resolution.millis() / 1_000;
    let mut columns = format!("{key}, slot AS at, toUInt64(count()) AS n");
    for (place, name) in kind.values().iter().enumerate() {
        let summed = if matches!(kind, Kind::Scalars) && place < SCALARS { "toUInt64" } else { "" };
        columns.push_str(&format!(
            ", min({name}) AS min_{name}, max({name}) AS max_{name}, sum({summed}({name})) AS sum_{name}"
        ));
    }
    let values = kind.values().join(", ");
    format!(
        "SELECT {columns}, max((row_at, {values})) AS last FROM (SELECT {key}, at AS row_at, \
         toDateTime(intDiv(toUnixTimestamp(at), {seconds}) * {seconds}, 'UTC') AS slot, {values} FROM {source}) \
         GROUP BY {key}, slot"
    )
}
