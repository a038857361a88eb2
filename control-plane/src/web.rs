//! The dashboard, embedded from `web/dist`. What is not a file of it and not of the API is a page of
//! it: its own router decides what to show.

use crate::{context::App, error::ApiError};
use axum::{
    extract::State,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

#[derive(rust_embed::RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct Dist;

const INDEX: &str = "index.html";
/// Files below it carry a hash of their content in their name.
const HASHED: &str = "assets/";
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Breeze</title>\
<h1>The dashboard is not built</h1><p>This server was built without it. Run <code>npm ci &amp;&amp; npm run build</code> in \
<code>web/</code>, or <code>cargo xtask up</code>, and build the server again. The API works: \
<a href=\"/api/v1/docs\">its documentation</a>.</p></html>";

/// Serves the dashboard.
pub(crate) async fn serve(State(_): State<App>, method: Method, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path == "api" || path.starts_with("api/") || path.starts_with("install/") {
        return ApiError::not_found("address").into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed().await.into_response();
    }
    if let Some(file) = Dist::get(path).filter(|_| path != INDEX) {
        let cache = if path.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
        let kind = HeaderValue::from_str(file.metadata.mimetype())
            .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, HeaderValue::from_static(cache))];
        return (headers, file.data.into_owned()).into_response();
    }
    // A missing asset is missing; a page would only confuse who asked for a script.
    if path.starts_with(HASHED) {
        return ApiError::not_found("file").into_response();
    }
    index()
}

fn index() -> Response {
    let (status, html) = match Dist::get(INDEX) {
        Some(file) => (StatusCode::OK, String::from_utf8_lossy(&file.data).into_owned()),
        None => (StatusCode::SERVICE_UNAVAILABLE, NOT_BUILT.to_owned()),
    };
    let policy = HeaderValue::from_str(&content_security_policy(&html))
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (status, headers, html).into_response()
}

/// Everything from here only; a script in the page itself by its hash.
///
/// Styles may be inline: dialogs and menus lock the page's scrolling by a `<style>` element that they
/// add while they are open and that holds the measured width of the scrollbar, so no hash fits it; a
/// nonce would have to be new in each answer, and the page could no longer be a file that is the same
/// for all. What an agent sent never becomes HTML, and `img-src` and `connect-src` keep a style from
/// carrying anything away.
fn content_security_policy(html: &str) -> String {
    let mut scripts = String::from("'self'");
    for inline in inline_scripts(html) {
        scripts.push_str(&format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(inline))));
    }
    format!(
        "default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}

fn inline_scripts(html: &str) -> impl Iterator<Item = &str> {
    html.split("<script").skip(1).filter_map(|rest| {
        let (attributes, body) = rest.split_once('>')?;
        let (script, _) = body.split_once("</script>")?;
        (!attributes.contains("src=")).then_some(script)
    })
}

/// For methods that a path does not have.
pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "The method is not allowed here",
        "The document at /api/v1/openapi.json says which methods there are.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inline_scripts_are_hashed() {
        let html = "<script src=\"/a.js\"></script><script>let a=1</script><script type=\"module\">b()</script>";
        assert_eq!(inline_scripts(html).collect::<Vec<_>>(), ["let a=1", "b()"]);
        let policy = content_security_policy(html);
        assert_eq!(policy.matches("'sha256-").count(), 2, "{policy}");
        assert!(!policy.contains("script-src 'self' 'unsafe"), "{policy}");
    }
}
