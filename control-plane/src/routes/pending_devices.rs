//! `/pending-devices`: devices that asked to enrol and wait for a person.

use crate::{
    api::{
        Action, Api, Caller, Mutation, Page, PageQuery, Path, Query, Timestamp,
        access::{EnrollmentRead, EnrollmentWrite},
    },
    app::enrollment,
    context::App,
    error::ApiError,
    routes::Named,
};
use axum::{Json as Body, extract::State, http::StatusCode};
use breeze_proto::id::DeviceId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

/// What a device said about itself. Text of a stranger.
#[derive(Debug, Serialize, ToSchema)]
pub struct PendingDevice {
    pub id: Uuid,
    pub hostname: String,
    pub os_type: String,
    pub os_version: String,
    pub architecture: String,
    /// The address that it asked from.
    pub address: String,
    pub enrollment_key: Named,
    pub requested_at: Timestamp,
    pub serial_number: String,
}

pub(super) fn register(api: Api) -> Api {
    api.read::<EnrollmentRead>(routes!(list_pending_devices))
        .mutation::<EnrollmentWrite>(Action::new("device.approve"), routes!(approve_pending_device))
        .mutation::<EnrollmentWrite>(Action::new("device.reject"), routes!(reject_pending_device))
}

/// Devices that wait for approval
#[utoipa::path(
    get,
    path = "/api/v1/pending-devices",
    tag = "enrollment",
    params(PageQuery),
    responses((status = 200, body = Page<PendingDevice>))
)]
async fn list_pending_devices(
    State(app): State<App>,
    caller: Caller<EnrollmentRead>,
    Query(query): Query<PageQuery>,
) -> Result<Body<Page<PendingDevice>>, ApiError> {
    let limit = query.limit()?;
    let org = caller.org_id.to_string();
    let context = ["pending-devices", org.as_str()];
    let after: Option<DeviceId> =
        query.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    let (mut devices, total) = enrollment::pending(&app, &caller, after, limit + 1).await?;
    let has_more = devices.len() > limit;
    devices.truncate(limit);
    let next_cursor = devices.last().filter(|_| has_more).map(|last| app.cursors.seal(&context, &last.id));
    let data = devices
        .into_iter()
        .map(|device| PendingDevice {
            id: device.id.uuid(),
            hostname: device.enrolled.hostname,
            os_type: device.enrolled.os_type,
            os_version: device.enrolled.os_version,
            architecture: device.enrolled.architecture,
            address: device.enrolled_address,
            enrollment_key: Named { id: device.enrolled_by.uuid(), name: device.enrollment_key_name },
            requested_at: Timestamp(device.created_ms),
            serial_number: device.enrolled.serial_number,
        })
        .collect();
    Ok(Body(Page { data, next_cursor, has_more, total }))
}

/// Approve a device
#[utoipa::path(
    post,
    path = "/api/v1/pending-devices/{id}/approve",
    tag = "enrollment",
    params(("id" = Uuid, Path)),
    responses((status = 204))
)]
async fn approve_pending_device(
    State(app): State<App>,
    caller: Caller<EnrollmentWrite>,
    mutation: Mutation,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    enrollment::decide(&app, &caller, &mutation, DeviceId::from_uuid(id), true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reject a device
#[utoipa::path(
    post,
    path = "/api/v1/pending-devices/{id}/reject",
    tag = "enrollment",
    params(("id" = Uuid, Path)),
    responses((status = 204))
)]
async fn reject_pending_device(
    State(app): State<App>,
    caller: Caller<EnrollmentWrite>,
    mutation: Mutation,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    enrollment::decide(&app, &caller, &mutation, DeviceId::from_uuid(id), false).await?;
    Ok(StatusCode::NO_CONTENT)
}
