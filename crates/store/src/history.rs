//! The history of devices: events, and the versions of their inventories.
//!
//! Both are appended, never changed, and expire. An entry is named by what caused it, so recording it
//! again, by this or another process and after any pause, changes nothing. [`EmbeddedHistory`] keeps them
//! above the state trait, [`ClickHouseHistory`] beside the metrics of its region.
//!
//! Times are milliseconds since the Unix epoch, by the server's clock. What is longer than a limit of this
//! module is cut or refused as its item says.

mod clickhouse;
pub(crate) mod clickhouse_schema;
mod embedded;
mod regional;

pub use self::clickhouse::ClickHouseHistory;
pub use embedded::{EVENTS, EmbeddedHistory, INVENTORY_HASHES, INVENTORY_VERSIONS};
pub use regional::RegionalHistory;

use async_trait::async_trait;
use breeze_proto::id::DeviceId;
use breeze_proto::v1::InventorySection;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// Most events that one call records.
pub const MAX_EVENTS: usize = 4_096;
/// Bytes of a summary; more is cut.
pub const MAX_SUMMARY_BYTES: usize = 512;
/// Bytes of the details; more is refused.
pub const MAX_DETAILS_BYTES: usize = 16 * 1024;
/// Bytes of a kind's name; more is refused.
pub const MAX_KIND_BYTES: usize = 48;
/// Most entries of one page.
pub const MAX_PAGE: usize = 500;
/// How long events and versions are kept, in days, unless the engine is told otherwise.
pub const RETENTION_DAYS: u32 = 400;
/// Bytes of an inventory section's version; more is refused.
pub const MAX_CONTENT_BYTES: usize = crate::state::MAX_VALUE_BYTES - 1_024;

/// What happened. Nodes of another version may know more kinds, so an unknown one is kept as its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EventKind {
    Connected,
    Disconnected,
    Online,
    Offline,
    InventoryChanged,
    /// To another relay, or another region.
    Moved,
    Enrolled,
    /// Of an hour with more events than are told.
    LeftOut,
    Other(String),
}

impl EventKind {
    /// The name that is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::InventoryChanged => "inventory_changed",
            Self::Moved => "moved",
            Self::Enrolled => "enrolled",
            Self::LeftOut => "left_out",
            Self::Other(name) => name,
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "connected" => Self::Connected,
            "disconnected" => Self::Disconnected,
            "online" => Self::Online,
            "offline" => Self::Offline,
            "inventory_changed" => Self::InventoryChanged,
            "moved" => Self::Moved,
            "enrolled" => Self::Enrolled,
            "left_out" => Self::LeftOut,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Names an event by its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// The id of the `ordinal`th event that the entry at `position` of `stream` causes.
    #[must_use]
    pub fn of(stream: &str, position: u64, ordinal: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(stream.as_bytes());
        hash.update([0]);
        hash.update(position.to_be_bytes());
        hash.update(ordinal.to_be_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }
}

/// Something that happened to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub device: DeviceId,
    pub id: EventId,
    pub at_ms: u64,
    pub kind: EventKind,
    /// One line for people; cut to [`MAX_SUMMARY_BYTES`].
    pub summary: String,
    /// JSON, or empty; at most [`MAX_DETAILS_BYTES`].
    pub details: String,
}

/// Where a page ended: the next begins behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub at_ms: u64,
    pub id: EventId,
}

/// Events of one device, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    pub device: DeviceId,
    /// Inclusive.
    pub from_ms: u64,
    /// Exclusive.
    pub to_ms: u64,
    /// Of these kinds; of all where it is empty.
    pub kinds: Vec<EventKind>,
    /// Goes on where a page ended.
    pub after: Option<Cursor>,
    /// At most [`MAX_PAGE`], which 0 stands for.
    pub limit: usize,
}

/// A page of events. Only `next == None` is the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<Event>,
    pub next: Option<Cursor>,
    /// Regions that did not answer, whose events are missing; of [`RegionalHistory`] only.
    pub missing_regions: Vec<String>,
}

