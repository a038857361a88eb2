//! Connections to a relay, behind one interface: a task that owns the connection, takes what is to
//! be sent from a bounded queue, and reports what happens as [`LinkEvent`]s.

mod quic;
mod websocket;

use crate::{identity::DeviceIdentity, pki, proxy::ProxySettings};
use anyhow::Context as _;
use breeze_agent_core::{LinkId, Transfer, TransportKind};
use breeze_proto::{
    ALPN, frame,
    limits::{MAX_CHUNK_BYTES, MAX_FRAME_BYTES},
    trust::Root,
    v1::{AgentFrame, Relay, RelayFrame, UploadChunk, UploadKind, agent_frame::Body},
};
use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;
use sha2::{Digest as _, Sha256};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
    task::JoinHandle,
};

/// Frames that wait for the transport; the core keeps far fewer under way.
const QUEUE_FRAMES: usize = 512;
/// For what was sent to leave before the connection is closed.
const CLOSE_PATIENCE: Duration = Duration::from_millis(700);
const READ_CHUNK_BYTES: usize = 8 * 1024;

/// What a link reports.
#[derive(Debug)]
pub enum LinkEvent {
    /// Transport and TLS stand.
    Connected,
    Frame(RelayFrame),
    /// Never made, or ended; in words.
    Closed(String),
}

/// What a link is told.
#[derive(Debug)]
enum Order {
    Frame(Box<AgentFrame>),
    Upload(Transfer),
    Rebind,
    Close,
}

/// A link's task. Dropping it ends the connection without a word.
#[derive(Debug)]
pub struct Link {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Queues a frame; `false` if the transport is that far behind.
    #[must_use]
    pub fn send(&self, frame: AgentFrame) -> bool {
        self.orders.try_send(Order::Frame(Box::new(frame))).is_ok()
    }

    #[must_use]
    pub fn upload(&self, transfer: Transfer) -> bool {
        self.orders.try_send(Order::Upload(transfer)).is_ok()
    }

    pub fn rebind(&self) {
        // A full queue means that the connection is as good as dead.
        let _ = self.orders.try_send(Order::Rebind);
    }

    /// Lets what was queued leave, then closes; ends within [`CLOSE_PATIENCE`] or so.
    pub async fn close(mut self) {
        if self.orders.try_send(Order::Close).is_ok() {
            let _ended = tokio::time::timeout(CLOSE_PATIENCE * 2, &mut self.task).await;
        }
    }
}

/// What every link needs to know.
#[derive(Debug, Clone)]
pub struct Dialer {
    pub proxy: ProxySettings,
    tls: Arc<TlsParts>,
}

#[derive(Debug)]
struct TlsParts {
    authorities: pki::Authorities,
    chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    key: rustls_pki_types::PrivateKeyDer<'static>,
    time_floor_s: u64,
}

impl Dialer {
    /// For the identity as it is now; make a new one when it or the root changes.
    #[must_use]
    pub fn new(identity: &DeviceIdentity, root: &Root, proxy: ProxySettings) -> Self {
        let (chain, key) = identity.client_auth();
        let authorities = identity.authorities(root);
        // Our authority has signed that this time has passed. A relay's word is not enough: one whose
        // clock is years ahead would make every relay's certificate look expired, for ever.
        let time_floor_s = identity.validity().map_or(0, |certificate| certificate.not_before_s);
        Self { proxy, tls: Arc::new(TlsParts { authorities, chain, key, time_floor_s }) }
    }

    /// Begins to connect; events come on `events` under `id`.
    #[must_use]
    pub fn start(
        &self,
        id: LinkId,
        relay: Relay,
        transport: TransportKind,
        events: mpsc::Sender<(LinkId, LinkEvent)>,
    ) -> Link {
        let (orders, inbox) = mpsc::channel(QUEUE_FRAMES);
        let dialer = self.clone();
        let task = tokio::spawn(async move {
            let events = Events { id, events };
            let ended = match transport {
                TransportKind::Quic => quic::run(&dialer, &relay, inbox, &events).await,
                TransportKind::WebSocket => websocket::run(&dialer, &relay, inbox, &events).await,
            };
            let reason = ended.map_or_else(|error| format!("{error:#}"), |()| "closed".to_owned());
            events.report(LinkEvent::Closed(reason)).await;
        });
        Link { orders, task }
    }

