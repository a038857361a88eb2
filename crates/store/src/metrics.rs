//! The metrics trait: time series of devices, appended exactly once and read in bounded queries.
//!
//! # Exactly once
//! A lane's owner first records a batch's boundaries and token in the state store, then appends the
//! *frozen* batch under that token. [`Metrics::append`] is idempotent: the same token appended again,
//! by this or another process, at any time within the token window, changes nothing. The bytes of a
//! token's batch are the same every time; an engine may rely on that.
//!
//! # Units
//! Stored time is milliseconds since the Unix epoch, by the server's clock. Heartbeat rows are the
//! twelve scaled integers of [`breeze_proto::v1::Scalars`], in field order; a *sample* is one of them.
//! Detail and custom series are `f64`.
//!
//! # Rows
//! A row is named by (device, time), a named value by (device, name, time): the same again replaces
//! it, the last appended wins. Points that are made of *roll-ups* may count a replaced row as well,
//! until the engine has made the day's roll-ups again (upkeep of past days does). A batch's rows are all
//! of its token's day. Rows of a day whose raw data has expired are counted and dropped.
//!
//! # Regions
//! [`regional::RegionalMetrics`] reads several engines as one and names those that did not answer.

use async_trait::async_trait;
use breeze_proto::id::DeviceId;
use std::fmt;

pub mod clickhouse;
pub mod embedded;
mod frozen;
mod plan;
pub mod regional;
mod varint;

pub use embedded::{EmbeddedMetrics, EmbeddedMetricsConfig};
pub use frozen::{DecodedBatch, DecodedNamed, FrozenBatch};

/// Samples in a heartbeat row.
pub const SCALARS: usize = 12;
/// Names of the scalars' series, in field order.
pub const SCALAR_NAMES: [&str; SCALARS] = [
    "cpu_permille",
    "ram_permille",
    "ram_used_mib",
    "swap_used_mib",
    "disk_permille",
    "disk_used_mib",
    "net_in_bytes",
    "net_out_bytes",
    "load1_centi",
    "process_count",
    "uptime_s",
    "flags",
];
/// Most that a scalar holds where the heartbeat has 32 bits for it, and where it has 64. More, which no
/// machine has, is stored as this: so the sum of a day is exact in every engine.
pub const MAX_SCALAR: [u64; SCALARS] = {
    let narrow = u32::MAX as u64;
    let wide = (1 << 47) - 1;
    [narrow, narrow, narrow, narrow, narrow, narrow, wide, wide, narrow, narrow, wide, narrow]
};
/// Most rows (of both kinds together) in one batch.
pub const MAX_BATCH_ROWS: usize = 100_000;
/// Most points per series that a query returns: room for a day of rows at 60 s.
pub const MAX_POINTS: usize = 1_500;
/// Most named series that a query returns.
pub const MAX_SERIES: usize = 600;

/// Names a batch for ever: stream, first and last position, and day. At most one batch has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InsertToken {
    /// The lane stream, as it was made: positions rise in it for ever, so a stream that starts over
    /// needs another name.
    pub stream: String,
    /// First position of the stream in the batch.
    pub first: u64,
    /// Last, inclusive.
    pub last: u64,
    /// Days since the Unix epoch: a batch never spans two (UTC).
    pub day: u32,
}

impl fmt::Display for InsertToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}:{}", self.stream, self.first, self.last, self.day)
    }
}

/// A heartbeat's fixed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatRow {
    pub device: DeviceId,
    pub at_ms: u64,
    /// In the order of [`breeze_proto::v1::Scalars`]; each at most [`MAX_SCALAR`].
    pub scalars: [u64; SCALARS],
}

/// One value of a detail or custom series.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedRow {
    pub device: DeviceId,
    pub at_ms: u64,
    /// "cpu.0.percent"; custom metrics are "custom.<name>".
    pub name: String,
    pub value: f64,
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored now, or before by an append whose end nobody heard of: an engine need not tell these apart.
    New,
    /// The token was known: nothing changed.
    Duplicate,
}

/// How a query's points are made of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    Raw,
    FiveMinutes,
    Hour,
    Day,
}

impl Resolution {
    /// Width of a roll-up's point in milliseconds; 0 for raw.
    #[must_use]
    pub const fn millis(self) -> u64 {
        match self {
            Self::Raw => 0,
            Self::FiveMinutes => 300_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

/// Which series to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Scalars by index (0 to 11).
    Scalars(Vec<usize>),
    /// Named series with this prefix.
    Named { prefix: String },
}

/// A bounded read of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub device: DeviceId,
    pub selector: Selector,
    /// Inclusive, milliseconds.
    pub from_ms: u64,
    /// Exclusive.
    pub to_ms: u64,
    /// Width of a point; points are aligned to multiples of it, and `from_ms` and `to_ms` are widened
    /// to such, so that every point is of a whole interval whatever it was made of. Where only wider
    /// roll-ups are left of that age, points are as wide as those. Raw rows where it is 0, the oldest
    /// [`MAX_POINTS`] of them. `(to_ms - from_ms) / step_ms` may be at most [`MAX_POINTS`].
    pub step_ms: u64,
}

/// A point: an interval of rows, or one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Start of the interval, or the row's time.
    pub at_ms: u64,
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    pub count: u64,
    /// The newest row's.
    pub last: f64,
}

/// One series of a result, points in order of time; intervals without rows have no point.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
}

/// What a query found.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryResult {
    /// What the points were made of.
    pub resolution: Resolution,
    pub series: Vec<Series>,
    /// More named series matched than [`MAX_SERIES`], or more raw rows than [`MAX_POINTS`].
    pub truncated: bool,
    /// Regions that did not answer in time: what they have is missing from the points. Empty from an
    /// engine of one region.
    pub missing_regions: Vec<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The token covers positions of another one that is stored: the stream's numbers do not go on from
    /// what is stored here, as after one of the two was restored from a backup.
    #[error("token {0} overlaps one that is stored")]
    Overlap(String),
    #[error(
        "storage is full: {free_bytes} bytes left, {reserve_bytes} are kept in reserve; free space on the data disk"
    )]
    Full { free_bytes: u64, reserve_bytes: u64 },
    #[error("metrics storage is unavailable: {0}")]
    Unavailable(String),
    #[error("metrics storage is corrupt: {0}")]
    Corrupt(String),
}

/// The trait. Shared as `Arc<dyn Metrics>`.
#[async_trait]
pub trait Metrics: Send + Sync + fmt::Debug {
    /// Stores a batch under its token, durable and queryable when this returns; see the module.
    async fn append(&self, token: &InsertToken, batch: &FrozenBatch) -> Result<Appended, MetricsError>;

    /// Reads one device. The engine picks the coarsest resolution that still gives every point.
    async fn query(&self, query: &Query) -> Result<QueryResult, MetricsError>;

    /// For the status page: what is stored, in bytes, rows and files.
    async fn usage(&self) -> Result<Usage, MetricsError>;
}

/// Figures for the status page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub heartbeat_rows: u64,
    pub named_rows: u64,
    pub segments: u64,
}
