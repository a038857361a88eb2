//! The directory: every device in memory, joined from what people decided (configuration records),
//! what it is (facts) and how it is (digests). It answers each list, search, facet and overview.
//!
//! Columns by slot, one writer, many readers. A lock is never held across an await, nor for longer
//! than one query or [`APPLY_CHUNK`] rows; readers clone what they take with them. Nothing can be
//! asked without a [`Scope`]: what it does not reach is not there.

mod columns;
mod compile;
mod dictionary;
mod feed;
mod index;
mod query;
mod record;
mod summary;
mod texts;

pub use compile::MAX_PATTERN_BYTES;
pub use feed::{Feed, FeedConfig};
pub use index::{MAX_DEVICES, MAX_TAGS, MAX_TOMBSTONES};
pub use query::{
    ListPage, ListQuery, MAX_FACET_TAGS, MAX_SEARCH_BYTES, MAX_SEARCH_WORDS, Position, Sort, SortField, SortValue,
    Totals,
};
pub use record::{Change, ConfigRecord, Status};
pub use summary::{DeviceFigures, DeviceHealth, DeviceStatus, DeviceSummary, Facets, Reference};

use breeze_proto::{
    id::{DeviceId, OrgId, SiteId},
    v1::{DeviceFacts, DeviceLatest, Digest},
};
use breeze_store::model::Scope;
use dictionary::Named;
use index::Index;
use parking_lot::RwLock;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// Rows of a batch that are applied under one lock.
pub const APPLY_CHUNK: usize = 1024;
/// Devices in each list of an overview.
pub const OVERVIEW_ROWS: usize = 5;

/// The index. Shared as `Arc<Directory>`.
#[derive(Debug)]
pub struct Directory {
    index: RwLock<Index>,
    /// The index's sequence after the newest batch.
    applied: watch::Sender<u64>,
    ready: AtomicBool,
}

impl Default for Directory {
    fn default() -> Self {
        Self { index: RwLock::default(), applied: watch::Sender::new(0), ready: AtomicBool::new(false) }
    }
}

/// How far a watcher has been told of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    told: u64,
    figures: u64,
}

/// What changed for a watcher.
#[derive(Debug, Default)]
pub struct Changes {
    /// Changed in more than figures.
    pub devices: Vec<DeviceSummary>,
    pub figures: Vec<DeviceFigures>,
    pub removed: Vec<DeviceId>,
}

impl Changes {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.figures.is_empty() && self.removed.is_empty()
    }
}

/// What an overview shows.
#[derive(Debug, Clone)]
pub struct Overview {
    pub totals: Totals,
    pub busiest: Vec<DeviceSummary>,
    pub newest: Vec<DeviceSummary>,
    pub offline_longest: Vec<DeviceSummary>,
}

/// For the status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub devices: u64,
    /// An estimate of all that the index holds.
    pub bytes: u64,
}

impl Directory {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    // ---- readers ----

    /// One page of a list; `now_ms` is what "ago" in the filter counts from.
    #[must_use]
    pub fn list(&self, scope: &Scope, query: &ListQuery, now_ms: u64) -> ListPage {
        query::list(&self.index.read(), scope, query, now_ms)
    }

    /// One device, if it is there for the caller.
    #[must_use]
    pub fn get(&self, scope: &Scope, device: DeviceId) -> Option<DeviceSummary> {
        let index = self.index.read();
        let slot = index.visible_slot(device)?;
        let (organization, site) = index.columns.tenant(slot);
        scope.allows(organization, site).then(|| index.columns.summary(slot))
    }

    /// Whether the device is there for the caller.
    #[must_use]
    pub fn contains(&self, scope: &Scope, device: DeviceId) -> bool {
        let index = self.index.read();
        index.visible_slot(device).is_some_and(|slot| {
            let (organization, site) = index.columns.tenant(slot);
            scope.allows(organization, site)
        })
    }

    /// A number that rises when more than the figures of a device changes; `None` if it is not there
    /// for the caller.
    #[must_use]
    pub fn told(&self, scope: &Scope, device: DeviceId) -> Option<u64> {
        let index = self.index.read();
        let slot = index.visible_slot(device)?;
        let (organization, site) = index.columns.tenant(slot);
        scope.allows(organization, site).then(|| index.columns.cells[slot].changed_status)
    }

    /// Totals and the devices that an overview names.
    #[must_use]
    pub fn overview(&self, scope: &Scope) -> Overview {
        let index = self.index.read();
        let columns = &index.columns;
        let mut totals = Totals::default();
        let (mut all, mut online, mut offline) = (Vec::new(), Vec::new(), Vec::new());
        query::each_in_reach(&index, scope, |slot| {
            let cell = &columns.cells[slot];
            totals.add(cell);
            all.push(slot as u32);
            match cell.status {
                Status::Online => online.push(slot as u32),
                Status::Offline => offline.push(slot as u32),
                Status::Pending => {}
            }
        });
        let first = |slots, field, descending| {
            let slots = query::sorted(columns, slots, Sort { field, descending }, None, OVERVIEW_ROWS);
            slots.into_iter().map(|slot| columns.summary(slot as usize)).collect()
        };
        Overview {
            totals,
            busiest: first(online, SortField::CpuPercent, true),
            newest: first(all, SortField::EnrolledAt, true),
            offline_longest: first(offline, SortField::LastSeenAt, false),
        }
    }

