//! Looking entries up, newest first. One chain is read by number; all of a partner through its feed, which is
//! in order of time. A call looks at a bounded number of entries and says where to go on.

use super::{
    ActorType, AuditLog, AuditResult, BLOCK_ENTRIES, Chain, DayCounts, Entry, HEADS, INDEX, LOG, Sealed,
    seal::Batch,
    sequencer::{HEAD, feed, feed_hours, feed_key, hour_of},
};
use crate::{
    model::{Scope, error::ModelError, record},
    state::{Row, Scan, Table},
};
use breeze_proto::id::PartnerId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An entry that comes to its place later than this after its time is not found under an upper bound of time.
pub const MAX_LATE_MS: u64 = 3600 * 1000;
/// Rows read at once.
const PAGE: usize = 256;
/// Entries of a feed that are fetched at once.
const AT_ONCE: usize = 32;

/// Whose entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Chain(Chain),
    /// The partner's own and those of its organizations, as far as the scope goes.
    Partner(PartnerId),
}

/// Which of them; what is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Inclusive, in milliseconds since the Unix epoch.
    pub from_ms: Option<u64>,
    /// Exclusive.
    pub to_ms: Option<u64>,
    /// An action, or what actions begin with, followed by `*`.
    pub action: Option<String>,
    pub actor_type: Option<ActorType>,
    /// Id or address.
    pub actor: Option<String>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    pub result: Option<AuditResult>,
    pub ip_address: Option<String>,
    pub request_id: Option<String>,
    /// Somewhere in action, actor's address, or the target's name and id, in small letters.
    pub text: Option<String>,
}

impl Filter {
    /// Whether an entry is meant.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        let action = self.action.as_deref().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(begin) => entry.action.starts_with(begin),
            None => entry.action == wanted,
        });
        self.from_ms.is_none_or(|from| entry.timestamp_ms >= from)
            && self.to_ms.is_none_or(|to| entry.timestamp_ms < to)
            && action
            && self.actor_type.is_none_or(|wanted| wanted == entry.actor_type)
            && (same(&self.actor, entry.actor_email.as_deref()) || same(&self.actor, entry.actor_id.as_deref()))
            && same(&self.resource_type, entry.resource_type.as_deref())
            && same(&self.resource_id, entry.resource_id.as_deref())
            && self.result.is_none_or(|wanted| wanted == entry.result)
            && same(&self.ip_address, entry.ip_address.as_deref())
            && same(&self.request_id, entry.request_id.as_deref())
            && self.text.as_deref().is_none_or(|text| has_text(entry, text))
    }

    /// Whether nothing of them is left out.
    fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

fn has_text(entry: &Entry, text: &str) -> bool {
    let within = |found: &Option<String>| found.as_ref().is_some_and(|found| found.to_lowercase().contains(text));
    entry.action.contains(text)
        || within(&entry.actor_email)
        || within(&entry.resource_name)
        || within(&entry.resource_id)
        || within(&entry.resource_type)
}

/// Where a call stopped: the last entry that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub sealed_ms: u64,
    /// Written out.
    pub chain: String,
    pub sequence: u64,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    pub reach: Reach,
    pub filter: &'a Filter,
    /// Only what comes after this, that is: is older.
    pub after: Option<&'a Position>,
    /// Entries at most.
    pub limit: usize,
    /// Entries that are looked at, at most.
    pub budget: usize,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub entries: Vec<(Chain, Sealed)>,
    /// Where to go on; `None`: there is no more.
    pub next: Option<Position>,
    /// How far back was looked, in milliseconds since the Unix epoch.
    pub looked_ms: Option<u64>,
    /// How many there are in all, where that is known without looking.
    pub total: Option<u64>,
}

/// A walk on its way.
struct Walk<'a> {
    asked: &'a Asked<'a>,
    found: Found,
    looked: usize,
}

impl Walk<'_> {
    /// Takes one more entry in. Whether to go on.
    fn look(&mut self, chain: Chain, sealed: Sealed) -> bool {
        // What is older than its time was never sealed before it.
        if self.asked.filter.from_ms.is_some_and(|from| sealed.sealed_ms < from) {
            self.found.next = None;
            return false;
        }
        self.looked += 1;
        self.found.looked_ms = Some(sealed.sealed_ms);
        let place = Position { sealed_ms: sealed.sealed_ms, chain: chain.to_string(), sequence: sealed.sequence };
        if self.asked.filter.matches(&sealed.entry) {
            self.found.entries.push((chain, sealed));
        }
        let goes_on = self.found.entries.len() < self.asked.limit && self.looked < self.asked.budget;
        self.found.next = (!goes_on).then_some(place);
        goes_on
    }
}

