//! What people decide about a device: its tenant, names, tags, and whether it may take part. What
//! the device says of itself is the collector's. Every change goes to the directory stream.

use super::{
    Scope,
    audit::Intent,
    error::ModelError,
    index::{self, IndexWrite},
    record::{self, MAX_ATTEMPTS, Versioned},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, OutboxItem, Serial, State};
use breeze_proto::id::{DeviceId, EnrollmentKeyId, OrgId, PartnerId, SiteId};
use serde::{Deserialize, Serialize};

/// Partition: the device's id, 16 bytes.
pub const DEVICES: CommitTable = CommitTable::new("devices", Family::Config, Serial::Local);
/// The one row of a device; a [`DeviceConfig`].
pub const CONFIG: &[u8] = b"config";
/// Outbox topic: the device's record goes to the directory stream. The payload is the record.
pub const DIRECTORY_TOPIC: &str = "directory";
/// Outbox topic: the device (16 bytes) and why (text) go to the revocation set.
pub const REVOKE_TOPIC: &str = "revoke";
/// Tags of one device.
pub const MAX_TAGS: usize = 32;
/// Characters of one tag.
pub const MAX_TAG_CHARS: usize = 64;
/// Characters of a display name.
pub const MAX_NAME_CHARS: usize = 128;

/// Whether a device takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Asked, and waits for a person. It gets nothing.
    Pending,
    Active,
    /// A person refused it.
    Rejected,
    /// Was active; revoked for ever.
    Decommissioned,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    pub id: DeviceId,
    pub partner_id: PartnerId,
    pub org_id: OrgId,
    pub site_id: SiteId,
    pub standing: Standing,
    pub display_name: Option<String>,
    pub tags: Vec<String>,
    pub enrolled_by: EnrollmentKeyId,
    pub enrollment_key_name: String,
    /// When it was admitted; for a pending device, when it asked.
    pub enrolled_ms: u64,
    pub created_ms: u64,
    pub updated_ms: u64,
    /// As the enrolment request said, until the device reports itself.
    pub enrolled: EnrolledFacts,
    /// The address that the request came from.
    pub enrolled_address: String,
    /// SHA-256 over the DER public key of the first certificate request, hex.
    pub first_key_sha256: String,
    /// Public keys (DER SPKI, hex) that may prove a renewal: the newest certificate's, and the one that
    /// proved it, since the reply that carried the newest may have been lost.
    pub keys: Vec<String>,
    /// Of the newest certificate.
    pub certificate_expires_ms: u64,
    /// Region whose collectors keep it; empty for one that enrolled before there were several: then it is
    /// the control plane's default.
    #[serde(default)]
    pub home_region: String,
}

/// What a device said about itself when it enrolled. Text of a stranger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledFacts {
    pub hostname: String,
    pub os_type: String,
    pub os_version: String,
    pub os_build: String,
    pub architecture: String,
    pub agent_version: String,
    pub serial_number: String,
}

/// A change by a person. `None` leaves a field alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChange {
    pub display_name: Option<Option<String>>,
    pub tags: Option<Vec<String>>,
    /// With its organization, which the caller has looked up in its own scope.
    pub site: Option<(OrgId, SiteId)>,
}

/// A device that the caller may see, as read: what changes demand, so that none is made unseen.
#[derive(Debug, Clone)]
pub struct Seen(Versioned<DeviceConfig>);

impl Seen {
    #[must_use]
    pub const fn config(&self) -> &DeviceConfig {
        &self.0.value
    }

    #[must_use]
    pub const fn version(&self) -> u64 {
        self.0.version
    }
}

/// Waiting devices of an organization.
fn pending_list(organization: OrgId) -> String {
    format!("org/{organization}/pending-devices")
}

fn pending_key(device: &DeviceConfig) -> String {
    device.id.to_string()
}

fn items(device: &DeviceConfig) -> Vec<OutboxItem> {
    let list = pending_list(device.org_id);
    let row = if device.standing == Standing::Pending {
        IndexWrite::put(list, pending_key(device), "")
    } else {
        IndexWrite::remove(list, pending_key(device))
    };
    vec![OutboxItem { topic: DIRECTORY_TOPIC, payload: record::encode(device) }, index::item(&[row])]
}

/// Decodes a record as it is stored and as the directory stream carries it.
///
/// # Errors
/// [`ModelError::Corrupt`].
pub fn decode(bytes: &[u8]) -> Result<DeviceConfig, ModelError> {
    record::decode(bytes)
}

