//! Enrolment: a key pair is made here, a request goes out, a certificate comes back. Everything in the
//! answer is checked against the hash in the enrolment key before anything of it is kept.

use crate::{
    VERSION,
    identity::{self, DeviceIdentity, DeviceKey, check_device_certificate},
    os::{OperatingSystem as _, System},
    pki::{self, Authorities},
    proxy::{ProxySettings, dial, is_loopback},
    state_dir::StateDir,
};
use anyhow::{Context as _, anyhow, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use breeze_agent_core::{Documents, State};
use breeze_proto::{
    enroll::{EnrollRequest, EnrollResponse, EnrollmentKey, ROOT_ENDORSEMENT_PREFIX},
    trust::Root,
    v1::{SignedDocument, SignedRoot},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::ServerName;
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

const PATH: &str = "/api/v1/agents/enroll";
const PENDING_FILE: &str = "enrolling.key";
const MAX_ANSWER_BYTES: usize = 256 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts while the server cannot be reached or is busy.
const ATTEMPTS: u32 = 6;
/// Between two questions whether somebody has approved.
const POLL_SECONDS: std::ops::RangeInclusive<u32> = 2..=300;

/// Where to enrol, checked.
#[derive(Debug, Clone)]
pub struct Server(Url);

impl Server {
    /// From `--server`.
    ///
    /// # Errors
    /// If it is not an `https` URL, or `http` to this machine.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let url = Url::parse(text).ok().filter(Url::has_host);
        let url = url.with_context(|| format!("{text:?} is not a URL such as https://breeze.example.com"))?;
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_loopback(url.host_str().unwrap_or_default()) => Ok(Self(url)),
            "http" => bail!("plain http:// is allowed to this machine only: use https:// for {text}"),
            other => bail!("--server takes https:// URLs, not {other}://"),
        }
    }
}

/// How one question ended.
enum Answer {
    Enrolled(Box<EnrollResponse>),
    Pending {
        retry_after_s: u32,
        device: String,
    },
    /// Nothing wrong with the request: worth another attempt.
    Busy(anyhow::Error),
}

/// Enrols this machine into `dir`; `tell` gets progress in words.
///
/// # Errors
/// In words: what the server said, or which check its answer did not pass.
pub async fn enroll(
    dir: &StateDir,
    server: &Server,
    key: &EnrollmentKey,
    proxy: &ProxySettings,
    mut tell: impl FnMut(&str),
) -> anyhow::Result<DeviceIdentity> {
    if let Some(identity) = DeviceIdentity::load(dir)? {
        bail!(
            "this machine is already enrolled as device {} at {}: run `breeze-agent unenroll` first",
            identity.device,
            identity.server
        );
    }
    let device_key = pending_key(dir)?;
    let request = request(key, &device_key)?;
    let mut failures = 0;
    let response = loop {
        match ask(server, key, proxy, &request).await? {
            Answer::Enrolled(response) => break *response,
            Answer::Pending { retry_after_s, device } => {
                let wait = retry_after_s.clamp(*POLL_SECONDS.start(), *POLL_SECONDS.end());
                tell(&format!(
                    "waiting for approval: somebody must approve device {device} in the dashboard; asking again in {wait} s"
                ));
                tokio::time::sleep(Duration::from_secs(wait.into())).await;
            }
            Answer::Busy(error) => {
                failures += 1;
                if failures >= ATTEMPTS {
                    return Err(error);
                }
                let wait = 1_u64 << failures;
                tell(&format!("{error:#}; trying again in {wait} s"));
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
        }
    };
    let (identity, state) = check(response, server, key, device_key)?;
    // The identity last: with it the machine is enrolled.
    identity::save_state(dir, &state)?;
    identity.save(dir)?;
    dir.remove(PENDING_FILE)?;
    Ok(identity)
}

/// The key of an enrolment that was begun: asking again with the same request gives the same device.
fn pending_key(dir: &StateDir) -> anyhow::Result<DeviceKey> {
    if let Some(bytes) = dir.read(PENDING_FILE)?
        && let Ok(key) = DeviceKey::from_bytes(bytes)
    {
        return Ok(key);
    }
    let key = DeviceKey::generate()?;
    dir.write(PENDING_FILE, key.secret_bytes())?;
    Ok(key)
}

fn request(key: &EnrollmentKey, device_key: &DeviceKey) -> anyhow::Result<EnrollRequest> {
    let system = System::default();
    let host = system.host_facts();
    Ok(EnrollRequest {
        key_id: key.id,
        secret: key.secret.clone(),
        csr: STANDARD.encode(device_key.request()?),
        hostname: host.hostname,
        os_type: host.os_type,
        os_version: host.os_version,
        os_build: host.os_build,
        architecture: host.architecture,
        agent_version: VERSION.to_owned(),
        serial_number: system.hardware().serial_number,
    })
}

async fn ask(
    server: &Server,
    key: &EnrollmentKey,
    proxy: &ProxySettings,
    request: &EnrollRequest,
) -> anyhow::Result<Answer> {
    let body = serde_json::to_vec(request)?;
    let sent = tokio::time::timeout(REQUEST_TIMEOUT, post(server, key, proxy, body)).await;
    let (status, body) = match sent.map_err(|_| anyhow!("the server does not answer")).flatten() {
        Ok(answer) => answer,
        Err(error) => return Ok(Answer::Busy(error.context(format!("cannot ask {}", server.0)))),
    };
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Ok(Answer::Busy(anyhow!("the server is busy ({status}): {}", problem(&body))));
    }
    if !status.is_success() {
        bail!("the server refused this enrolment: {}", problem(&body));
    }
    let response: EnrollResponse = serde_json::from_slice(&body)
        .with_context(|| format!("{} did not answer as a Breeze server does", server.0))?;
    Ok(match response {
        EnrollResponse::Pending { device_id, retry_after_s } => {
            Answer::Pending { retry_after_s, device: device_id.to_string() }
        }
        response @ EnrollResponse::Enrolled { .. } => Answer::Enrolled(Box::new(response)),
    })
}

