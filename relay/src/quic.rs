//! The QUIC listener: admission before anything is allocated for a peer, then one task a connection.

use crate::{
    config::Config,
    connection::{self, Streams},
    keys::Keys,
    link::{Reader, Writer},
    relay::{HalfOpen, Relay},
    tls::{self, Tls, TurnedAway},
};
use anyhow::Context;
use breeze_proto::{limits::IDLE_TIMEOUT, v1::CloseReason};
use breeze_relay_core::{admission::Verdict, limits::HELLO_TIMEOUT};
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use rustls_pki_types::CertificateDer;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The control stream and three to spare: each preallocated slot costs memory.
const BIDI_STREAMS: u8 = 4;
const UNI_STREAMS: u8 = 4;
/// Bytes in flight to us on one stream, and on all of one connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of ours that a connection may hold for retransmission.
const SEND_WINDOW: u64 = 256 * 1024;
/// Largest handshake that is buffered out of order.
const CRYPTO_BUFFER: usize = 8 * 1024;
/// What one peer may send before it is accepted, and all of them together.
const INCOMING_BUFFER: u64 = 8 * 1024;
const INCOMING_BUFFERS: u64 = 8 * 1024 * 1024;
/// Socket buffers asked for; the system may give less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Binds the endpoint.
pub(crate) fn bind(config: &Config, keys: &Keys, tls: &Tls) -> anyhow::Result<Endpoint> {
    let address = config.quic_listen;
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    // Bursts of a mass return want more than the default; less is no reason not to start.
    let _best_effort = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _best_effort = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into()).context("bind")?;

    let mut endpoint = EndpointConfig::new(Arc::new(keys.reset_key()));
    let ids = keys.connection_ids();
    endpoint.cid_generator(move || Box::new(ids.clone()));

    let crypto = QuicServerConfig::try_from(tls.agents.clone())?;
    let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(keys.token_key()));
    server
        .transport_config(Arc::new(transport()?))
        .max_incoming(config.limits.half_open as usize)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFERS);
    Ok(Endpoint::new(endpoint, Some(server), socket.into(), Arc::new(TokioRuntime))?)
}

fn transport() -> anyhow::Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from(BIDI_STREAMS))
        .max_concurrent_uni_streams(VarInt::from(UNI_STREAMS))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT)?))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(CRYPTO_BUFFER)
        .datagram_receive_buffer_size(None)
        // The agent keeps the path open; probing for a larger packet gains nothing at 200 bytes.
        .mtu_discovery_config(None);
    Ok(transport)
}

/// Accepts until `stop`.
pub(crate) async fn accept(relay: Arc<Relay>, endpoint: Endpoint, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let incoming = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            incoming = endpoint.accept() => incoming.context("the endpoint has closed")?,
        };
        let source = incoming.remote_address().ip();
        let (verdict, guard) = relay.admit(source, incoming.remote_address_validated(), incoming.may_retry());
        match verdict {
            // It may have used its one retry meanwhile; then it has had its answer.
            Verdict::Retry => drop(incoming.retry()),
            Verdict::Refuse => incoming.refuse(),
            Verdict::Begin => {
                relay.connections.spawn(handshake(relay.clone(), incoming, guard));
            }
        }
    }
}

async fn handshake(relay: Arc<Relay>, incoming: Incoming, guard: Option<HalfOpen>) {
    let connected = async {
        let connecting = incoming.accept()?;
        connecting.await
    };
    let connection = match tokio::time::timeout(HANDSHAKE_TIMEOUT, connected).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return relay.stats.count_handshake("failed");
        }
        Err(_elapsed) => return relay.stats.count_handshake("timeout"),
    };
    drop(guard);
    let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificates = identity.as_ref().map(|chain| chain.as_slice());
    let peer = match tls::peer(&relay, certificates, connection.remote_address(), "quic") {
        Ok(peer) => peer,
        Err(turned_away) => {
            return connection.close(VarInt::from_u32(code_of(turned_away)), b"");
        }
    };
    // The control stream is the agent's first; until it comes nothing is held but the connection.
    let opened = tokio::select! {
        () = relay.drain.cancelled() => {
            return connection.close(VarInt::from_u32(CloseReason::Draining as u32), b"");
        }
        opened = tokio::time::timeout(HELLO_TIMEOUT, connection.accept_bi()) => opened,
    };
    let Ok(Ok((send, receive))) = opened else {
        relay.stats.count_refused("hello_timeout", 1);
        return connection.close(VarInt::from_u32(CloseReason::Protocol as u32), b"");
    };
    let streams = Streams { reader: Reader::Quic(receive), writer: Writer::Quic(send), quic: Some(connection) };
    connection::run(relay, peer, streams).await;
}

fn code_of(turned_away: TurnedAway) -> u32 {
    match turned_away {
        TurnedAway::Certificate => CloseReason::CertificateExpired as u32,
        TurnedAway::TooOften => CloseReason::Overloaded as u32,
    }
}
