//! Members in virtual time: joining, leaving, silence, flapping.

use super::*;

const SECOND: u64 = 1_000_000;
const START: u64 = 1_000 * SECOND;

fn told(id: &str, instance: u64, leaving: bool) -> CollectorPresence {
    CollectorPresence { collector_id: id.to_owned(), instance, leaving, owned: vec![] }
}

/// Collector "a", which hears itself and others.
struct Bench {
    members: Members,
    now_us: u64,
}

impl Bench {
    fn new() -> Self {
        Self { members: Members::new("a", 1, START), now_us: START }
    }

    /// Lets half seconds pass in which these speak.
    fn pass(&mut self, seconds: u64, speakers: &[(&str, u64)]) {
        for _ in 0..2 * seconds {
            self.now_us += SECOND / 2;
            self.members.handle_presence(told("a", 1, false), self.now_us);
            for (id, instance) in speakers {
                self.members.handle_presence(told(id, *instance, false), self.now_us);
            }
        }
    }

    fn mine(&self) -> usize {
        let lanes = LaneCount::new(4).expect("in range");
        self.members.plans(lanes, self.now_us).iter().filter(|plan| **plan == Plan::Mine).count()
    }
}

#[test]
fn one_alone_has_every_lane_at_once() {
    assert_eq!(Bench::new().mine(), 4);
}

#[test]
fn one_that_joins_has_its_share_when_it_has_settled_and_loses_it_by_silence_or_leaving() {
    let mut bench = Bench::new();
    bench.pass(5, &[]);
    bench.pass(1, &[("b", 1)]);
    assert_eq!(bench.mine(), 4, "it may be gone again");
    bench.pass(2, &[("b", 1)]);
    assert_eq!(bench.mine(), 2);
    bench.pass(2, &[]);
    assert_eq!(bench.mine(), 2, "a message or two may be lost");
    bench.pass(2, &[]);
    assert_eq!(bench.mine(), 4);
    bench.pass(10, &[("b", 1)]);
    assert_eq!(bench.mine(), 2);
    bench.members.handle_presence(told("b", 1, true), bench.now_us);
    assert_eq!(bench.mine(), 4, "at once");
}

#[test]
fn one_that_comes_and_goes_gets_lanes_later_each_time() {
    let mut bench = Bench::new();
    bench.pass(5, &[]);
    let mut moves = 0;
    let mut before = bench.mine();
    for instance in 1..=20 {
        for second in 0..12 {
            let speaks = [("b", instance)];
            bench.pass(1, if second < 8 { &speaks } else { &[] });
            moves += usize::from(bench.mine() != before);
            before = bench.mine();
        }
    }
    assert!(moves <= 8, "{moves} moves in four minutes");
}

#[test]
fn an_older_process_of_the_same_name_is_not_heard() {
    let mut bench = Bench::new();
    bench.pass(5, &[("b", 7)]);
    assert_eq!(bench.mine(), 2);
    assert!(!bench.members.handle_presence(told("b", 6, true), bench.now_us));
    assert_eq!(bench.mine(), 2);
}

#[test]
fn a_lower_instance_is_heard_once_the_higher_one_is_silent() {
    let mut bench = Bench::new();
    bench.pass(5, &[("b", 7)]);
    bench.pass(1, &[("b", 6)]);
    assert_eq!(bench.mine(), 2, "the higher one may be there still");
    bench.pass(10, &[("b", 6)]);
    assert_eq!(bench.mine(), 2, "the clock of b's host was set back");
    bench.pass(5, &[]);
    assert_eq!(bench.mine(), 4);
}

#[test]
fn all_see_the_same_shares() {
    let lanes = LaneCount::new(16).expect("in range");
    let names = ["a", "b", "c"];
    let mut views: Vec<Members> = names.iter().map(|name| Members::new(name, 1, START)).collect();
    for half in 0..20 {
        for view in &mut views {
            for name in names {
                view.handle_presence(told(name, 1, false), START + half * SECOND / 2);
            }
        }
    }
    let now = START + 10 * SECOND;
    for lane in 0..16 {
        let owners = views.iter().filter(|view| view.plans(lanes, now)[lane] == Plan::Mine).count();
        assert_eq!(owners, 1, "lane {lane}");
    }
}
