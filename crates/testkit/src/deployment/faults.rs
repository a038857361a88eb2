//! What can be done to a deployment, how it is undone, and how long the system takes to recover.

use super::{
    Deployment,
    fleet::{Book, Fleet},
    oracle,
};
use crate::servers::clickhouse::Faults;
use anyhow::Context;
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

/// How long everything may take to recover.
pub const RECOVERY_PATIENCE: Duration = Duration::from_secs(120);
/// How long an insert may be waited for that is to kill the server.
const INSERT_PATIENCE: Duration = Duration::from_secs(30);
const LATE_MS: u32 = 3_000;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A fault; numbers are places in the deployment's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillRelay(usize),
    KillCollector(usize, usize),
    KillControlPlane(usize),
    KillNats(usize),
    KillHub,
    KillClickHouse(usize),
    KillCassandra(usize),
    PauseCollector(usize, usize),
    PauseRelay(usize),
    PauseNats(usize),
    PauseClickHouse(usize),
    /// Inserts fail before anything was done.
    InsertsFail(usize),
    /// Inserts are done, and the answer is lost.
    InsertsUnanswered(usize),
    InsertsTwice(usize),
    InsertsLate(usize),
    /// The server dies in the middle of an insert.
    DiesInInsert(usize),
    /// The region is cut from the hub.
    CutRegion(usize),
    /// The region is cut from the hub and its relay is gone: its devices go to the other region.
    CutAndRoam(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// From the end of the fault until every agent was acknowledged twice more.
    pub acknowledged_after: Duration,
    /// From the end of the fault until everything acknowledged until then could be queried.
    pub stored_after: Duration,
}

impl Fault {
    /// Does it.
    ///
    /// # Errors
    /// If the deployment has no such part, or it does not obey.
    pub fn inject(self, deployment: &mut Deployment) -> anyhow::Result<()> {
        let inserts = |region: usize, faults: Faults, deployment: &Deployment| {
            deployment.regions.get(region).context("no such region")?.clickhouse.set_faults(faults)
        };
        match self {
            Self::InsertsFail(region) => {
                inserts(region, Faults { fail_before: u32::MAX, ..Faults::default() }, deployment)
            }
            Self::InsertsUnanswered(region) => {
                inserts(region, Faults { cut_after: u32::MAX, ..Faults::default() }, deployment)
            }
            Self::InsertsTwice(region) => inserts(region, Faults { twice: u32::MAX, ..Faults::default() }, deployment),
            Self::InsertsLate(region) => inserts(region, Faults { delay_ms: LATE_MS, ..Faults::default() }, deployment),
            Self::DiesInInsert(region) => {
                inserts(region, Faults { die_during: 1, ..Faults::default() }, deployment)?;
                wait_end(deployment, region)
            }
            Self::CutRegion(region) => {
                deployment.regions.get(region).context("no such region")?.link.cut();
                Ok(())
            }
            Self::CutAndRoam(region) => {
                Self::CutRegion(region).inject(deployment)?;
                Self::KillRelay(region).inject(deployment)
            }
            Self::PauseCollector(..) | Self::PauseRelay(_) | Self::PauseNats(_) | Self::PauseClickHouse(_) => {
                self.process(deployment)?.pause();
                Ok(())
            }
            Self::KillRelay(_)
            | Self::KillCollector(..)
            | Self::KillControlPlane(_)
            | Self::KillNats(_)
            | Self::KillHub
            | Self::KillClickHouse(_)
            | Self::KillCassandra(_) => {
                self.process(deployment)?.kill();
                Ok(())
            }
        }
    }

