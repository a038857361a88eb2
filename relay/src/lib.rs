//! The regional relay: agents' connections over QUIC and WebSocket, around the decisions of
//! [`breeze_relay_core`].
//!
//! - [`config`]: what a relay is told.
//! - `quic`, `websocket`: the two listeners. Both end in `connection`, one task a connection.
//! - `identity`, `tls`, `keys`: who may come in, and the keys that outlive the process.
//! - `lanes`: gathers entries and appends them to the lanes' durable streams.
//! - `control`: pushes and revocations from the bus.
//!
//! An agent is told *stored* only after the lane's stream has it. A relay signs nothing that an agent
//! believes: documents, commands and revocation notices pass through as they came.

pub mod config;
mod connection;
mod control;
mod identity;
mod keys;
mod lanes;
mod link;
mod mailbox;
mod quic;
mod relay;
mod stats;
mod tls;
mod websocket;

pub use config::{Config, Limits};

use anyhow::Context;
use arc_swap::ArcSwap;
use breeze_bus::Bus;
use breeze_proto::{trust::Root, v1};
use breeze_runtime::{shutdown::Shutdown, tasks::Tasks, tls::LiveIdentity};
use relay::Relay;
use rustls_pki_types::CertificateDer;
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Name of this role on the bus.
pub const ROLE: &str = "relay";

/// Who this relay is and whom it believes.
#[derive(Debug, Clone)]
pub struct RelayIdentity {
    /// Server certificate and key, for QUIC and for both layers of TLS on the WebSocket. Whoever renews
    /// them replaces them here.
    pub server: LiveIdentity,
    /// Certification authorities of device certificates.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// Says whose revocations count; whoever learns a successor stores it here.
    pub root: Arc<ArcSwap<Root>>,
}

/// A running relay.
pub struct Handle {
    pub quic_addr: SocketAddr,
    pub wss_addr: SocketAddr,
    /// This relay as the relay list should name it: the configured public addresses, or the bound ones.
    pub public: v1::Relay,
    relay: Arc<Relay>,
    tasks: Tasks,
    deadline: Duration,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Handle {
    /// Resolves when agents are let in: the revocation set is known.
    pub async fn ready(&self) {
        self.relay.ready.cancelled().await;
    }

    /// Asked at any time, says in words for an operator that a lane's stream does not take what is sent to
    /// it, and why; `None` while all do.
    pub fn stuck_lanes(&self) -> impl Fn() -> Option<String> + Send + 'static {
        let relay = Arc::clone(&self.relay);
        move || relay.stats.stuck().1
    }

    /// Waits until the relay has drained after shutdown began, or failed.
    ///
    /// # Errors
    /// The first failure of one of its tasks.
    pub async fn join(self) -> anyhow::Result<()> {
        self.tasks.finish(self.deadline).await
    }
}

/// What stays between the end of draining and the end of the process.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Starts a relay. It listens when this returns; agents are let in once the revocation set is known.
///
/// # Errors
/// If the configuration, keys or certificates are unusable, or an address cannot be bound.
pub async fn start(
    config: Config,
    identity: RelayIdentity,
    bus: Arc<dyn Bus>,
    shutdown: Shutdown,
) -> anyhow::Result<Handle> {
    config.check()?;
    let keys = keys::Keys::load(&config.data_dir, &identity.client_ca).context("relay keys")?;
    let tls = tls::Tls::new(&identity, keys.ticketer()).context("relay TLS")?;
    let drain = Duration::from_millis(config.drain_ms);
    let relay = Relay::new(&config, identity.root, bus)?;
    control::load_revocations(&relay);

    let endpoint = quic::bind(&config, &keys, &tls).with_context(|| format!("QUIC on {}", config.quic_listen))?;
    let quic_addr = endpoint.local_addr()?;
    let listener = websocket::bind(config.wss_listen).with_context(|| format!("TCP on {}", config.wss_listen))?;
    let wss_addr = listener.local_addr()?;

    let tasks = Tasks::new(ROLE, shutdown.clone());
    let lanes_stop = CancellationToken::new();
    for lane in relay.lanes() {
        tasks.spawn(lane.name().to_owned(), lane.clone().run(relay.clone(), lanes_stop.clone()));
    }
    tasks.spawn("quic", quic::accept(relay.clone(), endpoint.clone(), shutdown.token()));
    tasks.spawn("websocket", websocket::accept(relay.clone(), listener, tls, shutdown.token()));
    tasks.spawn("pushes", control::serve_pushes(relay.clone(), shutdown.token()));
    tasks.spawn("revocations", control::follow_revocations(relay.clone(), shutdown.token()));
    tasks.spawn("ticket keys", keys.rotate(shutdown.token()));
    tasks.spawn("status", stats::report(relay.clone(), shutdown.token()));
    tasks.spawn("drain", drain_all(relay.clone(), endpoint, shutdown, lanes_stop, drain));

    let reached_at = |bound: SocketAddr| match &config.public_host {
        Some(host) if host.contains(':') => format!("[{host}]:{}", bound.port()),
        Some(host) => format!("{host}:{}", bound.port()),
        None => bound.to_string(),
    };
    let public = v1::Relay {
        id: config.id.clone(),
        region: config.region.clone(),
        quic: config.public_quic.clone().unwrap_or_else(|| reached_at(quic_addr)),
        wss: config.public_wss.clone().unwrap_or_else(|| reached_at(wss_addr)),
    };
    tracing::info!(relay.id = config.id, %quic_addr, %wss_addr, "relay listens");
    Ok(Handle { quic_addr, wss_addr, public, relay, tasks, deadline: drain + STOP_MARGIN })
}

/// The one way to stop: every connection is told to go elsewhere, what was taken is stored, then the
/// sockets close.
async fn drain_all(
    relay: Arc<Relay>,
    endpoint: quinn::Endpoint,
    shutdown: Shutdown,
    lanes_stop: CancellationToken,
    deadline: Duration,
) -> anyhow::Result<()> {
    shutdown.begun().await;
    relay.connections.close();
    relay.drain.cancel();
    if tokio::time::timeout(deadline, relay.connections.wait()).await.is_err() {
        tracing::warn!(connections = relay.connections.len(), "connections did not drain in time");
        relay.abandon.cancel();
        let _late = tokio::time::timeout(Duration::from_secs(1), relay.connections.wait()).await;
    }
    lanes_stop.cancel();
    endpoint.close(quinn::VarInt::from_u32(v1::CloseReason::Draining as u32), b"draining");
    let _late = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    Ok(())
}
