//! `cargo xtask test`: what CI runs, and with `--long` what takes longer.

use crate::{
    install,
    process::{self, command, say, step},
    servers::Servers,
    stack::{self, Stack},
    tidy, web,
};
use std::{path::Path, time::Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Also run soaks, fuzzing and big loads, and check the agent for Windows and macOS
    #[arg(long)]
    long: bool,
    /// Leave tidy out: for a second look at the tests alone
    #[arg(long)]
    skip_tidy: bool,
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let mut timings = Vec::new();
    let mut timed = |name: &'static str, part: &dyn Fn() -> anyhow::Result<()>| {
        let started = Instant::now();
        part()?;
        timings.push((name, started.elapsed()));
        anyhow::Ok(())
    };
    timed("install", &|| install::test_packages().and_then(|()| web::install(root)))?;
    timed("dashboard", &|| {
        step("Dashboard: build and unit tests");
        web::build(root)?;
        web::npm_run(root, "test")
    })?;
    if !arguments.skip_tidy {
        timed("tidy", &|| tidy::run(root))?;
    }
    timed("rust", &|| rust(root))?;
    timed("browser", &|| browser(root))?;
    if arguments.long {
        timed("long", &|| crate::long::run(root))?;
    }
    step("Times");
    for (name, took) in timings {
        say(&format!("{name:>10}  {:>5.0} s", took.as_secs_f64()));
    }
    Ok(())
}

/// Runs the workspace's tests under a profile of `.config/nextest.toml`.
///
/// The tests are given one more variable of the environment, if any.
pub(crate) fn run_rust_profile(root: &Path, profile: &str, more: Option<(&str, &Path)>) -> anyhow::Result<()> {
    let tools = install::tools(root)?;
    let servers = Servers::start(&install::servers(root)?)?;
    let mut tests =
        command(tools.join("cargo-nextest"), &["nextest", "run", "--workspace", "--profile", profile], root);
    tests.env("CARGO_TERM_COLOR", "never").envs(servers.environment()).envs(more);
    process::run(tests)
}

fn rust(root: &Path) -> anyhow::Result<()> {
    step("Rust: unit and integration tests");
    // The tests of the whole start the real programs, which must be there and new.
    stack::build(root)?;
    run_rust_profile(root, "default", None)
}

fn browser(root: &Path) -> anyhow::Result<()> {
    step("Browser tests against the real stack");
    if !Path::new("/usr/bin/chromium").exists() {
        say("skipped: there is no /usr/bin/chromium (on Debian: apt install chromium)");
        return Ok(());
    }
    let data = tempfile::Builder::new().prefix("breeze-e2e-").tempdir()?;
    let mut stack = Stack::start(root, data.path(), "127.0.0.1:0")?;
    let mut tests = command("npm", &["run", "--silent", "e2e"], &root.join("web"));
    tests.env("BREEZE_READY_FILE", &stack.ready_file);
    let result = process::run(tests);
    stack.check()?;
    if result.is_err() {
        // Kept for the person who looks into the failure.
        let kept = data.keep();
        say(&format!("data and logs of the failed run: {}", kept.display()));
    }
    result
}
