//! `GET /status`: how the installation is.

use crate::{
    api::{Api, Caller, Timestamp, access::StatusRead, time::now_ms},
    context::App,
    error::ApiError,
    live::roles::STALE,
    tasks::foreign::Waiting,
};
use axum::{Json, extract::State};
use breeze_bus::BusError;
use breeze_proto::{
    shard::{LaneCount, LaneId, MAX_LANES},
    subject,
    v1::RoleStatus,
};
use breeze_store::{
    metrics::{Metrics, Usage},
    model::{instance, lane::LaneRecord},
};
use futures_util::{StreamExt as _, future::join_all};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{error::Elapsed, timeout};
use utoipa::ToSchema;
use utoipa_axum::routes;

/// Counters that say what was dropped end so.
const DROPS: [&str; 6] =
    ["dropped_total", "lost_total", "refused_total", "rejected_total", "malformed_total", "thinned_total"];
/// Files that are counted for the size of the data folder.
const MAX_FILES: usize = 200_000;

/// The installation: regions, engines, roles, lanes, storage, and what was dropped.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SystemStatus {
    version: &'static str,
    started_at: Timestamp,
    ready: bool,
    storage: Storage,
    regions: Vec<RegionState>,
    engines: Vec<EngineState>,
    /// Of all regions; at most 1,024.
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

/// A region in sum.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RegionState {
    name: String,
    /// Whether nothing of it was heard for 10 s: cut off, or stopped.
    missing: bool,
    roles: u64,
    roles_ready: u64,
    /// Heard of within the hour, and not for the last 10 s.
    roles_gone: u64,
    lanes: u64,
    /// Entries that wait in its lanes.
    lag_entries: u64,
    /// How old the oldest is that a collector has taken and not stored yet.
    lag_seconds: f64,
    /// What it holds for other regions and nobody has taken anything of for three minutes.
    foreign: Vec<ForeignState>,
}

/// Entries of another region's devices, stored in a region until its collectors move them home.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ForeignState {
    /// The region that they are for.
    home: String,
    entries: u64,
    /// For how long nothing was taken; looked at once a minute.
    waiting_seconds: f64,
}

/// What the roles stand on, as this node sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct EngineState {
    /// "bus", "state" or "metrics".
    engine: &'static str,
    region: String,
    reachable: bool,
    #[schema(required)]
    error: Option<String>,
}

/// What a role said last. One that is silent for 10 s is gone.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RoleState {
    role: String,
    id: String,
    region: String,
    version: String,
    started_at: Timestamp,
    seen_at: Timestamp,
    ready: bool,
    /// Whether it was not heard of for 10 s. It stays on the list for an hour.
    gone: bool,
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
    /// Entries that are not stored as metrics yet.
    lag_entries: u64,
    /// Id of the collector that holds it; null while nobody does.
    #[schema(required)]
    owner: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Drop {
    name: String,
    count: u64,
}

/// How long an engine may take to answer for the status.
const ENGINE_PATIENCE: Duration = Duration::from_secs(2);
/// Lanes that are asked about at a time.
const LANES_AT_A_TIME: usize = 16;
/// The collectors' gauge of what they have taken and not stored.
const STORE_LAG: &str = "collector_store_lag";

/// The status, from what this node knows and sees. What does not answer is named, and hides nothing else.
///
/// # Errors
/// Only when the folder cannot be looked at.
pub(crate) async fn status(app: &App) -> Result<SystemStatus, ApiError> {
    let now_us = now_ms() * 1000;
    let roles: Vec<RoleState> =
        app.live.roles.list(now_us).into_iter().map(|status| RoleState::of(status, now_us)).collect();
    let mut regions: BTreeSet<String> =
        roles.iter().map(|role| role.region.clone()).filter(|region| !region.is_empty()).collect();
    regions.extend(app.config.regions());
    let (usage, state, (lanes, buses)) = tokio::join!(usage(app), state_engine(app), lanes(app, &regions));
    let (metrics, usage) = usage;
    let engines: Vec<EngineState> = buses.into_iter().chain([state]).chain(metrics).collect();
    let data = app.config.data.clone();
    let (data_bytes, free_bytes) = tokio::task::spawn_blocking(move || (folder_bytes(&data), free_bytes(&data)))
        .await
        .map_err(ApiError::internal)?;
    let ready = app.ready.load(Ordering::Relaxed)
        && roles.iter().all(|role| role.ready)
        && engines.iter().all(|engine| engine.reachable);
    Ok(SystemStatus {
        version: env!("CARGO_PKG_VERSION"),
        started_at: Timestamp(app.started_ms),
        ready,
        storage: Storage {
            data_bytes,
            free_bytes,
            metrics_bytes: usage.bytes,
            metrics_rows: usage.heartbeat_rows + usage.named_rows,
        },
        regions: regions.iter().map(|name| RegionState::of(name, &roles, &lanes, app.foreign.waiting(name))).collect(),
        engines,
        roles,
        lanes,
        drops: app.render_metrics.as_ref().map_or_else(Vec::new, |render| drops(&render())),
    })
}

