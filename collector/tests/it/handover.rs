//! Two collectors in one process: how lanes go from one to the other, how long nobody works on them, and
//! what is still known afterwards.
#![expect(clippy::print_stdout, reason = "the pauses are figures to look at")]

use crate::{
    crash::{Script, check_devices, check_received, expected, script},
    embedded::Engines,
    world::*,
};
use breeze_bus::{Bus, Received};
use breeze_collector::Config;
use breeze_proto::{
    id::DeviceId,
    shard::{LaneCount, Shard},
    subject, v1,
};
use breeze_runtime::shutdown::Shutdown;
use breeze_store::model::lane::LaneRecord;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LANES: u16 = 4;

/// Of these two the second has lane 0 when both are there.
const OLD: &str = "one";
const NEW: &str = "two";

fn named(id: &str) -> Config {
    Config { id: id.into(), ..config() }
}

/// One device of each lane.
fn device_of(lane: u16) -> DeviceId {
    let lanes = LaneCount::new(LANES).expect("in range");
    (0u128..)
        .map(|number| DeviceId::from_uuid(Uuid::from_u128(number)))
        .find(|id| Shard::of(*id).lane(lanes).number() == lane)
        .expect("one is")
}

/// What collectors say of the lanes that they own.
async fn owned(bus: &dyn Bus, told: &Mutex<BTreeMap<String, Vec<u32>>>, stop: CancellationToken) {
    let mut presences = bus.subscribe(&subject::collectors("local")).await.expect("subscribes");
    while let Some(Some(received)) = stop.run_until_cancelled(presences.next()).await {
        let Received::Message { payload, .. } = received else { continue };
        let presence = v1::CollectorPresence::decode(payload).expect("a presence");
        told.lock().insert(presence.collector_id, presence.owned);
    }
}

/// Sends heartbeats into every lane, and looks at them live: when each lane was last worked on.
struct Traffic {
    bus: Arc<dyn Bus>,
    stop: CancellationToken,
    /// The longest time between two live samples of a lane since it was last asked.
    gaps: Mutex<BTreeMap<u16, (Instant, Duration)>>,
    sent: Mutex<u64>,
    owned: Mutex<BTreeMap<String, Vec<u32>>>,
    offline: Mutex<u32>,
}

impl Traffic {
    fn start(bus: Arc<dyn Bus>) -> Arc<Self> {
        let traffic = Arc::new(Self {
            bus,
            stop: CancellationToken::new(),
            gaps: Mutex::default(),
            sent: Mutex::default(),
            owned: Mutex::default(),
            offline: Mutex::default(),
        });
        let (sends, sees, hears, reads) = (traffic.clone(), traffic.clone(), traffic.clone(), traffic.clone());
        tokio::spawn(async move { sends.send().await });
        tokio::spawn(async move { sees.see().await });
        tokio::spawn(async move { owned(&*hears.bus, &hears.owned, hears.stop.clone()).await });
        tokio::spawn(async move { reads.read_digests().await });
        traffic
    }