    /// QUIC to a relay as an agent speaks it, for whoever brings an endpoint of his own.
    ///
    /// # Errors
    /// If the device's certificate does not fit its key.
    pub fn quic_config(&self, relay_id: &str) -> anyhow::Result<quinn::ClientConfig> {
        quic::client_config(self, relay_id)
    }

    /// TLS to a relay: our certificate, our authorities, its id.
    fn relay_tls(&self, relay_id: &str) -> anyhow::Result<ClientConfig> {
        let verifier = pki::RelayVerifier::new(self.tls.authorities.clone(), relay_id, self.tls.time_floor_s);
        let mut config = ClientConfig::builder_with_provider(pki::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("TLS 1.3")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.tls.chain.clone(), self.tls.key.clone_key())
            .context("the device's certificate does not fit its key")?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_early_data = false;
        // Reconnects are rare and their tickets would be kept for nothing.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn web_tls(&self) -> anyhow::Result<ClientConfig> {
        pki::web_client(self.tls.authorities.clone())
    }
}

/// A link's way to report.
struct Events {
    id: LinkId,
    events: mpsc::Sender<(LinkId, LinkEvent)>,
}

impl Events {
    async fn report(&self, event: LinkEvent) {
        // Nobody listens any more when the agent has stopped.
        let _ = self.events.send((self.id, event)).await;
    }
}

/// Reads frames until the stream ends.
async fn read_frames(mut stream: impl AsyncRead + Unpin, events: &Events) -> anyhow::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = frame::take::<RelayFrame>(&mut buffer, MAX_FRAME_BYTES)? {
            events.report(LinkEvent::Frame(frame)).await;
        }
        buffer.reserve(READ_CHUNK_BYTES);
        if stream.read_buf(&mut buffer).await.context("the connection broke")? == 0 {
            return Ok(());
        }
        if buffer.is_empty() {
            buffer = BytesMut::new();
        }
    }
}

fn encode(frame: &AgentFrame) -> anyhow::Result<Bytes> {
    let mut bytes = BytesMut::new();
    frame::encode(frame, MAX_FRAME_BYTES, &mut bytes).context("a frame that was to be sent")?;
    Ok(bytes.freeze())
}

/// A transfer's frames, in order.
fn chunks(transfer: &Transfer) -> impl Iterator<Item = AgentFrame> + '_ {
    let total = transfer.content.len();
    let digest = Bytes::copy_from_slice(&Sha256::digest(&transfer.content));
    (0..total.max(1)).step_by(MAX_CHUNK_BYTES).map(move |offset| {
        let first = offset == 0;
        let chunk = UploadChunk {
            transfer_id: Bytes::copy_from_slice(&transfer.id),
            kind: if first { UploadKind::Inventory.into() } else { 0 },
            total_len: if first { total as u64 } else { 0 },
            sha256: if first { digest.clone() } else { Bytes::new() },
            offset: offset as u64,
            data: transfer.content.slice(offset..total.min(offset + MAX_CHUNK_BYTES)),
        };
        AgentFrame { body: Some(Body::Upload(chunk)) }
    })
}

/// `host:port`, with brackets around an IPv6 address.
fn split_host_port(text: &str) -> anyhow::Result<(&str, u16)> {
    let (host, port) = text.rsplit_once(':').with_context(|| format!("{text:?} is not host:port"))?;
    let port = port.parse().with_context(|| format!("{text:?} has no port"))?;
    Ok((host.trim_matches(['[', ']']), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_carry_the_whole_content_in_order() {
        let content = Bytes::from(vec![7; MAX_CHUNK_BYTES * 2 + 5]);
        let transfer = Transfer { id: [1; 16], content: content.clone() };
        let mut joined = Vec::new();
        for frame in chunks(&transfer) {
            let Some(Body::Upload(chunk)) = frame.body else { panic!("an upload") };
            assert_eq!(chunk.offset as usize, joined.len());
            assert_eq!(chunk.total_len > 0, joined.is_empty(), "the length is in the first only");
            joined.extend_from_slice(&chunk.data);
        }
        assert_eq!(joined, content);
        assert_eq!(chunks(&Transfer { id: [1; 16], content: Bytes::new() }).count(), 1);
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(split_host_port("relay.example:443").expect("valid"), ("relay.example", 443));
        assert_eq!(split_host_port("[::1]:4433").expect("valid"), ("::1", 4433));
        assert!(split_host_port("relay").is_err());
    }
}
