//! `GET /device-fields`.

use crate::{
    api::{Caller, access::DevicesRead},
    error::ApiError,
    filter::{FieldDescription, describe},
};
use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

/// The fields of the filter language.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FieldList {
    data: Vec<FieldDescription>,
}

/// List the fields that a filter can name.
///
/// With their types, operators and, for choices, values: what a filter bar offers.
#[utoipa::path(get, path = "/api/v1/device-fields", tag = "devices", responses((status = 200, body = FieldList)))]
pub(crate) async fn list_device_fields(_: Caller<DevicesRead>) -> Result<Json<FieldList>, ApiError> {
    Ok(Json(FieldList { data: describe() }))
}
