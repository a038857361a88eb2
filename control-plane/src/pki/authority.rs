//! What agents are told: relays and configuration, signed and versioned; and the answers to relays
//! who ask on an agent's behalf.

use crate::{
    api::time::now_s,
    keyring::sha256_hex,
    pki::{CertificateAuthority, Signer, csr, renewal::Renewals, revocation::Revocations},
};
use breeze_proto::{
    id::DeviceId,
    limits,
    trust::Role,
    v1::{
        AgentConfig, ChallengeReply, ChallengeRequest, DocumentsReply, DocumentsRequest, Relay, RelayCertificateReply,
        RelayCertificateRequest, RelayList, RenewCertificate, RenewReply, RevocationsRequest, RootDocument,
        SignedDocument, renew_reply,
    },
};
use breeze_store::{
    model::{
        Scope,
        device::{self, Standing},
        error::ModelError,
        relay::{self, RelayRecord},
        trust::{self, Knowledge},
    },
    state::State,
};
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message as _;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a relay's certificate is good. Relays renew it at half of that, and start from the one they
/// keep while the control plane is away.
pub const RELAY_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Attempts to sign the newest list while other nodes sign newer ones.
const MAX_ATTEMPTS: usize = 8;
/// A relay list is signed anew in each period of this length, and good for [`LIST_PERIODS`] of them.
const LIST_PERIOD: Duration = Duration::from_secs(7 * 24 * 3600);
const LIST_PERIODS: u64 = 13;
/// The longest that a device may be asked for a fast heartbeat without asking again.
pub const MAX_FAST: Duration = Duration::from_secs(300);

/// A document and its version.
#[derive(Debug, Clone)]
struct Current {
    version: u64,
    document: SignedDocument,
}

/// The authority over agents.
#[derive(Debug)]
pub struct Authority {
    pub(crate) state: Arc<dyn State>,
    pub(crate) ca: Arc<dyn CertificateAuthority>,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) renewals: Renewals,
    pub(crate) heartbeat_ms: u32,
    /// Home of devices of which no other was recorded.
    pub(crate) default_region: String,
    /// Of this process; beside those that are registered.
    relays: RwLock<Vec<Relay>>,
    current_relays: RwLock<Option<Current>>,
    /// Whether that list is not empty.
    names_relays: AtomicBool,
    config_version: RwLock<Option<u64>>,
}

impl Authority {
    pub(crate) const fn new(
        state: Arc<dyn State>,
        ca: Arc<dyn CertificateAuthority>,
        signer: Arc<dyn Signer>,
        revocations: Arc<Revocations>,
        renewals: Renewals,
        heartbeat_ms: u32,
        default_region: String,
    ) -> Self {
        Self {
            state,
            ca,
            signer,
            revocations,
            renewals,
            heartbeat_ms,
            default_region,
            relays: RwLock::new(Vec::new()),
            current_relays: RwLock::new(None),
            names_relays: AtomicBool::new(false),
            config_version: RwLock::new(None),
        }
    }

    #[must_use]
    pub fn ca(&self) -> &Arc<dyn CertificateAuthority> {
        &self.ca
    }

