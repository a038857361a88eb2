//! A small agent: one connection, frames in and out.

use crate::world::{PATIENCE, World};
use breeze_proto::{
    PROTOCOL_VERSION, frame,
    limits::MAX_FRAME_BYTES,
    v1::{
        AgentFrame, Close, CloseReason, ConnectionRole, Heartbeat, HeartbeatBatch, Hello, HostFacts, Lane, RelayFrame,
        Scalars, UploadChunk, Welcome, agent_frame, relay_frame,
    },
};
use breeze_runtime::tls::{Identity, provider};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::CertificateDer;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

pub(crate) struct Agent {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    buffer: BytesMut,
    pub(crate) quic: Option<quinn::Connection>,
    pub(crate) resumed: bool,
    /// What the relay has shown, inside; none when the session was resumed.
    pub(crate) shown: Option<CertificateDer<'static>>,
    _endpoint: Option<quinn::Endpoint>,
}

pub(crate) fn client_config(world: &World, identity: Option<Identity>, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(world.pki.ca()).expect("our CA");
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain_der, identity.key_der).expect("a key"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// Connects over QUIC; the error is the connection's, as text.
pub(crate) async fn quic(config: &Arc<ClientConfig>, address: SocketAddr) -> Result<Agent, String> {
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    quic_from(&endpoint, config, address).await
}

/// As [`quic`], from a socket that others may share.
pub(crate) async fn quic_from(
    endpoint: &quinn::Endpoint,
    config: &Arc<ClientConfig>,
    address: SocketAddr,
) -> Result<Agent, String> {
    let crypto = QuicClientConfig::try_from(config.clone()).expect("QUIC TLS");
    let connecting = endpoint
        .connect_with(quinn::ClientConfig::new(Arc::new(crypto)), address, "localhost")
        .expect("a valid configuration");
    let connection = connecting.await.map_err(|error| error.to_string())?;
    let (send, receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let shown = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let shown = shown.and_then(|chain| chain.first().cloned());
    Ok(Agent {
        reader: Box::new(receive),
        writer: Box::new(send),
        buffer: BytesMut::new(),
        quic: Some(connection),
        resumed: false,
        shown,
        _endpoint: Some(endpoint.clone()),
    })
}

/// Connects over TLS, WebSocket, TLS.
pub(crate) async fn websocket(
    world: &World,
    config: &Arc<ClientConfig>,
    path: &str,
) -> Result<Agent, Box<dyn std::error::Error>> {
    let outer = TlsConnector::from(client_config(world, None, b"http/1.1"));
    let socket = tokio::net::TcpStream::connect(world.wss).await?;
    let outside = outer.connect("localhost".try_into()?, socket).await?;
    let url = format!("wss://localhost{path}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, outside).await?;
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => if far.write_all(&bytes).await.is_err() { return },
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                },
                read = far.read(&mut buffer) => match read {
                    Ok(len @ 1..) => {
                        let message = Message::Binary(Bytes::copy_from_slice(&buffer[..len]));
                        if socket.send(message).await.is_err() { return }
                    }
                    Ok(0) | Err(_) => return,
                },
            }
        }
    });
    let inside = TlsConnector::from(config.clone()).connect("localhost".try_into()?, near).await?;
    let shown =
        inside.get_ref().1.peer_certificates().and_then(|chain| chain.first().map(|own| own.clone().into_owned()));
    let resumed = inside.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    let (reader, writer) = tokio::io::split(inside);
    Ok(Agent {
        reader: Box::new(reader),
        writer: Box::new(writer),
        buffer: BytesMut::new(),
        quic: None,
        resumed,
        shown,
        _endpoint: None,
    })
}

pub(crate) fn hello(nonce: u8, counter: u64) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: "0.1.0".to_owned(),
        instance_nonce: Bytes::copy_from_slice(&[nonce; 16]),
        session_counter: counter,
        role: ConnectionRole::Primary.into(),
        incarnation: 7,
        boot_id: Bytes::from_static(&[9; 16]),
        host: Some(HostFacts { hostname: "<b>host</b>".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after the epoch").as_micros() as u64
}

pub(crate) fn heartbeats(seqs: std::ops::RangeInclusive<u64>) -> agent_frame::Body {
    let now = now_us();
    let heartbeat = |seq| Heartbeat {
        lane: Lane::Live.into(),
        seq,
        wall_us: now,
        scalars: Some(Scalars { cpu_permille: 5, ..Default::default() }),
        ..Default::default()
    };
    agent_frame::Body::Heartbeats(HeartbeatBatch {
        sent_wall_us: now,
        sent_mono_us: 1,
        heartbeats: seqs.map(heartbeat).collect(),
    })
}

impl Agent {
    pub(crate) async fn send(&mut self, body: agent_frame::Body) {
        let mut out = BytesMut::new();
        frame::encode(&AgentFrame { body: Some(body) }, MAX_FRAME_BYTES, &mut out).expect("small enough");
        self.send_bytes(&out).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        // The relay may have closed already; then the answer says so.
        if self.writer.write_all(bytes).await.is_ok() {
            let _closed_meanwhile = self.writer.flush().await;
        }
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<relay_frame::Body> {
        let next = async {
            loop {
                if let Some(frame) = frame::take::<RelayFrame>(&mut self.buffer, MAX_FRAME_BYTES).expect("frames") {
                    return frame.body;
                }
                match self.reader.read_buf(&mut self.buffer).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("something comes")
    }

    /// The first frame that `pick` takes; what comes before it is skipped.
    pub(crate) async fn until<T>(&mut self, pick: impl Fn(relay_frame::Body) -> Option<T>) -> T {
        loop {
            let frame = self.receive().await.expect("the connection lives");
            if let Some(picked) = pick(frame) {
                return picked;
            }
        }
    }

    pub(crate) async fn greet(&mut self, nonce: u8, counter: u64) -> Welcome {
        self.send(agent_frame::Body::Hello(hello(nonce, counter))).await;
        self.until(|frame| if let relay_frame::Body::Welcome(welcome) = frame { Some(welcome) } else { None }).await
    }

    pub(crate) async fn until_close(&mut self) -> Close {
        self.until(|frame| if let relay_frame::Body::Close(close) = frame { Some(close) } else { None }).await
    }

    pub(crate) async fn until_close_reason(&mut self) -> CloseReason {
        self.until_close().await.reason()
    }

    /// Sequences that were acknowledged, until `count` were.
    pub(crate) async fn until_stored(&mut self, count: usize) -> Vec<u64> {
        let mut stored = Vec::new();
        while stored.len() < count {
            let ack = self.until(|frame| if let relay_frame::Body::Ack(ack) = frame { Some(ack) } else { None }).await;
            stored.extend(ack.stored.iter().flat_map(|range| range.first..=range.last));
        }
        stored
    }

    /// Sends a transfer: on a stream of its own over QUIC, between other frames otherwise.
    pub(crate) async fn upload(&mut self, chunks: Vec<UploadChunk>) {
        let mut out = BytesMut::new();
        for chunk in chunks {
            let frame = AgentFrame { body: Some(agent_frame::Body::Upload(chunk)) };
            frame::encode(&frame, MAX_FRAME_BYTES, &mut out).expect("small enough");
        }
        match &self.quic {
            Some(connection) => {
                let mut stream = connection.open_uni().await.expect("a stream");
                stream.write_all(&out).await.expect("sent");
                stream.finish().expect("finished");
            }
            None => self.send_bytes(&out).await,
        }
    }
}
