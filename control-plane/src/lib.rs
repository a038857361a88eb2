//! The control plane: tenancy, people, enrolment and trust, the directory of devices, the API and
//! the dashboard.
//!
//! [`ControlPlane::open`] makes keys and records and opens no socket; then [`ControlPlane::serve`]
//! listens, answers relays on the bus and keeps what commits left to be done.

pub mod api;
pub mod app;
pub mod audit;
pub mod config;
pub mod context;
pub mod directory;
pub mod error;
pub mod filter;
pub mod keyring;
pub mod live;
pub mod pki;
pub mod routes;
pub mod server;
pub mod tasks;
mod web;

pub use config::{Config, Tls};
pub use context::{App, RenderMetrics};

use crate::{
    api::{Cursors, rate::Limits, time::now_ms},
    app::{
        enrollment::{self, Admissions},
        password::Passwords,
        setup,
    },
    audit::{checkpoint::Notary, forward::BusForward, places::Place},
    context::Shared,
    directory::{Feed, FeedConfig},
    pki::{
        CertificateAuthority, InstanceKeys, Signer, authority::Authority, certificates::Certificates,
        renewal::Renewals, revocation::Revocations,
    },
};
use anyhow::Context as _;
use breeze_bus::{
    Bus,
    status::{Report, Reporter, gauge},
};
use breeze_proto::{
    enroll::EnrollmentKey,
    subject,
    v1::{Relay, SignedRoot},
};
use breeze_runtime::{shutdown::Shutdown, tasks::Tasks, tls::LiveIdentity};
use breeze_store::{
    history::History,
    metrics::Metrics,
    model::{audit::AuditLog, instance},
    state::State,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often a starting directory is looked at.
const READY_POLL: Duration = Duration::from_millis(10);

/// What the control plane stands on.
#[derive(Clone)]
pub struct Deps {
    pub bus: Arc<dyn Bus>,
    pub state: Arc<dyn State>,
    pub metrics: Arc<dyn Metrics>,
    /// The regions' stores beneath `metrics`, each by itself, for the status; empty where there is one.
    pub regional_metrics: BTreeMap<String, Arc<dyn Metrics>>,
    /// Events of devices.
    pub history: Arc<dyn History>,
    /// Renders the process's metrics at `/metrics`.
    pub render_metrics: Option<RenderMetrics>,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// An opened control plane that does not listen yet.
#[derive(Debug)]
pub struct ControlPlane {
    app: App,
    certificates: Arc<Certificates>,
    signer: Arc<dyn Signer>,
    notary: Notary,
}

/// A control plane that serves.
#[derive(Debug)]
pub struct Handle {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The one-time set-up link; none when it is set up.
    pub setup_url: Option<String>,
    app: App,
    tasks: Tasks,
}

/// The OpenAPI document of the whole API, pretty-printed, the same at every call.
#[must_use]
pub fn openapi_json() -> String {
    let document = serde_json::to_value(routes::api().into_openapi())
        .unwrap_or_else(|error| unreachable!("the document is plain data: {error}"));
    let mut text = serde_json::to_string_pretty(&sorted(document))
        .unwrap_or_else(|error| unreachable!("a value is JSON: {error}"));
    text.push('\n');
    text
}

/// Keys in alphabetical order, whatever order the maps beneath have.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => scalar,
    }
}

/// Opens and serves in one step, for relays whose addresses are known.
///
/// # Errors
/// As [`ControlPlane::open`] and [`ControlPlane::serve`].
pub async fn start(config: Config, deps: Deps, relays: Vec<Relay>, shutdown: Shutdown) -> anyhow::Result<Handle> {
    ControlPlane::open(config, deps).await?.serve(relays, shutdown).await
}

