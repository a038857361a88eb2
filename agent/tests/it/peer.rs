//! A relay of the tests' own: takes heartbeats and uploads, acknowledges them, renews certificates.

use crate::authority::{Authority, now_us, renewal_message};
use breeze_proto::{
    frame,
    id::DeviceId,
    limits::MAX_FRAME_BYTES,
    v1::{
        Ack, AgentFrame, Close, Heartbeat, Held, HeldLane, Hello, InventoryDocument, InventoryHash, IssuedCertificate,
        Lane, Pong, Relay, RelayFrame, RenewChallenge, RenewReply, SeqRange, UploadAck, UploadResult, Welcome,
        agent_frame::Body as Said, relay_frame::Body as Answer, renew_reply,
    },
};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

pub(crate) const RELAY_ID: &str = "test-1";
pub(crate) const CHALLENGE: &[u8] = b"a challenge";

/// Incarnation, lane, sequence.
pub(crate) type Key = (u64, i32, u64);

/// What the relay has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) hellos: Vec<(Hello, &'static str)>,
    /// Each with how often it came.
    pub(crate) heartbeats: BTreeMap<Key, (Heartbeat, u32)>,
    /// Numbers under which different heartbeats came.
    pub(crate) conflicts: BTreeSet<Key>,
    pub(crate) documents: Vec<InventoryDocument>,
    pub(crate) goodbyes: u32,
    pub(crate) renewals: u32,
    transfers: BTreeMap<Vec<u8>, Vec<u8>>,
    inventory: BTreeMap<i32, Bytes>,
    pushes: Vec<mpsc::UnboundedSender<RelayFrame>>,
}

/// How the relay behaves.
#[derive(Default)]
pub(crate) struct Manners {
    /// Takes heartbeats and says nothing.
    pub(crate) silent: bool,
    /// Its clock is so far ahead, in microseconds.
    pub(crate) clock_ahead_us: u64,
    /// Closes with this instead of a welcome.
    pub(crate) close: Option<Close>,
}

pub(crate) struct Peer {
    pub(crate) authority: Arc<Authority>,
    pub(crate) device: DeviceId,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) manners: Mutex<Manners>,
    up: watch::Sender<bool>,
}

impl Peer {
    pub(crate) fn new(authority: Arc<Authority>, device: DeviceId) -> Arc<Self> {
        Arc::new(Self {
            authority,
            device,
            seen: Mutex::default(),
            manners: Mutex::default(),
            up: watch::Sender::new(true),
        })
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic before")
    }

    /// Waits until `what` holds of what was seen.
    pub(crate) async fn until(&self, words: &str, what: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !what(&self.seen()) {
            assert!(Instant::now() < deadline, "in vain: {words}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a frame to every connection.
    pub(crate) fn push(&self, body: Answer) {
        for connection in &self.seen().pushes {
            let _gone = connection.send(RelayFrame { body: Some(body.clone()) });
        }
    }

    /// Drops all connections, and takes none while down.
    pub(crate) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    async fn goes_down(&self) {
        let mut up = self.up.subscribe();
        let _ended = up.wait_for(|up| !up).await;
    }

    /// Listens on QUIC; the address for the relay list.
    pub(crate) fn serve_quic(self: &Arc<Self>) -> SocketAddr {
        let tls = quinn::crypto::rustls::QuicServerConfig::try_from(self.authority.relay_tls(RELAY_ID)).expect("TLS");
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("binds");
        let address = endpoint.local_addr().expect("bound");
        let peer = self.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let peer = peer.clone();
                tokio::spawn(async move {
                    if !*peer.up.borrow() {
                        incoming.refuse();
                        return;
                    }
                    let Ok(connection) = incoming.await else { return };
                    tokio::select! {
                        () = peer.clone().serve_quic_connection(&connection) => {}
                        () = peer.goes_down() => {}
                    }
                    connection.close(0u32.into(), b"");
                });
            }
        });
        address
    }