impl AuditLog {
    /// Looks entries up.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] outside the scope, and the store's.
    pub async fn find(&self, scope: &Scope, asked: &Asked<'_>) -> Result<Found, ModelError> {
        let mut walk = Walk { asked, found: Found::default(), looked: 0 };
        match asked.reach {
            Reach::Chain(chain) if allows(scope, chain) => self.walk_chain(chain, &mut walk).await?,
            Reach::Partner(partner) if scope.allows_partner(partner) => {
                self.walk_feed(scope, partner, &mut walk).await?;
            }
            Reach::Chain(_) | Reach::Partner(_) => return Err(ModelError::NotFound("audit log")),
        }
        Ok(walk.found)
    }

    async fn walk_chain(&self, chain: Chain, walk: &mut Walk<'_>) -> Result<(), ModelError> {
        let Some(row) = self.state.get(HEADS.into(), chain.to_string().as_bytes(), HEAD).await? else {
            walk.found.total = Some(0);
            return Ok(());
        };
        let batch = Batch::decode(&row.value)?;
        let newest = batch.last().sequence;
        let floor = self.floor(chain).await?.map_or(0, |floor| floor.last);
        walk.found.total = walk.asked.filter.is_all().then_some(newest - floor);
        let mut next = match (walk.asked.after, walk.asked.filter.to_ms) {
            (Some(after), _) => after.sequence.saturating_sub(1).min(newest),
            (None, Some(to)) => self.last_until(chain, floor, newest, to.saturating_add(MAX_LATE_MS)).await?,
            (None, None) => newest,
        };
        // The newest may be in the head alone for a moment.
        for sealed in batch.entries.into_iter().rev() {
            if sealed.sequence == next && next > floor {
                next -= 1;
                if !walk.look(chain, sealed) {
                    return Ok(());
                }
            }
        }
        while next > floor {
            let mut scan = Scan { reverse: true, limit: PAGE, ..Scan::default() };
            scan.to = Some(Bytes::copy_from_slice(&(next + 1).to_be_bytes()));
            scan.from = Bytes::copy_from_slice(&(floor + 1).to_be_bytes());
            let block = chain.block(next);
            loop {
                let page = self.state.scan(Table::Merge(LOG), &block, scan.clone()).await?;
                for row in &page.rows {
                    if !walk.look(chain, Sealed::decode(&row.value)?) {
                        return Ok(());
                    }
                }
                match page.next {
                    Some(to) => scan.to = Some(to),
                    None => break,
                }
            }
            next = (next - 1) / BLOCK_ENTRIES * BLOCK_ENTRIES;
        }
        Ok(())
    }

