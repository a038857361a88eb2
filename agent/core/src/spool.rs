//! Heartbeats that are not yet acknowledged, and the numbers that they are known by.
//!
//! A heartbeat is kept as soon as it is taken and gets its number when it is first sent; both are
//! durable before it leaves. So numbers are dense whatever was thinned out before, and an agent
//! that does not know yet whether its numbers are current (see [`crate::Session`]) loses nothing by
//! waiting. It is removed only when the relay says that it is stored, or refuses it for good.
//!
//! When full, the older unnumbered heartbeats are thinned out evenly: each that goes adds its traffic to
//! the next one, so that sums hold, and is counted.

mod memory;
pub use memory::MemoryStorage;

use breeze_proto::{
    limits::MAX_UNACKED_HEARTBEATS,
    v1::{Heartbeat, Lane},
};
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};

/// The key of [`Counters`] in the storage; entries count from 1.
const COUNTERS_KEY: u64 = 0;
/// Entries that go in one pass of thinning, at most.
const THIN_AT_ONCE: usize = 256;
/// Entries that are held in memory while the disk takes none.
const MAX_UNSTORED: usize = MAX_UNACKED_HEARTBEATS;

/// The storage failed; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the spool cannot be {action}: {cause}")]
pub struct StorageError {
    pub action: &'static str,
    pub cause: String,
}

/// Where the spool's records lie: a small map that survives crashes. A `put` replaces.
pub trait Storage {
    /// Calls `visit` with each record that is held, once, in order of key.
    ///
    /// # Errors
    /// [`StorageError`] if nothing can be read; damage in single records is skipped.
    fn load(&mut self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), StorageError>;
    /// Keeps a record; durable after the next [`Storage::commit`].
    ///
    /// # Errors
    /// [`StorageError`], and the record is as it was.
    fn put(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError>;
    /// A record's value.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be read.
    fn get(&mut self, key: u64) -> Result<Option<Vec<u8>>, StorageError>;
    /// Forgets a record; may come back after a crash.
    ///
    /// # Errors
    /// [`StorageError`], and the record may still be there.
    fn remove(&mut self, key: u64) -> Result<(), StorageError>;
    /// Hands everything to the operating system (survives the process) and, if `durable`, to the
    /// device (survives a loss of power).
    ///
    /// # Errors
    /// [`StorageError`] if that is not certain.
    fn commit(&mut self, durable: bool) -> Result<(), StorageError>;
}

/// Numbers that outlive every heartbeat.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Counters {
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// Number of the next heartbeat on the live lane, from 1.
    #[prost(uint64, tag = "2")]
    pub next_live: u64,
    #[prost(uint64, tag = "3")]
    pub next_backlog: u64,
    #[prost(uint64, tag = "4")]
    pub session_counter: u64,
    /// Heartbeats dropped, ever.
    #[prost(uint64, tag = "5")]
    pub thinned: u64,
    /// Highest inventory revision given.
    #[prost(uint64, tag = "6")]
    pub inventory_revision: u64,
    /// The latest server time heard of: a floor under a clock that lost its battery.
    #[prost(uint64, tag = "7")]
    pub server_us: u64,
    /// The server's time minus the monotonic clock, in the boot below.
    #[prost(sint64, tag = "8")]
    pub server_minus_mono_us: i64,
    #[prost(bytes = "bytes", tag = "9")]
    pub boot_id: Bytes,
}

/// What is kept of one heartbeat.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// With its boot id, always; `seq` 0 while it has no number.
    #[prost(message, optional, tag = "1")]
    pub heartbeat: Option<Heartbeat>,
    /// The server's time when it was taken, estimated; 0: unknown in that boot.
    #[prost(uint64, tag = "2")]
    pub server_us: u64,
}

/// A heartbeat's identity, below the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    pub incarnation: u64,
    /// [`Lane`] as it is encoded.
    pub lane: i32,
    pub seq: u64,
}

