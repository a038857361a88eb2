//! One role as a process, with a configuration of the test's own, and what it answers about its health.

use super::process::program;
use anyhow::{Context, ensure};
use breeze_testkit::servers::Tools;
use serde_json::Value;
use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take on a busy machine before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// A fingerprint of no authority.
pub(crate) const PIN: &str = "aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00";

pub(crate) fn breeze() -> Command {
    Command::new(program("breeze"))
}

/// Runs a subcommand to its end; what it printed. Fails, with its words, if it does.
pub(crate) fn run_breeze(words: &[&str], file: &Path) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } = breeze().args(words).arg("--config").arg(file).output()?;
    let (said, logged) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "breeze {words:?}: {said}{logged}");
    Ok(said.into_owned())
}

/// An address that nobody listens on.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// The tools, if those of `wanted` are there; else `None`, having said so.
pub(crate) fn tools(wanted: impl Fn(&Tools) -> bool) -> Option<Tools> {
    let tools = Tools::find().filter(wanted);
    if tools.is_none() {
        breeze_testkit::servers::skip("a server is not installed: cargo xtask test installs them");
    }
    tools
}

/// The relay `eu-1`, which believes the authority `instance_ca` and listens on the same port over UDP and TCP.
pub(crate) fn relay_file(
    path: PathBuf,
    server: &str,
    http: SocketAddr,
    instance_ca: &str,
    listen: SocketAddr,
) -> PathBuf {
    let text = format!(
        "region = \"eu\"\n[http]\nlisten = \"{http}\"\n[bus]\nservers = [\"{server}\"]\ndomain = \"eu\"\n\
         max_stream_mib = 64\n[relay]\nid = \"eu-1\"\ninstance_ca = \"{instance_ca}\"\nquic_listen = \"{listen}\"\n\
         wss_listen = \"{listen}\"\nlanes = 1\ndata = \"relay\"\ndrain_ms = 200\n"
    );
    write(path, &text)
}

/// Where a collector's or a control plane's engines are, as lines of its sections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Engines {
    pub(crate) bus: String,
    pub(crate) state: String,
    pub(crate) metrics: String,
}

impl Engines {
    /// Nobody listens anywhere; the state has its own keyspaces.
    pub(crate) fn nowhere() -> Self {
        let mut engines = Self::default();
        engines.bus_at(&format!("nats://{}", nobody()), "");
        engines.state_at(nobody(), "dc1", "");
        engines.metrics_at(&format!("http://{}", nobody()), "");
        engines
    }

    pub(crate) fn bus_at(&mut self, server: &str, more: &str) {
        self.bus = format!("servers = [\"{server}\"]\n{more}");
    }

    pub(crate) fn state_at(&mut self, node: impl std::fmt::Display, datacenter: &str, more: &str) {
        self.state = format!(
            "contact_points = [\"{node}\"]\ndatacenter = \"{datacenter}\"\nreplication = {{ {datacenter} = 1 }}\n{more}"
        );
    }

    pub(crate) fn metrics_at(&mut self, url: &str, more: &str) {
        self.metrics = format!("url = \"{url}\"\n{more}");
    }

    /// The collector `eu-a`.
    pub(crate) fn collector_file(&self, path: PathBuf, http: SocketAddr) -> PathBuf {
        let Self { bus, state, metrics } = self;
        let text = format!(
            "region = \"eu\"\n[http]\nlisten = \"{http}\"\n[bus]\ndomain = \"eu\"\n{bus}\n[state]\n{state}\n\
             [metrics]\n{metrics}\n[collector]\nid = \"eu-a\"\nlanes = 1\n"
        );
        write(path, &text)
    }

    /// The control plane `cp-1`.
    pub(crate) fn control_plane_file(&self, path: PathBuf, http: SocketAddr) -> PathBuf {
        let Self { bus, state, metrics } = self;
        let text = format!(
            "region = \"eu\"\n[http]\nlisten = \"{http}\"\n[bus]\ndomain = \"global\"\n{bus}\n[state]\n{state}\n\
             [metrics.regions.eu]\n{metrics}\n[control_plane]\nid = \"cp-1\"\nlisten = \"127.0.0.1:0\"\ntls = \"none\"\n\
             data = \"control-plane\"\nheartbeat_interval_s = 1\n"
        );
        write(path, &text)
    }
}

