//! The distributed system as real processes on real servers, and what it makes of faults: whatever was
//! acknowledged is in ClickHouse once, and the system recovers by itself.

mod faults;
mod long;
mod together;

use crate::support::process::{figure, program, skip};
use breeze_testkit::{
    deployment::{Deployment, Options, chaos, faults::Fault, faults::suffer, fleet::Fleet},
    servers::Tools,
};
use std::{path::Path, time::Duration};
use tempfile::TempDir;

/// Agents of each region.
const AGENTS: usize = 12;

/// A running system with agents in every region.
struct World {
    fleets: Vec<Fleet>,
    deployment: Deployment,
    // Last: the folder goes when everything is gone.
    folder: TempDir,
}

impl World {
    /// `None`, having said why, where a server is not installed.
    fn start() -> anyhow::Result<Option<Self>> {
        let Some(tools) = tools() else { return Ok(None) };
        let folder = folder()?;
        let programs = program("breeze").parent().map(Path::to_path_buf).unwrap_or_default();
        let deployment = match Deployment::start(&tools, folder.path(), Options::new(&programs)) {
            Ok(deployment) => deployment,
            Err(error) => return Err(error.context(format!("kept in {}", folder.keep().display()))),
        };
        let mut world = Self { fleets: Vec::new(), deployment, folder };
        for region in world.deployment.options.regions.clone() {
            world.fleets.push(Fleet::start(&world.deployment, &region, AGENTS)?);
        }
        Ok(Some(world))
    }

    /// Faults together, healed together; prints how long the system took.
    fn suffer(&mut self, faults: &[Fault], hold: Duration) -> anyhow::Result<()> {
        let recovery = suffer(&mut self.deployment, &mut self.fleets, faults, hold)?;
        let name = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        figure(&format!("{name}, acknowledged again after"), recovery.acknowledged_after);
        figure(&format!("{name}, all of it stored after"), recovery.stored_after);
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
        Ok(())
    }
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
    let Some(mut world) = World::start()? else { return Ok(()) };
    let result = act(&mut world).and_then(|()| world.reckon());
    if result.is_err() {
        world.folder.disable_cleanup(true);
    }
    result.map_err(|error| error.context(format!("logs are kept in {}", world.folder.path().display())))
}
