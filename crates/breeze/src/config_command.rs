//! `breeze config`: what a role's configuration says, and what is wrong with it.

use crate::config::RoleFile;
use std::path::PathBuf;

/// Look at the configuration of a role
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say everything that is wrong with a file, with key and what to write; nothing is connected to
    ///
    /// What is allowed and may not be meant is a warning.
    Check {
        /// The role's TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the values in force: the file, the environment over it, and the defaults
    ///
    /// Secrets are not printed: the configuration names the files that hold them.
    Show {
        /// The role's TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Runs it.
///
/// # Errors
/// Every problem of the file.
pub(crate) fn run(command: &Command, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    match command {
        Command::Check { file } => {
            let read = RoleFile::load(file)?;
            for warning in read.warnings() {
                print(&format!("warning: {warning}\n"));
            }
            print(&format!("ok: {}\n", read.describe()));
        }
        Command::Show { file } => print(&RoleFile::parse(file)?.show()?),
    }
    Ok(())
}
