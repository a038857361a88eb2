//! ClickHouse's engine behind its HTTP interface (`servers/clickhouse_http.py`), with faults on request.

use super::{START_PATIENCE, Tools, http, port::free_port, process::Process};
use anyhow::{Context, ensure};
use serde_json::json;
use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What the server asks of its callers and shows them.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// User and password that it demands.
    pub credentials: Option<(String, String)>,
    /// PEM files of its certificate chain and key: then it speaks TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Where it listens, if not on 127.0.0.1, and what runs it in the network that has this address.
    pub at: Option<(IpAddr, Vec<OsString>)>,
}

/// How the next inserts fare; zero for well. Each count is of inserts, and counts down.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Each answer comes late by this.
    pub delay_ms: u32,
    /// Answered with an error, nothing executed.
    pub fail_before: u32,
    /// Executed, then answered with an error.
    pub fail_after: u32,
    /// The connection is closed, nothing executed.
    pub cut_before: u32,
    /// Executed, then the connection is closed.
    pub cut_after: u32,
    /// Executed two times.
    pub twice: u32,
    /// The server kills itself while it executes.
    pub die_during: u32,
}

/// A server with its own data.
#[derive(Debug)]
pub struct ClickHouse {
    /// To be stopped, killed and paused.
    pub process: Process,
    host: IpAddr,
    port: u16,
    has_tls: bool,
}

impl ClickHouse {
    /// Starts on the data in `folder`, and waits for its first answer.
    ///
    /// # Errors
    /// If the tool is missing or the server does not come up.
    pub fn start(tools: &Tools, folder: &Path, name: &str, options: &Options) -> anyhow::Result<Self> {
        let python = tools.clickhouse().context("chdb is not installed: cargo xtask test installs it")?;
        fs::create_dir_all(folder)?;
        let port = free_port(LOCALHOST)?;
        let (host, prefix) = options.at.clone().unwrap_or((LOCALHOST, Vec::new()));
        let mut words = vec![python, Tools::script("clickhouse_http.py"), "--data".into(), folder.join("data")];
        words.extend(["--listen".into(), format!("{host}:{port}").into()]);
        if let Some((user, password)) = &options.credentials {
            let file = folder.join("password");
            fs::write(&file, password)?;
            words.extend(["--user".into(), user.into(), "--password-file".into(), file]);
        }
        if let Some((chain, key)) = &options.tls {
            words.extend(["--tls-cert".into(), chain.clone(), "--tls-key".into(), key.clone()]);
        }
        let process = Process::new(name, words, &folder.join("clickhouse.log")).with_prefix(prefix);
        let mut server = Self { process, host, port, has_tls: options.tls.is_some() };
        server.restart()?;
        Ok(server)
    }

    /// Starts again on the same data and port, and waits for the first answer.
    ///
    /// # Errors
    /// If it runs already or does not come up.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        let (address, has_tls) = (self.address(), self.has_tls);
        self.process.wait_until(START_PATIENCE, || {
            if has_tls {
                std::net::TcpStream::connect(&address).is_ok()
            } else {
                http::request(&address, "GET", "/ping", b"").is_ok_and(|(status, _)| status == 200)
            }
        })
    }

    /// `host:port`
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// As a client wants it; with TLS for the name `localhost`.
    #[must_use]
    pub fn url(&self) -> String {
        if self.has_tls {
            format!("https://localhost:{}", self.port)
        } else {
            format!("http://{}:{}", self.host, self.port)
        }
    }

    /// What happens to the next inserts, in place of what was wished before. Without TLS only.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn set_faults(&self, faults: Faults) -> anyhow::Result<()> {
        set_faults(&self.address(), faults)
    }

    /// Executes a statement of the test's own, as the user of the options would without credentials; its
    /// answer, tab separated.
    ///
    /// # Errors
    /// If the server does not answer, or answers with an error.
    pub fn query(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        query(&self.address(), database, sql)
    }
}

/// As [`ClickHouse::set_faults`], of a server that somebody else has started.
///
/// # Errors
/// As there.
pub fn set_faults(address: &str, faults: Faults) -> anyhow::Result<()> {
    let Faults { delay_ms, fail_before, fail_after, cut_before, cut_after, twice, die_during } = faults;
    let wanted = json!({
        "delay_ms": delay_ms, "fail_before": fail_before, "fail_after": fail_after, "cut_before": cut_before,
        "cut_after": cut_after, "twice": twice, "die_during": die_during,
    });
    let (status, said) = http::request(address, "POST", "/_fault", wanted.to_string().as_bytes())?;
    ensure!(status == 200, "faults: {status} {said}");
    Ok(())
}

/// As [`ClickHouse::query`], of a server that somebody else has started.
///
/// # Errors
/// As there.
pub fn query(address: &str, database: &str, sql: &str) -> anyhow::Result<String> {
    let target = format!("/?database={}", http::encode(database));
    let (status, answer) = http::request(address, "POST", &target, sql.as_bytes())?;
    ensure!(status == 200, "{sql}: {status} {answer}");
    Ok(answer)
}
