//! `/instance`: what a page needs before anybody has signed in.

use crate::{api::Api, app::setup, context::App, error::ApiError};
use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

#[derive(Debug, Serialize, ToSchema)]
pub struct Instance {
    pub name: String,
    pub version: String,
    /// Whether nobody has set up yet.
    pub setup_required: bool,
}

pub(super) fn register(api: Api) -> Api {
    api.public(routes!(get_instance))
}

/// The installation
#[utoipa::path(get, path = "/api/v1/instance", tag = "system", responses((status = 200, body = Instance)))]
async fn get_instance(State(app): State<App>) -> Result<Json<Instance>, ApiError> {
    Ok(Json(Instance {
        name: "Breeze".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        setup_required: setup::is_required(&app).await?,
    }))
}