/// A device, for a look or an action.
///
/// # Errors
/// [`ModelError::NotFound`] also outside the scope.
pub async fn find(state: &dyn State, scope: &Scope, id: DeviceId) -> Result<Seen, ModelError> {
    record::read::<DeviceConfig>(state, DEVICES, &id.to_bytes(), CONFIG)
        .await?
        .filter(|found| scope.allows(found.value.org_id, found.value.site_id))
        .map(Seen)
        .ok_or(ModelError::NotFound("device"))
}

/// Makes a device, or finds the one that the same request made before. The caller delivers the
/// partition's outbox.
///
/// # Errors
/// The store's.
pub async fn create(state: &dyn State, device: &DeviceConfig, intent: &Intent) -> Result<DeviceConfig, ModelError> {
    let mut commit = Commit::new(DEVICES, device.id.to_bytes().to_vec())
        .assert(Assert::Absent(CONFIG.into()))
        .put(CONFIG, record::encode(device));
    commit.outbox = items(device);
    commit.outbox.push(intent.item());
    match state.commit(commit).await? {
        CommitOutcome::Applied { .. } => Ok(device.clone()),
        CommitOutcome::Conflict { rows, .. } => match rows.first() {
            Some(row) => decode(&row.value),
            None => Err(record::contended()),
        },
    }
}

/// Changes what `seen` showed; [`ModelError::Version`] if that is no longer so. The caller delivers
/// the partition's outbox.
///
/// # Errors
/// As said, and [`ModelError::Conflict`] for a device that is not active.
pub async fn update(
    state: &dyn State,
    seen: &Seen,
    change: DeviceChange,
    intent: &Intent,
    now_ms: u64,
) -> Result<Seen, ModelError> {
    let mut device = seen.config().clone();
    if device.standing != Standing::Active {
        return Err(ModelError::Conflict(
            "The device is not active: it waits for approval or is decommissioned.".into(),
        ));
    }
    if let Some(display_name) = change.display_name {
        device.display_name = display_name;
    }
    if let Some(tags) = change.tags {
        device.tags = tags;
    }
    if let Some((org_id, site_id)) = change.site {
        (device.org_id, device.site_id) = (org_id, site_id);
    }
    put(state, seen, device, Vec::new(), vec![intent.item()], now_ms).await
}

/// Ends a device for good: its record says so, and the revocation goes out with the same commit. The
/// caller delivers the partition's outbox.
///
/// # Errors
/// [`ModelError::Version`] if the device changed since it was seen.
pub async fn decommission(
    state: &dyn State,
    seen: &Seen,
    reason: &str,
    intent: &Intent,
    now_ms: u64,
) -> Result<Seen, ModelError> {
    let mut device = seen.config().clone();
    device.standing = Standing::Decommissioned;
    let mut revoke = device.id.to_bytes().to_vec();
    revoke.extend_from_slice(reason.as_bytes());
    let revoke = OutboxItem { topic: REVOKE_TOPIC, payload: revoke.into() };
    put(state, seen, device, vec![revoke], vec![intent.item()], now_ms).await
}

/// A person's answer to a pending device.
///
/// # Errors
/// [`ModelError::Conflict`] if it is not pending, [`ModelError::Version`] if it changed.
pub async fn decide(
    state: &dyn State,
    seen: &Seen,
    admit: bool,
    intent: &Intent,
    now_ms: u64,
) -> Result<Seen, ModelError> {
    let mut device = seen.config().clone();
    if device.standing != Standing::Pending {
        return Err(ModelError::Conflict("The device does not wait for approval any more.".into()));
    }
    device.standing = if admit { Standing::Active } else { Standing::Rejected };
    device.enrolled_ms = now_ms;
    put(state, seen, device, Vec::new(), vec![intent.item()], now_ms).await
}

/// Records a certificate that is about to be handed out, so that its key can prove a renewal. `proven`
/// is the key (hex) that the device has just shown to hold: it stays, for the reply may be lost, however
/// often; keys of replies that were lost before go. `intent`: the entry of a renewal.
///
/// # Errors
/// The store's; [`ModelError::Conflict`] unless the device is active and `proven` still one of its keys.
pub async fn record_certificate(
    state: &dyn State,
    id: DeviceId,
    public_key_hex: &str,
    proven: &str,
    expires_ms: u64,
    intent: Option<&Intent>,
    now_ms: u64,
) -> Result<(), ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let seen = find(state, &Scope::system("issue of a certificate"), id).await?;
        let mut device = seen.config().clone();
        if device.standing != Standing::Active {
            return Err(ModelError::Conflict("The device is not active.".into()));
        }
        if !device.keys.iter().any(|key| key == proven) {
            return Err(ModelError::Conflict("The device's key has changed meanwhile.".into()));
        }
        if proven != public_key_hex {
            device.keys = vec![public_key_hex.to_owned(), proven.to_owned()];
        }
        device.certificate_expires_ms = expires_ms;
        match put(state, &seen, device, Vec::new(), intent.map(Intent::item).into_iter().collect(), now_ms).await {
            Ok(_) => return Ok(()),
            Err(ModelError::Version) => {}
            Err(error) => return Err(error),
        }
    }
    Err(record::contended())
}

