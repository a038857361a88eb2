//! The WebSocket listener, for agents whose UDP is blocked: TLS that a proxy may open, a WebSocket,
//! and inside it the agent's own TLS with its certificate.

mod stream;

pub(crate) use stream::WsStream;

use crate::{
    connection::{self, Streams},
    link::{Reader, Writer},
    relay::{HalfOpen, Relay},
    tls::{self, Tls},
};
use anyhow::{Context, bail};
use breeze_relay_core::{admission::Verdict, session::Peer};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::{
    handshake::server::{ErrorResponse, Request, Response},
    http::StatusCode,
    protocol::WebSocketConfig,
};
use tokio_util::sync::CancellationToken;

/// Path of the upgrade.
const PATH: &str = "/agent";
/// All three handshakes together: whoever drips bytes is cut off here.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest message: a few TLS records.
const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// Buffers of one WebSocket, in bytes.
const BUFFER_BYTES: usize = 4 * 1024;
const MAX_WRITE_BUFFER_BYTES: usize = 256 * 1024;
/// Pending TCP connections.
const BACKLOG: i32 = 4_096;
/// After an error of `accept` that is not one connection's (no more file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the listener.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).context("bind")?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Accepts until `stop`.
pub(crate) async fn accept(
    relay: Arc<Relay>,
    listener: TcpListener,
    tls: Tls,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let outer = TlsAcceptor::from(tls.outer);
    let agents = TlsAcceptor::from(tls.agents);
    loop {
        let (socket, address) = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        // TCP has proven the address already.
        if let (Verdict::Begin, Some(guard)) = relay.admit(address.ip(), true, false) {
            relay.connections.spawn(serve(relay.clone(), outer.clone(), agents.clone(), socket, address, guard));
        }
    }
}

async fn serve(
    relay: Arc<Relay>,
    outer: TlsAcceptor,
    agents: TlsAcceptor,
    socket: TcpStream,
    address: SocketAddr,
    guard: HalfOpen,
) {
    let handshake = Box::pin(handshake(&relay, &outer, &agents, socket, address));
    let handshake = tokio::select! {
        () = relay.drain.cancelled() => return,
        result = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => result,
    };
    drop(guard);
    match handshake {
        Ok(Ok(Some((peer, streams)))) => connection::run(relay, peer, streams).await,
        // Counted where it was decided.
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            tracing::debug!(error = format!("{error:#}"), "handshake failed");
            relay.stats.count_handshake("failed");
        }
        Err(_elapsed) => relay.stats.count_handshake("timeout"),
    }
}

/// `None` if the peer is turned away after a handshake that went through.
async fn handshake(
    relay: &Relay,
    outer: &TlsAcceptor,
    agents: &TlsAcceptor,
    socket: TcpStream,
    address: SocketAddr,
) -> anyhow::Result<Option<(Peer, Streams)>> {
    socket.set_nodelay(true)?;
    let outside = outer.accept(socket).await.context("outer TLS")?;
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let upgraded = tokio_tungstenite::accept_hdr_async_with_config(outside, check_request, Some(config))
        .await
        .context("upgrade")?;
    let inside = agents.accept(WsStream::new(upgraded)).await.context("inner TLS")?;
    let session = inside.get_ref().1;
    if session.alpn_protocol() != Some(breeze_proto::ALPN) {
        bail!("the inner TLS names no protocol");
    }
    let Ok(peer) = tls::peer(relay, session.peer_certificates(), address, "websocket") else {
        return Ok(None);
    };
    let (reader, writer) = tokio::io::split(inside);
    Ok(Some((peer, Streams { reader: Reader::Inner(reader), writer: Writer::Inner(writer), quic: None })))
}

/// Only our path; the WebSocket headers themselves are checked by the library, which also bounds them.
#[expect(clippy::result_large_err, reason = "the library's signature")]
fn check_request(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() == PATH {
        return Ok(response);
    }
    let mut refusal = ErrorResponse::new(None);
    *refusal.status_mut() = StatusCode::NOT_FOUND;
    Err(refusal)
}
