//! A collector that stops before or after any of its writes, and a successor: each heartbeat is
//! stored exactly once, and what is known of the devices is right.

use crate::world::*;
use breeze_proto::{id::DeviceId, subject::DIRECTORY_STREAM, v1};
use breeze_store::{
    history::{EmbeddedHistory, EventKind, EventQuery, History as _},
    model::{device_state, lane::LaneRecord},
};
use proptest::{prelude::*, test_runner::TestRunner};
use prost::Message as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What relays wrote, entry by entry.
pub(crate) type Script = Vec<Vec<v1::LaneEntry>>;

/// The rows that must be there, once each.
pub(crate) fn expected(script: &Script) -> Rows {
    let mut seen = BTreeSet::new();
    let mut rows = Rows::new();
    for entry in script.iter().flatten() {
        let Some(v1::lane_entry::Body::Heartbeat(stamped)) = &entry.body else { continue };
        let heartbeat = stamped.heartbeat.as_ref().expect("set");
        let device = DeviceId::from_slice(&entry.device_id).expect("16 bytes");
        if seen.insert((device, stamped.incarnation, heartbeat.lane, heartbeat.seq)) {
            rows.insert((device, stamped.sample_us / 1000, heartbeat.seq), 1);
        }
    }
    rows
}

/// Writes the script, each entry when the one before has been stored or the collector has stopped.
pub(crate) async fn feed(world: &World, script: &Script, fuse: &Fuse) {
    for (number, entries) in script.iter().enumerate() {
        world.append(entries.clone()).await;
        let wanted = expected(&script[..=number].to_vec()).len();
        until("storing an entry", || async { (fuse.is_blown() || world.metrics.rows().len() >= wanted).then_some(()) })
            .await;
    }
}

const SUCCESSORS: usize = 5;

/// A successor takes over and finishes; then everything is compared.
async fn finish_and_check(world: &World, script: &Script) {
    let last = script.len() as u64;
    let lane = breeze_proto::shard::LaneCount::new(1).and_then(|lanes| lanes.lanes().next()).expect("lane 0");
    let record = LaneRecord::new(world.state.clone(), "local", lane);
    // One that is stopped before it has the lane leaves the last batch to the next.
    for _ in 0..SUCCESSORS {
        let successor = world.start(config()).await;
        ask_held(world, &v1::HeldRequest::default()).await;
        until("everything to be recorded", || async {
            (record.recover().await.expect("recovers").boundary.last == last).then_some(())
        })
        .await;
        successor.stop().await;
        if record.recover().await.expect("recovers").boundary.applied_through == last {
            break;
        }
    }
    assert_eq!(record.recover().await.expect("recovers").boundary.applied_through, last);

    assert_eq!(world.metrics.rows(), expected(script), "each heartbeat exactly once");
    check_devices(world, script).await;
    check_events(world, script).await;
    check_received(&record, script).await;
    let extent = breeze_bus::Bus::extent(&*world.bus, &stream()).await.expect("an extent");
    assert_eq!((extent.first, extent.last), (last + 1, last), "the stream is trimmed behind what is applied");
}

/// What the script says of connections is in the history, once each, whatever was driven again.
async fn check_events(world: &World, script: &Script) {
    let mut wanted: BTreeMap<DeviceId, Vec<(u64, EventKind)>> = BTreeMap::new();
    for entry in script.iter().flatten() {
        let kind = match &entry.body {
            Some(v1::lane_entry::Body::Connected(_)) => EventKind::Connected,
            Some(v1::lane_entry::Body::Disconnected(_)) => EventKind::Disconnected,
            Some(v1::lane_entry::Body::Heartbeat(_) | v1::lane_entry::Body::Inventory(_)) | None => continue,
        };
        let device = DeviceId::from_slice(&entry.device_id).expect("16 bytes");
        wanted.entry(device).or_default().push((entry.received_us / 1000, kind));
    }
    let history = EmbeddedHistory::new(world.state.clone());
    for (device, mut wanted) in wanted {
        let kinds = vec![EventKind::Connected, EventKind::Disconnected];
        let query = EventQuery { device, from_ms: 0, to_ms: u64::MAX, kinds, after: None, limit: 0 };
        let events = history.events(&query).await.expect("reads").events;
        let mut found: Vec<_> = events.into_iter().map(|event| (event.at_ms, event.kind)).collect();
        let order = |(at, kind): &(u64, EventKind)| (*at, kind.as_str().to_owned());
        found.sort_by_key(order);
        wanted.sort_by_key(order);
        assert_eq!(found, wanted, "events of {device}");
    }
}

