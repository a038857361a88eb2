//! The distributed system as real processes on real servers, and what it makes of faults: whatever was
//! acknowledged is in ClickHouse once, and the system recovers by itself.

mod apart;
mod cluster;
mod duplicates;
mod faults;
mod long;
mod nodes;
mod restored;
mod together;
mod upgrade;

use crate::support::process::{figure, program, skip};
use breeze_testkit::{
    deployment::{
        DATABASE, Deployment, Options, chaos,
        faults::{Fault, RECOVERY_PATIENCE, Recovery, recover, suffer},
        fleet::Fleet,
        oracle,
    },
    servers::Tools,
};
use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

/// Agents of each region.
const AGENTS: usize = 12;

/// A running system with agents in every region.
struct World {
    fleets: Vec<Fleet>,
    deployment: Deployment,
    /// When it was started, by the wall clock.
    since_ms: u64,
    // Last: the folder goes when everything is gone.
    folder: TempDir,
}

impl World {
    /// `None`, having said why, where a server is not installed.
    fn start(change: impl FnOnce(&mut Options)) -> anyhow::Result<Option<Self>> {
        let Some(tools) = tools() else { return Ok(None) };
        let folder = folder()?;
        let since_ms = now_ms();
        let programs = program("breeze").parent().map(Path::to_path_buf).unwrap_or_default();
        let mut options = Options::new(&programs);
        change(&mut options);
        let deployment = match Deployment::start(&tools, folder.path(), options) {
            Ok(deployment) => deployment,
            Err(error) => return Err(error.context(format!("kept in {}", folder.keep().display()))),
        };
        let mut world = Self { fleets: Vec::new(), deployment, since_ms, folder };
        for region in world.deployment.options.regions.clone() {
            match Fleet::start(&world.deployment, &region, AGENTS) {
                Ok(fleet) => world.fleets.push(fleet),
                Err(error) => {
                    world.folder.disable_cleanup(true);
                    return Err(error.context(format!("logs are kept in {}", world.folder.path().display())));
                }
            }
        }
        Ok(Some(world))
    }

    /// Faults together, healed together; prints how long the system took.
    fn suffer(&mut self, faults: &[Fault], hold: Duration) -> anyhow::Result<()> {
        let recovery = suffer(&mut self.deployment, &mut self.fleets, faults, hold)?;
        tell(&faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "), recovery);
        Ok(())
    }

    /// Waits until the system has recovered from what was undone just now.
    fn recover(&mut self, what: &str) -> anyhow::Result<()> {
        let recovery = recover(&self.deployment, &mut self.fleets);
        tell(what, recovery.map_err(|error| error.context(format!("after {what}")))?);
        Ok(())
    }

    /// Every agent of all regions, or of one, is acknowledged that many times more.
    fn goes_on(&mut self, region: Option<&str>, more: usize) -> anyhow::Result<()> {
        for fleet in self.fleets.iter_mut().filter(|fleet| region.is_none_or(|region| region == fleet.region)) {
            let before = fleet.acknowledged()?;
            fleet.wait_for(&before, more, RECOVERY_PATIENCE)?;
        }
        Ok(())
    }

    /// What was acknowledged until now in a region gets stored.
    fn stores(&self, region: &str) -> anyhow::Result<()> {
        for fleet in self.fleets.iter().filter(|fleet| fleet.region == region) {
            oracle::wait_stored(&self.deployment, region, &fleet.acknowledged()?, RECOVERY_PATIENCE)?;
        }
        Ok(())
    }

    /// Stops the agents and checks the books.
    fn reckon(&mut self) -> anyhow::Result<()> {
        for (fleet, verdict) in self
            .fleets
            .iter()
            .map(|fleet| fleet.region.clone())
            .collect::<Vec<_>>()
            .iter()
            .zip(chaos::reckon(&self.deployment, &mut self.fleets)?)
        {
            figure(&format!("{fleet}: acknowledged, and stored once each"), verdict);
            assert!(verdict.acknowledged >= AGENTS, "{verdict:?}");
        }
        self.times_are_right()
    }

    /// Every row is of a moment of this test, whatever the nodes' clocks said.
    fn times_are_right(&self) -> anyhow::Result<()> {
        for region in &self.deployment.regions {
            let sql = "SELECT toUnixTimestamp64Milli(min(at)), toUnixTimestamp64Milli(max(at)) FROM heartbeats";
            let answer = region.clickhouse.query(DATABASE, sql)?;
            let times: Vec<u64> = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let moments = self.since_ms.saturating_sub(1_000)..=now_ms() + 1_000;
            let are_right = times.iter().all(|time| moments.contains(time));
            anyhow::ensure!(are_right, "{}: rows of {times:?}, not within {moments:?}", region.name);
        }
        Ok(())
    }
}

fn tell(what: &str, recovery: Recovery) {
    figure(&format!("{what}, acknowledged again after"), recovery.acknowledged_after);
    figure(&format!("{what}, all of it stored after"), recovery.stored_after);
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// On memory where there is such a place: what is tested is not the disk.
fn folder() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("breeze-distributed-");
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? })
}

fn tools() -> Option<Tools> {
    let tools = Tools::find()
        .filter(|tools| tools.nats_server().is_some() && tools.clickhouse().is_some() && tools.cassandra().is_some());
    if tools.is_none() {
        let _said = skip("NATS, ClickHouse or Cassandra is not installed: cargo xtask test installs them");
    }
    tools
}

/// Runs `act` in a world, if there can be one; a failure keeps its folder and says where.
fn in_a_world(act: impl FnOnce(&mut World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    in_a_world_of(|_| {}, act)
}

/// As [`in_a_world`], one that is built otherwise.
fn in_a_world_of(
    change: impl FnOnce(&mut Options),
    act: impl FnOnce(&mut World) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(mut world) = World::start(change)? else { return Ok(()) };
    let result = act(&mut world).and_then(|()| world.reckon());
    if result.is_err() {
        world.folder.disable_cleanup(true);
    }
    result.map_err(|error| error.context(format!("logs are kept in {}", world.folder.path().display())))
}
