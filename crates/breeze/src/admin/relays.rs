//! The registry of relays, and what a relay must be told to believe.

use crate::{config, process::cql_config};
use anyhow::{Context as _, ensure};
use breeze_control_plane::{
    keyring::KeyFolder,
    pki::{CertificateAuthority as _, LocalCa},
};
use breeze_store::{
    model::relay::{self, RelayRecord},
    state::{State, cql::CqlState},
};
use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// Whose store and keys are meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    /// Configuration of a node of the control plane
    #[arg(long, value_name = "FILE", env = "BREEZE_CONFIG")]
    config: PathBuf,
}

/// Register a relay, or change where agents reach it
///
/// Agents are told of it at once; it gets its certificate for exactly these names.
#[derive(Debug, clap::Args)]
pub(crate) struct AddRelay {
    #[command(flatten)]
    node: Node,
    /// Unique among all relays
    #[arg(long)]
    id: String,
    /// Where it runs
    #[arg(long)]
    region: String,
    /// host:port by which agents reach it over QUIC (UDP)
    #[arg(long, value_name = "HOST:PORT")]
    quic: String,
    /// host:port by which agents reach it over WebSocket (TCP)
    #[arg(long, value_name = "HOST:PORT")]
    wss: String,
}

pub(super) fn instance_ca(node: &Node, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let file = config::control_plane(&node.config)?;
    let data = &file.control_plane.data;
    // Opening would make what is not there.
    ensure!(
        data.join("keys/ca.der").is_file(),
        "there are no keys in {}/keys: start the control plane once, or bring them with `breeze keys import`",
        data.display()
    );
    let ca = LocalCa::open(&KeyFolder::open(data)?)?;
    print(&hex::encode(ca.spki_sha256()));
    Ok(())
}

pub(super) fn add(wanted: &AddRelay, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let file = config::control_plane(&wanted.node.config)?;
    let is_token = |text: &str| {
        !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    ensure!(is_token(&wanted.id), "--id: write 1 to 64 letters, digits and '-'");
    let regions = file.control_plane.regions();
    ensure!(
        regions.contains(&wanted.region),
        "--region {}: there are {} (control_plane.regions)",
        wanted.region,
        regions.join(", ")
    );
    for (name, address) in [("--quic", &wanted.quic), ("--wss", &wanted.wss)] {
        ensure!(config::host_of(address).is_some(), "{name}: write host:port; found {address:?}");
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let record = RelayRecord {
        id: wanted.id.clone(),
        region: wanted.region.clone(),
        quic: wanted.quic.clone(),
        wss: wanted.wss.clone(),
        created_ms: now_ms,
        updated_ms: now_ms,
    };
    let is_new = with_state(&wanted.node, async |state| Ok(relay::put(state, &record).await?))?;
    print(&format!("relay {} {}", wanted.id, if is_new { "registered" } else { "changed" }));
    Ok(())
}

pub(super) fn remove(node: &Node, id: &str, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let was_there = with_state(node, async |state| Ok(relay::remove(state, id).await?))?;
    ensure!(was_there, "no relay {id} is registered");
    print(&format!("relay {id} removed"));
    Ok(())
}

pub(super) fn list(node: &Node, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let registry = with_state(node, async |state| Ok(relay::list(state).await?))?;
    for RelayRecord { id, region, quic, wss, .. } in registry.relays {
        print(&format!("{id}  region {region}  quic {quic}  wss {wss}"));
    }
    Ok(())
}

fn with_state<T>(node: &Node, work: impl AsyncFnOnce(&dyn State) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let file = config::control_plane(&node.config)?;
    breeze_runtime::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let state = CqlState::connect(cql_config(&file.state)?).await.context("state")?;
        work(&state).await
    })
}
