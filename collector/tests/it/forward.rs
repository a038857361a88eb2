//! What was stored for another region comes home, each heartbeat once, whatever happens on the way.

use crate::world::*;
use breeze_bus::Bus;
use breeze_collector::Config;
use breeze_proto::{
    id::DeviceId,
    shard::{LaneCount, Shard},
    subject, v1,
};
use bytes::{BufMut as _, BytesMut};
use prost::Message as _;
use std::time::Duration;

fn stream_at_home() -> String {
    subject::lane_stream("away", all_lanes().next().expect("lane 0"))
}

fn foreign() -> String {
    subject::foreign_stream("local", "away")
}

fn forwarder(id: &str) -> Config {
    Config { id: id.into(), homes: vec!["away".into(), "local".into()], lease_ms: 1_000, ..config() }
}

fn home() -> Config {
    Config { id: "home-1".into(), region: "away".into(), ..config() }
}

async fn store(world: &World, stream: &str, prefix: &[u8], relay: &str, entries: Vec<v1::LaneEntry>) {
    let batch = v1::LaneBatch { relay_id: relay.into(), region: "local".into(), entries };
    let mut payload = BytesMut::new();
    payload.put_slice(prefix);
    payload.put_slice(&batch.encode_to_vec());
    world.bus.append(stream, "", payload.freeze()).await.expect("the stream takes it");
}

/// Heartbeats `1..=count` of two devices through two relays, the first of them also at home already.
async fn store_all(world: &World, count: u64) {
    let now = now_us();
    store(world, &stream_at_home(), &[], "local-1", vec![heartbeat(device(1), 1, now)]).await;
    for seq in 1..=count {
        for (number, relay) in [(1, "local-1"), (2, "local-2")] {
            store(world, &foreign(), &[0, 0], relay, vec![heartbeat(device(number), seq, now + seq)]).await;
        }
    }
    store(world, &foreign(), &[0, 0], "local-1", vec![heartbeat(device(1), 1, now)]).await;
}