impl ControlPlane {
    /// Checks the configuration, loads or makes keys, and makes the first tenant at the first start.
    ///
    /// # Errors
    /// When the configuration is wrong, keys cannot be read, or the store refuses.
    pub async fn open(config: Config, deps: Deps) -> anyhow::Result<Self> {
        config.check()?;
        let Deps { bus, state, metrics, regional_metrics, history, render_metrics } = deps;
        let record =
            instance::open(&*state, &setup::FIRST_NAMES, now_ms()).await.context("cannot open the instance")?;
        let InstanceKeys { keyring, ca, signer } = InstanceKeys::open(&config.data, &*state, &record).await?;
        let (ca, signer): (Arc<dyn CertificateAuthority>, Arc<dyn Signer>) = (Arc::new(ca), Arc::new(signer));
        let revocations =
            Arc::new(Revocations { state: Arc::clone(&state), bus: Arc::clone(&bus), signer: Arc::clone(&signer) });
        let renewals = Renewals {
            state: Arc::clone(&state),
            ca: Arc::clone(&ca),
            key: keyring.derive("renewal challenge"),
            lifetime: Duration::from_secs(config.device_certificate_s),
        };
        let authority = Arc::new(Authority::new(
            Arc::clone(&state),
            ca,
            Arc::clone(&signer),
            Arc::clone(&revocations),
            renewals,
            config.heartbeat_interval_s * 1_000,
            config.default_region().to_owned(),
        ));
        let audit = Arc::new(AuditLog::new(Arc::clone(&state), keyring.derive("audit"), &config.id, now_ms));
        audit.forward_by(Arc::new(BusForward(Arc::clone(&bus))));
        let notary = Notary::new(&keyring, record.id.to_string());
        let outbox = Arc::new(tasks::outbox::assemble(&state, &bus, &audit, revocations));
        let app = App::new(Shared {
            cursors: Cursors::new(keyring.derive("cursors")),
            csrf_key: keyring.derive("csrf"),
            limits: Limits::default(),
            passwords: Passwords::new()?,
            admissions: Admissions::default(),
            audit,
            outbox,
            authority,
            started_ms: now_ms(),
            setup_required: AtomicBool::new(record.initialised_ms.is_none()),
            ready: AtomicBool::new(false),
            directory: Arc::default(),
            live: Arc::default(),
            foreign: Arc::default(),
            address: OnceLock::new(),
            config,
            state,
            bus,
            metrics,
            regional_metrics,
            history,
            render_metrics,
            keyring,
        });
        // What an earlier run left must be there before anything asks for it.
        setup::deliver(&app, &record)
            .await
            .map_err(|error| anyhow::anyhow!("cannot make the first tenant: {error:?}"))?;
        let certificates = Arc::new(Certificates::new(Arc::clone(app.authority.ca())));
        Ok(Self { app, certificates, signer, notary })
    }

    /// A certificate and key for a relay of this process, kept fresh while the control plane serves.
    /// `names` are the host names and addresses that agents connect to.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn relay_identity(&self, relay_id: &str, names: &[String]) -> anyhow::Result<LiveIdentity> {
        self.certificates.issue(&format!("breeze:relay:{relay_id}"), names)
    }

    /// The certification authority's certificate, DER: what relays accept device certificates from.
    #[must_use]
    pub fn ca_certificate_der(&self) -> Vec<u8> {
        self.app.authority.ca().certificate_der().to_vec()
    }

    /// Every version of the root document, oldest first: what relays check documents against.
    #[must_use]
    pub fn roots(&self) -> Vec<SignedRoot> {
        self.signer.roots()
    }

    /// A key that this machine's own agent can enrol with, before anybody has set up.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn local_enrollment_key(&self) -> anyhow::Result<EnrollmentKey> {
        enrollment::local_key(&self.app).await
    }

    /// What handlers and tasks share.
    #[must_use]
    pub const fn app(&self) -> &App {
        &self.app
    }

    /// Begins to answer relays on the bus and to listen, until `shutdown`.
    ///
    /// # Errors
    /// When the address is taken, certificates cannot be read, or store or bus refuse.
    pub async fn serve(self, relays: Vec<Relay>, shutdown: Shutdown) -> anyhow::Result<Handle> {
        let Self { app, certificates, signer: _, notary } = self;
        app.authority.set_relays(relays).await?;
        let (listener, addr) = server::bind(&app.config)?;
        let tls = server::tls(&app.config, &certificates)?;
        app.address.get_or_init(|| addr);
        let is_named = app.config.public_url.is_some() || app.config.public_host.is_some();
        if !is_named && addr.ip().is_unspecified() {
            tracing::warn!(
                "public_host is not set: links and installers name localhost, which other machines cannot use"
            );
        }
        let tasks = Tasks::new("control-plane", shutdown.clone());
        for (question, service) in tasks::authority::open(&app.bus).await? {
            let answering = tasks::authority::answer(question, service, Arc::clone(&app.authority), shutdown.token());
            tasks.spawn(question.subject(), answering);
        }
        let (authority, stop) = (Arc::clone(&app.authority), shutdown.token());
        tasks.spawn("documents", async move {
            tasks::authority::refresh(authority, stop).await;
            Ok(())
        });
        let (authority, bus, stop) = (Arc::clone(&app.authority), Arc::clone(&app.bus), shutdown.token());
        tasks.spawn("relays", async move {
            tasks::relays::follow(authority, bus, stop).await;
            Ok(())
        });
        keep_audit(&app, notary, &tasks, &shutdown).await?;
        let (outbox, stop) = (Arc::clone(&app.outbox), shutdown.token());
        tasks.spawn("outbox", async move {
            outbox.run(stop.cancelled_owned()).await;
            Ok(())
        });
        tasks.spawn("certificates", certificates.keep(shutdown.token()));
        let regions = app.config.regions();
        let feed =
            Feed::new(Arc::clone(&app.directory), Arc::clone(&app.state), Arc::clone(&app.bus), FeedConfig { regions });
        tasks.spawn("directory", feed.run(shutdown.token()));
        tasks.spawn("live", live::run(app.clone(), shutdown.token()));
        let (foreign, bus, stop) = (Arc::clone(&app.foreign), Arc::clone(&app.bus), shutdown.token());
        let regions = app.config.regions();
        tasks.spawn("what waits between regions", async move {
            tasks::foreign::watch(foreign, bus, regions, stop).await;
            Ok(())
        });
        let token = setup::arm(&app).await?;
        let (waiting, stop) = (app.clone(), shutdown.token());
        tasks.spawn("set-up", async move {
            setup::follow(&waiting, &stop).await;
            Ok(())
        });
        let setup_url = token.map(|token| format!("{}/setup#token={token}", app.origin()));
        app.ready.store(true, Ordering::Release);
        let (reported, stop) = (app.clone(), shutdown.token());
        let config = &app.config;
        let reporter =
            Reporter::new(Arc::clone(&app.bus), "control-plane", &config.id, &config.region, env!("CARGO_PKG_VERSION"));
        tasks.spawn("status", async move {
            reporter.run(stop, move || report(&reported)).await;
            Ok(())
        });
        let (drained, stop) = (app.clone(), shutdown.token());
        let serving = server::serve(listener, tls, server::Switch::new(app.clone()), shutdown.token());
        tasks.spawn("http", async move {
            let result = serving.await;
            drained.ready.store(false, Ordering::Release);
            drop(stop);
            result
        });
        Ok(Handle { addr, setup_url, app, tasks })
    }
}

