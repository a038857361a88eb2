//! Stores, streams and entries for the tests, and the oracle: what must be stored, exactly once.

use async_trait::async_trait;
use breeze_bus::{Bus, BusError, Entry, Extent, MemoryBus, Position, Service, Subscription};
use breeze_collector::{Config, Handle};
use breeze_proto::{
    id::DeviceId,
    shard::{LaneCount, LaneId, MAX_LANES, Shard},
    subject, v1,
};
use breeze_runtime::shutdown::Shutdown;
use breeze_store::{
    history::EmbeddedHistory,
    metrics::{Appended, FrozenBatch, InsertToken, Metrics, MetricsError, Query, QueryResult, Resolution, Usage},
    model::lane::LaneRecord,
    state::{
        Commit, CommitOutcome, CommitTable, FamilyPage, HintPage, Merge, OutboxHint, OutboxPosition, Page, PendingItem,
        Row, Scan, State, StateError, Table, memory::MemoryState,
    },
};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Any wait of a test ends by then.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64
}

/// Waits for something, looking again every few milliseconds.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

// ---- a metrics store that remembers what was appended, and checks the trait's rules ----

/// (device, time, load) -> how often it was inserted.
pub(crate) type Rows = BTreeMap<(DeviceId, u64, u64), u32>;

/// What a store does with an append.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// It refuses.
    Gone,
    /// It does not answer until it is well again.
    Silent,
}

#[derive(Debug, Default)]
pub(crate) struct MemoryMetrics {
    mood: watch::Sender<Mood>,
    /// Where a token must have been recorded before it is appended.
    recorded: Mutex<Option<Arc<MemoryState>>>,
    /// Tokens in the order in which their appends began, and how many were under way at a time.
    pub(crate) began: Mutex<Vec<InsertToken>>,
    under_way: AtomicU64,
    pub(crate) most_under_way: AtomicU64,
    batches: Mutex<BTreeMap<InsertToken, Bytes>>,
    rows: Mutex<Rows>,
    named: Mutex<BTreeMap<(DeviceId, u64, String), f64>>,
}

impl MemoryMetrics {
    pub(crate) fn rows(&self) -> Rows {
        self.rows.lock().clone()
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// From now on a token that no boundary names is a failure.
    pub(crate) fn check_records(&self, state: &Arc<MemoryState>) {
        *self.recorded.lock() = Some(state.clone());
    }

    /// The lane's newest boundary names it, or it was stored before.
    async fn check_recorded(&self, token: &InsertToken) {
        let state = self.recorded.lock().clone();
        let (Some(state), false) = (state, self.batches.lock().contains_key(token)) else { return };
        let number = token.stream.rsplit('.').next().and_then(|number| number.parse::<u16>().ok()).expect("a lane");
        let lane = all_lanes().find(|lane| lane.number() == number).expect("a lane");
        let (boundary, _) = LaneRecord::new(state, "local", lane).boundary().await.expect("reads");
        let names = (boundary.first, boundary.last) == (token.first, token.last) && boundary.days.contains(&token.day);
        assert!(names || self.batches.lock().contains_key(token), "{token} was not recorded: {boundary:?}");
    }

    pub(crate) fn named(&self) -> BTreeMap<(DeviceId, u64, String), f64> {
        self.named.lock().clone()
    }

    pub(crate) fn tokens(&self) -> Vec<InsertToken> {
        self.batches.lock().keys().cloned().collect()
    }
}

#[async_trait]
impl Metrics for MemoryMetrics {
    async fn append(&self, token: &InsertToken, batch: &FrozenBatch) -> Result<Appended, MetricsError> {
        self.check_recorded(token).await;
        self.began.lock().push(token.clone());
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Silent).await.expect("it is there");
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if mood == Mood::Gone {
            return Err(MetricsError::Unavailable("it is gone".into()));
        }
        let mut batches = self.batches.lock();
        if let Some(before) = batches.get(token) {
            assert_eq!(before, batch.as_bytes(), "a token's batch must be the same every time: {token}");
            return Ok(Appended::Duplicate);
        }
        let overlapping = batches.keys().find(|held| {
            held.stream == token.stream && held.day == token.day && held.first <= token.last && token.first <= held.last
        });
        assert_eq!(overlapping, None, "{token} covers positions of another token");
        batches.insert(token.clone(), batch.as_bytes().clone());
        let decoded = batch.decode()?;
        for row in decoded.heartbeats {
            assert_eq!(row.at_ms / 86_400_000, u64::from(token.day));
            *self.rows.lock().entry((row.device, row.at_ms, row.scalars[8])).or_default() += 1;
        }
        for row in decoded.named {
            self.named.lock().insert((row.device, row.at_ms, decoded.names[row.name as usize].to_string()), row.value);
        }
        Ok(Appended::New)
    }

