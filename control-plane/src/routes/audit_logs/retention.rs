//! How long an organization's entries are kept.

use crate::{
    api::{
        Caller, IfMatch, Json, Mutation, Path, Timestamp,
        access::{AuditManage, AuditRead},
        etag,
    },
    app::audit::{self, Keeping},
    context::App,
    error::ApiError,
};
use axum::{
    Json as Body,
    extract::State,
    response::{IntoResponse, Response},
};
use breeze_proto::id::OrgId;
use breeze_store::model::Scope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditRetentionChange {
    /// 30 to 36,500; null: for ever.
    #[schema(required)]
    pub retention_days: Option<u32>,
    /// Whether entries go to object storage before they are deleted.
    pub archive: bool,
    /// While there is a reason here, nothing is deleted.
    #[schema(required)]
    pub legal_hold: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditRetention {
    pub organization_id: Uuid,
    #[schema(required)]
    pub retention_days: Option<u32>,
    pub archive: bool,
    /// Whether there is object storage to archive to.
    pub can_archive: bool,
    #[schema(required)]
    pub legal_hold: Option<String>,
    #[schema(required)]
    pub last_cleanup_at: Option<Timestamp>,
    /// Entries that were taken away so far: those with numbers up to this.
    pub removed_entries: u64,
    /// For `If-Match`; 0 before the first change.
    pub version: u64,
}

async fn answer(app: &App, scope: &Scope, organization: OrgId) -> Result<Response, ApiError> {
    let (policy, floor) = audit::policy(app, scope, organization).await?;
    let version = policy.version;
    let policy = policy.value;
    let body = AuditRetention {
        organization_id: organization.uuid(),
        retention_days: policy.retention_days,
        archive: policy.archive,
        can_archive: app.config.audit.store.is_some(),
        legal_hold: policy.legal_hold,
        last_cleanup_at: policy.last_cleanup_ms.map(Timestamp),
        removed_entries: floor.map_or(0, |floor| floor.last),
        version,
    };
    Ok(([etag(version)], Body(body)).into_response())
}

/// How long an organization's entries are kept
#[utoipa::path(
    get,
    path = "/api/v1/audit/retention/{id}",
    tag = "audit",
    params(("id" = Uuid, Path, description = "The organization")),
    responses((status = 200, body = AuditRetention))
)]
pub(super) async fn get_audit_retention(
    State(app): State<App>,
    caller: Caller<AuditRead>,
    Path(id): Path<OrgId>,
) -> Result<Response, ApiError> {
    answer(&app, caller.scope(), id).await
}

/// Say how long an organization's entries are kept, or hold them
#[utoipa::path(
    put,
    path = "/api/v1/audit/retention/{id}",
    tag = "audit",
    params(("id" = Uuid, Path, description = "The organization"), ("If-Match" = String, Header, description = "The ETag that was read")),
    request_body = AuditRetentionChange,
    responses((status = 200, body = AuditRetention))
)]
pub(super) async fn put_audit_retention(
    State(app): State<App>,
    caller: Caller<AuditManage>,
    mutation: Mutation,
    Path(id): Path<OrgId>,
    version: IfMatch,
    Json(wanted): Json<AuditRetentionChange>,
) -> Result<Response, ApiError> {
    let AuditRetentionChange { retention_days, archive, legal_hold } = wanted;
    let keeping = Keeping { retention_days, archive, legal_hold };
    audit::set_policy(&app, &caller, &mutation, id, version, keeping).await?;
    answer(&app, caller.scope(), id).await
}
