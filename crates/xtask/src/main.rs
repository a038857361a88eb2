//! The project's own commands. `cargo xtask up` and `cargo xtask test` do everything on a fresh
//! Debian machine with git, build-essential, Rust and Node.js.

mod bench;
mod distributed;
mod generate;
mod install;
mod long;
mod process;
mod servers;
mod stack;
mod systems;
mod test;
mod tidy;
mod up;
mod web;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Set up, run, test, tidy and measure Breeze", long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything, start Breeze and an agent of this machine, and print where to look.
    ///
    /// Installs what is missing (web packages; Debian packages where the system lacks them), builds the
    /// dashboard and the binaries, starts `breeze up` on embedded storage and one `breeze-agent`, and
    /// prints the dashboard's address, with a one-time link at the first start. Ctrl-C stops both.
    /// Data stays in the data folder; the next start takes seconds.
    Up(up::Arguments),
    /// Run everything that CI runs: tidy, unit, integration, web and browser tests.
    Test(test::Arguments),
    /// Check the rules: format, lints, crate directions, licences, unused dependencies, generated files.
    Tidy,
    /// Write the generated files: the OpenAPI document and the dashboard's types.
    Generate,
    /// Break a distributed Breeze at random, by a seed, and check that nothing acknowledged is lost or doubled.
    Chaos(distributed::ChaosArguments),
    /// Measure the whole pipeline on this machine with the load generator; see docs/performance.md.
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match try_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn try_main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let root = root()?;
    match arguments.command {
        Command::Up(arguments) => up::run(&root, &arguments),
        Command::Test(arguments) => test::run(&root, &arguments),
        Command::Tidy => tidy::run(&root),
        Command::Generate => generate::run(&root),
        Command::Chaos(arguments) => distributed::chaos(&root, &arguments),
        Command::Bench(arguments) => bench::run(&root, &arguments),
    }
}

/// The checkout: two levels above this crate.
fn root() -> anyhow::Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(PathBuf::from).context("the crate is not in crates/xtask")
}
