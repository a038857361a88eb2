//! `breeze relay`.

use super::{Process, engines, identity::Identity, nats_config, room};
use crate::config::RelayFile;
use anyhow::Context as _;
use breeze_bus::nats::{Streams, permissions::relay_user};
use serde::Serialize;
use std::{sync::Arc, time::Duration};

/// Files without which a relay cannot begin unless it can write.
const KEPT: [&str; 4] = ["server.key", "certificate", "transport.key", "tickets.key"];
/// How often it is looked whether the lanes take what is sent.
const LANES_INTERVAL: Duration = Duration::from_secs(1);

/// What the ready file says.
#[derive(Debug, Serialize)]
struct Ready {
    role: &'static str,
    id: String,
    region: String,
    /// Bound addresses.
    quic: String,
    wss: String,
}

/// Until the process is to stop, or a task fails.
///
/// # Errors
/// In words for an operator.
pub(super) async fn run(file: RelayFile, process: Process) -> anyhow::Result<()> {
    let Process { shutdown, ops, .. } = &process;
    let own = ops.component("relay");
    let pin = file.instance_ca().context("relay.instance_ca")?;
    let section = &file.relay;
    let data = ops.component("data");
    let has_keys = KEPT.iter().all(|name| section.data.join(name).exists());
    if !has_keys && room::wait(&section.data, &data, shutdown).await.context("data")?.is_none() {
        return Ok(());
    }
    room::watch(&section.data, data, shutdown.token());
    let streams = Streams { lanes: section.lanes, regions: section.regions.clone(), replicas: 1, max_stream_bytes: 0 };
    let streams = streams.names(&file.region)?;
    let (bus_section, region, user) = (file.bus.clone(), file.region.clone(), relay_user(&section.id));
    let make = Arc::new(move || nats_config(&bus_section, &region, &user));
    let Some(bus) = engines::bus(make, &streams, ops, shutdown).await? else { return Ok(()) };

    let opened = Identity::open(&section.data, &section.id, pin, bus.clone(), ops, shutdown).await;
    let Some(identity) = opened.context("certificate")? else { return Ok(()) };
    let shown = identity.shown();
    let renewing = tokio::spawn(identity.keep(Arc::clone(&shown.root), ops.component("certificate"), shutdown.token()));

    let config = breeze_relay::Config {
        id: section.id.clone(),
        region: file.region.clone(),
        regions: section.regions.clone(),
        lanes: section.lanes,
        quic_listen: section.quic_listen,
        wss_listen: section.wss_listen,
        public_host: None,
        // What agents are told comes from the registry.
        public_quic: None,
        public_wss: None,
        data_dir: section.data.clone(),
        drain_ms: section.drain_ms,
        limits: section.limits,
    };
    let relay = breeze_relay::start(config, shown, bus, shutdown.clone()).await.context("relay")?;
    let (stuck, lanes, stop) = (relay.stuck_lanes(), ops.component("lanes"), shutdown.token());
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            match stuck() {
                Some(why) => lanes.failing(why),
                None => lanes.ready(),
            }
            stop.run_until_cancelled(tokio::time::sleep(LANES_INTERVAL)).await;
        }
    });
    own.failing("no revocation set yet: nobody is let in until the control plane has sent it");
    if shutdown.token().run_until_cancelled(relay.ready()).await.is_some() {
        own.ready();
        tracing::info!(relay.id = section.id, region = file.region, "relay is up");
        process.announce(&Ready {
            role: "relay",
            id: section.id.clone(),
            region: file.region.clone(),
            quic: relay.quic_addr.to_string(),
            wss: relay.wss_addr.to_string(),
        })?;
    }
    shutdown.begun().await;
    let result = relay.join().await;
    renewing.await?;
    result
}
