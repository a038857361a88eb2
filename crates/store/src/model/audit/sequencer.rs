//! The sequencer of the chains. Who has an entry hands it to the chain; of those who do so at once one
//! takes the chain's seat and writes the entries of all as one batch. The seat is the chain's lease: a
//! node that does not hold it sends its batch to the holder, and takes the lease over when it gets no answer.
//! Safety hangs on the lease's fence and the head's version alone, see decision record 0018.

use super::{
    BLOCK_ENTRIES, Chain, DayCounts, Entry, HEADS, INDEX, LOG,
    seal::{Batch, Key, Sealed},
};
use crate::{
    model::{
        error::ModelError,
        record::{self, MAX_ATTEMPTS, Versioned},
    },
    state::{
        Assert, Commit, CommitOutcome, Merge, State, Table,
        leases::{Acquired, Lease, Leases},
        outbox::{Deliver, Delivery, DeliveryError},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex as SyncMutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, mem,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{Mutex, oneshot};

/// Entries of one batch.
pub const MAX_BATCH_ENTRIES: usize = 128;
/// Bytes of one batch, about.
pub const MAX_BATCH_BYTES: usize = 512 * 1024;
/// Entries that may wait for one chain on this node.
const MAX_WAITING: usize = 4_096;
/// Chains whose heads one process remembers.
const MAX_CHAINS: usize = 4_096;
/// A chain that nobody appends to is free after so long.
const LEASE: Duration = Duration::from_secs(60);
pub(super) const HEAD: &[u8] = b"head";
const HOUR_MS: u64 = 3600 * 1000;

/// Why the lease's holder did not take a batch.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ForwardError(pub String);

/// Brings a batch to the node that holds a chain's lease.
#[async_trait]
pub trait Forward: Send + Sync {
    /// Returns when the holder has made them durable.
    async fn forward(&self, holder: &str, chain: Chain, entries: &[Entry]) -> Result<(), ForwardError>;
}

/// The newest entry of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub sequence: u64,
    pub sealed_ms: u64,
    pub mac: String,
}

impl From<&Sealed> for Head {
    fn from(last: &Sealed) -> Self {
        Self { sequence: last.sequence, sealed_ms: last.sealed_ms, mac: last.mac.clone() }
    }
}

/// What a node that holds the lease knows of the chain. Whatever it is, fence and versions decide.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) lease: Lease,
    head: Option<Versioned<Batch>>,
    counts: DayCounts,
}

#[derive(Debug)]
struct Waiting {
    entry: Entry,
    done: oneshot::Sender<()>,
}

/// A chain on this node.
#[derive(Debug, Default)]
pub(super) struct Place {
    waiting: SyncMutex<Vec<Waiting>>,
    /// Held while one writes. `None`: not known to be this node's.
    seat: Mutex<Option<Seat>>,
    /// The highest number this process has seen in the chain, and its MAC.
    seen: SyncMutex<Option<Head>>,
}

impl Place {
    #[cfg(test)]
    pub(super) async fn seat_for_test(&self) -> tokio::sync::MutexGuard<'_, Option<Seat>> {
        self.seat.lock().await
    }

    fn see(&self, head: Option<Head>) {
        let mut seen = self.seen.lock();
        if head.as_ref().map(|head| head.sequence) > seen.as_ref().map(|seen| seen.sequence) {
            *seen = head;
        }
    }
}

/// The sequencer and reader of the chains.
pub struct AuditLog {
    pub(super) state: Arc<dyn State>,
    pub(super) key: Key,
    node: String,
    leases: Leases,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    forward: OnceLock<Arc<dyn Forward>>,
    places: SyncMutex<HashMap<Chain, Arc<Place>>>,
    grown: SyncMutex<BTreeMap<Chain, Head>>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("node", &self.node).finish_non_exhaustive()
    }
}

enum Sat {
    Here(Box<Seat>),
    /// The holder has taken the entries.
    Sent,
}

