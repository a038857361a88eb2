//! What the sections of an inventory were: their versions, and what is different between two.

use super::{
    Hardware, Network, Software,
    difference::{Change, MAX_CHANGES, difference},
    hardware_of, network_of, shown,
};
use crate::{api::Timestamp, context::App, error::ApiError};
use breeze_proto::{
    id::DeviceId,
    v1::{InventorySection, StoredSection},
};
use breeze_store::{
    history::{Event, EventKind, EventQuery, HistoryError, VersionInfo},
    model::inventory::key,
};
use futures_util::future::try_join_all;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, str::FromStr};
use utoipa::ToSchema;

/// The sections that have versions.
pub const SECTIONS: [InventorySection; 3] =
    [InventorySection::Hardware, InventorySection::Network, InventorySection::Software];
/// Versions of one section and millisecond that a page takes into account: clocks do not repeat themselves
/// more often.
const TIES: usize = 8;

/// Names a version of a section of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionId {
    pub at_ms: u64,
    /// As [`key`] names it.
    section: String,
    hash: [u8; 32],
}

impl VersionId {
    fn of(section: InventorySection, info: &VersionInfo) -> Self {
        Self { at_ms: info.at_ms, section: key(section).unwrap_or_default().to_owned(), hash: info.hash }
    }

    #[must_use]
    pub fn section(&self) -> InventorySection {
        section_named(&self.section).unwrap_or(InventorySection::Unspecified)
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.section, self.at_ms, hex(&self.hash))
    }
}

impl FromStr for VersionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().ok_or(());
        let (section, at_ms, digits) = (next()?, next()?.parse().map_err(|_| ())?, next()?);
        section_named(section).ok_or(())?;
        if digits.len() != 64 || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(());
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(())?;
        }
        Ok(Self { at_ms, section: section.to_owned(), hash })
    }
}

/// The section of that name.
#[must_use]
pub fn section_named(name: &str) -> Option<InventorySection> {
    SECTIONS.into_iter().find(|section| key(*section) == Some(name))
}

/// One version of a section, as the list shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionSummary {
    /// Names it.
    pub version: String,
    /// "hardware", "network" or "software".
    pub section: &'static str,
    /// When the server received it.
    pub at: Timestamp,
    /// As it is stored.
    pub bytes: u64,
    /// Whether the device had not reported the section before; null where that is not known.
    #[schema(required)]
    pub first: Option<bool>,
    /// Packages that came, went and changed; of software, and null where that is not known.
    #[schema(required)]
    pub counts: Option<ChangeCounts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeCounts {
    pub added: u64,
    pub removed: u64,
    pub updated: u64,
}

/// A page of versions, newest first.
#[derive(Debug)]
pub struct Versions {
    pub data: Vec<VersionSummary>,
    pub next: Option<VersionId>,
    pub missing_regions: Vec<String>,
}

/// What one section was. Of the three, the one that it is of is there.
#[derive(Debug, Serialize, ToSchema)]
pub struct InventoryVersion {
    pub version: String,
    pub section: &'static str,
    pub at: Timestamp,
    #[schema(required)]
    pub hardware: Option<Hardware>,
    #[schema(required)]
    pub network: Option<Network>,
    #[schema(required)]
    pub software: Option<Vec<Software>>,
}