/// One version of an inventory section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryVersion {
    pub device: DeviceId,
    pub section: InventorySection,
    /// When the server received it.
    pub at_ms: u64,
    /// Of the content, as the device said it; names the version together with the time.
    pub hash: [u8; 32],
    /// At most [`MAX_CONTENT_BYTES`]. The engines pack it.
    pub content: Bytes,
}

/// A version without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    pub at_ms: u64,
    pub hash: [u8; 32],
    pub bytes: u64,
}

/// Versions of one section, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionPage {
    pub versions: Vec<VersionInfo>,
    /// Regions that did not answer, whose versions are missing; of [`RegionalHistory`] only.
    pub missing_regions: Vec<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("invalid request: {0}")]
    Invalid(String),
    /// It may have happened or not; it may be repeated.
    #[error("history is unavailable: {0}")]
    Unavailable(String),
    #[error("history is corrupt: {0}")]
    Corrupt(String),
}

/// The trait. Shared as `Arc<dyn History>`.
#[async_trait]
pub trait History: Send + Sync + fmt::Debug {
    /// Records events, at most [`MAX_EVENTS`], durable when this returns. An event that is there (same
    /// device, time and id) stays as it is.
    async fn record(&self, events: &[Event]) -> Result<(), HistoryError>;

    /// A page of one device's events, newest first; of the same time in falling order of their ids.
    async fn events(&self, query: &EventQuery) -> Result<EventPage, HistoryError>;

    /// Records versions of inventory sections; one that is there (same device, section, time and hash)
    /// stays as it is.
    async fn record_versions(&self, versions: &[InventoryVersion]) -> Result<(), HistoryError>;

    /// The versions of one section before `before_ms`, newest first, at most `limit` (0: [`MAX_PAGE`]).
    async fn versions(
        &self,
        device: DeviceId,
        section: InventorySection,
        before_ms: u64,
        limit: usize,
    ) -> Result<VersionPage, HistoryError>;

    /// One version, content and all; `None` if it is not there, or no longer.
    async fn version(
        &self,
        device: DeviceId,
        section: InventorySection,
        at_ms: u64,
        hash: [u8; 32],
    ) -> Result<Option<InventoryVersion>, HistoryError>;
}

/// The name of a section in keys and columns.
fn section_name(section: InventorySection) -> Result<&'static str, HistoryError> {
    crate::model::inventory::key(section).ok_or_else(|| HistoryError::Invalid("an unknown section".to_owned()))
}

/// What is older than so many days is not shown any more, whether it is still there or not.
fn floor_ms(days: u32) -> u64 {
    const DAY_MS: u64 = 86_400_000;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    now_ms.saturating_sub(u64::from(days) * DAY_MS)
}

/// Entries of a page.
fn page_limit(limit: usize) -> usize {
    if limit == 0 { MAX_PAGE } else { limit.min(MAX_PAGE) }
}

/// Checks and cuts what is to be recorded.
fn checked(events: &[Event]) -> Result<Vec<Event>, HistoryError> {
    if events.len() > MAX_EVENTS {
        return Err(HistoryError::Invalid(format!("{} events at once; at most {MAX_EVENTS}", events.len())));
    }
    let check = |event: &Event| {
        if event.details.len() > MAX_DETAILS_BYTES || event.kind.as_str().len() > MAX_KIND_BYTES {
            return Err(HistoryError::Invalid("an event's kind or details are too long".to_owned()));
        }
        if event.at_ms > MAX_MS {
            return Err(HistoryError::Invalid("an event's time cannot be".to_owned()));
        }
        let mut event = event.clone();
        let end = event.summary.floor_char_boundary(MAX_SUMMARY_BYTES.min(event.summary.len()));
        event.summary.truncate(end);
        Ok(event)
    };
    events.iter().map(check).collect()
}

fn check_versions(versions: &[InventoryVersion]) -> Result<(), HistoryError> {
    for version in versions {
        section_name(version.section)?;
        if version.content.len() > MAX_CONTENT_BYTES || version.at_ms > MAX_MS {
            return Err(HistoryError::Invalid("a version is too large, or its time cannot be".to_owned()));
        }
    }
    Ok(())
}

/// The last time that both engines can say (the year 2106).
const MAX_MS: u64 = u32::MAX as u64 * 1_000;
