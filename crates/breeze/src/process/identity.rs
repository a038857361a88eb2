//! A relay's certificate: the key is made here and never leaves; the control plane certifies it, under
//! an authority that the configuration pins. Kept in the data folder, so that a relay starts while the
//! control plane is away; renewed at half life, and asked for daily, since the answer also brings new
//! root documents.

use super::wait::{Absence, until_there};
use crate::{config::private, files};
use anyhow::{Context as _, bail, ensure};
use arc_swap::ArcSwap;
use breeze_bus::{Bus, BusError};
use breeze_proto::{
    enroll::ROOT_ENDORSEMENT_PREFIX,
    subject,
    trust::Root,
    v1::{RelayCertificateReply, RelayCertificateRequest},
};
use breeze_relay::RelayIdentity;
use breeze_runtime::{
    ops::{Component, OpsState},
    shutdown::Shutdown,
    tls::{self, LiveIdentity},
};
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// How long the control plane may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest pause between two renewals: new root documents come with them.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);

/// The key, what certifies it, and where both lie.
pub(super) struct Identity {
    id: String,
    pin: [u8; 32],
    bus: Arc<dyn Bus>,
    key: KeyPair,
    path: PathBuf,
    live: LiveIdentity,
    held: Certified,
}

/// A checked answer of the control plane.
struct Certified {
    reply: RelayCertificateReply,
    root: Root,
    /// Seconds since the Unix epoch.
    from_s: u64,
    until_s: u64,
}

impl Identity {
    /// From the data folder, or from the control plane, which is waited for; `None` when the process is to
    /// stop.
    ///
    /// # Errors
    /// When files cannot be read or written, and when the control plane refuses for good.
    pub(super) async fn open(
        data: &Path,
        id: &str,
        pin: [u8; 32],
        bus: Arc<dyn Bus>,
        ops: &OpsState,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Self>> {
        let component = ops.component("certificate");
        let key = load_key(&data.join("server.key"))?;
        let path = data.join("certificate");
        let (held, useless) = match kept(&path, id, &pin, &key) {
            Ok(held) => (held, String::new()),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the certificate that was kept is of no use");
                (None, format!("; the one that was kept is of no use: {error:#}"))
            }
        };
        let held = match held {
            Some(held) => {
                component.ready();
                held
            }
            None => {
                let asked = until_there(&component, shutdown, async || {
                    ask(&*bus, id, &pin, &key).await.map_err(|absence| absence.with(&useless))
                });
                let Some(fresh) = asked.await? else { return Ok(None) };
                if let Err(error) = files::write_private(&path, &fresh.reply.encode_to_vec()) {
                    component.degraded(not_kept(&error));
                }
                fresh
            }
        };
        let live = LiveIdentity::new(held.identity(&key)).context("certificate and key do not belong together")?;
        Ok(Some(Self { id: id.to_owned(), pin, bus, key, path, live, held }))
    }

    /// What the relay shows and believes.
    pub(super) fn shown(&self) -> RelayIdentity {
        RelayIdentity {
            server: self.live.clone(),
            client_ca: vec![CertificateDer::from(self.held.reply.ca_der.to_vec())],
            root: Arc::new(ArcSwap::from_pointee(self.held.root.clone())),
        }
    }

    /// Renews until `stop`; what fails is tried again, and told.
    pub(super) async fn keep(mut self, root: Arc<ArcSwap<Root>>, component: Component, stop: CancellationToken) {
        let mut pause = self.held.pause(now_s());
        loop {
            let left_s = self.held.until_s as f64 - now_s() as f64;
            let name = format!("breeze:relay:{}", self.id);
            metrics::gauge!("breeze_certificate_expires_seconds", "certificate" => name).set(left_s);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            match self.renew(&root).await {
                Ok(()) => {
                    component.ready();
                    pause = self.held.pause(now_s()).max(RETRY);
                }
                Err(error) => {
                    let until = when(self.held.until_s);
                    if self.held.until_s <= now_s() {
                        component
                            .failing(format!("the server certificate ended {until} and is not renewed: {error:#}"));
                    } else {
                        component.degraded(format!("the server certificate (until {until}): {error:#}"));
                    }
                    metrics::counter!("breeze_certificate_refresh_failures_total").increment(1);
                    pause = RETRY;
                }
            }
        }
    }

    async fn renew(&mut self, root: &ArcSwap<Root>) -> anyhow::Result<()> {
        let fresh = match ask(&*self.bus, &self.id, &self.pin, &self.key).await {
            Ok(fresh) => fresh,
            Err(absence) => bail!("{}", absence.why()),
        };
        ensure!(
            fresh.root.document().version >= root.load().document().version,
            "the control plane showed an older root document than the one that is known"
        );
        self.live.replace(fresh.identity(&self.key))?;
        root.store(Arc::new(fresh.root.clone()));
        let bytes = fresh.reply.encode_to_vec();
        self.held = fresh;
        tracing::info!(until = when(self.held.until_s), "the server certificate was renewed");
        // Last: it works without, until the process ends.
        files::write_private(&self.path, &bytes).map_err(|error| anyhow::anyhow!(not_kept(&error)))
    }
}

fn not_kept(error: &anyhow::Error) -> String {
    format!("it is new, and not kept for the next start: {error:#}")
}

