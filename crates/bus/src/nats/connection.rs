//! The connection to the servers: who we are, whom we trust, what is known of its state, and the two
//! primitives that all else is made of (publish, ask).

use super::{
    HEADER_ROOM_BYTES, NatsConfig,
    replies::{Expected, Questions, Replies},
};
use crate::{BusError, MAX_PAYLOAD_BYTES};
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, ServerAddr, ServerError, rustls,
};
use bytes::Bytes;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// How long one server may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause before a server is tried again; doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(4);
/// Silence after which the server is asked whether it is there; lost after two unanswered.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long a message may wait to be handed to the connection.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Messages that wait to be written.
const OUTGOING_MESSAGES: usize = 4096;
/// Messages received for one subscription and not yet taken from it.
const INCOMING_MESSAGES: usize = 65_536;

/// A task that ends with its owner.
pub(crate) struct AbortOnDrop(pub(crate) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is known of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// Connections so far; a subscriber that sees another number may have missed something.
    pub(crate) number: u64,
}

pub(crate) struct Connection {
    client: Client,
    replies: Replies,
    link: watch::Receiver<Link>,
    servers: String,
}

impl Connection {
    pub(crate) async fn open(config: &NatsConfig) -> Result<Self, BusError> {
        let servers = config.servers.join(", ");
        let addresses = addresses(config)?;
        let (changed, mut link) = watch::channel(Link::default());
        let questions = Questions::default();
        let hook = Hook {
            servers: servers.clone(),
            name: config.client_name.clone(),
            region: config.region.clone(),
            changed,
            questions: questions.clone(),
        };
        let options = options(config, Arc::new(hook))?;
        let client = options.connect(addresses).await.map_err(|error| refused(&error, &servers))?;
        // The client tells in order: from here on the state follows its events.
        let told = timeout(CONNECT_TIMEOUT, link.wait_for(|link| link.up)).await.is_ok_and(|link| link.is_ok());
        if !told {
            return Err(BusError::Unavailable(format!("NATS at {servers}: the connection was lost at once")));
        }
        let max_payload = client.max_payload();
        if max_payload < MAX_PAYLOAD_BYTES + HEADER_ROOM_BYTES {
            return Err(BusError::Invalid(format!(
                "NATS at {servers} has max_payload {max_payload}; {} or more is needed",
                MAX_PAYLOAD_BYTES + HEADER_ROOM_BYTES
            )));
        }
        let replies = Replies::open(&client, questions).await?;
        let connection = Self { client, replies, link, servers };
        connection.barrier().await?;
        Ok(connection)
    }

    pub(crate) fn servers(&self) -> &str {
        &self.servers
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.link.borrow().up
    }

    pub(crate) async fn when(&self, up: bool) {
        let mut link = self.link.clone();
        // The sender lives as long as the client's callback does.
        let _closed = link.wait_for(|link| link.up == up).await;
    }

    fn check_up(&self) -> Result<(), BusError> {
        if self.is_up() {
            Ok(())
        } else {
            Err(BusError::Unavailable(format!("no connection to NATS at {}", self.servers)))
        }
    }

