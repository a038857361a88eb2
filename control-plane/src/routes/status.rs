//! `GET /status`: how the installation is.

use crate::{
    api::{Api, Caller, Timestamp, access::StatusRead, time::now_ms},
    context::App,
    error::ApiError,
};
use axum::{Json, extract::State};
use breeze_proto::{
    shard::{LaneCount, LaneId, MAX_LANES},
    subject,
    v1::RoleStatus,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::Ordering,
};
use utoipa::ToSchema;
use utoipa_axum::routes;

/// Counters that say what was dropped end so.
const DROPS: [&str; 6] =
    ["dropped_total", "lost_total", "refused_total", "rejected_total", "malformed_total", "thinned_total"];
/// Files that are counted for the size of the data folder.
const MAX_FILES: usize = 200_000;

/// The installation: storage, roles, lanes and what was dropped.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SystemStatus {
    version: &'static str,
    started_at: Timestamp,
    ready: bool,
    storage: Storage,
    roles: Vec<RoleState>,
    lanes: Vec<LaneState>,
    /// Of this node, since it started.
    drops: Vec<Drop>,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Storage {
    /// All of the data folder.
    data_bytes: u64,
    /// Left on its disk.
    free_bytes: u64,
    metrics_bytes: u64,
    metrics_rows: u64,
}

/// What a role said last. One that is silent for 10 s is not ready.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RoleState {
    role: String,
    id: String,
    region: String,
    version: String,
    started_at: Timestamp,
    seen_at: Timestamp,
    ready: bool,
    message: String,
    gauges: Vec<GaugeState>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct GaugeState {
    name: String,
    unit: String,
    value: f64,
}

/// A lane's durable stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct LaneState {
    region: String,
    lane: u16,
    first: u64,
    last: u64,
    bytes: u64,
    /// Entries that its collector has not let go of yet.
    lag_entries: u64,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Drop {
    name: String,
    count: u64,
}

/// The status, from what this node knows and sees.
///
/// # Errors
/// The store's and the bus's.
pub(crate) async fn status(app: &App) -> Result<SystemStatus, ApiError> {
    let roles = app.live.roles.list(now_ms() * 1000);
    let mut regions: BTreeSet<String> =
        roles.iter().map(|role| role.region.clone()).filter(|region| !region.is_empty()).collect();
    regions.insert(app.config.region.clone());
    let usage = app.metrics.usage().await.map_err(|error| {
        tracing::warn!(%error, "usage of the metrics store cannot be read");
        ApiError::unavailable("The metrics store does not answer. Try again in a moment.")
    })?;
    let data = app.config.data.clone();
    let (data_bytes, free_bytes) = tokio::task::spawn_blocking(move || (folder_bytes(&data), free_bytes(&data)))
        .await
        .map_err(ApiError::internal)?;
    Ok(SystemStatus {
        version: env!("CARGO_PKG_VERSION"),
        started_at: Timestamp(app.started_ms),
        ready: app.ready.load(Ordering::Relaxed) && roles.iter().all(|role| role.ready),
        storage: Storage {
            data_bytes,
            free_bytes,
            metrics_bytes: usage.bytes,
            metrics_rows: usage.heartbeat_rows + usage.named_rows,
        },
        lanes: lanes(app, &regions).await?,
        roles: roles.into_iter().map(RoleState::from).collect(),
        drops: app.render_metrics.as_ref().map_or_else(Vec::new, |render| drops(&render())),
    })
}

impl From<RoleStatus> for RoleState {
    fn from(status: RoleStatus) -> Self {
        let gauges = status.gauges.into_iter();
        Self {
            role: status.role,
            id: status.id,
            region: status.region,
            version: status.version,
            started_at: Timestamp::from_us(status.started_us),
            seen_at: Timestamp::from_us(status.at_us),
            ready: status.ready,
            message: status.message,
            gauges: gauges.map(|g| GaugeState { name: g.name, unit: g.unit, value: g.value }).collect(),
        }
    }
}

/// The lanes that were ever written to.
async fn lanes(app: &App, regions: &BTreeSet<String>) -> Result<Vec<LaneState>, ApiError> {
    let mut lanes = Vec::new();
    let all: Vec<LaneId> = LaneCount::new(MAX_LANES).into_iter().flat_map(LaneCount::lanes).collect();
    for region in regions {
        for lane in &all {
            let extent = app.bus.extent(&subject::lane_stream(region, *lane)).await?;
            if extent.last == 0 {
                continue;
            }
            lanes.push(LaneState {
                region: region.clone(),
                lane: lane.number(),
                first: extent.first,
                last: extent.last,
                bytes: extent.bytes,
                lag_entries: (extent.last + 1).saturating_sub(extent.first),
            });
        }
    }
    Ok(lanes)
}

/// The counters of what was dropped, labels summed, in Prometheus' text format.
fn drops(text: &str) -> Vec<Drop> {
    let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if DROPS.iter().any(|end| name.ends_with(end)) {
            *counts.entry(name).or_default() += value.parse::<f64>().unwrap_or(0.0);
        }
    }
    let shown = |name: &str| name.trim_start_matches("breeze_").trim_end_matches("_total").to_owned();
    counts.into_iter().map(|(name, count)| Drop { name: shown(name), count: count as u64 }).collect()
}

/// Sizes of all files below `folder`; what cannot be read counts nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let (mut bytes, mut files) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.is_file() {
                bytes += meta.len();
            }
            files += 1;
            if files >= MAX_FILES {
                return bytes;
            }
        }
    }
    bytes
}

/// What may still be written to the folder's disk; 0 if that is not known.
fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub(super) fn register(api: Api) -> Api {
    api.read::<StatusRead>(routes!(get_status))
}

/// System status
#[utoipa::path(get, path = "/api/v1/status", tag = "system", responses((status = 200, body = SystemStatus)))]
async fn get_status(State(app): State<App>, _: Caller<StatusRead>) -> Result<Json<SystemStatus>, ApiError> {
    status(&app).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_summed_over_their_labels() {
        let text = "# TYPE breeze_ws_samples_dropped_total counter\n\
                    breeze_ws_samples_dropped_total 3\n\
                    breeze_frames_refused_total{reason=\"size\"} 2\n\
                    breeze_frames_refused_total{reason=\"order\"} 5\n\
                    breeze_api_requests_total{status=\"2xx\"} 70\n";
        let drops: Vec<(String, u64)> = drops(text).into_iter().map(|drop| (drop.name, drop.count)).collect();
        assert_eq!(drops, [("frames_refused".to_owned(), 7), ("ws_samples_dropped".to_owned(), 3)]);
    }

    #[test]
    fn a_folder_is_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("a")).expect("created");
        std::fs::write(folder.path().join("a/b"), [0; 1000]).expect("written");
        std::fs::write(folder.path().join("c"), [0; 24]).expect("written");
        assert_eq!(folder_bytes(folder.path()), 1024);
        assert!(free_bytes(folder.path()) > 0);
    }
}
