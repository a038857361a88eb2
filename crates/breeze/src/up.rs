//! `breeze up`: relay, collector and control plane in one process, on embedded storage.
//!
//! Each role has a runtime of its own, so that none can starve another and their CPU can be told
//! apart. They stop in the order of the data's way: the relay first, the engines last.

mod engines;
mod ports;
mod roles;
mod settings;

use crate::{backup, files};
use anyhow::{Context, ensure};
use breeze_runtime::shutdown::Shutdown;
use engines::Engines;
use ports::{Addresses, KeptPorts};
use roles::{Roles, Runtimes};
use serde::Serialize;
use settings::Settings;
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Run everything that one machine needs: relay, collector, control plane and dashboard.
///
/// Storage is embedded and lies in one folder. At the first start a one-time set-up link is logged
/// and written to the ready file; whoever opens it chooses the first password. On a loopback address
/// the dashboard is plain HTTP; anywhere else it is HTTPS, with a certificate of Breeze's own
/// authority or with yours.
///
/// Agents need the port of --listen on UDP, and the next port on TCP for where UDP is blocked.
/// Port 0 takes a free port and keeps it for the next start.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of all data and keys; made if missing
    #[arg(long, value_name = "DIR", env = "BREEZE_DATA")]
    data: PathBuf,
    /// Address of dashboard and API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8420", env = "BREEZE_LISTEN")]
    listen: SocketAddr,
    /// UDP address for agents [default: the same as --listen]
    #[arg(long, value_name = "ADDR")]
    relay_listen: Option<SocketAddr>,
    /// TCP address for agents whose UDP is blocked [default: the port after --listen]
    #[arg(long, value_name = "ADDR")]
    relay_wss_listen: Option<SocketAddr>,
    /// Name or address by which people and agents reach this machine; needed when --listen is 0.0.0.0 or [::]
    #[arg(long, value_name = "HOST", env = "BREEZE_PUBLIC_HOST")]
    public_host: Option<String>,
    /// Certificate chain of the dashboard, PEM, leaf first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Address of a reverse proxy before the dashboard, whose X-Forwarded-For and X-Forwarded-Proto are
    /// believed; may be given several times
    #[arg(long = "trusted-proxy", value_name = "ADDR")]
    trusted_proxies: Vec<IpAddr>,
    /// TOML file of settings that few change: [relay.limits], [retention] and [bus]; see docs/operations.md
    #[arg(long, value_name = "FILE", env = "BREEZE_CONFIG")]
    config: Option<PathBuf>,
    /// Write addresses, set-up link and an enrolment key here (mode 0600) once everything answers
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Folder with breeze-agent-linux-<arch>, handed out by the installer
    #[arg(long, value_name = "DIR")]
    agent_binaries: Option<PathBuf>,
    /// Seconds between two heartbeats of an agent
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    heartbeat_interval: u32,
    /// Writes are refused when the data disk has less free, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(8..))]
    disk_reserve: u64,
}

/// What the ready file says. Whoever reads it may enrol devices and, before set-up, take the instance.
#[derive(Debug, Serialize)]
struct Ready {
    /// Origin of the dashboard.
    dashboard: String,
    /// Base of the API.
    api: String,
    /// The one-time link; null once used.
    setup_url: Option<String>,
    enrollment_key: String,
    relay: RelayAddresses,
}

#[derive(Debug, Serialize)]
struct RelayAddresses {
    quic: String,
    wss: String,
}

/// How often histograms are folded and addresses of the past forgotten.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long what the runtimes still do may take when everything has ended.
const LAST_WORK: Duration = Duration::from_secs(5);

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtimes = Runtimes::new()?;
    let main = tokio::runtime::Builder::new_current_thread().enable_all().thread_name("main").build()?;
    let result = main.block_on(serve(arguments, &runtimes));
    runtimes.shutdown(LAST_WORK);
    result
}

async fn serve(arguments: &Arguments, runtimes: &Runtimes) -> anyhow::Result<()> {
    let settings = Settings::load(arguments.config.as_deref())?;
    let data = &arguments.data;
    backup::check_finished(data)?;
    files::make_private_folder(data)?;
    let asked = arguments.addresses();
    let shutdown = Shutdown::new();
    let signals = shutdown.clone();
    let signals = tokio::spawn(async move { signals.on_signals().await });

    let engines = Engines::open(data, arguments.disk_reserve << 20, &settings).await?;
    let control = backup::Control::listen(engines.live(data))?;
    let at = KeptPorts::load(data)?.apply(asked);
    let started = Roles::start(arguments, &settings, at, &engines, runtimes).await;
    let result = match started {
        Ok(roles) => {
            KeptPorts::save(data, asked, roles.bound())?;
            announce(arguments, &roles)?;
            roles.run_until(&shutdown).await
        }
        Err(error) => Err(error),
    };
    control.close().await;
    engines.close().await;
    if let Some(file) = &arguments.ready_file {
        let _never_written = std::fs::remove_file(file);
    }
    signals.abort();
    result
}

