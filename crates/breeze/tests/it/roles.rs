//! Roles as processes on bad days: what they say when files, engines or credentials are not as they
//! should be. (Whole systems on real servers: `distributed`.)

use crate::support::role::{PIN, Running, breeze, nobody, relay_file};
use anyhow::{Context, ensure};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn file_of(folder: &Path, bus: SocketAddr, http: SocketAddr) -> PathBuf {
    relay_file(folder.join("relay.toml"), &format!("nats://{bus}"), http, PIN, ([127, 0, 0, 1], 0).into())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn an_engine_that_is_away_is_waited_for_and_named() -> anyhow::Result<()> {
    let folder = folder();
    let (bus, http) = (nobody(), nobody());
    let mut relay = Running::start("relay", &file_of(folder.path(), bus, http), http)?;
    relay.fails_with("bus", &[&bus.to_string(), "not reachable"])?;
    ensure!(relay.get("/metrics").context("metrics")?.1.contains("breeze_component_ready"), "it counts");
    // Asked to stop while it waits, it stops.
    relay.stop()
}

/// A server that speaks as NATS does when it does not know the user.
fn nats_that_refuses() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let info = r#"INFO {"server_id":"N","version":"2.15.0","proto":1,"max_payload":2097152,"headers":true,"auth_required":true,"host":"127.0.0.1","port":4222,"client_id":1,"go":"","nonce":"abc"}"#;
            let _gone = write!(stream, "{info}\r\n");
            let mut said = [0; 4096];
            let _gone = stream.read(&mut said);
            let _gone = write!(stream, "-ERR 'Authorization Violation'\r\n");
        }
    });
    addr
}

#[test]
fn whoever_is_not_let_in_goes_on_asking() -> anyhow::Result<()> {
    let folder = folder();
    let (bus, http) = (nats_that_refuses(), nobody());
    let mut relay = Running::start("relay", &file_of(folder.path(), bus, http), http)?;
    relay
        .fails_with("bus", &[&bus.to_string(), "does not accept these credentials (bus.nkey_file)", "trying again"])?;
    relay.stop()
}

#[test]
fn a_configuration_is_checked_and_shown() -> anyhow::Result<()> {
    let folder = folder();
    let file = file_of(folder.path(), nobody(), nobody());
    let run = |words: &[&str], environment: &[(&str, &str)]| -> anyhow::Result<(bool, String, String)> {
        let output = breeze().args(words).arg(&file).envs(environment.iter().copied()).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.success(), text(output.stdout), text(output.stderr)))
    };
    let (ok, said, _) = run(&["config", "check"], &[])?;
    ensure!(ok && said == "ok: relay eu-1 of region eu\n", "{said}");
    let (ok, shown, _) = run(&["config", "show"], &[("BREEZE__RELAY__LANES", "7")])?;
    ensure!(ok && shown.contains("lanes = 7") && shown.contains("max_connections = 150000"), "{shown}");
    let (ok, _, error) = run(&["config", "check"], &[("BREEZE__RELAY__LANES", "70")])?;
    ensure!(!ok && error.contains("relay.lanes") && error.contains("1 to 16"), "{error}");
    let (ok, _, error) = run(&["config", "check"], &[("BREEZE__RELAY__LANES", "many")])?;
    ensure!(!ok && error.contains("BREEZE__RELAY__LANES"), "{error}");

    let seed = folder.path().join("relay.nk");
    fs::write(&seed, "SUAX")?;
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o640))?;
    let (ok, _, error) = run(&["config", "check"], &[("BREEZE__BUS__NKEY_FILE", "relay.nk")])?;
    ensure!(!ok && error.contains("bus.nkey_file") && error.contains("chmod 600"), "{error}");
    let output = breeze().args(["collector", "--config"]).arg(&file).output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && error.contains("is of relay eu-1 of region eu, not of a collector"), "{error}");
    Ok(())
}

#[test]
fn the_bus_gets_its_configuration_and_keeps_its_keys() -> anyhow::Result<()> {
    let folder = folder();
    let topology = folder.path().join("bus.toml");
    let node = |name: &str| format!("{{ name = \"{name}\", host = \"127.0.0.1\", store_dir = \"/tmp/{name}\" }}");
    fs::write(
        &topology,
        format!(
            "hub = [{}]\n[[regions]]\nname = \"eu\"\nservers = [{}]\nrelays = [\"eu-1\"]\ncollectors = [\"eu-a\"]\n",
            node("hub"),
            node("eu")
        ),
    )?;
    let out = folder.path().join("bus");
    let write = || breeze().args(["bus-config", "--topology"]).arg(&topology).arg("--out").arg(&out).output();
    let output = write()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["hub.conf", "eu.conf", "relay-eu-1.nk", "collector-eu-a.nk", "control-plane.nk", "migrate.nk"] {
        let mode = fs::metadata(out.join(name)).with_context(|| name.to_owned())?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{name}: {mode:o}");
    }
    let seed = fs::read_to_string(out.join("relay-eu-1.nk"))?;
    ensure!(write()?.status.success() && fs::read_to_string(out.join("relay-eu-1.nk"))? == seed, "keys stay");
    Ok(())
}
