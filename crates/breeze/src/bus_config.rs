//! `breeze bus-config`: the configuration of every nats-server of a system, and its users' seeds.

use crate::files;
use anyhow::Context as _;
use breeze_bus::nats::{Topology, server_config};
use breeze_runtime::config;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Largest file of a secret that is taken over.
const MAX_SECRET_BYTES: u64 = 4096;

/// Write the configuration of all nats-servers, with a key for each user
///
/// `<server>.conf` for each server; `<user>.nk` with the seed of each relay, each collector, the control
/// plane and `migrate`. Secrets that the folder already holds stay as they are, so the command can be
/// repeated when a relay or collector is added. Everything is written with mode 0600.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// TOML or JSON file: [[hub]] and [[regions]] with their servers, relays and collectors; see docs/operations.md
    #[arg(long, value_name = "FILE")]
    topology: PathBuf,
    /// Folder to write to; made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Names what is wrong with the topology, or the file that cannot be read or written.
pub(crate) fn run(arguments: &Arguments, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let mut topology = read(&arguments.topology)?;
    files::make_private_folder(&arguments.out)?;
    keep_secrets(&mut topology, &arguments.out)?;
    let written = server_config(&topology).with_context(|| format!("topology {}", arguments.topology.display()))?;
    for (name, text) in written {
        let path = arguments.out.join(&name);
        files::write_private(&path, text.as_bytes())?;
        print(&path.display().to_string());
    }
    Ok(())
}

/// TOML, or JSON where the name says so.
fn read(path: &Path) -> anyhow::Result<Topology> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(config::load_file(path)?);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no topology", path.display()))
}

/// Seeds and passwords of an earlier run.
fn keep_secrets(topology: &mut Topology, folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_secret = name.ends_with(".nk") || name.ends_with(".routes");
        if is_secret && entry.metadata()?.len() <= MAX_SECRET_BYTES {
            let text = fs::read_to_string(entry.path()).with_context(|| format!("cannot read {name}"))?;
            topology.secrets.entry(name).or_insert_with(|| text.trim().to_owned());
        }
    }
    Ok(())
}
