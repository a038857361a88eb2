//! `PATCH /devices/{id}`.

use crate::{
    api::{self, Caller, IfMatch, Mutation, Path, access::DevicesWrite, etag},
    app::devices::{self, Device, Wish},
    context::App,
    error::ApiError,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use breeze_proto::id::{DeviceId, SiteId};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

/// What to change; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceUpdate {
    /// Null takes the name away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 128)]
    display_name: Option<Option<String>>,
    /// The whole list.
    #[schema(max_items = 32)]
    tags: Option<Vec<String>>,
    #[schema(value_type = Option<uuid::Uuid>)]
    site_id: Option<SiteId>,
}

/// Tells `null` from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// Change a device.
///
/// Its name, tags, or site. Moving it to a site of another organization moves it there.
#[utoipa::path(
    patch, path = "/api/v1/devices/{id}", tag = "devices",
    params(
        ("id" = Uuid, Path, description = "The device"),
        ("If-Match" = String, Header, description = "ETag of what the change is based on"),
    ),
    request_body = DeviceUpdate,
    responses((status = 200, body = Device, headers(("ETag" = String, description = "For If-Match")))),
)]
pub(crate) async fn update_device(
    State(app): State<App>,
    caller: Caller<DevicesWrite>,
    mutation: Mutation,
    Path(id): Path<DeviceId>,
    if_match: IfMatch,
    api::Json(body): api::Json<DeviceUpdate>,
) -> Result<Response, ApiError> {
    let wish = Wish { display_name: body.display_name, tags: body.tags, site_id: body.site_id };
    let device = devices::update(&app, caller.scope(), &mutation, id, if_match, wish).await?;
    Ok(([etag(device.version)], Json(device)).into_response())
}