    /// Undoes it; what was killed is started, and waited for until it listens.
    ///
    /// # Errors
    /// If something does not come up again.
    pub fn heal(self, deployment: &mut Deployment) -> anyhow::Result<()> {
        match self {
            Self::InsertsFail(region)
            | Self::InsertsUnanswered(region)
            | Self::InsertsTwice(region)
            | Self::InsertsLate(region) => deployment.regions[region].clickhouse.set_faults(Faults::default()),
            Self::CutRegion(region) => {
                deployment.regions[region].link.heal();
                Ok(())
            }
            Self::CutAndRoam(region) => {
                deployment.regions[region].link.heal();
                deployment.regions[region].relay.start_only()
            }
            Self::PauseCollector(..) | Self::PauseRelay(_) | Self::PauseNats(_) | Self::PauseClickHouse(_) => {
                self.process(deployment)?.resume();
                Ok(())
            }
            Self::KillRelay(region) => deployment.regions[region].relay.start_only(),
            Self::KillCollector(region, number) => deployment.regions[region].collectors[number].start_only(),
            Self::KillControlPlane(number) => deployment.control_planes[number].start_only(),
            Self::KillNats(region) => deployment.regions[region].nats.restart(),
            Self::KillHub => deployment.hub.restart(),
            Self::KillClickHouse(region) | Self::DiesInInsert(region) => {
                deployment.regions[region].clickhouse.restart()
            }
            Self::KillCassandra(number) => deployment.cassandra[number].restart(),
        }
    }

    fn process(self, deployment: &mut Deployment) -> anyhow::Result<&mut crate::servers::Process> {
        let regions = &mut deployment.regions;
        let process = match self {
            Self::KillRelay(region) | Self::PauseRelay(region) | Self::CutAndRoam(region) => {
                regions.get_mut(region).map(|region| &mut region.relay.process)
            }
            Self::KillCollector(region, number) | Self::PauseCollector(region, number) => regions
                .get_mut(region)
                .and_then(|region| region.collectors.get_mut(number))
                .map(|collector| &mut collector.process),
            Self::KillControlPlane(number) => deployment.control_planes.get_mut(number).map(|role| &mut role.process),
            Self::KillNats(region) | Self::PauseNats(region) | Self::CutRegion(region) => {
                regions.get_mut(region).map(|region| &mut region.nats.process)
            }
            Self::KillHub => Some(&mut deployment.hub.process),
            Self::KillClickHouse(region)
            | Self::PauseClickHouse(region)
            | Self::InsertsFail(region)
            | Self::InsertsUnanswered(region)
            | Self::InsertsTwice(region)
            | Self::InsertsLate(region)
            | Self::DiesInInsert(region) => regions.get_mut(region).map(|region| &mut region.clickhouse.process),
            Self::KillCassandra(number) => deployment.cassandra.get_mut(number).map(|node| &mut node.process),
        };
        process.with_context(|| format!("the deployment has no such part: {self}"))
    }
}

fn wait_end(deployment: &mut Deployment, region: usize) -> anyhow::Result<()> {
    let until = Instant::now() + INSERT_PATIENCE;
    let clickhouse = &mut deployment.regions[region].clickhouse;
    while clickhouse.process.is_running() {
        anyhow::ensure!(Instant::now() < until, "no insert came within {INSERT_PATIENCE:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
    // Reaped, so that it can be started again.
    clickhouse.process.kill();
    Ok(())
}

/// Injects all faults one after the other, holds them, heals them in reverse, and measures the recovery.
///
/// # Errors
/// If a part does not come up again, or the system does not recover in time.
pub fn suffer(
    deployment: &mut Deployment,
    fleets: &mut [Fleet],
    faults: &[Fault],
    hold: Duration,
) -> anyhow::Result<Recovery> {
    for fault in faults {
        fault.inject(deployment).with_context(|| fault.to_string())?;
    }
    std::thread::sleep(hold);
    for fault in faults.iter().rev() {
        fault.heal(deployment).with_context(|| format!("after {fault}"))?;
    }
    recover(deployment, fleets).with_context(|| format!("after {faults:?}"))
}

/// Waits until all agents are acknowledged again, and what was acknowledged can be queried.
///
/// # Errors
/// If that takes too long.
pub fn recover(deployment: &Deployment, fleets: &mut [Fleet]) -> anyhow::Result<Recovery> {
    let healed = Instant::now();
    let mut before = BTreeMap::<String, Book>::new();
    for fleet in &*fleets {
        before.insert(fleet.region.clone(), fleet.acknowledged()?);
    }
    for fleet in &mut *fleets {
        fleet.wait_for(&before[&fleet.region], 2, RECOVERY_PATIENCE)?;
    }
    let acknowledged_after = healed.elapsed();
    for fleet in fleets {
        oracle::wait_stored(deployment, &fleet.region, &fleet.acknowledged()?, RECOVERY_PATIENCE)?;
    }
    Ok(Recovery { acknowledged_after, stored_after: healed.elapsed() })
}
