//! `cargo xtask up --distributed` and `cargo xtask chaos`: every role as a process of its own, on real servers.

use crate::{
    install,
    process::{say, step},
    servers, stack, web,
};
use anyhow::{Context, bail};
use breeze_testkit::{
    deployment::{
        Deployment, Options,
        chaos::{self, Round},
        fleet::Fleet,
    },
    servers::{Process, Tools},
};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// Agents of this machine that `up --distributed` starts.
const AGENTS: usize = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(crate) struct ChaosArguments {
    /// Repeats a schedule of faults; without it a new one is chosen and printed
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults strike
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Agents of each region
    #[arg(long, default_value_t = 20)]
    agents: usize,
    /// NATS servers of each region: 1 or 3
    #[arg(long, default_value_t = 1)]
    nats: usize,
    /// Folder of programs that are built already [default: they are built]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Everything that a deployment needs, or what is missing.
pub(crate) fn tools(root: &Path) -> anyhow::Result<Tools> {
    install::test_packages()?;
    let tools = install::servers(root)?;
    if tools.nats_server().is_none() || tools.clickhouse().is_none() || tools.cassandra().is_none() {
        bail!("NATS, ClickHouse's engine or Cassandra could not be installed; see above");
    }
    Ok(tools)
}

/// Starts two regions and shows them until Ctrl-C.
pub(crate) fn up(root: &Path, data: Option<&Path>, listen: &str) -> anyhow::Result<()> {
    step("1/3 Dashboard and servers");
    web::build(root)?;
    let tools = tools(root)?;
    step("2/3 Server and agent (the first build takes some minutes)");
    stack::build(root)?;
    step("3/3 Starting");
    let started = Instant::now();
    let stopped = crate::up::stop_flag()?;
    let data = data.map_or_else(|| root.join(".breeze-distributed"), Path::to_path_buf);
    if data.exists() {
        bail!("{} is there: a distributed system is started fresh each time; delete it first", data.display());
    }
    let listen: SocketAddr = listen.parse().with_context(|| format!("--listen {listen}"))?;
    let options = Options { heartbeat_interval_s: 10, listen, ..Options::new(&stack::binaries(root)) };
    let mut deployment = Deployment::start(&tools, &data, options)?;
    let ready = deployment.ready()?;
    let mut agents = Vec::new();
    for number in 1..=AGENTS {
        agents.push(agent(&deployment, number)?);
    }
    say(&format!("\nA distributed Breeze is up after {:.0?}:\n", started.elapsed()));
    for (name, pid, log) in deployment.processes() {
        say(&format!("  {name:<18} pid {:<8} {}", pid.unwrap_or_default(), log.display()));
    }
    for agent in &agents {
        say(&format!("  {:<18} pid {:<8} {}", agent.name(), agent.pid().unwrap_or_default(), agent.log().display()));
    }
    match ready["setup_url"].as_str() {
        Some(url) => say(&format!("\n  Choose your password here (works once):\n\n    {url}\n")),
        None => say(&format!("\n  Dashboard:  {}\n", ready["dashboard"].as_str().unwrap_or_default())),
    }
    say("  The page System shows every role. Ctrl-C stops everything; data and logs are kept.\n");
    while !stopped.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_AGAIN);
    }
    say("\nStopping …");
    agents.iter_mut().try_for_each(|agent| agent.stop().map(drop))?;
    deployment.stop()
}

/// A real agent of this machine, enrolled and running.
fn agent(deployment: &Deployment, number: usize) -> anyhow::Result<Process> {
    let ready = deployment.ready()?;
    let text = |name: &str| ready[name].as_str().with_context(|| format!("the ready file has no {name}"));
    let (state, key) = (deployment.folder.join(format!("agent-{number}")), deployment.folder.join("enrollment.key"));
    let log = deployment.folder.join(format!("agent-{number}.log"));
    // The key goes by a file that only we can read, never by the command line.
    fs::write(&key, "")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    fs::write(&key, text("enrollment_key")?)?;
    let program = deployment.program("breeze-agent");
    let mut enroll = Command::new(&program);
    enroll.args(["enroll", "--server", text("dashboard")?, "--key-file"]).arg(&key).arg("--state").arg(&state);
    let output = enroll.stdin(Stdio::null()).output().context("breeze-agent enroll")?;
    fs::remove_file(&key)?;
    if !output.status.success() {
        bail!("breeze-agent enroll: {}", String::from_utf8_lossy(&output.stderr));
    }
    let words = [program.into_os_string(), "run".into(), "--state".into(), state.into_os_string()];
    let mut agent = Process::new(&format!("agent {number}"), words, &log);
    agent.start()?;
    Ok(agent)
}

/// Faults by a seed, and the books at the end.
pub(crate) fn chaos(root: &Path, arguments: &ChaosArguments) -> anyhow::Result<()> {
    let tools = tools(root)?;
    let programs = match &arguments.programs {
        Some(programs) => programs.clone(),
        None => stack::build(root).map(|()| stack::binaries(root))?,
    };
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 ^ now_ms());
    step(&format!("Chaos for {} min, seed {seed}", arguments.minutes));
    let folder = servers::data_folder()?;
    let result = torment(&tools, folder.path(), &programs, seed, arguments);
    if result.is_err() {
        say(&format!("logs are kept in {}", folder.keep().display()));
    }
    result.with_context(|| format!("again with: cargo xtask chaos --seed {seed} --minutes {}", arguments.minutes))
}

fn torment(tools: &Tools, folder: &Path, programs: &Path, seed: u64, arguments: &ChaosArguments) -> anyhow::Result<()> {
    let options = Options { nats_servers: arguments.nats, ..Options::new(programs) };
    let mut deployment = Deployment::start(tools, folder, options)?;
    let mut fleets = Vec::new();
    for region in deployment.options.regions.clone() {
        fleets.push(Fleet::start(&deployment, &region, arguments.agents)?);
    }
    let mut tell = |round: &Round| {
        let Round { faults, held, recovery } = round;
        say(&format!(
            "{faults:?} for {:.1} s: acknowledged again after {:.1} s, all of it stored after {:.1} s",
            held.as_secs_f64(),
            recovery.acknowledged_after.as_secs_f64(),
            recovery.stored_after.as_secs_f64(),
        ));
    };
    let length = Duration::from_secs(arguments.minutes * 60);
    let verdicts = chaos::run(&mut deployment, &mut fleets, seed, length, &mut tell)?;
    for (fleet, verdict) in fleets.iter().zip(verdicts) {
        say(&format!("{}: {} acknowledged, each stored once ({verdict:?})", fleet.region, verdict.acknowledged));
    }
    Ok(())
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}
