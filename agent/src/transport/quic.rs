//! QUIC: one control stream that the agent opens, and one uni stream an upload.

use super::{CLOSE_PATIENCE, Dialer, Events, LinkEvent, Order, chunks, encode, read_frames, split_host_port};
use anyhow::{Context as _, bail};
use breeze_agent_core::Transfer;
use breeze_proto::{
    limits::{IDLE_TIMEOUT, KEEP_ALIVE},
    v1::Relay,
};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, Endpoint, EndpointConfig, SendStream, TransportConfig, VarInt,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinSet};

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Streams that the relay may open; each allowed one costs memory.
const MAX_STREAMS: u32 = 4;
/// The relay may leave that many packets unacknowledged, for that long.
const ACK_THRESHOLD: u32 = 8;
const ACK_DELAY: Duration = Duration::from_millis(400);

pub(super) async fn run(
    dialer: &Dialer,
    relay: &Relay,
    orders: mpsc::Receiver<Order>,
    events: &Events,
) -> anyhow::Result<()> {
    let (host, port) = split_host_port(&relay.quic)?;
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((host, port)).await.with_context(|| format!("cannot find {host}"))?.collect();
    let config = client_config(dialer, &relay.id)?;
    let mut failure = anyhow::anyhow!("{host} has no address");
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        let endpoint = endpoint_for(address)?;
        let connecting = endpoint.connect_with(config.clone(), address, host).context("QUIC")?;
        match connecting.await {
            Ok(connection) => return converse(endpoint, connection, orders, events).await,
            Err(error) => failure = anyhow::Error::new(error).context(format!("QUIC to {address}")),
        }
    }
    Err(failure)
}

pub(super) fn client_config(dialer: &Dialer, relay_id: &str) -> anyhow::Result<ClientConfig> {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(dialer.relay_tls(relay_id)?).context("TLS for QUIC")?;
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().context("idle timeout")?));
    // A heartbeat's acknowledgement comes within the relay's window: QUIC's own can ride on it.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD)).max_ack_delay(Some(ACK_DELAY));
    transport.ack_frequency_config(Some(acks));
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn socket_for(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).context("cannot open a UDP socket")
}

fn endpoint_for(address: SocketAddr) -> anyhow::Result<Endpoint> {
    let runtime = quinn::default_runtime().context("no tokio runtime")?;
    Endpoint::new(EndpointConfig::default(), None, socket_for(address)?, runtime).context("cannot open QUIC")
}

async fn converse(
    endpoint: Endpoint,
    connection: Connection,
    orders: mpsc::Receiver<Order>,
    events: &Events,
) -> anyhow::Result<()> {
    let (send, receive) = connection.open_bi().await.context("cannot open the control stream")?;
    events.report(LinkEvent::Connected).await;
    let ended = tokio::select! {
        biased;
        ended = carry_out(&endpoint, &connection, send, orders) => ended,
        ended = read_frames(receive, events) => ended.and_then(|()| bail!("the relay ended the connection")),
        error = connection.closed() => Err(anyhow::Error::new(error).context("the connection was lost")),
    };
    connection.close(VarInt::from_u32(0), b"");
    // So that the close itself leaves.
    let _left = tokio::time::timeout(CLOSE_PATIENCE, endpoint.wait_idle()).await;
    ended
}

async fn carry_out(
    endpoint: &Endpoint,
    connection: &Connection,
    mut control: SendStream,
    mut orders: mpsc::Receiver<Order>,
) -> anyhow::Result<()> {
    let mut uploads = JoinSet::new();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            Some(ended) = uploads.join_next(), if !uploads.is_empty() => {
                ended.context("an upload's task")??;
                continue;
            }
        };
        match order {
            Some(Order::Frame(frame)) => control.write_chunk(encode(&frame)?).await.context("cannot send")?,
            Some(Order::Upload(transfer)) => {
                uploads.spawn(upload(connection.clone(), transfer));
            }
            Some(Order::Rebind) => {
                endpoint.rebind(socket_for(connection.remote_address())?).context("cannot change the UDP socket")?;
            }
            Some(Order::Close) | None => {
                // Ends when the relay has everything; a dead one costs the patience.
                let _already_finished = control.finish();
                let _acknowledged = tokio::time::timeout(CLOSE_PATIENCE, control.stopped()).await;
                return Ok(());
            }
        }
    }
}

async fn upload(connection: Connection, transfer: Transfer) -> anyhow::Result<()> {
    let mut stream = connection.open_uni().await.context("cannot open an upload's stream")?;
    for frame in chunks(&transfer) {
        // The relay may end a stream early and says why in its UploadAck.
        if stream.write_chunk(encode(&frame)?).await.is_err() {
            return Ok(());
        }
    }
    let _already_finished = stream.finish();
    Ok(())
}
