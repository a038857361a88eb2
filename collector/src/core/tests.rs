//! The core in virtual time: presence through silence, lag, restarts and a relay's death.

use super::*;
use v1::Presence::{Offline, Online};

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const START: u64 = 1_800_000_000 * SECOND;
pub(super) const FLOOR: u64 = 150 * SECOND;

/// A core, its clock, and the stream's next position.
pub(super) struct Bench {
    pub(super) core: LaneCore,
    pub(super) now_us: u64,
    position: u64,
    seq: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        let mut core = LaneCore::new("local", FLOOR);
        core.finish_loading(START);
        Self { core, now_us: START, position: 1, seq: 0 }
    }

    pub(super) fn device() -> DeviceId {
        DeviceId::from_uuid(uuid_of(1))
    }

    fn send(&mut self, epoch: u64, body: Body) -> Effects {
        let entry = v1::LaneEntry {
            device_id: Bytes::copy_from_slice(&Self::device().to_bytes()),
            session_epoch: epoch,
            received_us: self.now_us,
            body: Some(body),
        };
        let batch = v1::LaneBatch { relay_id: "r".into(), region: "local".into(), entries: vec![entry] };
        let mut effects = Effects::default();
        self.core.handle_entry(self.position, batch.encode_to_vec().into(), Drive::First, &mut effects);
        self.position += 1;
        effects
    }

    pub(super) fn connect(&mut self, epoch: u64) -> Effects {
        let hello = v1::Connected {
            instance_nonce: Bytes::from_static(&[1; 16]),
            session_counter: epoch,
            role: v1::ConnectionRole::Primary.into(),
            ..v1::Connected::default()
        };
        self.send(epoch, Body::Connected(hello))
    }

    pub(super) fn beat(&mut self, epoch: u64) -> Effects {
        self.seq += 1;
        let heartbeat = v1::Heartbeat { lane: v1::Lane::Live.into(), seq: self.seq, ..v1::Heartbeat::default() };
        let sample_us = self.now_us;
        let stamped =
            v1::StampedHeartbeat { incarnation: 1, sample_us, heartbeat: Some(heartbeat), ..Default::default() };
        self.send(epoch, Body::Heartbeat(stamped))
    }

    fn disconnect(&mut self, epoch: u64) {
        self.disconnect_because(epoch, "");
    }

    pub(super) fn disconnect_because(&mut self, epoch: u64, reason: &str) {
        self.send(
            epoch,
            Body::Disconnected(v1::Disconnected { reason: reason.to_owned(), ..v1::Disconnected::default() }),
        );
    }

    /// Lets time pass in half seconds; after how many of them the device went offline, if it did.
    pub(super) fn pass(&mut self, us: u64, is_caught_up: bool) -> Option<u64> {
        let began = self.now_us;
        while self.now_us < began + us {
            self.now_us += SECOND / 2;
            self.core.handle_tick(self.now_us, is_caught_up);
            if self.presence() == Offline {
                return Some(self.now_us - began);
            }
        }
        None
    }

    fn presence(&self) -> v1::Presence {
        self.core.devices.first().map_or(v1::Presence::Unknown, |device| device.latest.presence())
    }
}

#[test]
fn a_clock_that_is_set_forward_takes_nobody_offline() {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    bench.connect(1);
    bench.beat(1);
    assert_eq!(bench.pass(SECOND, true), None);
    bench.now_us += 3_600 * SECOND;
    assert_eq!(bench.pass(FLOOR - 5 * SECOND, true), None, "silence counts from the jump on");
    assert!(bench.pass(10 * SECOND, true).is_some(), "and it does count");
}

