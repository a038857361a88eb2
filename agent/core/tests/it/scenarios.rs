//! Single stories.

use crate::{
    trust,
    world::{DAY_S, MINUTE, SECOND, World},
};
use breeze_agent_core::{Command, Phase, TransportKind};
use breeze_proto::v1::{AgentConfig, Close, CloseReason, Lane, RelayFrame, relay_frame::Body as Answer};

fn status(world: &World) -> breeze_agent_core::Status {
    world.agent.as_ref().expect("it runs").status()
}

fn connects(world: &World, kind: TransportKind) -> Vec<u64> {
    let attempts = world.commands_seen.iter();
    attempts
        .filter(|(_, command)| matches!(command, Command::Connect { transport, .. } if *transport == kind))
        .map(|(at, _)| *at)
        .collect()
}

#[test]
fn where_quic_works_nothing_else_is_tried_and_the_first_heartbeat_goes_at_once() {
    let mut world = World::new(1);
    world.run(SECOND);
    assert_eq!(status(&world).transport, Some(TransportKind::Quic));
    assert_eq!(world.region.stored.len(), 1);
    let number = world.region.stored.keys().next().expect("one");
    assert_eq!((number.lane, number.seq), (Lane::Live as i32, 1));
    world.run(60 * MINUTE);
    assert!(connects(&world, TransportKind::WebSocket).is_empty());
    assert!((58..=64).contains(&world.region.stored.len()), "{}", world.region.stored.len());
    assert_eq!(world.hellos.len(), 1);
}

#[test]
fn blocked_udp_costs_two_seconds_and_quic_is_taken_again_without_a_gap() {
    let mut world = World::new(2);
    world.kill(0);
    world.troubles.udp_blocked = true;
    world.run(3 * SECOND);
    assert_eq!(status(&world).transport, Some(TransportKind::WebSocket));
    world.run(10 * MINUTE);
    assert_eq!(status(&world).transport, Some(TransportKind::WebSocket));
    assert!(connects(&world, TransportKind::Quic).len() >= 3, "it probes");
    world.troubles.udp_blocked = false;
    world.run(20 * MINUTE);
    assert_eq!(status(&world).transport, Some(TransportKind::Quic));
    world.check();
    let waited = world.region.stored.keys().filter(|number| number.lane == Lane::Backlog as i32).count();
    assert!(waited <= 1, "only what the killed process left behind had to wait");
}

#[test]
fn a_fast_interval_ends_in_time_also_when_the_clock_is_a_day_wrong() {
    for error in [0, DAY_S, -DAY_S] {
        let mut world = World::new(3);
        world.clock_error_s = error;
        world.run(2 * MINUTE);
        let now_s = 1_800_000_000 + world.now_us() / SECOND;
        let config = AgentConfig {
            version: 7,
            expires_unix_s: now_s + 60,
            heartbeat_interval_ms: 1_000,
            ..AgentConfig::default()
        };
        world.push(&Answer::Document(trust::config(&config)));
        let before = world.taken.len();
        world.run(60 * SECOND);
        let fast = world.taken.len() - before;
        assert!((50..=64).contains(&fast), "{fast} in a minute at clock error {error}");
        world.run(5 * SECOND);
        let before = world.taken.len();
        world.run(10 * MINUTE);
        let slow = world.taken.len() - before;
        assert!((8..=12).contains(&slow), "{slow} in ten minutes");
        world.check();
    }
}

#[test]
fn a_revocation_is_believed_only_with_proof_and_asked_about_once_a_day() {
    let mut world = World::new(4);
    world.run(MINUTE);
    let close = |proof| Close { reason: CloseReason::Revoked.into(), proof, ..Close::default() };
    world.push(&Answer::Close(close(Some(trust::revocation(breeze_proto::id::DeviceId::generate())))));
    world.run(SECOND);
    assert_ne!(status(&world).phase, Phase::Revoked);
    world.run(15 * MINUTE);
    assert_eq!(status(&world).phase, Phase::Connected);

    let proof = trust::revocation(world.device);
    world.close_with = Some(close(Some(proof.clone())));
    world.push(&Answer::Close(close(Some(proof))));
    world.run(MINUTE);
    assert_eq!(status(&world).phase, Phase::Revoked);
    assert_eq!(status(&world).revoked_reason.as_deref(), Some("sold"));
    let (taken, asked) = (world.taken.len(), world.hellos.len());
    world.run(4 * 24 * 60 * MINUTE);
    assert_eq!(world.taken.len(), taken, "it measures nothing");
    assert!((3..=6).contains(&(world.hellos.len() - asked)), "asked {} times in four days", world.hellos.len() - asked);

    world.close_with = None;
    world.run(2 * 24 * 60 * MINUTE);
    assert_eq!(status(&world).phase, Phase::Connected, "it was lifted");
    world.check();
}

#[test]
fn a_drained_relay_is_left_for_the_next() {
    let mut world = World::new(5);
    world.run(2 * MINUTE);
    assert_eq!(world.hellos.last().expect("connected").2, 0);
    world.troubles.down[0] = true;
    let close = Close { reason: CloseReason::Draining.into(), retry_after_ms: 2_000, ..Close::default() };
    let at = world.now_us();
    world.push(&Answer::Close(close));
    world.run(MINUTE);
    let hello = world.hellos.last().expect("connected");
    assert_eq!(hello.2, 1, "at the other relay");
    assert!((2 * SECOND..6 * SECOND).contains(&(hello.0 - at)), "after {} us", hello.0 - at);
    world.check();
}

