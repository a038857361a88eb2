//! Sessions: of a browser (one secret in a cookie) or of another client (an access secret, and a
//! refresh secret that changes at each use). Secrets are random and only their hashes are kept. A
//! refresh secret that was used before ends the session: somebody has a copy.

use super::{
    audit::Intent,
    error::ModelError,
    record::{self, MAX_ATTEMPTS},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, Row, Scan, Serial, State, Table};
use breeze_proto::id::{SessionId, UserId};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

pub const SESSIONS: CommitTable = CommitTable::new("sessions", Family::Config, Serial::Local);
const RECORD: &[u8] = b"record";
/// Rows of one-time tickets: this and the ticket's hash.
const TICKET: &[u8] = b"ticket/";
/// Tickets of one session that wait at a time.
pub const MAX_TICKETS: usize = 16;
/// Used refresh secrets that a session remembers; with one that is older, it is simply not known.
pub const MAX_USED_SECRETS: usize = 64;
/// `seen_ms` is written at most this often.
pub const TOUCH_INTERVAL_MS: u64 = 60_000;

/// Hash of a secret: SHA-256, hex.
pub type SecretHash = String;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Browser,
    Token,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub user_id: UserId,
    pub kind: Kind,
    /// Of the cookie or the access token.
    pub secret: SecretHash,
    /// Until when `secret` is good; renewed with it.
    pub secret_expires_ms: u64,
    pub refresh: Option<SecretHash>,
    pub used_refresh: Vec<SecretHash>,
    pub created_ms: u64,
    pub seen_ms: u64,
    /// Unused for longer than this, it ends.
    pub idle_ms: u64,
    /// Then it ends in any case.
    pub expires_ms: u64,
    pub revoked_ms: Option<u64>,
    pub ip_address: String,
    pub user_agent: String,
}

impl Session {
    /// Whether it is over at `now_ms`.
    #[must_use]
    pub const fn is_over(&self, now_ms: u64) -> bool {
        self.revoked_ms.is_some() || now_ms >= self.expires_ms || now_ms >= self.seen_ms.saturating_add(self.idle_ms)
    }
}

/// What came of a refresh secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// The session with its new secrets.
    Session(Box<Session>),
    /// It was used before; the session is revoked now.
    Reused(Box<Session>),
    /// Not a secret of a session that is alive.
    Unknown,
}

/// Stores a new session. The caller delivers the partition's outbox.
///
/// # Errors
/// The store's.
pub async fn create(state: &dyn State, session: &Session, intent: &Intent) -> Result<(), ModelError> {
    let mut commit = Commit::new(SESSIONS, session.id.to_bytes().to_vec())
        .assert(Assert::Absent(RECORD.into()))
        .put(RECORD, record::encode(session));
    commit.outbox.push(intent.item());
    match state.commit(commit).await? {
        CommitOutcome::Applied { .. } => Ok(()),
        CommitOutcome::Conflict { .. } => Err(record::contended()),
    }
}

/// The session that `secret` opens at `now_ms`; notes the use.
///
/// # Errors
/// The store's.
pub async fn authenticate(
    state: &dyn State,
    id: SessionId,
    secret: &str,
    now_ms: u64,
) -> Result<Option<Session>, ModelError> {
    let Some(found) = record::read::<Session>(state, SESSIONS, &id.to_bytes(), RECORD).await? else {
        return Ok(None);
    };
    let mut session = found.value;
    let same: bool = session.secret.as_bytes().ct_eq(secret.as_bytes()).into();
    if !same || session.is_over(now_ms) || now_ms >= session.secret_expires_ms {
        return Ok(None);
    }
    if now_ms >= session.seen_ms.saturating_add(TOUCH_INTERVAL_MS) {
        session.seen_ms = now_ms;
        // A lost race only means that somebody else noted it, or ended the session.
        let _noted = replace(state, &session, found.version, None).await?;
    }
    Ok(Some(session))
}

/// Keeps a one-time ticket of a session, by its hash; tickets that have expired go.
///
/// # Errors
/// [`ModelError::Conflict`] when [`MAX_TICKETS`] of the session wait, and the store's.
pub async fn put_ticket(
    state: &dyn State,
    id: SessionId,
    ticket: &SecretHash,
    now_ms: u64,
    expires_ms: u64,
) -> Result<(), ModelError> {
    let partition = id.to_bytes();
    let held = state.scan(Table::Commit(SESSIONS), &partition, Scan::prefix(TICKET).limit(MAX_TICKETS + 1)).await?;
    let is_over = |row: &Row| record::decode::<u64>(&row.value).is_ok_and(|expires| expires <= now_ms);
    let (gone, waiting): (Vec<Row>, Vec<Row>) = held.rows.into_iter().partition(is_over);
    if waiting.len() >= MAX_TICKETS {
        return Err(ModelError::Conflict("Too many tickets of this session wait.".into()));
    }
    let mut commit = Commit::new(SESSIONS, partition.to_vec())
        .assert(Assert::Exists(RECORD.into()))
        .put(ticket_key(ticket), record::encode(&expires_ms));
    commit.deletes = gone.into_iter().map(|row| row.key).collect();
    match state.commit(commit).await? {
        CommitOutcome::Applied { .. } => Ok(()),
        CommitOutcome::Conflict { .. } => Err(ModelError::NotFound("session")),
    }
}