impl Number {
    #[must_use]
    pub fn of(heartbeat: &Heartbeat) -> Self {
        Self { incarnation: heartbeat.incarnation, lane: heartbeat.lane, seq: heartbeat.seq }
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub entries: usize,
    pub bytes: u64,
}

impl Default for Limits {
    /// Two weeks at one heartbeat a minute.
    fn default() -> Self {
        Self { entries: 20_000, bytes: 24 * 1024 * 1024 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    key: u64,
    bytes: u32,
}

/// The spool over its storage.
#[derive(Debug)]
pub struct Spool<S> {
    storage: S,
    limits: Limits,
    counters: Counters,
    next_key: u64,
    bytes: u64,
    /// Key to encoded size, oldest first.
    unnumbered: BTreeMap<u64, u32>,
    numbered: BTreeMap<Number, Slot>,
    /// Values that the storage would not take.
    unstored: BTreeMap<u64, Vec<u8>>,
    /// Why the storage failed last, until it works again.
    trouble: Option<StorageError>,
}

impl<S: Storage> Spool<S> {
    /// Reads what is held.
    ///
    /// # Errors
    /// [`StorageError`] if the storage cannot be read at all.
    pub fn open(mut storage: S, limits: Limits) -> Result<Self, StorageError> {
        let mut counters = None;
        let mut unnumbered = BTreeMap::new();
        let mut numbered = BTreeMap::new();
        let mut damaged = Vec::new();
        let (mut last_key, mut bytes) = (COUNTERS_KEY, 0);
        storage.load(&mut |key, value| {
            last_key = last_key.max(key);
            if key == COUNTERS_KEY {
                counters = Counters::decode(value).ok();
                return;
            }
            let Some(heartbeat) = Entry::decode(value).ok().and_then(|entry| entry.heartbeat) else {
                damaged.push(key);
                return;
            };
            bytes += value.len() as u64;
            if heartbeat.seq == 0 {
                unnumbered.insert(key, value.len() as u32);
            } else {
                numbered.insert(Number::of(&heartbeat), Slot { key, bytes: value.len() as u32 });
            }
        })?;
        for key in damaged {
            storage.remove(key)?;
        }
        let mut counters = counters.unwrap_or_default();
        // An entry may have been written without the counters behind it.
        let incarnation = counters.incarnation;
        for number in numbered.keys().filter(|number: &&Number| number.incarnation == incarnation) {
            let next = next_of(&mut counters, number.lane);
            *next = (*next).max(number.seq + 1);
        }
        counters.next_live = counters.next_live.max(1);
        counters.next_backlog = counters.next_backlog.max(1);
        Ok(Self {
            storage,
            limits,
            counters,
            next_key: last_key + 1,
            bytes,
            unnumbered,
            numbered,
            unstored: BTreeMap::new(),
            trouble: None,
        })
    }

    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Heartbeats held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unnumbered.len() + self.numbered.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the heartbeats held, as encoded.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why the storage does not work at present.
    #[must_use]
    pub const fn trouble(&self) -> Option<&StorageError> {
        self.trouble.as_ref()
    }

    /// The storage, for the shell's own upkeep.
    pub const fn storage(&mut self) -> &mut S {
        &mut self.storage
    }

    /// Changes counters and makes them durable.
    pub fn update_counters(&mut self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters);
        self.write_counters();
        self.commit(true);
    }

    /// Changes counters; durable with the next commit.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters);
    }

    /// Keeps a heartbeat without a number; its key is returned. `durable`: it must survive a loss of
    /// power from here on.
    pub fn append(&mut self, entry: &Entry, durable: bool) -> u64 {
        let value = entry.encode_to_vec();
        self.make_room(value.len() as u64);
        let key = self.next_key;
        self.next_key += 1;
        self.store(key, value.clone());
        self.bytes += value.len() as u64;
        self.unnumbered.insert(key, value.len() as u32);
        self.commit(durable);
        key
    }

    /// Keys without a number, oldest first.
    pub(crate) fn unnumbered(&self) -> impl Iterator<Item = u64> {
        self.unnumbered.keys().copied()
    }

    pub(crate) fn is_unnumbered(&self, key: u64) -> bool {
        self.unnumbered.contains_key(&key)
    }

    /// Everything that has a number.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = Number> {
        self.numbered.keys().copied()
    }

