//! A relay with a bus and those who answer on it.

use crate::pki::Pki;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use breeze_bus::{Bus, BusError, Entry, Extent, MemoryBus, Position, Received, Service, Subscription};
use breeze_proto::{
    id::DeviceId,
    shard::LaneCount,
    subject,
    v1::{
        ChallengeReply, DocumentsReply, Held, HeldLane, HeldReply, LaneBatch, LaneEntry, PushReply, PushRequest,
        RelayFrame, RenewReply, RoleStatus, SignedDocument, lane_entry, relay_frame, renew_reply,
    },
};
use breeze_relay::{Config, Handle, Limits, RelayIdentity};
use breeze_runtime::shutdown::Shutdown;
use bytes::Bytes;
use prost::Message;
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) pki: Pki,
    /// As everybody but the relay sees it.
    pub(crate) bus: Arc<MemoryBus>,
    /// What the relay uses.
    pub(crate) link: Arc<Link>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) quic: SocketAddr,
    pub(crate) wss: SocketAddr,
    /// What the snapshot is answered with.
    pub(crate) snapshot: Arc<Mutex<SignedDocument>>,
    /// How many lanes the region "away" says that it has.
    pub(crate) away_lanes: Arc<AtomicU32>,
    pub(crate) shutdown: Shutdown,
    handle: Option<Handle>,
}

pub(crate) fn config(folder: &Path, limits: Limits) -> Config {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    Config {
        id: "test-1".to_owned(),
        region: "local".to_owned(),
        regions: vec!["local".to_owned(), "away".to_owned()],
        lanes: 1,
        quic_listen: any,
        wss_listen: any,
        public_host: None,
        public_quic: None,
        public_wss: None,
        data_dir: folder.to_owned(),
        drain_ms: 5_000,
        limits,
    }
}

/// The relay's way to the bus, on which the lanes of the region "away" can be cut off.
#[derive(Debug)]
pub(crate) struct Link {
    bus: Arc<MemoryBus>,
    cut: AtomicU8,
}

impl Link {
    /// 0: nothing is cut; 1: appends fail; 2: they are never answered.
    pub(crate) fn cut(&self, how: u8) {
        self.cut.store(how, SeqCst);
    }
}

