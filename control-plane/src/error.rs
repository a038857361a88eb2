//! The one error of the HTTP API: an RFC 9457 problem document. What went wrong inside is logged
//! here, once, with the request's id; the body of a 500 is constant.

use crate::api::request_id;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use breeze_bus::BusError;
use breeze_store::{model::error::ModelError, state::StateError};
use serde::Serialize;
use std::{borrow::Cow, time::Duration};
use utoipa::ToSchema;

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Path within the body (`relays[0].id`), or the query parameter's name.
    pub field: String,
    pub message: String,
}

/// The body of every answer that is not a success, as `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:breeze:problem:<code>`; the codes are stable.
    #[serde(rename = "type")]
    #[schema(example = "urn:breeze:problem:validation")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// Words that say how to go on.
    pub detail: String,
    pub request_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// What a handler fails with.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// A problem of a resource's own, such as `enrollment_key_expired`.
    #[must_use]
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, title, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// One field is wrong.
    #[must_use]
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// Several fields are wrong.
    #[must_use]
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "validation",
            "The request is not valid",
            "Correct the fields named in \"errors\" and send the request again.",
        );
        problem.errors = errors;
        problem
    }

    /// The request as a whole cannot be read.
    #[must_use]
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "validation", "The request is not valid", detail)
    }

    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Not signed in", "Sign in and send the request again.")
    }

    #[must_use]
    pub fn csrf(detail: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "csrf", "The request did not come from the dashboard", detail)
    }

    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Not allowed",
            "Your role does not allow this. Ask an administrator for the permission.",
        )
    }

    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "Not found",
            format!("There is no such {what}, or you may not see it."),
        )
    }

    #[must_use]
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "The request conflicts with what is there", detail)
    }

    #[must_use]
    pub fn precondition_failed() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "Somebody else changed this in the meantime",
            "Read it again, look at the change, and repeat yours with the new ETag in If-Match.",
        )
    }

    #[must_use]
    pub fn precondition_required() -> Self {
        Self::new(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition_required",
            "If-Match is missing",
            "Send the ETag of what you read in If-Match, so that nobody's change is lost.",
        )
    }

    #[must_use]
    pub fn idempotency_conflict() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_conflict",
            "The Idempotency-Key was used for another request",
            "Use a new key for a new request; repeat a request with exactly the same body.",
        )
    }

    #[must_use]
    pub fn rate_limited(retry_after: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "Too many requests",
            "Wait as many seconds as Retry-After says.",
        );
        problem.retry_after = Some(retry_after);
        problem
    }

    #[must_use]
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        let mut problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available at the moment", detail);
        problem.retry_after = Some(Duration::from_secs(2));
        problem
    }

    /// Logs `error` and answers a constant body.
    #[must_use]
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(request.id = %request_id::current(), error = %error, "request failed inside");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong inside",
            "The cause is in the server's log under this request_id.",
        )
    }

    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Full { .. } => {
                tracing::error!(request.id = %request_id::current(), error = %error, "storage refuses writes");
                Self::unavailable("The server's disk is full; writes are refused until there is space again.")
            }
            StateError::Unavailable(_) | StateError::Schema(_) | StateError::Refused(_) | StateError::Settings(_) => {
                tracing::error!(request.id = %request_id::current(), error = %error, "storage does not answer");
                Self::unavailable("The store does not answer. Try again in a moment.")
            }
            StateError::Invalid(_) | StateError::Corrupt(_) => Self::internal(error),
        }
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::State(error) => error.into(),
            ModelError::NotFound(what) => Self::not_found(what),
            ModelError::Version => Self::precondition_failed(),
            ModelError::Conflict(detail) => Self::conflict(detail),
            ModelError::IdempotencyConflict => Self::idempotency_conflict(),
            ModelError::Corrupt(_) => Self::internal(error),
        }
    }
}

impl From<BusError> for ApiError {
    fn from(error: BusError) -> Self {
        tracing::warn!(request.id = %request_id::current(), error = %error, "bus call failed");
        Self::unavailable("A part of the system does not answer. Try again in a moment.")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: format!("urn:breeze:problem:{}", self.code),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.into_owned(),
            request_id: request_id::current().to_string(),
            errors: self.errors,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"breeze\""));
        }
        response.extensions_mut().insert(ProblemCode(self.code));
        response
    }
}

/// Left in a response's extensions for the audit of denials.
#[derive(Debug, Clone, Copy)]
pub struct ProblemCode(pub &'static str);
