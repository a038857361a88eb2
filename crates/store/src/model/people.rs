//! Users and their e-mail addresses. An address is a claim row: unique everywhere.

use super::{
    error::ModelError,
    record::{self, Versioned},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, Serial, State};
use breeze_proto::id::{PartnerId, UserId};
use serde::{Deserialize, Serialize};

pub const USERS: CommitTable = CommitTable::new("users", Family::Config, Serial::Local);
pub const EMAILS: CommitTable = CommitTable::new("email_claims", Family::Config, Serial::Global);
const RECORD: &[u8] = b"record";

/// What a user may do in its partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything in the partner and all its organizations.
    PartnerAdmin,
}

/// Whether a user may sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserStatus {
    Active,
    Disabled,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub partner_id: PartnerId,
    /// As the person wrote it; compared by [`normalise_email`].
    pub email: String,
    pub name: String,
    /// PHC string, argon2id.
    pub password_hash: String,
    pub role: Role,
    pub status: UserStatus,
    pub password_changed_ms: u64,
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// The form under which addresses are the same.
#[must_use]
pub fn normalise_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Claims the address and makes the user, unless it is there.
///
/// # Errors
/// [`ModelError::Conflict`] if another user has the address.
pub async fn create(state: &dyn State, user: &User) -> Result<(), ModelError> {
    let email = normalise_email(&user.email);
    let claim = Commit::new(EMAILS, email).assert(Assert::Absent(RECORD.into())).put(RECORD, record::encode(&user.id));
    if let CommitOutcome::Conflict { rows, .. } = state.commit(claim).await? {
        let owner = rows.first().map(|row| record::decode::<UserId>(&row.value)).transpose()?;
        if owner != Some(user.id) {
            return Err(ModelError::Conflict("Another user has this e-mail address.".into()));
        }
    }
    let commit = Commit::new(USERS, user.id.to_bytes().to_vec())
        .assert(Assert::Absent(RECORD.into()))
        .put(RECORD, record::encode(user));
    let _applied_or_there = state.commit(commit).await?;
    Ok(())
}

/// A user by id. For the authenticator.
///
/// # Errors
/// The store's.
pub async fn find(state: &dyn State, id: UserId) -> Result<Option<Versioned<User>>, ModelError> {
    record::read(state, USERS, &id.to_bytes(), RECORD).await
}

/// A user by address. For the authenticator.
///
/// # Errors
/// The store's.
pub async fn find_by_email(state: &dyn State, email: &str) -> Result<Option<Versioned<User>>, ModelError> {
    let email = normalise_email(email);
    if email.is_empty() {
        return Ok(None);
    }
    match record::read::<UserId>(state, EMAILS, email.as_bytes(), RECORD).await? {
        Some(owner) => find(state, owner.value).await,
        None => Ok(None),
    }
}
