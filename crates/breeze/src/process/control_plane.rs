//! `breeze control-plane`.

use super::{Process, clickhouse_config, cql_config, engines, nats_config, room};
use crate::config::ControlPlaneFile;
use anyhow::Context as _;
use breeze_bus::nats::permissions::CONTROL_PLANE_USER;
use breeze_control_plane::{ControlPlane, Deps};
use breeze_proto::subject;
use breeze_store::{
    history::{ClickHouseHistory, History, RegionalHistory},
    metrics::{Metrics, clickhouse::ClickHouseMetrics, regional::RegionalMetrics},
};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

/// What the ready file says. Whoever reads it may enrol devices and, before set-up, take the instance.
#[derive(Debug, Serialize)]
struct Ready {
    role: &'static str,
    id: String,
    region: String,
    /// Origin of the dashboard on this node.
    dashboard: String,
    /// Base of the API.
    api: String,
    /// The one-time link; null once used.
    setup_url: Option<String>,
    enrollment_key: String,
    /// What relays pin.
    instance_ca: String,
}

/// Until the process is to stop, or a task fails.
///
/// # Errors
/// In words for an operator.
pub(super) async fn run(file: ControlPlaneFile, process: Process) -> anyhow::Result<()> {
    let Process { shutdown, ops, .. } = &process;
    let own = ops.component("control-plane");
    let (folder, data) = (&file.control_plane.data, ops.component("data"));
    let has_keys = folder.join("keys").read_dir().is_ok_and(|mut names| names.next().is_some());
    if !has_keys && room::wait(folder, &data, shutdown).await.context("data")?.is_none() {
        return Ok(());
    }
    room::watch(folder, data, shutdown.token());
    let streams = [subject::DIRECTORY_STREAM.to_owned()];
    // Together, so that whatever is missing is told at once.
    let (bus_section, state_section, region) = (file.bus.clone(), file.state.clone(), file.region.clone());
    let engines = tokio::try_join!(
        engines::bus(Arc::new(move || nats_config(&bus_section, &region, CONTROL_PLANE_USER)), &streams, ops, shutdown),
        engines::state(Arc::new(move || cql_config(&state_section)), ops, shutdown),
    )?;
    let (Some(bus), Some(state)) = engines else { return Ok(()) };
    // A region whose metrics do not answer keeps nobody from the others: reads name it.
    let mut regional_metrics: BTreeMap<String, Arc<dyn Metrics>> = BTreeMap::new();
    let mut histories: BTreeMap<String, Arc<dyn History>> = BTreeMap::new();
    for (region, engine) in &file.metrics.regions {
        let config = clickhouse_config(engine, &file.retention).with_context(|| format!("metrics.regions.{region}"))?;
        let history = ClickHouseHistory::new(config.clone()).with_context(|| format!("metrics.regions.{region}"))?;
        histories.insert(region.clone(), history);
        let metrics = ClickHouseMetrics::new(config.clone()).with_context(|| format!("metrics.regions.{region}"))?;
        engines::watch_region(region, Arc::clone(&metrics), &config, ops, shutdown);
        regional_metrics.insert(region.clone(), metrics);
    }
    let deps = Deps {
        bus,
        state,
        metrics: Arc::new(RegionalMetrics::new(regional_metrics.clone())),
        regional_metrics,
        history: Arc::new(RegionalHistory::new(histories)),
        render_metrics: Some(Arc::new(|| breeze_runtime::metrics::render().unwrap_or_default())),
    };
    let config = file.control_plane;
    let (id, region) = (config.id.clone(), config.region.clone());
    let opened = ControlPlane::open(config, deps).await?;
    let instance_ca = hex::encode(opened.app().authority.ca().spki_sha256());
    let enrollment_key = opened.local_enrollment_key().await?.reveal();
    let control = opened.serve(Vec::new(), shutdown.clone()).await?;
    tracing::info!(dashboard = control.origin(), "control plane listens");
    if shutdown.token().run_until_cancelled(control.ready()).await.is_some() {
        own.ready();
        process.announce(&Ready {
            role: "control-plane",
            id,
            region,
            dashboard: control.origin(),
            api: format!("{}/api/v1", control.origin()),
            setup_url: control.setup_url.clone(),
            enrollment_key,
            instance_ca,
        })?;
    }
    shutdown.begun().await;
    control.join().await
}