    pub(crate) async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        self.check_up()?;
        let published = timeout(HAND_OVER, self.client.publish(subject.to_owned(), payload)).await;
        self.handed_over(published.map(|result| result.map_err(|error| error.to_string())))
    }

    fn handed_over(&self, result: Result<Result<(), String>, tokio::time::error::Elapsed>) -> Result<(), BusError> {
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(BusError::Unavailable(format!("NATS at {}: {error}", self.servers))),
            Err(_) => Err(BusError::Unavailable(format!("NATS at {} does not keep up", self.servers))),
        }
    }

    /// Asks; the answers come one by one.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Expected, BusError> {
        self.check_up()?;
        let expected = self.replies.expect(subject)?;
        let (subject, inbox) = (subject.to_owned(), expected.inbox.clone());
        let published = match headers {
            Some(headers) => {
                let publishing = self.client.publish_with_reply_and_headers(subject, inbox, headers, payload);
                timeout(HAND_OVER, publishing).await
            }
            None => timeout(HAND_OVER, self.client.publish_with_reply(subject, inbox, payload)).await,
        };
        self.handed_over(published.map(|result| result.map_err(|error| error.to_string())))?;
        Ok(expected)
    }

    /// Resolves when the server has handled everything that was sent before: a subscription stands.
    pub(crate) async fn barrier(&self) -> Result<(), BusError> {
        let mut echo = self.replies.expect("")?;
        self.publish(&echo.inbox.clone(), Bytes::new()).await?;
        match timeout(CONNECT_TIMEOUT, echo.next()).await {
            Ok(Ok(Message { .. })) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BusError::Unavailable(format!("NATS at {} does not answer", self.servers))),
        }
    }
}

/// What the client tells of the connection.
struct Hook {
    servers: String,
    name: String,
    region: String,
    changed: watch::Sender<Link>,
    questions: Questions,
}

impl Hook {
    fn handle(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.changed.send_modify(|link| *link = Link { up: true, number: link.number + 1 });
                self.gauge(1.0);
                metrics::counter!("breeze_bus_connects_total").increment(1);
                tracing::info!(bus.servers = self.servers, bus.user = self.name, "connected to NATS");
            }
            Event::Disconnected | Event::Closed => {
                self.changed.send_modify(|link| link.up = false);
                self.questions.fail_all();
                self.gauge(0.0);
                tracing::warn!(bus.servers = self.servers, "the connection to NATS is lost; it is tried again");
            }
            Event::SlowConsumer(_) => {
                metrics::counter!("breeze_bus_slow_consumer_total").increment(1);
            }
            Event::ServerError(ServerError::Other(text)) => self.handle_server_error(text),
            Event::ServerError(error @ (ServerError::AuthorizationViolation | ServerError::SlowConsumer(_))) => {
                tracing::warn!(bus.servers = self.servers, %error, "NATS complains");
            }
            Event::ClientError(error) => {
                metrics::counter!("breeze_bus_connect_errors_total").increment(1);
                tracing::warn!(bus.servers = self.servers, bus.user = self.name, %error, "NATS does not take the connection");
            }
            Event::LameDuckMode | Event::Draining => {
                tracing::info!(bus.servers = self.servers, "the NATS server is stopping")
            }
        }
    }

    fn handle_server_error(&self, text: &str) {
        let denied = text.to_ascii_lowercase().contains("permissions violation");
        if !denied {
            tracing::warn!(bus.servers = self.servers, error = text, "NATS complains");
            return;
        }
        metrics::counter!("breeze_bus_denied_total").increment(1);
        tracing::warn!(bus.servers = self.servers, bus.user = self.name, error = text, "NATS does not permit this");
        // Permissions Violation for Publish to "subject"
        let quoted = text.split('"').nth(1);
        if let Some(subject) = quoted.filter(|_| text.to_ascii_lowercase().contains("publish to")) {
            self.questions.deny(subject);
        }
    }

    fn gauge(&self, up: f64) {
        metrics::gauge!("breeze_bus_connected", "region" => self.region.clone()).set(up);
    }
}

fn options(config: &NatsConfig, hook: Arc<Hook>) -> Result<ConnectOptions, BusError> {
    let mut options = ConnectOptions::new()
        .name(&config.client_name)
        .custom_inbox_prefix(format!("_INBOX.{}", config.client_name))
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .client_capacity(OUTGOING_MESSAGES)
        .subscription_capacity(INCOMING_MESSAGES)
        .max_reconnects(None)
        // Only the servers that were named: those that others name may not be in the certificate.
        .ignore_discovered_servers()
        .reconnect_delay_callback(pause)
        .event_callback(move |event| {
            let hook = hook.clone();
            async move { hook.handle(&event) }
        });
    if let Some(seed) = &config.nkey_seed {
        options = options.nkey(seed.reveal().to_owned());
    }
    if let Some(ca_file) = &config.ca_file {
        options = options.tls_client_config(tls(ca_file)?);
    }
    Ok(options)
}

