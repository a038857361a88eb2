//! The one wrapper that every mutation passes: the guard has authenticated and authorized; here the
//! audit entry is opened, handed to the commit of the change, and closed when there was no change.

use crate::{
    api::{Principal, client::Client, request_id, router::Action, time::now_ms},
    context::App,
    error::ApiError,
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, request::Parts},
};
use breeze_proto::id::{AuditId, OrgId, PartnerId};
use breeze_store::model::audit::{ActorType, AuditResult, Changes, Entry, Intent, changes};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// Longest `Idempotency-Key`.
pub const MAX_IDEMPOTENCY_KEY_CHARS: usize = 255;
/// Longest `User-Agent` that is kept.
const MAX_USER_AGENT_CHARS: usize = 256;

/// What a mutation is about.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    pub kind: &'static str,
    pub id: Option<String>,
    pub name: Option<String>,
    pub org_id: Option<OrgId>,
    pub changes: Changes,
    pub details: Value,
}

impl Resource {
    #[must_use]
    pub fn new(kind: &'static str, id: impl ToString) -> Self {
        Self { kind, id: Some(id.to_string()), ..Self::default() }
    }

    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    #[must_use]
    pub const fn in_org(mut self, org_id: OrgId) -> Self {
        self.org_id = Some(org_id);
        self
    }

    /// What differs between the record before and after; one that is made or deleted has no other side.
    #[must_use]
    pub fn changed<T: Serialize>(mut self, before: Option<&T>, after: Option<&T>) -> Self {
        self.changes = changes(before, after);
        self
    }

    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}

/// Who acts, where the guard could not know it: sign-in, set-up, enrolment.
#[derive(Debug, Clone)]
pub struct Actor {
    pub kind: ActorType,
    pub partner_id: Option<PartnerId>,
    pub id: Option<String>,
    pub email: Option<String>,
}

impl Default for Actor {
    fn default() -> Self {
        Self { kind: ActorType::Anonymous, partner_id: None, id: None, email: None }
    }
}

#[derive(Debug)]
struct Inner {
    action: Action,
    route: String,
    principal: Option<Arc<Principal>>,
    actor: Mutex<Actor>,
    resource: Mutex<Resource>,
    /// Whether an entry is on its way, or there is nothing to tell.
    settled: AtomicBool,
    client: Client,
    user_agent: Option<String>,
    idempotency_key: Option<String>,
}

/// The mutation that a handler carries out. Only the guard makes one.
#[derive(Debug, Clone)]
pub struct Mutation(Arc<Inner>);

impl Mutation {
    pub(super) fn open(
        action: Action,
        route: String,
        principal: Option<Arc<Principal>>,
        client: Client,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let idempotency_key = match headers.get("idempotency-key") {
            None => None,
            Some(_) => match text("idempotency-key") {
                Some(key) if !key.is_empty() && key.len() <= MAX_IDEMPOTENCY_KEY_CHARS => Some(key.to_owned()),
                Some(_) | None => {
                    return Err(ApiError::field("Idempotency-Key", "must be 1 to 255 visible ASCII characters"));
                }
            },
        };
        let actor = principal.as_ref().map_or_else(Actor::default, |principal| Actor {
            kind: ActorType::User,
            partner_id: Some(principal.partner_id),
            id: Some(principal.user_id.to_string()),
            email: Some(principal.email.clone()),
        });
        Ok(Self(Arc::new(Inner {
            action,
            route,
            principal,
            actor: Mutex::new(actor),
            resource: Mutex::new(Resource::default()),
            settled: AtomicBool::new(false),
            client,
            user_agent: text("user-agent").map(|text| text.chars().take(MAX_USER_AGENT_CHARS).collect()),
            idempotency_key,
        })))
    }

    /// The audit entry of the change, for the commit that makes it.
    pub fn intent(&self, resource: Resource) -> Intent {
        *self.0.resource.lock() = resource;
        self.0.settled.store(true, Ordering::Relaxed);
        Intent::new(self.entry(AuditResult::Success, None))
    }

    /// The same caller's second deed in one request, under a name of its own.
    #[must_use]
    pub fn and_then(&self, name: &'static str) -> Self {
        let Inner { action, route, principal, actor, client, user_agent, idempotency_key, .. } = &*self.0;
        Self(Arc::new(Inner {
            action: Action { name, ..*action },
            route: route.clone(),
            principal: principal.clone(),
            actor: Mutex::new(actor.lock().clone()),
            resource: Mutex::new(Resource::default()),
            settled: AtomicBool::new(false),
            client: *client,
            user_agent: user_agent.clone(),
            idempotency_key: idempotency_key.clone(),
        }))
    }

