//! One-time tickets: a browser cannot put a header on a WebSocket, so it first asks for a ticket over
//! HTTP, with cookie and CSRF token, and opens the socket with it. A ticket works once, for
//! [`TICKET_LIFETIME`], for the session that asked, on any node: it waits in the session's record.

use crate::{
    api::{Principal, time::now_ms},
    app::session,
    context::App,
    error::ApiError,
    keyring::{new_secret, sha256_hex},
};
use breeze_proto::id::SessionId;
use breeze_store::model::{error::ModelError, session as sessions};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// How long a ticket waits for its socket.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);

/// A new ticket.
///
/// # Errors
/// `rate_limited` when as many wait as may, and the store's.
pub async fn issue(app: &App, session: SessionId) -> Result<String, ApiError> {
    let secret = new_secret();
    let (now, hash) = (now_ms(), sha256_hex(secret.as_bytes()));
    let expires = now + TICKET_LIFETIME.as_millis() as u64;
    match sessions::put_ticket(&*app.state, session, &hash, now, expires).await {
        Ok(()) => Ok(format!("{}.{secret}", session.uuid().simple())),
        Err(ModelError::Conflict(_)) => {
            metrics::counter!("breeze_ws_tickets_refused_total").increment(1);
            Err(ApiError::rate_limited(Duration::from_secs(5)))
        }
        Err(ModelError::NotFound(_)) => Err(ApiError::unauthenticated()),
        Err(error) => Err(error.into()),
    }
}

/// Whom the ticket stands for, if it is good and its session not over; it is gone then.
///
/// # Errors
/// The store's.
pub async fn redeem(app: &App, ticket: &str) -> Result<Option<Arc<Principal>>, ApiError> {
    let Some((id, secret)) = ticket.split_once('.') else { return Ok(None) };
    let Some(id) = Uuid::try_parse(id).ok().filter(|_| id.len() == 32 && secret.len() == 43) else { return Ok(None) };
    let id = SessionId::from_uuid(id);
    if !sessions::take_ticket(&*app.state, id, &sha256_hex(secret.as_bytes()), now_ms()).await? {
        return Ok(None);
    }
    match sessions::find(&*app.state, id).await? {
        Some(session) if !session.is_over(now_ms()) => session::principal_of(app, session).await,
        Some(_) | None => Ok(None),
    }
}