#[test]
fn a_device_has_so_many_custom_metrics_a_day() {
    const DAY: u64 = 86_400 * SECOND;
    let mut bench = Bench::new();
    let mut send = |day: u64, names: std::ops::Range<usize>| {
        bench.now_us = START + day * DAY;
        let mut kept = 0;
        for first in names.clone().step_by(64) {
            bench.seq += 1;
            let value = |n: usize| v1::NamedValue { name: format!("made.up.{n}"), value: 1.0 };
            let heartbeat = v1::Heartbeat {
                lane: v1::Lane::Live.into(),
                seq: bench.seq,
                custom: (first..names.end.min(first + 64)).map(value).collect(),
                ..v1::Heartbeat::default()
            };
            let sample_us = bench.now_us;
            let stamped =
                v1::StampedHeartbeat { incarnation: 1, sample_us, heartbeat: Some(heartbeat), ..Default::default() };
            bench.send(1, Body::Heartbeat(stamped));
            let pending = bench.core.take_pending().expect("a batch");
            kept += pending.days.iter().map(|rows| rows.named.len()).sum::<usize>();
        }
        kept
    };
    assert_eq!(send(0, 0..200), 200);
    assert_eq!(send(0, 0..200), 200, "known names go on");
    assert_eq!(send(0, 200..400), custom::MAX_NAMES_A_DAY - 200);
    assert_eq!(send(0, 1000..1064), 0);
    assert_eq!(send(0, 0..64), 64);
    assert_eq!(send(1, 1000..1064), 64, "another day");
    assert!(bench.core.counts().values_dropped >= 200 - 56 + 64);
}

#[test]
fn documents_fill_a_batch_too() {
    let mut bench = Bench::new();
    for _ in 0..63 {
        bench.send(1, Body::Inventory(v1::InventoryDocument::default()));
    }
    assert!(!bench.core.pending().is_full());
    bench.send(1, Body::Inventory(v1::InventoryDocument::default()));
    assert!(bench.core.pending().is_full());
}

fn uuid_of(byte: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([byte; 16])
}

#[test]
fn silence_of_more_than_the_period_is_offline_and_the_next_heartbeat_online() {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    bench.connect(1);
    bench.beat(1);
    assert_eq!(bench.presence(), Online);
    let after = bench.pass(2 * FLOOR, true).expect("it goes offline");
    assert!((FLOOR..FLOOR + 3 * SECOND).contains(&after), "{after}");
    bench.beat(1);
    assert_eq!(bench.presence(), Online);
    assert_eq!(bench.core.population().online, 1);
}

#[test]
fn a_long_heartbeat_interval_is_waited_for() {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    bench.connect(1);
    for _ in 0..3 {
        bench.beat(1);
        assert_eq!(bench.pass(120 * SECOND, true), None);
    }
    bench.beat(1);
    let after = bench.pass(1000 * SECOND, true).expect("it goes offline");
    assert!((300 * SECOND..304 * SECOND).contains(&after), "2.5 intervals: {after}");
}

#[test]
fn the_end_of_the_last_connection_counts_after_a_grace_and_a_reconnect_hides_it() {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    bench.connect(1);
    bench.disconnect(1);
    assert_eq!(bench.pass(3 * SECOND, true), None);
    bench.connect(2);
    bench.disconnect(1);
    assert_eq!(bench.pass(100 * SECOND, true), None, "the old connection's end says nothing");
    bench.disconnect(2);
    let after = bench.pass(100 * SECOND, true).expect("it goes offline");
    assert!((5 * SECOND..8 * SECOND).contains(&after), "{after}");
}

#[test]
fn nobody_goes_offline_while_the_lane_lags_nor_before_a_period_after_it() {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    bench.connect(1);
    bench.beat(1);
    assert_eq!(bench.pass(10 * FLOOR, false), None, "held");
    assert!(!bench.core.is_live());
    let after = bench.pass(2 * FLOOR, true).expect("it goes offline");
    assert!((FLOOR..FLOOR + 3 * SECOND).contains(&after), "{after}");
}

