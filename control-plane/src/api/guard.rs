//! What stands before every handler: limit, authentication, permission, origin and CSRF, and for
//! mutations the wrapper that writes the audit entry.

use crate::{
    api::{
        Mutation, Principal,
        rate::{Class, network},
        router::Guard,
    },
    app::session,
    context::App,
    error::{ApiError, ProblemCode},
};
use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{Extensions, HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// The layer of one endpoint.
pub(super) async fn stand(State((app, guard)): State<(App, Guard)>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let address = peer(&parts.extensions);
    let mut left = None;
    let admitted = admit(&app, &guard, &mut parts, address, &mut left).await;
    let mut response = match admitted {
        Err(refused) => refused.into_response(),
        Ok(None) => next.run(Request::from_parts(parts, body)).await,
        Ok(Some(mutation)) => {
            let response = match allow(&app, &guard, &parts) {
                Ok(()) => next.run(Request::from_parts(parts, body)).await,
                Err(refused) => refused.into_response(),
            };
            let code = response.extensions().get::<ProblemCode>().map_or("", |code| code.0);
            mutation.close(&app, response.status(), code).await;
            response
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
    address: IpAddr,
    left: &mut Option<crate::api::rate::Left>,
) -> Result<Option<Mutation>, ApiError> {
    let principal = match guard.permission {
        None => {
            *left = Some(app.limits.take(guard.class, network(address))?);
            None
        }
        Some(permission) => {
            let principal = match session::authenticate(app, &parts.headers).await? {
                Some(principal) => principal,
                None => {
                    // A guess costs what any anonymous request costs.
                    *left = Some(app.limits.take(Class::Public, network(address))?);
                    return Err(ApiError::unauthenticated());
                }
            };
            *left = Some(app.limits.take(guard.class, principal.user_id)?);
            if guard.action.is_none() {
                require(&principal, permission)?;
                (guard.prove)(Arc::clone(&principal), &mut parts.extensions);
            }
            Some(principal)
        }
    };
    let Some(action) = guard.action else { return Ok(None) };
    let route = parts.extensions.get::<MatchedPath>().map_or_else(String::new, |path| path.as_str().to_owned());
    let mutation = Mutation::open(action, route, principal.clone(), address, &parts.headers)?;
    parts.extensions.insert(mutation.clone());
    if let Some(principal) = principal {
        parts.extensions.insert(Arc::clone(&principal));
        (guard.prove)(principal, &mut parts.extensions);
    }
    Ok(Some(mutation))
}

/// Permission, origin and CSRF of a mutation.
fn allow(app: &App, guard: &Guard, parts: &Parts) -> Result<(), ApiError> {
    check_origin(app, &parts.headers)?;
    let Some(permission) = guard.permission else { return Ok(()) };
    let principal = parts.extensions.get::<Arc<Principal>>().ok_or_else(ApiError::unauthenticated)?;
    if principal.by_cookie() {
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

/// A browser says where a request comes from; it must be from here. Other clients say nothing.
pub fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if app.is_own_origin(origin, host) {
        Ok(())
    } else {
        Err(ApiError::csrf("The Origin header names another site than this server."))
    }
}

/// Who is at the other end of the connection.
#[must_use]
pub fn peer(extensions: &Extensions) -> IpAddr {
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip().to_canonical())
}
