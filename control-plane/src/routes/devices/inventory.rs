//! `GET /devices/{id}/hardware`, `/network` and `/software`.

use crate::{
    api::{Caller, Page, Path, Query, access::DevicesRead, cursor::checked_limit},
    app::devices::{
        self,
        inventory::{self, Hardware, Network, Software},
    },
    context::App,
    error::ApiError,
};
use axum::{Json, extract::State};
use breeze_proto::id::DeviceId;
use serde::Deserialize;

/// Longest search, in bytes.
const MAX_SEARCH_BYTES: usize = 256;

/// Read a device's hardware.
///
/// 404 `not_reported` until the device has told it.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/hardware", tag = "devices",
    params(("id" = Uuid, Path, description = "The device")),
    responses((status = 200, body = Hardware)),
)]
pub(crate) async fn get_device_hardware(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path(id): Path<DeviceId>,
) -> Result<Json<Hardware>, ApiError> {
    devices::find(&app, caller.scope(), id).await?;
    inventory::hardware(&app, id).await.map(Json)
}

/// Read a device's network addresses.
///
/// 404 `not_reported` until the device has told them.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/network", tag = "devices",
    params(("id" = Uuid, Path, description = "The device")),
    responses((status = 200, body = Network)),
)]
pub(crate) async fn get_device_network(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path(id): Path<DeviceId>,
) -> Result<Json<Network>, ApiError> {
    devices::find(&app, caller.scope(), id).await?;
    inventory::network(&app, id).await.map(Json)
}

/// Which software to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SoftwareParams {
    /// Rows at most.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Part of a name or publisher.
    q: Option<String>,
    /// `name`.
    sort: Option<String>,
}

/// List a device's software.
///
/// 404 `not_reported` until the device has told it.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/software", tag = "devices",
    params(("id" = Uuid, Path, description = "The device"), SoftwareParams),
    responses((status = 200, body = Page<Software>)),
)]
pub(crate) async fn list_device_software(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path(id): Path<DeviceId>,
    Query(params): Query<SoftwareParams>,
) -> Result<Json<Page<Software>>, ApiError> {
    let limit = checked_limit(params.limit)?;
    let search = params.q.unwrap_or_default();
    if search.len() > MAX_SEARCH_BYTES {
        return Err(ApiError::field("q", format!("must have at most {MAX_SEARCH_BYTES} bytes")));
    }
    if params.sort.is_some_and(|sort| sort != "name") {
        return Err(ApiError::field("sort", "must be name"));
    }
    let (partner, device) = (caller.partner_id.to_string(), id.to_string());
    let context = ["software", &partner, &device, &search];
    let after = params.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    devices::find(&app, caller.scope(), id).await?;
    let page = inventory::software(&app, id, &search, after.as_ref(), limit).await?;
    Ok(Json(Page {
        data: page.data,
        has_more: page.next.is_some(),
        next_cursor: page.next.map(|next| app.cursors.seal(&context, &next)),
        total: page.total,
    }))
}