pub(crate) async fn check_devices(world: &World, script: &Script) {
    let mut newest: BTreeMap<DeviceId, u64> = BTreeMap::new();
    let mut hello = BTreeSet::new();
    for entry in script.iter().flatten() {
        let device = DeviceId::from_slice(&entry.device_id).expect("16 bytes");
        let seen = newest.entry(device).or_default();
        *seen = entry.received_us.max(*seen);
        if matches!(entry.body, Some(v1::lane_entry::Body::Connected(_))) {
            hello.insert(device);
        }
    }
    for (device, last_seen_us) in newest {
        let (_, latest) = device_state::latest(&*world.state, device).await.expect("reads").expect("is there");
        assert_eq!(latest.last_seen_us, last_seen_us);
        assert_eq!(latest.presence(), v1::Presence::Online);
    }
    let entries = breeze_bus::Bus::read(&*world.bus, DIRECTORY_STREAM, 0, usize::MAX, Duration::ZERO).await;
    let told: BTreeMap<_, _> = entries
        .expect("reads")
        .into_iter()
        .map(|entry| v1::DirectoryChange::decode(entry.payload).expect("a change"))
        .map(|change| (DeviceId::from_slice(&change.device_id).expect("16 bytes"), change))
        .collect();
    for device in hello {
        let (version, facts) = device_state::facts(&*world.state, device).await.expect("reads").expect("is there");
        assert_eq!(facts.host.as_ref().expect("a host").hostname, "<b>host</b>");
        assert_eq!(facts.public_ip, "192.0.2.7");
        let change = told.get(&device).expect("the directory was told");
        assert_eq!(v1::DeviceFacts::decode(change.record.clone()).expect("facts"), facts);
        assert!(change.version <= version);
    }
}

pub(crate) async fn check_received(record: &LaneRecord, script: &Script) {
    let recovered = record.recover().await.expect("recovers");
    let mut stored = BTreeMap::new();
    for device in &recovered.received {
        for lane in &device.lanes {
            let numbers: BTreeSet<u64> = lane.bounds.chunks_exact(2).flat_map(|bounds| bounds[0]..=bounds[1]).collect();
            stored.insert((device.device_id.clone(), lane.incarnation, lane.lane), numbers);
        }
    }
    let mut wanted: BTreeMap<_, BTreeSet<u64>> = BTreeMap::new();
    for entry in script.iter().flatten() {
        let Some(v1::lane_entry::Body::Heartbeat(stamped)) = &entry.body else { continue };
        let heartbeat = stamped.heartbeat.as_ref().expect("set");
        let key = (entry.device_id.clone(), stamped.incarnation, heartbeat.lane);
        wanted.entry(key).or_default().insert(heartbeat.seq);
    }
    assert_eq!(stored, wanted);
}

async fn crash_at(script: &Script, writes: u64, stop: Stop) -> bool {
    let world = World::default();
    let fuse = Fuse::new(writes, stop);
    let first = world.start_fused(&fuse).await;
    feed(&world, script, &fuse).await;
    let crashed = fuse.is_blown();
    first.kill();
    finish_and_check(&world, script).await;
    crashed
}