impl Arguments {
    fn addresses(&self) -> Addresses {
        let next = match self.listen.port() {
            0 => 0,
            port => port.saturating_add(1),
        };
        Addresses {
            dashboard: self.listen,
            quic: self.relay_listen.unwrap_or(self.listen),
            wss: self.relay_wss_listen.unwrap_or(SocketAddr::new(self.listen.ip(), next)),
        }
    }

    /// The name or address that others are to use; IPv6 without brackets.
    fn public_host(&self) -> anyhow::Result<Option<String>> {
        let Some(host) = &self.public_host else { return Ok(None) };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if address.parse::<IpAddr>().is_ok() {
            return Ok(Some(address.to_owned()));
        }
        ensure!(
            !host.is_empty() && !host.contains(['/', ':', ' ', '[', ']']),
            "--public-host is a name or an address, without scheme and port"
        );
        Ok(Some(host.clone()))
    }

    /// What agents call the relay, and its certificate must name: the public host, or the addresses that
    /// are listened on.
    fn names(&self) -> anyhow::Result<Vec<String>> {
        if let Some(host) = self.public_host()? {
            return Ok(vec![host]);
        }
        let Addresses { dashboard, quic, wss } = self.addresses();
        for listen in [dashboard, quic, wss] {
            ensure!(
                !listen.ip().is_unspecified(),
                "{listen} is every address of this machine: say with --public-host by which name or address people \
                 and agents reach it"
            );
        }
        let mut names = vec![quic.ip().to_string(), wss.ip().to_string()];
        names.dedup();
        Ok(names)
    }

    fn is_loopback(&self) -> bool {
        self.listen.ip().is_loopback()
    }
}

/// Says where everything is, in the log and in the ready file.
fn announce(arguments: &Arguments, roles: &Roles) -> anyhow::Result<()> {
    let relay = roles.relay();
    let dashboard = roles.origin();
    tracing::info!(dashboard, agents.quic = relay.quic, agents.wss = relay.wss, "breeze is up");
    let Some(file) = &arguments.ready_file else {
        if roles.setup_url().is_some() {
            tracing::info!("waiting for set-up: start with --ready-file FILE to get the one-time link");
        }
        return Ok(());
    };
    let ready = Ready {
        api: format!("{dashboard}/api/v1"),
        dashboard,
        setup_url: roles.setup_url(),
        enrollment_key: roles.enrollment_key().reveal(),
        relay: RelayAddresses { quic: relay.quic.clone(), wss: relay.wss.clone() },
    };
    write_ready(file, &ready)
}

fn write_ready(file: &Path, ready: &Ready) -> anyhow::Result<()> {
    files::write_private(file, &serde_json::to_vec_pretty(ready)?).context("ready file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        up: Arguments,
    }

    fn parse(words: &[&str]) -> Arguments {
        Program::parse_from(["breeze", "--data", "d"].iter().chain(words)).up
    }

    #[test]
    fn agents_use_the_dashboards_port_and_the_next() {
        let addresses = parse(&["--listen", "10.0.0.1:443"]).addresses();
        assert_eq!(addresses.quic.to_string(), "10.0.0.1:443");
        assert_eq!(addresses.wss.to_string(), "10.0.0.1:444");
        assert_eq!(parse(&["--listen", "127.0.0.1:0"]).addresses().wss.port(), 0);
    }

    #[test]
    fn every_address_needs_a_name_to_be_reached_by() {
        for every in [["--listen", "0.0.0.0:443"], ["--listen", "[::]:443"], ["--relay-listen", "0.0.0.0:443"]] {
            let error = parse(&every).names().expect_err("nobody can type 0.0.0.0");
            assert!(error.to_string().contains("--public-host"));
        }
        let named = parse(&["--listen", "0.0.0.0:443", "--public-host", "breeze.example.com"]);
        assert_eq!(named.names().expect("named"), ["breeze.example.com"]);
        let apart = parse(&["--relay-listen", "10.0.0.1:443", "--relay-wss-listen", "10.0.0.2:443"]);
        assert_eq!(apart.names().expect("named"), ["10.0.0.1", "10.0.0.2"]);
        for wrong in ["https://x", "x:443", "[x]", ""] {
            assert!(parse(&["--public-host", wrong]).names().is_err(), "{wrong}");
        }
        for address in ["2001:db8::1", "[2001:db8::1]"] {
            assert_eq!(parse(&["--public-host", address]).names().expect("an address"), ["2001:db8::1"]);
        }
    }
}
