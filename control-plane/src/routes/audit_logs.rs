//! `/audit`: who did what.

mod export;
mod retention;
mod summary;

use crate::{
    api::{
        Action, Api, Caller, Query, Timestamp,
        access::{AuditExport, AuditManage, AuditRead},
        cursor::checked_limit,
    },
    app::audit,
    context::App,
    error::ApiError,
};
use axum::{Json as Body, extract::State};
use breeze_proto::id::OrgId;
use breeze_store::model::audit::{ActorType, AuditResult, Chain, Change, Filter, Position, Sealed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

/// Longest text that is looked for, in characters.
const MAX_TEXT_CHARS: usize = 200;

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditActorType {
    User,
    ApiKey,
    Agent,
    System,
    Anonymous,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    Success,
    Failure,
    Denied,
}

impl From<AuditActorType> for ActorType {
    fn from(kind: AuditActorType) -> Self {
        match kind {
            AuditActorType::User => Self::User,
            AuditActorType::ApiKey => Self::ApiKey,
            AuditActorType::Agent => Self::Agent,
            AuditActorType::System => Self::System,
            AuditActorType::Anonymous => Self::Anonymous,
        }
    }
}

impl From<ActorType> for AuditActorType {
    fn from(kind: ActorType) -> Self {
        match kind {
            ActorType::User => Self::User,
            ActorType::ApiKey => Self::ApiKey,
            ActorType::Agent => Self::Agent,
            ActorType::System => Self::System,
            ActorType::Anonymous => Self::Anonymous,
        }
    }
}

impl From<AuditOutcome> for AuditResult {
    fn from(outcome: AuditOutcome) -> Self {
        match outcome {
            AuditOutcome::Success => Self::Success,
            AuditOutcome::Failure => Self::Failure,
            AuditOutcome::Denied => Self::Denied,
        }
    }
}

impl From<AuditResult> for AuditOutcome {
    fn from(result: AuditResult) -> Self {
        match result {
            AuditResult::Success => Self::Success,
            AuditResult::Failure => Self::Failure,
            AuditResult::Denied => Self::Denied,
        }
    }
}

/// A field before and after; a side that is missing was not there. Secrets read "…".
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

impl From<Change> for AuditChange {
    fn from(Change { before, after }: Change) -> Self {
        Self { before, after }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    pub id: Uuid,
    pub timestamp: Timestamp,
    /// Its chain: `org/<id>`, `partner/<id>` or `instance`.
    pub chain: String,
    /// Its number in the chain.
    pub sequence: u64,
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    pub actor_type: AuditActorType,
    #[schema(required)]
    pub actor_id: Option<String>,
    #[schema(required)]
    pub actor_email: Option<String>,
    /// `<resource>.<verb>`; of a refused read, `<resource>:<permission>`.
    pub action: String,
    #[schema(required)]
    pub resource_type: Option<String>,
    #[schema(required)]
    pub resource_id: Option<String>,
    #[schema(required)]
    pub resource_name: Option<String>,
    pub result: AuditOutcome,
    #[schema(required)]
    pub error_message: Option<String>,
    #[schema(required)]
    pub ip_address: Option<String>,
    #[schema(required)]
    pub user_agent: Option<String>,
    #[schema(required)]
    pub request_id: Option<String>,
    /// By the path of the field.
    pub changes: BTreeMap<String, AuditChange>,
    /// Depends on the action.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
    /// MAC over this entry and its predecessor's.
    pub checksum: String,
}

impl AuditEntry {
    fn of(chain: Chain, Sealed { sequence, mac, entry, .. }: Sealed) -> Self {
        Self {
            id: entry.id.uuid(),
            timestamp: Timestamp(entry.timestamp_ms),
            chain: chain.to_string(),
            sequence,
            organization_id: entry.org_id.map(OrgId::uuid),
            actor_type: entry.actor_type.into(),
            actor_id: entry.actor_id,
            actor_email: entry.actor_email,
            action: entry.action,
            resource_type: entry.resource_type,
            resource_id: entry.resource_id.filter(|id| !id.is_empty()),
            resource_name: entry.resource_name,
            result: entry.result.into(),
            error_message: entry.error_message,
            ip_address: entry.ip_address,
            user_agent: entry.user_agent,
            request_id: entry.request_id,
            changes: entry.changes.into_iter().map(|(field, change)| (field, change.into())).collect(),
            details: entry.details.as_object().cloned().unwrap_or_default().into(),
            checksum: mac,
        }
    }
}

/// One page of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    pub data: Vec<AuditEntry>,
    /// Where the next page begins; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
    /// Whether there is more to look at. One request looks at 4,000 entries at most: a page may hold fewer than
    /// `limit` rows, or none, and have more after it.
    pub has_more: bool,
    /// How far back was looked; null when there was nothing.
    #[schema(required)]
    pub searched_back_to: Option<Timestamp>,
    /// Entries in all, where that is known: of one organization, without a filter.
    #[schema(required)]
    pub total: Option<u64>,
}

/// Which entries.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParams {
    /// Rows at most.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// `csv` or `jsonl`; of exports.
    pub format: Option<String>,
    /// Of one organization alone.
    pub organization_id: Option<Uuid>,
    /// Not before this time.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// An action, or how actions begin, followed by `*`.
    #[param(example = "device.*")]
    pub action: Option<String>,
    pub actor_type: Option<AuditActorType>,
    /// Id or e-mail address.
    pub actor: Option<String>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    pub result: Option<AuditOutcome>,
    pub ip_address: Option<String>,
    pub request_id: Option<String>,
    /// Text in the action, the actor's address or the record's name.
    pub q: Option<String>,
}

