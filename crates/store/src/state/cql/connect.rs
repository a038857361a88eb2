//! The connection to the cluster: who coordinates what at which level, TLS, and how nodes are chosen.

use super::{CqlConfig, errors};
use crate::state::StateError;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer, pki_types::pem::PemObject};
use scylla::{
    client::{
        execution_profile::{ExecutionProfile, ExecutionProfileHandle},
        session::{Session, TlsContext},
        session_builder::SessionBuilder,
    },
    cluster::metadata::Peer,
    policies::{
        host_filter::HostFilter,
        load_balancing::DefaultPolicy,
        retry::{DefaultRetryPolicy, FallthroughRetryPolicy},
        speculative_execution::SimpleSpeculativeExecutionPolicy,
    },
    statement::{Consistency, SerialConsistency},
};
use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// After this long a read or a merge is asked of a second node as well: far above what a healthy node
/// takes, far below the timeout of one that has died.
const SPECULATIVE_AFTER: Duration = Duration::from_millis(250);

/// Who coordinates a table's requests, and at which level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Route {
    /// This process's data centre: device and log.
    Own,
    /// The configuration's data centre, wherever this process is.
    Config,
    /// All data centres: claims of what must be unique in the world.
    Global,
}

impl Route {
    pub(super) const ALL: [Self; 3] = [Self::Own, Self::Config, Self::Global];

    /// Level of reads, of merges, and of what Paxos has decided.
    pub(super) const fn level(self) -> Consistency {
        match self {
            Self::Own | Self::Config => Consistency::LocalQuorum,
            Self::Global => Consistency::Quorum,
        }
    }

    /// Level of Paxos. Fixed for a table for ever: two levels on one partition do not see each other.
    pub(super) const fn serial(self) -> SerialConsistency {
        match self {
            Self::Own | Self::Config => SerialConsistency::LocalSerial,
            Self::Global => SerialConsistency::Serial,
        }
    }

    /// The same for reads.
    pub(super) const fn serial_read(self) -> Consistency {
        match self {
            Self::Own | Self::Config => Consistency::LocalSerial,
            Self::Global => Consistency::Serial,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Own => 0,
            Self::Config => 1,
            Self::Global => 2,
        }
    }
}

/// How a request may be repeated by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Reads and merges: idempotent, tried on other nodes, and speculatively on a second one.
    Plain,
    /// Paxos: sent once. A repetition is decided by who knows what the first one did, and two at the
    /// same time would only hinder each other.
    Serial,
}

struct Profiles {
    plain: ExecutionProfileHandle,
    serial: ExecutionProfileHandle,
}

/// An open session.
pub(super) struct Cluster {
    pub(super) session: Session,
    profiles: [Profiles; 3],
    datacenter: String,
    config_datacenter: String,
    contact_points: String,
    pub(super) request_timeout: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("contact_points", &self.contact_points)
            .field("datacenter", &self.datacenter)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    pub(super) async fn connect(config: &CqlConfig) -> Result<Self, StateError> {
        check(config)?;
        let contact_points = config.contact_points.join(", ");
        let profiles = Route::ALL.map(|route| profiles(config, route));
        let mut builder = SessionBuilder::new()
            .known_nodes(&config.contact_points)
            .connection_timeout(config.connect_timeout)
            .default_execution_profile_handle(profiles[Route::Own.index()].plain.clone())
            .keyspaces_to_fetch(keyspaces(&config.keyspace_prefix))
            .fetch_full_schema_metadata(false)
            .metadata_request_clientside_timeout(config.request_timeout)
            // ScyllaDB is to give up first: it says why.
            .metadata_request_serverside_timeout(config.request_timeout.mul_f64(0.8))
            .tcp_keepalive_interval(Duration::from_secs(30));
        match &config.ca_file {
            Some(file) => builder = builder.tls_context(Some(tls(file)?)),
            None => {
                only_loopback(config).await?;
                builder = builder.host_filter(Arc::new(OnlyLoopback));
            }
        }
        if let (Some(user), Some(password)) = (&config.username, &config.password) {
            builder = builder.user(user, password);
        }
        // The driver's own limits are for each step of each address.
        let opened = tokio::time::timeout(3 * (config.connect_timeout + config.request_timeout), builder.build());
        let session = match opened.await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(errors::connecting(&error, &contact_points, config)),
            Err(_) => return Err(StateError::Unavailable(format!("{contact_points} did not answer in time"))),
        };
        let cluster = Self {
            session,
            profiles,
            datacenter: config.datacenter.clone(),
            config_datacenter: config.config_datacenter.clone(),
            contact_points,
            request_timeout: config.request_timeout,
        };
        cluster.check_datacenters()?;
        Ok(cluster)
    }

    pub(super) fn profile(&self, route: Route, mode: Mode) -> ExecutionProfileHandle {
        let profiles = &self.profiles[route.index()];
        match mode {
            Mode::Plain => profiles.plain.clone(),
            Mode::Serial => profiles.serial.clone(),
        }
    }

    /// Whose hints a table's are: only who coordinates a table may raise its versions.
    pub(super) fn scope(&self, route: Route) -> &str {
        match route {
            Route::Own => &self.datacenter,
            Route::Config => &self.config_datacenter,
            Route::Global => "*",
        }
    }

    /// By when a call of the state has to have ended.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + 3 * self.request_timeout
    }

    pub(super) fn failed(&self, error: &scylla::errors::ExecutionError) -> StateError {
        errors::failed(error, &self.contact_points)
    }

    fn check_datacenters(&self) -> Result<(), StateError> {
        let state = self.session.get_cluster_state();
        let known: std::collections::BTreeSet<&str> =
            state.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
        for (key, wanted) in [("datacenter", &self.datacenter), ("config_datacenter", &self.config_datacenter)] {
            if !known.contains(wanted.as_str()) {
                return Err(StateError::Settings(format!(
                    "{key}: the cluster at {} has no data centre {wanted:?}, but {known:?}",
                    self.contact_points
                )));
            }
        }
        Ok(())
    }
}

