//! The audit log. An entry's intent lies in the outbox of the commit whose change it describes, so
//! there is no change without its entry. A sequencer numbers the entries of a chain (an organization's,
//! a partner's, or the instance's) and chains them by a MAC whose key is not in the store.
//!
//! ```text
//! audit_heads  <chain>              ~lease/*  the sequencer's lease
//!                                   head      the newest batch, whole
//!                                   day/…     counts of a UTC day
//!                                   policy    how long, whether archived, legal hold
//!                                   archive/… what was taken away: numbers, last MAC, digest
//! audit        <chain>/<block>      number -> sealed entry
//! audit_index  <chain>/ids/<byte>   id -> number
//!              feed/<partner>/<hour>  (sealed time, chain, number)
//!              feed/<partner>/hours   hours that have any
//! ```

mod changes;
mod counts;
mod query;
mod retention;
mod seal;
mod sequencer;
mod verify;

pub use changes::{Change, Changes, MASK, changes};
pub use counts::DayCounts;
pub use query::{Asked, Filter, Found, MAX_LATE_MS, Position, Reach};
pub use retention::{Archive, MAX_RETENTION_DAYS, MAX_RUN_BYTES, MAX_RUN_ENTRIES, MIN_RETENTION_DAYS, Policy, Run};
pub use seal::Sealed;
pub use sequencer::{AuditLog, Forward, ForwardError, Head, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES};
pub use verify::{Broken, Fault, Published, Verdict};

use super::record;
use crate::state::{CommitTable, Family, MergeTable, OutboxItem, Serial};
use breeze_proto::id::{AuditId, OrgId, PartnerId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

pub const HEADS: CommitTable = CommitTable::new("audit_heads", Family::Config, Serial::Local);
/// Never expires by itself.
pub const LOG: MergeTable = MergeTable::new("audit", Family::Log);
/// Where entries are, by id and by time.
pub const INDEX: MergeTable = MergeTable::new("audit_index", Family::Log);
/// Outbox topic of intents.
pub const TOPIC: &str = "audit";
/// Entries of one partition of the log.
pub const BLOCK_ENTRIES: u64 = 4096;
/// Most bytes that the details of one entry take; beyond, they are replaced by a note of their size.
pub const MAX_DETAILS_BYTES: usize = 32 * 1024;

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorType {
    User,
    ApiKey,
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
    /// Decides the chain where no organization is named; `None`: the instance's.
    pub partner_id: Option<PartnerId>,
    /// Decides the chain.
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
    /// Before and after, secrets masked.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub changes: Changes,
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
            changes: Changes::default(),
            details: serde_json::Value::Null,
        }
    }

    /// Where it belongs.
    #[must_use]
    pub fn chain(&self) -> Chain {
        match (self.org_id, self.partner_id) {
            (Some(org), _) => Chain::Organization(org),
            (None, Some(partner)) => Chain::Partner(partner),
            (None, None) => Chain::Instance,
        }
    }

    /// Its bytes, details cut to their bound.
    fn encode(&self) -> Bytes {
        let details = record::encode(&self.details);
        if details.len() <= MAX_DETAILS_BYTES {
            return record::encode(self);
        }
        let details = serde_json::json!({ "cut_bytes": details.len() });
        record::encode(&Self { details, ..self.clone() })
    }
}

/// A chain of entries; written as `org/<id>`, `partner/<id>` or `instance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    Instance,
    Partner(PartnerId),
    Organization(OrgId),
}

impl Chain {
    /// A byte for its kind and its id.
    fn to_key(self) -> [u8; 17] {
        let (kind, id) = match self {
            Self::Instance => (0, [0; 16]),
            Self::Partner(id) => (1, id.to_bytes()),
            Self::Organization(id) => (2, id.to_bytes()),
        };
        let mut key = [kind; 17];
        key[1..].copy_from_slice(&id);
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        match kind {
            0 => Some(Self::Instance),
            1 => PartnerId::from_slice(id).map(Self::Partner),
            2 => OrgId::from_slice(id).map(Self::Organization),
            _ => None,
        }
    }

    fn block(self, sequence: u64) -> Bytes {
        format!("{self}/{}", (sequence - 1) / BLOCK_ENTRIES).into()
    }

    /// Entries by id, spread over partitions by the id's last byte.
    fn ids(self, id: AuditId) -> Bytes {
        format!("{self}/ids/{:02x}", id.to_bytes()[15]).into()
    }

    /// The chain that a partition of the log or of the heads belongs to.
    fn of_partition(partition: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(partition).ok()?;
        let mut parts = text.split('/');
        match (parts.next()?, parts.next()) {
            ("instance", _) => Some(Self::Instance),
            (kind, Some(id)) => format!("{kind}/{id}").parse().ok(),
            (_, None) => None,
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance => f.write_str("instance"),
            Self::Partner(id) => write!(f, "partner/{id}"),
            Self::Organization(id) => write!(f, "org/{id}"),
        }
    }
}

impl FromStr for Chain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} names no chain: write instance, partner/<id> or org/<id>");
        match text.split_once('/') {
            None if text == "instance" => Ok(Self::Instance),
            Some(("partner", id)) => id.parse().map(Self::Partner).map_err(|_| wrong()),
            Some(("org", id)) => id.parse().map(Self::Organization).map_err(|_| wrong()),
            Some(_) | None => Err(wrong()),
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
        OutboxItem { topic: TOPIC, payload: self.0.encode() }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        use fmt::Write as _;
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_keys_name_their_chain() {
        for chain in [Chain::Instance, Chain::Partner(PartnerId::generate()), Chain::Organization(OrgId::generate())] {
            assert_eq!(chain.to_string().parse(), Ok(chain));
            assert_eq!(Chain::from_key(&chain.to_key()), Some(chain));
            for partition in [chain.to_string().into_bytes(), chain.block(5_000).to_vec()] {
                assert_eq!(Chain::of_partition(&partition), Some(chain));
            }
        }
        assert!("org/x".parse::<Chain>().is_err() && "organization".parse::<Chain>().is_err());
    }
}
