//! `GET /devices`.

use crate::{
    api::{Caller, Query, access::DevicesRead, cursor::checked_limit, time::now_ms},
    context::App,
    directory::{DeviceSummary, Facets, ListQuery, MAX_SEARCH_BYTES, Sort, SortField},
    error::ApiError,
    filter,
};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// What to list, and how.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Rows at most.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// A field, downwards with `-` before it: hostname (as without `sort`), display_name, status,
    /// last_seen_at, os_type, os_version, agent_version, cpu_percent, ram_percent, disk_percent,
    /// enrolled_at, uptime_s.
    sort: Option<String>,
    /// Words that must all be found in names, user, addresses, serial number or tags.
    q: Option<String>,
    /// The filter language: `os = "windows" and ram_gb > 8 and not tag:patched`.
    filter: Option<String>,
}

/// A page of devices, with counts over the whole list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DevicePage {
    data: Vec<DeviceSummary>,
    #[schema(required)]
    next_cursor: Option<String>,
    has_more: bool,
    total: u64,
    facets: Facets,
}

/// List devices.
///
/// Searched, filtered and sorted by the server, with counts of the values that the whole list has.
#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", params(ListParams), responses((status = 200, body = DevicePage)))]
pub(crate) async fn list_devices(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<DevicePage>, ApiError> {
    let limit = checked_limit(params.limit)?;
    let sort = sort(params.sort.as_deref())?;
    let search = params.q.unwrap_or_default();
    if search.len() > MAX_SEARCH_BYTES {
        return Err(ApiError::field("q", format!("must have at most {MAX_SEARCH_BYTES} bytes")));
    }
    let filter = filter::parse(params.filter.as_deref().unwrap_or_default())
        .map_err(|error| ApiError::field("filter", error.to_string()))?;
    if !app.directory.is_ready() {
        return Err(ApiError::unavailable("The device list is being built. Try again in a moment."));
    }
    // In its canonical form, so that a cursor survives another way of writing the same filter.
    let canonical = filter.as_ref().map(ToString::to_string).unwrap_or_default();
    let (sorted, partner) = (sort.to_string(), caller.partner_id.to_string());
    let context = ["devices", &partner, &search, &canonical, &sorted];
    let after = params.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    let query = ListQuery { search: search.clone(), filter, sort, after, limit };
    // A few milliseconds of pure work for the most costly filters: not on a thread that serves sockets.
    let (directory, scope) = (Arc::clone(&app.directory), caller.scope().clone());
    let page = tokio::task::spawn_blocking(move || directory.list(&scope, &query, now_ms()))
        .await
        .map_err(ApiError::internal)?;
    Ok(Json(DevicePage {
        has_more: page.next.is_some(),
        next_cursor: page.next.map(|next| app.cursors.seal(&context, &next)),
        data: page.devices,
        total: page.total,
        facets: page.facets,
    }))
}

fn sort(text: Option<&str>) -> Result<Sort, ApiError> {
    Sort::parse(text.unwrap_or("hostname")).ok_or_else(|| {
        let names = SortField::ALL.map(SortField::name).join(", ");
        ApiError::field("sort", format!("must be one of {names}, with - before it for downwards"))
    })
}
