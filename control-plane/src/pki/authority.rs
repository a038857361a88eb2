//! What agents are told: relays and configuration, signed and versioned; and the answers to relays
//! who ask on an agent's behalf.

use crate::{
    api::time::now_s,
    keyring::sha256_hex,
    pki::{CertificateAuthority, Signer, renewal::Renewals, revocation::Revocations},
};
use breeze_proto::{
    id::DeviceId,
    limits,
    trust::Role,
    v1::{
        AgentConfig, ChallengeReply, ChallengeRequest, DocumentsReply, DocumentsRequest, Relay, RelayList,
        RenewCertificate, RenewReply, RevocationsRequest, RootDocument, SignedDocument, renew_reply,
    },
};
use breeze_store::{
    model::{
        Scope,
        device::{self, Standing},
        error::ModelError,
        trust,
    },
    state::State,
};
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message as _;
use std::{sync::Arc, time::Duration};

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
    relays: RwLock<Vec<Relay>>,
    current_relays: RwLock<Option<Current>>,
    current_config: RwLock<Option<Current>>,
}

impl Authority {
    pub(crate) const fn new(
        state: Arc<dyn State>,
        ca: Arc<dyn CertificateAuthority>,
        signer: Arc<dyn Signer>,
        revocations: Arc<Revocations>,
        renewals: Renewals,
        heartbeat_ms: u32,
    ) -> Self {
        Self {
            state,
            ca,
            signer,
            revocations,
            renewals,
            heartbeat_ms,
            relays: RwLock::new(Vec::new()),
            current_relays: RwLock::new(None),
            current_config: RwLock::new(None),
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

    /// Signs relay list and default configuration anew where they changed or their period is over.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        let period = now_s() / LIST_PERIOD.as_secs();
        let mut list = RelayList {
            version: 0,
            expires_unix_s: (period + LIST_PERIODS) * LIST_PERIOD.as_secs(),
            relays: self.relays.read().clone(),
        };
        let hash = sha256_hex(&list.encode_to_vec());
        list.version = trust::document_version(&*self.state, "relays", &hash).await?;
        let document = self.signer.sign(Role::Relays, list.encode_to_vec().into())?;
        *self.current_relays.write() = Some(Current { version: list.version, document });

        let mut config = self.config(self.heartbeat_ms);
        let hash = sha256_hex(&config.encode_to_vec());
        config.version = trust::document_version(&*self.state, "config", &hash).await?;
        let document = self.signer.sign(Role::Config, config.encode_to_vec().into())?;
        *self.current_config.write() = Some(Current { version: config.version, document });
        Ok(())
    }

    fn config(&self, heartbeat_interval_ms: u32) -> AgentConfig {
        let detail = u32::try_from(limits::DEFAULT_DETAIL_INTERVAL.as_millis()).unwrap_or(u32::MAX);
        AgentConfig {
            heartbeat_interval_ms,
            detail_interval_ms: detail,
            inventory_interval_ms: 12 * detail,
            ..AgentConfig::default()
        }
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
        interval: Duration,
        lasting: Duration,
    ) -> anyhow::Result<SignedDocument> {
        let interval = interval.clamp(limits::MIN_HEARTBEAT_INTERVAL, limits::MAX_HEARTBEAT_INTERVAL);
        let config = AgentConfig {
            version: crate::api::time::now_ms(),
            device_id: Bytes::copy_from_slice(&device.to_bytes()),
            expires_unix_s: now_s() + lasting.min(MAX_FAST).as_secs(),
            ..self.config(u32::try_from(interval.as_millis()).unwrap_or(u32::MAX))
        };
        self.signer.sign(Role::Config, config.encode_to_vec().into())
    }

    /// Relay list and default configuration, as a device gets them when it enrols.
    #[must_use]
    pub fn documents(&self) -> Vec<SignedDocument> {
        [&self.current_relays, &self.current_config]
            .into_iter()
            .filter_map(|current| current.read().as_ref().map(|current| current.document.clone()))
            .collect()
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
        let active = match device::find(&*self.state, &Scope::system("documents"), id).await {
            Ok(seen) => seen.config().standing == Standing::Active,
            Err(ModelError::NotFound(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if !active {
            return Ok(DocumentsReply { unknown_device: true, ..DocumentsReply::default() });
        }
        let mut documents = Vec::new();
        // Whatever differs is sent: an agent may hold an expired configuration of its own, whose
        // version is higher.
        for (current, held) in
            [(&self.current_relays, request.relay_list_version), (&self.current_config, request.config_version)]
        {
            if let Some(current) = current.read().as_ref().filter(|current| current.version != held) {
                documents.push(current.document.clone());
            }
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

    /// Answers a request for the revocation set.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn revocations(&self, request: &RevocationsRequest) -> anyhow::Result<Bytes> {
        self.revocations.snapshot(request).await
    }
}
