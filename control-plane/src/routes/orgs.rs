//! `/orgs`: the caller's organization and its sites.

use crate::{
    api::{Api, Caller, Page, PageQuery, Query, access::OrganizationsRead},
    app::organization,
    context::App,
    error::ApiError,
    routes::Named,
};
use axum::{Json as Body, extract::State};
use breeze_proto::id::SiteId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

#[derive(Debug, Serialize, ToSchema)]
pub struct Organization {
    pub id: Uuid,
    pub name: String,
    pub partner: Named,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Site {
    pub id: Uuid,
    pub name: String,
    /// IANA name.
    pub timezone: String,
}

pub(super) fn register(api: Api) -> Api {
    api.read::<OrganizationsRead>(routes!(get_current_org)).read::<OrganizationsRead>(routes!(list_sites))
}

/// The caller's organization
#[utoipa::path(
    get,
    path = "/api/v1/orgs/current",
    tag = "organizations",
    responses((status = 200, body = Organization))
)]
async fn get_current_org(
    State(app): State<App>,
    caller: Caller<OrganizationsRead>,
) -> Result<Body<Organization>, ApiError> {
    let (partner, organization, _) = organization::place_of(&app, &caller).await?;
    Ok(Body(Organization {
        id: organization.id.uuid(),
        name: organization.name,
        partner: Named::partner(partner.id, partner.name),
    }))
}

/// Its sites
#[utoipa::path(
    get,
    path = "/api/v1/orgs/current/sites",
    tag = "organizations",
    params(PageQuery),
    responses((status = 200, body = Page<Site>))
)]
async fn list_sites(
    State(app): State<App>,
    caller: Caller<OrganizationsRead>,
    Query(query): Query<PageQuery>,
) -> Result<Body<Page<Site>>, ApiError> {
    let limit = query.limit()?;
    let org = caller.org_id.to_string();
    let context = ["sites", org.as_str()];
    let after: Option<SiteId> = query.cursor.as_deref().map(|cursor| app.cursors.open(&context, cursor)).transpose()?;
    let (mut sites, total) = organization::sites(&app, &caller, after, limit + 1).await?;
    let has_more = sites.len() > limit;
    sites.truncate(limit);
    let next_cursor = sites.last().filter(|_| has_more).map(|last| app.cursors.seal(&context, &last.id));
    let data =
        sites.into_iter().map(|site| Site { id: site.id.uuid(), name: site.name, timezone: site.timezone }).collect();
    Ok(Body(Page { data, next_cursor, has_more, total }))
}