    async fn serve_quic_connection(self: Arc<Self>, connection: &quinn::Connection) {
        let Ok((send, receive)) = connection.accept_bi().await else { return };
        let (pushes, pushed) = mpsc::unbounded_channel();
        self.seen().pushes.push(pushes.clone());
        let uploads = async {
            while let Ok(stream) = connection.accept_uni().await {
                self.clone().read(stream, "quic", &pushes).await;
            }
        };
        tokio::join!(uploads, self.clone().talk(receive, send, "quic", pushes.clone(), pushed));
    }

    /// Listens for WebSockets; the address for the relay list.
    pub(crate) async fn serve_websocket(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let peer = self.clone();
        let outer = TlsAcceptor::from(Arc::new(self.authority.web_tls()));
        let inner = TlsAcceptor::from(Arc::new(self.authority.relay_tls(RELAY_ID)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (peer, outer, inner) = (peer.clone(), outer.clone(), inner.clone());
                tokio::spawn(async move {
                    let Ok(stream) = outer.accept(stream).await else { return };
                    let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
                    let stream = as_stream(socket);
                    let Ok(stream) = inner.accept(stream).await else { return };
                    let (receive, send) = tokio::io::split(stream);
                    let (pushes, pushed) = mpsc::unbounded_channel();
                    peer.seen().pushes.push(pushes.clone());
                    tokio::select! {
                        () = peer.clone().talk(receive, send, "websocket", pushes, pushed) => {}
                        () = peer.goes_down() => {}
                    }
                });
            }
        });
        address
    }

    /// Both directions of a control stream.
    async fn talk(
        self: Arc<Self>,
        receive: impl AsyncRead + Unpin,
        mut send: impl AsyncWrite + Unpin,
        transport: &'static str,
        pushes: mpsc::UnboundedSender<RelayFrame>,
        mut pushed: mpsc::UnboundedReceiver<RelayFrame>,
    ) {
        let write = async {
            while let Some(frame) = pushed.recv().await {
                let mut bytes = BytesMut::new();
                frame::encode(&frame, MAX_FRAME_BYTES, &mut bytes).expect("fits");
                if send.write_all(&bytes).await.is_err() || send.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = write => {}
            () = self.read(receive, transport, &pushes) => {}
        }
    }

    async fn read(
        self: &Arc<Self>,
        mut stream: impl AsyncRead + Unpin,
        transport: &'static str,
        pushes: &mpsc::UnboundedSender<RelayFrame>,
    ) {
        let mut buffer = BytesMut::new();
        loop {
            while let Some(frame) = frame::take::<AgentFrame>(&mut buffer, MAX_FRAME_BYTES).expect("a valid frame") {
                for answer in self.answer(frame.body.expect("a body"), transport) {
                    let _gone = pushes.send(RelayFrame { body: Some(answer) });
                }
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
    }

    fn answer(&self, said: Said, transport: &'static str) -> Vec<Answer> {
        let manners = self.manners.lock().expect("no panic before");
        let mut seen = self.seen();
        match said {
            Said::Hello(hello) => {
                seen.hellos.push((hello, transport));
                if let Some(close) = &manners.close {
                    return vec![Answer::Close(close.clone())];
                }
                let welcome = Welcome {
                    session_epoch: seen.hellos.len() as u64,
                    server_wall_us: now_us() + manners.clock_ahead_us,
                    observed_address: "192.0.2.1:1".into(),
                    relay_id: RELAY_ID.into(),
                    renew_only: false,
                };
                vec![Answer::Welcome(welcome), Answer::Held(self.held(&seen))]
            }
            Said::Heartbeats(batch) => {
                let mut stored = Vec::new();
                let incarnation = seen.hellos.last().map_or(0, |(hello, _)| hello.incarnation);
                for mut heartbeat in batch.heartbeats {
                    if heartbeat.incarnation == 0 {
                        heartbeat.incarnation = incarnation;
                    }
                    let key = (heartbeat.incarnation, heartbeat.lane, heartbeat.seq);
                    stored.push(SeqRange { incarnation: key.0, lane: key.1, first: key.2, last: key.2 });
                    let moment = heartbeat.mono_us;
                    let (first, times) = seen.heartbeats.entry(key).or_insert((heartbeat, 0));
                    *times += 1;
                    if first.mono_us != moment {
                        seen.conflicts.insert(key);
                    }
                }
                if manners.silent { Vec::new() } else { vec![Answer::Ack(Ack { stored, refused: Vec::new() })] }
            }
            Said::Upload(chunk) => {
                let content = seen.transfers.entry(chunk.transfer_id.to_vec()).or_default();
                content.extend_from_slice(&chunk.data);
                let total = content.len();
                if chunk.total_len != 0 && chunk.total_len != total as u64 {
                    return Vec::new();
                }
                let Ok(document) = InventoryDocument::decode(content.as_slice()) else { return Vec::new() };
                let section = document.section;
                seen.inventory.insert(section, document.hash.clone());
                let hash = InventoryHash { section, hash: document.hash.clone() };
                seen.documents.push(document);
                vec![
                    Answer::UploadAck(UploadAck {
                        transfer_id: chunk.transfer_id,
                        result: UploadResult::Stored.into(),
                    }),
                    Answer::Held(Held { inventory: vec![hash], ..Held::default() }),
                ]
            }
            Said::Ping(ping) => vec![Answer::Pong(Pong { token: ping.token, server_wall_us: now_us() })],
            Said::Pong(_) => Vec::new(),
            Said::RenewBegin(_) => {
                vec![Answer::RenewChallenge(RenewChallenge { challenge: Bytes::from_static(CHALLENGE) })]
            }
            Said::RenewProof(proof) => {
                assert_eq!(proof.challenge, CHALLENGE);
                seen.renewals += 1;
                assert!(!renewal_message(CHALLENGE, &proof.csr_der).is_empty());
                let life = Duration::from_secs(3600);
                let issued = IssuedCertificate {
                    certificate_der: self.authority.device_certificate(&proof.csr_der, self.device, life).into(),
                    chain_der: vec![self.authority.certificate.clone().into()],
                };
                vec![Answer::RenewReply(RenewReply { result: Some(renew_reply::Result::Issued(issued)) })]
            }
            Said::Goodbye(_) => {
                seen.goodbyes += 1;
                Vec::new()
            }
        }
    }

    fn held(&self, seen: &Seen) -> Held {
        let mut next: BTreeMap<(u64, i32), u64> = BTreeMap::new();
        for (incarnation, lane, seq) in seen.heartbeats.keys() {
            let entry = next.entry((*incarnation, *lane)).or_default();
            *entry = (*entry).max(seq + 1);
        }
        Held {
            lanes: next
                .into_iter()
                .map(|((incarnation, lane), next_seq)| HeldLane { incarnation, lane, next_seq })
                .collect(),
            inventory: seen
                .inventory
                .iter()
                .map(|(section, hash)| InventoryHash { section: *section, hash: hash.clone() })
                .collect(),
            answers_hello: true,
        }
    }
}

impl Seen {
    pub(crate) fn live(&self) -> Vec<&Heartbeat> {
        let live = self.heartbeats.iter().filter(|((_, lane, _), _)| *lane == Lane::Live as i32);
        live.map(|(_, (heartbeat, _))| heartbeat).collect()
    }
}

/// For checks of a device's signature.
pub(crate) fn verify(certificate: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = breeze_agent::pki::read_certificate(certificate).expect("certificate").public_key;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(message, signature).is_ok()
}

/// A relay list entry; an empty address is left out.
pub(crate) fn relay(quic: Option<SocketAddr>, wss: Option<SocketAddr>) -> Relay {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    Relay { id: RELAY_ID.into(), region: "test".into(), quic: text(quic), wss: text(wss) }
}

/// The binary messages of a WebSocket as a stream, pumped by a task.
fn as_stream<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: tokio_tungstenite::WebSocketStream<S>,
) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut from_us, mut to_us) = tokio::io::split(ours);
    let (mut sink, mut stream) = socket.split();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message
                && to_us.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
        let _gone = to_us.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_us.read(&mut buffer).await {
            if sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    });
    theirs
}