/// Before the given attempt since the last connection: none, then doubling, each within half and one and a half.
fn pause(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LAST_PAUSE).mul_f64(0.5 + rand::random::<f64>())
}

fn addresses(config: &NatsConfig) -> Result<Vec<ServerAddr>, BusError> {
    let invalid = |text: String| Err(BusError::Invalid(text));
    if config.servers.is_empty() {
        return invalid("bus.servers: at least one is needed".to_owned());
    }
    let token = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if config.client_name.is_empty() || !config.client_name.chars().all(token) {
        return invalid(format!("client name {:?}: letters, digits and '-'", config.client_name));
    }
    let mut addresses = Vec::new();
    for server in &config.servers {
        // It is named in logs and errors, so no secret may be in it: this error does not show it either.
        if server.contains('@') {
            return invalid("bus.servers: an address holds no user; the seed is in bus.nkey_file".to_owned());
        }
        let address: ServerAddr = match server.parse() {
            Ok(address) => address,
            Err(error) => return invalid(format!("bus.servers: {server:?}: {error}")),
        };
        let host = address.host().trim_matches(['[', ']']).to_owned();
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if address.tls_required() && config.ca_file.is_none() {
            return invalid(format!("bus.ca_file is needed for {server}"));
        }
        let plain = server.starts_with("nats://") && loopback;
        if !address.tls_required() && !plain {
            return invalid(format!("bus.servers: {server:?}: tls://, or nats:// to a loopback address"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn tls(ca_file: &Path) -> Result<rustls::ClientConfig, BusError> {
    let invalid = |error: String| BusError::Invalid(format!("bus.ca_file {}: {error}", ca_file.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| invalid(error.to_string()))? {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| invalid(error.to_string()))?.with_root_certificates(roots).with_no_client_auth())
}

/// The first connection was not made: where and why.
fn refused(error: &async_nats::ConnectError, servers: &str) -> BusError {
    BusError::Unavailable(match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            format!("NATS at {servers} does not accept these credentials (bus.nkey_file)")
        }
        ConnectErrorKind::Tls => format!("NATS at {servers}: TLS: {error}"),
        ConnectErrorKind::Dns => format!("NATS at {servers}: the name is not known: {error}"),
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => format!("NATS at {servers} is not reachable: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(server: &str, ca_file: Option<&str>) -> NatsConfig {
        NatsConfig {
            servers: vec![server.to_owned()],
            domain: "eu".to_owned(),
            region: "eu".to_owned(),
            nkey_seed: None,
            ca_file: ca_file.map(Into::into),
            client_name: "relay-1".to_owned(),
        }
    }

    #[test]
    fn plain_text_goes_to_loopback_only() {
        for (server, ca_file, good) in [
            ("nats://127.0.0.1:4222", None, true),
            ("nats://localhost:4222", None, true),
            ("nats://[::1]:4222", None, true),
            ("nats://10.0.0.1:4222", None, false),
            ("nats://localhost.example:4222", None, false),
            ("10.0.0.1:4222", None, false),
            ("tls://nats.eu:4222", None, false),
            ("tls://nats.eu:4222", Some("ca.pem"), true),
            ("http://127.0.0.1:4222", None, false),
            ("nats://secret@127.0.0.1:4222", None, false),
        ] {
            assert_eq!(addresses(&config(server, ca_file)).is_ok(), good, "{server}");
        }
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!(pause(1), Duration::ZERO);
        for attempt in 2..200 {
            let pause = pause(attempt);
            assert!(pause >= FIRST_PAUSE / 2 && pause < LAST_PAUSE.mul_f64(1.5), "{attempt}: {pause:?}");
        }
    }
}
