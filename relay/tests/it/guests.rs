//! Devices of another region.

use crate::{
    client::{self, Agent, client_config, heartbeats, hello},
    world::World,
};
use breeze_bus::Bus;
use breeze_proto::{
    ALPN,
    id::DeviceId,
    shard::{ForeignLane, LaneCount, Shard},
    subject,
    v1::{Hello, LaneBatch, agent_frame, lane_entry, relay_frame},
};
use prost::Message;
use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

async fn connect(world: &World, home: &str) -> (DeviceId, Agent) {
    let device = DeviceId::generate();
    let agent = connect_as(world, device, home).await;
    (device, agent)
}

async fn connect_as(world: &World, device: DeviceId, home: &str) -> Agent {
    let config = client_config(world, Some(world.pki.device(device)), ALPN);
    let mut agent = client::quic(&config, world.quic).await.expect("connected");
    agent.send(agent_frame::Body::Hello(Hello { home_region: home.to_owned(), ..hello(1, 1) })).await;
    agent
}

/// Sequences of heartbeats in a stream, behind `skip` bytes of each entry.
async fn sequences(world: &World, stream: &str, skip: usize) -> Vec<u64> {
    let entries = world.bus.read(stream, 1, 1 << 24, Duration::ZERO).await.expect("readable");
    let mut sequences = Vec::new();
    for entry in entries {
        let batch = LaneBatch::decode(entry.payload.slice(skip..)).expect("a batch");
        for entry in batch.entries {
            if let Some(lane_entry::Body::Heartbeat(stamped)) = entry.body {
                sequences.extend(stamped.heartbeat.map(|heartbeat| heartbeat.seq));
            }
        }
    }
    sequences
}

async fn held(agent: &mut Agent) -> u64 {
    agent
        .until(|frame| if let relay_frame::Body::Held(held) = frame { Some(held.lanes[0].next_seq) } else { None })
        .await
}

#[tokio::test]
async fn a_guest_is_stored_at_home_and_asks_there() {
    let world = World::start().await;
    let (_, mut agent) = connect(&world, "away").await;
    assert_eq!(held(&mut agent).await, 9, "the home's answer");
    agent.send(heartbeats(9..=12)).await;
    agent.until_stored(4).await;
    assert_eq!(sequences(&world, &World::stream_of("away"), 0).await, [9, 10, 11, 12]);
    assert!(world.entries().await.is_empty(), "nothing in the relay's own region");
}

#[tokio::test]
async fn a_region_that_nobody_named_is_the_relays_own() {
    let world = World::start().await;
    let (device, mut agent) = connect(&world, "elsewhere").await;
    assert_eq!(held(&mut agent).await, 5);
    world.until_entry(device, |body| matches!(body, lane_entry::Body::Connected(_))).await;
}

/// The home has two lanes, this region one: whatever comes is stored here once that is known, for the lane that
/// this region would choose, with the home's number; and the owner of the home's own lane is asked.
#[tokio::test]
async fn a_home_with_other_lanes_gets_nothing_into_a_wrong_one() {
    let world = World::start().await;
    world.away_lanes.store(2, SeqCst);
    let two = LaneCount::new(2).expect("two lanes");
    let device = std::iter::repeat_with(DeviceId::generate)
        .find(|device| Shard::of(*device).lane(two).number() == 1)
        .expect("every other device");
    let mut agent = connect_as(&world, device, "away").await;
    assert_eq!(held(&mut agent).await, 19, "the owner of lane 1 answers");
    agent.send(heartbeats(19..=20)).await;
    agent.until_stored(2).await;
    let foreign = subject::foreign_stream("local", "away");
    assert_eq!(sequences(&world, &foreign, 2).await, [19, 20]);
    assert!(sequences(&world, &World::stream_of("away"), 0).await.is_empty());
    let entries = world.bus.read(&foreign, 1, 1 << 24, Duration::ZERO).await.expect("readable");
    let last = entries.last().expect("an entry");
    let place = ForeignLane::from_bytes([last.payload[0], last.payload[1]]);
    assert_eq!(place, Some(ForeignLane { lane: 0, home_lanes: Some(two) }));

    // Its collectors say another thing since: as many as here.
    world.away_lanes.store(1, SeqCst);
    let (_, mut other) = connect(&world, "away").await;
    held(&mut other).await;
    other.send(heartbeats(9..=9)).await;
    other.until_stored(1).await;
    assert_eq!(sequences(&world, &World::stream_of("away"), 0).await, [9]);
}

async fn cut(how: u8, first_wait: Duration) {
    let world = World::start().await;
    let (_, mut agent) = connect(&world, "away").await;
    held(&mut agent).await;
    world.link.cut(how);
    let began = Instant::now();
    agent.send(heartbeats(9..=9)).await;
    agent.until_stored(1).await;
    assert!(began.elapsed() >= first_wait, "the home had its time");
    let foreign = subject::foreign_stream("local", "away");
    assert_eq!(sequences(&world, &foreign, 2).await, [9]);
    let first = world.bus.read(&foreign, 1, 1, Duration::ZERO).await.expect("readable").remove(0);
    assert_eq!(first.payload[..2], [0, 0], "for lane 0");
    world.until_status(|gauge| gauge("homes_away") == 1.0).await;

    // Healed: within the pause one batch finds it out, and everything goes home again.
    world.link.cut(0);
    let mut seq = 10;
    let healed = async {
        while sequences(&world, &World::stream_of("away"), 0).await.is_empty() {
            agent.send(heartbeats(seq..=seq)).await;
            agent.until_stored(1).await;
            seq += 1;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, healed).await.expect("found again");
    agent.send(heartbeats(seq..=seq + 3)).await;
    agent.until_stored(4).await;
    let mut all = sequences(&world, &foreign, 2).await;
    all.extend(sequences(&world, &World::stream_of("away"), 0).await);
    assert_eq!(all, (9..=seq + 3).collect::<Vec<_>>(), "each once, and none is missing");
    world.until_status(|gauge| gauge("homes_away") == 0.0).await;
}

#[tokio::test]
async fn while_home_refuses_entries_are_stored_here() {
    cut(1, Duration::ZERO).await;
}

#[tokio::test]
async fn while_home_is_silent_entries_are_stored_here() {
    cut(2, Duration::from_secs(2)).await;
}
