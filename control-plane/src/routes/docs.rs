//! The OpenAPI document, and a page to browse it that needs no script.

use crate::{api::Api, routes};
use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use std::{fmt::Write as _, sync::LazyLock};
use utoipa::openapi::OpenApi;
use utoipa_axum::routes;

static JSON: LazyLock<String> = LazyLock::new(crate::openapi_json);
static PAGE: LazyLock<String> = LazyLock::new(|| page(routes::api().into_openapi()));

pub(super) fn register(api: Api) -> Api {
    api.public(routes!(get_openapi)).public(routes!(get_docs))
}

/// This document
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    tag = "system",
    responses((status = 200, content_type = "application/json", body = serde_json::Value))
)]
async fn get_openapi() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], JSON.as_str()).into_response()
}

/// This document as a page
#[utoipa::path(
    get,
    path = "/api/v1/docs",
    tag = "system",
    responses((status = 200, content_type = "text/html", body = String))
)]
async fn get_docs() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        ),
    ];
    (headers, PAGE.as_str()).into_response()
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1c20;background:#fff}\
code,pre{font:14px/1.5 ui-monospace,monospace}details{border:1px solid #d7dae0;border-radius:6px;margin:.5rem 0;padding:.5rem .8rem}\
summary{cursor:pointer}b{display:inline-block;min-width:4.5rem;text-transform:uppercase}em{color:#5a6070;font-style:normal}\
pre{overflow:auto;background:#f4f5f7;padding:.8rem;border-radius:6px}\
@media(prefers-color-scheme:dark){body{color:#e6e8ec;background:#15171c}pre{background:#1f2229}details{border-color:#333842}em{color:#9aa1b0}}";

fn page(mut document: OpenApi) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Breeze API</title><style>{STYLE}</style><h1>Breeze API {}</h1><p>{}</p>\
         <p><a href=\"/api/v1/openapi.json\">openapi.json</a></p><h2>Operations</h2>",
        escape(&document.info.version),
        escape(document.info.description.as_deref().unwrap_or_default()),
    );
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in crate::api::router::operations(item) {
            let access = operation.extensions.as_ref().and_then(|it| it.get("x-access")).and_then(|it| it.as_str());
            let body = serde_json::to_string_pretty(operation).unwrap_or_default();
            let _infallible = write!(
                html,
                "<details><summary><b>{method}</b> <code>{}</code> {} <em>{}</em></summary><pre>{}</pre></details>",
                escape(path),
                escape(operation.summary.as_deref().unwrap_or_default()),
                escape(access.unwrap_or_default()),
                escape(&body),
            );
        }
    }
    html.push_str("<h2>Schemas</h2>");
    for (name, schema) in document.components.iter().flat_map(|components| &components.schemas) {
        let body = serde_json::to_string_pretty(schema).unwrap_or_default();
        let _infallible = write!(
            html,
            "<details id=\"{0}\"><summary><code>{0}</code></summary><pre>{1}</pre></details>",
            escape(name),
            escape(&body),
        );
    }
    html.push_str("</html>");
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
