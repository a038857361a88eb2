//! `cargo xtask bench distributed`: a whole distributed system under load, some sizes of the fleet in turn.

use crate::{
    distributed::tools,
    process::{self, command, say, step},
};
use anyhow::Context;
use breeze_testkit::{
    deployment::{DATABASE, Deployment, Options},
    servers::Process,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Agents to hold, one number after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000, 20_000])]
    agents: Vec<u32>,
    /// How often all the numbers are gone through; the medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds between two heartbeats of an agent
    #[arg(long, default_value_t = 10)]
    interval: u32,
    /// Seconds to measure each number, after everybody is connected
    #[arg(long, default_value_t = 40)]
    seconds: u32,
    /// Seconds after that in which heartbeats are followed until they are queryable
    #[arg(long, default_value_t = 30)]
    queryable: u32,
    /// Regions, between which the agents are divided; a NATS, a ClickHouse and a Cassandra each
    #[arg(long, value_delimiter = ',', default_value = "eu")]
    regions: Vec<String>,
    /// Collectors of each region
    #[arg(long, default_value_t = 2)]
    collectors: usize,
    /// Measure the API's latencies as well
    #[arg(long)]
    api: bool,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the servers keep their data while it runs [default: a new temporary folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of programs that are built already [default: they are built with optimisation]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Hold everything until Enter is pressed before the load begins: for a profiler
    #[arg(long)]
    wait: bool,
}

/// Processes under the names by which their figures go.
fn label(process: &Process) -> anyhow::Result<String> {
    // "collector-eu-1" and "cassandra dc1" are one of several.
    let name = process.name();
    let kind = ["control-plane", "collector", "relay", "nats", "clickhouse", "cassandra"];
    let kind = kind.into_iter().find(|kind| name.starts_with(kind)).unwrap_or(name);
    let kind = match kind {
        "clickhouse" => "ClickHouse's engine",
        "cassandra" => "Cassandra",
        "nats" => "NATS",
        other => other,
    };
    Ok(format!("{kind}={}", process.pid().with_context(|| format!("{name} does not run"))?))
}

pub(super) fn run(root: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let programs = arguments.programs.clone().map_or_else(|| super::build(root), Ok)?;
    let tools = tools(root)?;
    step("Starting servers and roles");
    let temporary = tempfile::Builder::new().prefix("breeze-bench-").tempdir()?;
    let folder = arguments.data.clone().unwrap_or_else(|| temporary.path().join("data"));
    let options = Options {
        regions: arguments.regions.clone(),
        collectors: arguments.collectors,
        control_planes: 1,
        two_datacenters: arguments.regions.len() > 1,
        heartbeat_interval_s: arguments.interval,
        ..Options::new(&programs)
    };
    let mut deployment = Deployment::start(&tools, &folder, options)
        .inspect_err(|_| say(&format!("logs are in {}", folder.display())))?;
    for (name, pid, _) in deployment.processes() {
        say(&format!("  {name:<18} pid {}", pid.unwrap_or_default()));
    }
    if arguments.wait {
        say("Enter begins the load");
        std::io::stdin().read_line(&mut String::new())?;
    }
    step(&format!("{:?} agents at {} s for {} s", arguments.agents, arguments.interval, arguments.seconds));
    let result = process::run(load(root, arguments, &deployment)?).context("load");
    let stopped = deployment.stop();
    if result.is_err() || stopped.is_err() {
        say(&format!("logs are kept in {}", temporary.keep().display()));
    }
    result.and(stopped)?;
    super::remind();
    Ok(())
}

fn load(root: &Path, arguments: &Arguments, deployment: &Deployment) -> anyhow::Result<std::process::Command> {
    let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut load = command(deployment.program("breeze-loadtest"), &["agents"], root);
    load.args(["--count", &list(&arguments.agents), "--rounds", &arguments.rounds.to_string()]);
    load.args(["--interval", &arguments.interval.to_string(), "--seconds", &arguments.seconds.to_string()]);
    load.args(["--queryable", &arguments.queryable.to_string()]);
    load.args(["--region", &arguments.regions.join(",")]);
    load.arg("--ready-file").arg(&deployment.ready_file);
    for role in &deployment.control_planes {
        load.args(["--process", &label(&role.process)?]);
    }
    let mut beside = vec![&deployment.hub.process];
    beside.extend(deployment.cassandra.iter().map(|node| &node.process));
    for region in &deployment.regions {
        for role in region.collectors.iter().chain([&region.relay]) {
            load.args(["--process", &label(&role.process)?]);
        }
        beside.extend(region.nats.iter().map(|server| &server.process));
        beside.push(&region.clickhouse.process);
        load.args(["--clickhouse", &format!("{}/{DATABASE}", region.clickhouse.url())]);
    }
    for process in beside {
        load.args(["--beside", &label(process)?]);
    }
    if !arguments.api {
        load.arg("--no-api");
    }
    if let Some(json) = &arguments.json {
        load.arg("--json").arg(json);
        fs::write(json, "").with_context(|| format!("cannot write {}", json.display()))?;
    }
    Ok(load)
}
