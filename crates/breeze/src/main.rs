//! `breeze`: every server role as a subcommand, and `breeze up`, all of them in one process.

mod admin;
mod audit;
mod backup;
mod bus_config;
mod config;
mod config_command;
mod files;
mod keys;
mod migrate;
mod process;
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
    /// Run a relay: agents' connections of a region, on NATS
    Relay(process::Arguments),
    /// Run a collector: what agents of a region send becomes metrics and state
    Collector(process::Arguments),
    /// Run a node of the control plane: API, dashboard, enrolment and trust
    ControlPlane(process::Arguments),
    Migrate(migrate::Arguments),
    #[command(subcommand)]
    Config(config_command::Command),
    BusConfig(bus_config::Arguments),
    #[command(subcommand)]
    Admin(admin::Command),
    #[command(subcommand)]
    Audit(audit::Command),
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
        Command::Audit(command) => audit::run(&command, &mut |line| print(&format!("{line}\n"))),
        Command::Backup(arguments) => backup::backup(&arguments, &mut |line| print(&format!("{line}\n"))),
        Command::Restore(arguments) => backup::restore(&arguments, &mut |line| print(&format!("{line}\n"))),
        Command::Keys(command) => keys::run(&command, &mut |line| print(&format!("{line}\n"))),
        Command::Config(command) => config_command::run(&command, &mut |text| print(text)),
        Command::BusConfig(arguments) => bus_config::run(&arguments, &mut |line| print(&format!("{line}\n"))),
        Command::Migrate(command) => {
            serve(&arguments.log, arguments.log_format)?;
            migrate::run(&command, &mut |line| print(&format!("{line}\n")))
        }
        Command::Up(up) => {
            serve(&arguments.log, arguments.log_format)?;
            up::run(&up)
        }
        Command::Relay(role) => {
            serve(&arguments.log, arguments.log_format)?;
            process::relay(&role)
        }
        Command::Collector(role) => {
            serve(&arguments.log, arguments.log_format)?;
            process::collector(&role)
        }
        Command::ControlPlane(role) => {
            serve(&arguments.log, arguments.log_format)?;
            process::control_plane(&role)
        }
    }
}

/// What everything that speaks to networks needs first.
fn serve(log: &str, style: LogStyle) -> anyhow::Result<()> {
    let format = match style {
        LogStyle::Text => LogFormat::Text,
        LogStyle::Json => LogFormat::Json,
    };
    telemetry::init(log, format)?;
    breeze_runtime::tls::install_provider();
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the last word of a command-line program")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "the document is what was asked for")]
fn print(text: &str) {
    print!("{text}");
}
