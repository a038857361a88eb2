//! The installation itself: its id, and whether it was set up.
//!
//! Set-up is one commit on one row: whoever makes it, with the token's hash still in force, is the
//! one who sets up. What it makes elsewhere lies in that commit's outbox as a plan, so a crash in
//! the middle is finished by the sweeper.

use super::{
    audit::Intent,
    error::ModelError,
    people::{self, User},
    record::{self, MAX_ATTEMPTS},
    tenancy::{self, Organization, Partner, Site},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, OutboxItem, Serial, State};
use breeze_proto::id::{InstanceId, OrgId, PartnerId, SiteId};
use serde::{Deserialize, Serialize};

pub const INSTANCE: CommitTable = CommitTable::new("instance", Family::Config, Serial::Global);
pub const PARTITION: &[u8] = b"instance";
/// Outbox topic of a [`Plan`].
pub const SETUP_TOPIC: &str = "setup";
const RECORD: &[u8] = b"record";

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub created_ms: u64,
    pub initialised_ms: Option<u64>,
    /// SHA-256 of the set-up token, hex; none when none was made or it was used.
    pub setup_token_sha256: Option<String>,
    pub setup_expires_ms: u64,
    /// The first tenant, which is there from the first start.
    pub partner_id: PartnerId,
    pub org_id: OrgId,
    pub site_id: SiteId,
    /// Fingerprint of the keys that belong to it; none before the first node has made them.
    #[serde(default)]
    pub keys_sha256: Option<String>,
}

/// What the first start makes, and set-up completes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub partner: Partner,
    pub organization: Organization,
    pub site: Site,
    /// Who set up.
    pub user: Option<User>,
}

/// Why set-up was refused.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("already set up")]
    AlreadyDone,
    #[error("the token is wrong or has expired")]
    Token,
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<crate::state::StateError> for SetupError {
    fn from(error: crate::state::StateError) -> Self {
        Self::Model(error.into())
    }
}

/// The record; made with the first tenant if there is none. The caller delivers the partition's outbox.
///
/// # Errors
/// The store's.
pub async fn open(state: &dyn State, names: &Names<'_>, now_ms: u64) -> Result<Instance, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        if let Some(found) = record::read::<Instance>(state, INSTANCE, PARTITION, RECORD).await? {
            return Ok(found.value);
        }
        let fresh = Instance {
            id: InstanceId::generate(),
            created_ms: now_ms,
            initialised_ms: None,
            setup_token_sha256: None,
            setup_expires_ms: 0,
            partner_id: PartnerId::generate(),
            org_id: OrgId::generate(),
            site_id: SiteId::generate(),
            keys_sha256: None,
        };
        let plan = Plan::of(&fresh, names, now_ms);
        let commit = Commit::new(INSTANCE, PARTITION)
            .assert(Assert::Absent(RECORD.into()))
            .put(RECORD, record::encode(&fresh))
            .outbox(SETUP_TOPIC, record::encode(&plan));
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(fresh);
        }
    }
    Err(record::contended())
}

/// Names of the first tenant.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub partner: &'a str,
    pub organization: &'a str,
    pub site: &'a str,
    /// IANA name.
    pub timezone: &'a str,
}

impl Plan {
    /// The first tenant under these names, without a user.
    #[must_use]
    pub fn of(instance: &Instance, names: &Names<'_>, now_ms: u64) -> Self {
        let Instance { partner_id, org_id, site_id, created_ms, .. } = *instance;
        Self {
            partner: Partner { id: partner_id, name: names.partner.to_owned(), created_ms, updated_ms: now_ms },
            organization: Organization {
                id: org_id,
                partner_id,
                name: names.organization.to_owned(),
                created_ms,
                updated_ms: now_ms,
            },
            site: Site {
                id: site_id,
                org_id,
                partner_id,
                name: names.site.to_owned(),
                timezone: names.timezone.to_owned(),
                created_ms,
                updated_ms: now_ms,
            },
            user: None,
        }
    }
}

/// The record as it is.
///
/// # Errors
/// The store's; [`ModelError::NotFound`] before [`open`].
pub async fn read(state: &dyn State) -> Result<Instance, ModelError> {
    let found = record::read::<Instance>(state, INSTANCE, PARTITION, RECORD).await?;
    found.map(|found| found.value).ok_or(ModelError::NotFound("instance"))
}

