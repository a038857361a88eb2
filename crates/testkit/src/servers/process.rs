//! A program that can be started, stopped, killed, paused, and started again with the same words.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long a program may take from SIGTERM to its end before it is killed.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of the log that a failure shows.
const LAST_WORDS: usize = 30;

/// A program of one's own, running or not.
#[derive(Debug)]
pub struct Process {
    name: String,
    prefix: Vec<OsString>,
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not started yet. `words` are the program and its arguments; both channels go to the end of `log`.
    pub fn new<W: Into<OsString>>(name: &str, words: impl IntoIterator<Item = W>, log: &Path) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self {
            name: name.to_owned(),
            prefix: Vec::new(),
            words,
            environment: Vec::new(),
            log: log.to_path_buf(),
            child: None,
        }
    }

    /// Run by another program, which must become it (`ip netns exec …`): signals go to its id.
    #[must_use]
    pub fn with_prefix(mut self, prefix: Vec<OsString>) -> Self {
        self.prefix = prefix;
        self
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets a variable of the environment for the next start, or takes it away.
    pub fn set_env(&mut self, name: &str, value: Option<OsString>) {
        self.environment.retain(|(other, _)| other != name);
        self.environment.extend(value.map(|value| (name.into(), value)));
    }

    /// Another program for the next start, with the same arguments.
    pub fn set_program(&mut self, program: &Path) {
        if let Some(first) = self.words.first_mut() {
            *first = program.as_os_str().to_owned();
        }
    }

    /// With more arguments.
    #[must_use]
    pub fn with_words<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// # Errors
    /// If it runs already, or cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut words = self.prefix.iter().chain(&self.words);
        let program = words.next().context("no program")?;
        let mut command = Command::new(program);
        command.args(words).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}: {program:?}", self.name))?);
        Ok(())
    }

    /// What it is called where it is spoken of.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGTERM; SIGKILL when that did not help. How it ended, if it ran.
    ///
    /// # Errors
    /// If it had to be killed.
    pub fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        signal(&child, Signal::CONT);
        signal(&child, Signal::TERM);
        let until = Instant::now() + STOP_PATIENCE;
        while Instant::now() < until {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        end(&mut child);
        bail!("{} did not stop within {STOP_PATIENCE:?}", self.name)
    }

    /// SIGKILL, until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// Sends a signal, if it runs.
    pub fn signal(&self, wanted: Signal) {
        self.child.iter().for_each(|child| signal(child, wanted));
    }

    /// SIGSTOP: it stands still, and its connections stay open.
    pub fn pause(&self) {
        self.child.iter().for_each(|child| signal(child, Signal::STOP));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.child.iter().for_each(|child| signal(child, Signal::CONT));
    }

    /// The file with what it says.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of what it said.
    #[must_use]
    pub fn last_words(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }

    /// Polls until `ready` says so.
    ///
    /// # Errors
    /// If the program ends before that, or time is up; with its last words.
    pub fn wait_until(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        loop {
            if ready() {
                return Ok(());
            }
            if !self.is_running() {
                bail!("{} ended: {}", self.name, self.last_words());
            }
            if Instant::now() > until {
                bail!("{} is not ready after {patience:?}: {}", self.name, self.last_words());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(child: &Child, signal: Signal) {
    // Not reaped yet, so the id is still this child's.
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _already_gone = kill_process(pid, signal);
    }
}

fn end(child: &mut Child) {
    let _already_gone = child.kill();
    let _reaped = child.wait();
}
