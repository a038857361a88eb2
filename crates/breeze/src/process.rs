//! A role as a process of its own: `breeze relay`, `breeze collector`, `breeze control-plane`.
//!
//! What they share: health and metrics answer from the first moment on; an engine that cannot be
//! reached is waited for; what can never work (credentials, schema) ends the process with words; and one
//! order of stopping, the role before the engines.

mod collector;
mod control_plane;
mod engines;
mod identity;
mod peers;
mod relay;
mod room;
mod wait;

pub(crate) use engines::{clickhouse_config, cql_config, nats_config};
pub(crate) use wait::Absence;

use crate::{config, files};
use anyhow::Context as _;
use breeze_runtime::{
    ops::{self, OpsState},
    shutdown::Shutdown,
};
use serde::Serialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long what the runtime still does may take when everything has ended.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Arguments of every role.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// TOML file of the role; see docs/operations.md. BREEZE__SECTION__KEY variables override its keys
    #[arg(long, value_name = "FILE", env = "BREEZE_CONFIG")]
    config: PathBuf,
    /// Write what was bound here (mode 0600) once the role does its work
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// What a role needs of its process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) shutdown: Shutdown,
    pub(crate) ops: OpsState,
    /// Where health and metrics are answered.
    http: SocketAddr,
    ready_file: Option<PathBuf>,
}

impl Process {
    /// Writes the ready file.
    ///
    /// # Errors
    /// When it cannot be written.
    fn announce(&self, ready: &impl Serialize) -> anyhow::Result<()> {
        let Some(file) = &self.ready_file else { return Ok(()) };
        let mut ready = serde_json::to_value(ready)?;
        if let Some(fields) = ready.as_object_mut() {
            fields.insert("http".to_owned(), format!("http://{}", self.http).into());
        }
        files::write_private(file, &serde_json::to_vec_pretty(&ready)?).context("ready file")
    }
}

/// Runs a relay until it is told to stop.
///
/// # Errors
/// In words for an operator.
pub(crate) fn relay(arguments: &Arguments) -> anyhow::Result<()> {
    let file = config::relay(&arguments.config)?;
    // A relay's work is small turns that wake each other: on few cores one thread does more of it
    // than two that keep waking each other up.
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let http = file.http.listen;
    run("relay", workers, http, arguments, async move |process| Box::pin(relay::run(file, process)).await)
}

/// Runs a collector until it is told to stop.
///
/// # Errors
/// In words for an operator.
pub(crate) fn collector(arguments: &Arguments) -> anyhow::Result<()> {
    let file = config::collector(&arguments.config)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let http = file.http.listen;
    run("collector", workers, http, arguments, async move |process| Box::pin(collector::run(file, process)).await)
}

/// Runs a node of the control plane until it is told to stop.
///
/// # Errors
/// In words for an operator.
pub(crate) fn control_plane(arguments: &Arguments) -> anyhow::Result<()> {
    let file = config::control_plane(&arguments.config)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let http = file.http.listen;
    run("control-plane", workers, http, arguments, async move |process| {
        Box::pin(control_plane::run(file, process)).await
    })
}

fn run(
    role: &'static str,
    workers: usize,
    http: SocketAddr,
    arguments: &Arguments,
    work: impl AsyncFnOnce(Process) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).thread_name(role).enable_all().build()?;
    let ready_file = arguments.ready_file.clone();
    let result = runtime.block_on(async {
        let shutdown = Shutdown::new();
        let signals = shutdown.clone();
        let signals = tokio::spawn(async move { signals.on_signals().await });
        let state = OpsState::new(role);
        let server = ops::serve(http, state.clone(), shutdown.clone()).await?;
        let process =
            Process { shutdown: shutdown.clone(), ops: state, http: server.addr(), ready_file: ready_file.clone() };
        let result = work(process).await;
        shutdown.begin();
        signals.abort();
        result
    });
    remove(ready_file.as_deref());
    runtime.shutdown_timeout(LAST_WORK);
    result
}

fn remove(ready_file: Option<&Path>) {
    if let Some(file) = ready_file {
        let _never_written = std::fs::remove_file(file);
    }
}
