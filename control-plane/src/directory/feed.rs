//! Where the directory's content comes from: the store at the start, the directory stream and the
//! regions' digests from then on.
//!
//! The stream's end is noted *before* the scan, so what changes meanwhile is seen twice and never
//! not at all; versions make that harmless. A stream that was trimmed beyond what was read, or a
//! digest that was missed, leads to a new scan or a full digest.

use super::{Change, ConfigRecord, Directory};
use breeze_bus::{Bus, BusError, Extent, Received, Subscription};
use breeze_proto::{
    id::DeviceId,
    subject::{self, DIRECTORY_STREAM},
    v1::{DeviceFacts, DeviceLatest, Digest, DigestRequest, DirectoryChange, DirectorySource},
};
use breeze_store::{
    model::{
        Scope,
        device::{self, CONFIG, DEVICES},
        device_state::{DEVICE_STATE, FACTS, LATEST},
        error::ModelError,
        tenancy,
    },
    state::{BUCKETS, MAX_PAGE_ROWS, Row, State, StateError, Table},
};
use bytes::Bytes;
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Bytes of the stream that are read at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Entries that stay in the stream behind what was read, for nodes that are behind; one that is
/// further behind builds anew from the store.
const KEEP_ENTRIES: u64 = 100_000;
/// How long a read waits for a change.
const READ_WAIT: Duration = Duration::from_secs(5);
/// Pause after the store or the bus failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often a full digest that was not had is asked for again.
const FULL_RETRY: Duration = Duration::from_secs(3);
/// How long its answer may take.
const FULL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often names of organizations and sites are read again, if they are few.
const NAMES_INTERVAL: Duration = Duration::from_secs(5);
/// Of more names than this, all are read after as many intervals as it takes to stay at this rate.
const NAMES_PER_INTERVAL: usize = 100;
/// How often it is looked whether the stream is still the one that is followed.
const STREAM_INTERVAL: Duration = Duration::from_secs(2);
/// Regions that are listened to.
const MAX_REGIONS: usize = 256;
/// Collectors whose digests are followed.
const MAX_SOURCES: usize = 1024;
/// Pages of a full digest.
const MAX_FULL_PAGES: usize = 100_000;

/// Where to listen.
#[derive(Debug, Clone, Default)]
pub struct FeedConfig {
    /// Regions whose full digest is asked for at the start; others are learnt when they speak.
    pub regions: Vec<String>,
}

/// The one writer of a directory.
#[derive(Debug)]
pub struct Feed {
    directory: Arc<Directory>,
    state: Arc<dyn State>,
    bus: Arc<dyn Bus>,
    config: FeedConfig,
}

impl Feed {
    #[must_use]
    pub fn new(directory: Arc<Directory>, state: Arc<dyn State>, bus: Arc<dyn Bus>, config: FeedConfig) -> Self {
        Self { directory, state, bus, config }
    }

