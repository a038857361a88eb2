//! `GET /devices/{id}/inventory/history`, and below it one version and what it changed.

use crate::{
    api::{Caller, Path, Query, access::DevicesRead, cursor::checked_limit},
    app::devices::{
        self,
        inventory::history::{
            self, InventoryChanges, InventoryVersion, SECTIONS, VersionId, VersionSummary, section_named,
        },
    },
    context::App,
    error::ApiError,
};
use axum::{Json, extract::State};
use breeze_proto::id::DeviceId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which versions to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryParams {
    /// Rows at most.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// hardware, network or software. All of them without it.
    section: Option<String>,
}

/// Which other version to compare with.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChangesParams {
    /// A version of the same section; the one before without it.
    since: Option<String>,
}

/// Versions, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InventoryHistory {
    data: Vec<VersionSummary>,
    /// Where the next page begins; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
    has_more: bool,
    /// Regions whose history does not answer at the moment: their versions are missing.
    missing_regions: Vec<String>,
}

/// List the versions of a device's inventory, newest first.
///
/// A version is kept each time that a section changes. A device that changes one all the time has so many
/// an hour; `left_out` among its events says how many more there were.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/inventory/history", tag = "devices",
    params(("id" = Uuid, Path, description = "The device"), HistoryParams),
    responses((status = 200, body = InventoryHistory)),
)]
pub(crate) async fn list_device_inventory_history(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path(id): Path<DeviceId>,
    Query(params): Query<HistoryParams>,
) -> Result<Json<InventoryHistory>, ApiError> {
    let limit = checked_limit(params.limit)?;
    let asked = params.section.unwrap_or_default();
    let sections = match asked.as_str() {
        "" => SECTIONS.to_vec(),
        name => match section_named(name) {
            Some(section) => vec![section],
            None => return Err(ApiError::field("section", "must be hardware, network or software")),
        },
    };
    let (partner, device) = (caller.partner_id.to_string(), id.to_string());
    let context = ["inventory-history", &partner, &device, &asked];
    let after: Option<VersionId> =
        params.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    devices::find(&app, caller.scope(), id).await?;
    let page = history::versions(&app, id, &sections, after.as_ref(), limit).await?;
    Ok(Json(InventoryHistory {
        data: page.data,
        has_more: page.next.is_some(),
        next_cursor: page.next.map(|next| app.cursors.seal(&context, &next)),
        missing_regions: page.missing_regions,
    }))
}

/// Read what a section of a device's inventory was.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/inventory/history/{version}", tag = "devices",
    params(("id" = Uuid, Path, description = "The device"), ("version" = String, Path, description = "As listed")),
    responses((status = 200, body = InventoryVersion)),
)]
pub(crate) async fn get_device_inventory_version(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path((id, version)): Path<(DeviceId, String)>,
) -> Result<Json<InventoryVersion>, ApiError> {
    devices::find(&app, caller.scope(), id).await?;
    history::version(&app, id, &named(&version)?).await.map(Json)
}

/// Compare a version of a device's inventory with the one before it, or with another.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/inventory/history/{version}/changes", tag = "devices",
    params(
        ("id" = Uuid, Path, description = "The device"),
        ("version" = String, Path, description = "As listed"),
        ChangesParams
    ),
    responses((status = 200, body = InventoryChanges)),
)]
pub(crate) async fn get_device_inventory_changes(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path((id, version)): Path<(DeviceId, String)>,
    Query(params): Query<ChangesParams>,
) -> Result<Json<InventoryChanges>, ApiError> {
    let since = params.since.map(|since| since.parse::<VersionId>()).transpose();
    let since = since.map_err(|()| ApiError::field("since", "must be a version as the list names it"))?;
    devices::find(&app, caller.scope(), id).await?;
    history::changes(&app, id, &named(&version)?, since).await.map(Json)
}

fn named(version: &str) -> Result<VersionId, ApiError> {
    version.parse().map_err(|()| ApiError::not_found("version"))
}
