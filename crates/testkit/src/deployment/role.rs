//! One role as a process.

use crate::servers::{Process, START_PATIENCE, http};
use anyhow::{Context, ensure};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What libfaketime reads; the clocks that count since the boot stay as they are, leases hang on them.
const CLOCK: [&str; 4] = ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"];

/// libfaketime, where it is installed.
#[must_use]
pub fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let libraries = folders.map(|folder| Path::new(folder).join("faketime/libfaketime.so.1"));
    libraries.into_iter().find(|library| library.exists())
}

/// A role of Breeze and where it answers about its health.
#[derive(Debug)]
pub struct Role {
    pub name: String,
    /// To be stopped, killed and paused.
    pub process: Process,
    health: String,
}

impl Role {
    pub(super) fn new(name: &str, process: Process, health: &str) -> Self {
        Self { name: name.to_owned(), process, health: health.to_owned() }
    }

    /// Ends it in order and starts it again, as something else if `change` says so; waits until it is ready.
    ///
    /// # Errors
    /// If it does not end well, or does not get ready.
    pub fn replace(&mut self, change: impl FnOnce(&mut Process)) -> anyhow::Result<()> {
        let status = self.process.stop()?;
        ensure!(status.is_none_or(|status| status.success()), "{} ended with {status:?}", self.name);
        change(&mut self.process);
        self.start()
    }

    /// Starts it again with a wall clock that is wrong by `seconds`, or right with 0.
    ///
    /// # Errors
    /// If libfaketime is not installed, or as [`Role::replace`].
    pub fn set_clock(&mut self, seconds: i64) -> anyhow::Result<()> {
        let library = faketime().context("libfaketime is not installed")?;
        self.replace(|process| {
            let values = [library.into_os_string(), format!("{seconds:+}s").into(), "1".into(), "1".into()];
            for (name, value) in CLOCK.into_iter().zip(values) {
                process.set_env(name, (seconds != 0).then_some(value));
            }
        })
    }

    /// Starts it, and waits until it says that it is ready.
    ///
    /// # Errors
    /// If it runs already, ends, or does not get ready; with its last words.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        self.wait_ready(START_PATIENCE)
    }

    /// Starts it, and does not wait.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start_only(&mut self) -> anyhow::Result<()> {
        self.process.start()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// As [`Role::start`].
    pub fn wait_ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let health = self.health.clone();
        self.process
            .wait_until(patience, || {
                http::request(&health, "GET", "/readyz", b"").is_ok_and(|(status, _)| status == 200)
            })
            .map_err(|error| error.context(self.said_ready()))
    }

    /// Its answer on `/readyz`, for people.
    #[must_use]
    pub fn said_ready(&self) -> String {
        match http::request(&self.health, "GET", "/readyz", b"") {
            Ok((status, body)) => format!("{} /readyz: {status} {body}", self.name),
            Err(error) => format!("{} /readyz: {error:#}", self.name),
        }
    }

    /// Its metrics, as Prometheus would get them.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metrics(&self) -> anyhow::Result<String> {
        Ok(http::request(&self.health, "GET", "/metrics", b"")?.1)
    }

    /// Where it answers about its health (`host:port`).
    #[must_use]
    pub fn health_address(&self) -> &str {
        &self.health
    }
}
