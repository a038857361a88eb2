//! `GET /overview`: what a person sees first.

use crate::{
    api::{Api, Caller, access::DevicesRead, time::now_ms},
    context::App,
    directory::DeviceSummary,
    error::ApiError,
};
use axum::{Json, extract::State};
use breeze_store::model::Scope;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

/// Counts, ingest, and devices worth a look.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Overview {
    devices: DeviceTotals,
    ingest: Ingest,
    /// Online, by processor use.
    busiest: Vec<DeviceSummary>,
    newest: Vec<DeviceSummary>,
    offline_longest: Vec<DeviceSummary>,
}

/// Devices by status and by health.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct DeviceTotals {
    total: u64,
    online: u64,
    offline: u64,
    /// Enrolled, and never heard of since.
    pending: u64,
    warning: u64,
    error: u64,
}

/// How much arrives, of all tenants together.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Ingest {
    heartbeats_per_s: f64,
    samples_per_s: f64,
    /// Of the last hour: milliseconds and heartbeats a second.
    #[schema(value_type = Vec<Vec<f64>>)]
    history: Vec<(u64, f64)>,
}

/// The overview as the caller may see it.
pub(crate) fn overview(app: &App, scope: &Scope) -> Overview {
    let seen = app.directory.overview(scope);
    let rate = app.live.roles.rate(now_ms() * 1000);
    let totals = seen.totals;
    Overview {
        devices: DeviceTotals {
            total: totals.total,
            online: totals.online,
            offline: totals.offline,
            pending: totals.pending,
            warning: totals.warning,
            error: totals.error,
        },
        ingest: Ingest {
            heartbeats_per_s: rate.heartbeats_per_s,
            samples_per_s: rate.samples_per_s,
            history: app.live.roles.history(),
        },
        busiest: seen.busiest,
        newest: seen.newest,
        offline_longest: seen.offline_longest,
    }
}

pub(super) fn register(api: Api) -> Api {
    api.read::<DevicesRead>(routes!(get_overview))
}

/// Overview
#[utoipa::path(get, path = "/api/v1/overview", tag = "devices", responses((status = 200, body = Overview)))]
async fn get_overview(State(app): State<App>, caller: Caller<DevicesRead>) -> Result<Json<Overview>, ApiError> {
    Ok(Json(overview(&app, caller.scope())))
}