#[test]
fn after_a_mass_disconnect_agents_come_back_over_a_spread_time() {
    let mut returns: Vec<u64> = (0..200)
        .map(|seed| {
            let mut world = World::new(1_000 + seed);
            world.run(2 * MINUTE);
            let at = world.now_us();
            world.break_links();
            world.run(30 * SECOND);
            world.hellos.last().expect("connected").0 - at
        })
        .collect();
    returns.sort_unstable();
    assert!(returns[199] < 12 * SECOND, "all are back");
    let busiest = returns.iter().map(|at| returns.iter().filter(|other| (**other).abs_diff(*at) < SECOND / 2).count());
    assert!(busiest.max().expect("some") < 60, "not in one second");
}

#[test]
fn one_that_cannot_connect_waits_longer_each_time_up_to_minutes() {
    let mut world = World::new(6);
    world.kill(0);
    world.troubles.down = [true, true];
    world.run(10 * MINUTE);
    let early = connects(&world, TransportKind::Quic).len();
    world.run(24 * 60 * MINUTE);
    let attempts = connects(&world, TransportKind::Quic).len() - early;
    assert!(early >= 5, "{early} in the first minutes");
    assert!((300..1_500).contains(&attempts), "{attempts} in a day");
}

#[test]
fn a_silent_websocket_is_found_out() {
    let mut world = World::new(7);
    world.kill(0);
    world.troubles.udp_blocked = true;
    world.run(MINUTE);
    let hellos = world.hellos.len();
    world.partition(2 * MINUTE);
    world.run(5 * MINUTE);
    assert!(world.hellos.len() > hellos, "it connected again");
    world.check();
}

#[test]
fn after_sleep_the_connection_is_checked_at_once() {
    let mut world = World::new(8);
    world.run(2 * MINUTE);
    world.sleep(60 * MINUTE);
    let woke = world.now_us();
    world.run(10 * SECOND);
    let last = world.hellos.last().expect("connected").0;
    assert!(last > woke && last - woke < 6 * SECOND, "back after {} us", last.saturating_sub(woke));
    world.run(MINUTE);
    world.check();
}

#[test]
fn inventory_is_sent_until_its_hash_is_confirmed_and_again_when_it_changes() {
    let mut world = World::new(9);
    world.troubles.uploads_refused = true;
    world.run(2 * MINUTE);
    assert!(world.region.inventory.is_empty());
    world.troubles.uploads_refused = false;
    world.run(5 * MINUTE);
    assert_eq!(world.region.inventory.values().next().map(AsRef::as_ref), Some([1; 32].as_slice()));
    let uploads = |world: &World| {
        world.commands_seen.iter().filter(|(_, command)| matches!(command, Command::Upload { .. })).count()
    };
    let before = uploads(&world);
    world.break_links();
    world.run(40 * MINUTE);
    assert_eq!(uploads(&world), before, "what is held is not sent again");
    world.section_hash = [2; 32];
    world.run(20 * MINUTE);
    assert_eq!(world.region.inventory.values().next().map(AsRef::as_ref), Some([2; 32].as_slice()));
}

#[test]
fn a_new_root_is_taken_only_in_order() {
    let mut world = World::new(10);
    world.run(MINUTE);
    let version = |world: &World| world.agent.as_ref().expect("runs").documents().root().document().version;
    world.push(&Answer::Root(trust::signed_root(3)));
    world.run(SECOND);
    assert_eq!(version(&world), 1);
    world.push(&Answer::Root(trust::signed_root(2)));
    world.push(&Answer::Root(trust::signed_root(3)));
    world.run(SECOND);
    assert_eq!(version(&world), 3);
    world.kill(SECOND);
    world.run(MINUTE);
    assert_eq!(version(&world), 3, "also after a restart");
    assert_eq!(world.hellos.last().expect("hello").1.root_version, 3);
}

#[test]
fn frames_that_say_nothing_known_are_skipped() {
    let mut world = World::new(12);
    world.run(MINUTE);
    world.act(|agent, now| agent.handle_frame(1, RelayFrame { body: None }, now));
    world.act(|agent, now| agent.handle_frame(99, RelayFrame { body: None }, now));
    world.run(MINUTE);
    world.check();
}

#[test]
fn a_certificate_that_no_relay_lets_in_any_more_says_what_to_do() {
    let mut world = World::new(31);
    world.run(MINUTE);
    world.sleep(400 * DAY_S.unsigned_abs() * SECOND);
    world.partition(10 * MINUTE);
    world.run(MINUTE);
    assert_eq!(status(&world).renewal_trouble, "", "it may renew yet");
    world.sleep(60 * DAY_S.unsigned_abs() * SECOND);
    world.partition(10 * MINUTE);
    world.run(MINUTE);
    assert!(status(&world).renewal_trouble.contains("enrol this device again"), "{}", status(&world).renewal_trouble);
}

#[test]
fn the_home_region_is_said_once_it_was_told_and_survives_a_restart() {
    let mut world = World::new(9);
    world.run(2 * MINUTE);
    assert_eq!(world.hellos[0].1.home_region, "", "nobody has told it");
    let lasting = AgentConfig { version: 7, home_region: "eu".into(), ..AgentConfig::default() };
    world.push(&Answer::Document(trust::config(&lasting)));
    world.run(SECOND);
    // One that says nothing of it changes nothing, nor does its end.
    let now_s = 1_800_000_000 + world.now_us() / SECOND;
    let fleeting = AgentConfig { version: 8, expires_unix_s: now_s + 60, ..AgentConfig::default() };
    world.push(&Answer::Document(trust::config(&fleeting)));
    world.run(2 * MINUTE);
    world.kill(SECOND);
    world.run(2 * MINUTE);
    assert_eq!(world.hellos.last().expect("it came back").1.home_region, "eu");
    world.check();
}
