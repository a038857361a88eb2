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

use async_trait::async_trait;
use breeze_proto::id::DeviceId;
use bytes::Bytes;
use std::fmt;

/// Samples in a heartbeat row.
pub const SCALARS: usize = 12;
/// Most rows (of both kinds together) in one batch.
pub const MAX_BATCH_ROWS: usize = 100_000;
/// Most points per series that a query returns.
pub const MAX_POINTS: usize = 1_200;
/// Most named series that a query returns.
pub const MAX_SERIES: usize = 600;

/// Names a batch for ever: stream, first and last position, and day. At most one batch has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InsertToken {
    /// The lane stream.
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
    /// In the order of [`breeze_proto::v1::Scalars`].
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

/// Rows of one day, encoded once: what is appended, and appended again, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenBatch {
    bytes: Bytes,
}

impl FrozenBatch {
    /// From bytes that [`FrozenBatch::as_bytes`] gave; checked when decoded.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
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
    /// Width of a point; points are aligned to multiples of it. Raw rows where it is 0.
    /// `(to_ms - from_ms) / step_ms` may be at most [`MAX_POINTS`].
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
    /// More named series matched than [`MAX_SERIES`].
    pub truncated: bool,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("invalid request: {0}")]
    Invalid(String),
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
