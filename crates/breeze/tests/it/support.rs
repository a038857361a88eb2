//! A Breeze and its agents as processes, and the API as a person's client would use it.

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const EMAIL: &str = "ada@example.com";
pub const PASSWORD: &str = "correct horse battery staple";

/// A program of the workspace, built beside this test.
pub fn program(name: &str) -> PathBuf {
    let breeze = PathBuf::from(env!("CARGO_BIN_EXE_breeze"));
    let path = breeze.with_file_name(name);
    assert!(path.exists(), "{} is not built: cargo build --workspace --bins", path.display());
    path
}

/// Polls until `probe` gives something, or fails with what was waited for.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match probe().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if Instant::now() < until => {}
            Err(_not_yet) if Instant::now() < until => {}
            Ok(None) => bail!("{what}: not within {PATIENCE:?}"),
            Err(error) => return Err(error.context(format!("{what}: not within {PATIENCE:?}"))),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A child that is killed when the test ends, however it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill_9(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).context("pid")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// SIGTERM; it must end by itself, well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("did not stop within {PATIENCE:?}")
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// A server with its data folder, and a signed-in client.
#[derive(Debug)]
pub struct System {
    pub folder: TempDir,
    pub server: Process,
    pub ready: Value,
    client: reqwest::Client,
    csrf: String,
}

impl System {
    /// Starts on fresh data and goes through the set-up link.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("breeze-it-").tempdir()?;
        let (server, ready) = launch(folder.path(), &[])?;
        breeze_runtime::tls::install_provider();
        let client = reqwest::Client::builder().cookie_store(true).timeout(Duration::from_secs(30)).build()?;
        let mut system = Self { folder, server, ready, client, csrf: String::new() };
        system.set_up().await?;
        Ok(system)
    }

    async fn set_up(&mut self) -> anyhow::Result<()> {
        let url = self.ready["setup_url"].as_str().context("no set-up link")?;
        let (_, token) = url.split_once("#token=").context("the link carries no token")?;
        let body = json!({ "token": token, "name": "Ada", "email": EMAIL, "password": PASSWORD });
        let (status, session) = self.call(Method::POST, "/setup", Some(body), &[]).await?;
        anyhow::ensure!(status == StatusCode::CREATED, "set-up: {status} {session}");
        self.csrf = session["csrf_token"].as_str().context("no CSRF token")?.to_owned();
        Ok(())
    }

    /// Starts the server again on the same data, and waits until it answers.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        (self.server, self.ready) = launch(self.folder.path(), &[])?;
        Ok(())
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.api());
        let mut request = self.client.request(method, url).header("x-csrf-token", &self.csrf);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, body) = self.call(Method::GET, path, None, &[]).await?;
        anyhow::ensure!(status == StatusCode::OK, "GET {path}: {status} {body}");
        Ok(body)
    }

    /// Base of the API, without a trailing slash.
    pub fn api(&self) -> &str {
        self.ready["api"].as_str().unwrap_or_default().trim_end_matches('/')
    }

    pub fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    /// The only device, once `accept` likes it.
    pub async fn device_that(&self, what: &str, accept: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        eventually(what, async || {
            let page = self.get("/devices").await?;
            Ok(page["data"].get(0).filter(|device| accept(device)).cloned())
        })
        .await
    }

    /// Enrols and starts an agent whose state lies in `name`.
    pub fn agent(&self, name: &str) -> anyhow::Result<Agent> {
        let agent = Agent { state: self.folder.path().join(name), process: None };
        let key_file = self.folder.path().join(format!("{name}.key"));
        let key = self.ready["enrollment_key"].as_str().context("no enrolment key")?;
        let mut options = OpenOptions::new();
        std::io::Write::write_all(
            &mut options.write(true).create_new(true).mode(0o600).open(&key_file)?,
            key.as_bytes(),
        )?;
        let base = self.ready["dashboard"].as_str().context("no address")?;
        let output = Command::new(program("breeze-agent"))
            .args(["enroll", "--server", base, "--key-file"])
            .arg(&key_file)
            .arg("--state")
            .arg(&agent.state)
            .stdin(Stdio::null())
            .output()?;
        fs::remove_file(key_file)?;
        anyhow::ensure!(output.status.success(), "enroll: {}", String::from_utf8_lossy(&output.stderr));
        Ok(agent)
    }
}

fn launch(folder: &Path, more: &[&str]) -> anyhow::Result<(Process, Value)> {
    let ready_file = folder.join("ready.json");
    let _absent = fs::remove_file(&ready_file);
    let mut command = Command::new(program("breeze"));
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(folder.join("server"));
    command.arg("--ready-file").arg(&ready_file).args(more);
    let log = folder.join("breeze.log");
    let mut server = Process::start(&mut command, &log)?;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Ok(text) = fs::read_to_string(&ready_file) {
            return Ok((server, serde_json::from_str(&text)?));
        }
        if server.has_ended() {
            bail!("breeze up ended: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("breeze up is not ready: {}", fs::read_to_string(&log).unwrap_or_default())
}

/// An enrolled agent.
#[derive(Debug)]
pub struct Agent {
    pub state: PathBuf,
    pub process: Option<Process>,
}

impl Agent {
    pub fn run(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(program("breeze-agent"));
        command.arg("run").arg("--state").arg(&self.state);
        self.process = Some(Process::start(&mut command, &self.state.with_extension("log"))?);
        Ok(())
    }

    pub fn running(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().context("the agent was not started")
    }

    /// `breeze-agent status --json`
    pub fn status(&self) -> anyhow::Result<Value> {
        let output = Command::new(program("breeze-agent"))
            .args(["status", "--json", "--state"])
            .arg(&self.state)
            .stdin(Stdio::null())
            .output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("status: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