    async fn query(&self, _query: &Query) -> Result<QueryResult, MetricsError> {
        Ok(QueryResult { resolution: Resolution::Raw, series: vec![], truncated: false, missing_regions: vec![] })
    }

    async fn usage(&self) -> Result<Usage, MetricsError> {
        Ok(Usage::default())
    }
}

// ---- a fuse: the process stops at the n-th write, for good or until it is woken ----

/// Whether the write at which it stops has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Before,
    After,
}

#[derive(Debug)]
pub(crate) struct Fuse {
    left: AtomicU64,
    stop: Stop,
    woken: CancellationToken,
    /// Writes that wait for it to be woken.
    late: AtomicU64,
}

impl Fuse {
    pub(crate) fn new(writes: u64, stop: Stop) -> Arc<Self> {
        let woken = CancellationToken::new();
        Arc::new(Self { left: AtomicU64::new(writes), stop, woken, late: AtomicU64::new(0) })
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn is_asleep(&self) -> bool {
        self.is_blown() && !self.woken.is_cancelled()
    }

    /// Stops the process wherever it is: what is killed ends a moment later, and would answer until then.
    pub(crate) fn blow(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    /// Lets a stopped process go on, as SIGCONT does: the write at which it stopped, and others that were
    /// under way, happen now, whether anybody still waits for them or not.
    pub(crate) fn wake(&self) {
        self.woken.cancel();
    }

    pub(crate) fn late_writes(&self) -> u64 {
        self.late.load(Ordering::SeqCst)
    }

    /// Runs a write. If the process has stopped by now, when it is woken; nothing returns before.
    async fn write<T: Send + 'static>(self: &Arc<Self>, write: impl Future<Output = T> + Send + 'static) -> T {
        let took = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match (took, self.stop) {
            (Ok(left), _) if left > 1 => write.await,
            (Ok(_), Stop::After) => {
                let done = write.await;
                self.woken.cancelled().await;
                done
            }
            (Ok(_), Stop::Before) | (Err(_), _) => {
                let fuse = self.clone();
                fuse.late.fetch_add(1, Ordering::SeqCst);
                let late = tokio::spawn(async move {
                    fuse.woken.cancelled().await;
                    let done = write.await;
                    fuse.late.fetch_sub(1, Ordering::SeqCst);
                    done
                });
                late.await.expect("it does not panic")
            }
        }
    }

    /// What a stopped process does not do.
    async fn silence(&self) {
        if self.is_blown() {
            self.woken.cancelled().await;
        }
    }
}

/// A store or bus behind a fuse.
#[derive(Debug)]
pub(crate) struct Fused<T> {
    pub(crate) inner: Arc<T>,
    pub(crate) fuse: Arc<Fuse>,
}

#[async_trait]
impl Metrics for Fused<MemoryMetrics> {
    async fn append(&self, token: &InsertToken, batch: &FrozenBatch) -> Result<Appended, MetricsError> {
        let (inner, token, batch) = (self.inner.clone(), token.clone(), batch.clone());
        self.fuse.write(async move { inner.append(&token, &batch).await }).await
    }
    async fn query(&self, query: &Query) -> Result<QueryResult, MetricsError> {
        self.inner.query(query).await
    }
    async fn usage(&self) -> Result<Usage, MetricsError> {
        self.inner.usage().await
    }
}

#[async_trait]
impl State for Fused<MemoryState> {
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StateError> {
        let inner = self.inner.clone();
        self.fuse.write(async move { inner.commit(commit).await }).await
    }
    async fn merge(&self, merges: Vec<Merge>) -> Result<(), StateError> {
        let inner = self.inner.clone();
        self.fuse.write(async move { inner.merge(merges).await }).await
    }
    async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        self.inner.get(table, partition, key).await
    }
    async fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError> {
        self.inner.partition_version(table, partition).await
    }
    async fn scan(&self, table: Table, partition: &[u8], scan: Scan) -> Result<Page, StateError> {
        self.inner.scan(table, partition, scan).await
    }
    async fn scan_family(
        &self,
        table: Table,
        bucket: u16,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError> {
        self.inner.scan_family(table, bucket, cursor, limit).await
    }
    async fn outbox(&self, table: CommitTable, partition: &[u8], limit: usize) -> Result<Vec<PendingItem>, StateError> {
        self.inner.outbox(table, partition, limit).await
    }
    async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        self.inner.outbox_delivered(table, partition, through).await
    }
    async fn outbox_hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        self.inner.outbox_hints(cursor, limit).await
    }
    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError> {
        self.inner.outbox_clear_hint(hint).await
    }
}

