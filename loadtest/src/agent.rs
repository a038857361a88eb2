//! One agent of the load: a real `agent/core` session over a real QUIC connection, with figures that
//! are made up. Many share an endpoint, since a socket each would measure the sender's kernel.

use crate::{
    fleet::Member,
    ledger::{Account, Ledger, Tally},
    queryable::Watch,
};
use anyhow::Context;
use breeze_agent::transport::Dialer;
use breeze_agent_core::{
    Command, Identity, Limits, LinkId, MemoryStorage, Now, Reading, Session, Spool, Start, TransportKind, Tuning,
};
use breeze_proto::{
    frame,
    limits::MAX_FRAME_BYTES,
    v1::{AgentFrame, HealthStatus, HostFacts, Relay, RelayFrame, Scalars, agent_frame, relay_frame},
};
use bytes::BytesMut;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

/// Bytes that are taken from a stream at once.
const READ_CHUNK_BYTES: usize = 16 * 1024;
/// More heartbeats than an agent sends in one load.
const BEATS_A_STAGE: u32 = 1_000_000;

/// What all agents of a load share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) tally: Tally,
    pub(crate) ledger: Arc<Ledger>,
    /// Told of what is sent, when somebody wants to know when it can be queried.
    pub(crate) watch: Option<Watch>,
    /// Of the loads of this run, from zero.
    pub(crate) stage: u32,
    /// Of all monotonic clocks here.
    pub(crate) started: Instant,
    pub(crate) heartbeat_ms: u32,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // As a machine that booted an hour ago.
        Now { mono_us: 3_600_000_000 + self.started.elapsed().as_micros() as u64, wall_us: wall.as_micros() as u64 }
    }
}

struct Wire {
    link: LinkId,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    buffer: BytesMut,
}

type Connecting = Pin<Box<dyn Future<Output = (LinkId, anyhow::Result<Wire>)> + Send>>;

struct Agent {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    dialer: Dialer,
    session: Session<MemoryStorage>,
    wire: Option<Wire>,
    connecting: Option<Connecting>,
    rng: StdRng,
    beats: u32,
    account: Account,
}

/// Runs one agent until the load is stopped.
///
/// # Errors
/// If the member's documents or certificate are unusable.
pub(crate) async fn run(shared: Arc<Shared>, member: Arc<Member>, number: usize) -> anyhow::Result<()> {
    let mut agent = Agent::new(shared, &member, number)?;
    agent.session.handle_timeout(agent.shared.now());
    let stop = agent.shared.stop.clone();
    while !stop.is_cancelled() {
        agent.carry_out().await;
        let now = agent.shared.now();
        let sleep = Duration::from_micros(agent.session.next_wakeup().saturating_sub(now.mono_us));
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            (link, made) = pending_or(agent.connecting.as_mut()) => agent.connected(link, made),
            read = next_chunk(agent.wire.as_mut()) => agent.received(read),
            () = tokio::time::sleep(sleep) => agent.session.handle_timeout(agent.shared.now()),
        }
    }
    Ok(())
}