impl AuditLog {
    /// `key` must not be in the store; `node` is this process's name among the nodes, `clock` tells
    /// milliseconds since the Unix epoch.
    #[must_use]
    pub fn new(
        state: Arc<dyn State>,
        key: [u8; 32],
        node: &str,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            leases: Leases::new(Arc::clone(&state), HEADS),
            state,
            key: Key(key),
            node: node.to_owned(),
            clock: Arc::new(clock),
            forward: OnceLock::new(),
            places: SyncMutex::default(),
            grown: SyncMutex::default(),
        }
    }

    /// How other nodes are reached. Without it every node takes the lease over when it has something.
    pub fn forward_by(&self, forward: Arc<dyn Forward>) {
        let _first_stays = self.forward.set(forward);
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Chains that have grown on this node since the last call, and their heads.
    #[must_use]
    pub fn take_grown(&self) -> BTreeMap<Chain, Head> {
        mem::take(&mut self.grown.lock())
    }

    /// Says again that a chain has grown: its head was not published.
    pub fn put_grown(&self, chain: Chain, head: Head) {
        let mut grown = self.grown.lock();
        if grown.get(&chain).is_none_or(|newer| newer.sequence < head.sequence) {
            grown.insert(chain, head);
        }
    }

    /// Appends an entry to its chain; an entry that is there already (by its id) is left alone.
    ///
    /// # Errors
    /// The store's, and [`ModelError::Conflict`] when too many wait.
    pub async fn append(&self, entry: Entry) -> Result<(), ModelError> {
        let chain = entry.chain();
        let place = self.place(chain);
        loop {
            let (done, mut is_done) = oneshot::channel();
            {
                let mut waiting = place.waiting.lock();
                if waiting.len() >= MAX_WAITING {
                    metrics::counter!("breeze_audit_refused_total").increment(1);
                    return Err(record::contended());
                }
                waiting.push(Waiting { entry: entry.clone(), done });
            }
            let mut seat = place.seat.lock().await;
            loop {
                match is_done.try_recv() {
                    Ok(()) => return Ok(()),
                    // Who had taken it went away or failed: for itself it tries again.
                    Err(oneshot::error::TryRecvError::Closed) => break,
                    Err(oneshot::error::TryRecvError::Empty) => {}
                }
                let batch = take_batch(&mut place.waiting.lock());
                let entries = batch.iter().map(|waiting| waiting.entry.clone()).collect();
                self.write(chain, &place, &mut seat, entries, true).await?;
                for waiting in batch {
                    let _gone_away = waiting.done.send(());
                }
            }
        }
    }

    /// Appends what another node has sent to this one as the holder of the chain's lease.
    ///
    /// # Errors
    /// As [`AuditLog::append`]; [`ModelError::Conflict`] if the lease is another's by now.
    pub async fn append_sent(&self, chain: Chain, entries: Vec<Entry>) -> Result<(), ModelError> {
        if entries.len() > MAX_BATCH_ENTRIES || entries.iter().any(|entry| entry.chain() != chain) {
            return Err(ModelError::Conflict("These are no entries of the chain.".into()));
        }
        let place = self.place(chain);
        let mut seat = place.seat.lock().await;
        self.write(chain, &place, &mut seat, entries, false).await
    }

    /// What is known of a chain here. Those that nobody uses are forgotten when there are too many.
    pub(super) fn place(&self, chain: Chain) -> Arc<Place> {
        let mut places = self.places.lock();
        if places.len() >= MAX_CHAINS && !places.contains_key(&chain) {
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        Arc::clone(places.entry(chain).or_default())
    }

    /// Writes a batch, here or at the holder of the lease.
    async fn write(
        &self,
        chain: Chain,
        place: &Place,
        seat: &mut Option<Seat>,
        entries: Vec<Entry>,
        may_send: bool,
    ) -> Result<(), ModelError> {
        for _ in 0..MAX_ATTEMPTS {
            // Taken out: after an error nobody knows whether it still holds.
            let mut held = match seat.take() {
                Some(held) => held,
                None => match self.sit(chain, place, &entries, may_send).await? {
                    Sat::Here(held) => *held,
                    Sat::Sent => return Ok(()),
                },
            };
            self.renew(&mut held.lease).await?;
            // After the head was read: what another node put there and has been followed since is in the index.
            let fresh = self.fresh(chain, held.head.as_ref(), &entries).await?;
            if fresh.is_empty() {
                *seat = Some(held);
                return Ok(());
            }
            let batch = self.sealed(chain, held.head.as_ref(), fresh);
            let last = Head::from(batch.last());
            let (commit, counts) = self.commit_of(chain, &held, &batch).await?;
            if let CommitOutcome::Applied { version } = self.state.commit(commit).await? {
                self.copy(chain, &batch).await?;
                metrics::counter!("breeze_audit_entries_total").increment(batch.entries.len() as u64);
                place.see(Some(last.clone()));
                self.put_grown(chain, last);
                held.head = Some(Versioned { version, value: batch });
                held.counts = counts;
                *seat = Some(held);
                return Ok(());
            }
        }
        Err(record::contended())
    }

    fn sealed(&self, chain: Chain, head: Option<&Versioned<Batch>>, entries: Vec<Entry>) -> Batch {
        let last = head.map(|head| head.value.last());
        let before = last.map(|last| last.mac.clone()).unwrap_or_default();
        let mut mac = before.clone();
        let mut sequence = last.map_or(0, |last| last.sequence);
        let mut sealed_ms = last.map_or(0, |last| last.sealed_ms).max(self.now_ms());
        let entries = entries
            .into_iter()
            .map(|entry| {
                sequence += 1;
                sealed_ms = sealed_ms.max(entry.timestamp_ms.min(self.now_ms() + MAX_AHEAD_MS));
                let sealed = Sealed::new(&self.key, chain, &mac, sequence, sealed_ms, entry);
                mac.clone_from(&sealed.mac);
                sealed
            })
            .collect();
        Batch { before, entries }
    }

    /// The head's commit, and the counts of the day that it leaves.
    async fn commit_of(&self, chain: Chain, held: &Seat, batch: &Batch) -> Result<(Commit, DayCounts), ModelError> {
        let head = match &held.head {
            None => Assert::Absent(HEAD.into()),
            Some(head) => Assert::Version(HEAD.into(), head.version),
        };
        let mut commit =
            Commit::new(HEADS, chain.to_string()).assert(held.lease.fence()).assert(head).put(HEAD, batch.encode());
        let mut counts = held.counts.clone();
        for sealed in &batch.entries {
            let day = DayCounts::day_of(sealed.sealed_ms);
            if day != counts.day {
                if counts != DayCounts::new(counts.day) {
                    commit = commit.put(DayCounts::key(counts.day), record::encode(&counts));
                }
                counts = self.counts(chain, day).await?;
            }
            counts.add(sealed);
        }
        Ok((commit.put(DayCounts::key(counts.day), record::encode(&counts)), counts))
    }

    pub(super) async fn counts(&self, chain: Chain, day: u64) -> Result<DayCounts, ModelError> {
        let partition = chain.to_string();
        let found = record::read::<DayCounts>(&*self.state, HEADS, partition.as_bytes(), &DayCounts::key(day)).await?;
        Ok(found.map_or_else(|| DayCounts::new(day), |found| found.value))
    }

    /// Entries that are not in the chain yet.
    async fn fresh(
        &self,
        chain: Chain,
        head: Option<&Versioned<Batch>>,
        entries: &[Entry],
    ) -> Result<Vec<Entry>, ModelError> {
        let mut known: HashSet<_> =
            head.iter().flat_map(|head| head.value.entries.iter().map(|sealed| sealed.entry.id)).collect();
        let stored = futures_util::future::try_join_all(entries.iter().map(|entry| async move {
            let partition = chain.ids(entry.id);
            self.state.get(Table::Merge(INDEX), &partition, &entry.id.to_bytes()).await
        }))
        .await?;
        Ok(entries
            .iter()
            .zip(stored)
            .filter(|(entry, stored)| stored.is_none() && known.insert(entry.id))
            .map(|(entry, _)| entry.clone())
            .collect())
    }

    /// The seat of a chain, or the entries at whoever has it.
    async fn sit(&self, chain: Chain, place: &Place, entries: &[Entry], may_send: bool) -> Result<Sat, ModelError> {
        let acquired = self.acquire(chain, self.now_ms()).await?;
        if let Acquired::Held { holder, until_ms } = &acquired {
            let holder = String::from_utf8_lossy(holder).into_owned();
            if !may_send {
                return Err(ModelError::Conflict(format!("{holder} holds the chain's lease until {until_ms}.")));
            }
            if let Some(forward) = self.forward.get().filter(|_| !holder.is_empty()) {
                match forward.forward(&holder, chain, entries).await {
                    Ok(()) => return Ok(Sat::Sent),
                    Err(error) => tracing::debug!(%chain, %holder, %error, "taking over the lease of an audit chain"),
                }
            }
            metrics::counter!("breeze_audit_takeovers_total").increment(1);
        }
        let seat = match acquired {
            Acquired::Yes(lease) => self.seat(chain, place, lease).await?,
            Acquired::Held { .. } => self.take_seat(chain, place).await?,
        };
        Ok(Sat::Here(Box::new(seat)))
    }

    async fn acquire(&self, chain: Chain, now_ms: u64) -> Result<Acquired, ModelError> {
        let until = self.now_ms() + LEASE.as_millis() as u64;
        Ok(self.leases.acquire(chain.to_string().as_bytes(), self.node.as_bytes(), until, now_ms).await?)
    }

    /// Takes the lease whoever holds it, and reads what the seat must know.
    pub(super) async fn take_seat(&self, chain: Chain, place: &Place) -> Result<Seat, ModelError> {
        for _ in 0..MAX_ATTEMPTS {
            // As if every lease had ended: the fence makes that safe.
            if let Acquired::Yes(lease) = self.acquire(chain, u64::MAX).await? {
                return self.seat(chain, place, lease).await;
            }
        }
        Err(record::contended())
    }

    async fn seat(&self, chain: Chain, place: &Place, lease: Lease) -> Result<Seat, ModelError> {
        let head = self.read_head(chain, place).await?;
        let day = DayCounts::day_of(self.now_ms());
        Ok(Seat { lease, head, counts: self.counts(chain, day).await? })
    }

    async fn renew(&self, lease: &mut Lease) -> Result<(), ModelError> {
        let now = self.now_ms();
        let long = LEASE.as_millis() as u64;
        if now + long / 2 > lease.until_ms {
            // Lost to another: the commit's fence says so.
            let _held = self.leases.renew(lease, now + long).await?;
        }
        Ok(())
    }

    /// The head as it is stored, checked, and copied to the log: whoever put it there may have died before.
    async fn read_head(&self, chain: Chain, place: &Place) -> Result<Option<Versioned<Batch>>, ModelError> {
        // Before the row: others may write meanwhile.
        let seen = place.seen.lock().clone();
        let row = self.state.get(HEADS.into(), chain.to_string().as_bytes(), HEAD).await?;
        let head =
            row.map(|row| Ok::<_, ModelError>(Versioned { version: row.version, value: Batch::decode(&row.value)? }));
        let head = head.transpose().map_err(|_| tampered(chain, "its head cannot be read"))?;
        if let Some(Versioned { value: batch, .. }) = &head
            && !batch.holds(&self.key, chain)
        {
            return Err(tampered(chain, "the MAC of its head is wrong"));
        }
        let last = head.as_ref().map(|head| Head::from(head.value.last()));
        if let Some(seen) = seen {
            let is_older = last.as_ref().is_none_or(|last| last.sequence < seen.sequence);
            let is_other = last.as_ref().is_some_and(|last| last.sequence == seen.sequence && last.mac != seen.mac);
            if is_older || is_other {
                return Err(tampered(chain, "its head is older than what this node wrote"));
            }
        }
        if let Some(head) = &head {
            self.copy(chain, &head.value).await?;
        }
        place.see(last);
        Ok(head)
    }

    async fn copy(&self, chain: Chain, batch: &Batch) -> Result<(), ModelError> {
        let mut rows = Vec::with_capacity(batch.entries.len() * 4);
        let mut row = |table, partition: Bytes, key: Bytes, value: Bytes| {
            rows.push(Merge { table, partition, key, version: 1, value: Some(value) });
        };
        for sealed in &batch.entries {
            let sequence = Bytes::copy_from_slice(&sealed.sequence.to_be_bytes());
            let id = sealed.entry.id;
            row(LOG, chain.block(sealed.sequence), sequence.clone(), sealed.encode());
            row(INDEX, chain.ids(id), Bytes::copy_from_slice(&id.to_bytes()), sequence);
            if let Some(partner) = sealed.entry.partner_id {
                let hour = sealed.sealed_ms / HOUR_MS;
                row(INDEX, feed_hours(partner), Bytes::copy_from_slice(&hour.to_be_bytes()), Bytes::from_static(b"1"));
                let key = feed_key(chain, sealed.sealed_ms, sealed.sequence);
                row(INDEX, feed(partner, hour), key, Bytes::from_static(b"1"));
            }
        }
        Ok(self.state.merge(rows).await?)
    }

    pub(super) async fn checked_head(&self, chain: Chain, place: &Place) -> Result<Option<Head>, ModelError> {
        Ok(self.read_head(chain, place).await?.map(|head| Head::from(head.value.last())))
    }

    /// The newest entry of a chain, as it is stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn head(&self, chain: Chain) -> Result<Option<Head>, ModelError> {
        let row = self.state.get(HEADS.into(), chain.to_string().as_bytes(), HEAD).await?;
        row.map(|row| Ok(Head::from(Batch::decode(&row.value)?.last()))).transpose()
    }
}

