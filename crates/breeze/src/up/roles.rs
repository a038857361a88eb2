//! The three roles, each on a runtime of its own.

use super::{Arguments, UPKEEP, engines::Engines, ports::Addresses, settings::Settings};
use anyhow::Context;
use arc_swap::ArcSwap;
use breeze_control_plane::{ControlPlane, Deps, Tls};
use breeze_proto::{
    enroll::EnrollmentKey,
    trust::Root,
    v1::{Relay, SignedRoot},
};
use breeze_relay::RelayIdentity;
use breeze_runtime::shutdown::Shutdown;
use breeze_store::{metrics::Metrics, state::State};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::runtime::{Builder, Runtime};

const REGION: &str = "local";
const RELAY_ID: &str = "local-1";
const LANES: u16 = 4;
/// How long a role may take until it really serves: the relay must learn who is revoked, the control
/// plane must have read every device.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// A runtime for each role; their threads carry its name.
#[derive(Debug)]
pub(super) struct Runtimes {
    relay: Runtime,
    collector: Runtime,
    control: Runtime,
}

impl Runtimes {
    pub(super) fn new() -> anyhow::Result<Self> {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let build = |name: &str, workers: usize| {
            Builder::new_multi_thread().worker_threads(workers).thread_name(name).enable_all().build()
        };
        // A relay's work is small turns that wake each other: on few cores one thread does more of it
        // than two that keep waking each other up.
        Ok(Self {
            relay: build("relay", workers.div_ceil(2))?,
            collector: build("collector", workers.div_ceil(2))?,
            control: build("control", workers)?,
        })
    }

    pub(super) fn shutdown(self, deadline: Duration) {
        for runtime in [self.relay, self.collector, self.control] {
            runtime.shutdown_timeout(deadline);
        }
    }
}

/// Running roles, in the order in which they stop.
#[derive(Debug)]
pub(super) struct Roles {
    relay: (breeze_relay::Handle, Shutdown),
    collector: (breeze_collector::Handle, Shutdown),
    control: (breeze_control_plane::Handle, Shutdown),
    enrollment_key: EnrollmentKey,
}

impl Roles {
    /// Starts all three on `at`.
    ///
    /// # Errors
    /// If one cannot start; those that had are dropped with their runtimes.
    pub(super) async fn start(
        arguments: &Arguments,
        settings: &Settings,
        at: Addresses,
        engines: &Engines,
        runtimes: &Runtimes,
    ) -> anyhow::Result<Self> {
        let names = arguments.names()?;
        let state: Arc<dyn State> = engines.state.clone();
        let bus: Arc<dyn breeze_bus::Bus> = engines.bus.clone();
        let metrics: Arc<dyn Metrics> = engines.metrics.clone();

        breeze_runtime::metrics::install()?;
        runtimes.control.spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP);
            loop {
                tick.tick().await;
                breeze_runtime::metrics::upkeep();
            }
        });
        let deps = Deps {
            bus: Arc::clone(&bus),
            state: Arc::clone(&state),
            metrics: Arc::clone(&metrics),
            regional_metrics: std::collections::BTreeMap::new(),
            history: engines.history.clone(),
            render_metrics: Some(Arc::new(|| breeze_runtime::metrics::render().unwrap_or_default())),
        };
        let config = control_config(arguments, settings, at.dashboard)?;
        let opening = ControlPlane::open(config, deps);
        let control = runtimes.control.spawn(opening).await?.context("control plane")?;

        let collector_shutdown = Shutdown::new();
        let collecting = breeze_collector::start(
            breeze_collector::Config { region: REGION.into(), lanes: LANES, ..breeze_collector::Config::default() },
            Arc::clone(&bus),
            state,
            metrics,
            engines.history.clone(),
            collector_shutdown.clone(),
        );
        let collector = runtimes.collector.spawn(collecting).await?.context("collector")?;

        let relay_shutdown = Shutdown::new();
        let relaying = breeze_relay::start(
            relay_config(arguments, settings, at)?,
            relay_identity(&control, &names)?,
            bus,
            relay_shutdown.clone(),
        );
        let relay = runtimes.relay.spawn(relaying).await?.context("relay")?;

        let control_shutdown = Shutdown::new();
        let (relays, until) = (vec![relay.public.clone()], control_shutdown.clone());
        let serving = async move {
            let key = control.local_enrollment_key().await?;
            Ok::<_, anyhow::Error>((control.serve(relays, until).await?, key))
        };
        let (control, enrollment_key) = runtimes.control.spawn(serving).await?.context("control plane")?;
        let relay_ready = tokio::time::timeout(READY_DEADLINE, relay.ready()).await;
        relay_ready.context("the relay has no revocation set and lets nobody in")?;
        let lists_answer = tokio::time::timeout(READY_DEADLINE, control.ready()).await;
        lists_answer.context("the directory of devices was not built in time")?;
        Ok(Self {
            relay: (relay, relay_shutdown),
            collector: (collector, collector_shutdown),
            control: (control, control_shutdown),
            enrollment_key,
        })
    }

    pub(super) fn bound(&self) -> Addresses {
        Addresses { dashboard: self.control.0.addr, quic: self.relay.0.quic_addr, wss: self.relay.0.wss_addr }
    }

    pub(super) fn relay(&self) -> &Relay {
        &self.relay.0.public
    }

    pub(super) fn origin(&self) -> String {
        self.control.0.origin()
    }

    pub(super) fn setup_url(&self) -> Option<String> {
        self.control.0.setup_url.clone()
    }

    pub(super) fn enrollment_key(&self) -> &EnrollmentKey {
        &self.enrollment_key
    }

    /// Until `shutdown` begins or a role fails; then the roles drain one after the other.
    ///
    /// # Errors
    /// The first role's failure.
    pub(super) async fn run_until(self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let Self { relay, collector, control, enrollment_key: _ } = self;
        tokio::select! {
            () = shutdown.begun() => {}
            () = relay.1.begun() => {}
            () = collector.1.begun() => {}
            () = control.1.begun() => {}
        }
        let mut result = Ok(());
        relay.1.begin();
        result = result.and(relay.0.join().await);
        collector.1.begin();
        result = result.and(collector.0.join().await);
        control.1.begin();
        result.and(control.0.join().await)
    }
}

