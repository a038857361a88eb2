//! `breeze`: every server role as a subcommand, and `breeze up`, all of them in one process.

mod admin;
mod backup;
mod keys;
mod up;

use breeze_runtime::telemetry::{self, LogFormat};
use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "breeze",
    version,
    about = "Remote monitoring and management",
    long_about = "Breeze watches and repairs computers. `breeze up` runs everything that one machine needs in one \
                  process on embedded storage: relay, collector, control plane and dashboard."
)]
struct Arguments {
    /// What to log: a level, or a filter such as info,breeze_relay=debug
    #[arg(long, global = true, env = "BREEZE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How log lines look
    #[arg(long, global = true, env = "BREEZE_LOG_FORMAT", default_value = "text")]
    log_format: LogStyle,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogStyle {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(Box<up::Arguments>),
    #[command(subcommand)]
    Admin(admin::Command),
    Backup(backup::BackupArguments),
    Restore(backup::RestoreArguments),
    #[command(subcommand)]
    Keys(keys::Command),
    /// Print the API's OpenAPI document.
    Openapi,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match try_main(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("breeze: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn try_main(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Openapi => {
            print(&format!("{}\n", breeze_control_plane::openapi_json()));
            Ok(())
        }
        Command::Admin(command) => admin::run(&command, &mut |line| print(&format!("{line}\n"))),
        Command::Backup(arguments) => backup::backup(&arguments, &mut |line| print(&format!("{line}\n"))),
        Command::Restore(arguments) => backup::restore(&arguments, &mut |line| print(&format!("{line}\n"))),
        Command::Keys(command) => keys::run(&command, &mut |line| print(&format!("{line}\n"))),
        Command::Up(up) => {
            let format = match arguments.log_format {
                LogStyle::Text => LogFormat::Text,
                LogStyle::Json => LogFormat::Json,
            };
            telemetry::init(&arguments.log, format)?;
            breeze_runtime::tls::install_provider();
            up::run(&up)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a command-line program")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "the document is what was asked for")]
fn print(text: &str) {
    print!("{text}");
}