    /// Fills the directory and keeps it current until `stop`. A store or bus that does not answer is
    /// tried again; meanwhile the directory answers with what it has.
    ///
    /// # Errors
    /// When the bus has closed without `stop`.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        stop.run_until_cancelled(async { tokio::try_join!(self.records(), self.digests(), self.names()).map(|_| ()) })
            .await
            .unwrap_or(Ok(()))
    }

    // ---- records ----

    async fn records(&self) -> anyhow::Result<()> {
        loop {
            let cursor = match self.rebuild().await {
                Ok(cursor) => cursor,
                Err(error) => {
                    tracing::warn!(%error, "directory cannot be built from the store; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.directory.set_ready();
            let size = self.directory.size();
            tracing::info!(devices = size.devices, bytes = size.bytes, "directory built");
            let why = self.tail(cursor).await;
            metrics::counter!("breeze_directory_rebuilds_total").increment(1);
            tracing::warn!(why, "the directory stream cannot be followed; building again");
        }
    }

    /// Reads everything; where in the stream to go on.
    async fn rebuild(&self) -> anyhow::Result<Cursor> {
        let extent = self.bus.extent(DIRECTORY_STREAM).await?;
        for bucket in 0..BUCKETS {
            self.scan(Table::Commit(DEVICES), bucket).await?;
            self.scan(Table::Merge(DEVICE_STATE), bucket).await?;
        }
        self.name(true).await?;
        Ok(Cursor { next: extent.last + 1, identity: extent.identity, looked: Instant::now() })
    }

    async fn scan(&self, table: Table, bucket: u16) -> Result<(), StateError> {
        let mut cursor: Option<Bytes> = None;
        loop {
            let page = self.state.scan_family(table, bucket, cursor, MAX_PAGE_ROWS).await?;
            let mut batch = Batch::default();
            for (partition, row) in page.rows {
                if let Some(device) = DeviceId::from_slice(&partition) {
                    batch.take_row(device, table, &row);
                }
            }
            batch.apply(&self.directory);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Follows the stream until there is something that was not read; returns why.
    async fn tail(&self, mut cursor: Cursor) -> &'static str {
        let mut trimmed = 0;
        loop {
            let entries = match self.bus.read(DIRECTORY_STREAM, cursor.next, READ_BYTES, READ_WAIT).await {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!(%error, "directory stream cannot be read; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let mut batch = Batch::default();
            for entry in entries {
                if entry.position > cursor.next {
                    return "it was trimmed beyond what was read";
                }
                cursor.next = entry.position + 1;
                batch.take_entry(&entry.payload);
            }
            batch.apply(&self.directory);
            if cursor.looked.elapsed() >= STREAM_INTERVAL {
                match self.bus.extent(DIRECTORY_STREAM).await {
                    Ok(extent) if !cursor.is_in(extent) => return "it was deleted or lost, and made anew",
                    Ok(extent) => {
                        cursor.identity = extent.identity;
                        cursor.looked = Instant::now();
                        self.trim(cursor.next, &mut trimmed).await;
                    }
                    Err(error) => tracing::debug!(%error, "the directory stream does not say which it is"),
                }
            }
            if let Err(error) = self.name(true).await {
                tracing::warn!(%error, "names of organizations or sites cannot be read");
            }
            metrics::gauge!("breeze_directory_devices").set(self.directory.device_count() as f64);
        }
    }

    /// Lets go of what is far behind: the store has it. Only right after a look at which stream it is.
    async fn trim(&self, next: u64, trimmed: &mut u64) {
        let Some(before) = trim_before(next, *trimmed) else { return };
        match self.bus.trim(DIRECTORY_STREAM, before).await {
            Ok(()) => *trimmed = before,
            Err(error) => tracing::warn!(%error, "the directory stream cannot be trimmed"),
        }
    }

    // ---- names ----

    async fn names(&self) -> anyhow::Result<()> {
        loop {
            let (organizations, sites) = self.directory.tenants(false);
            let intervals = (organizations.len() + sites.len()) / NAMES_PER_INTERVAL + 1;
            tokio::time::sleep(NAMES_INTERVAL * u32::try_from(intervals).unwrap_or(u32::MAX)).await;
            if let Err(error) = self.name(false).await {
                tracing::warn!(%error, "names of organizations or sites cannot be read");
            }
        }
    }

    async fn name(&self, unnamed: bool) -> Result<(), ModelError> {
        let scope = Scope::system("names in the directory");
        let (organizations, sites) = self.directory.tenants(unnamed);
        for id in organizations {
            match tenancy::organization(self.state.as_ref(), &scope, id).await {
                Ok(organization) => self.directory.name_organization(id, &organization.value.name),
                Err(ModelError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for id in sites {
            match tenancy::site(self.state.as_ref(), &scope, id).await {
                Ok(site) => self.directory.name_site(id, &site.value.name),
                Err(ModelError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    // ---- digests ----

    async fn digests(&self) -> anyhow::Result<()> {
        let mut subscription = self.subscribe().await;
        let mut regions = Regions::default();
        for region in &self.config.regions {
            regions.want(region);
        }
        let mut retries = interval(FULL_RETRY);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                received = subscription.next() => match received {
                    Some(Received::Message { payload, .. }) => self.take_digest(&payload, &mut regions),
                    Some(Received::Lagged(lost)) => {
                        metrics::counter!("breeze_directory_digests_lost_total").increment(lost);
                        regions.want_all();
                    }
                    None => anyhow::bail!("the bus has closed"),
                },
                _ = retries.tick() => self.ask_for_full(&mut regions).await,
            }
        }
    }

    async fn subscribe(&self) -> Box<dyn Subscription> {
        loop {
            match self.bus.subscribe("digest.>").await {
                Ok(subscription) => return subscription,
                Err(error) => {
                    tracing::warn!(%error, "digests cannot be subscribed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn take_digest(&self, payload: &Bytes, regions: &mut Regions) {
        let Ok(digest) = Digest::decode(payload.clone()) else {
            metrics::counter!("breeze_directory_malformed_total").increment(1);
            return;
        };
        regions.note(&digest);
        self.directory.apply_digest(&digest);
    }

    async fn ask_for_full(&self, regions: &mut Regions) {
        for region in regions.wanted.clone() {
            match self.full(&region).await {
                Ok(()) => {
                    regions.wanted.remove(&region);
                }
                Err(BusError::NoResponder(_)) => tracing::debug!(region, "no collector answers for the region yet"),
                Err(error) => tracing::warn!(region, %error, "no full digest"),
            }
        }
    }

    /// Every page of a region's full digest.
    async fn full(&self, region: &str) -> Result<(), BusError> {
        let mut after = Bytes::new();
        for _ in 0..MAX_FULL_PAGES {
            let request = DigestRequest { after }.encode_to_vec().into();
            let reply = self.bus.request(&subject::digest_full(region), request, FULL_TIMEOUT).await?;
            let page = Digest::decode(reply).map_err(|error| BusError::Corrupt(error.to_string()))?;
            self.directory.apply_digest(&page);
            after = page.next;
            if after.is_empty() {
                return Ok(());
            }
        }
        Err(BusError::Corrupt(format!("the full digest has more than {MAX_FULL_PAGES} pages")))
    }
}

/// Before which entry to trim, now that all before `next` were read and all before `trimmed` are gone;
/// `None` while it is not worth it. Reads come in any size, so no position can be counted on.
const fn trim_before(next: u64, trimmed: u64) -> Option<u64> {
    let before = next.saturating_sub(KEEP_ENTRIES);
    if before > 1 && before >= trimmed + KEEP_ENTRIES / 100 { Some(before) } else { None }
}

/// How far the stream was followed, and which stream that was.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    next: u64,
    /// 0: not known.
    identity: u64,
    /// When that was last so.
    looked: Instant,
}

impl Cursor {
    /// Whether it is a place in that stream.
    const fn is_in(self, stream: Extent) -> bool {
        let is_another = self.identity != 0 && stream.identity != 0 && self.identity != stream.identity;
        !is_another && self.next <= stream.last + 1
    }
}

/// How far the digests of each collector were followed.
#[derive(Debug, Default)]
struct Regions {
    /// By region and source.
    sequences: BTreeMap<(String, String), u64>,
    /// Whose full digest is missing.
    wanted: BTreeSet<String>,
}

impl Regions {
    fn want(&mut self, region: &str) {
        if self.wanted.len() < MAX_REGIONS {
            self.wanted.insert(region.to_owned());
        }
    }

    fn want_all(&mut self) {
        self.wanted.extend(self.sequences.keys().map(|(region, _)| region.clone()));
    }

    fn note(&mut self, digest: &Digest) {
        let key = (digest.region.clone(), digest.source.clone());
        if self.sequences.get(&key).is_none_or(|held| digest.sequence != held + 1) {
            self.want(&digest.region);
        }
        if self.sequences.len() >= MAX_SOURCES {
            // Collectors that ended; those that live are asked for everything once.
            self.sequences.clear();
        }
        self.sequences.insert(key, digest.sequence);
    }
}

/// Decoded records that are applied together.
#[derive(Debug, Default)]
struct Batch {
    config: Vec<Change<ConfigRecord>>,
    facts: Vec<Change<DeviceFacts>>,
    latest: Vec<(DeviceId, DeviceLatest)>,
}

impl Batch {
    fn take_row(&mut self, device: DeviceId, table: Table, row: &Row) {
        match table {
            Table::Commit(_) if row.key == CONFIG => self.take_config(device, row.version, &row.value),
            Table::Merge(_) if row.key == FACTS => self.take_facts(device, row.version, &row.value),
            Table::Merge(_) if row.key == LATEST => match DeviceLatest::decode(row.value.clone()) {
                Ok(latest) => self.latest.push((device, latest)),
                Err(error) => malformed(device, &error),
            },
            Table::Commit(_) | Table::Merge(_) => {}
        }
    }

    fn take_entry(&mut self, payload: &Bytes) {
        let Ok(change) = DirectoryChange::decode(payload.clone()) else {
            metrics::counter!("breeze_directory_malformed_total").increment(1);
            return;
        };
        let Some(device) = DeviceId::from_slice(&change.device_id) else {
            metrics::counter!("breeze_directory_malformed_total").increment(1);
            return;
        };
        match change.source() {
            DirectorySource::Config if change.record.is_empty() => {
                self.config.push(Change { device, version: change.version, record: None });
            }
            DirectorySource::Config => self.take_config(device, change.version, &change.record),
            DirectorySource::Facts => self.take_facts(device, change.version, &change.record),
            DirectorySource::Unspecified => {}
        }
    }

    fn take_config(&mut self, device: DeviceId, version: u64, record: &[u8]) {
        match device::decode(record) {
            Ok(config) => self.config.push(Change { device, version, record: ConfigRecord::of(config) }),
            Err(error) => malformed(device, &error),
        }
    }

    fn take_facts(&mut self, device: DeviceId, version: u64, record: &Bytes) {
        match DeviceFacts::decode(record.clone()) {
            Ok(facts) => self.facts.push(Change { device, version, record: Some(facts) }),
            Err(error) => malformed(device, &error),
        }
    }

    fn apply(&self, directory: &Directory) {
        directory.apply_config(&self.config);
        directory.apply_facts(&self.facts);
        directory.apply_latest(&self.latest);
    }
}

fn malformed(device: DeviceId, error: &dyn std::fmt::Display) {
    metrics::counter!("breeze_directory_malformed_total").increment(1);
    tracing::warn!(device.id = %device, %error, "a record for the directory does not decode and is skipped");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_was_made_anew_is_noticed_however_long_it_is() {
        let stream = |identity, last| Extent { first: 1, last, bytes: 0, identity };
        let cursor = Cursor { next: 6, identity: 7, looked: Instant::now() };
        for (stream, is_in) in [
            (stream(7, 5), true),
            (stream(7, 100), true),
            (stream(8, 5), false),
            (stream(8, 100), false),
            (stream(7, 4), false),
            (stream(0, 5), true),
            (stream(0, 0), false),
        ] {
            assert_eq!(cursor.is_in(stream), is_in, "{stream:?}");
        }
        assert!(Cursor { identity: 0, ..cursor }.is_in(stream(8, 5)), "not known before");
    }

    #[test]
    fn whatever_the_reads_sizes_the_stream_stays_short() {
        for step in [1, 7, 333, 999, 1_001, 40_000] {
            let (mut trimmed, mut trims) = (0, 0);
            for next in (1..=4 * KEEP_ENTRIES).step_by(step) {
                if let Some(before) = trim_before(next, trimmed) {
                    assert!(before > trimmed && before <= next);
                    (trimmed, trims) = (before, trims + 1);
                }
                let length = next - trimmed;
                assert!(length <= KEEP_ENTRIES + KEEP_ENTRIES / 100, "reads of {step}: {length} entries");
            }
            assert!(trims <= 300, "reads of {step}: {trims} trims");
        }
    }
}
