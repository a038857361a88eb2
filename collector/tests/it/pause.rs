//! A collector that is stopped at any of its writes, as SIGSTOP would, while another takes its lane over
//! and works on, and that is woken then: whatever it had under way happens late. It must change nothing:
//! no row twice, no bytes of a token others, no older row over a newer, no boundary back, nothing trimmed.

use crate::{
    crash::{Script, check_devices, check_received, expected, feed, script},
    world::*,
};
use breeze_bus::{Bus, Received};
use breeze_collector::Config;
use breeze_proto::{id::DeviceId, subject, v1};
use breeze_store::model::{device_state, lane::LaneRecord};
use prost::Message as _;

fn named(id: &str) -> Config {
    Config { id: id.into(), lease_ms: 1_000, ..config() }
}

/// More heartbeats of the same devices, that only the second collector takes.
fn more() -> Script {
    let now = now_us();
    let beat = |number, seq| heartbeat(device(number), seq, now + seq * 1_000_000);
    vec![vec![beat(1, 10), beat(2, 10)], vec![beat(3, 10), beat(1, 11), beat(1, 2)]]
}

/// Versions of the stored rows of all devices.
async fn versions(world: &World) -> Vec<(DeviceId, Option<u64>, Option<u64>)> {
    let mut versions = Vec::new();
    for number in 1..=3 {
        let (id, state) = (device(number), &*world.state);
        let latest = device_state::latest(state, id).await.expect("reads").map(|(version, _)| version);
        let facts = device_state::facts(state, id).await.expect("reads").map(|(version, _)| version);
        versions.push((id, latest, facts));
    }
    versions
}

async fn wait_for_rows(world: &World, script: &Script) {
    let wanted = expected(script);
    until("all rows", || async { (world.metrics.rows().len() >= wanted.len()).then_some(()) }).await;
}

/// Whether it was stopped at all.
async fn pause_at(writes: u64, stop: Stop) -> bool {
    let world = World::default();
    world.metrics.check_records(&world.state);
    let mut script = script();
    let fuse = Fuse::new(writes, stop);
    let first = world.start_fused_as(named("a"), &fuse).await;
    feed(&world, &script, &fuse).await;
    if !fuse.is_blown() {
        first.kill();
        return false;
    }
    let second = world.start(named("b")).await;
    let stopped_us = now_us();
    for entries in more() {
        world.append(entries.clone()).await;
        script.push(entries);
    }
    wait_for_rows(&world, &script).await;
    let lane = all_lanes().next().expect("lane 0");
    let record = LaneRecord::new(world.state.clone(), "local", lane);
    let last = script.len() as u64;
    until("it to be applied", || async {
        (record.boundary().await.expect("reads").0.applied_through == last).then_some(())
    })
    .await;
    let (before, held_before) = (versions(&world).await, record.boundary().await.expect("reads"));
    let rows_before = world.metrics.rows();

    let mut digests = world.bus.subscribe(&subject::digest("local")).await.expect("subscribes");
    fuse.wake();
    until("what was under way", || async { (fuse.late_writes() == 0).then_some(()) }).await;
    assert_eq!(world.metrics.rows(), rows_before, "write {writes}, {stop:?}");
    assert_eq!(record.boundary().await.expect("reads"), held_before, "write {writes}, {stop:?}");
    assert_eq!(versions(&world).await, before, "write {writes}, {stop:?}");
    first.kill();

    // The second goes on, and is still the owner.
    let entries = vec![heartbeat(device(2), 20, now_us())];
    world.append(entries.clone()).await;
    script.push(entries);
    wait_for_rows(&world, &script).await;
    // One message may have been on its way; the one that was stopped says nothing new.
    loop {
        let told = tokio::time::timeout(DEADLINE, digests.next()).await.expect("a digest");
        let Some(Received::Message { payload, .. }) = told else { panic!("no digest") };
        let digest = v1::Digest::decode(payload).expect("a digest");
        if digest.source.starts_with("b-") {
            break;
        }
        assert!(digest.at_us < stopped_us, "it was made before");
    }
    second.stop().await;
    assert_eq!(world.metrics.rows(), expected(&script), "each heartbeat exactly once");
    check_devices(&world, &script).await;
    check_received(&record, &script).await;
    let extent = world.bus.extent(&stream()).await.expect("an extent");
    assert_eq!((extent.first, extent.last), (last + 2, last + 1), "trimmed behind what is applied");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_was_stopped_at_any_write_has_no_effect_when_it_wakes() {
    let mut paused = 0;
    // Each waits for a lease to end, so some wait at once; not all, for one that wakes and is slow to be
    // looked at has joined again and may own lanes.
    let writes: Vec<u64> = (1..=28).collect();
    for (some, stop) in writes.chunks(7).flat_map(|some| [(some, Stop::Before), (some, Stop::After)]) {
        let pauses: Vec<_> = some.iter().map(|&writes| tokio::spawn(pause_at(writes, stop))).collect();
        for pause in pauses {
            paused += u32::from(pause.await.expect("no failure"));
        }
    }
    assert!(paused > 30, "only {paused} writes were seen: the fuse does not reach everything");
}