/// "2026-11-01T13:05:00Z", from seconds since the Unix epoch.
fn when(unix_s: u64) -> String {
    let time = i64::try_from(unix_s).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| unix_s.to_string(), |time| time.to_string())
}

impl Certified {
    fn identity(&self, key: &KeyPair) -> tls::Identity {
        tls::Identity {
            chain_der: self.reply.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect(),
            key_der: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// Until half of its life is over, or a day.
    fn pause(&self, now_s: u64) -> Duration {
        let half_s = self.from_s + (self.until_s - self.from_s) / 2;
        Duration::from_secs(half_s.saturating_sub(now_s)).min(LONGEST_PAUSE)
    }
}

fn load_key(path: &Path) -> anyhow::Result<KeyPair> {
    if !path.exists() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        files::write_private(path, &key.serialize_der())?;
        return Ok(key);
    }
    private(path)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(fs::read(path)?));
    KeyPair::from_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .with_context(|| format!("{} is not a P-256 key", path.display()))
}

/// What was kept and is still good.
fn kept(path: &Path, id: &str, pin: &[u8; 32], key: &KeyPair) -> anyhow::Result<Option<Certified>> {
    if !path.exists() {
        return Ok(None);
    }
    let reply = RelayCertificateReply::decode(fs::read(path)?.as_slice())?;
    let held = check(reply, id, pin, key)?;
    ensure!(now_s() < held.until_s, "it ended {}", when(held.until_s));
    Ok(Some(held))
}

/// Asks the control plane.
async fn ask(bus: &dyn Bus, id: &str, pin: &[u8; 32], key: &KeyPair) -> Result<Certified, Absence> {
    let csr = CertificateParams::default().serialize_request(key).map_err(|error| Absence::Unfit(error.to_string()))?;
    let request = RelayCertificateRequest { csr_der: csr.der().to_vec().into() };
    let answer = bus.request(&subject::ca_relay(id), request.encode_to_vec().into(), ANSWER_TIMEOUT).await;
    let answer = answer.map_err(|error| {
        if matches!(error, BusError::NoResponder(_)) {
            return Absence::Away(format!(
                "no control plane answers for the relay {id}: either none runs, or the relay is not registered \
                 (`breeze admin add-relay --id {id}`)"
            ));
        }
        Absence::from(error)
    })?;
    let reply = RelayCertificateReply::decode(answer).map_err(|error| Absence::Away(error.to_string()))?;
    if !reply.refusal.is_empty() {
        return Err(Absence::Unfit(format!("the control plane gives no certificate: {}", reply.refusal)));
    }
    let fresh = check(reply, id, pin, key);
    let fresh = fresh.map_err(|error| Absence::Unfit(format!("the answer is not accepted: {error:#}")))?;
    if !(fresh.from_s..fresh.until_s).contains(&now_s()) {
        return Err(Absence::Away(format!(
            "the control plane's certificate is for {} to {} and it is {} here: compare the clocks of both machines",
            when(fresh.from_s),
            when(fresh.until_s),
            when(now_s())
        )));
    }
    Ok(fresh)
}

/// The authority is the pinned one, the certificate its own, for this key and relay, and the root what the
/// authority endorsed.
fn check(reply: RelayCertificateReply, id: &str, pin: &[u8; 32], key: &KeyPair) -> anyhow::Result<Certified> {
    let parse = |der: &[u8], what: &str| -> anyhow::Result<()> {
        X509Certificate::from_der(der).with_context(|| format!("{what} does not parse")).map(|_| ())
    };
    let leaf_der = reply.chain_der.first().context("there is no certificate")?;
    parse(leaf_der, "the certificate")?;
    parse(&reply.ca_der, "the authority's certificate")?;
    let (_, authority) = X509Certificate::from_der(&reply.ca_der)?;
    let (_, leaf) = X509Certificate::from_der(leaf_der)?;
    let found: [u8; 32] = Sha256::digest(authority.public_key().raw).into();
    ensure!(
        found == *pin,
        "it comes from another authority ({}) than relay.instance_ca names; compare with `breeze admin instance-ca`",
        hex::encode(found)
    );
    leaf.verify_signature(Some(authority.public_key())).context("the authority did not sign the certificate")?;
    ensure!(leaf.public_key().raw == key.subject_public_key_info().as_slice(), "the certificate is of another key");
    let name = format!("URI(breeze:relay:{id})");
    let names = leaf.subject_alternative_name()?.context("the certificate has no names")?;
    ensure!(
        names.value.general_names.iter().any(|found| found.to_string() == name),
        "the certificate is not of the relay {id}"
    );

    let newest = reply.roots.last().context("there is no root document")?;
    let endorsed = [ROOT_ENDORSEMENT_PREFIX, &newest.payload].concat();
    let authority_key = &authority.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, authority_key)
        .verify(&endorsed, &reply.root_endorsement)
        .map_err(|_| anyhow::anyhow!("the authority did not endorse the root document"))?;
    let root = Root::accept_first(newest.clone(), now_s()).context("the root document is not accepted")?;
    ensure!(root.names_ca(pin), "the root document does not name the authority");
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = leaf.validity();
    let (from_s, until_s) = (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()));
    ensure!(from_s < until_s, "the certificate is never valid");
    Ok(Certified { reply, root, from_s, until_s })
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
