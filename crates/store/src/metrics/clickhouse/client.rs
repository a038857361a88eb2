//! The connection to ClickHouse: where it is, how it is trusted, how long it is waited for, and what its
//! errors mean.

use super::super::MetricsError;
use ::clickhouse::error::Error;
use ::clickhouse::query::Query;
use ::clickhouse::{Client, Compression, RowOwned, RowRead};
use bytes::Bytes;
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(60);
/// ClickHouse closes idle connections after 3 s by default; one of these would lose its first request.
const POOL_IDLE: Duration = Duration::from_secs(2);
/// Errors of the server (`src/Common/ErrorCodes.cpp` of ClickHouse).
const NOT_ENOUGH_SPACE: u32 = 243;
const AUTHENTICATION_FAILED: u32 = 516;

/// Where a region's ClickHouse is, and what is kept there.
#[derive(Clone)]
pub struct ClickHouseConfig {
    /// `https://host:8443`, or `http://` to a loopback address.
    pub url: String,
    /// Made by [`super::migrate`].
    pub database: String,
    pub user: String,
    pub password: String,
    /// PEM of the authorities that are trusted; the system's where it is `None`.
    pub ca_file: Option<PathBuf>,
    pub retention_raw_days: u32,
    pub retention_5m_days: u32,
    pub retention_1h_days: u32,
    pub retention_1d_days: u32,
    /// Of events and versions of inventories.
    pub retention_history_days: u32,
    /// How long an insert may take, from its first byte to the answer.
    pub insert_timeout: Duration,
    /// How long a query may take, at the server and here.
    pub query_timeout: Duration,
    /// Inserts that the server remembers, set by [`super::migrate`]; [`super::TOKEN_WINDOW`].
    pub token_window: u32,
    /// A repetition of rows this young is certainly still remembered; [`super::TOKEN_WINDOW_SECONDS`].
    pub token_window_seconds: u64,
}

impl ClickHouseConfig {
    /// The usual values: raw 30 days, 5 min 180 days, 1 h 2 years, 1 d 10 years, history 400 days; user "default".
    #[must_use]
    pub fn new(url: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            database: database.into(),
            user: "default".into(),
            password: String::new(),
            ca_file: None,
            retention_raw_days: 30,
            retention_5m_days: 180,
            retention_1h_days: 730,
            retention_1d_days: 3_650,
            retention_history_days: crate::history::RETENTION_DAYS,
            insert_timeout: Duration::from_secs(30),
            query_timeout: Duration::from_secs(15),
            token_window: super::TOKEN_WINDOW,
            token_window_seconds: super::TOKEN_WINDOW_SECONDS,
        }
    }

    pub(crate) fn retention_days(&self) -> [u32; 4] {
        [self.retention_raw_days, self.retention_5m_days, self.retention_1h_days, self.retention_1d_days]
    }

    fn check(&self) -> Result<(), MetricsError> {
        let invalid = |what: &str| Err(MetricsError::Invalid(format!("ClickHouse at {}: {what}", self.url)));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if self.database.is_empty() || self.database.len() > 64 || !self.database.bytes().all(is_name) {
            return invalid("the database's name may have letters, digits and underscores only");
        }
        let Some((scheme, rest)) = self.url.split_once("://") else {
            return invalid("the address must begin with https:// or http://");
        };
        let host = rest.split('/').next().unwrap_or_default();
        match scheme {
            "https" => Ok(()),
            "http" if is_loopback(host) => Ok(()),
            "http" => invalid("without TLS only loopback addresses are allowed; use https://"),
            _ => invalid("the address must begin with https:// or http://"),
        }
    }
}

/// Whether a host with or without a port is this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Debug for ClickHouseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseConfig")
            .field("url", &self.url)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("ca_file", &self.ca_file)
            .field("retention_days", &self.retention_days())
            .field("retention_history_days", &self.retention_history_days)
            .finish_non_exhaustive()
    }
}

