//! A core that followed a lane is the owner's, and what a cold start makes of the stores; and a lane that
//! was read ahead is one that was read once.

use super::super::{Drive, Effects};
use super::*;
use breeze_proto::v1::lane_entry::Body;
use breeze_store::model::device_state::DeviceRow;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000;
const START: u64 = 1_800_000_000 * SECOND;
const FLOOR: u64 = 20 * SECOND;

/// One entry of the stream, or half a second that passes.
#[derive(Debug, Clone)]
enum Step {
    Beat { device: u8, relay: u8, epoch: u64, seq: u64, backlog: bool, age_s: u64 },
    Connect { device: u8, relay: u8, epoch: u64, nonce: u8, standby: bool },
    Disconnect { device: u8, relay: u8, epoch: u64 },
    Pass { half_seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (device, relay, epoch) = (0u8..4, 0u8..3, 1u64..6);
    prop_oneof![
        4 => (device.clone(), relay.clone(), epoch.clone(), 1u64..20, any::<bool>(), 0u64..200_000).prop_map(
            |(device, relay, epoch, seq, backlog, age_s)| {
                Step::Beat { device, relay, epoch, seq, backlog, age_s: if backlog { age_s } else { 0 } }
            }
        ),
        2 => (device.clone(), relay.clone(), epoch.clone(), 0u8..3, any::<bool>())
            .prop_map(|(device, relay, epoch, nonce, standby)| Step::Connect { device, relay, epoch, nonce, standby }),
        1 => (device, relay, epoch).prop_map(|(device, relay, epoch)| Step::Disconnect { device, relay, epoch }),
        2 => (1u64..60).prop_map(|half_seconds| Step::Pass { half_seconds }),
    ]
}

fn device(number: u8) -> DeviceId {
    DeviceId::from_uuid(uuid::Uuid::from_bytes([number + 1; 16]))
}

/// The stream's entry of a step at `now_us`, if it is one.
fn entry(step: &Step, now_us: u64) -> Option<Bytes> {
    let (number, relay, epoch, body) = match *step {
        Step::Beat { device, relay, epoch, seq, backlog, age_s } => {
            let lane = if backlog { v1::Lane::Backlog } else { v1::Lane::Live };
            let scalars = v1::Scalars { load1_centi: seq as u32, ..v1::Scalars::default() };
            let heartbeat =
                v1::Heartbeat { lane: lane.into(), seq, scalars: Some(scalars), ..v1::Heartbeat::default() };
            let sample_us = now_us - age_s * SECOND;
            let stamped =
                v1::StampedHeartbeat { incarnation: 1, sample_us, heartbeat: Some(heartbeat), ..Default::default() };
            (device, relay, epoch, Body::Heartbeat(stamped))
        }
        Step::Connect { device, relay, epoch, nonce, standby } => {
            let role = if standby { v1::ConnectionRole::Standby } else { v1::ConnectionRole::Primary };
            let hello = v1::Connected {
                instance_nonce: Bytes::from(vec![nonce; 16]),
                session_counter: epoch,
                role: role.into(),
                agent_version: format!("{epoch}"),
                ..v1::Connected::default()
            };
            (device, relay, epoch, Body::Connected(hello))
        }
        Step::Disconnect { device, relay, epoch } => {
            (device, relay, epoch, Body::Disconnected(v1::Disconnected::default()))
        }
        Step::Pass { .. } => return None,
    };
    let entry = v1::LaneEntry {
        device_id: Bytes::copy_from_slice(&device(number).to_bytes()),
        session_epoch: epoch,
        received_us: now_us,
        body: Some(body),
    };
    let batch = v1::LaneBatch { relay_id: format!("r{relay}"), region: "local".into(), entries: vec![entry] };
    Some(batch.encode_to_vec().into())
}

/// Entries with their positions, and the times at which time passed, in one order for everybody.
enum Event {
    Entry(u64, Bytes),
    Tick(u64),
}

fn events(steps: &[Step]) -> Vec<Event> {
    let (mut now_us, mut position) = (START, 0);
    let mut events = vec![Event::Tick(now_us)];
    for step in steps {
        if let Step::Pass { half_seconds } = step {
            for _ in 0..*half_seconds {
                now_us += SECOND / 2;
                events.push(Event::Tick(now_us));
            }
        }
        if let Some(payload) = entry(step, now_us) {
            position += 1;
            events.push(Event::Entry(position, payload));
        }
    }
    events
}

fn run(core: &mut LaneCore, events: &[Event], drive: Drive) {
    for event in events {
        match event {
            Event::Entry(position, payload) => {
                core.handle_entry(*position, payload.clone(), drive, &mut Effects::default());
            }
            Event::Tick(now_us) => core.handle_tick(*now_us, true),
        }
    }
}

fn owner() -> LaneCore {
    let mut core = LaneCore::new("local", FLOOR);
    core.finish_loading(START);
    core
}

/// Everything that it knows of its devices, whatever is still to be stored of it.
fn state(core: &LaneCore) -> (Vec<String>, BTreeMap<Bytes, LaneDevice>) {
    let mut relays = Vec::new();
    let mut devices = BTreeMap::new();
    for page in core.export(1, 1, 0) {
        let page = LanePage::decode(page).expect("a page");
        relays.extend(page.relays);
        for device in page.devices {
            devices.insert(device.device_id.clone(), LaneDevice { latest_waits: false, ..device });
        }
    }
    (relays, devices)
}

/// The bytes that go to the metrics store.
fn rows(core: &mut LaneCore) -> Vec<(u32, Bytes)> {
    let pending = core.take_pending();
    pending.iter().flat_map(|pending| &pending.days).map(|day| (day.day, day.freeze().as_bytes().clone())).collect()
}

fn following(owner: &LaneCore, position: u64) -> LaneCore {
    let mut shadow = LaneCore::new("local", FLOOR);
    for page in owner.export(7, position, 0) {
        shadow.import(LanePage::decode(page).expect("a page"), &mut Vec::new());
    }
    shadow
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// From a snapshot at any moment, and from there on entry by entry.
    #[test]
    fn a_shadow_becomes_what_the_owner_is_and_makes_the_same_rows(
        steps in prop::collection::vec(step(), 1..60),
        joins in 0usize..60,
        gives in 0usize..60,
    ) {
        let events = events(&steps);
        let gives = gives.min(events.len());
        let joins = joins.min(gives);
        let mut owner = owner();
        run(&mut owner, &events[..joins], Drive::First);
        let mut shadow = following(&owner, 1);
        prop_assert_eq!(state(&shadow), state(&owner));
        run(&mut owner, &events[joins..gives], Drive::First);
        run(&mut shadow, &events[joins..gives], Drive::First);

        // The hand-over: what is pending is the owner's.
        owner.discard_pending(&mut Vec::new());
        shadow.discard_pending(&mut Vec::new());
        let (live_since_us, ticked_us) = owner.time();
        shadow.take_over(live_since_us, ticked_us, 0);
        prop_assert_eq!(state(&shadow), state(&owner));
        prop_assert_eq!(shadow.population(), owner.population());
        run(&mut owner, &events[gives..], Drive::First);
        run(&mut shadow, &events[gives..], Drive::First);
        prop_assert_eq!(state(&shadow), state(&owner), "timers included");
        prop_assert_eq!(rows(&mut shadow), rows(&mut owner));
    }

    /// What the stores keep is the same on both ways.
    #[test]
    fn a_shadow_knows_what_a_cold_start_at_the_same_position_would(
        steps in prop::collection::vec(step(), 1..60),
        joins in 0usize..60,
    ) {
        let events = events(&steps);
        let joins = joins.min(events.len());
        let mut owner = owner();
        run(&mut owner, &events[..joins], Drive::First);
        let mut shadow = following(&owner, 1);
        run(&mut owner, &events[joins..], Drive::First);
        run(&mut shadow, &events[joins..], Drive::First);

        let now_us = owner.time().1;
        let mut cold = LaneCore::new("local", FLOOR);
        for (_, set) in owner.take_received(u64::MAX).0 {
            set.devices.iter().for_each(|device| cold.load_received(device));
        }
        for row in owner.take_merges(1, now_us, 0, true, u64::MAX).merges {
            let (id, value) = (DeviceId::from_slice(&row.partition).expect("an id"), row.value.expect("a value"));
            let row = if row.key.as_ref() == b"facts" {
                DeviceRow::Facts(Box::new(v1::DeviceFacts::decode(value).expect("facts")))
            } else {
                DeviceRow::Latest(v1::DeviceLatest::decode(value).expect("latest"))
            };
            cold.load_row(id, row);
        }
        cold.finish_loading(now_us);
        let stored = |core: &LaneCore| -> BTreeMap<Bytes, _> {
            let (_, devices) = state(core);
            devices.into_iter().map(|(id, held)| (id, (held.received, held.facts, held.latest))).collect()
        };
        // A device of which only the end of a connection came has no row.
        let (cold, mut shadow) = (stored(&cold), stored(&shadow));
        shadow.retain(|id, _| cold.contains_key(id));
        prop_assert_eq!(shadow, cold);
    }

    /// Presence first and rows later is both at once: the same devices, the same bytes.
    #[test]
    fn a_lane_that_was_read_ahead_is_one_that_was_read_once(
        steps in prop::collection::vec(step(), 1..60),
        from in 0usize..60,
        to in 0usize..60,
    ) {
        let events = events(&steps);
        let to = to.min(events.len());
        let from = from.min(to);
        let (mut once, mut twice) = (owner(), owner());
        run(&mut once, &events, Drive::First);
        run(&mut twice, &events[..from], Drive::First);
        run(&mut twice, &events[from..to], Drive::Ahead);
        for event in &events[from..to] {
            if let Event::Entry(position, payload) = event {
                twice.handle_entry(*position, payload.clone(), Drive::Behind, &mut Effects::default());
            }
        }
        twice.clear_ahead();
        run(&mut twice, &events[to..], Drive::First);
        prop_assert_eq!(rows(&mut twice), rows(&mut once));
        prop_assert_eq!(twice.counts(), once.counts());
        let (mut twice, mut once) = (state(&twice).1, state(&once).1);
        // The same number again within what was read ahead is not known to be one: the newest values may
        // be an older repetition's until the next heartbeat.
        for device in twice.values_mut().chain(once.values_mut()) {
            if let Some(latest) = &mut device.latest {
                latest.scalars = None;
            }
            (device.live_us, device.interval_us, device.sample_us) = (0, 0, 0);
        }
        prop_assert_eq!(twice, once);
    }
}

#[test]
fn relays_are_told_of_what_was_read_ahead() {
    let mut core = owner();
    let beat = |seq| Step::Beat { device: 1, relay: 0, epoch: 1, seq, backlog: false, age_s: 0 };
    let asked =
        v1::HeldRequest { device_id: Bytes::copy_from_slice(&device(1).to_bytes()), ..v1::HeldRequest::default() };
    let next = |core: &LaneCore| core.held(&asked, START).held.expect("held").lanes.first().map(|lane| lane.next_seq);
    let payload = |seq| entry(&beat(seq), START).expect("an entry");
    core.handle_entry(1, payload(1), Drive::First, &mut Effects::default());
    core.handle_entry(2, payload(2), Drive::Ahead, &mut Effects::default());
    assert_eq!(next(&core), Some(3));
    assert_eq!(core.pending().last, 1, "it is no row yet");
    core.handle_entry(2, payload(2), Drive::Behind, &mut Effects::default());
    core.clear_ahead();
    assert_eq!((next(&core), core.pending().last), (Some(3), 2));
    assert_eq!(core.counts().heartbeats, 2);
}