#[async_trait]
impl Bus for Link {
    async fn append(&self, stream: &str, id: &str, payload: Bytes) -> Result<Position, BusError> {
        match self.cut.load(SeqCst) {
            1 if stream.starts_with("lane.away.") => Err(BusError::Unavailable("the link is cut".to_owned())),
            2 if stream.starts_with("lane.away.") => std::future::pending().await,
            _ => self.bus.append(stream, id, payload).await,
        }
    }
    async fn read(&self, stream: &str, from: Position, max: usize, wait: Duration) -> Result<Vec<Entry>, BusError> {
        self.bus.read(stream, from, max, wait).await
    }
    async fn trim(&self, stream: &str, before: Position) -> Result<(), BusError> {
        self.bus.trim(stream, before).await
    }
    async fn extent(&self, stream: &str) -> Result<Extent, BusError> {
        self.bus.extent(stream).await
    }
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        self.bus.publish(subject, payload).await
    }
    async fn subscribe(&self, pattern: &str) -> Result<Box<dyn Subscription>, BusError> {
        self.bus.subscribe(pattern).await
    }
    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        self.bus.request(subject, payload, timeout).await
    }
    async fn serve(&self, subject: &str) -> Result<Box<dyn Service>, BusError> {
        self.bus.serve(subject).await
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        breeze_runtime::tls::install_provider();
        let pki = Pki::new();
        let bus = Arc::new(MemoryBus::new());
        let snapshot = Arc::new(Mutex::new(pki.revocation_set(1, 0, &[])));
        let away_lanes = Arc::new(AtomicU32::new(1));
        answer_all(&bus, &snapshot, &away_lanes).await;
        let folder = tempfile::tempdir().expect("a folder");
        let shutdown = Shutdown::new();
        let link = Arc::new(Link { bus: bus.clone(), cut: AtomicU8::default() });
        let handle = start_relay(&pki, link.clone(), config(folder.path(), limits), &shutdown).await;
        let (quic, wss) = (handle.quic_addr, handle.wss_addr);
        until_ready(&handle).await;
        Self { pki, bus, link, folder, quic, wss, snapshot, away_lanes, shutdown, handle: Some(handle) }
    }

    /// Stops the relay and starts another on the same folder and the same addresses.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.shutdown = Shutdown::new();
        let config =
            Config { quic_listen: self.quic, wss_listen: self.wss, ..config(self.folder.path(), Limits::default()) };
        let handle = start_relay(&self.pki, self.link.clone(), config, &self.shutdown).await;
        until_ready(&handle).await;
        self.handle = Some(handle);
    }

    /// Drains the relay.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.begin();
        if let Some(handle) = self.handle.take() {
            handle.join().await.expect("a clean end");
        }
    }

    fn stream() -> String {
        Self::stream_of("local")
    }

    pub(crate) fn stream_of(region: &str) -> String {
        let lane = LaneCount::new(1).expect("one lane").lanes().next().expect("one lane");
        subject::lane_stream(region, lane)
    }

    /// Everything in the lane's stream.
    pub(crate) async fn entries(&self) -> Vec<LaneEntry> {
        let mut entries = Vec::new();
        let mut from = 1;
        loop {
            let read = self.bus.read(&Self::stream(), from, 1 << 24, Duration::ZERO).await.expect("readable");
            let Some(last) = read.last() else { return entries };
            from = last.position + 1;
            for entry in read {
                entries.extend(LaneBatch::decode(entry.payload).expect("a batch").entries);
            }
        }
    }

    /// Waits for an entry of a device.
    pub(crate) async fn until_entry(&self, device: DeviceId, wanted: impl Fn(&lane_entry::Body) -> bool) -> LaneEntry {
        let found = async {
            loop {
                let mine = |entry: &LaneEntry| entry.device_id == device.to_bytes()[..];
                let entry = self
                    .entries()
                    .await
                    .into_iter()
                    .filter(mine)
                    .find(|entry| entry.body.as_ref().is_some_and(&wanted));
                if let Some(entry) = entry {
                    return entry;
                }
                let next = self.bus.extent(&Self::stream()).await.expect("an extent").last + 1;
                self.bus.read(&Self::stream(), next, 1, Duration::from_millis(200)).await.expect("readable");
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the entry comes")
    }

    pub(crate) async fn until_disconnected(&self, device: DeviceId) -> String {
        let entry = self.until_entry(device, |body| matches!(body, lane_entry::Body::Disconnected(_))).await;
        if let Some(lane_entry::Body::Disconnected(end)) = entry.body { end.reason } else { String::new() }
    }

    /// Waits for a status in which the gauges are as wanted.
    pub(crate) async fn until_status(&self, wanted: impl Fn(&dyn Fn(&str) -> f64) -> bool) {
        let mut statuses = self.bus.subscribe(&subject::status("relay", "test-1")).await.expect("a subscription");
        let found = async {
            loop {
                let Some(Received::Message { payload, .. }) = statuses.next().await else { panic!("the bus closed") };
                let status = RoleStatus::decode(payload).expect("a status");
                let gauge = |name: &str| {
                    let found = status.gauges.iter().find(|gauge| gauge.name == name);
                    found.map(|gauge| gauge.value).unwrap_or_else(|| panic!("no gauge {name}"))
                };
                if status.ready && wanted(&gauge) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("such a status");
    }

    /// Revokes as the control plane does: the snapshot first, then the update.
    pub(crate) async fn revoke(&self, version: u64, device: DeviceId) {
        *self.snapshot.lock().expect("not poisoned") = self.pki.revocation_set(version, 0, &[device]);
        let update = self.pki.revocation_set(version, version - 1, &[device]);
        let payload = Bytes::from(update.encode_to_vec());
        self.bus.publish(subject::REVOCATIONS_UPDATE, payload).await.expect("published");
    }

    pub(crate) async fn push(&self, device: DeviceId, session_epoch: u64, body: relay_frame::Body) -> bool {
        let device_id = Bytes::copy_from_slice(&device.to_bytes());
        let request = PushRequest { device_id, session_epoch, frame: Some(RelayFrame { body: Some(body) }) };
        let payload = Bytes::from(request.encode_to_vec());
        let reply = self.bus.request(&subject::relay_push("test-1"), payload, PATIENCE).await.expect("an answer");
        PushReply::decode(reply).expect("a reply").delivered
    }
}

pub(crate) async fn start_relay(pki: &Pki, bus: Arc<dyn Bus>, config: Config, shutdown: &Shutdown) -> Handle {
    let identity = RelayIdentity {
        server: pki.shown.clone(),
        client_ca: vec![pki.ca()],
        root: Arc::new(ArcSwap::from_pointee(pki.root())),
    };
    breeze_relay::start(config, identity, bus, shutdown.clone()).await.expect("it starts")
}

async fn until_ready(handle: &Handle) {
    tokio::time::timeout(PATIENCE, handle.ready()).await.expect("ready");
}

/// Answers a subject for as long as the test runs.
async fn answer(bus: &Arc<MemoryBus>, subject: &str, reply: impl Fn(Bytes) -> Vec<u8> + Send + 'static) {
    let mut service = bus.serve(subject).await.expect("a service");
    tokio::spawn(async move {
        while let Some(request) = service.next().await {
            (request.reply)(Bytes::from(reply(request.payload)));
        }
    });
}

async fn answer_all(bus: &Arc<MemoryBus>, snapshot: &Arc<Mutex<SignedDocument>>, away_lanes: &Arc<AtomicU32>) {
    let set = snapshot.clone();
    answer(bus, subject::REVOCATIONS_SNAPSHOT, move |_| set.lock().expect("not poisoned").encode_to_vec()).await;
    let lanes: Vec<_> = LaneCount::new(2).expect("two lanes").lanes().collect();
    for (region, lane, next_seq) in [("local", lanes[0], 5), ("away", lanes[0], 9), ("away", lanes[1], 19)] {
        let away_lanes = away_lanes.clone();
        answer(bus, &subject::lane_held(region, lane), move |_| {
            let held = Held { lanes: vec![HeldLane { incarnation: 7, lane: 1, next_seq }], ..Default::default() };
            let lanes = if region == "away" { away_lanes.load(SeqCst) } else { 1 };
            HeldReply { held: Some(held), lanes, ..HeldReply::default() }.encode_to_vec()
        })
        .await;
    }
    answer(bus, subject::AGENT_DOCUMENTS, |_| {
        let document = SignedDocument { role: "config".to_owned(), ..Default::default() };
        DocumentsReply { documents: vec![document], ..Default::default() }.encode_to_vec()
    })
    .await;
    let challenge = ChallengeReply { challenge: Bytes::from_static(b"challenge") };
    answer(bus, subject::CA_CHALLENGE, move |_| challenge.encode_to_vec()).await;
    answer(bus, subject::CA_RENEW, |_| {
        RenewReply { result: Some(renew_reply::Result::Refused("not today".into())) }.encode_to_vec()
    })
    .await;
}
