//! The audit log. An entry's intent lies in the outbox of the commit whose change it describes, so
//! there is no change without its entry. A sequencer numbers the entries of a chain (a partner's, or
//! the instance's) and chains them by a MAC whose key is not in the store.
//!
//! The head of a chain holds its newest entry whole: the entry is committed there first and then
//! copied to the log, so a crash between the two loses nothing (the next append copies it again).

mod verify;

pub use verify::{Broken, Fault, Verdict};

use super::{
    Scope,
    error::ModelError,
    record::{self, MAX_ATTEMPTS, Versioned},
};
use crate::state::{
    Assert, Commit, CommitOutcome, CommitTable, Family, Merge, MergeTable, OutboxItem, Scan, Serial, State, Table,
    outbox::{Deliver, Delivery, DeliveryError},
};
use async_trait::async_trait;
use breeze_proto::id::{AuditId, OrgId, PartnerId};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex as SyncMutex;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::{collections::HashMap, fmt, sync::Arc};
use tokio::sync::Mutex;

pub const HEADS: CommitTable = CommitTable::new("audit_heads", Family::Config, Serial::Local);
/// Never expires.
pub const LOG: MergeTable = MergeTable::new("audit", Family::Log);
/// Outbox topic of intents.
pub const TOPIC: &str = "audit";
/// Entries of one partition of the log.
pub const BLOCK_ENTRIES: u64 = 4096;
/// Chains whose heads one process remembers.
const MAX_HEADS: usize = 1_024;
const HEAD: &[u8] = b"head";

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorType {
    User,
    Agent,
    System,
    /// Nobody who was known: a failed sign-in.
    Anonymous,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditResult {
    Success,
    Failure,
    Denied,
}

/// What was done by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: AuditId,
    pub timestamp_ms: u64,
    /// Decides the chain; `None`: the instance's.
    pub partner_id: Option<PartnerId>,
    pub org_id: Option<OrgId>,
    pub actor_type: ActorType,
    pub actor_id: Option<String>,
    pub actor_email: Option<String>,
    pub action: String,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    pub resource_name: Option<String>,
    pub result: AuditResult,
    pub error_message: Option<String>,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub details: serde_json::Value,
}

impl Entry {
    /// A success of the system's own, on nothing in particular and with no request behind it; whatever
    /// else is known is set on top.
    #[must_use]
    pub fn by_system(action: impl Into<String>, timestamp_ms: u64) -> Self {
        Self {
            id: AuditId::generate(),
            timestamp_ms,
            partner_id: None,
            org_id: None,
            actor_type: ActorType::System,
            actor_id: None,
            actor_email: None,
            action: action.into(),
            resource_type: None,
            resource_id: None,
            resource_name: None,
            result: AuditResult::Success,
            error_message: None,
            ip_address: None,
            user_agent: None,
            request_id: None,
            details: serde_json::Value::Null,
        }
    }
}

/// An entry that waits for the commit of its change. Give it to the model function that makes the change.
#[derive(Debug, Clone)]
#[must_use = "the entry is written only by the commit that takes it"]
pub struct Intent(Entry);

impl Intent {
    pub const fn new(entry: Entry) -> Self {
        Self(entry)
    }

    /// For the outbox of the commit.
    #[must_use]
    pub fn item(&self) -> OutboxItem {
        OutboxItem { topic: TOPIC, payload: record::encode(&self.0) }
    }
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub sequence: u64,
    pub entry: Entry,
    /// Over the MAC before, the number and the entry; hex.
    pub mac: String,
}

/// The head that this process wrote last and has copied. Held while one appends to the chain; other
/// chains do not wait. Should two locks of one chain ever be about, the head's version decides.
type Chain = Arc<Mutex<Option<Versioned<Sealed>>>>;

/// The sequencer and reader of the chains.
pub struct AuditLog {
    state: Arc<dyn State>,
    key: [u8; 32],
    heads: SyncMutex<HashMap<String, Chain>>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

impl AuditLog {
    /// `key` must not be in the store.
    #[must_use]
    pub fn new(state: Arc<dyn State>, key: [u8; 32]) -> Self {
        Self { state, key, heads: SyncMutex::default() }
    }

    /// Appends an entry to its chain; an entry that is there already (by its id) is left alone.
    ///
    /// # Errors
    /// The store's, and [`ModelError::Conflict`] when other nodes append all the time.
    pub async fn append(&self, entry: Entry) -> Result<(), ModelError> {
        let chain = chain_of(entry.partner_id);
        let known = self.chain(&chain);
        let mut known = known.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            // Taken out: after an error nobody knows whether it is still the head.
            let head = match known.take() {
                Some(known) => Some(known),
                None => self.read_head(&chain).await?,
            };
            if head.as_ref().is_some_and(|head| head.value.entry.id == entry.id) {
                return Ok(());
            }
            // After the head was read, at each attempt: what another node put there and has been followed
            // since is in the log.
            let ids = ids_partition(&chain, entry.id);
            if self.state.get(Table::Merge(LOG), &ids, &entry.id.to_bytes()).await?.is_some() {
                *known = head;
                return Ok(());
            }
            let sequence = head.as_ref().map_or(1, |head| head.value.sequence + 1);
            let before = head.as_ref().map_or("", |head| head.value.mac.as_str());
            let mac = self.mac(before, sequence, &entry);
            let sealed = Sealed { sequence, entry: entry.clone(), mac };
            let unchanged =
                head.as_ref().map_or(Assert::Absent(HEAD.into()), |head| Assert::Version(HEAD.into(), head.version));
            let commit = Commit::new(HEADS, chain.clone()).assert(unchanged).put(HEAD, record::encode(&sealed));
            if let CommitOutcome::Applied { version } = self.state.commit(commit).await? {
                self.copy(&chain, &sealed).await?;
                *known = Some(Versioned { version, value: sealed });
                return Ok(());
            }
        }
        Err(record::contended())
    }