async fn until_home(world: &World, count: usize) {
    until("everything to come home", || async { (world.metrics.rows().len() >= count).then_some(()) }).await;
    until("the stream to be trimmed", || async {
        let extent = world.bus.extent(&foreign()).await.ok()?;
        (extent.first > extent.last).then_some(())
    })
    .await;
    let twice: Vec<_> = world.metrics.rows().into_iter().filter(|(_, times)| *times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test]
async fn what_was_stored_here_comes_home_once() {
    let world = World::default();
    store_all(&world, 20).await;
    world.bus.append(&foreign(), "", "x".into()).await.expect("takes it");
    world.bus.set_unavailable(true);
    let at_home = world.start(home()).await;
    let running = world.start(forwarder("collector-1")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.bus.set_unavailable(false);
    until_home(&world, 40).await;

    // What comes later goes the same way.
    store(&world, &foreign(), &[0, 0], "local-1", vec![heartbeat(device(1), 21, now_us())]).await;
    until_home(&world, 41).await;
    running.stop().await;
    at_home.stop().await;
}

#[tokio::test]
async fn an_entry_for_a_lane_that_is_not_known_here_is_kept_with_all_behind_it() {
    let world = World::default();
    let now = now_us();
    store(&world, &foreign(), &[0, 0], "local-1", vec![heartbeat(device(1), 1, now)]).await;
    store(&world, &foreign(), &[0, 3], "local-1", vec![heartbeat(device(2), 1, now)]).await;
    store(&world, &foreign(), &[0, 0], "local-1", vec![heartbeat(device(3), 1, now)]).await;
    let stream = subject::lane_stream("away", all_lanes().nth(3).expect("lane 3"));
    let running = world.start(forwarder("collector-1")).await;
    until("what is before it to be moved", || async {
        (world.bus.extent(&foreign()).await.ok()?.first == 2).then_some(())
    })
    .await;
    running.stop().await;
    let extent = world.bus.extent(&foreign()).await.expect("an extent");
    assert_eq!((extent.first, extent.last), (2, 3), "nothing is dropped");

    // A region's lanes cannot be changed: this is as if it had been begun with as many.
    let migrated = World { bus: world.bus.clone(), ..World::default() };
    let running = migrated.start(Config { lanes: 4, ..forwarder("collector-2") }).await;
    until("the rest to be moved", || async {
        (world.bus.extent(&foreign()).await.ok()?.first == 4 && world.bus.extent(&stream).await.ok()?.last == 1)
            .then_some(())
    })
    .await;
    running.stop().await;
}

/// The home has four lanes and this region one: relays said so in what they stored, and what was stored before they
/// knew it goes to each device's lane as well.
#[tokio::test]
async fn lanes_are_found_anew_by_the_homes_number() {
    let world = World::default();
    let (now, four) = (now_us(), LaneCount::new(4).expect("four lanes"));
    let devices: Vec<DeviceId> = (1..=12).map(device).collect();
    // For a lane that is not known here, by a relay that did not know the home's number.
    let all = |seq| devices.iter().map(|device| heartbeat(*device, seq, now + seq)).collect::<Vec<_>>();
    store(&world, &foreign(), &[0, 0], "local-1", all(1)).await;
    store(&world, &foreign(), &[0, 7], "local-1", all(2)).await;
    store(&world, &foreign(), &[4, 0], "local-1", all(3)).await;
    let running = world.start(forwarder("collector-1")).await;
    until("the stream to be trimmed", || async { (world.bus.extent(&foreign()).await.ok()?.first == 4).then_some(()) })
        .await;
    running.stop().await;
    let mut count = 0;
    for lane in four.lanes() {
        let stream = subject::lane_stream("away", lane);
        let mut last = std::collections::BTreeMap::new();
        for entry in world.bus.read(&stream, 1, 1 << 24, Duration::ZERO).await.expect("reads") {
            let batch = v1::LaneBatch::decode(entry.payload).expect("a batch");
            assert_eq!((batch.relay_id.as_str(), batch.region.as_str()), ("local-1", "local"));
            for entry in batch.entries {
                let device = DeviceId::from_slice(&entry.device_id).expect("an id");
                assert_eq!(Shard::of(device).lane(four), lane);
                assert!(last.insert(device, entry.received_us) < Some(entry.received_us), "in their order");
                count += 1;
            }
        }
    }
    assert_eq!(count, 36, "each once");
}

/// It has more entries than had been moved of the one before.
#[tokio::test]
async fn a_stream_that_was_made_anew_and_has_outgrown_the_cursor_is_moved_from_its_beginning() {
    let world = World::default();
    let now = now_us();
    let send = async |seqs: std::ops::RangeInclusive<u64>| {
        for seq in seqs {
            store(&world, &foreign(), &[0, 0], "local-1", vec![heartbeat(device(1), seq, now + seq)]).await;
        }
    };
    let at_home = world.start(home()).await;
    let running = world.start(forwarder("collector-1")).await;
    send(1..=3).await;
    until_home(&world, 3).await;
    running.stop().await;

    world.bus.lose_stream(&foreign());
    send(4..=10).await;
    let running = world.start(forwarder("collector-1")).await;
    until_home(&world, 10).await;

    world.bus.lose_stream(&foreign());
    send(11..=30).await;
    until_home(&world, 30).await;
    running.stop().await;
    at_home.stop().await;
}

#[tokio::test]
async fn batches_of_a_relay_travel_together() {
    let world = World::default();
    let now = now_us();
    for seq in 1..=50 {
        store(&world, &foreign(), &[0, 0], "local-1", vec![heartbeat(device(1), seq, now + seq)]).await;
    }
    let running = world.start(forwarder("collector-1")).await;
    until("all to be there", || async {
        let entries = world.bus.read(&stream_at_home(), 1, 1 << 24, Duration::ZERO).await.ok()?;
        let batches: Vec<_> =
            entries.iter().map(|entry| v1::LaneBatch::decode(entry.payload.clone()).expect("a batch")).collect();
        let count: usize = batches.iter().map(|batch| batch.entries.len()).sum();
        assert!(batches.iter().all(|batch| batch.relay_id == "local-1" && batch.region == "local"));
        (count == 50).then(|| assert!(batches.len() <= 2, "{} batches", batches.len()))
    })
    .await;
    running.stop().await;
}

/// Stopped at each of its first writes, those of its lanes among them, and woken again once another has
/// taken over.
#[tokio::test]
async fn a_forwarder_may_stop_at_any_step() {
    let mut worlds = tokio::task::JoinSet::new();
    for write in 1..=14 {
        for stop in [Stop::Before, Stop::After] {
            worlds.spawn(one_stop(write, stop));
        }
    }
    worlds.join_all().await;
}

async fn one_stop(write: u64, stop: Stop) {
    let world = World::default();
    store_all(&world, 3).await;
    let at_home = world.start(home()).await;
    let fuse = Fuse::new(write, stop);
    let stopped = world.start_fused_as(forwarder("collector-1"), &fuse).await;
    until("a stop", || async { fuse.is_blown().then_some(()) }).await;
    let other = world.start(forwarder("collector-2")).await;
    until_home(&world, 6).await;
    fuse.wake();
    store(&world, &foreign(), &[0, 0], "local-1", vec![heartbeat(device(1), 4, now_us())]).await;
    until_home(&world, 7).await;
    until("what was late to happen", || async { (fuse.late_writes() == 0).then_some(()) }).await;
    until_home(&world, 7).await;
    other.stop().await;
    stopped.kill();
    at_home.stop().await;
}