fn control_config(
    arguments: &Arguments,
    settings: &Settings,
    listen: SocketAddr,
) -> anyhow::Result<breeze_control_plane::Config> {
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(cert), Some(key)) => Tls::Files { cert: cert.clone(), key: key.clone() },
        _ if arguments.is_loopback() => Tls::None,
        _ => Tls::OwnCa,
    };
    Ok(breeze_control_plane::Config {
        region: REGION.into(),
        listen,
        public_host: arguments.public_host()?,
        tls,
        data: arguments.data.clone(),
        trusted_proxies: arguments.trusted_proxies.clone(),
        agent_binaries: arguments.agent_binaries.clone(),
        heartbeat_interval_s: arguments.heartbeat_interval,
        audit: settings.audit.clone(),
        ..breeze_control_plane::Config::default()
    })
}

fn relay_config(arguments: &Arguments, settings: &Settings, at: Addresses) -> anyhow::Result<breeze_relay::Config> {
    Ok(breeze_relay::Config {
        id: RELAY_ID.into(),
        region: REGION.into(),
        regions: Vec::new(),
        lanes: LANES,
        quic_listen: at.quic,
        wss_listen: at.wss,
        // The ports are those that are bound.
        public_host: arguments.public_host()?,
        public_quic: None,
        public_wss: None,
        data_dir: arguments.data.join("relay"),
        drain_ms: 3_000,
        limits: settings.relay.limits,
    })
}

fn relay_identity(control: &ControlPlane, names: &[String]) -> anyhow::Result<RelayIdentity> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(RelayIdentity {
        server: control.relay_identity(RELAY_ID, names)?,
        client_ca: vec![control.ca_certificate_der().into()],
        root: Arc::new(ArcSwap::from_pointee(newest_root(control.roots(), now_s)?)),
    })
}

/// Follows the root from its first version to its newest.
fn newest_root(versions: Vec<SignedRoot>, now_s: u64) -> anyhow::Result<Root> {
    let mut versions = versions.into_iter();
    let first = versions.next().context("there is no root document")?;
    let root = Root::accept_first(first, now_s).context("root document")?;
    versions.try_fold(root, |root, next| root.accept_next(next, now_s).context("root document"))
}
