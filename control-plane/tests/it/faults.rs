//! The process may die at any write: whatever was committed, what follows from it is made after the
//! next start, once.

use crate::support::config;
use async_trait::async_trait;
use breeze_bus::{Bus as _, memory::MemoryBus};
use breeze_control_plane::{ControlPlane, Deps, api::time::now_ms};
use breeze_proto::{id::DeviceId, subject, v1::DirectoryChange};
use breeze_store::{
    metrics::{EmbeddedMetrics, EmbeddedMetricsConfig, Metrics},
    model::{
        Scope,
        audit::{Asked, Entry, Filter, Intent, Reach},
        device::{self, DeviceConfig, EnrolledFacts, Standing},
        enrollment, instance, trust,
    },
    state::{
        Commit, CommitOutcome, CommitTable, FamilyPage, HintPage, Merge, OutboxHint, OutboxPosition, Page, PendingItem,
        Row, Scan, State, StateError, Table, memory::MemoryState,
    },
};
use bytes::Bytes;
use prost::Message as _;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Lets a number of writes through; the next one happens or not, and then every call fails.
#[derive(Debug)]
struct Dying {
    inner: Arc<MemoryState>,
    left: AtomicI64,
    /// Whether the last write happens although it fails.
    last_happens: bool,
}

impl Dying {
    fn alive(&self) -> Result<(), StateError> {
        if self.left.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err(StateError::Unavailable("dead".into())) }
    }

    /// Whether this write is to be made, and whether it may return.
    fn write(&self) -> (bool, Result<(), StateError>) {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            2.. => (true, Ok(())),
            1 => (self.last_happens, Err(StateError::Unavailable("dies".into()))),
            _ => (false, Err(StateError::Unavailable("dead".into()))),
        }
    }
}

#[async_trait]
impl State for Dying {
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StateError> {
        let (happens, returns) = self.write();
        let outcome = if happens { Some(self.inner.commit(commit).await?) } else { None };
        returns.and_then(|()| outcome.ok_or_else(|| StateError::Unavailable("dead".into())))
    }

    async fn merge(&self, merges: Vec<Merge>) -> Result<(), StateError> {
        let (happens, returns) = self.write();
        if happens {
            self.inner.merge(merges).await?;
        }
        returns
    }

    async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        self.alive()?;
        self.inner.get(table, partition, key).await
    }

    async fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError> {
        self.alive()?;
        self.inner.partition_version(table, partition).await
    }

    async fn scan(&self, table: Table, partition: &[u8], scan: Scan) -> Result<Page, StateError> {
        self.alive()?;
        self.inner.scan(table, partition, scan).await
    }

    async fn scan_family(
        &self,
        table: Table,
        bucket: u16,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError> {
        self.alive()?;
        self.inner.scan_family(table, bucket, cursor, limit).await
    }

    async fn outbox(&self, table: CommitTable, partition: &[u8], limit: usize) -> Result<Vec<PendingItem>, StateError> {
        self.alive()?;
        self.inner.outbox(table, partition, limit).await
    }

    async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        let (happens, returns) = self.write();
        if happens {
            self.inner.outbox_delivered(table, partition, through).await?;
        }
        returns
    }

    async fn outbox_hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        self.alive()?;
        self.inner.outbox_hints(cursor, limit).await
    }

    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError> {
        self.alive()?;
        self.inner.outbox_clear_hint(hint).await
    }
}

struct World {
    state: Arc<MemoryState>,
    bus: Arc<MemoryBus>,
    metrics: Arc<dyn Metrics>,
}

impl World {
    async fn open(&self, data: &Path, state: Arc<dyn State>) -> anyhow::Result<ControlPlane> {
        let bus = Arc::<MemoryBus>::clone(&self.bus);
        let deps = Deps {
            bus,
            metrics: Arc::clone(&self.metrics),
            regional_metrics: std::collections::BTreeMap::default(),
            history: Arc::new(breeze_store::history::EmbeddedHistory::new(Arc::clone(&state))),
            state,
            render_metrics: None,
        };
        ControlPlane::open(config(data), deps).await
    }
}

fn intent(device: &DeviceConfig, action: &str) -> Intent {
    Intent::new(Entry {
        partner_id: Some(device.partner_id),
        resource_id: Some(device.id.to_string()),
        ..Entry::by_system(action, now_ms())
    })
}

