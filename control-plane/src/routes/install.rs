//! `/install`: what the installer's line fetches.

use crate::{
    api::{Api, Path},
    app::installer,
    context::App,
    error::ApiError,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use tokio_util::io::ReaderStream;
use utoipa_axum::routes;

pub(super) fn register(api: Api) -> Api {
    api.public(routes!(get_linux_script)).public(routes!(get_ca_certificate)).public(routes!(get_agent_binary))
}

/// The installer for Linux
#[utoipa::path(
    get,
    path = "/install/linux.sh",
    tag = "enrollment",
    responses((status = 200, content_type = "text/x-shellscript", body = String))
)]
async fn get_linux_script(State(app): State<App>) -> Response {
    let kind = HeaderValue::from_static("text/x-shellscript; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], installer::linux_script(&app)).into_response()
}

/// The certificate of this server's authority
///
/// Who fetches it here has not verified it: compare its public key with the hash in an enrolment key.
#[utoipa::path(
    get,
    path = "/install/ca.pem",
    tag = "enrollment",
    responses((status = 200, content_type = "application/x-pem-file", body = String))
)]
async fn get_ca_certificate(State(app): State<App>) -> Response {
    let kind = HeaderValue::from_static("application/x-pem-file");
    ([(header::CONTENT_TYPE, kind)], app.authority.ca().certificate_pem().to_owned()).into_response()
}

/// An agent
///
/// `breeze-agent-linux-amd64` or `breeze-agent-linux-arm64`.
#[utoipa::path(
    get,
    path = "/install/{file}",
    tag = "enrollment",
    params(("file" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>))
)]
async fn get_agent_binary(State(app): State<App>, Path(file): Path<String>) -> Result<Response, ApiError> {
    let architecture = file.strip_prefix("breeze-agent-linux-").ok_or_else(|| ApiError::not_found("file"))?;
    let path = installer::agent_binary(&app, architecture)?;
    let file = tokio::fs::File::open(&path).await.map_err(ApiError::internal)?;
    let length = file.metadata().await.map_err(ApiError::internal)?.len();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}