/// The tasks of the audit log: entries of other nodes, checkpoints, retention.
async fn keep_audit(app: &App, notary: Notary, tasks: &Tasks, shutdown: &Shutdown) -> anyhow::Result<()> {
    let config = &app.config.audit;
    let service = app.bus.serve(&subject::audit_append(&app.config.id)).await?;
    tasks.spawn("audit entries", audit::forward::answer(service, Arc::clone(&app.audit), shutdown.token()));
    let store = config.store.as_ref().map(audit::store::Store::open).transpose()?.map(Arc::new);
    let file = config.checkpoint_file.clone();
    let file = file.unwrap_or_else(|| app.config.data.join(audit::CHECKPOINT_FILE));
    let mut places: Vec<Box<dyn Place>> = vec![Box::new(audit::places::File(file))];
    if let Some(syslog) = &config.syslog {
        places.push(Box::new(audit::places::Syslog::parse(syslog)?));
    }
    if let Some(store) = &store {
        places.push(Box::new(audit::places::Objects(Arc::clone(store))));
    }
    let (log, stop, period) = (Arc::clone(&app.audit), shutdown.token(), Duration::from_secs(config.checkpoint_s));
    tasks.spawn("audit checkpoints", async move {
        audit::places::publish(log, notary, places, period, stop).await;
        Ok(())
    });
    let (state, log, stop) = (Arc::clone(&app.state), Arc::clone(&app.audit), shutdown.token());
    let node = app.config.id.clone();
    tasks.spawn("audit retention", async move {
        audit::retention::keep(state, log, store, node, stop).await;
        Ok(())
    });
    Ok(())
}

fn report(app: &App) -> Report {
    let ready = app.ready.load(Ordering::Acquire);
    let up_s = (now_ms().saturating_sub(app.started_ms)) as f64 / 1_000.0;
    let message = if app.setup_required.load(Ordering::Acquire) { "waits for set-up" } else { "" };
    Report { ready, message: message.to_owned(), gauges: vec![gauge("uptime", "seconds", up_s)] }
}

impl Handle {
    /// Names the relays anew.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn set_relays(&self, relays: Vec<Relay>) -> anyhow::Result<()> {
        self.app.authority.set_relays(relays).await
    }

    /// What handlers and tasks share.
    #[must_use]
    pub const fn app(&self) -> &App {
        &self.app
    }

    /// Where the dashboard is.
    #[must_use]
    pub fn origin(&self) -> String {
        self.app.origin()
    }

    /// Resolves when lists are answered: the directory of devices has been built.
    pub async fn ready(&self) {
        while !self.app.directory.is_ready() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Waits until every task has ended after shutdown began.
    ///
    /// # Errors
    /// The first task's failure.
    pub async fn join(self) -> anyhow::Result<()> {
        self.tasks.finish(server::DRAIN + Duration::from_secs(2)).await
    }
}
