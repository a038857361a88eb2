//! `breeze-loadtest`: thousands of real agent sessions against a running Breeze, and what they cost.

mod agent;
mod api;
mod figures;
mod fleet;
mod ledger;
mod queryable;
mod report;
mod run;
mod stage;
mod stored;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "breeze-loadtest",
    version,
    about = "Load for a Breeze on this machine",
    long_about = "Enrols devices through the API and runs their agents: real sessions of agent/core over real QUIC \
                  connections, with made-up figures. Only for a Breeze on this machine, one process or many: it \
                  takes its addresses from the ready file of `breeze up`, or one written like it, and refuses any \
                  that is not loopback."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold agents that heartbeat, and report rates, latencies and costs.
    Agents(run::Agents),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("BREEZE_LOG").unwrap_or_else(|_| "info".into()))
        .init();
    let _installed = rustls::crypto::CryptoProvider::install_default((*breeze_agent::pki::provider()).clone());
    let Command::Agents(agents) = arguments.command;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("load").build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run::run(&agents))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
