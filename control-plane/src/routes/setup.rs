//! `/setup`: makes the first administrator. It exists until that has happened.

use crate::{
    api::{Action, Api, Json, Mutation, rate::Class},
    app::setup,
    context::App,
    error::ApiError,
    routes::auth::{Session, signed_in},
};
use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetupRequest {
    /// From the link: what follows `#token=`.
    pub token: String,
    pub name: String,
    pub email: String,
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    pub password: String,
    /// Names the partner and its first organization.
    pub organization_name: Option<String>,
    pub site_name: Option<String>,
}

pub(super) fn register(api: Api) -> Api {
    api.public_mutation(Action::new("instance.setup"), Class::SignIn, routes!(create_setup))
}

/// Set up
///
/// Works once, with the token of the set-up link, and signs the new administrator in.
#[utoipa::path(
    post,
    path = "/api/v1/setup",
    tag = "auth",
    request_body = SetupRequest,
    responses((status = 201, body = Session, headers(("Set-Cookie" = String))))
)]
async fn create_setup(
    State(app): State<App>,
    mutation: Mutation,
    Json(body): Json<SetupRequest>,
) -> Result<Response, ApiError> {
    let answers = setup::Answers {
        token: body.token,
        name: body.name,
        email: body.email,
        password: body.password.into(),
        organization_name: body.organization_name,
        site_name: body.site_name,
    };
    let done = setup::complete(&app, &mutation, answers).await?;
    signed_in(&app, StatusCode::CREATED, done).await
}
