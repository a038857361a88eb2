//! A Breeze and its agents as processes, and the API as a person's client would use it.

pub(crate) mod agent;
pub(crate) mod books;
pub(crate) mod disk;
pub(crate) mod load;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod role;

use agent::Agent;
use anyhow::{Context, bail};
use books::Books;
use process::{PATIENCE, Process, eventually, program};
use reqwest::{Certificate, Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The account that the load generator uses too.
pub(crate) const EMAIL: &str = "load@example.com";
pub(crate) const PASSWORD: &str = "a long enough load test password";

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How a server is started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) listen: &'static str,
    pub(crate) more: Vec<&'static str>,
    /// Somewhere else than in the test's own folder.
    pub(crate) data: Option<PathBuf>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0", more: Vec::new(), data: None, environment: Vec::new() }
    }
}

impl Options {
    /// Agents heartbeat each second.
    pub(crate) fn quick() -> Self {
        Self { more: vec!["--heartbeat-interval", "1"], ..Self::default() }
    }
}

/// A server with its data folder, and a signed-in client.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) folder: TempDir,
    pub(crate) server: Process,
    pub(crate) ready: Value,
    pub(crate) options: Options,
    client: reqwest::Client,
    csrf: String,
}

impl System {
    /// Starts on fresh data and goes through the set-up link.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("breeze-it-").tempdir()?;
        let (server, ready) = launch(folder.path(), &options)?;
        breeze_runtime::tls::install_provider();
        let client = client(ready["dashboard"].as_str().context("no address")?).await?;
        let mut system = Self { folder, server, ready, options, client, csrf: String::new() };
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
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        (self.server, self.ready) = launch(self.folder.path(), &self.options)?;
        Ok(())
    }

    /// Stops the server and reads what it stored.
    pub(crate) async fn stop_and_read(&mut self) -> anyhow::Result<Books> {
        self.server.stop().with_context(|| self.log())?;
        Books::open(&data(self.folder.path(), &self.options)).await
    }

    pub(crate) async fn call(
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

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, body) = self.call(Method::GET, path, None, &[]).await?;
        anyhow::ensure!(status == StatusCode::OK, "GET {path}: {status} {body}");
        Ok(body)
    }

    /// The status and text of an address outside the API.
    pub(crate) async fn probe(&self, path: &str) -> anyhow::Result<(StatusCode, String)> {
        let response = self.client.get(format!("{}{path}", self.dashboard())).send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Makes an enrolment key; the object with the key itself.
    pub(crate) async fn make_key(&self, wanted: Value) -> anyhow::Result<Value> {
        let (status, key) = self.call(Method::POST, "/enrollment-keys", Some(wanted), &[]).await?;
        anyhow::ensure!(status == StatusCode::CREATED, "enrolment key: {status} {key}");
        Ok(key)
    }

    /// Decommissions a device.
    pub(crate) async fn decommission(&self, id: &str) -> anyhow::Result<()> {
        let version = self.get(&format!("/devices/{id}")).await?["version"].to_string();
        let etag = format!("\"{version}\"");
        let (status, body) = self.call(Method::DELETE, &format!("/devices/{id}"), None, &[("if-match", &etag)]).await?;
        anyhow::ensure!(status == StatusCode::NO_CONTENT, "decommission: {status} {body}");
        Ok(())
    }

    pub(crate) fn dashboard(&self) -> &str {
        self.ready["dashboard"].as_str().unwrap_or_default()
    }

    pub(crate) fn enrollment_key(&self) -> &str {
        self.ready["enrollment_key"].as_str().unwrap_or_default()
    }

    /// Base of the API, without a trailing slash.
    pub(crate) fn api(&self) -> &str {
        self.ready["api"].as_str().unwrap_or_default().trim_end_matches('/')
    }

    pub(crate) fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    /// The end of the server's log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("breeze.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The only device, once `accept` likes it.
    pub(crate) async fn device_that(&self, what: &str, accept: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        eventually(what, async || {
            let page = self.get("/devices").await?;
            Ok(page["data"].get(0).filter(|device| accept(device)).cloned())
        })
        .await
    }

    /// An agent, not yet enrolled, whose state lies in `name`.
    pub(crate) fn new_agent(&self, name: &str) -> Agent {
        Agent::new(self.folder.path().join(name))
    }

    /// An enrolled agent whose state lies in `name`.
    pub(crate) fn agent(&self, name: &str) -> anyhow::Result<Agent> {
        let agent = self.new_agent(name);
        agent.enroll(self.dashboard(), self.enrollment_key())?;
        Ok(agent)
    }
}

/// For a server with a certificate of its own authority: that authority's, as any browser would get
/// it, is believed from the first answer on.
async fn client(dashboard: &str) -> anyhow::Result<reqwest::Client> {
    // No connection is kept: the server is restarted under this client.
    let builder = || reqwest::Client::builder().cookie_store(true).timeout(REQUEST_TIMEOUT).pool_max_idle_per_host(0);
    if dashboard.starts_with("http:") {
        return Ok(builder().build()?);
    }
    let trusting = builder().tls_danger_accept_invalid_certs(true).build()?;
    let pem = trusting.get(format!("{dashboard}/install/ca.pem")).send().await?.bytes().await?;
    Ok(builder().tls_certs_only([Certificate::from_pem(&pem)?]).build()?)
}

fn data(folder: &Path, options: &Options) -> PathBuf {
    options.data.clone().unwrap_or_else(|| folder.join("server"))
}

/// `breeze up` as the options say.
pub(crate) fn up(folder: &Path, options: &Options) -> Command {
    let mut command = Command::new(program("breeze"));
    command.args(["up", "--listen", options.listen, "--data"]).arg(data(folder, options));
    command.arg("--ready-file").arg(folder.join("ready.json")).args(&options.more);
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    command
}

fn launch(folder: &Path, options: &Options) -> anyhow::Result<(Process, Value)> {
    let ready_file = folder.join("ready.json");
    let _absent = fs::remove_file(&ready_file);
    let log = folder.join("breeze.log");
    let mut server = Process::start(&mut up(folder, options), &log)?;
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