    /// The lock of a chain. Locks that nobody holds are forgotten when there are too many.
    fn chain(&self, chain: &str) -> Chain {
        let mut heads = self.heads.lock();
        if heads.len() >= MAX_HEADS && !heads.contains_key(chain) {
            heads.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(heads.entry(chain.to_owned()).or_default())
    }

    /// The head as it is stored, copied to the log: whoever put it there may have died before that.
    async fn read_head(&self, chain: &str) -> Result<Option<Versioned<Sealed>>, ModelError> {
        let head = record::read::<Sealed>(&*self.state, HEADS, chain.as_bytes(), HEAD).await?;
        if let Some(head) = &head {
            self.copy(chain, &head.value).await?;
        }
        Ok(head)
    }

    async fn copy(&self, chain: &str, sealed: &Sealed) -> Result<(), ModelError> {
        let row = |partition: Bytes, key: Bytes, value: Bytes| Merge {
            table: LOG,
            partition,
            key,
            version: 1,
            value: Some(value),
        };
        let sequence = Bytes::copy_from_slice(&sealed.sequence.to_be_bytes());
        let id = sealed.entry.id;
        let rows = vec![
            row(block_partition(chain, sealed.sequence), sequence.clone(), record::encode(sealed)),
            row(ids_partition(chain, id), Bytes::copy_from_slice(&id.to_bytes()), sequence),
        ];
        Ok(self.state.merge(rows).await?)
    }

    /// Entries of a partner's chain before `before`, newest first, and how many there are in all.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] outside the scope, and the store's.
    pub async fn page(
        &self,
        scope: &Scope,
        partner: Option<PartnerId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Sealed>, u64), ModelError> {
        let allowed = partner.map_or(scope.system_reason().is_some(), |partner| scope.allows_partner(partner));
        if !allowed {
            return Err(ModelError::NotFound("audit log"));
        }
        let chain = chain_of(partner);
        let Some(head) = record::read::<Sealed>(&*self.state, HEADS, chain.as_bytes(), HEAD).await? else {
            return Ok((Vec::new(), 0));
        };
        let total = head.value.sequence;
        let mut next = before.map_or(total, |before| before.saturating_sub(1).min(total));
        let mut found = Vec::new();
        while next > 0 && found.len() < limit {
            let block = block_partition(&chain, next);
            let mut scan = Scan { reverse: true, limit: limit - found.len(), ..Scan::default() };
            scan.to = Some(Bytes::copy_from_slice(&(next + 1).to_be_bytes()));
            loop {
                let page = self.state.scan(Table::Merge(LOG), &block, scan.clone()).await?;
                for row in &page.rows {
                    found.push(record::decode::<Sealed>(&row.value)?);
                }
                match page.next {
                    Some(to) if found.len() < limit => scan.to = Some(to),
                    Some(_) | None => break,
                }
            }
            next = (next - 1) / BLOCK_ENTRIES * BLOCK_ENTRIES;
        }
        found.truncate(limit);
        Ok((found, total))
    }

    /// Checks MACs and numbers of a run of entries in ascending order; the first is checked against
    /// `before`, the MAC of its predecessor (empty for the first of all).
    #[must_use]
    pub fn verify(&self, before: &str, run: &[Sealed]) -> bool {
        let mut before = before.to_owned();
        let mut sequence = None;
        run.iter().all(|sealed| {
            let dense = sequence.is_none_or(|last: u64| sealed.sequence == last + 1);
            let valid = dense && self.mac(&before, sealed.sequence, &sealed.entry) == sealed.mac;
            before.clone_from(&sealed.mac);
            sequence = Some(sealed.sequence);
            valid
        })
    }

    fn mac(&self, before: &str, sequence: u64, entry: &Entry) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        mac.update(b"breeze/v1/audit\0");
        mac.update(&(before.len() as u64).to_be_bytes());
        mac.update(before.as_bytes());
        mac.update(&sequence.to_be_bytes());
        mac.update(&record::encode(entry));
        hex(&mac.finalize().into_bytes())
    }
}

#[async_trait]
impl Deliver for AuditLog {
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        Ok(self.append(record::decode(&delivery.payload)?).await?)
    }
}

fn chain_of(partner: Option<PartnerId>) -> String {
    partner.map_or_else(|| "instance".to_owned(), |partner| format!("partner/{partner}"))
}

fn block_partition(chain: &str, sequence: u64) -> Bytes {
    format!("{chain}/{}", (sequence - 1) / BLOCK_ENTRIES).into()
}

/// Entries by id, spread over partitions by the id's last byte.
fn ids_partition(chain: &str, id: AuditId) -> Bytes {
    format!("{chain}/ids/{:02x}", id.to_bytes()[15]).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        use fmt::Write as _;
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