impl AuditParams {
    /// The filter, checked.
    fn filter(&self) -> Result<Filter, ApiError> {
        let short = |field: &'static str, text: &Option<String>| match text.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) if text.chars().count() <= MAX_TEXT_CHARS => Ok(Some(text.to_owned())),
            Some(_) => Err(ApiError::field(field, format!("must have at most {MAX_TEXT_CHARS} characters"))),
        };
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return Err(ApiError::field("to", "must be after from"));
        }
        Ok(Filter {
            from_ms: self.from.map(|time| time.0),
            to_ms: self.to.map(|time| time.0),
            action: short("action", &self.action)?,
            actor_type: self.actor_type.map(Into::into),
            actor: short("actor", &self.actor)?,
            resource_type: short("resource_type", &self.resource_type)?,
            resource_id: short("resource_id", &self.resource_id)?,
            result: self.result.map(Into::into),
            ip_address: short("ip_address", &self.ip_address)?,
            request_id: short("request_id", &self.request_id)?,
            text: short("q", &self.q)?.map(|text| text.to_lowercase()),
        })
    }

    fn organization(&self) -> Option<OrgId> {
        self.organization_id.map(OrgId::from_uuid)
    }
}

pub(super) fn register(api: Api) -> Api {
    api.read::<AuditRead>(routes!(list_audit_logs))
        .export::<AuditExport>(Action::new("audit_log.export"), routes!(export::export_audit_logs))
        .read::<AuditRead>(routes!(summary::get_audit_summary))
        .read::<AuditRead>(routes!(retention::get_audit_retention))
        .mutation::<AuditManage>(Action::new("audit_log.set_retention"), routes!(retention::put_audit_retention))
}

/// The audit log, newest first
#[utoipa::path(
    get,
    path = "/api/v1/audit/logs",
    tag = "audit",
    params(AuditParams),
    responses((status = 200, body = AuditPage))
)]
async fn list_audit_logs(
    State(app): State<App>,
    caller: Caller<AuditRead>,
    Query(query): Query<AuditParams>,
) -> Result<Body<AuditPage>, ApiError> {
    if query.format.is_some() {
        return Err(ApiError::field("format", "is of exports: ask /api/v1/audit/logs/export"));
    }
    let limit = checked_limit(query.limit)?;
    let filter = query.filter()?;
    let reach = audit::reach(&caller, query.organization())?;
    let partner = caller.partner_id.to_string();
    let asked = serde_json::to_string(&filter).map_err(ApiError::internal)?;
    let context = ["audit", partner.as_str(), &format!("{reach:?}"), &asked];
    let after: Option<Position> =
        query.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    let found = audit::find(&app, caller.scope(), reach, &filter, after.as_ref(), limit).await?;
    Ok(Body(AuditPage {
        data: found.entries.into_iter().map(|(chain, sealed)| AuditEntry::of(chain, sealed)).collect(),
        has_more: found.next.is_some(),
        next_cursor: found.next.map(|next| app.cursors.seal(&context, &next)),
        searched_back_to: found.looked_ms.map(Timestamp),
        total: found.total,
    }))
}
