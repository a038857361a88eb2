//! What operators and load balancers ask a role that has no API: `/healthz`, `/readyz`, `/metrics`.
//!
//! `/healthz` answers while the process lives. `/readyz` answers 200 when every component is ready
//! and the process is not stopping, else 503, both with what each component says. None of it holds
//! a secret, but addresses, stream and host names can be read from it: so it listens on loopback
//! unless the configuration says otherwise.

mod state;

pub use state::{Component, ComponentState, OpsState, Readiness};

use crate::{metrics, shutdown::Shutdown};
use anyhow::{Context, ensure};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

/// Connections at one time; later ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection ends after this, whatever it does.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// How often histograms are folded, so that they do not grow while nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Section `[http]` of a role's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where health and metrics are answered.
    pub listen: SocketAddr,
    /// Must be true to listen on anything else than loopback: there is no authentication, and the
    /// answers name addresses and streams.
    pub allow_remote: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)), allow_remote: false }
    }
}

impl Config {
    /// The address, if it may be listened on.
    ///
    /// # Errors
    /// When it is not loopback and `allow_remote` is not set.
    pub fn checked_listen(&self) -> anyhow::Result<SocketAddr> {
        ensure!(
            self.allow_remote || self.listen.ip().is_loopback(),
            "[http] listen = \"{}\" is not a loopback address: health and metrics are answered without \
             authentication; set allow_remote = true if that network may read them",
            self.listen
        );
        Ok(self.listen)
    }
}

/// A listening server. It answers until this is dropped, also while the role drains: then `/readyz`
/// says that it is stopping.
#[derive(Debug)]
pub struct OpsServer {
    addr: SocketAddr,
    // Aborts the server, and with it its connections.
    _task: JoinSet<()>,
}

impl OpsServer {
    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Listens and answers. `shutdown` only tells whether the role is stopping.
///
/// # Errors
/// When the address cannot be listened on, or another metrics recorder is installed.
pub async fn serve(listen: SocketAddr, state: OpsState, shutdown: Shutdown) -> anyhow::Result<OpsServer> {
    metrics::install()?;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen} for health and metrics ([http] listen)"))?;
    let addr = listener.local_addr()?;
    tracing::info!(%addr, "answering health and metrics");
    let mut task = JoinSet::new();
    task.spawn(accept(listener, Answers { state, shutdown }));
    Ok(OpsServer { addr, _task: task })
}

async fn accept(listener: TcpListener, answers: Answers) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            _ = upkeep.tick() => metrics::upkeep(),
            Some(_ended) = connections.join_next() => {}
            (permit, accepted) = next => match accepted {
                Ok((stream, _peer)) => {
                    let answers = answers.clone();
                    connections.spawn(async move {
                        let _permit = permit;
                        connection(stream, answers).await;
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, answers: Answers) {
    let until = Instant::now() + CONNECTION_LIFETIME;
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answers.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // A peer that goes away or speaks something else is nobody's trouble.
    let _ended = tokio::time::timeout_at(until, serving).await;
}

#[derive(Debug, Clone)]
struct Answers {
    state: OpsState,
    shutdown: Shutdown,
}

impl Answers {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if method != Method::GET && method != Method::HEAD {
            return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into());
        }
        match path {
            "/healthz" => reply(StatusCode::OK, TEXT, "ok\n".into()),
            "/readyz" => {
                let readiness = self.state.readiness(self.shutdown.has_begun());
                let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                reply(status, "application/json", readiness.to_json())
            }
            "/metrics" => match metrics::render() {
                Ok(text) => reply(StatusCode::OK, metrics::CONTENT_TYPE, text),
                Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error:#}\n")),
            },
            _ => reply(StatusCode::NOT_FOUND, TEXT, "here are /healthz, /readyz and /metrics\n".into()),
        }
    }
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }

    #[tokio::test]
    async fn readiness_says_which_component_is_missing_and_why() {
        let state = OpsState::new("collector");
        let shutdown = Shutdown::new();
        let server = serve(([127, 0, 0, 1], 0).into(), state.clone(), shutdown.clone()).await.expect("listens");
        let addr = server.addr();

        let (bus, store) = (state.component("bus"), state.component("state"));
        assert_eq!(get(addr, "GET", "/healthz").await, (200, "ok\n".into()));
        let (status, body) = get(addr, "GET", "/readyz").await;
        assert_eq!(status, 503, "{body}");
        store.ready();
        bus.failing("cannot reach NATS at nats://127.0.0.1:1: connection refused");
        let (status, body) = get(addr, "GET", "/readyz").await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, &body["ready"], &body["role"]), (503, &false.into(), &"collector".into()));
        assert_eq!(body["components"][0]["name"], "bus");
        assert_eq!(body["components"][0]["state"], "failing");
        assert!(body["components"][0]["message"].as_str().expect("words").contains("nats://127.0.0.1:1"));
        assert_eq!(body["components"][1]["state"], "ready");
        bus.ready();
        assert_eq!(get(addr, "GET", "/readyz?verbose").await.0, 200);
        store.degraded("one of two does not answer");
        let (status, body) = get(addr, "GET", "/readyz").await;
        assert!(status == 200 && body.contains("\"degraded\"") && body.contains("one of two"), "{status} {body}");
        let (_, text) = get(addr, "GET", "/metrics").await;
        assert!(text.contains("breeze_component_ready{component=\"bus\"} 1"), "{text}");

        shutdown.begin();
        let (status, body) = get(addr, "GET", "/readyz").await;
        assert!(status == 503 && body.contains("\"stopping\":true"), "{status} {body}");
        drop(server);
        assert!(TcpStream::connect(addr).await.is_err() || get_fails(addr).await, "dropped, it answers nobody");
    }

    async fn get_fails(addr: SocketAddr) -> bool {
        let Ok(mut stream) = TcpStream::connect(addr).await else { return true };
        let sent = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        sent.is_err() || !matches!(stream.read_to_end(&mut answer).await, Ok(read) if read > 0)
    }

    #[tokio::test]
    async fn it_counts_the_process_and_refuses_what_it_does_not_know() {
        let server = serve(([127, 0, 0, 1], 0).into(), OpsState::new("relay"), Shutdown::new()).await.expect("listens");
        assert_eq!(get(server.addr(), "GET", "/").await.0, 404);
        assert_eq!(get(server.addr(), "POST", "/healthz").await.0, 405);
        let (status, text) = get(server.addr(), "GET", "/metrics").await;
        assert_eq!(status, 200);
        for name in ["cpu_seconds_total", "resident_bytes", "open_fds", "start_time_seconds"] {
            let line = text.lines().find(|line| line.starts_with(&format!("breeze_process_{name} ")));
            let value: f64 = line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect(name);
            assert!(value >= 0.0 && (name == "cpu_seconds_total" || value > 0.0), "{name} {value}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = taken.local_addr().expect("bound");
        let error = serve(addr, OpsState::new("relay"), Shutdown::new()).await.expect_err("taken");
        assert!(format!("{error:#}").contains(&addr.to_string()), "{error:#}");
    }

    #[test]
    fn other_networks_must_be_asked_for() {
        let mut config = Config { listen: ([0, 0, 0, 0], 9464).into(), ..Config::default() };
        let error = config.checked_listen().expect_err("not loopback").to_string();
        assert!(error.contains("allow_remote") && error.contains("0.0.0.0:9464"), "{error}");
        config.allow_remote = true;
        assert_eq!(config.checked_listen().expect("asked for"), config.listen);
        assert!(Config::default().checked_listen().is_ok());
    }
}