    /// The place from which a new watcher is told of changes.
    #[must_use]
    pub fn seen_all(&self) -> Seen {
        let sequence = self.index.read().sequence;
        Seen { told: sequence, figures: sequence }
    }

    /// At most `limit` devices that changed behind `seen`, which moves on. Each device is told of in
    /// its newest state only, changes of more than figures first, so a watcher that asks seldom is
    /// told less and nothing waits for it anywhere.
    #[must_use]
    pub fn changes(&self, scope: &Scope, seen: &mut Seen, limit: usize) -> Changes {
        let index = self.index.read();
        if seen.figures == index.sequence && seen.told == index.sequence {
            return Changes::default();
        }
        let (mut told, mut figures) = (Vec::new(), Vec::new());
        query::each_in_reach(&index, scope, |slot| {
            let cell = &index.columns.cells[slot];
            if cell.changed_status > seen.told {
                told.push((cell.changed_status, slot));
            } else if cell.changed > seen.figures {
                figures.push((cell.changed, slot));
            }
        });
        let mut changes = Changes::default();
        let removals = index.removals.iter().filter(|removal| removal.sequence > seen.told);
        changes.removed.extend(removals.filter(|r| scope.allows(r.tenant.0, r.tenant.1)).map(|r| r.device));
        seen.told = take_oldest(&mut told, limit, index.sequence);
        seen.figures = take_oldest(&mut figures, limit - told.len(), index.sequence).max(seen.figures);
        changes.devices.extend(told.iter().map(|(_, slot)| index.columns.summary(*slot)));
        changes.figures.extend(figures.iter().map(|(_, slot)| DeviceFigures::from(index.columns.summary(*slot))));
        changes
    }

    /// Waits until the configuration record of `device` is here at `version` or newer, or gone;
    /// `false` if it is not within `patience`.
    pub async fn wait_for(&self, device: DeviceId, version: u64, patience: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        let here = |_: &u64| self.index.read().config_version(device) >= version;
        tokio::time::timeout(patience, applied.wait_for(here)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// Whether the start's scan has been taken in.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Devices that people can see.
    #[must_use]
    pub fn device_count(&self) -> u64 {
        self.index.read().visible
    }

    /// As [`Directory::device_count`], with what they cost; looks at every device.
    #[must_use]
    pub fn size(&self) -> Size {
        let index = self.index.read();
        Size { devices: index.visible, bytes: index.heap_bytes() as u64 }
    }

    // ---- the writer ----

    /// Takes in configuration records; older ones than held change nothing.
    pub fn apply_config(&self, changes: &[Change<ConfigRecord>]) {
        self.in_chunks(changes, Index::apply_config);
    }

    /// Takes in facts; older ones than held change nothing.
    pub fn apply_facts(&self, changes: &[Change<DeviceFacts>]) {
        self.in_chunks(changes, Index::apply_facts);
    }

    /// Takes in stored latest values, for devices of which no digest has told.
    pub fn apply_latest(&self, rows: &[(DeviceId, DeviceLatest)]) {
        self.in_chunks(rows, |index, (device, latest)| index.apply_latest(*device, latest));
    }

    /// Takes in a digest, in several short holds of the lock.
    pub fn apply_digest(&self, digest: &Digest) {
        let mut from = 0;
        while from < digest.device_ids.len() {
            let to = from + APPLY_CHUNK;
            self.write(|index| index.apply_digest(digest, from, to));
            from = to;
        }
    }

    /// Names an organization, which renames it on all its devices.
    pub fn name_organization(&self, id: OrgId, name: &str) {
        self.write(|index| index.columns.organizations.name(id.to_bytes(), name));
    }

    /// Names a site.
    pub fn name_site(&self, id: SiteId, name: &str) {
        self.write(|index| index.columns.sites.name(id.to_bytes(), name));
    }

    /// Organizations and sites that devices belong to; with `unnamed`, those whose name is not known.
    pub(crate) fn tenants(&self, unnamed: bool) -> (Vec<OrgId>, Vec<SiteId>) {
        fn ids<T>(named: &Named, unnamed: bool, make: fn(Uuid) -> T) -> Vec<T> {
            let wanted = named.entries().iter().filter(|entry| !unnamed || entry.name.is_none());
            wanted.map(|entry| make(Uuid::from_bytes(entry.id))).collect()
        }
        let index = self.index.read();
        let columns = &index.columns;
        (ids(&columns.organizations, unnamed, OrgId::from_uuid), ids(&columns.sites, unnamed, SiteId::from_uuid))
    }

    fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    fn in_chunks<T>(&self, items: &[T], apply: impl Fn(&mut Index, &T) -> bool) {
        for chunk in items.chunks(APPLY_CHUNK) {
            self.write(|index| {
                for item in chunk {
                    apply(index, item);
                }
            });
        }
    }

    fn write<R>(&self, apply: impl FnOnce(&mut Index) -> R) -> R {
        let mut index = self.index.write();
        let result = apply(&mut index);
        let sequence = index.sequence;
        drop(index);
        self.applied.send_replace(sequence);
        result
    }
}

/// Cuts `changed` to the `limit` oldest; the sequence up to which all were taken.
fn take_oldest(changed: &mut Vec<(u64, usize)>, limit: usize, newest: u64) -> u64 {
    if changed.len() <= limit {
        return newest;
    }
    changed.sort_unstable();
    changed.truncate(limit);
    changed.last().map_or(0, |(sequence, _)| *sequence)
}
