//! `POST /ws-tickets` and `GET /ws`: live updates.

use crate::{
    api::{Action, Api, Caller, Query, access::OwnSession, client::Client, guard::check_origin},
    app::session,
    context::App,
    error::ApiError,
    live::{
        self,
        connection::MAX_MESSAGE_BYTES,
        tickets::{self, TICKET_LIFETIME},
    },
};
use axum::{
    Json,
    extract::{Extension, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::routes;

/// Bytes that wait in a socket's buffer before its writer waits.
const MAX_WRITE_BUFFER: usize = 1024 * 1024;

/// Opens one WebSocket.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WsTicket {
    ticket: String,
    /// Seconds.
    expires_in: u64,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WsParams {
    /// From `POST /ws-tickets`; works once.
    ticket: String,
}

pub(super) fn register(api: Api) -> Api {
    api.mutation::<OwnSession>(Action::quiet("ws_ticket.create"), routes!(create_ws_ticket)).public(routes!(open_ws))
}

/// Create a ticket for live updates
///
/// It opens one WebSocket, once, within 30 seconds, with what the caller may see.
#[utoipa::path(post, path = "/api/v1/ws-tickets", tag = "system", responses((status = 201, body = WsTicket)))]
async fn create_ws_ticket(
    State(app): State<App>,
    caller: Caller<OwnSession>,
) -> Result<(StatusCode, Json<WsTicket>), ApiError> {
    let ticket = tickets::issue(&app, caller.principal().session_id()).await?;
    Ok((StatusCode::CREATED, Json(WsTicket { ticket, expires_in: TICKET_LIFETIME.as_secs() })))
}

/// Live updates
///
/// A WebSocket. Send `{"subscribe":["devices","overview","status","device:<id>"]}`,
/// `{"unsubscribe":[…]}` or `{"ping":n}`. It answers `{"type":"subscribed","topics":[…]}`,
/// `{"pong":n}` or `{"type":"error","topic":…,"detail":…}`, and tells what its topics have to tell as
/// `{"topic":…,"type":"changed"|"sample"|"device"|"overview"|"status","data":…}`. Close code 4401:
/// the session has ended.
#[utoipa::path(
    get, path = "/api/v1/ws", tag = "system", params(WsParams),
    responses((status = 101, description = "The socket is open")),
)]
async fn open_ws(
    State(app): State<App>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    Query(params): Query<WsParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|_| ApiError::malformed("Open this address as a WebSocket."))?;
    // Before the ticket is looked at, so that a foreign page cannot even use one up.
    check_origin(&app, client.secure, &headers)?;
    let refused = ApiError::unauthenticated;
    let principal = tickets::redeem(&app, &params.ticket).await?.ok_or_else(refused)?;
    if let Some(other) = session::authenticate(&app, &headers).await?
        && other.session_id() != principal.session_id()
    {
        return Err(refused());
    }
    let place = Arc::clone(&app.live.connections)
        .try_acquire_owned()
        .map_err(|_| ApiError::unavailable("This node holds as many live connections as it may. Try again later."))?;
    Ok(upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .on_upgrade(move |socket| live::serve(app, principal, socket, place)))
}
