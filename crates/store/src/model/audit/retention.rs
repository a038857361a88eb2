//! How long a chain's entries are kept, and what stays of those that are not: for each run that was taken away a
//! record with its numbers, its last MAC and the digest of the archive, under a MAC of its own. The newest
//! is the floor that the chain stands on.

use super::{
    AuditLog, Chain, DayCounts, HEADS, INDEX, Intent, LOG, Sealed,
    seal::Key,
    sequencer::{feed, feed_key, hour_of},
};
use crate::{
    model::{
        error::ModelError,
        record::{self, Versioned},
    },
    state::{Assert, Commit, CommitOutcome, Merge, Scan, Table},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Entries of one run.
pub const MAX_RUN_ENTRIES: usize = 4_096;
/// Bytes of one run, about.
pub const MAX_RUN_BYTES: usize = 8 * 1024 * 1024;
/// The shortest that a policy may ask for.
pub const MIN_RETENTION_DAYS: u32 = 30;
/// The longest.
pub const MAX_RETENTION_DAYS: u32 = 36_500;
const POLICY: &[u8] = b"policy";
const ARCHIVE: &[u8] = b"archive/";
const DAY_MS: u64 = 24 * 3600 * 1000;

/// How long entries of a chain are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `None`: for ever.
    pub retention_days: Option<u32>,
    /// Whether entries are written to the archive before they are deleted.
    pub archive: bool,
    /// While there is a reason, nothing is deleted.
    pub legal_hold: Option<String>,
    pub updated_ms: u64,
    pub last_cleanup_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct SealedPolicy {
    policy: Policy,
    mac: String,
}

/// Entries that are to go, in order.
#[derive(Debug, Clone)]
pub struct Run {
    pub chain: Chain,
    /// MAC of the entry before the first.
    pub before: String,
    /// Not empty.
    pub entries: Vec<Sealed>,
    /// Under which it was found due.
    policy_version: u64,
    floor_version: Option<u64>,
}

impl Run {
    /// One sealed entry a line.
    #[must_use]
    pub fn lines(&self) -> Vec<u8> {
        self.entries.iter().fold(Vec::new(), |mut lines, sealed| {
            lines.extend_from_slice(&sealed.encode());
            lines.push(b'\n');
            lines
        })
    }

    /// First and last number.
    #[must_use]
    pub fn numbers(&self) -> (u64, u64) {
        let of = |sealed: Option<&Sealed>| sealed.map_or(0, |sealed| sealed.sequence);
        (of(self.entries.first()), of(self.entries.last()))
    }
}

/// What stays of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    pub first: u64,
    pub last: u64,
    /// MAC of the entry before the first.
    pub before: String,
    /// MAC of the last.
    pub mac: String,
    /// SHA-256 over the lines, hex.
    pub sha256: String,
    /// Where the lines lie; `None`: nowhere, the policy wanted no archive.
    pub object: Option<String>,
    pub taken_ms: u64,
    /// Over all of it.
    pub seal: String,
}

impl Archive {
    fn seal(&self, key: &Key, chain: Chain) -> String {
        let Self { first, last, before, mac, sha256, object, taken_ms, seal: _ } = self;
        let object = object.as_deref().unwrap_or_default();
        let parts = [
            chain.to_string(),
            first.to_string(),
            last.to_string(),
            before.clone(),
            mac.clone(),
            sha256.clone(),
            object.to_owned(),
            taken_ms.to_string(),
        ];
        key.mac("archive", &parts.each_ref().map(String::as_bytes))
    }

    pub(super) fn holds(&self, key: &Key, chain: Chain) -> bool {
        self.seal == self.seal(key, chain)
    }

    fn key(first: u64) -> Vec<u8> {
        [ARCHIVE, &first.to_be_bytes()].concat()
    }
}

impl AuditLog {
    fn policy_mac(&self, chain: Chain, policy: &Policy) -> String {
        self.key.mac("policy", &[chain.to_string().as_bytes(), &record::encode(policy)])
    }

    /// The policy of a chain and its version; 0 where none was set.
    ///
    /// # Errors
    /// The store's; [`ModelError::Corrupt`] for one that was not set by us.
    pub async fn policy(&self, chain: Chain) -> Result<Versioned<Policy>, ModelError> {
        let partition = chain.to_string();
        let found = record::read::<SealedPolicy>(&*self.state, HEADS, partition.as_bytes(), POLICY).await?;
        let Some(Versioned { version, value }) = found else {
            return Ok(Versioned { version: 0, value: Policy::default() });
        };
        if value.mac != self.policy_mac(chain, &value.policy) {
            metrics::counter!("breeze_audit_tampering_total").increment(1);
            return Err(ModelError::Corrupt(format!("the retention policy of {chain} was tampered with")));
        }
        Ok(Versioned { version, value: value.policy })
    }

