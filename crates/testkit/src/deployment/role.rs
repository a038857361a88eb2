//! One role as a process.

use crate::servers::{Process, START_PATIENCE, http};
use std::{ffi::OsString, path::Path, time::Duration};

/// A role of Breeze and where it answers about its health.
#[derive(Debug)]
pub struct Role {
    pub name: String,
    /// To be stopped, killed and paused.
    pub process: Process,
    health: String,
}

impl Role {
    pub(super) fn new(name: &str, words: Vec<OsString>, log: &Path, health: &str) -> Self {
        Self { name: name.to_owned(), process: Process::new(name, words, log), health: health.to_owned() }
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
