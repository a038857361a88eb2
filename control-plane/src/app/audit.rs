//! Reading the audit log, and saying how long it is kept.

use crate::{
    api::{
        Caller, IfMatch, Mutation,
        access::{AuditManage, Permission},
        mutation::Resource,
        time::now_ms,
    },
    context::App,
    error::ApiError,
};
use breeze_proto::id::OrgId;
use breeze_store::model::{
    Scope,
    audit::{
        Archive, Asked, Chain, DayCounts, Filter, Found, HEADS, MAX_RETENTION_DAYS, MIN_RETENTION_DAYS, Policy,
        Position, Reach,
    },
    record::Versioned,
    tenancy,
};

/// Entries that one request looks at, at most.
pub const BUDGET: usize = 4_000;
/// Longest reason for a hold, in characters.
const MAX_HOLD_CHARS: usize = 500;

/// Whose entries a request is about: an organization's, or all that the caller may see.
///
/// # Errors
/// `not_found` for an organization that is not the caller's to see whole.
pub fn reach<P: Permission>(caller: &Caller<P>, organization: Option<OrgId>) -> Result<Reach, ApiError> {
    let scope = caller.scope();
    match organization {
        Some(id) if scope.allows_organization(id) => Ok(Reach::Chain(Chain::Organization(id))),
        Some(_) => Err(ApiError::not_found("organization")),
        None if scope.allows_partner(caller.partner_id) => Ok(Reach::Partner(caller.partner_id)),
        None if scope.allows_organization(caller.org_id) => Ok(Reach::Chain(Chain::Organization(caller.org_id))),
        None => Err(ApiError::not_found("audit log")),
    }
}

/// Entries of the reach, newest first.
///
/// # Errors
/// The store's.
pub async fn find(
    app: &App,
    scope: &Scope,
    reach: Reach,
    filter: &Filter,
    after: Option<&Position>,
    limit: usize,
) -> Result<Found, ApiError> {
    Ok(app.audit.find(scope, &Asked { reach, filter, after, limit, budget: BUDGET }).await?)
}

/// Counts by day of all chains in the reach.
///
/// # Errors
/// The store's.
pub async fn counts(
    app: &App,
    scope: &Scope,
    reach: Reach,
    from_day: u64,
    to_day: u64,
) -> Result<Vec<DayCounts>, ApiError> {
    let chains: Vec<Chain> = match reach {
        Reach::Chain(chain) => vec![chain],
        Reach::Partner(partner) => {
            let organizations = tenancy::organizations_of(&*app.state, partner).await?;
            let seen = organizations.into_iter().filter(|id| scope.allows_organization(*id)).map(Chain::Organization);
            std::iter::once(Chain::Partner(partner)).chain(seen).collect()
        }
    };
    Ok(app.audit.day_counts(scope, &chains, from_day, to_day).await?)
}

/// What a person wants to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeping {
    pub retention_days: Option<u32>,
    pub archive: bool,
    pub legal_hold: Option<String>,
}

/// How long an organization's entries are kept, and what was taken away last.
///
/// # Errors
/// `not_found`, and the store's.
pub async fn policy(
    app: &App,
    scope: &Scope,
    organization: OrgId,
) -> Result<(Versioned<Policy>, Option<Archive>), ApiError> {
    if !scope.allows_organization(organization) {
        return Err(ApiError::not_found("organization"));
    }
    tenancy::organization(&*app.state, scope, organization).await?;
    let chain = Chain::Organization(organization);
    Ok((app.audit.policy(chain).await?, app.audit.floor(chain).await?))
}

/// Says how long an organization's entries are kept.
///
/// # Errors
/// `validation`, `not_found`, `precondition_failed`, and the store's.
pub async fn set_policy(
    app: &App,
    caller: &Caller<AuditManage>,
    mutation: &Mutation,
    organization: OrgId,
    IfMatch(version): IfMatch,
    wanted: Keeping,
) -> Result<(), ApiError> {
    let (found, _) = policy(app, caller.scope(), organization).await?;
    let named = tenancy::organization(&*app.state, caller.scope(), organization).await?.value.name;
    let resource = Resource::new("audit_log", organization).named(named).in_org(organization);
    mutation.about(resource.clone());
    if wanted.retention_days.is_some_and(|days| !(MIN_RETENTION_DAYS..=MAX_RETENTION_DAYS).contains(&days)) {
        let message = format!("must be between {MIN_RETENTION_DAYS} and {MAX_RETENTION_DAYS}, or null for ever");
        return Err(ApiError::field("retention_days", message));
    }
    if wanted.archive && app.config.audit.store.is_none() {
        return Err(ApiError::field("archive", "there is no object storage: configure audit.store first"));
    }
    let legal_hold = wanted.legal_hold.map(|reason| reason.trim().to_owned());
    if legal_hold.as_ref().is_some_and(|reason| reason.is_empty() || reason.chars().count() > MAX_HOLD_CHARS) {
        let message = format!("must be a reason of 1 to {MAX_HOLD_CHARS} characters, or null");
        return Err(ApiError::field("legal_hold", message));
    }
    if found.version != version {
        return Err(ApiError::precondition_failed());
    }
    let policy = Policy {
        retention_days: wanted.retention_days,
        archive: wanted.archive,
        legal_hold,
        updated_ms: now_ms(),
        ..found.value.clone()
    };
    let chain = Chain::Organization(organization);
    let intent = mutation.intent(resource.changed(Some(&found.value), Some(&policy)));
    app.audit.set_policy(chain, &policy, version, &intent).await?;
    app.deliver_now(HEADS, chain.to_string().as_bytes()).await
}