    /// A heartbeat of each device every few milliseconds, each named by its number.
    async fn send(&self) {
        let lanes = LaneCount::new(LANES).expect("in range");
        let watch = v1::Watch {
            device_ids: (0..LANES).map(|lane| Bytes::copy_from_slice(&device_of(lane).to_bytes())).collect(),
            until_us: now_us() + 600_000_000,
        };
        let began = now_us();
        let mut seq = 0;
        while !self.stop.is_cancelled() {
            seq += 1;
            for lane in lanes.lanes() {
                let entries = vec![heartbeat(device_of(lane.number()), seq, began + seq * 1000)];
                let batch = v1::LaneBatch { relay_id: "local-1".into(), region: "local".into(), entries };
                let stream = subject::lane_stream("local", lane);
                self.bus.append(&stream, "", batch.encode_to_vec().into()).await.expect("appends");
            }
            *self.sent.lock() = seq;
            if seq % 10 == 1 {
                self.bus.publish(subject::WATCH, watch.encode_to_vec().into()).await.expect("publishes");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn see(&self) {
        let mut live = self.bus.subscribe("live.>").await.expect("subscribes");
        while let Some(Some(received)) = self.stop.run_until_cancelled(live.next()).await {
            let Received::Message { payload, .. } = received else { continue };
            let sample = v1::LiveSample::decode(payload).expect("a sample");
            let id = DeviceId::from_slice(&sample.device_id).expect("an id");
            let lane = Shard::of(id).lane(LaneCount::new(LANES).expect("in range")).number();
            let now = Instant::now();
            let mut gaps = self.gaps.lock();
            let (last, gap) = gaps.entry(lane).or_insert((now, Duration::ZERO));
            *gap = (*gap).max(now - *last);
            *last = now;
        }
    }

    /// Nobody may be said to have gone.
    async fn read_digests(&self) {
        let mut digests = self.bus.subscribe(&subject::digest("local")).await.expect("subscribes");
        while let Some(Some(received)) = self.stop.run_until_cancelled(digests.next()).await {
            let Received::Message { payload, .. } = received else { continue };
            let digest = v1::Digest::decode(payload).expect("a digest");
            let gone = digest.presence.iter().filter(|presence| **presence == v1::Presence::Offline as u32);
            *self.offline.lock() += gone.count() as u32;
        }
    }

    /// Until exactly these collectors own exactly so many lanes each.
    async fn wait_for(&self, wanted: &[(&str, usize)]) {
        until("lanes to be shared", || async {
            let owned = self.owned.lock();
            let has = |(id, many): &(&str, usize)| owned.get(*id).map_or(0, Vec::len) == *many;
            wanted.iter().all(has).then_some(())
        })
        .await;
        // Everybody is being worked on.
        let sent = Instant::now();
        until("live samples of all lanes", || async {
            let gaps = self.gaps.lock();
            (gaps.len() == usize::from(LANES) && gaps.values().all(|(last, _)| *last > sent)).then_some(())
        })
        .await;
    }

    /// The longest gap of any lane since this was asked last.
    fn longest_gap(&self) -> Duration {
        let mut gaps = self.gaps.lock();
        gaps.values_mut().map(|(_, gap)| std::mem::take(gap)).max().unwrap_or_default()
    }
}

/// Every device of the region, as a directory that starts asks for them.
async fn all_devices(bus: &dyn Bus) -> BTreeSet<DeviceId> {
    let (mut all, mut after) = (BTreeSet::new(), Bytes::new());
    for _ in 0..100 {
        let asked = v1::DigestRequest { after };
        let reply = bus.request(&subject::digest_full("local"), asked.encode_to_vec().into(), DEADLINE).await;
        let page = v1::Digest::decode(reply.expect("an answer")).expect("a digest");
        all.extend(page.device_ids.iter().filter_map(|id| DeviceId::from_slice(id)));
        after = page.next;
        if after.is_empty() {
            return all;
        }
    }
    panic!("the pages do not end");
}

/// A second collector joins, and the first leaves. The pauses of both; what was sent of each device.
pub(crate) async fn join_and_leave(
    bus: Arc<dyn Bus>,
    start: impl AsyncFn(Config) -> Running,
) -> (Duration, Duration, Duration, u64) {
    let config = |id| Config { lanes: LANES, flush_interval_ms: 200, ..named(id) };
    let first = start(config(OLD)).await;
    let traffic = Traffic::start(bus.clone());
    traffic.wait_for(&[(OLD, 4)]).await;
    traffic.longest_gap();
    until("some time to compare with", || async { (*traffic.sent.lock() > 100).then_some(()) }).await;
    let usual = traffic.longest_gap();
    let second = start(config(NEW)).await;
    traffic.wait_for(&[(OLD, 2), (NEW, 2)]).await;
    let joining = traffic.longest_gap();
    assert_eq!(all_devices(&*bus).await, (0..LANES).map(device_of).collect());
    first.stop().await;
    traffic.wait_for(&[(OLD, 0), (NEW, 4)]).await;
    let leaving = traffic.longest_gap();
    traffic.stop.cancel();
    let sent = until("the last to be sent", || async { Some(*traffic.sent.lock()) }).await;
    assert_eq!(*traffic.offline.lock(), 0, "nobody was said to have gone");
    second.stop().await;
    (usual, joining, leaving, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_go_to_one_that_joins_and_from_one_that_leaves_without_a_gap() {
    let world = World::default();
    world.metrics.check_records(&world.state);
    let (usual, joining, leaving, sent) =
        join_and_leave(world.bus.clone(), async |config| world.start(config).await).await;
    println!(
        "in memory: {usual:?} between two samples usually, {joining:?} when one joined, {leaving:?} when one left"
    );
    assert!(joining < Duration::from_secs(1) && leaving < Duration::from_secs(1), "{joining:?}, {leaving:?}");
    let rows = world.metrics.rows();
    for lane in 0..LANES {
        let id = device_of(lane);
        let of_device: Vec<_> = rows.range((id, 0, 0)..=(id, u64::MAX, u64::MAX)).collect();
        assert!(of_device.iter().all(|(_, many)| **many == 1), "once");
        let numbers: BTreeSet<u64> = of_device.iter().map(|((_, _, seq), _)| *seq).collect();
        assert!((1..=sent).all(|seq| numbers.contains(&seq)), "lane {lane}: {} of {sent}", numbers.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_on_the_embedded_engines_change_hands_without_a_gap() {
    let dir = tempfile::tempdir().expect("a folder");
    let engines = Engines::open(dir.path()).await;
    let (usual, joining, leaving, _) =
        join_and_leave(engines.bus.clone(), async |config| engines.start_as(config, Shutdown::new()).await).await;
    println!("embedded: {usual:?} between two samples usually, {joining:?} when one joined, {leaving:?} when one left");
    assert!(joining < Duration::from_secs(2) && leaving < Duration::from_secs(2), "{joining:?}, {leaving:?}");
    engines.close().await;
}

/// A device that falls silent goes offline when it would have without the hand-over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_come_along() {
    const FLOOR_US: u64 = 7_000_000;
    let world = World::default();
    let config = |id| Config { offline_floor_ms: FLOOR_US / 1000, latest_interval_ms: 15_000, ..named(id) };
    let first = world.start(config(OLD)).await;
    ask_held(&world, &v1::HeldRequest::default()).await;
    let silent_us = now_us();
    world.append(vec![connected(device(1), 1, 1, silent_us), heartbeat(device(1), 1, silent_us)]).await;
    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let stop = CancellationToken::new();
    let (bus, hears, ends) = (world.bus.clone(), told.clone(), stop.clone());
    tokio::spawn(async move { owned(&*bus, &hears, ends).await });
    let mut digests = world.bus.subscribe(&subject::digest("local")).await.expect("subscribes");
    let second = world.start(config(NEW)).await;
    until("the hand-over", || async { (told.lock().get(NEW).map(Vec::len) == Some(1)).then_some(()) }).await;
    let given_us = now_us();
    assert!(given_us < silent_us + FLOOR_US, "the test was too slow to show anything");
    let went_us = loop {
        let received = tokio::time::timeout(DEADLINE, digests.next()).await.expect("in time");
        let Some(Received::Message { payload, .. }) = received else { panic!("no digest") };
        let digest = v1::Digest::decode(payload).expect("a digest");
        if digest.presence.contains(&(v1::Presence::Offline as u32)) {
            assert!(digest.source.starts_with(NEW), "{}", digest.source);
            break now_us();
        }
    };
    let after = went_us - silent_us;
    println!("handed over after {} ms, offline after {} ms of silence", (given_us - silent_us) / 1000, after / 1000);
    assert!((FLOOR_US..FLOOR_US + 3_000_000).contains(&after), "{after}: not a period after the hand-over");
    stop.cancel();
    first.kill();
    second.kill();
}

/// The owner, or the successor, dies at a write after the other has come; nothing is lost or stored twice.
async fn die_at(writes: u64, is_owner: bool) -> bool {
    let world = World::default();
    world.metrics.check_records(&world.state);
    let mut script: Script = script();
    let fuse = Fuse::new(writes, Stop::After);
    let config = |id| Config { lease_ms: 1_000, ..named(id) };
    let (first, second);
    if is_owner {
        first = world.start_fused_as(config(OLD), &fuse).await;
        second = world.start(config(NEW)).await;
    } else {
        first = world.start(config(OLD)).await;
        ask_held(&world, &v1::HeldRequest::default()).await;
        second = world.start_fused_as(config(NEW), &fuse).await;
    }
    for entries in script.clone() {
        world.append(entries).await;
    }
    let began = Instant::now();
    let mut seq = 100;
    // Heartbeats all along, until it dies or the hand-over is long over.
    while !fuse.is_blown() && began.elapsed() < Duration::from_secs(5) {
        seq += 1;
        let entries = vec![heartbeat(device(2), seq, now_us())];
        world.append(entries.clone()).await;
        script.push(entries);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let died = fuse.is_blown();
    let (dead, other) = if is_owner { (first, second) } else { (second, first) };
    dead.kill();
    let entries = vec![heartbeat(device(1), 99, now_us())];
    world.append(entries.clone()).await;
    script.push(entries);
    let wanted = expected(&script);
    until("all rows", || async { (world.metrics.rows().len() >= wanted.len()).then_some(()) }).await;
    other.stop().await;
    assert_eq!(world.metrics.rows(), wanted, "each heartbeat exactly once");
    check_devices(&world, &script).await;
    let lane = all_lanes().next().expect("lane 0");
    let record = LaneRecord::new(world.state.clone(), "local", lane);
    check_received(&record, &script).await;
    died
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_on_the_way_loses_nothing() {
    let mut deaths = 0;
    let worlds: Vec<_> = (1..=10)
        .map(|writes| (writes, false))
        .chain([2, 40, 120, 180, 220, 260, 300, 340].map(|writes| (writes, true)))
        .map(|(writes, is_owner)| tokio::spawn(die_at(writes, is_owner)))
        .collect();
    for world in worlds {
        deaths += u32::from(world.await.expect("no failure"));
    }
    println!("{deaths} deaths");
    assert!(deaths >= 10, "{deaths}");
}
