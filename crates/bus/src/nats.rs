//! The bus on NATS: durable streams on JetStream, broadcasts and requests on core NATS.
//!
//! - [`migrate`] makes the streams; a [`NatsBus`] never makes one. [`permissions`] says what each role's
//!   user may do, [`server_config`] writes the servers' files.
//! - `connection`: TLS, credentials, reconnecting, and what is known of the connection.
//! - `replies`: one inbox for everything that is answered.
//! - `streams`: append, read, trim, extent. `broadcasts` and `requests`: the rest of [`Bus`].
//!
//! A stream `lane.eu.0` is the JetStream stream `lane_eu_0` with that one subject, in the JetStream
//! domain that its name says (see [`place`]). Positions are its sequences. Reading needs no consumer:
//! a read is one batched direct get from a cursor, and what wakes a waiting reader is the server's
//! republication of each stored entry's headers on `stored.<stream>`; see `docs/adr/0013-nats-bus.md`.

mod broadcasts;
mod connection;
mod files;
pub mod migrate;
pub mod permissions;
pub mod place;
mod replies;
mod requests;
mod streams;
mod wire;

pub use files::{Topology, TopologyError, TopologyNode, TopologyRegion, TopologyTls, server_config};
pub use migrate::{Streams, migrate};

use crate::{Bus, BusError, Entry, Extent, Position, Service, Subscription, hub::check_payload, name};
use async_trait::async_trait;
use bytes::Bytes;
use connection::Connection;
use place::Place;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// What headers may add to a payload of [`crate::MAX_PAYLOAD_BYTES`]; `max_payload` of the servers must
/// leave this much room above it.
pub const HEADER_ROOM_BYTES: usize = 16 * 1024;

/// The private part of an NKey of a user; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed(String);

impl Seed {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Seed {
    /// White space around it, as a file has it, is dropped.
    fn from(seed: String) -> Self {
        Self(seed.trim().to_owned())
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Where the servers are and who this process is to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsConfig {
    /// `tls://host:port`, or `nats://host:port` of a loopback address. One that answers is enough.
    pub servers: Vec<String>,
    /// JetStream domain of these servers: the region's name, or [`place::GLOBAL_DOMAIN`]. Empty: they
    /// have no domain, and hold the streams of all regions.
    pub domain: String,
    /// The role's region; for metrics and logs.
    pub region: String,
    /// Seed of the user's NKey; `None`: servers that ask for none.
    pub nkey_seed: Option<Seed>,
    /// Certification authorities (PEM) of the servers' certificates; needed with `tls://`.
    pub ca_file: Option<PathBuf>,
    /// Name of the user as [`permissions`] has it ("relay-eu-1", "collector-eu-a", "control-plane"):
    /// answers come to `_INBOX.<client_name>.…`, which only that user may listen to.
    pub client_name: String,
}

/// The bus. Dropping the last handle closes the connection; subscriptions and services then end.
pub struct NatsBus {
    connection: Arc<Connection>,
    streams: streams::Streams,
}

impl fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBus").field("servers", &self.connection.servers()).finish_non_exhaustive()
    }
}

impl NatsBus {
    /// Connects once; from then on the connection comes back by itself, after growing pauses, for as
    /// long as it takes, and calls fail with [`BusError::Unavailable`] meanwhile.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for a configuration that cannot work; [`BusError::Unavailable`] when no
    /// server takes the connection: the error names the servers and the cause (not reachable, wrong
    /// credentials, TLS). Trying again is the caller's.
    pub async fn connect(config: NatsConfig) -> Result<Self, BusError> {
        let connection = Arc::new(Connection::open(&config).await?);
        Ok(Self { streams: streams::Streams::new(connection.clone(), config.domain), connection })
    }

    /// Whether there is a connection to a server now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_up()
    }

    /// Resolves when there is a connection (`true`) or none (`false`).
    pub async fn when_connected(&self, connected: bool) {
        self.connection.when(connected).await;
    }

    /// The copies of a stream beside its leader's. Not for polling: it asks the leader.
    ///
    /// # Errors
    /// As [`Bus::extent`].
    pub async fn replicas(&self, stream: &str) -> Result<Vec<Replica>, BusError> {
        name::check(stream)?;
        let place = Place::of(stream, self.streams.domain())?;
        let cluster = self.streams.info(&place).await?.cluster.unwrap_or_default();
        let replica =
            |peer: wire::Peer| Replica { is_current: peer.current && !peer.offline, lag: peer.lag, server: peer.name };
        Ok(cluster.replicas.into_iter().map(replica).collect())
    }

    /// Checks that streams exist, are of a version that this program knows, and that their region has as many
    /// lanes as there are among them.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for another number of lanes,
    /// [`BusError::Unavailable`] for one that is missing or cannot be asked for, [`BusError::Corrupt`]
    /// for one of a later version; both name the stream and its domain.
    pub async fn check_streams(&self, streams: &[String]) -> Result<(), BusError> {
        for stream in streams {
            name::check(stream)?;
            let place = Place::of(stream, self.streams.domain())?;
            migrate::check(&place, &self.streams.info(&place).await?, migrate::lanes_of(stream, streams))?;
        }
        Ok(())
    }
}

/// A server that keeps a copy of a stream beside its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub server: String,
    /// It has what the leader has.
    pub is_current: bool,
    /// Operations that it has not applied yet.
    pub lag: u64,
}

#[async_trait]
impl Bus for NatsBus {
    async fn append(&self, stream: &str, id: &str, payload: Bytes) -> Result<Position, BusError> {
        check_payload(&payload)?;
        name::check(stream)?;
        self.streams.append(stream, id, payload).await
    }

    async fn read(
        &self,
        stream: &str,
        from: Position,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        name::check(stream)?;
        self.streams.read(stream, from, max_bytes, wait).await
    }

    async fn trim(&self, stream: &str, before: Position) -> Result<(), BusError> {
        name::check(stream)?;
        self.streams.trim(stream, before).await
    }

    async fn extent(&self, stream: &str) -> Result<Extent, BusError> {
        name::check(stream)?;
        self.streams.extent(stream).await
    }

    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        check_payload(&payload)?;
        name::check(subject)?;
        self.connection.publish(subject, payload).await
    }

    async fn subscribe(&self, pattern: &str) -> Result<Box<dyn Subscription>, BusError> {
        let pattern = name::Pattern::parse(pattern)?;
        Ok(Box::new(broadcasts::subscribe(&self.connection, &pattern).await?))
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        check_payload(&payload)?;
        name::check(subject)?;
        requests::request(&self.connection, subject, payload, timeout).await
    }

    async fn serve(&self, subject: &str) -> Result<Box<dyn Service>, BusError> {
        name::check(subject)?;
        Ok(Box::new(requests::serve(&self.connection, subject).await?))
    }
}
