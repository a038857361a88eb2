//! A running Breeze with one agent of this machine: what `up` shows and what the browser tests use.

use crate::process::{Running, cargo, command, run, say};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

/// What `breeze up --ready-file` writes when everything answers.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ready {
    pub(crate) dashboard: String,
    /// Only until the first person has been set up.
    pub(crate) setup_url: Option<String>,
    enrollment_key: String,
}

#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) ready: Ready,
    pub(crate) ready_file: PathBuf,
    // The agent goes first: fields are dropped in order.
    agent: Running,
    server: Running,
}

/// How long `breeze up` may take until everything answers.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Folder of the binaries of the development profile.
pub(crate) fn binaries(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("debug")
}

/// Builds every binary: always by this one command, so that one set of artifacts serves them all.
pub(crate) fn build(root: &Path) -> anyhow::Result<()> {
    run(cargo(&["build", "--workspace", "--bins"], root))
}

impl Stack {
    /// Starts `breeze up` on `data` and enrols and starts an agent beside it.
    pub(crate) fn start(root: &Path, data: &Path, listen: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(data)?;
        let binaries = binaries(root);
        let ready_file = data.join("ready.json");
        let _absent = fs::remove_file(&ready_file);
        let mut up = command(binaries.join("breeze"), &["up", "--listen", listen], root);
        up.arg("--data").arg(data.join("server")).arg("--ready-file").arg(&ready_file);
        up.arg("--agent-binaries").arg(agent_binaries(data, &binaries)?);
        up.stderr(log_file(&data.join("breeze.log"))?);
        let mut server = Running::start("breeze", up)?;
        let ready = wait_ready(&mut server, &ready_file)
            .with_context(|| format!("see {}", data.join("breeze.log").display()))?;
        let agent = start_agent(&binaries.join("breeze-agent"), root, data, &ready)?;
        Ok(Self { ready, ready_file, agent, server })
    }

    /// An error when one of the two has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.server.check()?;
        self.agent.check()
    }
}

/// A folder as the installer wants it, with the agent that was just built.
fn agent_binaries(data: &Path, binaries: &Path) -> anyhow::Result<PathBuf> {
    let folder = data.join("agent-binaries");
    fs::create_dir_all(&folder)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let link = folder.join(format!("breeze-agent-linux-{architecture}"));
    let _absent = fs::remove_file(&link);
    std::os::unix::fs::symlink(binaries.join("breeze-agent"), &link)?;
    Ok(folder)
}

fn start_agent(agent: &Path, root: &Path, data: &Path, ready: &Ready) -> anyhow::Result<Running> {
    let state = data.join("agent");
    let log = data.join("breeze-agent.log");
    if !state.exists() {
        // The key goes by a file that only we can read, never by the command line.
        let key_file = data.join("enrollment.key");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        std::io::Write::write_all(&mut options.open(&key_file)?, ready.enrollment_key.as_bytes())?;
        let mut enroll = command(agent, &["enroll", "--server", &ready.dashboard], root);
        enroll.arg("--key-file").arg(&key_file).arg("--state").arg(&state);
        enroll.stdout(log_file(&log)?).stderr(log_file(&log)?);
        let enrolled = run(enroll);
        fs::remove_file(&key_file)?;
        enrolled.with_context(|| format!("see {}", log.display()))?;
    }
    let mut command = command(agent, &["run"], root);
    command.arg("--state").arg(&state).stdout(Stdio::null()).stderr(log_file(&log)?);
    Running::start("breeze-agent", command)
}

fn log_file(path: &Path) -> anyhow::Result<fs::File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

fn wait_ready(server: &mut Running, file: &Path) -> anyhow::Result<Ready> {
    let until = Instant::now() + READY_DEADLINE;
    while Instant::now() < until {
        server.check()?;
        // Written whole and renamed into place: what is there is complete.
        if let Ok(text) = fs::read_to_string(file) {
            return serde_json::from_str(&text).with_context(|| format!("{}", file.display()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    say("breeze up is not ready");
    bail!("breeze up did not get ready within {READY_DEADLINE:?}")
}
