//! Input of requests, read strictly: unknown fields and parameters are refused, and the problem
//! names the field.

use crate::{context::App, error::ApiError};
use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderValue, header, request::Parts},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// A JSON body.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.split(';').next().is_some_and(|kind| kind.trim() == "application/json"));
        if !json {
            return Err(ApiError::malformed("Send the body as JSON, with Content-Type: application/json."));
        }
        let body = Bytes::from_request(request, app)
            .await
            .map_err(|_| ApiError::malformed("The body is too large or ended early."))?;
        parse_json(&body).map(Self)
    }
}

/// Parses strictly; the problem names the path that is wrong.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let message = error.inner().to_string();
        let path = error.path().to_string();
        let field = if path == "." { named_in(&message).unwrap_or_default() } else { path };
        ApiError::field(field, without_position(&message))
    })?;
    deserializer.end().map_err(|error| ApiError::malformed(format!("The body is not one JSON value: {error}.")))?;
    Ok(value)
}

/// `unknown field `x`` and the like name their field in backticks.
fn named_in(message: &str) -> Option<String> {
    let mut parts = message.split('`');
    let head = parts.next()?;
    (head.ends_with("field ") || head.ends_with("parameter ")).then(|| parts.next().map(str::to_owned))?
}

fn without_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

/// The query string.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let message = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                if let Some(field) = named_in(message) {
                    return Err(ApiError::field(field, message));
                }
                match message.split_once(": ") {
                    Some((field, message)) => Err(ApiError::field(field, message)),
                    None => Err(ApiError::field("", message)),
                }
            }
        }
    }
}

/// Parameters of the path. What is not an id is simply not there.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        axum::extract::Path::<T>::from_request_parts(parts, app)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_| ApiError::not_found("address"))
    }
}

/// The version in `If-Match`, demanded of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfMatch(pub u64);

impl FromRequestParts<App> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let value = parts.headers.get(header::IF_MATCH).ok_or_else(ApiError::precondition_required)?;
        value
            .to_str()
            .ok()
            .and_then(|text| text.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok())
            .map(Self)
            .ok_or_else(ApiError::precondition_failed)
    }
}

/// `ETag` of a version.
#[must_use]
pub fn etag(version: u64) -> (header::HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&format!("\"{version}\"")).expect("digits and quotes");
    (header::ETAG, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are looked at")]
    struct Outer {
        name: String,
        inner: Option<Vec<Outer>>,
    }

    #[test]
    fn the_problem_names_the_field() {
        for (body, expected) in [
            (r#"{"name":1}"#, "name"),
            (r#"{}"#, "name"),
            (r#"{"name":"x","more":1}"#, "more"),
            (r#"{"name":"x","inner":[{"name":2}]}"#, "inner[0].name"),
        ] {
            let error = format!("{:?}", parse_json::<Outer>(body.as_bytes()).expect_err(body));
            assert!(error.contains(&format!("field: {expected:?}")), "{body}: {error}");
        }
        assert!(parse_json::<Outer>(br#"{"name":"x"} trailing"#).is_err());
    }
}