    /// Writes the entry of a deed that no commit carries: an export. Durable when this returns.
    ///
    /// # Errors
    /// The store's: without its entry it must not be done.
    pub async fn record(&self, app: &App, resource: Resource) -> Result<(), ApiError> {
        *self.0.resource.lock() = resource;
        app.audit.append(self.entry(AuditResult::Success, None)).await?;
        self.0.settled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Says that everything was so already, and that there is nothing to tell.
    pub fn unchanged(&self) {
        self.0.settled.store(true, Ordering::Relaxed);
    }

    /// What it is about, for the entry that is written when no commit takes the intent.
    pub fn about(&self, resource: Resource) {
        *self.0.resource.lock() = resource;
    }

    /// Who it turned out to be.
    pub fn acts(&self, actor: Actor) {
        *self.0.actor.lock() = actor;
    }

    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.client.address
    }

    /// Whether the caller speaks TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.client.secure
    }

    #[must_use]
    pub fn user_agent(&self) -> &str {
        self.0.user_agent.as_deref().unwrap_or_default()
    }

    /// The caller's `Idempotency-Key`, with what an id is derived from: principal and route.
    #[must_use]
    pub fn idempotency(&self) -> Option<(Vec<u8>, &str, &str)> {
        let key = self.0.idempotency_key.as_deref()?;
        let principal = self.0.principal.as_ref()?.user_id.to_bytes().to_vec();
        Some((principal, &self.0.route, key))
    }

    fn entry(&self, result: AuditResult, error: Option<String>) -> Entry {
        let actor = self.0.actor.lock().clone();
        let resource = self.0.resource.lock().clone();
        Entry {
            id: AuditId::generate(),
            timestamp_ms: now_ms(),
            partner_id: actor.partner_id,
            org_id: resource.org_id,
            actor_type: actor.kind,
            actor_id: actor.id,
            actor_email: actor.email,
            action: self.0.action.name.to_owned(),
            resource_type: (!resource.kind.is_empty()).then(|| resource.kind.to_owned()),
            resource_id: resource.id,
            resource_name: resource.name,
            result,
            error_message: error,
            ip_address: Some(self.0.client.address.to_string()),
            user_agent: self.0.user_agent.clone(),
            request_id: Some(request_id::current().to_string()),
            changes: resource.changes,
            details: resource.details,
        }
    }

    /// Closes the entry: what no commit took is written here. Malformed input is nobody's deed and is
    /// not written; nor are strangers who never got as far as naming an account. Of those who did, so
    /// many are written as [`Denials`](super::rate::Denials) lets through; the rest is counted.
    ///
    /// # Errors
    /// In builds for tests, when something succeeded that left no entry.
    pub(super) async fn close(&self, app: &App, status: StatusCode, code: &str) -> Result<(), ApiError> {
        let known = self.0.actor.lock().kind != ActorType::Anonymous || !self.0.resource.lock().kind.is_empty();
        let result = match status {
            status if status.is_success() => {
                (!self.0.settled.load(Ordering::Relaxed) && self.0.action.audited).then_some(AuditResult::Success)
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED if known => Some(AuditResult::Denied),
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED if known => Some(AuditResult::Failure),
            status if status.is_server_error() && known => Some(AuditResult::Failure),
            _ => None,
        };
        let Some(result) = result else { return Ok(()) };
        let error = (!code.is_empty()).then(|| code.to_owned());
        let mut entry = self.entry(result, error);
        if result == AuditResult::Success {
            // A fault of the handler's: it is told late rather than never.
            metrics::counter!("breeze_audit_unrecorded_total").increment(1);
            tracing::error!(action = entry.action, "a mutation succeeded and its commit carried no entry");
            entry.details = serde_json::json!({ "recorded_late": true });
        }
        if entry.actor_type == ActorType::Anonymous {
            let Some(omitted) = app.limits.denials.admit(entry.partner_id, Instant::now()) else {
                metrics::counter!("breeze_audit_denials_omitted_total").increment(1);
                return Ok(());
            };
            if omitted > 0 {
                // Anonymous entries carry no details of their own.
                entry.details = serde_json::json!({ "omitted_before": omitted });
            }
        }
        if let Err(error) = app.audit.append(entry).await {
            metrics::counter!("breeze_audit_append_failures_total").increment(1);
            tracing::error!(request.id = %request_id::current(), error = %error, "audit entry was not written");
        }
        if cfg!(debug_assertions) && result == AuditResult::Success {
            return Err(ApiError::internal("the mutation left no entry in the audit log"));
        }
        Ok(())
    }
}

impl FromRequestParts<App> for Mutation {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal("the handler mutates and was registered as a read"))
    }
}
