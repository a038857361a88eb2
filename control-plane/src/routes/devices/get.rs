//! `GET /devices/{id}`.

use crate::{
    api::{Caller, Path, access::DevicesRead, etag},
    app::devices::{self, Device},
    context::App,
    error::ApiError,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use breeze_proto::id::DeviceId;

/// Read a device.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}", tag = "devices",
    params(("id" = Uuid, Path, description = "The device")),
    responses((status = 200, body = Device, headers(("ETag" = String, description = "For If-Match")))),
)]
pub(crate) async fn get_device(
    State(app): State<App>,
    caller: Caller<DevicesRead>,
    Path(id): Path<DeviceId>,
) -> Result<Response, ApiError> {
    let device = devices::detail(&app, caller.scope(), id).await?;
    Ok(([etag(device.version)], Json(device)).into_response())
}
