//! The command line.

use crate::{
    enroll::{Server, enroll},
    identity::{self, DeviceIdentity},
    metric_socket,
    os::process,
    proxy::ProxySettings,
    run,
    state_dir::{self, StateDir},
    status::StatusFile,
};
use anyhow::{Context as _, bail};
use breeze_proto::enroll::EnrollmentKey;
use clap::{Args, Parser, Subcommand};
use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

/// An enrolment key is shorter than that.
const MAX_KEY_BYTES: u64 = 1024;

/// Reports this machine to a Breeze server.
///
/// The agent measures the machine once a minute (as often as the server says), keeps what it could not
/// deliver on disk, and sends it to the nearest relay over QUIC, or over a WebSocket where UDP is blocked.
///
/// First enrol it with a key from the dashboard, then run it; the installer does both and lets the system
/// start it.
#[derive(Debug, Parser)]
#[command(name = "breeze-agent", version, max_term_width = 100, after_help = FILES)]
struct Cli {
    /// Where the agent keeps its identity, its documents and what is not yet delivered
    #[arg(long, global = true, value_name = "DIR", default_value = state_dir::DEFAULT, env = "BREEZE_AGENT_STATE")]
    state: PathBuf,

    /// What is logged to standard error
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info", env = "BREEZE_AGENT_LOG",
          value_parser = ["error", "warn", "info", "debug", "trace"])]
    log: String,

    #[command(flatten)]
    proxy: ProxyArgs,

    #[command(subcommand)]
    command: Task,
}

const FILES: &str = "\
Exit status: 0 on success, 1 on failure (the reason is on standard error), 2 for a wrong command line.

Files in the state directory (0700, each file 0600):
  identity.json   the device's key and certificate: whoever reads it can be this device
  state.pb        signed documents: root of trust, relays, configuration
  spool/          heartbeats that are not yet acknowledged
  status.json     what `breeze-agent status` shows
  metric.sock     takes custom metrics
  lock            held by the running agent";

#[derive(Debug, Args)]
struct ProxyArgs {
    /// HTTP proxy for TCP connections, as http://user:password@host:port (a password is better given
    /// in the environment, where other users cannot see it)
    #[arg(long, global = true, value_name = "URL", env = "BREEZE_PROXY", hide_env_values = true)]
    proxy: Option<String>,

    /// Hosts that are reached without the proxy: names and .suffixes, separated by commas
    #[arg(long, global = true, value_name = "HOSTS", env = "BREEZE_NO_PROXY")]
    no_proxy: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make this machine a device of a Breeze server
    ///
    /// The enrolment key comes from the dashboard ("Add a device"). It is read from --key-file, from the
    /// environment variable BREEZE_ENROLLMENT_KEY, or asked for; never from the command line, which every
    /// user of the machine can see. The private key is made here and never leaves the machine. If the key
    /// asks for approval, this waits until somebody approves.
    Enroll {
        /// Address of the server, as https://breeze.example.com
        #[arg(long, value_name = "URL")]
        server: String,
        /// File with the enrolment key; "-" for standard input
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Run the agent until it is told to stop (SIGTERM or Ctrl-C)
    Run,
    /// Show how the agent is doing
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget the enrolment: erase key, certificate and what was not delivered
    ///
    /// The server is not told; remove the device in the dashboard as well.
    Unenroll,
    /// Hand a custom metric to the running agent; it goes out with the next heartbeat
    Metric {
        /// 1 to 96 of the characters A-Z a-z 0-9 _ . : / % -
        name: String,
        /// A finite number
        #[arg(allow_negative_numbers = true)]
        value: String,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli.log);
    match try_main(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "breeze-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_main(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("cannot start")?;
    match cli.command {
        Task::Enroll { server, key_file } => {
            let server = Server::parse(&server)?;
            let proxy = proxy(&cli.proxy)?;
            let dir = StateDir::lock(&cli.state)?;
            if let Some(identity) = DeviceIdentity::load(&dir)? {
                bail!(
                    "this machine is already enrolled as device {} at {}: run `breeze-agent unenroll` first",
                    identity.device,
                    identity.server
                );
            }
            let key = read_key(key_file)?;
            let identity = runtime.block_on(enroll(&dir, &server, &key, &proxy, say))?;
            say(&format!("enrolled as device {}", identity.device));
            Ok(())
        }
        Task::Run => {
            let proxy = proxy(&cli.proxy)?;
            let dir = StateDir::lock(&cli.state)?;
            runtime.block_on(async { run::run(dir, proxy, process::stop_signal().context("signals")?).await })
        }
        Task::Status { json } => {
            let status = StatusFile::read(&cli.state)?;
            if json {
                say(&serde_json::to_string_pretty(&status)?)
            } else {
                say(status.describe().trim_end())
            }
            Ok(())
        }
        Task::Unenroll => unenroll(&StateDir::lock(&cli.state)?),
        Task::Metric { name, value } => {
            let value = metric_socket::check_value(&value)?;
            runtime.block_on(metric_socket::submit(&cli.state, &name, value))
        }
    }
}

fn unenroll(dir: &StateDir) -> anyhow::Result<()> {
    let Some(identity) = DeviceIdentity::load(dir)? else {
        bail!("{} is not enrolled", dir.path().display());
    };
    identity::erase(dir)?;
    for file in ["status.json", "inventory-software.pb", metric_socket::SOCKET] {
        dir.remove(file)?;
    }
    let spool = dir.file("spool");
    if spool.exists() {
        std::fs::remove_dir_all(&spool).with_context(|| format!("cannot remove {}", spool.display()))?;
    }
    say(&format!("this machine is device {} no more; remove it in the dashboard as well", identity.device));
    Ok(())
}

/// The environment's usual variables stand in for what is not given.
fn proxy(args: &ProxyArgs) -> anyhow::Result<ProxySettings> {
    let variable = |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var(name).ok());
    let no_proxy = args.no_proxy.clone().or_else(|| variable(["NO_PROXY", "no_proxy"])).unwrap_or_default();
    match &args.proxy {
        Some(proxy) => ProxySettings::new(Some(proxy), &no_proxy),
        // Set for everything on this machine, and hardly meant for the machine itself.
        None => ProxySettings::new(
            variable(["HTTPS_PROXY", "https_proxy"]).as_deref(),
            &format!("{no_proxy},localhost,127.0.0.1,::1"),
        ),
    }
}

fn read_key(file: Option<PathBuf>) -> anyhow::Result<EnrollmentKey> {
    let text = match file {
        Some(path) if path.as_os_str() == "-" => read_bounded(std::io::stdin().lock(), "standard input")?,
        Some(path) => {
            let opened = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            read_bounded(opened, &path.display().to_string())?
        }
        None => match std::env::var("BREEZE_ENROLLMENT_KEY") {
            Ok(text) => text,
            Err(_) if std::io::stdin().is_terminal() => {
                rpassword::prompt_password("Enrolment key (not shown): ").context("cannot ask for the key")?
            }
            Err(_) => bail!(
                "no enrolment key: give it with --key-file FILE or in the environment variable BREEZE_ENROLLMENT_KEY"
            ),
        },
    };
    Ok(text.parse()?)
}

fn read_bounded(source: impl std::io::Read, name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    source.take(MAX_KEY_BYTES).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
    Ok(text)
}

fn start_logging(level: &str) {
    let level = level.parse().unwrap_or(tracing::Level::INFO);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn say(text: &str) {
    // A closed pipe is the reader's wish.
    let _ = writeln!(std::io::stdout(), "{text}");
}
