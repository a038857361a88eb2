//! Enrolment keys. How often one was used is part of its record, and a device's use is a row beside
//! it that is made in the same commit: so a limit holds however many ask at once, and a device that
//! asks again does not use the key twice.

use super::{
    Scope,
    audit::Intent,
    error::ModelError,
    index::{self, IndexWrite},
    record::{self, MAX_ATTEMPTS, Versioned},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, Serial, State, Table};
use breeze_proto::id::{DeviceId, EnrollmentKeyId, OrgId, PartnerId, SiteId, UserId};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

pub const KEYS: CommitTable = CommitTable::new("enrollment_keys", Family::Config, Serial::Local);
const RECORD: &[u8] = b"record";
const ANSWER: &[u8] = b"answer";

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentKeyRecord {
    pub id: EnrollmentKeyId,
    pub partner_id: PartnerId,
    pub org_id: OrgId,
    pub site_id: SiteId,
    pub name: String,
    /// SHA-256 of the secret's text, hex.
    pub secret_sha256: String,
    pub created_ms: u64,
    pub created_by: Option<UserId>,
    pub created_by_name: String,
    pub expires_ms: Option<u64>,
    pub max_uses: Option<u64>,
    pub uses: u64,
    pub requires_approval: bool,
    pub revoked_ms: Option<u64>,
    /// Home region of its devices; the control plane's default unless given.
    #[serde(default)]
    pub region: Option<String>,
}

/// Whether a key admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    Active,
    Expired,
    UsedUp,
    Revoked,
}

impl EnrollmentKeyRecord {
    fn has_secret(&self, secret_sha256: &str) -> bool {
        self.secret_sha256.as_bytes().ct_eq(secret_sha256.as_bytes()).into()
    }

    #[must_use]
    pub fn state(&self, now_ms: u64) -> KeyState {
        if self.revoked_ms.is_some() {
            KeyState::Revoked
        } else if self.expires_ms.is_some_and(|expires| now_ms >= expires) {
            KeyState::Expired
        } else if self.max_uses.is_some_and(|max| self.uses >= max) {
            KeyState::UsedUp
        } else {
            KeyState::Active
        }
    }
}

/// What a request said and was answered, kept beside what it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// SHA-256 over the request, hex.
    pub request_sha256: String,
    /// Encrypted by the caller: it holds the key's text.
    pub answer: String,
}

/// How a create ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    New,
    /// The same request made it before; its answer then.
    Before(String),
}

/// Why a key does not admit a device.
#[derive(Debug, thiserror::Error)]
pub enum UseError {
    #[error("unknown key or wrong secret")]
    Unknown,
    #[error("the key does not admit: {0:?}")]
    Closed(KeyState),
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<crate::state::StateError> for UseError {
    fn from(error: crate::state::StateError) -> Self {
        Self::Model(error.into())
    }
}

fn list_name(organization: OrgId) -> String {
    format!("org/{organization}/enrollment-keys")
}

/// Newest first.
fn list_key(key: &EnrollmentKeyRecord) -> String {
    format!("{:020}/{}", u64::MAX - key.created_ms, key.id)
}

/// Stores a new key. The caller delivers the partition's outbox.
///
/// # Errors
/// [`ModelError::IdempotencyConflict`] if its id was made by a different request.
pub async fn create(
    state: &dyn State,
    key: &EnrollmentKeyRecord,
    kept: &KeptAnswer,
    intent: &Intent,
) -> Result<Created, ModelError> {
    let mut commit = Commit::new(KEYS, key.id.to_bytes().to_vec())
        .assert(Assert::Absent(RECORD.into()))
        .put(RECORD, record::encode(key))
        .put(ANSWER, record::encode(kept));
    let row = IndexWrite::put(list_name(key.org_id), list_key(key), key.id.to_string());
    commit.outbox = vec![index::item(&[row]), intent.item()];
    match state.commit(commit).await? {
        CommitOutcome::Applied { .. } => Ok(Created::New),
        CommitOutcome::Conflict { .. } => {
            let row = state.get(Table::Commit(KEYS), &key.id.to_bytes(), ANSWER).await?;
            let before: KeptAnswer = record::decode(&row.ok_or(ModelError::IdempotencyConflict)?.value)?;
            if before.request_sha256 == kept.request_sha256 {
                Ok(Created::Before(before.answer))
            } else {
                Err(ModelError::IdempotencyConflict)
            }
        }
    }
}

/// A key that the caller may see, for a look or an action.
///
/// # Errors
/// [`ModelError::NotFound`] also outside the scope.
pub async fn find(
    state: &dyn State,
    scope: &Scope,
    id: EnrollmentKeyId,
) -> Result<Versioned<EnrollmentKeyRecord>, ModelError> {
    record::read::<EnrollmentKeyRecord>(state, KEYS, &id.to_bytes(), RECORD)
        .await?
        .filter(|found| scope.allows(found.value.org_id, found.value.site_id))
        .ok_or(ModelError::NotFound("enrolment key"))
}

/// What the creator of a key was answered, as it was kept.
///
/// # Errors
/// [`ModelError::NotFound`] also outside the scope.
pub async fn kept_answer(state: &dyn State, scope: &Scope, id: EnrollmentKeyId) -> Result<KeptAnswer, ModelError> {
    let found = find(state, scope, id).await?;
    let row = state.get(Table::Commit(KEYS), &found.value.id.to_bytes(), ANSWER).await?;
    record::decode(&row.ok_or(ModelError::NotFound("answer"))?.value)
}

/// Revokes a key; one that is revoked already stays as it is. The caller delivers the outbox.
///
/// # Errors
/// [`ModelError::NotFound`] also outside the scope.
pub async fn revoke(
    state: &dyn State,
    scope: &Scope,
    id: EnrollmentKeyId,
    intent: &Intent,
    now_ms: u64,
) -> Result<EnrollmentKeyRecord, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let found = find(state, scope, id).await?;
        let mut key = found.value;
        if key.revoked_ms.is_some() {
            return Ok(key);
        }
        key.revoked_ms = Some(now_ms);
        let mut commit = Commit::new(KEYS, id.to_bytes().to_vec())
            .assert(Assert::Version(RECORD.into(), found.version))
            .put(RECORD, record::encode(&key));
        commit.outbox.push(intent.item());
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(key);
        }
    }
    Err(record::contended())
}

