//! Stores that are slow, silent or gone: presence goes on, nothing is dropped, and every row is there once
//! when they are back.

use crate::{
    crash::{Script, expected},
    world::*,
};
use breeze_bus::{Bus, Received};
use breeze_collector::Config;
use breeze_proto::{id::DeviceId, subject, v1};
use breeze_store::model::lane::LaneRecord;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use std::{collections::BTreeMap, sync::Arc};

/// More than two batches' rows.
const ENTRIES: u64 = 30;
const BEATS: u64 = 1_600;

/// The presence of each device by the digests, and the newest status.
#[derive(Debug, Default)]
struct Told {
    presence: Mutex<BTreeMap<DeviceId, u32>>,
    status: Mutex<v1::RoleStatus>,
}

impl Told {
    async fn listen(world: &World) -> Arc<Self> {
        let told = Arc::new(Self::default());
        let mut digests = world.bus.subscribe(&subject::digest("local")).await.expect("subscribes");
        let mut statuses = world.bus.subscribe("status.>").await.expect("subscribes");
        let (hears, reads) = (told.clone(), told.clone());
        tokio::spawn(async move {
            while let Some(Received::Message { payload, .. }) = digests.next().await {
                let digest = v1::Digest::decode(payload).expect("a digest");
                for (id, presence) in digest.device_ids.iter().zip(&digest.presence) {
                    hears.presence.lock().insert(DeviceId::from_slice(id).expect("an id"), *presence);
                }
            }
        });
        tokio::spawn(async move {
            while let Some(Received::Message { payload, .. }) = statuses.next().await {
                *reads.status.lock() = v1::RoleStatus::decode(payload).expect("a status");
            }
        });
        told
    }

    async fn presence_becomes(&self, device: DeviceId, presence: v1::Presence) {
        until(&format!("{device} {presence:?}"), || async {
            (self.presence.lock().get(&device) == Some(&(presence as u32))).then_some(())
        })
        .await;
    }

    fn gauge(&self, name: &str, unit: &str) -> f64 {
        let status = self.status.lock();
        let found = status.gauges.iter().find(|gauge| gauge.name == name && gauge.unit == unit);
        found.map_or(0.0, |gauge| gauge.value)
    }
}

/// Heartbeats of two devices, each a row of its own.
fn many(from: u64, now: u64) -> Vec<v1::LaneEntry> {
    (0..BEATS)
        .map(|number| {
            let seq = (from * BEATS + number) / 2 + 1;
            // Rows are named by the millisecond.
            heartbeat_in(device(1 + (number % 2) as u8), 7, v1::Lane::Backlog, seq, now - 900_000_000 + seq * 1000, now)
        })
        .collect()
}