/// One server and database. Cheap to clone; connections are pooled.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) config: ClickHouseConfig,
    client: Client,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(config: ClickHouseConfig) -> Result<Self, MetricsError> {
        config.check()?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&config)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(POOL_IDLE).build(connector);
        let mut client = Client::with_http_client(http)
            .with_url(&config.url)
            .with_database(&config.database)
            .with_user(&config.user)
            // A region's server is near and the rows are few bytes: packing would cost more than it saves.
            .with_compression(Compression::None);
        if !config.password.is_empty() {
            client = client.with_password(&config.password);
        }
        Ok(Self { config, client })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The client without a database, to make it.
    pub(crate) fn serverwide(&self) -> Client {
        self.client.clone().with_database("default")
    }

    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.config.url.trim_end_matches('/'), self.config.database)
    }

    /// Runs a statement that has no rows to give.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), MetricsError> {
        self.run(self.client.query_raw(sql)).await
    }

    pub(crate) async fn run(&self, query: Query) -> Result<(), MetricsError> {
        self.within(self.patience(), query.with_setting("wait_end_of_query", "1").execute()).await
    }

    pub(crate) async fn fetch_one<T: RowOwned + RowRead>(&self, query: Query) -> Result<T, MetricsError> {
        self.within(self.patience(), query.fetch_one::<T>()).await
    }

    /// As [`Self::fetch_one`], and waits no longer than `most`.
    pub(crate) async fn fetch_one_within<T: RowOwned + RowRead>(
        &self,
        most: Duration,
        query: Query,
    ) -> Result<T, MetricsError> {
        self.within(self.patience().min(most), query.fetch_one::<T>()).await
    }

    pub(crate) async fn fetch_all<T: RowOwned + RowRead>(&self, query: Query) -> Result<Vec<T>, MetricsError> {
        self.within(self.patience(), query.fetch_all::<T>()).await
    }

    /// Inserts `rows` (RowBinary) into one partition of `table` as one block, under `token`. When this
    /// fails they may be stored or not, or be stored yet; with the same token it may be repeated.
    pub(crate) async fn insert(
        &self,
        table: &str,
        columns: &str,
        token: &str,
        rows: Bytes,
    ) -> Result<(), MetricsError> {
        let (start, bytes) = (Instant::now(), rows.len());
        let timeout = self.config.insert_timeout;
        let mut insert = self
            .client
            .insert_formatted_with(format!("INSERT INTO {}.{table} ({columns}) FORMAT RowBinary", self.config.database))
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("insert_deduplication_token", token)
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            // One block, whatever the server's defaults are: the token counts by block.
            .with_setting("max_insert_block_size", "1000000")
            .with_setting("min_insert_block_size_rows", "1000000")
            .with_setting("min_insert_block_size_bytes", "0")
            .with_setting("max_insert_threads", "1")
            .with_setting("max_partitions_per_insert_block", "1")
            .with_setting("input_format_parallel_parsing", "0")
            .with_setting("wait_end_of_query", "1")
            .with_timeouts(Some(timeout), Some(timeout));
        let sent = async {
            insert.send(rows).await?;
            insert.end().await
        };
        let result = match tokio::time::timeout(timeout, sent).await {
            Ok(result) => result.map_err(|error| self.explain(&error)),
            Err(_) => Err(self.late(timeout)),
        };
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        metrics::histogram!("breeze_metrics_insert_seconds", "outcome" => outcome).record(start.elapsed());
        if result.is_ok() {
            metrics::counter!("breeze_metrics_insert_bytes_total").increment(bytes as u64);
        }
        result
    }

    /// How long an answer to a query is waited for. The server's own bound comes first, so that it says
    /// what it was doing.
    fn patience(&self) -> Duration {
        self.config.query_timeout + Duration::from_secs(5)
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, MetricsError> {
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result.map_err(|error| self.explain(&error)),
            Err(_) => Err(self.late(timeout)),
        }
    }

    fn late(&self, timeout: Duration) -> MetricsError {
        MetricsError::Unavailable(format!("{} did not answer within {timeout:?}", self.place()))
    }

    fn explain(&self, error: &Error) -> MetricsError {
        if let Error::BadResponse(answer) = error {
            return self.explain_answer(answer);
        }
        let text = innermost(error);
        if matches!(error, Error::InvalidParams(_) | Error::Custom(_) | Error::Unsupported(_)) {
            MetricsError::Invalid(text)
        } else {
            MetricsError::Unavailable(format!("{}: {text}", self.place()))
        }
    }

    fn explain_answer(&self, answer: &str) -> MetricsError {
        let text: String = answer.lines().next().unwrap_or_default().chars().take(400).collect();
        let code: u32 = text
            .strip_prefix("Code: ")
            .and_then(|rest| rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok())
            .unwrap_or(0);
        match code {
            // No space left, by the server's reserve or by the disk. It does not say how much there is, so
            // this is not the engine's `Full`, which does.
            NOT_ENOUGH_SPACE => self.no_space(&text),
            _ if answer.contains("No space left on device") => self.no_space(&text),
            AUTHENTICATION_FAILED => MetricsError::Unavailable(format!(
                "{}: the server refuses user {:?} or the password configured for it ({text})",
                self.place(),
                self.config.user
            )),
            // Too many rows or bytes to read, to answer, or to sort.
            158 | 307 | 396 => {
                MetricsError::Invalid(format!("{}: the query reads too much; narrow it ({text})", self.place()))
            }
            _ => MetricsError::Unavailable(format!("{}: {text}", self.place())),
        }
    }

    fn no_space(&self, text: &str) -> MetricsError {
        MetricsError::Unavailable(format!(
            "{}: no disk of that server has room; free space there or keep metrics for fewer days ({text})",
            self.place()
        ))
    }
}

