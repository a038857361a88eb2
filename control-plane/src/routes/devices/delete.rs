//! `DELETE /devices/{id}`.

use crate::{
    api::{Caller, IfMatch, Mutation, Path, access::DevicesDelete},
    app::devices,
    context::App,
    error::ApiError,
};
use axum::{extract::State, http::StatusCode};
use breeze_proto::id::DeviceId;

/// Decommission a device.
///
/// For good: its certificate is revoked everywhere within a second, and it leaves every list. Its
/// history stays until it expires.
#[utoipa::path(
    delete, path = "/api/v1/devices/{id}", tag = "devices",
    params(
        ("id" = Uuid, Path, description = "The device"),
        ("If-Match" = String, Header, description = "ETag of what the decision is based on"),
    ),
    responses((status = 204)),
)]
pub(crate) async fn delete_device(
    State(app): State<App>,
    caller: Caller<DevicesDelete>,
    mutation: Mutation,
    Path(id): Path<DeviceId>,
    if_match: IfMatch,
) -> Result<StatusCode, ApiError> {
    devices::decommission(&app, caller.scope(), &mutation, id, if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
