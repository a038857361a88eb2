//! Health and metrics, at the root: for load balancers and Prometheus.

use crate::{
    api::{Api, client::Client},
    context::App,
    error::ApiError,
};
use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::sync::atomic::Ordering;
use utoipa_axum::routes;

pub(super) fn register(api: Api) -> Api {
    api.public(routes!(get_healthz)).public(routes!(get_readyz)).public(routes!(get_metrics))
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "system", responses((status = 200, content_type = "text/plain", body = String)))]
async fn get_healthz() -> &'static str {
    "ok\n"
}

/// Whether it can serve
#[utoipa::path(get, path = "/readyz", tag = "system", responses((status = 200, content_type = "text/plain", body = String)))]
async fn get_readyz(State(app): State<App>) -> Result<&'static str, ApiError> {
    if !app.ready.load(Ordering::Acquire) {
        return Err(ApiError::unavailable("The server is starting or stopping."));
    }
    if !app.directory.is_ready() {
        return Err(ApiError::unavailable("The directory of devices is being built."));
    }
    breeze_store::model::instance::read(&*app.state).await?;
    Ok("ready\n")
}

/// Metrics in Prometheus' format
///
/// Answered to this machine only, and to nobody who comes through a proxy.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, content_type = "text/plain", body = String)))]
async fn get_metrics(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    if !Client::found(request.extensions()).local {
        return Err(ApiError::not_found("address"));
    }
    let render = app.render_metrics.as_ref().ok_or_else(|| ApiError::not_found("address"))?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, kind)], render()).into_response())
}
