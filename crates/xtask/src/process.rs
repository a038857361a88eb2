//! Running other programs: what is run is shown, a failure names the command, children are stopped
//! by their own id.

use anyhow::{Context, bail};
use std::{
    ffi::OsStr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Prints a line for the person at the terminal.
#[expect(clippy::print_stderr, reason = "this is the terminal output of a command-line tool")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// Prints a heading for a step that may take long.
pub(crate) fn step(title: &str) {
    say(&format!("\n== {title}"));
}

/// A command to be run in `directory`. What cargo set for us is not passed on: build scripts that look
/// at it would be run again by every other way of building.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|set| text.starts_with(set)) {
            command.env_remove(&name);
        }
    }
    command
}

/// The cargo that runs us.
pub(crate) fn cargo(arguments: &[&str], root: &Path) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments, root)
}

/// Runs to the end, output shown.
pub(crate) fn run(mut command: Command) -> anyhow::Result<()> {
    let shown = show(&command);
    say(&format!("$ {shown}"));
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status} after {:.0?}", started.elapsed());
    }
    Ok(())
}

/// Runs to the end; its standard output, as text.
pub(crate) fn output(mut command: Command) -> anyhow::Result<String> {
    let shown = show(&command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed something that is not UTF-8"))
}

/// Whether a program answers `--version`.
pub(crate) fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A child that is asked to stop, then made to, when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    name: &'static str,
}

/// How long a child may take from SIGTERM to its end.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

impl Running {
    pub(crate) fn start(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        let shown = show(&command);
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {shown}"))?;
        Ok(Self { child, name })
    }

    /// An error when it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + STOP_DEADLINE;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        say(&format!("{} did not stop within {STOP_DEADLINE:?}: killing it", self.name));
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
