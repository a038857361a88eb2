//! `breeze-agent` as its command line.

use super::process::{Process, eventually, program, said};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A state directory and the agent that runs on it.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) state: PathBuf,
    /// Words before the program, such as `ip netns exec …`.
    pub(crate) wrapper: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Agent {
    pub(crate) fn new(state: PathBuf) -> Self {
        Self { state, wrapper: Vec::new(), environment: Vec::new(), process: None }
    }

    /// With clocks that are `offset` ("+1d") wrong, all but those that count since the boot.
    pub(crate) fn with_wrong_clock(mut self, library: &Path, offset: &str) -> Self {
        self.environment.extend([
            ("LD_PRELOAD".into(), library.display().to_string()),
            ("FAKETIME".into(), offset.into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
            ("DONT_FAKE_MONOTONIC".into(), "1".into()),
        ]);
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let agent = program("breeze-agent");
        let mut command = match self.wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(agent);
                command
            }
            None => Command::new(agent),
        };
        command.args(arguments).arg("--state").arg(&self.state).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a subcommand to its end.
    pub(crate) fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(arguments).output().context("breeze-agent")
    }

    /// `enroll`, to its end.
    pub(crate) fn try_enroll(&self, server: &str, key: &str) -> anyhow::Result<Output> {
        let key_file = self.key_file(key)?;
        let output = self.output(&["enroll", "--server", server, "--key-file", &key_file.display().to_string()]);
        fs::remove_file(key_file)?;
        output
    }

    pub(crate) fn enroll(&self, server: &str, key: &str) -> anyhow::Result<()> {
        let output = self.try_enroll(server, key)?;
        ensure!(output.status.success(), "enroll: {}", said(&output));
        Ok(())
    }

    /// A file with the key that only its owner can read.
    pub(crate) fn key_file(&self, key: &str) -> anyhow::Result<PathBuf> {
        let path = self.state.with_extension("key");
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(key.as_bytes())?;
        Ok(path)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.state.with_extension("log")
    }

    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        self.process = Some(Process::start(&mut self.command(&["run"]), &self.log())?);
        Ok(())
    }

    pub(crate) fn running(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().context("the agent was not started")
    }

    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.running()?.stop()
    }

    /// `breeze-agent status --json`
    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        let output = self.output(&["status", "--json"])?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("status: {}", said(&output)))
    }

    pub(crate) fn device(&self) -> anyhow::Result<String> {
        Ok(self.status()?["device_id"].as_str().context("no device id")?.to_owned())
    }

    /// Its status, once `accept` likes it.
    pub(crate) async fn status_that(&self, what: &str, accept: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let found = eventually(what, async || Ok(Some(self.status()?).filter(|status| accept(status)))).await;
        found.with_context(|| format!("{:?}\n{}", self.status(), self.last_words()))
    }

    /// Once that many more heartbeats were acknowledged than this process has so far.
    pub(crate) async fn acknowledges(&self, more: u64) -> anyhow::Result<Value> {
        let before = self.status()?["acknowledged"].as_u64().unwrap_or_default();
        self.status_that(&format!("{more} more heartbeats are acknowledged"), |status| {
            status["state"] == "connected" && status["acknowledged"].as_u64() >= Some(before + more)
        })
        .await
    }

    /// Once everything it took has arrived.
    pub(crate) async fn has_delivered(&self) -> anyhow::Result<Value> {
        self.status_that("everything is delivered", |status| {
            status["state"] == "connected" && status["spooled"].as_u64().is_some_and(|spooled| spooled <= 1)
        })
        .await
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}