    /// Gives `keys` the next numbers of `lane` before they are sent. Keys that cannot be read any more
    /// are dropped and counted. `durable` may only be left out for entries that were never durable
    /// without a number: after a loss of power those are gone, and cannot come back under another one.
    pub(crate) fn number(&mut self, keys: &[u64], lane: Lane, durable: bool) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(keys.len());
        for &key in keys {
            let Some(bytes) = self.unnumbered.get(&key).copied() else { continue };
            let Some(mut entry) = self.read(key) else {
                self.unnumbered.remove(&key);
                self.bytes -= u64::from(bytes);
                self.forget(key);
                self.counters.thinned += 1;
                continue;
            };
            let incarnation = self.counters.incarnation;
            let seq = *next_of(&mut self.counters, lane as i32);
            if let Some(heartbeat) = &mut entry.heartbeat {
                heartbeat.incarnation = incarnation;
                heartbeat.lane = lane as i32;
                heartbeat.seq = seq;
            }
            let value = entry.encode_to_vec();
            let length = value.len() as u32;
            if !self.store_number(key, value) {
                continue;
            }
            *next_of(&mut self.counters, lane as i32) += 1;
            self.unnumbered.remove(&key);
            self.bytes = self.bytes + u64::from(length) - u64::from(bytes);
            self.numbered.insert(Number { incarnation, lane: lane as i32, seq }, Slot { key, bytes: length });
            entries.push(entry);
        }
        self.write_counters();
        self.commit(durable);
        entries
    }

    /// A numbered heartbeat, to be sent again. One that cannot be read any more is dropped.
    pub(crate) fn get(&mut self, number: Number) -> Option<Entry> {
        let slot = *self.numbered.get(&number)?;
        let entry = self.read(slot.key);
        if entry.is_none() {
            self.remove_range(number, number.seq);
            self.counters.thinned += 1;
        }
        entry
    }

    /// Forgets what lies from `first` to `last_seq` in its lane; how many there were.
    pub(crate) fn remove_range(&mut self, first: Number, last_seq: u64) -> usize {
        if last_seq < first.seq {
            return 0;
        }
        let last = Number { seq: last_seq, ..first };
        let gone: Vec<(Number, Slot)> =
            self.numbered.range(first..=last).map(|(number, slot)| (*number, *slot)).collect();
        for (number, slot) in &gone {
            self.numbered.remove(number);
            self.bytes -= u64::from(slot.bytes);
            self.forget(slot.key);
        }
        if !gone.is_empty() {
            self.commit(false);
        }
        gone.len()
    }

    /// Starts to number anew under another incarnation.
    pub(crate) fn begin_incarnation(&mut self, incarnation: u64) {
        self.update_counters(|counters| {
            counters.incarnation = incarnation;
            counters.next_live = 1;
            counters.next_backlog = 1;
        });
    }

    /// Makes everything durable.
    pub fn flush(&mut self) {
        self.retry_unstored();
        self.write_counters();
        self.commit(true);
    }

    fn make_room(&mut self, incoming: u64) {
        while self.len() + 1 > self.limits.entries || self.bytes + incoming > self.limits.bytes {
            if self.thin() == 0 {
                break;
            }
        }
    }

    /// Makes the older part coarser; how many went.
    fn thin(&mut self) -> usize {
        let mut dropped = 0;
        for (victim, heir) in self.victims() {
            let merged = heir.and_then(|heir| Some((heir, merge(&self.read(victim)?, self.read(heir)?))));
            if let Some((heir, entry)) = merged {
                let value = entry.encode_to_vec();
                let before = self.unnumbered.insert(heir, value.len() as u32).unwrap_or(0);
                self.bytes = self.bytes + value.len() as u64 - u64::from(before);
                self.store(heir, value);
            }
            if let Some(bytes) = self.unnumbered.remove(&victim) {
                self.bytes -= u64::from(bytes);
            }
            self.forget(victim);
            dropped += 1;
        }
        self.counters.thinned += dropped as u64;
        self.write_counters();
        self.commit(false);
        dropped
    }

    /// Which go, each with the next one, which takes its sums over: those whose going leaves the shortest
    /// spans, the oldest of them first, so that what is left lies evenly. Keys count heartbeats, so their
    /// distance is the span in intervals. The newest quarter stays as it is.
    fn victims(&self) -> Vec<(u64, Option<u64>)> {
        let older = (self.unnumbered.len() * 3 / 4).max(1);
        let keys: Vec<u64> = self.unnumbered.keys().copied().take(older).collect();
        if let [only] = keys.as_slice() {
            return vec![(*only, self.unnumbered.keys().copied().find(|key| key > only))];
        }
        let before = |at: usize| if at == 0 { keys[0].saturating_sub(1) } else { keys[at - 1] };
        let mut spans: Vec<(u64, usize)> =
            (0..keys.len().saturating_sub(1)).map(|at| (keys[at + 1] - before(at), at)).collect();
        spans.sort_unstable();
        let mut chosen = BTreeSet::new();
        for (_, at) in spans {
            let apart = !chosen.contains(&(at + 1)) && (at == 0 || !chosen.contains(&(at - 1)));
            if apart && chosen.len() < (keys.len() / 8).clamp(1, THIN_AT_ONCE) {
                chosen.insert(at);
            }
        }
        chosen.into_iter().map(|at| (keys[at], Some(keys[at + 1]))).collect()
    }

    fn read(&mut self, key: u64) -> Option<Entry> {
        if let Some(value) = self.unstored.get(&key) {
            return Entry::decode(value.as_slice()).ok();
        }
        match self.storage.get(key) {
            Ok(value) => Entry::decode(value?.as_slice()).ok().filter(|entry| entry.heartbeat.is_some()),
            Err(error) => {
                self.trouble = Some(error);
                None
            }
        }
    }

    fn store(&mut self, key: u64, value: Vec<u8>) {
        if let Err(error) = self.storage.put(key, &value) {
            self.trouble = Some(error);
            self.unstored.insert(key, value);
            self.bound_unstored();
        } else {
            self.unstored.remove(&key);
        }
    }

    /// As `store`, but `false` if the disk holds the entry without its number and takes no other: sent all
    /// the same, it would come back after a crash and get a second one.
    fn store_number(&mut self, key: u64, value: Vec<u8>) -> bool {
        let Err(error) = self.storage.put(key, &value) else {
            self.unstored.remove(&key);
            return true;
        };
        self.trouble = Some(error);
        if !matches!(self.storage.get(key), Ok(None)) {
            return false;
        }
        self.unstored.insert(key, value);
        self.bound_unstored();
        true
    }

    /// A full disk must not keep a device from saying so: the newest stay in memory.
    fn bound_unstored(&mut self) {
        while self.unstored.len() > MAX_UNSTORED {
            let oldest = self.unstored.keys().copied().find(|key| self.unnumbered.contains_key(key));
            let Some(key) = oldest.or_else(|| self.unstored.keys().next().copied()) else { return };
            self.unstored.remove(&key);
            if let Some(bytes) = self.unnumbered.remove(&key) {
                self.bytes -= u64::from(bytes);
                self.counters.thinned += 1;
            }
        }
    }

    fn retry_unstored(&mut self) {
        let waiting = std::mem::take(&mut self.unstored);
        for (key, value) in waiting {
            self.store(key, value);
        }
    }

    fn forget(&mut self, key: u64) {
        self.unstored.remove(&key);
        if let Err(error) = self.storage.remove(key) {
            self.trouble = Some(error);
        }
    }

    fn write_counters(&mut self) {
        let value = self.counters.encode_to_vec();
        if let Err(error) = self.storage.put(COUNTERS_KEY, &value) {
            self.trouble = Some(error);
        }
    }

    fn commit(&mut self, durable: bool) {
        match self.storage.commit(durable) {
            Ok(()) => {
                if self.unstored.is_empty() {
                    self.trouble = None;
                } else if self.trouble.take().is_some() {
                    // Works again, perhaps: what waits in memory is tried once more.
                    self.retry_unstored();
                }
            }
            Err(error) => self.trouble = Some(error),
        }
    }
}

fn next_of(counters: &mut Counters, lane: i32) -> &mut u64 {
    if lane == Lane::Live as i32 { &mut counters.next_live } else { &mut counters.next_backlog }
}

/// The heir with what the victim counted.
fn merge(victim: &Entry, mut heir: Entry) -> Entry {
    if let (Some(from), Some(into)) = (&victim.heartbeat, &mut heir.heartbeat) {
        if let (Some(from), Some(into)) = (&from.scalars, &mut into.scalars) {
            into.net_in_bytes = into.net_in_bytes.saturating_add(from.net_in_bytes);
            into.net_out_bytes = into.net_out_bytes.saturating_add(from.net_out_bytes);
        }
        if into.details.is_empty() {
            into.details.clone_from(&from.details);
        }
        if into.custom.is_empty() {
            into.custom.clone_from(&from.custom);
        }
    }
    heir
}
