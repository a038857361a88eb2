//! All of a deployment, stopped, copied and started elsewhere: the same system, which goes on.

use super::{AGENTS, World, folder, tools};
use anyhow::{Context as _, ensure};
use breeze_testkit::deployment::{Deployment, faults::RECOVERY_PATIENCE, fleet::Fleet, oracle};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Stops the servers, which outlive the roles.
fn stop(deployment: &mut Deployment) -> anyhow::Result<()> {
    deployment.stop()?;
    for region in &mut deployment.regions {
        region.clickhouse.process.stop()?;
        for nats in &mut region.nats {
            nats.process.stop()?;
        }
    }
    deployment.hub.process.stop()?;
    for node in &mut deployment.cassandra {
        node.process.stop()?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

#[test]
fn a_copy_of_everything_is_the_same_system_and_goes_on() -> anyhow::Result<()> {
    let Some(mut world) = World::start(|_| {})? else { return Ok(()) };
    let tools = tools().context("they were there")?;
    world.goes_on(None, 5)?;
    world.reckon()?;
    let mut books = Vec::new();
    for fleet in &world.fleets {
        books.push((fleet.region.clone(), fleet.acknowledged()?));
    }
    stop(&mut world.deployment)?;
    let elsewhere = folder()?;
    copy(world.folder.path(), elsewhere.path())?;
    let options = world.deployment.options.clone();
    let since_ms = world.since_ms;
    drop(world);

    let deployment = Deployment::start(&tools, elsewhere.path(), options)
        .with_context(|| format!("on the copy in {}", elsewhere.path().display()))?;
    let mut world = World { fleets: Vec::new(), deployment, since_ms, folder: elsewhere };
    world.folder.disable_cleanup(true);
    let devices = format!("breeze_directory_devices {}", 2 * AGENTS);
    for node in &world.deployment.control_planes {
        let until = Instant::now() + RECOVERY_PATIENCE;
        while !node.metrics()?.contains(&devices) {
            ensure!(Instant::now() < until, "the directory of {} has others", node.name);
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    for (region, book) in &books {
        oracle::check(&world.deployment, region, book, RECOVERY_PATIENCE).context(region.clone())?;
        let fleet = Fleet::start(&world.deployment, region, AGENTS)?;
        world.fleets.push(fleet);
    }
    world.goes_on(None, 3)?;
    world.reckon()?;
    world.folder.disable_cleanup(false);
    Ok(())
}