    /// Names the relays and signs what agents are told.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn set_relays(&self, relays: Vec<Relay>) -> anyhow::Result<()> {
        *self.relays.write() = relays;
        self.refresh().await
    }

    /// Signs the relay list, of this process's and all registered relays, and numbers the default
    /// configuration, where they changed or their period is over.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        // Where another node's clock is already in the next period, its list is ours too.
        for ahead in (0..MAX_ATTEMPTS).map(|attempt| u64::from(attempt % 2 == 1)) {
            if self.refresh_relays(ahead).await? {
                return self.refresh_config().await;
            }
        }
        anyhow::bail!("other nodes change the list of relays all the time")
    }

    /// Whether no other node knew of more.
    async fn refresh_relays(&self, periods_ahead: u64) -> anyhow::Result<bool> {
        let registry = relay::list(&*self.state).await?;
        let mut relays = self.relays.read().clone();
        relays.retain(|own| registry.relays.iter().all(|relay| relay.id != own.id));
        relays.extend(registry.relays.into_iter().map(|relay| Relay {
            id: relay.id,
            region: relay.region,
            quic: relay.quic,
            wss: relay.wss,
        }));
        let period = now_s() / LIST_PERIOD.as_secs() + periods_ahead;
        let mut list =
            RelayList { version: 0, expires_unix_s: (period + LIST_PERIODS) * LIST_PERIOD.as_secs(), relays };
        let hash = sha256_hex(&list.encode_to_vec());
        let known = Knowledge { made_of: registry.version, period };
        let Some(version) = trust::document_version(&*self.state, "relays", known, &hash).await? else {
            return Ok(false);
        };
        list.version = version;
        self.names_relays.store(!list.relays.is_empty(), Ordering::Relaxed);
        let document = self.signer.sign(Role::Relays, list.encode_to_vec().into())?;
        *self.current_relays.write() = Some(Current { version, document });
        Ok(true)
    }

    /// One version for the configurations of all regions, so that it rises whichever a device is moved to.
    async fn refresh_config(&self) -> anyhow::Result<()> {
        let hash = sha256_hex(&self.config(self.heartbeat_ms, "").encode_to_vec());
        let version = trust::document_version(&*self.state, "config", Knowledge::default(), &hash).await?;
        *self.config_version.write() = version;
        Ok(())
    }

    fn config(&self, heartbeat_interval_ms: u32, home_region: &str) -> AgentConfig {
        let detail = u32::try_from(limits::DEFAULT_DETAIL_INTERVAL.as_millis()).unwrap_or(u32::MAX);
        let home_region = if home_region.is_empty() { &self.default_region } else { home_region };
        AgentConfig {
            heartbeat_interval_ms,
            detail_interval_ms: detail,
            inventory_interval_ms: 12 * detail,
            home_region: home_region.to_owned(),
            ..AgentConfig::default()
        }
    }

    /// What every device of a region is told; none before it was numbered.
    fn default_config(&self, home_region: &str) -> anyhow::Result<Option<Current>> {
        let Some(version) = *self.config_version.read() else { return Ok(None) };
        let config = AgentConfig { version, ..self.config(self.heartbeat_ms, home_region) };
        let document = self.signer.sign(Role::Config, config.encode_to_vec().into())?;
        Ok(Some(Current { version, document }))
    }

    /// The heartbeat period that every agent has unless it is told otherwise, in milliseconds.
    #[must_use]
    pub const fn heartbeat_ms(&self) -> u32 {
        self.heartbeat_ms
    }

    /// A faster heartbeat for one device, for at most [`MAX_FAST`]. Its version is a time, far above
    /// those of the default, which is in force again when this one has expired.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn fast_config(
        &self,
        device: DeviceId,
        home_region: &str,
        interval: Duration,
        lasting: Duration,
    ) -> anyhow::Result<SignedDocument> {
        let interval = interval.clamp(limits::MIN_HEARTBEAT_INTERVAL, limits::MAX_HEARTBEAT_INTERVAL);
        let config = AgentConfig {
            version: crate::api::time::now_ms(),
            device_id: Bytes::copy_from_slice(&device.to_bytes()),
            expires_unix_s: now_s() + lasting.min(MAX_FAST).as_secs(),
            ..self.config(u32::try_from(interval.as_millis()).unwrap_or(u32::MAX), home_region)
        };
        self.signer.sign(Role::Config, config.encode_to_vec().into())
    }

    /// What a device that enrols is given; `None` while no relay is known. Over a relay it would hear of what
    /// changes, so one that came with a list of none would wait for ever: this node may not have looked into the
    /// registry since the first relay was registered.
    ///
    /// # Errors
    /// When the store refuses, or there is no key to sign with.
    pub async fn first_documents(&self, home_region: &str) -> anyhow::Result<Option<Vec<SignedDocument>>> {
        if !self.names_relays.load(Ordering::Relaxed) {
            self.refresh().await?;
            if !self.names_relays.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        let relays = self.current_relays.read().clone();
        let current = [relays, self.default_config(home_region)?];
        Ok(Some(current.into_iter().flatten().map(|current| current.document).collect()))
    }

    /// The newest root, and the authority's endorsement of it.
    ///
    /// # Errors
    /// When there is none, or it cannot be endorsed.
    pub fn endorsed_root(&self) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let root = self.signer.roots().pop().ok_or_else(|| anyhow::anyhow!("there is no root document"))?;
        let endorsement = self.ca.endorse(&root.payload)?;
        Ok((root.encode_to_vec(), endorsement))
    }

    /// Answers [`DocumentsRequest`].
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn documents_for(&self, request: &DocumentsRequest) -> anyhow::Result<DocumentsReply> {
        let Some(id) = DeviceId::from_slice(&request.device_id) else {
            return Ok(DocumentsReply { unknown_device: true, ..DocumentsReply::default() });
        };
        let seen = match device::find(&*self.state, &Scope::system("documents"), id).await {
            Ok(seen) => Some(seen).filter(|seen| seen.config().standing == Standing::Active),
            Err(ModelError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(seen) = seen else {
            return Ok(DocumentsReply { unknown_device: true, ..DocumentsReply::default() });
        };
        let relays = self.current_relays.read().clone();
        let config = self.default_config(&seen.config().home_region)?;
        let mut documents = Vec::new();
        // Whatever differs is sent: an agent may hold an expired configuration of its own, whose
        // version is higher.
        for (current, held) in [(relays, request.relay_list_version), (config, request.config_version)] {
            documents.extend(current.filter(|current| current.version != held).map(|current| current.document));
        }
        let roots = self
            .signer
            .roots()
            .into_iter()
            .filter(|root| {
                RootDocument::decode(root.payload.clone()).is_ok_and(|root| root.version > request.root_version)
            })
            .collect();
        Ok(DocumentsReply { documents, unknown_device: false, roots })
    }

    /// Answers a challenge request.
    #[must_use]
    pub fn challenge(&self, request: &ChallengeRequest) -> ChallengeReply {
        let challenge =
            DeviceId::from_slice(&request.device_id).map(|device| self.renewals.challenge(device)).unwrap_or_default();
        ChallengeReply { challenge }
    }

    /// Answers a renewal.
    pub async fn renew(&self, request: &RenewCertificate) -> RenewReply {
        match (DeviceId::from_slice(&request.device_id), &request.proof) {
            (Some(device), Some(proof)) => self.renewals.renew(device, proof).await,
            (Some(_) | None, _) => RenewReply {
                result: Some(renew_reply::Result::Refused("The request names no device or proof.".into())),
            },
        }
    }

    /// Answers a relay that asks for its server certificate: the bus says that it is `id`, the registry
    /// what it is called. What the request itself names counts for nothing.
    ///
    /// # Errors
    /// When the store refuses, or signing fails.
    pub async fn certify_relay(
        &self,
        id: &str,
        request: &RelayCertificateRequest,
    ) -> anyhow::Result<RelayCertificateReply> {
        let refused = |refusal: String| RelayCertificateReply { refusal, ..RelayCertificateReply::default() };
        let Some(relay) = relay::find(&*self.state, id).await? else {
            return Ok(refused(format!("no relay {id} is registered; register it with `breeze admin add-relay`")));
        };
        let key = match csr::check(&request.csr_der) {
            Ok(key) => key,
            Err(error) => return Ok(refused(format!("the certificate request {error}"))),
        };
        let Some(names) = names_of(&relay) else {
            return Ok(refused(format!(
                "the addresses registered for {id} ({}, {}) are not host:port; register it again with `breeze admin \
                 add-relay`",
                relay.quic, relay.wss
            )));
        };
        let issued = self.ca.certify_server(&format!("breeze:relay:{id}"), &names, &key, RELAY_LIFETIME)?;
        let roots = self.signer.roots();
        let newest = roots.last().ok_or_else(|| anyhow::anyhow!("there is no root document"))?;
        let ca_der = Bytes::copy_from_slice(self.ca.certificate_der());
        Ok(RelayCertificateReply {
            chain_der: vec![issued.der.into(), ca_der.clone()],
            ca_der,
            root_endorsement: self.ca.endorse(&newest.payload)?.into(),
            roots,
            refusal: String::new(),
        })
    }

    /// Answers a request for the revocation set.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn revocations(&self, request: &RevocationsRequest) -> anyhow::Result<Bytes> {
        self.revocations.snapshot(request).await
    }
}

/// Hosts of a relay's addresses, without brackets; `None` when one is no address.
fn names_of(relay: &RelayRecord) -> Option<Vec<String>> {
    let host = |address: &str| {
        let (host, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| host.to_owned())
    };
    let mut names = vec![host(&relay.quic)?, host(&relay.wss)?];
    names.dedup();
    Some(names)
}