    /// Sets the policy that was read at `version`. The caller delivers the partition's outbox.
    ///
    /// # Errors
    /// [`ModelError::Version`] if it was changed since, and the store's.
    pub async fn set_policy(
        &self,
        chain: Chain,
        policy: &Policy,
        version: u64,
        intent: &Intent,
    ) -> Result<u64, ModelError> {
        let commit = self.policy_commit(chain, policy, version).outbox(super::TOPIC, intent.item().payload);
        match self.state.commit(commit).await? {
            CommitOutcome::Applied { version } => Ok(version),
            CommitOutcome::Conflict { .. } => Err(ModelError::Version),
        }
    }

    fn policy_commit(&self, chain: Chain, policy: &Policy, version: u64) -> Commit {
        let assert = if version == 0 { Assert::Absent(POLICY.into()) } else { Assert::Version(POLICY.into(), version) };
        let sealed = SealedPolicy { policy: policy.clone(), mac: self.policy_mac(chain, policy) };
        Commit::new(HEADS, chain.to_string()).assert(assert).put(POLICY, record::encode(&sealed))
    }

    /// Notes that a chain was looked through.
    ///
    /// # Errors
    /// The store's. A policy that was changed meanwhile is left alone.
    pub async fn note_cleanup(&self, chain: Chain) -> Result<(), ModelError> {
        let found = self.policy(chain).await?;
        let policy = Policy { last_cleanup_ms: Some(self.now_ms()), ..found.value };
        let _changed_meanwhile = self.state.commit(self.policy_commit(chain, &policy, found.version)).await?;
        Ok(())
    }

