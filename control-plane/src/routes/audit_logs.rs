//! `/audit`: who did what.

use crate::{
    api::{Api, Caller, Page, PageQuery, Query, Timestamp, access::AuditRead},
    app::audit,
    context::App,
    error::ApiError,
};
use axum::{Json as Body, extract::State};
use breeze_store::model::audit::{ActorType, AuditResult, Sealed};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditActorType {
    User,
    Agent,
    System,
    Anonymous,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    Success,
    Failure,
    Denied,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    pub id: Uuid,
    pub timestamp: Timestamp,
    pub actor_type: AuditActorType,
    #[schema(required)]
    pub actor_id: Option<String>,
    #[schema(required)]
    pub actor_email: Option<String>,
    /// `<resource>.<verb>`.
    pub action: String,
    #[schema(required)]
    pub resource_type: Option<String>,
    #[schema(required)]
    pub resource_id: Option<String>,
    #[schema(required)]
    pub resource_name: Option<String>,
    pub result: AuditOutcome,
    #[schema(required)]
    pub ip_address: Option<String>,
    #[schema(required)]
    pub request_id: Option<String>,
    /// Depends on the action.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
}

impl From<Sealed> for AuditEntry {
    fn from(Sealed { entry, .. }: Sealed) -> Self {
        let mut details = entry.details.as_object().cloned().unwrap_or_default();
        if let Some(error) = entry.error_message {
            details.insert("error".to_owned(), error.into());
        }
        Self {
            id: entry.id.uuid(),
            timestamp: Timestamp(entry.timestamp_ms),
            actor_type: match entry.actor_type {
                ActorType::User => AuditActorType::User,
                ActorType::Agent => AuditActorType::Agent,
                ActorType::System => AuditActorType::System,
                ActorType::Anonymous => AuditActorType::Anonymous,
            },
            actor_id: entry.actor_id,
            actor_email: entry.actor_email,
            action: entry.action,
            resource_type: entry.resource_type,
            resource_id: entry.resource_id.filter(|id| !id.is_empty()),
            resource_name: entry.resource_name,
            result: match entry.result {
                AuditResult::Success => AuditOutcome::Success,
                AuditResult::Failure => AuditOutcome::Failure,
                AuditResult::Denied => AuditOutcome::Denied,
            },
            ip_address: entry.ip_address,
            request_id: entry.request_id,
            details: details.into(),
        }
    }
}

pub(super) fn register(api: Api) -> Api {
    api.read::<AuditRead>(routes!(list_audit_logs))
}

/// The audit log, newest first
#[utoipa::path(
    get,
    path = "/api/v1/audit/logs",
    tag = "audit",
    params(PageQuery),
    responses((status = 200, body = Page<AuditEntry>))
)]
async fn list_audit_logs(
    State(app): State<App>,
    caller: Caller<AuditRead>,
    Query(query): Query<PageQuery>,
) -> Result<Body<Page<AuditEntry>>, ApiError> {
    let limit = query.limit()?;
    let partner = caller.partner_id.to_string();
    let context = ["audit", partner.as_str()];
    let before: Option<u64> = query.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    let (entries, total) = audit::page(&app, &caller, before, limit).await?;
    let last = entries.last().map_or(1, |last| last.sequence);
    let has_more = last > 1 && !entries.is_empty();
    let next_cursor = has_more.then(|| app.cursors.seal(&context, &last));
    let data = entries.into_iter().map(AuditEntry::from).collect();
    Ok(Body(Page { data, next_cursor, has_more, total }))
}
