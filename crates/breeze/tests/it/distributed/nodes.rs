//! Collectors that are slow or whose clocks are wrong, and a data centre of CQL that is gone.

use super::{figure, in_a_world, skip};
use breeze_testkit::deployment::{faketime, faults::Fault};
use std::time::{Duration, Instant};

/// Longer than a lane's lease.
const BEYOND_LEASE: Duration = Duration::from_secs(5);
/// How wrong the clocks are, in seconds.
const WRONG_S: i64 = 420;

#[test]
fn collectors_with_wrong_clocks_hand_lanes_to_each_other() -> anyhow::Result<()> {
    if faketime().is_none() {
        return skip("libfaketime is not installed");
    }
    in_a_world(|world| {
        // One fast, one slow: a quarter of an hour between them. Starting them anew hands every lane over in order.
        let fast = Fault::SkewCollector(0, 0, WRONG_S);
        let slow = Fault::SkewCollector(0, 1, -WRONG_S);
        fast.inject(&mut world.deployment)?;
        slow.inject(&mut world.deployment)?;
        world.recover("one collector's clock fast and one slow")?;
        // And now by the lease, from each to the other.
        world.suffer(&[Fault::KillCollector(0, 0)], BEYOND_LEASE)?;
        world.suffer(&[Fault::KillCollector(0, 1)], BEYOND_LEASE)?;
        world.suffer(&[Fault::PauseCollector(0, 0)], BEYOND_LEASE)?;
        slow.heal(&mut world.deployment)?;
        fast.heal(&mut world.deployment)?;
        world.recover("clocks right again")
    })
}

#[test]
fn collectors_that_are_far_too_slow_are_waited_for() -> anyhow::Result<()> {
    in_a_world(|world| {
        world.suffer(&[Fault::SlowCollector(0, 0)], BEYOND_LEASE)?;
        // Nobody else could take the lanes: the bus holds, and agents are acknowledged all the while.
        let all = [Fault::SlowCollector(0, 0), Fault::SlowCollector(0, 1)];
        for fault in all {
            fault.inject(&mut world.deployment)?;
        }
        world.goes_on(None, 10)?;
        for fault in all {
            fault.heal(&mut world.deployment)?;
        }
        world.recover("all collectors slow for ten heartbeats")
    })
}

#[test]
fn a_data_centre_of_cql_is_down() -> anyhow::Result<()> {
    in_a_world(|world| {
        for (number, other) in [(1, "eu"), (0, "us")] {
            let down = Fault::KillCassandra(number);
            down.inject(&mut world.deployment)?;
            let since = Instant::now();
            // Agents are acknowledged everywhere: the bus holds. The other region stores as before.
            world.goes_on(None, 10)?;
            world.stores(other)?;
            figure(&format!("{down}: acknowledged everywhere, stored in {other}, for"), since.elapsed());
            let started = Instant::now();
            down.heal(&mut world.deployment)?;
            figure(&format!("{down}: it was up after"), started.elapsed());
            world.recover(&down.to_string())?;
        }
        Ok(())
    })
}
