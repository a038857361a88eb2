//! `/auth`: sessions of browsers, and tokens of other clients.

use crate::{
    api::{Action, Api, Caller, Json, Mutation, Principal, Timestamp, access::OwnSession, rate::Class},
    app::{organization, session},
    context::App,
    error::ApiError,
    routes::Named,
};
use axum::{
    Json as Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use breeze_store::model::people::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

#[derive(Debug, Serialize, ToSchema)]
pub struct SessionUser {
    pub id: Uuid,
    pub email: String,
    pub name: String,
}

/// What a role is called.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    PartnerAdmin,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::PartnerAdmin => Self::PartnerAdmin,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    pub user: SessionUser,
    pub partner: Named,
    pub organization: Named,
    pub site: Named,
    pub role: RoleName,
    /// For the header X-CSRF-Token of every mutation.
    pub csrf_token: String,
    pub expires_at: Timestamp,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    pub email: String,
    #[schema(format = Password)]
    pub password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    pub refresh_token: String,
}

#[derive(Serialize, ToSchema)]
pub struct TokenResponse {
    pub access_token: String,
    /// `Bearer`.
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: u64,
    /// Good for one refresh.
    pub refresh_token: String,
}

pub(super) fn register(api: Api) -> Api {
    api.public_mutation(Action::new("session.create"), Class::SignIn, routes!(create_session))
        .public_mutation(Action::new("session.create_token"), Class::SignIn, routes!(create_token))
        .public_mutation(Action::quiet("session.refresh"), Class::SignIn, routes!(refresh_token))
        .read::<OwnSession>(routes!(get_session))
        .mutation::<OwnSession>(Action::new("session.revoke"), routes!(delete_session))
}

async fn session_of(app: &App, principal: &Principal) -> Result<Session, ApiError> {
    let (partner, organization, site) = organization::place_of(app, principal).await?;
    Ok(Session {
        user: SessionUser {
            id: principal.user_id.uuid(),
            email: principal.email.clone(),
            name: principal.name.clone(),
        },
        partner: Named::partner(partner.id, partner.name),
        organization: Named::organization(organization.id, organization.name),
        site: Named::site(site.id, site.name),
        role: principal.role.into(),
        csrf_token: session::csrf_token(app, &principal.session),
        expires_at: Timestamp(principal.session.expires_ms),
    })
}

/// Session and cookie of somebody who has just signed in.
pub(super) async fn signed_in(app: &App, status: StatusCode, done: session::SignedIn) -> Result<Response, ApiError> {
    let body = session_of(app, &done.principal).await?;
    Ok((status, [(header::SET_COOKIE, done.cookie)], Body(body)).into_response())
}

/// Sign in with a browser
#[utoipa::path(
    post,
    path = "/api/v1/auth/login",
    tag = "auth",
    request_body = Credentials,
    responses((status = 200, body = Session, headers(("Set-Cookie" = String))))
)]
async fn create_session(
    State(app): State<App>,
    mutation: Mutation,
    Json(body): Json<Credentials>,
) -> Result<Response, ApiError> {
    let done = session::sign_in(&app, &mutation, &body.email, body.password.into()).await?;
    signed_in(&app, StatusCode::OK, done).await
}

/// Sign in with another client
#[utoipa::path(
    post,
    path = "/api/v1/auth/token",
    tag = "auth",
    request_body = Credentials,
    responses((status = 200, body = TokenResponse))
)]
async fn create_token(
    State(app): State<App>,
    mutation: Mutation,
    Json(body): Json<Credentials>,
) -> Result<Body<TokenResponse>, ApiError> {
    session::issue_tokens(&app, &mutation, &body.email, body.password.into()).await.map(answer)
}

/// Exchange a refresh token
///
/// Each works once. One that comes again ends the session: somebody has a copy.
#[utoipa::path(
    post,
    path = "/api/v1/auth/refresh",
    tag = "auth",
    request_body = RefreshRequest,
    responses((status = 200, body = TokenResponse))
)]
async fn refresh_token(
    State(app): State<App>,
    mutation: Mutation,
    Json(body): Json<RefreshRequest>,
) -> Result<Body<TokenResponse>, ApiError> {
    session::refresh_tokens(&app, &mutation, &body.refresh_token).await.map(answer)
}

fn answer(tokens: session::Tokens) -> Body<TokenResponse> {
    Body(TokenResponse {
        access_token: tokens.access,
        token_type: "Bearer",
        expires_in: tokens.expires_in.as_secs(),
        refresh_token: tokens.refresh,
    })
}

/// The caller's session
#[utoipa::path(get, path = "/api/v1/auth/session", tag = "auth", responses((status = 200, body = Session)))]
async fn get_session(State(app): State<App>, caller: Caller<OwnSession>) -> Result<Body<Session>, ApiError> {
    session_of(&app, &caller).await.map(Body)
}

/// Sign out
#[utoipa::path(post, path = "/api/v1/auth/logout", tag = "auth", responses((status = 204)))]
async fn delete_session(
    State(app): State<App>,
    caller: Caller<OwnSession>,
    mutation: Mutation,
) -> Result<Response, ApiError> {
    let cookie = session::sign_out(&app, &mutation, &caller).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}
