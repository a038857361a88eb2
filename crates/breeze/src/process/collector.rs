//! `breeze collector`.

use super::{Process, clickhouse_config, cql_config, engines, nats_config};
use crate::config::CollectorFile;
use anyhow::Context as _;
use breeze_bus::nats::{Streams, permissions::collector_user};
use breeze_store::history::ClickHouseHistory;
use serde::Serialize;
use std::sync::Arc;

/// What the ready file says.
#[derive(Debug, Serialize)]
struct Ready {
    role: &'static str,
    id: String,
    region: String,
}

/// Until the process is to stop, or a task fails.
///
/// # Errors
/// In words for an operator.
pub(super) async fn run(file: CollectorFile, process: Process) -> anyhow::Result<()> {
    let Process { shutdown, ops, .. } = &process;
    let own = ops.component("collector");
    let section = &file.collector;
    for warning in file.warnings() {
        tracing::warn!("{warning}");
    }
    let streams = Streams { lanes: section.lanes, regions: section.regions.clone(), replicas: 1, max_stream_bytes: 0 };
    let streams = streams.names(&file.region)?;
    // Together, so that whatever is missing is told at once.
    let (bus_section, region, user) = (file.bus.clone(), file.region.clone(), collector_user(&section.id));
    let (state_section, metrics_section, kept) = (file.state.clone(), file.metrics.clone(), file.retention.clone());
    let engines = tokio::try_join!(
        engines::bus(Arc::new(move || nats_config(&bus_section, &region, &user)), &streams, ops, shutdown),
        engines::state(Arc::new(move || cql_config(&state_section)), ops, shutdown),
        engines::metrics(Arc::new(move || clickhouse_config(&metrics_section, &kept)), ops, shutdown),
    )?;
    let (Some(bus), Some(state), Some(metrics)) = engines else { return Ok(()) };
    // The same files were just read, and let us in.
    let history = ClickHouseHistory::new(clickhouse_config(&file.metrics, &file.retention).context("metrics")?)?;

    let config = breeze_collector::Config {
        id: section.id.clone(),
        region: file.region.clone(),
        lanes: section.lanes,
        flush_interval_ms: section.flush_interval_ms,
        latest_interval_ms: section.latest_interval_ms,
        offline_floor_ms: section.offline_floor_ms,
        lease_ms: section.lease_ms,
        homes: section.regions.clone(),
    };
    let upkeep = tokio::spawn(Arc::clone(&metrics).run_maintenance(shutdown.token()));
    let collector =
        breeze_collector::start(config, bus, state, metrics, history, shutdown.clone()).await.context("collector")?;
    own.ready();
    tracing::info!(collector.id = section.id, region = file.region, "collector is up");
    process.announce(&Ready { role: "collector", id: section.id.clone(), region: file.region.clone() })?;
    shutdown.begun().await;
    let ended = collector.join().await;
    upkeep.await.context("upkeep of the metrics")?.context("upkeep of the metrics")?;
    ended
}