/// `first` and `last`: what is delivered before and after the record's own items. An item that fails
/// holds back those behind it, so what must not wait for a stream comes first.
async fn put(
    state: &dyn State,
    seen: &Seen,
    mut device: DeviceConfig,
    first: Vec<OutboxItem>,
    last: Vec<OutboxItem>,
    now_ms: u64,
) -> Result<Seen, ModelError> {
    device.updated_ms = now_ms;
    let mut commit = Commit::new(DEVICES, device.id.to_bytes().to_vec())
        .assert(Assert::Version(CONFIG.into(), seen.version()))
        .put(CONFIG, record::encode(&device));
    commit.outbox = first;
    commit.outbox.extend(items(&device));
    commit.outbox.extend(last);
    match state.commit(commit).await? {
        CommitOutcome::Applied { version } => Ok(Seen(Versioned { version, value: device })),
        CommitOutcome::Conflict { .. } => Err(ModelError::Version),
    }
}

/// Pending devices of an organization after `after`, oldest first, and how many there are in all.
///
/// # Errors
/// [`ModelError::NotFound`] outside the scope.
pub async fn pending(
    state: &dyn State,
    scope: &Scope,
    organization: OrgId,
    after: Option<DeviceId>,
    limit: usize,
) -> Result<(Vec<DeviceConfig>, u64), ModelError> {
    if !scope.sees_organization(organization) {
        return Err(ModelError::NotFound("organization"));
    }
    let list = pending_list(organization);
    let after = after.map(|id| id.to_string());
    let mut devices = Vec::new();
    for row in index::page(state, &list, after.as_deref(), false, limit).await? {
        let Some(id) = std::str::from_utf8(&row.key).ok().and_then(|text| text.parse().ok()) else { continue };
        match find(state, scope, id).await {
            Ok(seen) => devices.push(seen.0.value),
            Err(ModelError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((devices, index::count(state, &list).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::audit::Entry, state::memory::MemoryState};

    fn intent() -> Intent {
        Intent::new(Entry::by_system("test", 1))
    }

    fn device() -> DeviceConfig {
        DeviceConfig {
            id: DeviceId::generate(),
            partner_id: PartnerId::generate(),
            org_id: OrgId::generate(),
            site_id: SiteId::generate(),
            standing: Standing::Active,
            display_name: None,
            tags: Vec::new(),
            enrolled_by: EnrollmentKeyId::generate(),
            enrollment_key_name: String::new(),
            enrolled_ms: 1,
            created_ms: 1,
            updated_ms: 1,
            enrolled: EnrolledFacts::default(),
            enrolled_address: String::new(),
            first_key_sha256: String::new(),
            keys: vec!["a".into()],
            certificate_expires_ms: 1,
            home_region: String::new(),
        }
    }

    #[tokio::test]
    async fn a_revocation_waits_for_nothing_else_of_its_commit() {
        let state = MemoryState::new();
        let device = create(&state, &device(), &intent()).await.expect("creates");
        let partition = device.id.to_bytes();
        let made = state.outbox(DEVICES, &partition, 100).await.expect("reads");
        state.outbox_delivered(DEVICES, &partition, made.last().expect("items").position).await.expect("delivers");
        let seen = find(&state, &Scope::system("test"), device.id).await.expect("there");
        decommission(&state, &seen, "sold", &intent(), 2).await.expect("decommissions");
        let left = state.outbox(DEVICES, &partition, 100).await.expect("reads");
        let topics: Vec<&str> = left.iter().map(|item| item.topic.as_ref()).collect();
        assert_eq!(topics[0], REVOKE_TOPIC);
        assert!(topics.contains(&DIRECTORY_TOPIC));
    }

    #[tokio::test]
    async fn the_key_that_proved_a_renewal_stays_however_many_replies_are_lost() {
        let state = MemoryState::new();
        let id = create(&state, &device(), &intent()).await.expect("creates").id;
        for (new, proven, keys) in
            [("b", "a", ["b", "a"]), ("c", "a", ["c", "a"]), ("a", "a", ["c", "a"]), ("d", "c", ["d", "c"])]
        {
            record_certificate(&state, id, new, proven, 5, None, 3).await.expect("records");
            let seen = find(&state, &Scope::system("test"), id).await.expect("there");
            assert_eq!(seen.config().keys, keys);
        }
        let gone = record_certificate(&state, id, "e", "a", 5, None, 3).await;
        assert!(matches!(gone, Err(ModelError::Conflict(_))));
    }
}
