//! Organizations and sites as the caller sees them.

use crate::{api::Principal, context::App, error::ApiError};
use breeze_proto::id::SiteId;
use breeze_store::model::tenancy::{self, Organization, Partner, Site};

/// The caller's partner, organization and its first site.
///
/// # Errors
/// The store's.
pub async fn place_of(app: &App, principal: &Principal) -> Result<(Partner, Organization, Site), ApiError> {
    let scope = &principal.scope;
    let partner = tenancy::partner(&*app.state, scope, principal.partner_id).await?.value;
    let organization = tenancy::organization(&*app.state, scope, principal.org_id).await?.value;
    let (mut sites, _) = tenancy::sites(&*app.state, scope, principal.org_id, None, 1).await?;
    let site = sites.pop().ok_or_else(|| ApiError::not_found("site"))?;
    Ok((partner, organization, site))
}

/// Sites after `after`, and how many there are.
///
/// # Errors
/// The store's.
pub async fn sites(
    app: &App,
    principal: &Principal,
    after: Option<SiteId>,
    limit: usize,
) -> Result<(Vec<Site>, u64), ApiError> {
    Ok(tenancy::sites(&*app.state, &principal.scope, principal.org_id, after, limit).await?)
}
