//! The embedded engines of one machine, opened before the roles and closed after them.

use super::settings::Settings;
use crate::backup::Live;
use anyhow::Context;
use breeze_bus::embedded::{EmbeddedBus, EmbeddedBusConfig};
use breeze_store::{
    history::EmbeddedHistory,
    metrics::embedded::{EmbeddedMetrics, EmbeddedMetricsConfig},
    state::{
        BUCKETS,
        embedded::{self, EmbeddedState},
    },
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between two rounds of pruning the history, each of one of its buckets: all of them in a day.
const PRUNE_INTERVAL: Duration = Duration::from_secs(86_400 / BUCKETS as u64);

#[derive(Debug)]
pub(super) struct Engines {
    pub(super) state: Arc<EmbeddedState>,
    pub(super) bus: Arc<EmbeddedBus>,
    pub(super) metrics: Arc<EmbeddedMetrics>,
    /// Kept in `state`.
    pub(super) history: Arc<EmbeddedHistory>,
    stop: CancellationToken,
    upkeep: Vec<JoinHandle<()>>,
}

impl Engines {
    /// Opens (or makes) all three below `data`.
    ///
    /// # Errors
    /// If one is damaged, of a newer format, or open in another process.
    pub(super) async fn open(data: &Path, reserve_bytes: u64, settings: &Settings) -> anyhow::Result<Self> {
        let config = embedded::Config { reserve_bytes, ..embedded::Config::default() };
        let state = EmbeddedState::open(data.join("state"), config).await.context("state")?;
        let bus_config = EmbeddedBusConfig {
            reserve_bytes,
            max_stream_bytes: settings.bus.max_stream_mib << 20,
            ..EmbeddedBusConfig::new(data.join("bus"))
        };
        let metrics_config = EmbeddedMetricsConfig {
            reserve_bytes,
            retention_raw_days: settings.retention.raw_days,
            retention_5m_days: settings.retention.five_minutes_days,
            retention_1h_days: settings.retention.hour_days,
            retention_1d_days: settings.retention.day_days,
            ..EmbeddedMetricsConfig::new(data.join("metrics"))
        };
        let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            let bus = EmbeddedBus::open(bus_config).context("bus")?;
            Ok((bus, EmbeddedMetrics::open(metrics_config).context("metrics")?))
        });
        let (bus, metrics) = opened.await??;
        let stop = CancellationToken::new();
        let (maintained, until) = (Arc::clone(&metrics), stop.clone());
        let maintenance = tokio::spawn(async move {
            if let Err(error) = maintained.run_maintenance(until).await {
                tracing::error!("upkeep of the metrics ended: {error}");
            }
        });
        let state = Arc::new(state);
        let history = Arc::new(EmbeddedHistory::new(state.clone()).keeping(settings.retention.history_days));
        let pruning = tokio::spawn(prune(Arc::clone(&history), stop.clone()));
        Ok(Self { state, bus: Arc::new(bus), metrics, history, stop, upkeep: vec![maintenance, pruning] })
    }

    /// What a backup is taken of.
    pub(super) fn live(&self, data: &Path) -> Live {
        Live {
            data: data.to_owned(),
            state: Arc::clone(&self.state),
            bus: Arc::clone(&self.bus),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Lets everything that was accepted reach the disk.
    pub(super) async fn close(self) {
        self.stop.cancel();
        for task in self.upkeep {
            let _stopped = task.await;
        }
        self.bus.close().await;
        self.state.close().await;
    }
}

/// Deletes what has expired of the history until `stop`; what fails is tried again a day later.
async fn prune(history: Arc<EmbeddedHistory>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(PRUNE_INTERVAL)).await.is_some() {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        match history.prune(now_ms).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "history pruned"),
            Err(error) => tracing::warn!(%error, "the history is not pruned"),
        }
    }
}
