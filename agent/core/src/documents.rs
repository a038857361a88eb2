//! Signed documents that the agent lives by: the root, the relay list, and configurations. They are
//! believed because of who signed them; a relay only carries them.

use crate::command::State;
use breeze_proto::{
    id::DeviceId,
    limits::{DEFAULT_DETAIL_INTERVAL, DEFAULT_HEARTBEAT_INTERVAL, MAX_HEARTBEAT_INTERVAL, MIN_HEARTBEAT_INTERVAL},
    trust::{Role, Root, TrustError},
    v1::{AgentConfig, Relay, RelayList, RevocationNotice, SignedDocument, SignedRoot},
};
use prost::Message as _;

/// Configurations that are kept beside each other; the lowest versions fall out first.
const MAX_CONFIGS: usize = 8;
/// Relays that are taken from a list.
const MAX_RELAYS: usize = 256;
/// How often inventory is looked at unless told otherwise, in milliseconds.
const DEFAULT_INVENTORY_INTERVAL_MS: u32 = 15 * 60 * 1000;

/// Why a document was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentsError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the document is for another device")]
    OtherDevice,
    #[error("version {offered} is not above the version {held} that is held")]
    OldVersion { held: u64, offered: u64 },
    #[error("the document has expired")]
    Expired,
    #[error("documents of role {0:?} are not for agents")]
    UnexpectedRole(String),
    #[error("the kept state has no root document")]
    NoRoot,
}

/// The periods in force, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    pub heartbeat_ms: u32,
    pub detail_ms: u32,
    pub inventory_ms: u32,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            heartbeat_ms: DEFAULT_HEARTBEAT_INTERVAL.as_millis() as u32,
            detail_ms: DEFAULT_DETAIL_INTERVAL.as_millis() as u32,
            inventory_ms: DEFAULT_INVENTORY_INTERVAL_MS,
        }
    }
}

/// A believed document beside the form in which it is kept.
#[derive(Debug, Clone)]
struct Held<T> {
    content: T,
    signed: SignedDocument,
}

/// The documents that are held.
#[derive(Debug, Clone)]
pub struct Documents {
    device: DeviceId,
    root: Root,
    relays: Option<Held<RelayList>>,
    /// Sorted by version, highest first.
    configs: Vec<Held<AgentConfig>>,
}

impl Documents {
    #[must_use]
    pub const fn new(device: DeviceId, root: Root) -> Self {
        Self { device, root, relays: None, configs: Vec::new() }
    }

    /// From what was kept. Its documents were believed once and are only decoded and checked for their
    /// signatures: what has expired since is left out where it matters, not here.
    ///
    /// # Errors
    /// [`DocumentsError`] if there is no usable root.
    pub fn from_state(device: DeviceId, state: &State) -> Result<Self, DocumentsError> {
        let root = Root::accept_first(state.root.clone().ok_or(DocumentsError::NoRoot)?, 0)?;
        let mut documents = Self::new(device, root);
        for document in &state.documents {
            // One that is no longer understood is fetched again.
            let _ = documents.accept(document, 0);
        }
        Ok(documents)
    }

    #[must_use]
    pub fn to_state(&self, revoked: Option<SignedDocument>) -> State {
        let relays = self.relays.iter().map(|held| &held.signed);
        State {
            root: Some(self.root.signed().clone()),
            documents: relays.chain(self.configs.iter().map(|held| &held.signed)).cloned().collect(),
            revoked,
        }
    }

    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// In the order of the list.
    #[must_use]
    pub fn relays(&self) -> &[Relay] {
        self.relays.as_ref().map_or(&[], |held| &held.content.relays)
    }

    #[must_use]
    pub fn relay_list_version(&self) -> u64 {
        self.relays.as_ref().map_or(0, |held| held.content.version)
    }

    /// Of the highest unexpired configuration.
    #[must_use]
    pub fn config_version(&self, now_unix_s: u64) -> u64 {
        self.active(now_unix_s).map_or(0, |config| config.version)
    }

    /// Where the device belongs, by the newest configuration that says so: it stays so when that has
    /// expired. Empty: not told yet.
    #[must_use]
    pub fn home_region(&self) -> &str {
        self.configs.iter().map(|held| held.content.home_region.as_str()).find(|home| !home.is_empty()).unwrap_or("")
    }

    #[must_use]
    pub fn intervals(&self, now_unix_s: u64) -> Intervals {
        let default = Intervals::default();
        let Some(config) = self.active(now_unix_s) else { return default };
        let or = |value: u32, default: u32, low: u128, high: u128| match value {
            0 => default,
            value => (u128::from(value)).clamp(low, high) as u32,
        };
        let (low, high) = (MIN_HEARTBEAT_INTERVAL.as_millis(), MAX_HEARTBEAT_INTERVAL.as_millis());
        Intervals {
            heartbeat_ms: or(config.heartbeat_interval_ms, default.heartbeat_ms, low, high),
            detail_ms: or(config.detail_interval_ms, default.detail_ms, low, 24 * high),
            inventory_ms: or(config.inventory_interval_ms, default.inventory_ms, 10 * low, 168 * high),
        }
    }

