//! What stands before every handler: limit, authentication, permission, origin and CSRF, and for
//! mutations the wrapper that writes the audit entry.

use crate::{
    api::{
        Mutation, Principal,
        client::Client,
        rate::{Class, network},
        router::{Action, Guard},
    },
    app::session,
    context::App,
    error::{ApiError, ProblemCode},
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// The layer of one endpoint.
pub(super) async fn stand(State((app, guard)): State<(App, Guard)>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let client = Client::found(&parts.extensions);
    let mut left = None;
    let admitted = admit(&app, &guard, &mut parts, client, &mut left).await;
    let mut response = match admitted {
        Err(refused) => refused.into_response(),
        Ok(None) => next.run(Request::from_parts(parts, body)).await,
        Ok(Some(mutation)) => {
            let response = match allow(&app, &guard, &parts) {
                Ok(()) => next.run(Request::from_parts(parts, body)).await,
                Err(refused) => refused.into_response(),
            };
            let code = response.extensions().get::<ProblemCode>().map_or("", |code| code.0);
            match mutation.close(&app, response.status(), code).await {
                Ok(()) => response,
                Err(unrecorded) => unrecorded.into_response(),
            }
        }
    };
    if let Some(left) = left {
        left.write(response.headers_mut());
    }
    response
}

/// Authenticates and opens the mutation, if it is one. Whether it is allowed comes after that, so
/// that a denial has its entry.
async fn admit(
    app: &App,
    guard: &Guard,
    parts: &mut Parts,
    client: Client,
    left: &mut Option<crate::api::rate::Left>,
) -> Result<Option<Mutation>, ApiError> {
    let principal = match guard.permission {
        None => {
            // Of enrolments the handler takes: honest ones are known by their key, not their address.
            if guard.class != Class::Enroll {
                *left = Some(app.limits.take(guard.class, network(client.address))?);
            }
            None
        }
        Some(permission) => {
            let principal = match session::authenticate(app, &parts.headers).await? {
                Some(principal) => principal,
                None => {
                    // A guess costs what any anonymous request costs.
                    *left = Some(app.limits.take(Class::Public, network(client.address))?);
                    return Err(ApiError::unauthenticated());
                }
            };
            *left = Some(app.limits.take(guard.class, principal.user_id)?);
            if guard.action.is_none() {
                if let Err(refused) = require(&principal, permission) {
                    let action = Action::quiet(permission);
                    let denied = Mutation::open(action, String::new(), Some(principal), client, &parts.headers)?;
                    denied.close(app, refused.status(), "forbidden").await?;
                    return Err(refused);
                }
                (guard.prove)(Arc::clone(&principal), &mut parts.extensions);
            }
            Some(principal)
        }
    };
    let Some(action) = guard.action else { return Ok(None) };
    let route = parts.extensions.get::<MatchedPath>().map_or_else(String::new, |path| path.as_str().to_owned());
    let mutation = Mutation::open(action, route, principal.clone(), client, &parts.headers)?;
    parts.extensions.insert(mutation.clone());
    if let Some(principal) = principal {
        parts.extensions.insert(Arc::clone(&principal));
        (guard.prove)(principal, &mut parts.extensions);
    }
    Ok(Some(mutation))
}

/// Permission, origin and CSRF of a mutation.
fn allow(app: &App, guard: &Guard, parts: &Parts) -> Result<(), ApiError> {
    check_origin(app, Client::found(&parts.extensions).secure, &parts.headers)?;
    let Some(permission) = guard.permission else { return Ok(()) };
    let principal = parts.extensions.get::<Arc<Principal>>().ok_or_else(ApiError::unauthenticated)?;
    // A download is a link: nothing is changed by it.
    if principal.by_cookie() && !guard.exports {
        let sent = parts.headers.get("x-csrf-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let expected = session::csrf_token(app, &principal.session);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(sent.as_bytes(), expected.as_bytes())) {
            return Err(ApiError::csrf("Send the session's csrf_token in X-CSRF-Token."));
        }
    }
    require(principal, permission)
}

fn require(principal: &Principal, permission: &str) -> Result<(), ApiError> {
    if crate::api::access::grants(principal.role, permission) { Ok(()) } else { Err(ApiError::forbidden()) }
}

/// A browser says where a request comes from; it must be from here. Other clients say nothing. `secure`:
/// whether the browser speaks TLS.
pub fn check_origin(app: &App, secure: bool, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if app.is_own_origin(origin, secure, host) {
        Ok(())
    } else {
        Err(ApiError::csrf("The Origin header names another site than this server."))
    }
}
