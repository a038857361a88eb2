//! What the tests of the ClickHouse engines share: a database of one's own on the server that
//! `BREEZE_TEST_CLICKHOUSE` names, or the words that say why there is none.

use breeze_store::metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics, migrate};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// The address of the server, or `None` after saying that the test is skipped.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn url() -> Option<String> {
    let url = std::env::var("BREEZE_TEST_CLICKHOUSE").ok();
    if url.is_none() {
        eprintln!(
            "skipped: no ClickHouse; `cargo xtask test` starts one, or set BREEZE_TEST_CLICKHOUSE=http://host:port"
        );
    }
    url
}

/// A database that nobody else uses. Rows of 2025 are not old in it.
pub(crate) fn config(url: &str) -> ClickHouseConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let database =
        format!("t{}_{:08x}_{}", std::process::id(), rand::random::<u32>(), NEXT.fetch_add(1, Ordering::Relaxed));
    ClickHouseConfig {
        retention_raw_days: 20_000,
        retention_5m_days: 20_000,
        retention_1h_days: 20_000,
        retention_1d_days: 20_000,
        token_window: 10_000,
        ..ClickHouseConfig::new(url, database)
    }
}

/// An engine on a new database.
pub(crate) async fn open(config: &ClickHouseConfig) -> Arc<ClickHouseMetrics> {
    migrate(config).await.expect("migrate");
    ClickHouseMetrics::connect(config.clone()).await.expect("connect")
}

/// Runs a statement and gives its answer as text.
pub(crate) async fn ask(config: &ClickHouseConfig, sql: &str) -> String {
    let client = clickhouse::Client::default()
        .with_url(&config.url)
        .with_database(&config.database)
        .with_compression(clickhouse::Compression::None);
    let mut cursor = client.query_raw(sql).fetch_bytes("TabSeparated").expect("fetch");
    let bytes = cursor.collect().await.expect("answer");
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// How one insert fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Never reaches the server.
    CutBefore,
    /// Reaches it; the answer does not come back.
    CutAfter,
    /// Reaches it; another answer comes back.
    FailAfter,
    /// Reaches it two times.
    Twice,
}

/// How the requests of a proxy fare.
#[derive(Debug, Default)]
struct Weather {
    strike: Mutex<Option<(&'static str, Fault)>>,
    /// Each answer comes late by this.
    delay_ms: AtomicU32,
    /// User and password without which nothing is let through.
    wants: Mutex<Option<(&'static str, &'static str)>>,
    inserts: AtomicU32,
}

/// A proxy before the server that strikes the next insert into a table. Its address is the engine's.
pub(crate) struct Proxy {
    pub(crate) url: String,
    weather: Arc<Weather>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let weather = Arc::new(Weather::default());
        let (faults, server) = (Arc::clone(&weather), server.trim_end_matches('/').to_owned());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (faults, server) = (Arc::clone(&faults), server.clone());
                connections.spawn(async move {
                    let serve = service_fn(move |request| forward(request, server.clone(), Arc::clone(&faults)));
                    // An error of the service closes the connection, as it should.
                    let _closed = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        Self { url, weather, task }
    }

    /// The next insert into `table` fares so.
    pub(crate) fn strike(&self, table: &'static str, fault: Fault) {
        *self.weather.strike.lock().expect("lock") = Some((table, fault));
    }

    /// From now on every answer comes late by this.
    pub(crate) fn slow(&self, delay_ms: u32) {
        self.weather.delay_ms.store(delay_ms, Ordering::Relaxed);
    }

    /// From now on only this user is let in.
    pub(crate) fn demand(&self, user: &'static str, password: &'static str) {
        *self.weather.wants.lock().expect("lock") = Some((user, password));
    }

    /// Inserts that came so far.
    pub(crate) fn inserts(&self) -> u32 {
        self.weather.inserts.load(Ordering::Relaxed)
    }
}

async fn forward(
    request: Request<Incoming>,
    server: String,
    weather: Arc<Weather>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let header = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap_or("")).to_owned();
    let known = *weather.wants.lock().expect("lock");
    if known.is_some_and(|(user, key)| {
        (header("x-clickhouse-user"), header("x-clickhouse-key")) != (user.into(), key.into())
    }) {
        let text = format!(
            "Code: 516. DB::Exception: {}: Authentication failed. (AUTHENTICATION_FAILED)",
            header("x-clickhouse-user")
        );
        let refused = Response::builder().status(403).header("x-clickhouse-exception-code", "516");
        return refused.body(Full::new(text.into())).map_err(std::io::Error::other);
    }
    if path.contains("INSERT") {
        weather.inserts.fetch_add(1, Ordering::Relaxed);
    }
    let struck = {
        let mut strike = weather.strike.lock().expect("lock");
        let is_meant = |(table, _): &mut (&str, Fault)| {
            path.contains("INSERT") && (path.contains(&format!(".{table}+")) || path.contains(&format!(".{table}%20")))
        };
        strike.take_if(is_meant).map(|(_, fault)| fault)
    };
    if struck == Some(Fault::CutBefore) {
        return Err(std::io::Error::other("cut before"));
    }
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut answer = None;
    for _ in 0..if struck == Some(Fault::Twice) { 2 } else { 1 } {
        let mut again = Request::builder().method(parts.method.clone()).uri(format!("{server}{path}"));
        for (name, value) in
            parts.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-clickhouse") && known.is_none())
        {
            again = again.header(name, value);
        }
        let sent = again.body(Full::new(body.clone())).map_err(std::io::Error::other)?;
        let (parts, body) = client.request(sent).await.map_err(std::io::Error::other)?.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let mut response = Response::builder().status(parts.status);
        if let Some(code) = parts.headers.get("x-clickhouse-exception-code") {
            response = response.header("x-clickhouse-exception-code", code);
        }
        answer = Some(response.body(Full::new(body)).map_err(std::io::Error::other)?);
    }
    let delay_ms = weather.delay_ms.load(Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(delay_ms.into())).await;
    match struck {
        Some(Fault::CutAfter) => Err(std::io::Error::other("cut after")),
        Some(Fault::FailAfter) => {
            let error = Full::new(Bytes::from_static(b"Code: 210. DB::NetException: of the test. (NETWORK_ERROR)"));
            Response::builder().status(500).body(error).map_err(std::io::Error::other)
        }
        Some(Fault::CutBefore | Fault::Twice) | None => answer.ok_or_else(|| std::io::Error::other("no answer")),
    }
}