/// Uses a ticket up: of several at once, for one. Whether it was good.
///
/// # Errors
/// The store's.
pub async fn take_ticket(
    state: &dyn State,
    id: SessionId,
    ticket: &SecretHash,
    now_ms: u64,
) -> Result<bool, ModelError> {
    let key = ticket_key(ticket);
    let Some(row) = state.get(Table::Commit(SESSIONS), &id.to_bytes(), &key).await? else { return Ok(false) };
    let commit = Commit::new(SESSIONS, id.to_bytes().to_vec())
        .assert(Assert::Version(key.clone().into(), row.version))
        .delete(key);
    let taken = matches!(state.commit(commit).await?, CommitOutcome::Applied { .. });
    Ok(taken && record::decode::<u64>(&row.value)? > now_ms)
}

fn ticket_key(ticket: &SecretHash) -> Vec<u8> {
    [TICKET, ticket.as_bytes()].concat()
}

/// A session as it is, for a connection that lives longer than the request that opened it.
///
/// # Errors
/// The store's.
pub async fn find(state: &dyn State, id: SessionId) -> Result<Option<Session>, ModelError> {
    Ok(record::read::<Session>(state, SESSIONS, &id.to_bytes(), RECORD).await?.map(|found| found.value))
}

/// Ends a session. The caller delivers the partition's outbox.
///
/// # Errors
/// The store's.
pub async fn revoke(state: &dyn State, id: SessionId, intent: &Intent, now_ms: u64) -> Result<(), ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(found) = record::read::<Session>(state, SESSIONS, &id.to_bytes(), RECORD).await? else {
            return Ok(());
        };
        let mut session = found.value;
        if session.revoked_ms.is_some() {
            return Ok(());
        }
        session.revoked_ms = Some(now_ms);
        if replace(state, &session, found.version, Some(intent)).await? {
            return Ok(());
        }
    }
    Err(record::contended())
}

/// New secrets of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSecrets {
    pub secret: SecretHash,
    pub secret_expires_ms: u64,
    pub refresh: SecretHash,
}

/// Exchanges a refresh secret for new secrets, once. `reused` makes the entry of a session that is ended because
/// its secret came again; the caller delivers the partition's outbox then.
///
/// # Errors
/// The store's.
pub async fn refresh(
    state: &dyn State,
    id: SessionId,
    presented: &str,
    new: &NewSecrets,
    reused: &(dyn Fn(&Session) -> Intent + Sync),
    now_ms: u64,
) -> Result<Refreshed, ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(found) = record::read::<Session>(state, SESSIONS, &id.to_bytes(), RECORD).await? else {
            return Ok(Refreshed::Unknown);
        };
        let mut session = found.value;
        let current = session.refresh.clone().unwrap_or_default();
        let is_current: bool = current.as_bytes().ct_eq(presented.as_bytes()).into();
        let was_used = session.used_refresh.iter().any(|used| used == presented);
        if session.is_over(now_ms) || !(is_current || was_used) {
            return Ok(Refreshed::Unknown);
        }
        if is_current {
            session.used_refresh.insert(0, current);
            session.used_refresh.truncate(MAX_USED_SECRETS);
            session.secret.clone_from(&new.secret);
            session.secret_expires_ms = new.secret_expires_ms;
            session.refresh = Some(new.refresh.clone());
            session.seen_ms = now_ms;
        } else {
            session.revoked_ms = Some(now_ms);
        }
        let intent = (!is_current).then(|| reused(&session));
        if replace(state, &session, found.version, intent.as_ref()).await? {
            let session = Box::new(session);
            return Ok(if is_current { Refreshed::Session(session) } else { Refreshed::Reused(session) });
        }
    }
    Err(record::contended())
}

async fn replace(
    state: &dyn State,
    session: &Session,
    version: u64,
    intent: Option<&Intent>,
) -> Result<bool, ModelError> {
    let mut commit = Commit::new(SESSIONS, session.id.to_bytes().to_vec())
        .assert(Assert::Version(RECORD.into(), version))
        .put(RECORD, record::encode(session));
    commit.outbox.extend(intent.map(Intent::item));
    Ok(matches!(state.commit(commit).await?, CommitOutcome::Applied { .. }))
}
