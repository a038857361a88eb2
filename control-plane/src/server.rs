//! The listener: TLS or plain HTTP on loopback, HTTP/1.1 and HTTP/2, and the router that is in force.

mod admission;

use admission::Admission;

use crate::{
    api::headers,
    config::{Config, Tls},
    context::App,
    error::ApiError,
    pki::certificates::Certificates,
    routes, web,
};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use axum::{
    Router,
    body::{Body, HttpBody},
    extract::DefaultBodyLimit,
    http::Request,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use bytes::Bytes;
use hyper_util::rt::TokioTimer;
use rustls_pki_types::DnsName;
use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer};

/// Largest request body.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 64;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
/// (One of HTTP/1.1 that sends no next request is gone after [`HEADER_TIMEOUT`].)
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long open requests have when draining begins.
pub const DRAIN: Duration = Duration::from_secs(5);

/// The router that is in force. Once set up, it is one that does not know of set-up.
#[derive(Debug, Clone)]
pub struct Switch {
    app: App,
    current: Arc<ArcSwap<Router>>,
    /// Whether `current` still knows of set-up.
    with_setup: Arc<AtomicBool>,
}

impl Switch {
    #[must_use]
    pub fn new(app: App) -> Self {
        let required = app.setup_required.load(Ordering::Acquire);
        let router = router(&app, required);
        Self { current: Arc::new(ArcSwap::from_pointee(router)), with_setup: Arc::new(AtomicBool::new(required)), app }
    }

    /// Follows the instance, which may have been set up here or on another node.
    fn follow(&self) {
        let is_over = self.with_setup.load(Ordering::Acquire) && !self.app.setup_required.load(Ordering::Acquire);
        if is_over && self.with_setup.swap(false, Ordering::AcqRel) {
            self.current.store(Arc::new(router(&self.app, false)));
        }
    }
}

impl<B> Service<Request<B>> for Switch
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        let request = request.map(Body::new);
        Box::pin(async move {
            this.follow();
            let router = Router::clone(&this.current.load());
            let response = router.oneshot(request).await;
            this.follow();
            response
        })
    }
}

fn router(app: &App, with_setup: bool) -> Router {
    let api = if with_setup { routes::api() } else { routes::without_setup() };
    let (router, _) = api.into_router(app);
    router
        .fallback(web::serve)
        .method_not_allowed_fallback(web::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(CompressionLayer::new().gzip(true))
        .layer(from_fn_with_state(app.clone(), headers::around))
        .with_state(app.clone())
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response<Body> {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    metrics::counter!("breeze_api_panics_total").increment(1);
    ApiError::internal(format!("a handler panicked: {text}")).into_response()
}

/// Listens; port 0 takes a free one.
///
/// # Errors
/// When the address is taken or not this machine's.
pub fn bind(config: &Config) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// TLS as configured; `None` for plain HTTP.
///
/// # Errors
/// When certificate or key cannot be read, or do not fit together.
pub fn tls(config: &Config, certificates: &Certificates) -> anyhow::Result<Option<RustlsConfig>> {
    let shown = match &config.tls {
        Tls::None => return Ok(None),
        Tls::OwnCa => certificates.issue("breeze:control-plane", &names(config))?,
        Tls::Files { cert, key } => certificates.read(cert, key)?,
    };
    let mut tls = rustls::ServerConfig::builder_with_provider(breeze_runtime::tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(RustlsConfig::from_config(Arc::new(tls))))
}

/// Names that people may type for this server.
fn names(config: &Config) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let ip = config.listen.ip();
    if ip.is_unspecified() {
        // Reached by whatever name the machine has; better names come with `public_host`.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        names.extend(Some(host.trim().to_owned()).filter(|host| DnsName::try_from(host.as_str()).is_ok()));
    } else {
        names.push(ip.to_string());
    }
    if let Some(host) = config.public_url.as_ref().and_then(|url| url.host_str()) {
        names.push(host.trim_start_matches('[').trim_end_matches(']').to_owned());
    }
    names.extend(config.public_host.clone());
    names.sort();
    names.dedup();
    names
}

/// Serves until `stop`, then drains.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    switch: Switch,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let handle = Handle::new();
    let drain = handle.clone();
    let draining = async move {
        stop.cancelled().await;
        drain.graceful_shutdown(Some(DRAIN));
        std::future::pending::<()>().await;
    };
    let admission = Admission::new(&switch.app.config.trusted_proxies);
    let service = axum::ServiceExt::<Request<Body>>::into_make_service_with_connect_info::<SocketAddr>(switch);
    macro_rules! limits {
        ($server:expr) => {{
            let builder = $server.http_builder();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            let mut http2 = builder.http2();
            http2.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
            http2.keep_alive_interval(Some(KEEP_ALIVE_INTERVAL)).keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        }};
    }
    let served = async move {
        match tls {
            None => {
                let mut server = axum_server::from_tcp(listener)?.acceptor(admission).handle(handle);
                limits!(server);
                server.serve(service).await
            }
            Some(tls) => {
                let mut server = axum_server::from_tcp_rustls(listener, tls)?
                    .map(|acceptor| acceptor.handshake_timeout(HANDSHAKE_TIMEOUT).acceptor(admission))
                    .handle(handle);
                limits!(server);
                server.serve(service).await
            }
        }
    };
    tokio::select! {
        result = served => result.context("the API's listener failed"),
        () = draining => Ok(()),
    }
}