impl RoleState {
    fn of(status: RoleStatus, now_us: u64) -> Self {
        let gauges = status.gauges.into_iter();
        Self {
            gone: now_us.saturating_sub(status.at_us) > STALE.as_micros() as u64,
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

impl RegionState {
    fn of(name: &str, roles: &[RoleState], lanes: &[LaneState], waiting: Vec<Waiting>) -> Self {
        let of_region = || roles.iter().filter(|role| role.region == name);
        let lanes: Vec<&LaneState> = lanes.iter().filter(|lane| lane.region == name).collect();
        let lag_seconds = of_region()
            .filter(|role| !role.gone)
            .flat_map(|role| &role.gauges)
            .filter(|gauge| gauge.name == STORE_LAG && gauge.unit == "seconds" && gauge.value.is_finite())
            .fold(0.0, |most: f64, gauge| most.max(gauge.value));
        Self {
            name: name.to_owned(),
            missing: of_region().all(|role| role.gone),
            roles: of_region().count() as u64,
            roles_ready: of_region().filter(|role| role.ready).count() as u64,
            roles_gone: of_region().filter(|role| role.gone).count() as u64,
            lanes: lanes.len() as u64,
            lag_entries: lanes.iter().map(|lane| lane.lag_entries).sum(),
            lag_seconds,
            foreign: waiting
                .into_iter()
                .map(|Waiting { home, entries, waited }| ForeignState {
                    home,
                    entries,
                    waiting_seconds: waited.as_secs_f64(),
                })
                .collect(),
        }
    }
}

impl EngineState {
    fn of<E: std::fmt::Display>(engine: &'static str, region: &str, answer: Result<Result<(), E>, Elapsed>) -> Self {
        let error = match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", ENGINE_PATIENCE.as_secs())),
        };
        Self { engine, region: region.to_owned(), reachable: error.is_none(), error }
    }
}

async fn state_engine(app: &App) -> EngineState {
    let answer = timeout(ENGINE_PATIENCE, instance::read(&*app.state)).await;
    EngineState::of("state", &app.config.region, answer.map(|read| read.map(|_| ())))
}

/// Each region's store of metrics, and what those that answer hold together.
async fn usage(app: &App) -> (Vec<EngineState>, Usage) {
    let stores: Vec<(String, Arc<dyn Metrics>)> = if app.regional_metrics.is_empty() {
        vec![(app.config.region.clone(), Arc::clone(&app.metrics))]
    } else {
        app.regional_metrics.iter().map(|(region, store)| (region.clone(), Arc::clone(store))).collect()
    };
    let mut asked = Vec::new();
    for (region, store) in stores {
        asked.push(async move {
            let answer = timeout(ENGINE_PATIENCE, store.usage()).await;
            (region, answer)
        });
    }
    let (mut engines, mut sum) = (Vec::new(), Usage::default());
    for (region, answer) in join_all(asked).await {
        if let Ok(Ok(usage)) = &answer {
            sum.bytes += usage.bytes;
            sum.heartbeat_rows += usage.heartbeat_rows;
            sum.named_rows += usage.named_rows;
            sum.segments += usage.segments;
        }
        engines.push(EngineState::of("metrics", &region, answer.map(|usage| usage.map(|_| ()))));
    }
    (engines, sum)
}

/// The lanes that were ever written to, and which regions' streams answer.
async fn lanes(app: &App, regions: &BTreeSet<String>) -> (Vec<LaneState>, Vec<EngineState>) {
    let all: Vec<LaneId> = LaneCount::new(MAX_LANES).into_iter().flat_map(LaneCount::lanes).collect();
    let mut wanted: Vec<(String, LaneId)> = Vec::new();
    for region in regions {
        wanted.extend(all.iter().map(|lane| (region.clone(), *lane)));
    }
    let mut asked: Vec<_> = futures_util::stream::iter(wanted)
        .map(|(region, lane)| {
            let app = app.clone();
            async move {
                let answer = timeout(ENGINE_PATIENCE, lane_state(&app, &region, lane)).await;
                (region, lane, answer)
            }
        })
        .buffer_unordered(LANES_AT_A_TIME)
        .collect()
        .await;
    asked.sort_by(|a, b| (&a.0, a.1.number()).cmp(&(&b.0, b.1.number())));
    let mut lanes = Vec::new();
    // One stream that answers is enough: a region may have fewer lanes than there can be.
    let mut buses: BTreeMap<String, EngineState> = BTreeMap::new();
    for (region, _, answer) in asked {
        let engine = match answer {
            Ok(Ok(lane)) => {
                lanes.extend(lane);
                EngineState::of("bus", &region, Ok::<_, Elapsed>(Ok::<(), BusError>(())))
            }
            Ok(Err(error)) => EngineState::of("bus", &region, Ok(Err::<(), _>(error))),
            Err(late) => EngineState::of::<BusError>("bus", &region, Err(late)),
        };
        let held = buses.get(&region).is_some_and(|held| held.reachable || !engine.reachable);
        if !held {
            buses.insert(region, engine);
        }
    }
    (lanes, buses.into_values().collect())
}

/// `None` for a lane that was never written to.
async fn lane_state(app: &App, region: &str, lane: LaneId) -> Result<Option<LaneState>, BusError> {
    let extent = app.bus.extent(&subject::lane_stream(region, lane)).await?;
    if extent.last == 0 {
        return Ok(None);
    }
    let record = LaneRecord::new(Arc::clone(&app.state), region, lane);
    // The store's trouble is told by itself; the lane is shown without what it would say.
    let (holder, boundary) = tokio::join!(record.holder(), record.boundary());
    let stored = boundary.map_or(extent.first.saturating_sub(1), |(boundary, _)| boundary.applied_through);
    let holder = holder.ok().flatten().filter(|(_, until_ms)| *until_ms > now_ms());
    Ok(Some(LaneState {
        region: region.to_owned(),
        lane: lane.number(),
        first: extent.first,
        last: extent.last,
        bytes: extent.bytes,
        lag_entries: extent.last.saturating_sub(stored.max(extent.first.saturating_sub(1))),
        owner: holder.map(|(owner, _)| String::from_utf8_lossy(&owner).into_owned()),
    }))
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

    #[test]
    fn a_region_is_missing_when_nothing_of_it_is_heard() {
        let role = |region: &str, gone: bool, ready: bool, lag: f64| RoleState {
            role: "collector".into(),
            id: "x".into(),
            region: region.into(),
            version: String::new(),
            started_at: Timestamp(0),
            seen_at: Timestamp(0),
            ready,
            gone,
            message: String::new(),
            gauges: vec![GaugeState { name: STORE_LAG.into(), unit: "seconds".into(), value: lag }],
        };
        let roles = [role("eu", false, true, 2.5), role("eu", true, false, 90.0), role("us", true, false, 7.0)];
        let lane = LaneState {
            region: "eu".into(),
            lane: 0,
            first: 1,
            last: 9,
            bytes: 10,
            lag_entries: 4,
            owner: Some("eu-1".into()),
        };
        let waiting = Waiting { home: "us".into(), entries: 7, waited: Duration::from_secs(200) };
        let eu = RegionState::of("eu", &roles, std::slice::from_ref(&lane), vec![waiting]);
        assert_eq!((eu.missing, eu.roles, eu.roles_ready, eu.roles_gone), (false, 2, 1, 1));
        assert_eq!((eu.lanes, eu.lag_entries, eu.lag_seconds), (1, 4, 2.5));
        assert_eq!((eu.foreign[0].home.as_str(), eu.foreign[0].waiting_seconds), ("us", 200.0));
        let us = RegionState::of("us", &roles, std::slice::from_ref(&lane), vec![]);
        assert_eq!((us.missing, us.lag_entries, us.lag_seconds), (true, 0, 0.0));
        assert!(RegionState::of("asia", &roles, &[lane], vec![]).missing, "configured, and never heard of");
    }
}
