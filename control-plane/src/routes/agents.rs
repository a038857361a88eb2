//! `/agents`: what agents call before they have a certificate.

use crate::{
    api::{Action, Api, Json, Mutation, rate::Class},
    app::enrollment,
    context::App,
    error::ApiError,
};
use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use breeze_proto::{
    enroll::{EnrollRequest, EnrollResponse},
    id::EnrollmentKeyId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

/// As `breeze_proto::enroll::EnrollRequest`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollBody {
    pub key_id: Uuid,
    pub secret: String,
    /// PKCS#10, DER, base64. P-256; its subject is ignored.
    pub csr: String,
    pub hostname: String,
    /// `linux`, `windows` or `macos`.
    pub os_type: String,
    pub os_version: String,
    pub os_build: String,
    pub architecture: String,
    pub agent_version: String,
    #[serde(default)]
    pub serial_number: String,
}

/// As `breeze_proto::enroll::EnrollResponse`.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum EnrollAnswer {
    Pending {
        device_id: Uuid,
        retry_after_s: u32,
    },
    Enrolled {
        device_id: Uuid,
        certificate: String,
        chain: Vec<String>,
        root: String,
        root_endorsement: String,
        documents: Vec<String>,
    },
}

pub(super) fn register(api: Api) -> Api {
    api.public_mutation(Action::quiet("device.enroll"), Class::Enroll, routes!(enroll_agent))
}

/// Enrol a device
///
/// The same request (the same certificate request) gives the same device. With an enrolment key that
/// requires approval it waits for a person and asks again.
#[utoipa::path(
    post,
    path = "/api/v1/agents/enroll",
    tag = "enrollment",
    request_body = EnrollBody,
    responses((status = 200, body = EnrollAnswer), (status = 202, body = EnrollAnswer))
)]
async fn enroll_agent(
    State(app): State<App>,
    mutation: Mutation,
    Json(body): Json<EnrollBody>,
) -> Result<Response, ApiError> {
    let request = EnrollRequest {
        key_id: EnrollmentKeyId::from_uuid(body.key_id),
        secret: body.secret,
        csr: body.csr,
        hostname: body.hostname,
        os_type: body.os_type,
        os_version: body.os_version,
        os_build: body.os_build,
        architecture: body.architecture,
        agent_version: body.agent_version,
        serial_number: body.serial_number,
    };
    let answer = enrollment::enroll(&app, &mutation, request).await?;
    let status = match &answer {
        EnrollResponse::Pending { .. } => StatusCode::ACCEPTED,
        EnrollResponse::Enrolled { .. } => StatusCode::OK,
    };
    Ok((status, Body(answer)).into_response())
}