    /// The last entry above `floor` that was sealed not later than `until_ms`; `floor` if none was.
    pub(super) async fn last_until(
        &self,
        chain: Chain,
        floor: u64,
        newest: u64,
        until_ms: u64,
    ) -> Result<u64, ModelError> {
        let (mut below, mut above) = (floor, newest + 1);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            let sealed = self.entry(chain, middle).await?;
            // What is missing (the newest that is not copied yet, a hole) counts as later.
            if sealed.is_some_and(|sealed| sealed.sealed_ms <= until_ms) { below = middle } else { above = middle }
        }
        // A bound after everything must not lose what is in the head alone.
        Ok(if above == newest + 1 || until_ms >= self.now_ms() { newest.max(below) } else { below })
    }

    /// One entry by its number.
    ///
    /// # Errors
    /// The store's.
    pub async fn entry(&self, chain: Chain, sequence: u64) -> Result<Option<Sealed>, ModelError> {
        let row = self.state.get(Table::Merge(LOG), &chain.block(sequence), &sequence.to_be_bytes()).await?;
        row.map(|row| Sealed::decode(&row.value)).transpose()
    }

    async fn walk_feed(&self, scope: &Scope, partner: PartnerId, walk: &mut Walk<'_>) -> Result<(), ModelError> {
        let upper = walk.asked.filter.to_ms.map_or(u64::MAX, |to| to.saturating_add(MAX_LATE_MS));
        let mut below = match walk.asked.after {
            None => Bytes::copy_from_slice(&upper.to_be_bytes()),
            Some(after) => {
                let chain = after.chain.parse().map_err(ModelError::Corrupt)?;
                feed_key(chain, after.sealed_ms, after.sequence)
            }
        };
        let last_hour = hour_of(u64::from_be_bytes(below[..8].try_into().unwrap_or([u8::MAX; 8])));
        let mut hours = Scan { reverse: true, limit: PAGE, ..Scan::default() };
        hours.to = Some(Bytes::copy_from_slice(&last_hour.saturating_add(1).to_be_bytes()));
        let oldest = hour_of(walk.asked.filter.from_ms.unwrap_or(0));
        hours.from = Bytes::copy_from_slice(&oldest.to_be_bytes());
        loop {
            let page = self.state.scan(Table::Merge(INDEX), &feed_hours(partner), hours.clone()).await?;
            for row in &page.rows {
                let hour = row.key.as_ref().try_into().map_or(0, u64::from_be_bytes);
                if !self.walk_hour(scope, feed(partner, hour), &mut below, walk).await? {
                    return Ok(());
                }
            }
            match page.next {
                Some(to) => hours.to = Some(to),
                None => return Ok(()),
            }
        }
    }

    /// Whether to go on with the hour before.
    async fn walk_hour(
        &self,
        scope: &Scope,
        partition: Bytes,
        below: &mut Bytes,
        walk: &mut Walk<'_>,
    ) -> Result<bool, ModelError> {
        let mut scan = Scan { reverse: true, limit: PAGE, to: Some(below.clone()), ..Scan::default() };
        loop {
            let page = self.state.scan(Table::Merge(INDEX), &partition, scan.clone()).await?;
            let wanted: Vec<(Chain, u64)> =
                page.rows.iter().filter_map(place_in).filter(|(chain, _)| allows(scope, *chain)).collect();
            for some in wanted.chunks(AT_ONCE) {
                let read = some.iter().map(|(chain, sequence)| self.entry(*chain, *sequence));
                let read = futures_util::future::try_join_all(read).await?;
                for ((chain, _), sealed) in some.iter().zip(read) {
                    // One that is gone was archived a moment ago.
                    if let Some(sealed) = sealed
                        && !walk.look(*chain, sealed)
                    {
                        return Ok(false);
                    }
                }
            }
            match page.next {
                Some(to) => scan.to = Some(to),
                None => return Ok(true),
            }
        }
    }

    /// Counts by day of what the reach takes in, from `from_day` to before `to_day` (days since the Unix epoch).
    /// `chains` are those of a partner that the caller may see.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] outside the scope, and the store's.
    pub async fn day_counts(
        &self,
        scope: &Scope,
        chains: &[Chain],
        from_day: u64,
        to_day: u64,
    ) -> Result<Vec<DayCounts>, ModelError> {
        if chains.iter().any(|chain| !allows(scope, *chain)) {
            return Err(ModelError::NotFound("audit log"));
        }
        let mut all = Vec::new();
        for some in chains.chunks(AT_ONCE) {
            let read = some.iter().map(|chain| self.days_of(*chain, from_day, to_day));
            all.extend(futures_util::future::try_join_all(read).await?.into_iter().flatten());
        }
        Ok(all)
    }

    async fn days_of(&self, chain: Chain, from_day: u64, to_day: u64) -> Result<Vec<DayCounts>, ModelError> {
        let mut scan = Scan { from: DayCounts::key(from_day).into(), ..Scan::default() };
        scan.to = Some(DayCounts::key(to_day).into());
        let mut days = Vec::new();
        loop {
            let page = self.state.scan(HEADS.into(), chain.to_string().as_bytes(), scan.clone()).await?;
            for row in &page.rows {
                days.push(record::decode(&row.value)?);
            }
            match page.next {
                Some(from) => scan.from = from,
                None => return Ok(days),
            }
        }
    }
}

/// Whether a chain is for the caller's eyes.
fn allows(scope: &Scope, chain: Chain) -> bool {
    match chain {
        Chain::Instance => scope.system_reason().is_some(),
        Chain::Partner(partner) => scope.allows_partner(partner),
        Chain::Organization(organization) => scope.allows_organization(organization),
    }
}

/// What a row of the feed points to.
fn place_in(row: &Row) -> Option<(Chain, u64)> {
    let chain = Chain::from_key(row.key.get(8..25)?)?;
    Some((chain, u64::from_be_bytes(row.key.get(25..)?.try_into().ok()?)))
}