    /// What was taken away of a chain, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn archives(&self, chain: Chain) -> Result<Vec<Archive>, ModelError> {
        let mut scan = Scan::prefix(ARCHIVE);
        let mut archives = Vec::new();
        loop {
            let page = self.state.scan(HEADS.into(), chain.to_string().as_bytes(), scan.clone()).await?;
            for row in &page.rows {
                archives.push(record::decode(&row.value)?);
            }
            match page.next {
                Some(from) => scan.from = from,
                None => return Ok(archives),
            }
        }
    }

    /// What the chain stands on; `None`: nothing of it was taken away.
    ///
    /// # Errors
    /// The store's.
    pub async fn floor(&self, chain: Chain) -> Result<Option<Archive>, ModelError> {
        Ok(self.versioned_floor(chain).await?.map(|floor| floor.value))
    }

    async fn versioned_floor(&self, chain: Chain) -> Result<Option<Versioned<Archive>>, ModelError> {
        let mut scan = Scan::prefix(ARCHIVE).reversed().limit(1);
        loop {
            let page = self.state.scan(HEADS.into(), chain.to_string().as_bytes(), scan.clone()).await?;
            match (page.rows.first(), page.next) {
                (Some(row), _) => return record::decode_row(row).map(Some),
                (None, Some(to)) => scan.to = Some(to),
                (None, None) => return Ok(None),
            }
        }
    }

    /// The oldest entries of a chain that its policy keeps no longer; `None`: there are none, or it is held.
    ///
    /// # Errors
    /// The store's; [`ModelError::Corrupt`] where the chain does not hold: nothing of it is taken away then.
    pub async fn due(&self, chain: Chain) -> Result<Option<Run>, ModelError> {
        let policy = self.policy(chain).await?;
        let (Some(days), None) = (policy.value.retention_days, &policy.value.legal_hold) else { return Ok(None) };
        let days = days.max(MIN_RETENTION_DAYS);
        let until_ms = self.now_ms().saturating_sub(u64::from(days) * DAY_MS);
        let Some(head) = self.head(chain).await? else { return Ok(None) };
        let floor = self.versioned_floor(chain).await?;
        let corrupt = |what: &str| ModelError::Corrupt(format!("the audit chain {chain} does not hold: {what}"));
        if floor.as_ref().is_some_and(|floor| !floor.value.holds(&self.key, chain)) {
            return Err(corrupt("its floor was tampered with"));
        }
        let mut before = floor.as_ref().map(|floor| floor.value.mac.clone()).unwrap_or_default();
        let first = floor.as_ref().map_or(1, |floor| floor.value.last + 1);
        let run_before = before.clone();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        // The newest stays: the chain goes on from it.
        for sequence in first..head.sequence {
            let Some(sealed) = self.entry(chain, sequence).await? else {
                return Err(corrupt(&format!("entry {sequence} is missing")));
            };
            if sealed.sealed_ms > until_ms || entries.len() >= MAX_RUN_ENTRIES || bytes >= MAX_RUN_BYTES {
                break;
            }
            if sealed.sequence != sequence || !sealed.holds(&self.key, chain, &before) {
                return Err(corrupt(&format!("entry {sequence} was altered")));
            }
            before.clone_from(&sealed.mac);
            bytes += sealed.encode().len();
            entries.push(sealed);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let floor_version = floor.map(|floor| floor.version);
        Ok(Some(Run { chain, before: run_before, entries, policy_version: policy.version, floor_version }))
    }

    /// Takes a run away that was archived as `object` (if it was), whose lines have the digest `sha256`.
    /// `false`: the policy was changed or the floor moved meanwhile, and nothing was done.
    ///
    /// # Errors
    /// The store's. After an error it is done again: by [`AuditLog::due`], or by [`AuditLog::sweep`] where
    /// only the deletion was left.
    pub async fn take_away(&self, run: &Run, object: Option<String>, sha256: String) -> Result<bool, ModelError> {
        let (first, last) = run.numbers();
        let mac = run.entries.last().map(|sealed| sealed.mac.clone()).unwrap_or_default();
        let mut archive = Archive {
            first,
            last,
            before: run.before.clone(),
            mac,
            sha256,
            object,
            taken_ms: self.now_ms(),
            seal: String::new(),
        };
        archive.seal = archive.seal(&self.key, run.chain);
        let mut commit = Commit::new(HEADS, run.chain.to_string())
            .assert(Assert::Version(POLICY.into(), run.policy_version))
            .assert(Assert::Absent(Archive::key(first).into()))
            .put(Archive::key(first), record::encode(&archive));
        if let (Some(version), Some(floor)) = (run.floor_version, self.floor(run.chain).await?) {
            commit = commit.assert(Assert::Version(Archive::key(floor.first).into(), version));
        }
        // Days that ended before the last of the run go with it.
        let last_day = run.entries.last().map_or(0, |sealed| DayCounts::day_of(sealed.sealed_ms));
        let old = Scan { to: Some(DayCounts::key(last_day).into()), ..Scan::prefix(b"day/") };
        let days = self.state.scan(HEADS.into(), run.chain.to_string().as_bytes(), old).await?;
        commit.deletes = days.rows.into_iter().map(|row| row.key).collect();
        if let CommitOutcome::Conflict { .. } = self.state.commit(commit).await? {
            return Ok(false);
        }
        self.delete(run.chain, &run.entries).await?;
        Ok(true)
    }

    /// Deletes what lies below the floor still: whoever lowered it died before.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self, chain: Chain) -> Result<(), ModelError> {
        let Some(floor) = self.floor(chain).await? else { return Ok(()) };
        let mut left = Vec::new();
        for sequence in floor.first..=floor.last {
            left.extend(self.entry(chain, sequence).await?);
        }
        self.delete(chain, &left).await
    }

    async fn delete(&self, chain: Chain, entries: &[Sealed]) -> Result<(), ModelError> {
        for some in entries.chunks(1_024) {
            let mut rows = Vec::with_capacity(some.len() * 3);
            let mut row = |table, partition: Bytes, key: Bytes| {
                rows.push(Merge { table, partition, key, version: 2, value: None });
            };
            for sealed in some {
                let (id, sequence) = (sealed.entry.id, sealed.sequence.to_be_bytes());
                row(INDEX, chain.ids(id), Bytes::copy_from_slice(&id.to_bytes()));
                if let Some(partner) = sealed.entry.partner_id {
                    let key = feed_key(chain, sealed.sealed_ms, sealed.sequence);
                    row(INDEX, feed(partner, hour_of(sealed.sealed_ms)), key);
                }
                row(LOG, chain.block(sealed.sequence), Bytes::copy_from_slice(&sequence));
            }
            self.state.merge(rows).await?;
        }
        Ok(())
    }

    /// Every chain that has a head or an entry.
    ///
    /// # Errors
    /// The store's.
    pub async fn chains(&self) -> Result<std::collections::BTreeSet<Chain>, ModelError> {
        self.chains_in(&[HEADS.into()]).await
    }

    pub(super) async fn chains_in(&self, tables: &[Table]) -> Result<std::collections::BTreeSet<Chain>, ModelError> {
        let mut chains = std::collections::BTreeSet::new();
        for table in tables {
            for bucket in 0..crate::state::BUCKETS {
                let mut cursor = None;
                loop {
                    let page = self.state.scan_family(*table, bucket, cursor, crate::state::MAX_PAGE_ROWS).await?;
                    chains.extend(page.rows.iter().filter_map(|(partition, _)| Chain::of_partition(partition)));
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(chains)
    }

    /// Copies the newest batch of a chain to the log once more: whoever wrote it may have died before. Its
    /// head, checked.
    ///
    /// # Errors
    /// The store's; [`ModelError::Corrupt`] for a head that was tampered with.
    pub async fn mend(&self, chain: Chain) -> Result<Option<super::Head>, ModelError> {
        let place = self.place(chain);
        self.checked_head(chain, &place).await
    }
}
