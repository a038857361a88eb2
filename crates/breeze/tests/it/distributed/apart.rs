//! Each region and the global plane on a host of its own, and the network between them cut without a word: packets
//! are dropped by nftables, no connection is closed.

use super::{AGENTS, RECOVERY_PATIENCE, World, figure, in_a_world_of, skip};
use anyhow::ensure;
use breeze_testkit::deployment::{Sites, faults::Fault, fleet::Fleet};
use std::time::{Duration, Instant};

/// Devices that are switched off while their region is cut off.
const GOING: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Devices that a region's collectors take for online.
fn online(world: &World, region: usize) -> anyhow::Result<usize> {
    let mut all = 0.0;
    for collector in &world.deployment.regions[region].collectors {
        let metrics = collector.metrics()?;
        let gauges = metrics.lines().filter(|line| line.starts_with("breeze_collector_devices_online"));
        all += gauges.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(all as usize)
}

fn wait_online(world: &World, region: usize, wanted: usize) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        let now = online(world, region)?;
        if now == wanted {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < RECOVERY_PATIENCE, "{now} devices are online, not {wanted}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[test]
fn a_region_goes_on_while_packets_to_the_global_plane_are_dropped() -> anyhow::Result<()> {
    if let Some(why) = Sites::missing() {
        return skip(why);
    }
    in_a_world_of(
        |options| options.are_apart = true,
        |world| {
            let mut going = Fleet::start_named(&world.deployment, "going", "us", GOING)?;
            figure("all devices of the region online after", wait_online(world, 1, AGENTS + GOING)?);
            let cut = Fault::CutRegion(1);
            cut.inject(&mut world.deployment)?;
            let since = Instant::now();
            world.goes_on(None, 10)?;
            figure("cut: agents of both regions were acknowledged ten times within", since.elapsed());
            let since = Instant::now();
            world.stores("us")?;
            world.stores("eu")?;
            figure("cut: what was acknowledged until then was stored after", since.elapsed());
            going.process.kill();
            figure("cut: devices that were switched off were offline after", wait_online(world, 1, AGENTS)?);
            // A collector that starts now has its region's servers and nothing else.
            world.suffer(&[Fault::KillCollector(1, 0)], Duration::from_secs(4))?;
            figure("cut for", since.elapsed());
            cut.heal(&mut world.deployment)?;
            world.recover("packets dropped between a region and the rest")?;
            // Devices of a region that is cut off turn to the other one, which keeps what is theirs.
            world.suffer(&[Fault::CutAndRoam(1)], Duration::from_secs(20))?;
            world.fleets.push(going);
            Ok(())
        },
    )
}