/// Claims the instance for the keys with this fingerprint, of several claims at once for one. The
/// fingerprint that it is claimed for now.
///
/// # Errors
/// The store's; [`ModelError::NotFound`] before [`open`].
pub async fn claim_keys(state: &dyn State, keys_sha256: &str) -> Result<String, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let found = record::read::<Instance>(state, INSTANCE, PARTITION, RECORD).await?;
        let Some(found) = found else { return Err(ModelError::NotFound("instance")) };
        if let Some(held) = found.value.keys_sha256 {
            return Ok(held);
        }
        let claimed = Instance { keys_sha256: Some(keys_sha256.to_owned()), ..found.value };
        let commit = Commit::new(INSTANCE, PARTITION)
            .assert(Assert::Version(RECORD.into(), found.version))
            .put(RECORD, record::encode(&claimed));
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(keys_sha256.to_owned());
        }
    }
    Err(record::contended())
}

/// Puts a token in force, if the instance is not set up; one that is in force stays. `token_of` makes the
/// hash of the token that expires at a time (milliseconds), the same on every node. When the token in
/// force expires; `None` if the instance is set up.
///
/// # Errors
/// The store's.
pub async fn arm_setup(
    state: &dyn State,
    token_of: &(dyn Fn(u64) -> String + Sync),
    now_ms: u64,
    expires_ms: u64,
) -> Result<Option<u64>, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(found) = record::read::<Instance>(state, INSTANCE, PARTITION, RECORD).await? else {
            return Err(ModelError::NotFound("instance"));
        };
        let mut instance = found.value;
        if instance.initialised_ms.is_some() {
            return Ok(None);
        }
        let held_ms = instance.setup_expires_ms;
        if now_ms < held_ms && instance.setup_token_sha256.as_deref() == Some(&token_of(held_ms)) {
            return Ok(Some(held_ms));
        }
        let token_sha256 = token_of(expires_ms);
        instance.setup_token_sha256 = Some(token_sha256);
        instance.setup_expires_ms = expires_ms;
        let commit = Commit::new(INSTANCE, PARTITION)
            .assert(Assert::Version(RECORD.into(), found.version))
            .put(RECORD, record::encode(&instance));
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(Some(expires_ms));
        }
    }
    Err(record::contended())
}

/// Whether the token opens set-up at the moment. Looked at before the costly hash of the password;
/// [`complete_setup`] looks again.
///
/// # Errors
/// [`SetupError`] says why not.
pub async fn check_setup(state: &dyn State, token_sha256: &str, now_ms: u64) -> Result<u64, SetupError> {
    let found = record::read::<Instance>(state, INSTANCE, PARTITION, RECORD)
        .await?
        .ok_or(SetupError::Model(ModelError::NotFound("instance")))?;
    if found.value.initialised_ms.is_some() {
        return Err(SetupError::AlreadyDone);
    }
    let held = found.value.setup_token_sha256.as_deref().unwrap_or_default();
    let same: bool = subtle::ConstantTimeEq::ct_eq(held.as_bytes(), token_sha256.as_bytes()).into();
    if !same || now_ms >= found.value.setup_expires_ms {
        return Err(SetupError::Token);
    }
    Ok(found.version)
}

/// Sets up. The caller delivers the partition's outbox.
///
/// # Errors
/// [`SetupError`]; of several at once, one succeeds.
pub async fn complete_setup(
    state: &dyn State,
    token_sha256: &str,
    plan: &Plan,
    intent: &Intent,
    now_ms: u64,
) -> Result<(), SetupError> {
    for _ in 0..MAX_ATTEMPTS {
        let version = check_setup(state, token_sha256, now_ms).await?;
        let mut instance = read(state).await?;
        instance.initialised_ms = Some(now_ms);
        instance.setup_token_sha256 = None;
        let mut commit = Commit::new(INSTANCE, PARTITION)
            .assert(Assert::Version(RECORD.into(), version))
            .put(RECORD, record::encode(&instance));
        commit.outbox = vec![OutboxItem { topic: SETUP_TOPIC, payload: record::encode(plan) }, intent.item()];
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(());
        }
    }
    Err(record::contended().into())
}

/// Makes what a plan says; what is there already is left alone. The outboxes of organization and site
/// are to be delivered after this.
///
/// # Errors
/// The store's.
pub async fn carry_out(state: &dyn State, payload: &[u8]) -> Result<(), ModelError> {
    let plan: Plan = record::decode(payload)?;
    tenancy::put_partner(state, &plan.partner).await?;
    tenancy::put_organization(state, &plan.organization).await?;
    tenancy::put_site(state, &plan.site).await?;
    if let Some(user) = &plan.user {
        people::create(state, user).await?;
    }
    Ok(())
}