fn write(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).expect("written");
    path
}

/// A role that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    http: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Running {
    /// Its file says that it answers on `http`; the log is beside the file, and goes on when it is started again.
    pub(crate) fn start(role: &str, file: &Path, http: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with(role, file, http, &[])
    }

    pub(crate) fn start_with(
        role: &str,
        file: &Path,
        http: SocketAddr,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let log = file.with_extension("log");
        let stderr = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = breeze();
        command.arg(role).arg("--config").arg(file).arg("--ready-file").arg(file.with_extension("ready"));
        command.envs(environment.iter().copied()).env("NO_COLOR", "1").stderr(stderr).stdout(Stdio::null());
        Ok(Self { child: command.spawn()?, log, http })
    }

    pub(crate) fn pid(&self) -> anyhow::Result<rustix::process::Pid> {
        rustix::process::Pid::from_raw(i32::try_from(self.child.id())?).context("a pid")
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its code and everything it said.
    pub(crate) fn ended(&mut self) -> anyhow::Result<(Option<i32>, String)> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status.code(), self.said()));
            }
            ensure!(Instant::now() < until, "it goes on: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        rustix::process::kill_process(self.pid()?, rustix::process::Signal::TERM)?;
        let (code, said) = self.ended()?;
        ensure!(code == Some(0), "asked to stop, it ended with {code:?}: {said}");
        Ok(())
    }

    /// Status and body of an answer.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.http, path)
    }

    /// Once a component's line in `/readyz` is liked: its state and message. Meanwhile it lives, and says so.
    pub(crate) fn component_that(
        &mut self,
        name: &str,
        accept: impl Fn(&str, &str) -> bool,
    ) -> anyhow::Result<(String, String)> {
        let until = Instant::now() + PATIENCE;
        loop {
            ensure!(self.child.try_wait()?.is_none(), "it ended: {}", self.said());
            let body = self.get("/readyz").map(|(_, body)| body).unwrap_or_default();
            let body: Value = serde_json::from_str(&body).unwrap_or_default();
            let components = body["components"].as_array().cloned().unwrap_or_default();
            let found = components.iter().find(|component| component["name"] == name);
            if let Some(found) = found {
                let (state, message) =
                    (found["state"].as_str().unwrap_or_default(), found["message"].as_str().unwrap_or_default());
                if accept(state, message) {
                    ensure!(self.get("/healthz").context("healthz")?.0 == 200, "it lives");
                    return Ok((state.to_owned(), message.to_owned()));
                }
            }
            ensure!(Instant::now() < until, "{name} does not get so: {body}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Once a component says that it does not work, with all of these words, also in the log.
    pub(crate) fn fails_with(&mut self, component: &str, words: &[&str]) -> anyhow::Result<String> {
        let (_, message) = self.component_that(component, |state, message| {
            state == "failing" && words.iter().all(|word| message.contains(word))
        })?;
        ensure!(self.get("/readyz").context("readyz")?.0 == 503, "it is not ready");
        // Words that change quickly are logged a moment later.
        let told =
            |said: &str| said.lines().any(|line| line.contains("WARN") && words.iter().all(|word| line.contains(word)));
        eventually("a line of the log", || told(&self.said()).then_some(()))
            .with_context(|| format!("{words:?} are not in:\n{}", self.said()))?;
        Ok(message)
    }

    /// Once it is ready altogether.
    pub(crate) fn ready(&mut self) -> anyhow::Result<()> {
        eventually("ready", || {
            let ended = self.child.try_wait().ok().flatten().is_some();
            self.get("/readyz").filter(|(status, _)| *status == 200 || ended).map(drop)
        })
        .with_context(|| format!("{:?}\n{}", self.get("/readyz"), self.said()))
    }
}

/// Status and body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

pub(crate) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return Ok(value);
        }
        ensure!(Instant::now() < until, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}