pub(super) fn keyspaces(prefix: &str) -> [String; 3] {
    ["config", "device", "log"].map(|family| format!("{prefix}_{family}"))
}

fn check(config: &CqlConfig) -> Result<(), StateError> {
    let wrong = |said: String| Err(StateError::Settings(said));
    if config.contact_points.is_empty() {
        return wrong("contact_points: there is none".into());
    }
    let prefix = &config.keyspace_prefix;
    let named = prefix.starts_with(|first: char| first.is_ascii_lowercase())
        && prefix.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        && prefix.len() <= 40;
    if !named {
        return wrong(format!("keyspace_prefix: {prefix:?} is not a letter and at most 39 of a-z 0-9 _"));
    }
    if config.datacenter.is_empty() || config.config_datacenter.is_empty() {
        return wrong("datacenter, config_datacenter: both must be named".into());
    }
    if config.username.is_some() != config.password.is_some() {
        return wrong("username, password: one is there without the other".into());
    }
    Ok(())
}

fn profiles(config: &CqlConfig, route: Route) -> Profiles {
    let datacenter = match route {
        Route::Own | Route::Global => config.datacenter.clone(),
        Route::Config => config.config_datacenter.clone(),
    };
    // A local level is local to the coordinator: with another data centre's node it would be another
    // set of replicas, whose Paxos knows nothing of ours.
    let nodes = DefaultPolicy::builder()
        .prefer_datacenter(datacenter)
        .token_aware(true)
        .permit_dc_failover(route == Route::Global)
        .build();
    let common = ExecutionProfile::builder()
        .load_balancing_policy(nodes)
        .consistency(route.level())
        .serial_consistency(Some(route.serial()))
        .request_timeout(Some(config.request_timeout));
    let speculative = SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: SPECULATIVE_AFTER };
    let plain = common
        .clone()
        .retry_policy(Arc::new(DefaultRetryPolicy::new()))
        .speculative_execution_policy(Some(Arc::new(speculative)))
        .build();
    let serial =
        common.retry_policy(Arc::new(FallthroughRetryPolicy::new())).speculative_execution_policy(None).build();
    Profiles { plain: plain.into_handle(), serial: serial.into_handle() }
}

fn tls(file: &Path) -> Result<TlsContext, StateError> {
    let wrong = |said: &dyn fmt::Display| StateError::Settings(format!("ca_file {}: {said}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is no certificate in it"));
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

async fn only_loopback(config: &CqlConfig) -> Result<(), StateError> {
    for point in &config.contact_points {
        let resolved = tokio::time::timeout(config.connect_timeout, tokio::net::lookup_host(point)).await;
        let addresses = match resolved {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(StateError::Unavailable(format!("{point}: {error}"))),
            Err(_) => return Err(StateError::Unavailable(format!("{point}: its address was not found in time"))),
        };
        for address in addresses {
            if !address.ip().is_loopback() {
                return Err(StateError::Settings(format!(
                    "contact_points: {point} is not loopback, so ca_file must be there: other connections are under TLS only"
                )));
            }
        }
    }
    Ok(())
}

/// Without TLS the nodes that the cluster names are held to the same rule as the contact points.
#[derive(Debug)]
struct OnlyLoopback;

impl HostFilter for OnlyLoopback {
    fn accept(&self, peer: &Peer) -> bool {
        peer.address.ip().is_loopback()
    }
}