async fn bears(mood: Mood) {
    let world = World::default();
    world.metrics.check_records(&world.state);
    let told = Told::listen(&world).await;
    let collector = world.start(Config { lease_ms: 3_000, ..config() }).await;
    let now = now_us();
    let mut script: Script = vec![vec![connected(device(1), 1, 1, now), connected(device(3), 1, 1, now)]];
    world.append(script[0].clone()).await;
    told.presence_becomes(device(3), v1::Presence::Online).await;

    world.metrics.set_mood(mood);
    for from in 0..ENTRIES {
        script.push(many(from, now));
        world.append(many(from, now)).await;
    }
    let went = now_us();
    script.push(vec![connected(device(4), 1, 1, went), disconnected(device(3), 1, went)]);
    world.append(script[script.len() - 1].clone()).await;
    told.presence_becomes(device(4), v1::Presence::Online).await;
    told.presence_becomes(device(3), v1::Presence::Offline).await;
    assert!(now_us() - went < 15_000_000, "in time: {} ms", (now_us() - went) / 1000);
    // A relay hears of everything that the stream holds, so that nobody begins a new incarnation.
    let asked =
        v1::HeldRequest { device_id: Bytes::copy_from_slice(&device(1).to_bytes()), ..v1::HeldRequest::default() };
    let held = ask_held(&world, &asked).await.held.expect("held");
    assert_eq!(held.lanes[0].next_seq, ENTRIES * BEATS / 2 + 1);
    assert_eq!(world.metrics.rows().len(), 0);
    // The page says so, with figures.
    until("the status to tell", || async { (told.gauge("collector_store_lag", "seconds") > 3.0).then_some(()) }).await;
    assert!(told.gauge("collector_store_lag_entries", "") >= ENTRIES as f64);
    assert!(told.gauge("collector_store_lag", "bytes") > (ENTRIES * BEATS) as f64);
    if mood == Mood::Gone {
        assert!(told.status.lock().message.contains("presence goes on: metrics storage is unavailable"));
    }
    assert!(told.status.lock().ready);
    // The stream keeps all of it.
    let extent = world.bus.extent(&stream()).await.expect("an extent");
    assert!(extent.first <= 2, "{extent:?}");

    world.metrics.set_mood(Mood::Well);
    let wanted = expected(&script);
    until("all rows", || async { (world.metrics.rows().len() >= wanted.len()).then_some(()) }).await;
    // And goes on as before.
    script.push(vec![connected(device(3), 1, 2, now_us()), heartbeat(device(3), 1, now_us())]);
    world.append(script[script.len() - 1].clone()).await;
    told.presence_becomes(device(3), v1::Presence::Online).await;
    let wanted = expected(&script);
    until("one more row", || async { (world.metrics.rows().len() >= wanted.len()).then_some(()) }).await;
    until("the status to be well", || async { told.status.lock().message.is_empty().then_some(()) }).await;
    collector.stop().await;
    assert!(world.metrics.rows() == wanted, "each heartbeat exactly once");
    let lane = all_lanes().next().expect("lane 0");
    let record = LaneRecord::new(world.state.clone(), "local", lane);
    crate::crash::check_received(&record, &script).await;
    assert!(world.metrics.tokens().len() >= 3, "batches stay bounded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metrics_store_that_is_gone_holds_up_rows_and_nothing_else() {
    bears(Mood::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metrics_store_that_does_not_answer_holds_up_rows_and_nothing_else() {
    bears(Mood::Silent).await;
}

/// A collector that is killed while it is ahead of its rows leaves all of them to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_while_the_store_is_gone_loses_nothing() {
    let world = World::default();
    world.metrics.check_records(&world.state);
    let told = Told::listen(&world).await;
    world.metrics.set_mood(Mood::Gone);
    let first = world.start(config()).await;
    let now = now_us();
    let mut script = Script::new();
    for from in 0..ENTRIES {
        script.push(many(from, now));
        world.append(many(from, now)).await;
    }
    script.push(vec![connected(device(4), 1, 1, now)]);
    world.append(script[script.len() - 1].clone()).await;
    told.presence_becomes(device(4), v1::Presence::Online).await;
    first.kill();
    let second = world.start(config()).await;
    world.metrics.set_mood(Mood::Well);
    let wanted = expected(&script);
    until("all rows", || async { (world.metrics.rows().len() >= wanted.len()).then_some(()) }).await;
    second.stop().await;
    assert!(world.metrics.rows() == wanted, "each heartbeat exactly once");
    crate::crash::check_devices(&world, &script).await;
}

/// The state store away for longer than a lease: the lane waits, says so, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_waits_for_the_state_store() {
    let world = World::default();
    world.metrics.check_records(&world.state);
    let told = Told::listen(&world).await;
    let collector = world.start(Config { lease_ms: 1_000, ..config() }).await;
    let now = now_us();
    let mut script: Script = vec![vec![heartbeat(device(1), 1, now)]];
    world.append(script[0].clone()).await;
    until("a row", || async { (world.metrics.rows().len() == 1).then_some(()) }).await;
    world.state.set_unavailable(true);
    script.push(vec![heartbeat(device(1), 2, now + 1_000_000), heartbeat(device(2), 1, now)]);
    world.append(script[1].clone()).await;
    until("the status to tell", || async {
        told.status.lock().message.contains("storage is unavailable").then_some(())
    })
    .await;
    until("the lease to be over", || async { (now_us() - now > 3_000_000).then_some(()) }).await;
    assert_eq!(world.metrics.rows().len(), 1, "nothing is inserted that is not recorded");
    world.state.set_unavailable(false);
    until("all rows", || async { (world.metrics.rows().len() == 3).then_some(()) }).await;
    until("the status to be well", || async { told.status.lock().message.is_empty().then_some(()) }).await;
    collector.stop().await;
    assert_eq!(world.metrics.rows(), expected(&script));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_days_come_after_todays_and_few_at_a_time() {
    const DAY_US: u64 = 86_400_000_000;
    let world = World::default();
    world.metrics.check_records(&world.state);
    let now = now_us();
    let mut script = Script::new();
    for seq in 1..=3 {
        let late = (1..=25).map(|back| {
            heartbeat_in(device(1), 7, v1::Lane::Backlog, seq * 100 + back, now - back * DAY_US + seq * 1000, now)
        });
        let mut entries: Vec<v1::LaneEntry> = late.collect();
        entries.push(heartbeat(device(2), seq, now + seq * 1000));
        world.append(entries.clone()).await;
        script.push(entries);
    }
    let collector = world.start(config()).await;
    let wanted = expected(&script);
    until("all rows", || async { (world.metrics.rows().len() >= wanted.len()).then_some(()) }).await;
    collector.stop().await;
    assert_eq!(world.metrics.rows(), wanted);
    let mut batches: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for token in world.metrics.began.lock().iter() {
        batches.entry(token.first).or_default().push(token.day);
    }
    assert_eq!(batches.len(), 3, "a batch with so many days is full");
    for days in batches.values() {
        assert_eq!(days.len(), 26);
        assert_eq!(days.iter().max(), days.first(), "today's first");
    }
    let most = world.metrics.most_under_way.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..=4).contains(&most), "{most} at a time");
}