#[async_trait]
impl Bus for Fused<MemoryBus> {
    async fn append(&self, stream: &str, id: &str, payload: Bytes) -> Result<Position, BusError> {
        let (inner, stream, id) = (self.inner.clone(), stream.to_owned(), id.to_owned());
        self.fuse.write(async move { inner.append(&stream, &id, payload).await }).await
    }
    async fn read(
        &self,
        stream: &str,
        from: Position,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        self.inner.read(stream, from, max_bytes, wait).await
    }
    async fn trim(&self, stream: &str, before: Position) -> Result<(), BusError> {
        let (inner, stream) = (self.inner.clone(), stream.to_owned());
        self.fuse.write(async move { inner.trim(&stream, before).await }).await
    }
    async fn extent(&self, stream: &str) -> Result<Extent, BusError> {
        self.inner.extent(stream).await
    }
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        if self.fuse.is_asleep() {
            self.fuse.silence().await;
            // A process that was stopped never made it.
            return Ok(());
        }
        self.inner.publish(subject, payload).await
    }
    async fn subscribe(&self, pattern: &str) -> Result<Box<dyn Subscription>, BusError> {
        self.inner.subscribe(pattern).await
    }
    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        if self.fuse.is_asleep() {
            self.fuse.silence().await;
            // Its time was over long before it was woken.
            return Err(BusError::Timeout { subject: subject.to_owned(), timeout });
        }
        self.inner.request(subject, payload, timeout).await
    }
    async fn serve(&self, subject: &str) -> Result<Box<dyn Service>, BusError> {
        self.inner.serve(subject).await
    }
}

// ---- the world: everything that outlives a collector ----

#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) bus: Arc<MemoryBus>,
    pub(crate) state: Arc<MemoryState>,
    pub(crate) metrics: Arc<MemoryMetrics>,
}

pub(crate) fn config() -> Config {
    Config { lanes: 1, flush_interval_ms: 20, latest_interval_ms: 0, ..Config::default() }
}

/// A collector and its way to stop.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) shutdown: Shutdown,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        self.handle.join().await.expect("stops cleanly");
    }

    /// As `kill -9` would: nothing of it runs any more.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl World {
    pub(crate) async fn start(&self, config: Config) -> Running {
        let shutdown = Shutdown::new();
        let (bus, state, metrics) = (self.bus.clone(), self.state.clone(), self.metrics.clone());
        let history = Arc::new(EmbeddedHistory::new(state.clone()));
        let handle =
            breeze_collector::start(config, bus, state, metrics, history, shutdown.clone()).await.expect("starts");
        Running { handle, shutdown }
    }

    /// A collector whose process stops with the fuse.
    pub(crate) async fn start_fused(&self, fuse: &Arc<Fuse>) -> Running {
        self.start_fused_as(config(), fuse).await
    }

    pub(crate) async fn start_fused_as(&self, config: Config, fuse: &Arc<Fuse>) -> Running {
        let shutdown = Shutdown::new();
        let bus = Arc::new(Fused { inner: self.bus.clone(), fuse: fuse.clone() });
        let state: Arc<dyn State> = Arc::new(Fused { inner: self.state.clone(), fuse: fuse.clone() });
        let history = Arc::new(EmbeddedHistory::new(state.clone()));
        let metrics = Arc::new(Fused { inner: self.metrics.clone(), fuse: fuse.clone() });
        let handle =
            breeze_collector::start(config, bus, state, metrics, history, shutdown.clone()).await.expect("starts");
        Running { handle, shutdown }
    }

    pub(crate) async fn append(&self, entries: Vec<v1::LaneEntry>) -> Position {
        append(&*self.bus, entries).await
    }
}