/// Live and backlog, two days, sent again within and across entries, a hello.
pub(crate) fn script() -> Script {
    let now = now_us();
    let day = 86_400_000_000;
    let old = |seq, back| heartbeat_in(device(2), 7, v1::Lane::Backlog, seq, now - back, now + 2);
    vec![
        vec![connected(device(1), 1, 1, now), heartbeat(device(1), 1, now), heartbeat(device(2), 1, now)],
        vec![heartbeat(device(1), 2, now + 1_000_000), heartbeat(device(1), 1, now), old(1, day), old(2, day / 2)],
        vec![old(1, day), heartbeat(device(3), 5, now), heartbeat(device(1), 2, now + 1_000_000)],
        vec![connected(device(3), 1, 1, now), heartbeat(device(1), 4, now + 3_000_000), heartbeat(device(1), 3, now)],
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_write_stores_each_heartbeat_exactly_once() {
    let script = script();
    for stop in [Stop::Before, Stop::After] {
        let mut writes = 1;
        while crash_at(&script, writes, stop).await {
            writes += 1;
        }
        assert!(writes > 15, "only {writes} writes were seen: the fuse does not reach everything");
    }
}

#[test]
fn random_scripts_and_crashes_store_each_heartbeat_exactly_once() {
    let beat = (0u8..4, 1u64..3, 1i32..3, 1u64..12);
    let scripts = prop::collection::vec(prop::collection::vec(beat, 1..12), 1..6);
    let crashes = prop::collection::vec((1u64..25, any::<bool>()), 1..4);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&(scripts, crashes), |(beats, crashes)| {
        let now = now_us();
        let entry = |(number, incarnation, lane, seq): (u8, u64, i32, u64)| {
            // The same heartbeat has the same time wherever it comes again.
            let sample = now - seq * 7_000_000_000 - incarnation * 1_000_000 - lane as u64 * 1000;
            let lane = v1::Lane::try_from(lane).expect("known");
            heartbeat_in(device(number + 1), incarnation, lane, seq, sample, now)
        };
        let script: Script = beats.into_iter().map(|beats| beats.into_iter().map(entry).collect()).collect();
        runtime.block_on(async {
            let world = World::default();
            for entries in &script {
                world.append(entries.clone()).await;
            }
            for (writes, before) in crashes {
                let fuse = Fuse::new(writes, if before { Stop::Before } else { Stop::After });
                let collector = world.start_fused(&fuse).await;
                let wanted = expected(&script).len();
                until("a crash or the end", || async {
                    (fuse.is_blown() || world.metrics.rows().len() >= wanted).then_some(())
                })
                .await;
                fuse.blow();
                collector.kill();
            }
            finish_and_check(&world, &script).await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// A recorded batch whose entries were purged is driven again as far as it is there, and the lane goes on.
#[tokio::test]
async fn entries_of_a_recorded_batch_may_be_lost() {
    for lost in [2, 3] {
        let world = World::default();
        let now = now_us();
        for seq in 1..=3 {
            world.append(vec![heartbeat(device(1), seq, now + seq * 1000)]).await;
        }
        world.metrics.set_mood(Mood::Gone);
        let first = world.start(config()).await;
        let lane = breeze_proto::shard::LaneCount::new(1).and_then(|lanes| lanes.lanes().next()).expect("lane 0");
        let record = LaneRecord::new(world.state.clone(), "local", lane);
        until("a batch to be recorded", || async {
            let (boundary, _) = record.boundary().await.expect("reads");
            (boundary.last == 3).then(|| assert_eq!((boundary.first, boundary.applied_through), (1, 0)))
        })
        .await;
        first.kill();
        breeze_bus::Bus::trim(&*world.bus, &stream(), lost + 1).await.expect("trims");
        world.metrics.set_mood(Mood::Well);

        let successor = world.start(config()).await;
        world.append(vec![heartbeat(device(1), 4, now + 4000)]).await;
        until("what comes after it to be stored", || async {
            world.metrics.rows().keys().any(|(_, _, load)| *load == 4).then_some(())
        })
        .await;
        successor.stop().await;
        let loads: Vec<u64> = world.metrics.rows().into_keys().map(|(_, _, load)| load).collect();
        assert_eq!(loads, (lost + 1..=4).collect::<Vec<_>>());
        let (boundary, _) = record.boundary().await.expect("reads");
        assert_eq!((boundary.generation, boundary.applied_through), (1, 4));
    }
}