/// What lies at the bottom of an error: the outer layers only say "network error".
fn innermost(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn tls(config: &ClickHouseConfig) -> Result<ClientConfig, MetricsError> {
    let invalid = |what: String| MetricsError::Invalid(what);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(format!("TLS: {error}")))?;
    let builder = match &config.ca_file {
        // Nothing will be checked, and a machine may have no certificates at all.
        None if config.url.starts_with("http://") => builder.with_root_certificates(rustls::RootCertStore::empty()),
        None => builder.with_native_roots().map_err(|error| invalid(format!("the system's certificates: {error}")))?,
        Some(path) => {
            let named = |error: &dyn fmt::Display| invalid(format!("{}: {error}", path.display()));
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| named(&error))? {
                roots.add(certificate.map_err(|error| named(&error))?).map_err(|error| named(&error))?;
            }
            if roots.is_empty() {
                return Err(named(&"no certificate in it"));
            }
            builder.with_root_certificates(roots)
        }
    };
    Ok(builder.with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_tls_must_be_loopback() {
        let check = |url: &str| ClickHouseConfig::new(url, "breeze").check().is_ok();
        for good in ["http://127.0.0.1:8123", "http://localhost:1", "http://[::1]:8123", "https://clickhouse.eu:8443"] {
            assert!(check(good), "{good}");
        }
        for bad in ["http://10.0.0.1:8123", "http://localhost.evil.example", "tcp://127.0.0.1", "127.0.0.1:8123"] {
            assert!(!check(bad), "{bad}");
        }
        assert!(ClickHouseConfig::new("https://a", "b; DROP").check().is_err());
    }

    #[test]
    fn a_full_disk_is_said_in_words() {
        let connection = Connection::new(ClickHouseConfig::new("http://127.0.0.1:1", "breeze")).expect("valid");
        for answer in [
            "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)",
            "Code: 75. DB::ErrnoException: Cannot write: errno: 28, strerror: No space left on device. (X)",
        ] {
            let error = connection.explain_answer(answer);
            let said = error.to_string();
            assert!(matches!(error, MetricsError::Unavailable(_)) && !said.contains("0 bytes"), "{said}");
            assert!(said.contains("127.0.0.1:1/breeze: no disk") && said.contains("(Code: "), "{said}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let config = ClickHouseConfig { password: "hunter2".into(), ..ClickHouseConfig::new("https://a", "b") };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