/// The words of a problem document.
fn problem(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        #[serde(default)]
        title: String,
        #[serde(default)]
        detail: String,
    }
    // The title says what is wrong, the detail how to go on.
    let words = serde_json::from_slice::<Problem>(body).map(|problem| [problem.title, problem.detail]);
    let words = words.unwrap_or_default().into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(". ");
    let words = if words.is_empty() { "it gave no reason".into() } else { words };
    words.chars().filter(|c| !c.is_control()).take(300).collect()
}

async fn post(
    server: &Server,
    key: &EnrollmentKey,
    proxy: &ProxySettings,
    body: Vec<u8>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let url = &server.0;
    let host = url.host_str().context("the URL has no host")?;
    let port = url.port_or_known_default().context("the URL has no port")?;
    let stream = dial(host, port, proxy).await?;
    let request = Request::post(format!("{}{PATH}", url.path().trim_end_matches('/')))
        .header(header::HOST, if url.port().is_some() { format!("{host}:{port}") } else { host.to_owned() })
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("breeze-agent/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))?;
    if url.scheme() == "http" {
        return exchange(stream, request).await;
    }
    let authorities = Authorities { spki_sha256: vec![key.ca_spki_sha256], certificates: Vec::new() };
    let mut tls = pki::web_client(authorities)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.context(
        "its certificate is neither trusted by this system nor issued by the authority in the enrolment key",
    )?;
    exchange(stream, request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let talk = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|error| anyhow!("its answer broke off: {error}"))?.to_bytes()))
    };
    tokio::pin!(talk);
    tokio::select! {
        answer = &mut talk => answer,
        ended = connection => {
            ended?;
            talk.await
        }
    }
}

/// Believes an answer, or says what is wrong with it.
fn check(
    response: EnrollResponse,
    server: &Server,
    key: &EnrollmentKey,
    device_key: DeviceKey,
) -> anyhow::Result<(DeviceIdentity, State)> {
    let EnrollResponse::Enrolled { device_id, certificate, chain, root, root_endorsement, documents } = response else {
        bail!("the device is still pending");
    };
    let certificate = decode(&certificate)?;
    let chain = chain.iter().map(|der| decode(der)).collect::<anyhow::Result<Vec<_>>>()?;
    let authority = check_device_certificate(&certificate, &chain, device_id, &device_key)
        .context("the server's answer was not accepted")?;
    ensure!(
        authority == key.ca_spki_sha256,
        "the server's answer was not accepted: it does not come from the authority that the enrolment key names"
    );

    let signed_root = SignedRoot::decode(decode(&root)?.as_slice()).context("the root document does not decode")?;
    let mut endorsed = ROOT_ENDORSEMENT_PREFIX.to_vec();
    endorsed.extend_from_slice(&signed_root.payload);
    let authority_key = pki::read_certificate(chain.last().context("the chain is empty")?)?.public_key;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &authority_key)
        .verify(&endorsed, &decode(&root_endorsement)?)
        .map_err(|_| anyhow!("the root document is not endorsed by the authority that the enrolment key names"))?;

    let now = now_s();
    let root = Root::accept_first(signed_root, now).context("the root document was not accepted")?;
    ensure!(root.names_ca(&authority), "the root document does not name the authority");
    let mut held = Documents::new(device_id, root);
    for document in &documents {
        let document = SignedDocument::decode(decode(document)?.as_slice()).context("a document does not decode")?;
        held.accept(&document, now).with_context(|| format!("a {} document was not accepted", document.role))?;
    }
    ensure!(!held.relays().is_empty(), "the server named no relay");
    let identity = DeviceIdentity {
        device: device_id,
        server: server.0.to_string(),
        instance_nonce: rand::random(),
        machine: System::default().machine_fingerprint(),
        key: device_key,
        certificate,
        chain,
    };
    Ok((identity, held.to_state(None)))
}

fn decode(text: &str) -> anyhow::Result<Vec<u8>> {
    STANDARD.decode(text).context("the server's answer is not base64")
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_only_to_this_machine() {
        for good in ["https://breeze.example.com", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:1"] {
            assert!(Server::parse(good).is_ok(), "{good}");
        }
        for bad in ["http://breeze.example.com", "ftp://x", "breeze.example.com", "http://127.0.0.1.evil.com"] {
            assert!(Server::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn problems_are_told_in_the_servers_words_without_control_characters() {
        assert_eq!(
            problem(br#"{"title":"The key\u001b[31m has expired","detail":"Make one."}"#),
            "The key[31m has expired. Make one."
        );
        assert_eq!(problem(br#"{"title":"Busy"}"#), "Busy");
        assert_eq!(problem(b"<html>"), "it gave no reason");
    }
}
