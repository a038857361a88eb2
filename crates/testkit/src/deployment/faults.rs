//! What can be done to a deployment, how it is undone, and how long the system takes to recover.

use super::{
    Deployment, Role,
    fleet::{Book, Fleet},
    oracle,
    throttle::Throttle,
};
use crate::servers::{Nats, Process, clickhouse::Faults};
use anyhow::Context;
use rustix::process::Pid;
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
/// What a slow collector may run of each half second.
const SLOW_RUN: Duration = Duration::from_millis(25);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A fault; numbers are places in the deployment's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillRelay(usize),
    KillCollector(usize, usize),
    KillControlPlane(usize),
    /// All of the region's servers.
    KillNats(usize),
    KillHub,
    KillClickHouse(usize),
    KillCassandra(usize),
    /// One of the region's servers is killed, and what it stored is gone.
    LoseNatsData(usize, usize),
    /// A collector gets a twentieth of the time to run.
    SlowCollector(usize, usize),
    /// A collector has a wall clock that is wrong by so many seconds; it is started again for that.
    SkewCollector(usize, usize, i64),
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
            Self::CutRegion(region) => deployment.cut(region),
            Self::CutAndRoam(region) => {
                Self::CutRegion(region).inject(deployment)?;
                Self::KillRelay(region).inject(deployment)
            }
            Self::LoseNatsData(region, number) => {
                let server = server(deployment, region, number)?;
                server.process.kill();
                server.lose_data()
            }
            Self::SlowCollector(region, number) => {
                let pid = self.processes(deployment)?[0].pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                let throttle = Throttle::hold(pid.context("it does not run")?, SLOW_RUN);
                deployment.throttles.insert((region, number), throttle);
                Ok(())
            }
            Self::SkewCollector(region, number, seconds) => collector(deployment, region, number)?.set_clock(seconds),
            Self::PauseCollector(..) | Self::PauseRelay(_) | Self::PauseNats(_) | Self::PauseClickHouse(_) => {
                self.processes(deployment)?.iter().for_each(|process| process.pause());
                Ok(())
            }
            Self::KillRelay(_)
            | Self::KillCollector(..)
            | Self::KillControlPlane(_)
            | Self::KillNats(_)
            | Self::KillHub
            | Self::KillClickHouse(_)
            | Self::KillCassandra(_) => {
                self.processes(deployment)?.into_iter().for_each(Process::kill);
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
            Self::CutRegion(region) => deployment.heal(region),
            Self::CutAndRoam(region) => {
                deployment.heal(region)?;
                deployment.regions[region].relay.start_only()
            }
            Self::LoseNatsData(region, number) => server(deployment, region, number)?.restart(),
            Self::SlowCollector(region, number) => {
                deployment.throttles.remove(&(region, number));
                Ok(())
            }
            Self::SkewCollector(region, number, _) => collector(deployment, region, number)?.set_clock(0),
            Self::PauseCollector(..) | Self::PauseRelay(_) | Self::PauseNats(_) | Self::PauseClickHouse(_) => {
                self.processes(deployment)?.iter().for_each(|process| process.resume());
                Ok(())
            }
            Self::KillRelay(region) => deployment.regions[region].relay.start_only(),
            Self::KillCollector(region, number) => deployment.regions[region].collectors[number].start_only(),
            Self::KillControlPlane(number) => deployment.control_planes[number].start_only(),
            Self::KillNats(region) => {
                let servers = &mut deployment.regions[region].nats;
                // A server of three is well when it has found the others.
                servers.iter_mut().try_for_each(|server| server.process.start())?;
                servers.iter_mut().try_for_each(Nats::wait)
            }
            Self::KillHub => deployment.hub.restart(),
            Self::KillClickHouse(region) | Self::DiesInInsert(region) => {
                deployment.regions[region].clickhouse.restart()
            }
            Self::KillCassandra(number) => deployment.cassandra[number].restart(),
        }
    }

    /// What it strikes, as processes.
    fn processes(self, deployment: &mut Deployment) -> anyhow::Result<Vec<&mut Process>> {
        let regions = &mut deployment.regions;
        let processes = match self {
            Self::KillRelay(region) | Self::PauseRelay(region) | Self::CutAndRoam(region) => {
                regions.get_mut(region).map(|region| vec![&mut region.relay.process])
            }
            Self::KillCollector(region, number)
            | Self::PauseCollector(region, number)
            | Self::SlowCollector(region, number)
            | Self::SkewCollector(region, number, _) => regions
                .get_mut(region)
                .and_then(|region| region.collectors.get_mut(number))
                .map(|collector| vec![&mut collector.process]),
            Self::KillControlPlane(number) => {
                deployment.control_planes.get_mut(number).map(|role| vec![&mut role.process])
            }
            Self::LoseNatsData(region, number) => {
                let server = regions.get_mut(region).and_then(|region| region.nats.get_mut(number));
                server.map(|server| vec![&mut server.process])
            }
            Self::KillNats(region) | Self::PauseNats(region) | Self::CutRegion(region) => {
                let servers = regions.get_mut(region).map(|region| region.nats.iter_mut());
                servers.map(|servers| servers.map(|server| &mut server.process).collect())
            }
            Self::KillHub => Some(vec![&mut deployment.hub.process]),
            Self::KillClickHouse(region)
            | Self::PauseClickHouse(region)
            | Self::InsertsFail(region)
            | Self::InsertsUnanswered(region)
            | Self::InsertsTwice(region)
            | Self::InsertsLate(region)
            | Self::DiesInInsert(region) => regions.get_mut(region).map(|region| vec![&mut region.clickhouse.process]),
            Self::KillCassandra(number) => deployment.cassandra.get_mut(number).map(|node| vec![&mut node.process]),
        };
        processes.with_context(|| format!("the deployment has no such part: {self}"))
    }
}

fn collector(deployment: &mut Deployment, region: usize, number: usize) -> anyhow::Result<&mut Role> {
    let region = deployment.regions.get_mut(region).context("no such region")?;
    region.collectors.get_mut(number).context("no such collector")
}

fn server(deployment: &mut Deployment, region: usize, number: usize) -> anyhow::Result<&mut Nats> {
    let region = deployment.regions.get_mut(region).context("no such region")?;
    region.nats.get_mut(number).context("no such server of NATS")
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
