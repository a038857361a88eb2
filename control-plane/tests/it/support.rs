//! A server in this process, clients of it, and devices that enrol.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_bus::memory::MemoryBus;
use breeze_control_plane::{Config, ControlPlane, Deps, Handle, Tls};
use breeze_proto::{enroll::EnrollmentKey, v1};
use breeze_runtime::shutdown::Shutdown;
use breeze_store::{
    metrics::{EmbeddedMetrics, EmbeddedMetricsConfig},
    state::memory::MemoryState,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) const EMAIL: &str = "jane@example.com";
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Deadline of whatever is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) handle: Handle,
    pub(crate) state: Arc<MemoryState>,
    pub(crate) bus: Arc<MemoryBus>,
    pub(crate) key: EnrollmentKey,
    pub(crate) base: String,
    pub(crate) ca_pem: String,
    shutdown: Shutdown,
    _metrics: TempDir,
}

pub(crate) fn relay() -> v1::Relay {
    v1::Relay {
        id: "local-1".into(),
        region: "local".into(),
        quic: "127.0.0.1:4433".into(),
        wss: "127.0.0.1:4434".into(),
    }
}

pub(crate) fn config(data: &Path) -> Config {
    Config { listen: ([127, 0, 0, 1], 0).into(), tls: Tls::None, data: data.to_owned(), ..Config::default() }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let data = tempfile::tempdir().expect("folder");
        let config = config(data.path());
        Self::start_on(config, Arc::default(), Arc::new(MemoryBus::new()), data).await
    }

    pub(crate) async fn start_on(
        config: Config,
        state: Arc<MemoryState>,
        bus: Arc<MemoryBus>,
        folder: TempDir,
    ) -> Self {
        breeze_runtime::tls::install_provider();
        let metrics =
            EmbeddedMetrics::open(EmbeddedMetricsConfig::new(folder.path().join("metrics"))).expect("metrics");
        let deps = Deps {
            bus: Arc::<MemoryBus>::clone(&bus),
            state: Arc::<MemoryState>::clone(&state),
            metrics,
            regional_metrics: std::collections::BTreeMap::default(),
            history: Arc::new(breeze_store::history::EmbeddedHistory::new(Arc::<MemoryState>::clone(&state))),
            render_metrics: Some(Arc::new(|| "breeze_up 1\n".to_owned())),
        };
        let shutdown = Shutdown::new();
        let opened = ControlPlane::open(config, deps).await.expect("opens");
        let key = opened.local_enrollment_key().await.expect("key");
        let ca_pem = opened.app().authority.ca().certificate_pem().to_owned();
        let handle = opened.serve(vec![relay()], shutdown.clone()).await.expect("serves");
        let base = handle.origin();
        Self { handle, state, bus, key, base, ca_pem, shutdown, _metrics: folder }
    }

    /// The token in the set-up link.
    pub(crate) fn setup_token(&self) -> String {
        let url = self.handle.setup_url.as_deref().expect("not set up");
        url.split_once("#token=").expect("token in the fragment").1.to_owned()
    }

    pub(crate) fn client(&self) -> Client {
        let http = reqwest::Client::builder().cookie_store(true).no_proxy().timeout(PATIENCE).build().expect("client");
        Client { http, base: self.base.clone(), csrf: None, bearer: None }
    }

    /// Sets up; the administrator's browser.
    pub(crate) async fn admin(&self) -> Client {
        let mut client = self.client();
        let answer = client.post("/api/v1/setup", &self.setup_body()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
        client.csrf = Some(answer.text("csrf_token"));
        client
    }

    pub(crate) fn setup_body(&self) -> Value {
        json!({"token": self.setup_token(), "name": "Jane Doe", "email": EMAIL, "password": PASSWORD,
               "organization_name": "Acme", "site_name": "HQ"})
    }

    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        self.handle.join().await.expect("stops cleanly");
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) base: String,
    pub(crate) csrf: Option<String>,
    pub(crate) bearer: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) raw: String,
}

impl Answer {
    pub(crate) fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.raw)).to_owned()
    }

    /// The problem's code.
    pub(crate) fn code(&self) -> &str {
        self.body["type"].as_str().and_then(|kind| kind.strip_prefix("urn:breeze:problem:")).unwrap_or("")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

impl Client {
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(csrf) = &self.csrf {
            request = request.header("x-csrf-token", csrf);
        }
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        request
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }
}

pub(crate) async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("answers");
    let (status, headers) = (response.status(), response.headers().clone());
    let raw = response.text().await.expect("text");
    let body = serde_json::from_str(&raw).unwrap_or(Value::Null);
    Answer { status, headers, body, raw }
}

/// A device's key pair.
pub(crate) struct Device {
    pub(crate) pair: KeyPair,
}

impl Device {
    pub(crate) fn new() -> Self {
        Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key") }
    }

    pub(crate) fn csr(&self) -> Vec<u8> {
        CertificateParams::default().serialize_request(&self.pair).expect("request").der().to_vec()
    }

    pub(crate) fn request(&self, key: &EnrollmentKey) -> Value {
        json!({"key_id": key.id, "secret": key.secret, "csr": STANDARD.encode(self.csr()), "hostname": "web-1",
               "os_type": "linux", "os_version": "Debian 12", "os_build": "", "architecture": "amd64",
               "agent_version": "0.1.0", "serial_number": "S1"})
    }

    pub(crate) async fn enroll(&self, client: &Client, key: &EnrollmentKey) -> Answer {
        client.post("/api/v1/agents/enroll", &self.request(key)).await
    }
}

/// Asks again until `found` says so.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(Instant::now() < until, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A snapshot without what differs each time.
pub(crate) fn stable(mut body: Value) -> Value {
    if let Some(object) = body.as_object_mut() {
        object.insert("request_id".to_owned(), "[id]".into());
    }
    body
}
