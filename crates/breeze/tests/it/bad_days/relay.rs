//! A relay with its control plane and an agent: its certificate has ended while it was off, the clocks
//! differ, its lane's stream is full.

use super::{ask, folder, name_of_its_own};
use crate::{
    clocks::faketime,
    support::{
        agent::Agent,
        process::skip,
        role::{Engines, Running, eventually, nobody, relay_file, run_breeze, tools},
    },
};
use anyhow::{Context, ensure};
use breeze_testkit::servers::{Nats, Tools, shared_cql};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Hub and region on NATS, state on CQL of its own prefix, nothing for metrics.
struct World {
    folder: PathBuf,
    region: Nats,
    _hub: Nats,
    control_file: PathBuf,
    control_http: SocketAddr,
    relay_file: PathBuf,
    relay_http: SocketAddr,
}

impl World {
    fn prepare(tools: &Tools, cql: &str, folder: &Path) -> anyhow::Result<Self> {
        let (hub, mut leaves) = Nats::hub_and_leaves(tools, folder, &["eu"])?;
        let region = leaves.pop().context("a leaf")?;
        let mut engines = Engines::nowhere();
        engines.bus_at(&hub.url(), "max_stream_mib = 64");
        let prefix = name_of_its_own("days");
        engines.state_at(cql, "dc1", &format!("keyspace_prefix = \"{prefix}\""));
        let (control_http, relay_http) = (nobody(), nobody());
        let control_file = engines.control_plane_file(folder.join("control-plane.toml"), control_http);
        run_breeze(&["migrate", "--lanes", "1", "--only", "bus", "--only", "state"], &control_file)?;
        let (folder, relay_file) = (folder.to_owned(), folder.join("relay.toml"));
        Ok(Self { folder, region, _hub: hub, control_file, control_http, relay_file, relay_http })
    }

    fn control(&self, environment: &[(&str, &str)]) -> anyhow::Result<Running> {
        let _fresh = fs::remove_file(self.control_file.with_extension("ready"));
        Running::start_with("control-plane", &self.control_file, self.control_http, environment)
    }

    fn relay(&self, environment: &[(&str, &str)]) -> anyhow::Result<Running> {
        Running::start_with("relay", &self.relay_file, self.relay_http, environment)
    }

    /// What the control plane wrote when it was ready.
    fn ready(&self, control: &mut Running) -> anyhow::Result<Value> {
        control.ready()?;
        let path = self.control_file.with_extension("ready");
        let text = eventually("a ready file", || fs::read_to_string(&path).ok().filter(|text| text.ends_with('}')))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn register_relay(&self, instance_ca: &str) -> anyhow::Result<()> {
        let listen = nobody();
        relay_file(self.relay_file.clone(), &self.region.url(), self.relay_http, instance_ca, listen);
        let listen = listen.to_string();
        let words = ["admin", "add-relay", "--id", "eu-1", "--region", "eu", "--quic", &listen, "--wss", &listen];
        run_breeze(&words, &self.control_file).map(drop)
    }

    /// Fills the lane's stream to the last hundred bytes.
    fn fill_lane(&self) -> anyhow::Result<()> {
        for size in [1 << 20, 64 << 10, 4 << 10, 256, 1] {
            let payload = vec![b'x'; size];
            while ask(self.region.ports.client, "lane.eu.0", &payload)?["error"].is_null() {}
        }
        Ok(())
    }

    fn empty_lane(&self) -> anyhow::Result<()> {
        let answer = ask(self.region.ports.client, "$JS.eu.API.STREAM.PURGE.lane_eu_0", b"")?;
        ensure!(answer["success"] == true, "{answer}");
        Ok(())
    }
}

#[tokio::test]
async fn a_certificate_that_has_ended_and_a_stream_that_is_full() -> anyhow::Result<()> {
    let Some(tools) = tools(|tools| tools.nats_server().is_some()) else { return Ok(()) };
    let Some(cql) = shared_cql() else { return skip("BREEZE_TEST_CQL is not set: cargo xtask test does") };
    let Some(library) = faketime() else { return skip("libfaketime is not installed") };
    let library = library.display().to_string();
    let clock = |offset| {
        [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ]
    };
    let home = folder()?;
    let world = World::prepare(&tools, &cql, home.path())?;

    // Forty days ago: the first start of both, and then nothing.
    let mut control = world.control(&clock("-40d"))?;
    let ready = world.ready(&mut control)?;
    world.register_relay(ready["instance_ca"].as_str().context("instance_ca")?)?;
    let mut relay = world.relay(&clock("-40d"))?;
    relay.component_that("certificate", |state, _| state == "ready")?;
    relay.stop()?;
    control.stop()?;

    // Today, the relay first.
    let mut relay = world.relay(&[])?;
    let words = ["no control plane answers for the relay eu-1", "the one that was kept is of no use", "it ended 20"];
    relay.fails_with("certificate", &words)?;
    let mut control = world.control(&[])?;
    let ready = world.ready(&mut control)?;
    relay.ready().context("renewed")?;
    // A region without metrics keeps nobody from the control plane, and is told.
    control
        .component_that("metrics.eu", |state, message| state == "degraded" && message.contains("http://127.0.0.1"))?;

    let mut agent = Agent::new(world.folder.join("agent"));
    let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
    agent.enroll(&text("dashboard"), &text("enrollment_key"))?;
    world.fill_lane()?;
    agent.run()?;
    relay.fails_with("lanes", &["agents are not acknowledged", "lane.eu.0", "is full"])?;
    agent.status_that("heartbeats wait", |status| status["spooled"].as_u64() >= Some(2)).await?;
    world.empty_lane()?;
    relay.ready().context("room again")?;
    agent.has_delivered().await?;
    agent.stop()?;
    relay.stop()?;

    // A relay whose clock is two months ahead must not go round in circles without a word.
    let mut relay = world.relay(&clock("+60d"))?;
    relay.fails_with("certificate", &["compare the clocks of both machines"])?;
    relay.stop()?;
    control.stop()
}