async fn pending_or(connecting: Option<&mut Connecting>) -> (LinkId, anyhow::Result<Wire>) {
    match connecting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Cancel-safe: what was taken off the stream is in the buffer.
async fn next_chunk(wire: Option<&mut Wire>) -> anyhow::Result<()> {
    let Some(wire) = wire else { return std::future::pending().await };
    let chunk = wire.receive.read_chunk(READ_CHUNK_BYTES, true).await?.context("the relay ended the stream")?;
    wire.buffer.extend_from_slice(&chunk.bytes);
    Ok(())
}

impl Agent {
    fn new(shared: Arc<Shared>, member: &Member, number: usize) -> anyhow::Result<Self> {
        let Member { identity, documents } = member;
        // A load is another boot of the machines of the one before, with other numbers of its heartbeats.
        let mut rng = StdRng::seed_from_u64(number as u64 | u64::from(shared.stage) << 32);
        let dialer = Dialer::new(identity, documents.root(), breeze_agent::proxy::ProxySettings::default());
        let start = Start {
            identity: Identity {
                device: identity.device,
                instance_nonce: identity.instance_nonce,
                boot_id: rng.random(),
                agent_version: breeze_agent::VERSION.to_owned(),
                host: HostFacts {
                    hostname: crate::fleet::hostname(number),
                    os_type: "linux".into(),
                    os_version: "Debian GNU/Linux 12 (bookworm)".into(),
                    os_build: "6.1.0-18-amd64".into(),
                    architecture: "amd64".into(),
                    ..HostFacts::default()
                },
            },
            documents: documents.clone(),
            revoked: None,
            certificate: identity.validity()?,
            tuning: Tuning { heartbeat_ms: Some(shared.heartbeat_ms), ..Tuning::default() },
        };
        let spool = Spool::open(MemoryStorage::default(), Limits::default())?;
        let session = Session::new(start, spool, StdRng::from_rng(&mut rng), shared.now());
        let endpoint = shared.endpoints[number % shared.endpoints.len()].clone();
        let account = Account::new(identity.device);
        let beats = shared.stage * BEATS_A_STAGE;
        Ok(Self { shared, endpoint, dialer, session, wire: None, connecting: None, rng, beats, account })
    }

    async fn carry_out(&mut self) {
        while let Some(command) = self.session.poll_command() {
            match command {
                Command::Connect { link, relay, transport: TransportKind::Quic } => self.connect(link, &relay),
                Command::Connect { link, transport: TransportKind::WebSocket, .. } => {
                    self.session.handle_disconnected(link, "the load is QUIC only", self.shared.now());
                }
                Command::Send { link, frame } => self.send(link, frame).await,
                Command::Close { link, .. } => {
                    if let Some(wire) = self.wire.take_if(|wire| wire.link == link) {
                        wire.connection.close(0_u32.into(), b"");
                        self.shared.tally.lost_connections.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Command::Sample { .. } => {
                    let reading = self.reading();
                    self.session.handle_reading(reading, self.shared.now());
                }
                Command::ScanInventory => self.session.handle_inventory_scanned(&[], self.shared.now()),
                Command::MakeRenewal { .. } => {
                    self.session.handle_renewal_failed("a load does not last that long", self.shared.now());
                }
                Command::Upload { .. }
                | Command::Rebind { .. }
                | Command::BuildInventory(_)
                | Command::InstallCertificate(_)
                | Command::SaveState(_) => {}
            }
        }
    }

    fn connect(&mut self, link: LinkId, relay: &Relay) {
        let endpoint = self.endpoint.clone();
        let config = self.dialer.quic_config(&relay.id);
        let address = relay.quic.clone();
        self.connecting = Some(Box::pin(async move {
            let make = async {
                let connection = endpoint.connect_with(config?, address.parse()?, "relay.breeze")?.await?;
                let (send, receive) = connection.open_bi().await?;
                anyhow::Ok(Wire { link, connection, send, receive, buffer: BytesMut::new() })
            };
            (link, make.await)
        }));
    }

    fn connected(&mut self, link: LinkId, made: anyhow::Result<Wire>) {
        self.connecting = None;
        match made {
            Ok(wire) => {
                self.shared.tally.connections.fetch_add(1, Ordering::Relaxed);
                self.wire = Some(wire);
                self.session.handle_connected(link, self.shared.now());
            }
            Err(error) => {
                self.shared.tally.failed_connections.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("connecting: {error:#}");
                self.session.handle_disconnected(link, &format!("{error:#}"), self.shared.now());
            }
        }
    }

    async fn send(&mut self, link: LinkId, frame: AgentFrame) {
        let Some(wire) = self.wire.as_mut().filter(|wire| wire.link == link) else { return };
        if let Some(agent_frame::Body::Heartbeats(batch)) = &frame.body {
            self.shared.tally.sent.fetch_add(batch.heartbeats.len() as u64, Ordering::Relaxed);
            self.account.sent(batch);
            if let (Some(watch), [heartbeat]) = (&self.shared.watch, batch.heartbeats.as_slice()) {
                let value = heartbeat.scalars.map_or(0, |scalars| scalars.process_count);
                watch.sent(self.account.device(), value);
            }
        }
        let mut bytes = BytesMut::new();
        let encoded = frame::encode(&frame, MAX_FRAME_BYTES, &mut bytes).context("a frame that is too large");
        let written = match encoded {
            Ok(()) => wire.send.write_chunk(bytes.freeze()).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.lost(&format!("{error:#}"));
        }
    }

    fn received(&mut self, read: anyhow::Result<()>) {
        if let Err(error) = read {
            self.lost(&format!("{error:#}"));
            return;
        }
        loop {
            let Some(wire) = &mut self.wire else { return };
            let link = wire.link;
            match frame::take::<RelayFrame>(&mut wire.buffer, MAX_FRAME_BYTES) {
                Ok(Some(frame)) => {
                    if let Some(relay_frame::Body::Ack(ack)) = &frame.body {
                        let latencies = self.account.acknowledged(ack, &self.shared.ledger);
                        self.shared.tally.acknowledged(&latencies);
                    }
                    self.session.handle_frame(link, frame, self.shared.now());
                }
                Ok(None) => return,
                Err(error) => return self.lost(&error.to_string()),
            }
        }
    }

    fn lost(&mut self, reason: &str) {
        let Some(wire) = self.wire.take() else { return };
        self.shared.tally.lost_connections.fetch_add(1, Ordering::Relaxed);
        self.session.handle_disconnected(wire.link, reason, self.shared.now());
    }

    /// Figures of an office machine: slow drifts with noise. `process_count` counts the heartbeats, so
    /// that each can be told from the others where it is stored.
    fn reading(&mut self) -> Reading {
        self.beats += 1;
        let mut near = |middle: u32, spread: u32| middle + self.rng.random_range(0..=spread);
        let scalars = Scalars {
            cpu_permille: near(30, 90),
            ram_permille: near(430, 15),
            ram_used_mib: near(7_000, 250),
            swap_used_mib: 12,
            disk_permille: 611,
            disk_used_mib: 152_000 + self.beats % BEATS_A_STAGE / 40,
            net_in_bytes: u64::from(near(20_000, 60_000)),
            net_out_bytes: u64::from(near(8_000, 20_000)),
            load1_centi: near(15, 60),
            process_count: self.beats,
            uptime_s: self.shared.now().mono_us / 1_000_000,
            flags: 0,
        };
        Reading {
            scalars,
            status: HealthStatus::Ok,
            last_user: "ada".into(),
            pending_reboot: false,
            details: Vec::new(),
            custom: Vec::new(),
        }
    }
}
