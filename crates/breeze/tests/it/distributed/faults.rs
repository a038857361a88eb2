//! One fault after the other, each until the system has recovered.

use super::in_a_world;
use breeze_testkit::deployment::faults::Fault;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(1);
/// Longer than a lane's lease: others have taken the lanes over when the fault ends.
const BEYOND_LEASE: Duration = Duration::from_secs(5);

#[test]
fn roles_are_killed_and_paused() -> anyhow::Result<()> {
    in_a_world(|world| {
        world.suffer(&[Fault::KillCollector(0, 0)], BEYOND_LEASE)?;
        world.suffer(&[Fault::PauseCollector(0, 1)], BEYOND_LEASE)?;
        world.suffer(&[Fault::PauseCollector(1, 0)], SHORT)?;
        world.suffer(&[Fault::KillControlPlane(0)], SHORT)?;
        world.suffer(&[Fault::KillRelay(1)], SHORT)
    })
}

#[test]
fn servers_are_killed() -> anyhow::Result<()> {
    in_a_world(|world| {
        world.suffer(&[Fault::KillClickHouse(0)], SHORT)?;
        world.suffer(&[Fault::KillNats(1)], SHORT)?;
        world.suffer(&[Fault::KillHub], SHORT)?;
        world.suffer(&[Fault::KillCassandra(1)], SHORT)
    })
}

#[test]
fn clickhouse_fails_in_the_middle_late_and_answers_twice() -> anyhow::Result<()> {
    in_a_world(|world| {
        world.suffer(&[Fault::DiesInInsert(0)], Duration::ZERO)?;
        world.suffer(&[Fault::InsertsUnanswered(0), Fault::InsertsFail(1)], BEYOND_LEASE)?;
        world.suffer(&[Fault::InsertsTwice(1)], BEYOND_LEASE)?;
        world.suffer(&[Fault::InsertsLate(0)], BEYOND_LEASE)
    })
}

#[test]
fn a_region_is_cut_off_and_its_devices_roam() -> anyhow::Result<()> {
    in_a_world(|world| {
        world.suffer(&[Fault::CutRegion(1)], BEYOND_LEASE)?;
        // Long enough that devices of the cut region have turned to the other one.
        world.suffer(&[Fault::CutAndRoam(0)], Duration::from_secs(20))
    })
}
