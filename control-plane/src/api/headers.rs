//! What surrounds every request: its id, a deadline, the log line, and headers that make browsers
//! strict with the answer.

use crate::{
    api::{client::Client, request_id},
    context::App,
    error::ApiError,
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use breeze_proto::id::RequestId;
use std::time::{Duration, Instant};

/// A request that takes longer is given up; nothing of this API takes long.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The outermost layer.
pub async fn around(State(app): State<App>, mut request: Request, next: Next) -> Response {
    name_host(&mut request);
    let client = Client::of(&app.config, app.serves_tls(), request.extensions(), request.headers());
    request.extensions_mut().insert(client);
    let id = RequestId::generate();
    let started = Instant::now();
    let method = request.method().clone();
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let is_api = is_api(request.uri());
    // Browsers would apply it to every port of "localhost", other programs' too.
    let is_localhost =
        request.headers().get(header::HOST).is_some_and(|host| host.as_bytes().starts_with(b"localhost"));
    let mut response = request_id::scope(id, async {
        match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_elapsed) => ApiError::unavailable("The request took too long.").into_response(),
        }
    })
    .await;

    let elapsed = started.elapsed();
    let status = response.status().as_u16();
    tracing::debug!(request.id = %id, http.method = %method, http.route = %path, http.status = status, elapsed_us = elapsed.as_micros() as u64, "request");
    metrics::histogram!("breeze_api_request_seconds").record(elapsed.as_secs_f64());
    metrics::counter!("breeze_api_requests_total", "status" => format!("{}xx", status / 100)).increment(1);

    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(HeaderName::from_static(request_id::HEADER), value);
    }
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()");
    if is_api {
        set(header::CACHE_CONTROL, "no-store");
    }
    if client.secure && !is_localhost {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    response
}

/// HTTP/2 names the host in the request's target; what follows reads it in one place.
fn name_host(request: &mut Request) {
    if request.headers().contains_key(header::HOST) {
        return;
    }
    let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
}

fn is_api(uri: &Uri) -> bool {
    uri.path().starts_with("/api/")
}
