//! What the history is told of presence, in virtual time.

use super::{super::tests::*, *};
use crate::core::LaneCore;
use breeze_store::model::device_state::DeviceRow;
use prost::Message as _;

fn said(core: &LaneCore) -> Vec<(String, String)> {
    let told = |event: Event| (event.kind.as_str().to_owned(), event.summary);
    core.untold(100).into_iter().map(told).collect()
}

fn caught_up() -> Bench {
    let mut bench = Bench::new();
    bench.core.handle_tick(START, true);
    bench
}

#[test]
fn a_device_comes_and_goes_with_a_cause() {
    let mut bench = caught_up();
    bench.connect(1);
    bench.beat(1);
    bench.pass(10 * SECOND, true);
    bench.disconnect_because(1, "goodbye");
    let ended_us = bench.now_us;
    assert_eq!(said(&bench.core).len(), 1, "it may come back at once");
    bench.pass(20 * SECOND, true).expect("goes offline");
    bench.now_us = ended_us + 90 * SECOND;
    bench.connect(2);
    bench.pass(SECOND, true);
    let told = bench.core.untold(100);
    let said: Vec<_> = told.iter().map(|event| (event.at_ms * 1_000, event.summary.as_str())).collect();
    let back_us = bench.now_us - SECOND + 1_000;
    assert_eq!(
        said,
        [
            (START + 1_000, "Online for the first time"),
            (ended_us + 1_000, "Offline: the agent ended its connection"),
            (back_us, "Online again after 1 minute"),
        ]
    );
    assert!(told[1].details.contains(r#""cause":"goodbye""#), "{}", told[1].details);
    bench.core.handle_told(&told);
    assert_eq!(bench.core.untold(100), []);
}

#[test]
fn silence_is_told_apart_from_a_relay_that_is_gone() {
    for (gone, cause) in [(vec![], SILENCE), (vec!["another".to_owned()], SILENCE), (vec!["r".to_owned()], RELAY_GONE)]
    {
        let mut bench = caught_up();
        bench.connect(1);
        bench.beat(1);
        bench.core.set_gone_relays(gone);
        bench.pass(FLOOR + 10 * SECOND, true).expect("goes offline");
        let offline = bench.core.untold(100).pop().expect("told");
        assert_eq!(offline.kind, EventKind::Offline);
        assert!(offline.details.contains(&format!(r#""cause":"{cause}""#)), "{}", offline.details);
        // Of when it was heard last, not of when that was noticed.
        assert_eq!(offline.at_ms, (START + 2_000) / 1_000);
    }
}

/// Owner and successor time things apart, and name the same.
#[test]
fn whoever_finds_a_change_names_it_the_same() {
    let mut bench = caught_up();
    bench.connect(1);
    bench.beat(1);
    let mut shadow = LaneCore::new("local", FLOOR);
    for page in bench.core.export(7, 2, 0) {
        shadow.import(v1::LanePage::decode(page).expect("a page"), &mut Vec::new());
    }
    for half in 1..400 {
        shadow.handle_tick(START + half * SECOND / 2 + 123_456, true);
    }
    bench.pass(FLOOR + 10 * SECOND, true).expect("goes offline");
    assert_eq!(bench.core.untold(9).len(), 2);
    assert_eq!(shadow.untold(9), bench.core.untold(9));
}

/// It is stored with the change, and told again by whoever finds it there.
#[test]
fn what_was_not_told_survives_in_the_stores() {
    let mut bench = caught_up();
    bench.connect(1);
    bench.pass(FLOOR + 10 * SECOND, true).expect("goes offline");
    let told = bench.core.untold(9);
    let stored = |core: &mut LaneCore, now_us| {
        let merges = core.take_merges(1, now_us, 0, true, u64::MAX).merges;
        let row = merges.into_iter().find(|row| row.key.as_ref() == b"latest").expect("a row");
        v1::DeviceLatest::decode(row.value.expect("a value")).expect("decodes")
    };
    let start = |latest: v1::DeviceLatest| {
        let mut core = LaneCore::new("local", FLOOR);
        core.load_row(Bench::device(), DeviceRow::Latest(latest));
        core.finish_loading(START + 1_000 * SECOND);
        core
    };
    let mut successor = start(stored(&mut bench.core, bench.now_us));
    assert_eq!(successor.untold(9), told);
    successor.handle_told(&told[..1]);
    assert_eq!(successor.untold(9), told[1..]);
    let latest = stored(&mut successor, START + 1_001 * SECOND);
    assert_eq!(start(latest).untold(9), told[1..], "what was told is not told again");
}

#[test]
fn a_device_that_flaps_is_bounded_and_counted() {
    let mut bench = caught_up();
    let (mut presence, mut connections) = (0, 0);
    let mut step = |bench: &mut Bench, epoch: u64| {
        bench.connect(epoch);
        bench.disconnect_because(epoch, "timeout");
        // Nothing is told while the history is away for a while, as well.
        bench.pass(3 * SECOND, true);
        if epoch.is_multiple_of(5) {
            bench.pass(3 * SECOND, true);
            let told = bench.core.untold(100);
            presence += told.iter().filter(|event| event.kind != EventKind::LeftOut).count();
            bench.core.handle_told(&told);
        }
        connections += bench.core.take_pending().map_or(0, |pending| pending.events.len());
    };
    let hour = 3_600 * SECOND;
    let begins = START - START % hour + hour;
    bench.now_us = begins;
    // The jump of the clock is over first.
    bench.core.handle_tick(begins, true);
    for epoch in 1..=1_000 {
        step(&mut bench, epoch);
    }
    assert!(bench.now_us < begins + 2 * hour, "it is two hours at most");
    assert!(presence <= 48, "{presence}");
    assert!(connections <= 120, "{connections}");
    let left = (bench.now_us / hour + 1) * hour;
    while bench.now_us < left + SECOND {
        bench.now_us += SECOND / 2;
        bench.core.handle_tick(bench.now_us, true);
    }
    let notices: Vec<_> = bench.core.untold(100).into_iter().filter(|event| event.kind == EventKind::LeftOut).collect();
    let left_out = |subject: &str| {
        let of = notices.iter().filter(|event| event.details.contains(subject));
        of.map(|event| event.summary.split(' ').next().and_then(|n| n.parse::<u32>().ok()).expect("a number"))
            .sum::<u32>()
    };
    assert!(left_out("connections") > 0 && left_out("presence") > 0, "{notices:?}");
    assert!(notices.iter().all(|event| (event.at_ms + 1).is_multiple_of(3_600_000)), "{notices:?}");
    bench.core.handle_told(&bench.core.untold(100));
    assert_eq!(said(&bench.core), []);
}

#[test]
fn durations_are_words() {
    for (seconds, words) in [
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7_199, "1 hour"),
        (90_000, "25 hours"),
        (200_000, "2 days"),
    ] {
        assert_eq!(duration(seconds * 1_000_000), words);
    }
}