/// First start, a key, a device that enrols and is decommissioned.
async fn story(opened: &ControlPlane, id: DeviceId) -> anyhow::Result<()> {
    let key = opened.local_enrollment_key().await?;
    let app = opened.app();
    let instance = instance::read(&*app.state).await?;
    let device = DeviceConfig {
        id,
        partner_id: instance.partner_id,
        org_id: instance.org_id,
        site_id: instance.site_id,
        standing: Standing::Active,
        display_name: None,
        tags: vec![],
        enrolled_by: key.id,
        enrollment_key_name: String::new(),
        enrolled_ms: 1,
        created_ms: 1,
        updated_ms: 1,
        enrolled: EnrolledFacts::default(),
        enrolled_address: String::new(),
        first_key_sha256: String::new(),
        keys: vec![],
        certificate_expires_ms: 0,
        home_region: String::new(),
    };
    device::create(&*app.state, &device, &intent(&device, "device.enroll")).await?;
    app.outbox.deliver(device::DEVICES, &id.to_bytes()).await?;
    let seen = device::find(&*app.state, &Scope::system("test"), id).await?;
    device::decommission(&*app.state, &seen, "sold", &intent(&device, "device.decommission"), 2).await?;
    Ok(app.outbox.deliver(device::DEVICES, &id.to_bytes()).await?)
}

/// What a process that goes on running does.
async fn deliver_what_is_left(world: &World, opened: &ControlPlane, at: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&opened.app().outbox).run(stop.clone().cancelled_owned()));
    while !world.state.outbox_hints(None, 1).await.expect("hints").hints.is_empty() {
        assert!(Instant::now() < until, "{at}: something is left to deliver");
        tokio::task::yield_now().await;
    }
    stop.cancel();
    running.await.expect("it stops");
}

/// What must hold after the next start, wherever it ended.
async fn check(world: &World, opened: &ControlPlane, id: DeviceId, at: &str) {
    let app = opened.app();
    let scope = Scope::system("test");
    let instance = instance::read(&*world.state).await.expect("instance");
    for chain in app.audit.chains().await.expect("chains") {
        app.audit.mend(chain).await.expect("mends");
    }
    let asked = Asked {
        reach: Reach::Partner(instance.partner_id),
        filter: &Filter::default(),
        after: None,
        limit: 1_000,
        budget: 10_000,
    };
    let entries = app.audit.find(&scope, &asked).await.expect("log").entries;
    let count = |action: &str| entries.iter().filter(|(_, sealed)| sealed.entry.action == action).count();
    let verdicts = app.audit.verify_all(&[]).await.expect("verifies");
    assert!(verdicts.iter().all(|verdict| verdict.broken.is_none()), "{at}: {verdicts:?}");
    let sealed: u64 = verdicts.iter().map(|verdict| verdict.entries).sum();
    assert_eq!(entries.len() as u64, sealed, "{at}: the feed has what the chains have");

    let (keys, _) = enrollment::list(&*world.state, &scope, instance.org_id, None, 1_000).await.expect("list");
    assert_eq!(count("enrollment_key.create"), keys.len(), "{at}: every key is listed and has its entry");
    let standing = device::find(&*world.state, &scope, id).await.ok().map(|seen| seen.config().standing);
    assert_eq!(count("device.enroll"), usize::from(standing.is_some()), "{at}");
    let ended = standing == Some(Standing::Decommissioned);
    assert_eq!(count("device.decommission"), usize::from(ended), "{at}");
    assert_eq!(trust::is_revoked(&*world.state, id).await.expect("reads"), ended, "{at}: revoked exactly if ended");
    let stream = world.bus.read(subject::DIRECTORY_STREAM, 1, 1 << 20, Duration::ZERO).await.expect("stream");
    let newest = stream
        .iter()
        .filter_map(|entry| DirectoryChange::decode(entry.payload.clone()).ok())
        .filter(|change| change.device_id == id.to_bytes().as_slice())
        .max_by_key(|change| change.version)
        .map(|change| device::decode(&change.record).expect("record").standing);
    assert_eq!(newest, standing, "{at}: the directory's stream has the newest record");
}

#[tokio::test]
async fn a_death_at_any_write_loses_nothing_and_doubles_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let metrics: Arc<dyn Metrics> =
        EmbeddedMetrics::open(EmbeddedMetricsConfig::new(folder.path().join("metrics"))).expect("metrics");
    let id = DeviceId::generate();
    let mut finished = false;
    for writes in 1..200 {
        for last_happens in [false, true] {
            let at = format!("death at write {writes}, which {}", if last_happens { "happened" } else { "did not" });
            let world = World { state: Arc::default(), bus: Arc::new(MemoryBus::new()), metrics: Arc::clone(&metrics) };
            let inner = Arc::clone(&world.state);
            let dying = Arc::new(Dying { inner, left: AtomicI64::new(writes), last_happens });
            // The keys are made once: they are not what is tested.
            if let Ok(opened) = world.open(folder.path(), Arc::<Dying>::clone(&dying)).await {
                finished = story(&opened, id).await.is_ok() && dying.left.load(Ordering::SeqCst) > 0;
            }
            let again = world.open(folder.path(), Arc::<MemoryState>::clone(&world.state)).await.expect(&at);
            deliver_what_is_left(&world, &again, &at).await;
            check(&world, &again, id, &at).await;
        }
        if finished {
            assert!(writes > 15, "the story has more writes than {writes}");
            return;
        }
    }
    panic!("the story does not end");
}
