//! A region with three servers of NATS, three copies of each stream.

use super::in_a_world_of;
use breeze_testkit::{
    deployment::{Options, faults::Fault},
    servers::Nats,
};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(2);

fn three_servers(options: &mut Options) {
    options.regions = vec!["eu".into()];
    options.two_datacenters = false;
    options.control_planes = 1;
    options.nats_servers = 3;
}

#[test]
fn one_server_of_three_loses_its_data_under_load() -> anyhow::Result<()> {
    in_a_world_of(three_servers, |world| {
        for number in 0..3 {
            let lost = Fault::LoseNatsData(0, number);
            lost.inject(&mut world.deployment)?;
            // Two of three are enough.
            world.goes_on(None, 3)?;
            lost.heal(&mut world.deployment)?;
            world.recover(&lost.to_string())?;
            // The next one must not lose its data before this one has copied them again.
            world.deployment.regions[0].nats.iter_mut().try_for_each(Nats::wait)?;
        }
        world.suffer(&[Fault::KillNats(0)], SHORT)?;
        world.suffer(&[Fault::PauseNats(0)], SHORT)
    })
}