/// Whether the secret is the key's, whatever else is to be said about it.
///
/// # Errors
/// [`UseError::Unknown`] if not.
pub async fn prove(state: &dyn State, id: EnrollmentKeyId, secret_sha256: &str) -> Result<(), UseError> {
    let found = record::read::<EnrollmentKeyRecord>(state, KEYS, &id.to_bytes(), RECORD).await?;
    let same = found.is_some_and(|found| found.value.has_secret(secret_sha256));
    same.then_some(()).ok_or(UseError::Unknown)
}

/// Uses a key once for `device`. A device that used it before is let through again, as long as the
/// key was not revoked: it may have lost the answer.
///
/// # Errors
/// [`UseError`] says which: that a key has expired is told only to who knows its secret.
pub async fn admit(
    state: &dyn State,
    id: EnrollmentKeyId,
    secret_sha256: &str,
    device: DeviceId,
    now_ms: u64,
) -> Result<EnrollmentKeyRecord, UseError> {
    let mut use_row = b"use/".to_vec();
    use_row.extend_from_slice(&device.to_bytes());
    for _ in 0..MAX_ATTEMPTS {
        let found = record::read::<EnrollmentKeyRecord>(state, KEYS, &id.to_bytes(), RECORD).await?;
        let Some(found) = found else { return Err(UseError::Unknown) };
        let mut key = found.value;
        if !key.has_secret(secret_sha256) {
            return Err(UseError::Unknown);
        }
        let used_before = state.get(Table::Commit(KEYS), &id.to_bytes(), &use_row).await?.is_some();
        match key.state(now_ms) {
            KeyState::Revoked => return Err(UseError::Closed(KeyState::Revoked)),
            KeyState::Active | KeyState::Expired | KeyState::UsedUp if used_before => return Ok(key),
            closed @ (KeyState::Expired | KeyState::UsedUp) => return Err(UseError::Closed(closed)),
            KeyState::Active => {}
        }
        key.uses += 1;
        let commit = Commit::new(KEYS, id.to_bytes().to_vec())
            .assert(Assert::Version(RECORD.into(), found.version))
            .assert(Assert::Absent(use_row.clone().into()))
            .put(RECORD, record::encode(&key))
            .put(use_row.clone(), record::encode(&now_ms));
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(key);
        }
    }
    Err(record::contended().into())
}

/// Keys of an organization after the list position `after`, newest first, each with its position,
/// and how many there are in all.
///
/// # Errors
/// [`ModelError::NotFound`] outside the scope.
pub async fn list(
    state: &dyn State,
    scope: &Scope,
    organization: OrgId,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<(String, EnrollmentKeyRecord)>, u64), ModelError> {
    if !scope.sees_organization(organization) {
        return Err(ModelError::NotFound("organization"));
    }
    let list = list_name(organization);
    let mut keys = Vec::new();
    for row in index::page(state, &list, after, false, limit).await? {
        let position = String::from_utf8_lossy(&row.key).into_owned();
        let Some(id) = std::str::from_utf8(&row.value).ok().and_then(|text| text.parse().ok()) else { continue };
        match find(state, scope, id).await {
            Ok(found) => keys.push((position, found.value)),
            Err(ModelError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((keys, index::count(state, &list).await?))
}