/// What is different between two versions of a section.
#[derive(Debug, Serialize, ToSchema)]
pub struct InventoryChanges {
    pub version: String,
    pub section: &'static str,
    pub at: Timestamp,
    /// The version that it is compared with; null if none is kept that is older.
    #[schema(required)]
    pub since: Option<VersionName>,
    /// At most 1,000, by name. Empty without another version.
    pub changes: Vec<Change>,
    /// How many there are.
    pub total: u64,
    /// Regions that do not answer at the moment: another version may lie between the two.
    pub missing_regions: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct VersionName {
    pub version: String,
    pub at: Timestamp,
}

/// The versions of these sections behind `after`, newest first.
///
/// # Errors
/// `unavailable`.
pub async fn versions(
    app: &App,
    device: DeviceId,
    sections: &[InventorySection],
    after: Option<&VersionId>,
    limit: usize,
) -> Result<Versions, ApiError> {
    let before_ms = after.map_or(u64::MAX, |after| after.at_ms + 1);
    let asked = sections.iter().map(|section| app.history.versions(device, *section, before_ms, limit + TIES));
    let mut all = Vec::new();
    let mut missing_regions = Vec::new();
    for (section, page) in sections.iter().zip(try_join_all(asked).await.map_err(|error| failed(&error))?) {
        all.extend(page.versions.iter().map(|info| (VersionId::of(*section, info), info.bytes)));
        missing_regions.extend(page.missing_regions);
    }
    missing_regions.sort_unstable();
    missing_regions.dedup();
    all.retain(|(id, _)| after.is_none_or(|after| id < after));
    all.sort_by(|(a, _), (b, _)| b.cmp(a));
    let has_more = all.len() > limit;
    all.truncate(limit);
    let next = all.last().filter(|_| has_more).map(|(id, _)| id.clone());
    let events = match (all.first(), all.last()) {
        (Some((newest, _)), Some((oldest, _))) => told(app, device, oldest.at_ms, newest.at_ms + 1).await?,
        _ => HashMap::new(),
    };
    let summary = |(id, bytes): (VersionId, u64)| {
        let told = events.get(&id);
        VersionSummary {
            version: id.to_string(),
            section: key(id.section()).unwrap_or_default(),
            at: Timestamp(id.at_ms),
            bytes,
            first: told.map(|told| told.first),
            counts: told.and_then(Told::counts),
        }
    };
    Ok(Versions { data: all.into_iter().map(summary).collect(), next, missing_regions })
}

/// What the event of a version says of it.
#[derive(Debug, Deserialize)]
struct Told {
    section: String,
    hash: String,
    #[serde(default)]
    first: bool,
    added: Option<u64>,
    removed: Option<u64>,
    updated: Option<u64>,
}

impl Told {
    fn counts(&self) -> Option<ChangeCounts> {
        Some(ChangeCounts { added: self.added?, removed: self.removed?, updated: self.updated? })
    }
}

/// Pages of events that are read for one page of versions.
const MAX_EVENT_PAGES: usize = 4;

/// What the events of that time say of versions. One that is missing costs its summary.
async fn told(app: &App, device: DeviceId, from_ms: u64, to_ms: u64) -> Result<HashMap<VersionId, Told>, ApiError> {
    let kinds = vec![EventKind::InventoryChanged];
    let mut query = EventQuery { device, from_ms, to_ms, kinds, after: None, limit: 0 };
    let mut told = HashMap::new();
    for _ in 0..MAX_EVENT_PAGES {
        let page = app.history.events(&query).await.map_err(|error| failed(&error))?;
        told.extend(page.events.iter().filter_map(of_event));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    Ok(told)
}

fn of_event(event: &Event) -> Option<(VersionId, Told)> {
    let told: Told = serde_json::from_str(&event.details).ok()?;
    let id = format!("{}-{}-{}", told.section, event.at_ms, told.hash).parse().ok()?;
    Some((id, told))
}

/// One version.
///
/// # Errors
/// `not_found`, `unavailable`.
pub async fn version(app: &App, device: DeviceId, id: &VersionId) -> Result<InventoryVersion, ApiError> {
    let stored = content(app, device, id).await?;
    let mut version = InventoryVersion {
        version: id.to_string(),
        section: key(id.section()).unwrap_or_default(),
        at: Timestamp(id.at_ms),
        hardware: None,
        network: None,
        software: None,
    };
    match id.section() {
        InventorySection::Hardware => version.hardware = Some(hardware_of(stored)),
        InventorySection::Network => version.network = Some(network_of(stored, None)),
        InventorySection::Software | InventorySection::Unspecified => {
            version.software = Some(stored.software.into_iter().map(shown).collect());
        }
    }
    Ok(version)
}

/// What is different in a version from `since`, or else from the one before it.
///
/// # Errors
/// `validation` for one of another section, `not_found`, `unavailable`.
pub async fn changes(
    app: &App,
    device: DeviceId,
    id: &VersionId,
    since: Option<VersionId>,
) -> Result<InventoryChanges, ApiError> {
    if since.as_ref().is_some_and(|since| since.section() != id.section()) {
        return Err(ApiError::field("since", "must be a version of the same section"));
    }
    let after = content(app, device, id).await?;
    let (since, missing_regions) = match since {
        Some(since) => (Some(since), Vec::new()),
        None => {
            let page = app.history.versions(device, id.section(), id.at_ms + 1, TIES + 1).await;
            let page = page.map_err(|error| failed(&error))?;
            let older = page.versions.iter().map(|info| VersionId::of(id.section(), info)).find(|older| older < id);
            (older, page.missing_regions)
        }
    };
    let mut changes = match &since {
        Some(since) => difference(&content(app, device, since).await?, &after),
        None => Vec::new(),
    };
    let total = changes.len() as u64;
    changes.truncate(MAX_CHANGES);
    Ok(InventoryChanges {
        version: id.to_string(),
        section: key(id.section()).unwrap_or_default(),
        at: Timestamp(id.at_ms),
        since: since.map(|since| VersionName { version: since.to_string(), at: Timestamp(since.at_ms) }),
        changes,
        total,
        missing_regions,
    })
}

async fn content(app: &App, device: DeviceId, id: &VersionId) -> Result<StoredSection, ApiError> {
    let found = app.history.version(device, id.section(), id.at_ms, id.hash).await.map_err(|error| failed(&error))?;
    let version = found.ok_or_else(|| ApiError::not_found("version"))?;
    StoredSection::decode(version.content).map_err(ApiError::internal)
}

fn failed(error: &HistoryError) -> ApiError {
    match error {
        HistoryError::Unavailable(_) => {
            tracing::warn!(%error, "the inventory's history cannot be read");
            ApiError::unavailable("The inventory's history cannot be read at the moment. Try again.")
        }
        HistoryError::Invalid(_) | HistoryError::Corrupt(_) => ApiError::internal(error),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_and_found_by_their_names() {
        let id = VersionId { at_ms: 1_795_525_200_123, section: "software".into(), hash: [0xa5; 32] };
        let text = id.to_string();
        assert_eq!(text, format!("software-1795525200123-{}", "a5".repeat(32)));
        assert_eq!(text.parse(), Ok(id));
        for wrong in ["", "software", "software-1", "drivers-1-00", "software-x-00", &text.to_uppercase(), &text[..70]]
        {
            assert_eq!(wrong.parse::<VersionId>(), Err(()), "{wrong}");
        }
    }
}
