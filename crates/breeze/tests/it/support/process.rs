//! Programs of the workspace as children, and waiting for things.

use anyhow::{Context, bail};
use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take on a busy machine before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A program of the workspace, built beside this test.
pub(crate) fn program(name: &str) -> PathBuf {
    let breeze = PathBuf::from(env!("CARGO_BIN_EXE_breeze"));
    let path = breeze.with_file_name(name);
    assert!(path.exists(), "{} is not built: cargo build --workspace --bins", path.display());
    path
}

/// Polls until `probe` gives something, or fails with what was waited for.
pub(crate) async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match probe().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if Instant::now() < until => {}
            Err(_not_yet) if Instant::now() < until => {}
            Ok(None) => bail!("{what}: not within {PATIENCE:?}"),
            Err(error) => return Err(error.context(format!("{what}: not within {PATIENCE:?}"))),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Says why a test does nothing here.
#[expect(clippy::print_stderr, reason = "whoever runs the tests is told what was left out")]
pub(crate) fn skip(why: &str) -> anyhow::Result<()> {
    eprintln!("skipped: {why}");
    Ok(())
}

/// Prints a figure that a test measured.
#[expect(clippy::print_stderr, reason = "shown with --nocapture, and with a failure")]
pub(crate) fn figure(name: &str, value: impl std::fmt::Debug) {
    eprintln!("{name}: {value:?}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a command of the system; fails with its last words.
pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {words:?}"))?;
    anyhow::ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What a command that ended said, on both channels.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A child that is killed when the test ends, however it ends.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Both channels go to the end of `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill_9(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).context("pid")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// SIGTERM; it must end by itself, well.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        let status = self.end()?;
        anyhow::ensure!(status.success(), "ended with {status}");
        Ok(())
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("process {} did not end within {PATIENCE:?}", self.child.id())
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}
