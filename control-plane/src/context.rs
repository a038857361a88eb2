//! What every handler and task of this node shares.

use crate::{
    api::{Cursors, rate::Limits},
    app::{enrollment::Admissions, password::Passwords},
    config::{Config, Tls},
    directory::Directory,
    error::ApiError,
    keyring::Keyring,
    live::Live,
    pki::authority::Authority,
    tasks::foreign::Foreign,
};
use breeze_bus::Bus;
use breeze_store::{
    history::History,
    metrics::Metrics,
    model::audit::AuditLog,
    state::{CommitTable, State, outbox::Outbox},
};
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, OnceLock, atomic::AtomicBool},
};
use url::Url;

/// Renders the process's metrics for Prometheus.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Shared state; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// See [`App`].
pub struct Shared {
    pub config: Config,
    pub state: Arc<dyn State>,
    pub bus: Arc<dyn Bus>,
    pub metrics: Arc<dyn Metrics>,
    pub regional_metrics: BTreeMap<String, Arc<dyn Metrics>>,
    pub history: Arc<dyn History>,
    pub render_metrics: Option<RenderMetrics>,
    pub keyring: Keyring,
    pub cursors: Cursors,
    pub csrf_key: [u8; 32],
    pub limits: Limits,
    pub passwords: Passwords,
    pub admissions: Admissions,
    pub audit: Arc<AuditLog>,
    pub outbox: Arc<Outbox>,
    pub authority: Arc<Authority>,
    pub started_ms: u64,
    /// Whether nobody has set up yet, as far as this node knows; once false, it stays so.
    pub setup_required: AtomicBool,
    /// Whether everything answers.
    pub ready: AtomicBool,
    pub directory: Arc<Directory>,
    pub live: Arc<Live>,
    /// What regions hold for each other.
    pub foreign: Arc<Foreign>,
    /// Where it listens, known when it does.
    pub address: OnceLock<SocketAddr>,
}

impl App {
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    #[must_use]
    pub fn serves_tls(&self) -> bool {
        self.config.tls != Tls::None
    }

    /// The dashboard's origin, without a slash at its end. Who listens on every address should say
    /// `public_url` or `public_host`: without them other machines cannot use what is written here.
    #[must_use]
    pub fn origin(&self) -> String {
        if let Some(url) = &self.config.public_url {
            return url.origin().ascii_serialization();
        }
        let scheme = if self.serves_tls() { "https" } else { "http" };
        let address = self.address.get().copied().unwrap_or(self.config.listen);
        match &self.config.public_host {
            // As browsers write it: without the scheme's own port.
            Some(host) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let origin = format!("{scheme}://{host}:{}", address.port());
                Url::parse(&origin).map_or(origin, |url| url.origin().ascii_serialization())
            }
            None if address.ip().is_unspecified() => format!("{scheme}://localhost:{}", address.port()),
            None => format!("{scheme}://{address}"),
        }
    }

    /// Whether a browser's `Origin` is this server: as configured, or as the request's `Host` says.
    /// `secure`: whether the browser speaks TLS.
    #[must_use]
    pub fn is_own_origin(&self, origin: &str, secure: bool, host: Option<&str>) -> bool {
        let Ok(parsed) = Url::parse(origin) else { return false };
        let scheme = if secure { "https" } else { "http" };
        let by_host = host
            .and_then(|host| Url::parse(&format!("{scheme}://{host}")).ok())
            .is_some_and(|own| own.origin() == parsed.origin());
        by_host || parsed.origin().ascii_serialization() == self.origin()
    }

    /// Delivers what a commit has just left in its partition, so that a following read sees it.
    ///
    /// # Errors
    /// `unavailable`: the change is made, and what follows from it will be.
    pub async fn deliver_now(&self, table: CommitTable, partition: &[u8]) -> Result<(), ApiError> {
        self.outbox.deliver(table, partition).await.map_err(|error| {
            tracing::warn!(table = table.name, error = %error, "outbox item waits");
            ApiError::unavailable("The change is stored; a part that follows from it takes a moment longer.")
        })
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("id", &self.config.id).finish_non_exhaustive()
    }
}
