//! `breeze migrate` before everything is there: it waits for a region behind the hub, says for which, and
//! not for ever.

use super::folder;
use crate::support::role::{Engines, breeze, eventually, nobody, tools};
use anyhow::ensure;
use breeze_testkit::servers::{
    Nats,
    nats::{self, Ports},
};
use std::{fs, process::Stdio, time::Instant};

#[test]
fn a_region_that_is_not_linked_yet_is_waited_for_and_named() -> anyhow::Result<()> {
    let Some(tools) = tools(|tools| tools.nats_server().is_some()) else { return Ok(()) };
    let home = folder()?;
    let options = nats::Options { domain: Some("global".to_owned()), is_hub: true, ..nats::Options::default() };
    let hub = Nats::single(&tools, &home.path().join("hub"), "hub", &options)?;
    let mut engines = Engines::nowhere();
    engines.bus_at(&hub.url(), "max_stream_mib = 64");
    let file = engines.control_plane_file(home.path().join("control-plane.toml"), nobody());
    let migrate = |wait: &str| {
        let mut command = breeze();
        command.args(["migrate", "--only", "bus", "--lanes", "1", "--wait", wait, "--config"]).arg(&file);
        command
    };

    let began = Instant::now();
    let output = migrate("1").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && began.elapsed().as_millis() >= 1_000, "{said}");
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.contains("breeze: bus:") && last.contains("lane.eu.0") && last.contains("link"), "{last}");

    let log = home.path().join("migrate.log");
    let mut waiting = migrate("60").stderr(fs::File::create(&log)?).stdout(Stdio::piped()).spawn()?;
    eventually("a line that says for what", || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.lines().any(|line| line.contains("waiting for it") && line.contains("lane.eu.0")).then_some(())
    })?;
    ensure!(waiting.try_wait()?.is_none(), "it waits");
    let options = nats::Options {
        domain: Some("eu".to_owned()),
        hub: vec![format!("nats-leaf://127.0.0.1:{}", hub.ports.leaf)],
        ..nats::Options::default()
    };
    let ports = Ports::choose()?;
    let text = nats::config("eu", ports, &options);
    let mut region = Nats::with_config(&tools, &home.path().join("eu"), "eu", ports, &text)?;
    region.restart()?;
    let output = waiting.wait_with_output()?;
    let done = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{done}{}", fs::read_to_string(&log)?);
    ensure!(done.contains("lane.eu.0") && done.contains("directory") && done.contains("made"), "{done}");
    Ok(())
}