#[test]
fn a_restarted_core_takes_presence_up_and_waits_for_a_period() {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    bench.connect(1);
    bench.beat(1);
    let rows = bench.core.take_merges(1, bench.now_us, 0, true, u64::MAX).merges;
    assert_eq!(rows.len(), 2);

    let mut successor = Bench { core: LaneCore::new("local", FLOOR), now_us: START + 100 * FLOOR, ..Bench::new() };
    for row in rows {
        let value = row.value.expect("a value");
        let row = if row.key.as_ref() == b"facts" {
            DeviceRow::Facts(Box::new(v1::DeviceFacts::decode(value).expect("facts")))
        } else {
            DeviceRow::Latest(v1::DeviceLatest::decode(value).expect("latest"))
        };
        successor.core.load_row(Bench::device(), row);
    }
    successor.core.finish_loading(successor.now_us);
    assert_eq!((successor.presence(), successor.core.population().online), (Online, 1));
    assert_eq!(successor.pass(50 * SECOND, false), None, "not caught up");
    assert_eq!(successor.pass(FLOOR - SECOND, true), None, "a period of its own");
    assert!(successor.pass(5 * SECOND, true).is_some());
}

#[test]
fn a_connection_at_another_relay_replaces_the_old_one_which_is_closed() {
    let mut bench = Bench::new();
    bench.connect(1);
    let hello = v1::Connected {
        instance_nonce: Bytes::from_static(&[1; 16]),
        session_counter: 2,
        role: v1::ConnectionRole::Primary.into(),
        ..v1::Connected::default()
    };
    let entry = v1::LaneEntry {
        device_id: Bytes::copy_from_slice(&Bench::device().to_bytes()),
        session_epoch: 9,
        received_us: bench.now_us,
        body: Some(Body::Connected(hello)),
    };
    let batch = v1::LaneBatch { relay_id: "other".into(), region: "local".into(), entries: vec![entry] };
    let mut effects = Effects::default();
    bench.core.handle_entry(9, batch.encode_to_vec().into(), Drive::First, &mut effects);
    let push = effects.pushes.pop().expect("a push");
    assert_eq!((push.relay_id.as_str(), push.session_epoch), ("r", 1));
    assert!(matches!(
        push.frame.body,
        Some(v1::relay_frame::Body::Close(close)) if close.reason() == v1::CloseReason::Replaced
    ));
}

#[test]
fn only_watched_devices_are_shown_live_and_only_until_then() {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    assert!(bench.beat(1).live.is_empty());
    let watch = v1::Watch {
        device_ids: vec![Bytes::copy_from_slice(&Bench::device().to_bytes()), Bytes::from_static(b"no id")],
        until_us: START + 10 * SECOND,
    };
    bench.core.handle_watch(&watch);
    assert_eq!(bench.beat(1).live.len(), 1, "the first has the same time as the second, which is new all the same");
    bench.pass(11 * SECOND, true);
    assert!(bench.beat(1).live.is_empty());
    assert_eq!(bench.core.population().watched, 0);
}

proptest::proptest! {
    #[test]
    fn arbitrary_entries_never_panic(payloads in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), 0..20)) {
        let mut core = LaneCore::new("local", FLOOR);
        core.finish_loading(START);
        for (position, payload) in (1..).zip(payloads) {
            core.handle_entry(position, payload.into(), Drive::First, &mut Effects::default());
        }
        core.handle_tick(START, true);
    }
}

#[test]
fn entries_that_came_by_the_wrong_lane_are_counted_and_taken() {
    let lanes = LaneCount::new(4).expect("four lanes");
    let right = Shard::of(Bench::device()).lane(lanes);
    for lane in lanes.lanes() {
        let mut bench = Bench::new();
        bench.core = bench.core.with_place(lane, lanes);
        bench.connect(1);
        bench.beat(1);
        assert_eq!(bench.core.counts().heartbeats, 1, "stored all the same");
        let found = bench.core.take_misplaced();
        let told = found.map(|found| (found.entries, found.device, found.belongs, found.relay_id));
        assert_eq!(told, (lane != right).then(|| (2, Bench::device(), right, "r".to_owned())), "lane {lane}");
        assert_eq!(bench.core.take_misplaced(), None, "told once");
    }
}