    /// When the intervals may change by themselves, in seconds since the epoch.
    #[must_use]
    pub fn next_expiry(&self, now_unix_s: u64) -> Option<u64> {
        self.active(now_unix_s).map(|config| config.expires_unix_s).filter(|expires| *expires > 0)
    }

    /// Takes a document of role "config" or "relays". `true` if it changed what is held.
    ///
    /// # Errors
    /// [`DocumentsError`] says why it is not believed or not for us.
    pub fn accept(&mut self, document: &SignedDocument, now_unix_s: u64) -> Result<bool, DocumentsError> {
        if document.role == Role::Config.name() {
            let config: AgentConfig = self.root.open(Role::Config, document, now_unix_s)?;
            return self.accept_config(config, document, now_unix_s);
        }
        if document.role == Role::Relays.name() {
            let list: RelayList = self.root.open(Role::Relays, document, now_unix_s)?;
            return self.accept_relays(list, document, now_unix_s);
        }
        Err(DocumentsError::UnexpectedRole(document.role.chars().take(32).collect()))
    }

    fn accept_config(
        &mut self,
        config: AgentConfig,
        document: &SignedDocument,
        now_unix_s: u64,
    ) -> Result<bool, DocumentsError> {
        if !config.device_id.is_empty() && config.device_id.as_ref() != self.device.to_bytes() {
            return Err(DocumentsError::OtherDevice);
        }
        if expired(config.expires_unix_s, now_unix_s) {
            return Err(DocumentsError::Expired);
        }
        if self.configs.iter().any(|held| held.content.version == config.version) {
            return Ok(false);
        }
        self.configs.push(Held { content: config, signed: document.clone() });
        self.configs.sort_by_key(|held| std::cmp::Reverse(held.content.version));
        self.configs.retain(|held| !expired(held.content.expires_unix_s, now_unix_s));
        // Below one that never expires nothing can come into force again.
        let lasting = self.configs.iter().position(|held| held.content.expires_unix_s == 0);
        self.configs.truncate(lasting.map_or(MAX_CONFIGS, |at| (at + 1).min(MAX_CONFIGS)));
        Ok(self.configs.iter().any(|held| held.signed == *document))
    }

    fn accept_relays(
        &mut self,
        mut list: RelayList,
        document: &SignedDocument,
        now_unix_s: u64,
    ) -> Result<bool, DocumentsError> {
        let held = self.relay_list_version();
        if list.version == held {
            return Ok(false);
        }
        if list.version < held {
            return Err(DocumentsError::OldVersion { held, offered: list.version });
        }
        if expired(list.expires_unix_s, now_unix_s) {
            return Err(DocumentsError::Expired);
        }
        list.relays.truncate(MAX_RELAYS);
        self.relays = Some(Held { content: list, signed: document.clone() });
        Ok(true)
    }

    /// Takes the root's successor.
    ///
    /// # Errors
    /// [`TrustError`], also for a version that does not follow.
    pub fn accept_root(&mut self, signed: SignedRoot, now_unix_s: u64) -> Result<(), DocumentsError> {
        self.root = self.root.accept_next(signed, now_unix_s)?;
        Ok(())
    }

    /// Whether `proof` really says that this device was revoked.
    ///
    /// # Errors
    /// [`DocumentsError`] says why it is not believed.
    pub fn check_revocation(
        &self,
        proof: &SignedDocument,
        now_unix_s: u64,
    ) -> Result<RevocationNotice, DocumentsError> {
        let notice: RevocationNotice = self.root.open(Role::Revocations, proof, now_unix_s)?;
        if notice.device_id.as_ref() == self.device.to_bytes() { Ok(notice) } else { Err(DocumentsError::OtherDevice) }
    }

    fn active(&self, now_unix_s: u64) -> Option<&AgentConfig> {
        self.configs.iter().map(|held| &held.content).find(|config| !expired(config.expires_unix_s, now_unix_s))
    }
}

const fn expired(expires_unix_s: u64, now_unix_s: u64) -> bool {
    expires_unix_s > 0 && expires_unix_s <= now_unix_s
}

/// The content of a proof that was checked before it was kept.
pub(crate) fn revocation_reason(proof: &SignedDocument) -> String {
    RevocationNotice::decode(proof.payload.clone()).map(|notice| notice.reason).unwrap_or_default()
}
