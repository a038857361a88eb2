//! Random lives of a device: whatever happens, nothing that was taken is lost, nothing counts twice,
//! and when the trouble is over everything arrives.

use crate::world::{DAY_S, MINUTE, SECOND, World};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Run(u64),
    Partition(u64),
    BreakLinks,
    Kill(u64),
    LosePower(u64),
    Sleep(u64),
    ClockError(i64),
    UdpBlocked(bool),
    RelayDown(usize, bool),
    HeldLost(bool),
    StreamFull(bool),
    DiskFull(bool),
    NetworkChange,
    Fast(u64),
    Snapshot,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u64..600).prop_map(Step::Run),
        2 => (1u64..300).prop_map(Step::Partition),
        2 => Just(Step::BreakLinks),
        2 => (0u64..200).prop_map(Step::Kill),
        2 => (0u64..200).prop_map(Step::LosePower),
        1 => (20u64..7_200).prop_map(Step::Sleep),
        2 => prop_oneof![Just(0), Just(DAY_S), Just(-DAY_S), -100i64..100].prop_map(Step::ClockError),
        1 => any::<bool>().prop_map(Step::UdpBlocked),
        1 => (0usize..2, any::<bool>()).prop_map(|(relay, down)| Step::RelayDown(relay, down)),
        1 => any::<bool>().prop_map(Step::HeldLost),
        1 => any::<bool>().prop_map(Step::StreamFull),
        1 => any::<bool>().prop_map(Step::DiskFull),
        1 => Just(Step::NetworkChange),
        2 => (1u64..120).prop_map(Step::Fast),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Restore),
    ]
}

fn live(seed: u64, steps: Vec<Step>) {
    let mut world = World::new(seed);
    let mut snapshot = None;
    for step in steps {
        match step {
            Step::Run(seconds) => world.run(seconds * SECOND),
            Step::Partition(seconds) => world.partition(seconds * SECOND),
            Step::BreakLinks => world.break_links(),
            Step::Kill(seconds) => world.kill(seconds * SECOND),
            Step::LosePower(seconds) => world.lose_power(seconds * SECOND),
            Step::Sleep(seconds) => world.sleep(seconds * SECOND),
            Step::ClockError(seconds) => world.clock_error_s = seconds,
            Step::UdpBlocked(blocked) => world.troubles.udp_blocked = blocked,
            Step::RelayDown(relay, down) => world.troubles.down[relay] = down,
            Step::HeldLost(lost) => world.troubles.held_lost = lost,
            Step::StreamFull(full) => world.troubles.stream_full = full,
            Step::DiskFull(full) => world.set_disk_full(full),
            Step::NetworkChange => world.act(|agent, now| agent.handle_network_change(now)),
            Step::Fast(seconds) => world.watch(seconds),
            Step::Snapshot => snapshot = Some(world.snapshot()),
            Step::Restore => {
                if let Some(snapshot) = &snapshot {
                    world.restore(snapshot);
                }
            }
        }
    }
    world.heal();
    world.run(45 * MINUTE);
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_and_nothing_counts_twice(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..40)) {
        live(seed, steps);
    }
}

/// Else it measures every second until it is connected, which is more than fits in memory.
#[test]
fn what_was_asked_for_a_while_ends_though_the_clock_is_set_back() {
    let before = [Step::Run(1), Step::Fast(1), Step::Run(1), Step::UdpBlocked(true), Step::Kill(0)];
    let wrong = [Step::DiskFull(true), Step::Run(1), Step::ClockError(-DAY_S), Step::Kill(0), Step::Run(1)];
    let alone = [Step::Partition(251), Step::RelayDown(1, true), Step::LosePower(0), Step::Run(257)];
    live(8_507_952_315_126_782_104, before.into_iter().chain(wrong).chain(alone).collect());
}

/// Counters that a full disk did not take are trouble too, until it takes them.
#[test]
fn a_full_disk_that_does_not_take_what_the_time_is() {
    let full = [Step::DiskFull(true), Step::Run(1), Step::Kill(0), Step::DiskFull(false)];
    let wrong = [Step::StreamFull(true), Step::Run(1), Step::ClockError(DAY_S), Step::LosePower(0)];
    live(0, full.into_iter().chain(wrong).collect());
}
