//! The disk of a role's own folder is full. Who has to make keys there waits and says so; who has them
//! works on, and says so. (A collector keeps nothing on a disk.)

use super::{folder, has};
use crate::support::{
    disk::Disk,
    process::{is_root, skip},
    role::{Engines, PIN, Running, nobody, relay_file, run_breeze, tools},
};
use breeze_testkit::servers::{Nats, nats};
use std::fs;

#[test]
fn who_has_no_room_for_keys_waits_for_it_and_who_has_them_goes_on() -> anyhow::Result<()> {
    let Some(tools) = tools(|tools| tools.nats_server().is_some()) else { return Ok(()) };
    if !is_root() || !has("fallocate") {
        return skip("mounting a small disk needs root, filling it fallocate");
    }
    let home = folder()?;
    let options = nats::Options { domain: Some("eu".to_owned()), ..nats::Options::default() };
    let bus = Nats::single(&tools, &home.path().join("nats"), "eu", &options)?;
    let disk = Disk::mount(&home.path().join("disk"), 8)?;
    let (http, control_http) = (nobody(), nobody());
    let file = relay_file(disk.0.join("relay.toml"), &bus.url(), http, PIN, ([127, 0, 0, 1], 0).into());
    let control_file = Engines::nowhere().control_plane_file(disk.0.join("control-plane.toml"), control_http);
    run_breeze(&["migrate", "--only", "bus"], &file)?;
    // The logs are elsewhere, as they are in life.
    let elsewhere = |name: &str| std::os::unix::fs::symlink(home.path().join(name), disk.0.join(name));
    elsewhere("relay.log")?;
    elsewhere("control-plane.log")?;
    let ballast = disk.fill(0)?;

    let mut relay = Running::start("relay", &file, http)?;
    let mut control = Running::start("control-plane", &control_file, control_http)?;
    let place = |folder: &str| disk.0.join(folder).display().to_string();
    relay.fails_with("data", &["cannot write below", &place("relay"), "No space left on device"])?;
    control.fails_with("data", &["cannot write below", &place("control-plane"), "No space left on device"])?;

    fs::remove_file(&ballast)?;
    // The next thing that is missing, without being started again.
    relay.component_that("data", |state, _| state == "ready")?;
    relay.fails_with("certificate", &["no control plane answers for the relay eu-1", "breeze admin add-relay"])?;
    control.component_that("data", |state, _| state == "ready")?;
    control.fails_with("state", &["CQL", "cannot reach"])?;

    disk.fill(0)?;
    relay.component_that("data", |state, message| state == "degraded" && message.contains("No space left"))?;
    relay.stop()?;
    control.stop()
}