/// How far ahead of the sequencer's clock another node's may put an entry.
const MAX_AHEAD_MS: u64 = 60 * 1000;

/// Hours of a partner that have entries.
pub(super) fn feed_hours(partner: breeze_proto::id::PartnerId) -> Bytes {
    format!("feed/{partner}/hours").into()
}

/// Entries of a partner and one hour since the Unix epoch.
pub(super) fn feed(partner: breeze_proto::id::PartnerId, hour: u64) -> Bytes {
    format!("feed/{partner}/{hour}").into()
}

/// The place of an entry in the feed.
pub(super) fn feed_key(chain: Chain, sealed_ms: u64, sequence: u64) -> Bytes {
    [sealed_ms.to_be_bytes().as_slice(), &chain.to_key(), &sequence.to_be_bytes()].concat().into()
}

pub(super) const fn hour_of(sealed_ms: u64) -> u64 {
    sealed_ms / HOUR_MS
}

/// The first of those who wait, within the bounds of a batch.
fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let mut bytes = 0;
    let fits = waiting
        .iter()
        .take(MAX_BATCH_ENTRIES)
        .take_while(|waiting| {
            let first = bytes == 0;
            bytes += waiting.entry.encode().len();
            first || bytes <= MAX_BATCH_BYTES
        })
        .count();
    waiting.drain(..fits).collect()
}

/// Says that somebody had his hands in the store.
fn tampered(chain: Chain, what: &str) -> ModelError {
    metrics::counter!("breeze_audit_tampering_total").increment(1);
    tracing::error!(%chain, what, "the audit log was tampered with; nothing is appended to this chain");
    ModelError::Corrupt(format!("the audit chain {chain} was tampered with: {what}"))
}

#[async_trait]
impl Deliver for AuditLog {
    async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryError> {
        Ok(self.append(record::decode(&delivery.payload)?).await?)
    }
}

const _: () = assert!(MAX_BATCH_ENTRIES as u64 <= BLOCK_ENTRIES);
