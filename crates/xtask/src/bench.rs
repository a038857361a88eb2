//! `cargo xtask bench`: the whole pipeline under real load on this machine.

use crate::process::{self, Running, cargo, command, say, step};
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

mod distributed;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    system: Option<System>,
    /// Agents to hold
    #[arg(long, default_value_t = 10_000)]
    agents: u32,
    /// Seconds between two heartbeats of an agent
    #[arg(long, default_value_t = 10)]
    interval: u32,
    /// Seconds to measure, after everybody is connected
    #[arg(long, default_value_t = 120)]
    seconds: u32,
}

#[derive(Debug, clap::Subcommand)]
enum System {
    /// Every role as a process of its own, on NATS, ClickHouse's engine and Cassandra.
    Distributed(distributed::Arguments),
}

impl Arguments {
    /// The load of the first marks: 10,000 agents at 10 s.
    pub(crate) const fn marks() -> Self {
        Self { system: None, agents: 10_000, interval: 10, seconds: 60 }
    }
}

/// Builds what is measured; the folder of the programs.
fn build(root: &Path) -> anyhow::Result<PathBuf> {
    step("Building with optimisation");
    process::run(cargo(&["build", "--profile", "bench", "-p", "breeze", "-p", "breeze-loadtest"], root))?;
    Ok(crate::stack::binaries(root).with_file_name("release"))
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(System::Distributed(arguments)) = &arguments.system {
        return distributed::run(root, arguments);
    }
    let binaries = build(root)?;
    let data = tempfile::Builder::new().prefix("breeze-bench-").tempdir()?;
    let ready = data.path().join("ready.json");
    let mut up = command(binaries.join("breeze"), &["up", "--listen", "127.0.0.1:0"], root);
    up.arg("--data").arg(data.path().join("server")).arg("--ready-file").arg(&ready);
    up.stderr(fs::File::create(data.path().join("breeze.log"))?);
    let mut server = Running::start("breeze", up)?;
    let until = Instant::now() + Duration::from_secs(60);
    while !ready.exists() {
        server.check()?;
        if Instant::now() > until {
            bail!("breeze up did not get ready; see {}", data.keep().join("breeze.log").display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    step(&format!("{} agents at {} s for {} s", arguments.agents, arguments.interval, arguments.seconds));
    let mut load = command(binaries.join("breeze-loadtest"), &["agents"], root);
    load.args(["--count", &arguments.agents.to_string(), "--interval", &arguments.interval.to_string()]);
    load.args(["--seconds", &arguments.seconds.to_string(), "--server-pid", &server.child.id().to_string()]);
    load.arg("--ready-file").arg(&ready);
    process::run(load).context("load")?;
    remind();
    Ok(())
}

fn remind() {
    say("figures belong into docs/performance.md, with this command and the machine's noise");
}