/// Of the largest region.
pub(crate) fn all_lanes() -> impl Iterator<Item = LaneId> {
    LaneCount::new(MAX_LANES).expect("in range").lanes()
}

pub(crate) fn stream() -> String {
    subject::lane_stream("local", all_lanes().next().expect("lane 0"))
}

pub(crate) async fn append(bus: &dyn Bus, entries: Vec<v1::LaneEntry>) -> Position {
    let batch = v1::LaneBatch { relay_id: "local-1".into(), region: "local".into(), entries };
    bus.append(&stream(), "", batch.encode_to_vec().into()).await.expect("the stream takes it")
}

/// The n-th device; never the same shard twice in a row.
pub(crate) fn device(number: u8) -> DeviceId {
    let id = DeviceId::from_uuid(Uuid::from_bytes([number; 16]));
    let _ = Shard::of(id);
    id
}

pub(crate) fn entry(device: DeviceId, received_us: u64, body: v1::lane_entry::Body) -> v1::LaneEntry {
    v1::LaneEntry {
        device_id: Bytes::copy_from_slice(&device.to_bytes()),
        session_epoch: 1,
        received_us,
        body: Some(body),
    }
}

/// A heartbeat whose load is its sequence number, taken when it was received.
pub(crate) fn heartbeat(device: DeviceId, seq: u64, received_us: u64) -> v1::LaneEntry {
    heartbeat_in(device, 7, v1::Lane::Live, seq, received_us, received_us)
}

pub(crate) fn heartbeat_in(
    device: DeviceId,
    incarnation: u64,
    lane: v1::Lane,
    seq: u64,
    sample_us: u64,
    received_us: u64,
) -> v1::LaneEntry {
    let scalars = v1::Scalars { load1_centi: seq as u32, cpu_permille: 250, ..v1::Scalars::default() };
    let heartbeat = v1::Heartbeat {
        incarnation,
        lane: lane.into(),
        seq,
        scalars: Some(scalars),
        status: v1::HealthStatus::Ok.into(),
        last_user: "ada".into(),
        ..v1::Heartbeat::default()
    };
    let stamped = v1::StampedHeartbeat { incarnation, sample_us, heartbeat: Some(heartbeat), ..Default::default() };
    entry(device, received_us, v1::lane_entry::Body::Heartbeat(stamped))
}

pub(crate) fn connected(device: DeviceId, nonce: u8, counter: u64, received_us: u64) -> v1::LaneEntry {
    let hello = v1::Connected {
        instance_nonce: Bytes::from(vec![nonce; 16]),
        session_counter: counter,
        role: v1::ConnectionRole::Primary.into(),
        host: Some(v1::HostFacts { hostname: "<b>host</b>".into(), os_type: "linux".into(), ..Default::default() }),
        agent_version: "0.1.0".into(),
        observed_address: "[::ffff:192.0.2.7]:4433".into(),
        transport: "quic".into(),
        incarnation: 7,
        ..v1::Connected::default()
    };
    v1::LaneEntry { session_epoch: counter, ..entry(device, received_us, v1::lane_entry::Body::Connected(hello)) }
}

pub(crate) fn disconnected(device: DeviceId, counter: u64, received_us: u64) -> v1::LaneEntry {
    let body = v1::lane_entry::Body::Disconnected(v1::Disconnected::default());
    v1::LaneEntry { session_epoch: counter, ..entry(device, received_us, body) }
}

/// Asks as a relay does for a hello. Answered once the lane is owned and read up.
pub(crate) async fn ask_held(world: &World, request: &v1::HeldRequest) -> v1::HeldReply {
    let lane = LaneCount::new(1).and_then(|lanes| lanes.lanes().next()).expect("lane 0");
    let subject = subject::lane_held("local", lane);
    until("the lane to be served", || async {
        let reply = world.bus.request(&subject, request.encode_to_vec().into(), Duration::from_millis(300)).await;
        reply.ok().map(|reply| v1::HeldReply::decode(reply).expect("a reply"))
    })
    .await
}
