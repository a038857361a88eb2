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
mod record;
mod thinning;

pub use memory::MemoryStorage;
pub use record::{Counters, Entry, Limits, Number, Storage, StorageError};

use breeze_proto::{limits::MAX_UNACKED_HEARTBEATS, v1::Lane};
use prost::Message as _;
use std::collections::BTreeMap;

/// The key of [`Counters`] in the storage; entries count from 1.
const COUNTERS_KEY: u64 = 0;
/// Entries that are held in memory while the disk takes none.
const MAX_UNSTORED: usize = MAX_UNACKED_HEARTBEATS;

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
    /// Nor the counters as they are.
    counters_unstored: bool,
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
            counters_unstored: false,
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

    /// As `store`, and `forget` of the one whose sums `key` has taken over: in one step, for after a crash
    /// in between they would be counted twice.
    fn store_and_forget(&mut self, key: u64, value: Vec<u8>, forgotten: u64) {
        if let Err(error) = self.storage.replace(key, &value, forgotten) {
            self.trouble = Some(error);
            self.unstored.insert(key, value);
            self.bound_unstored();
            self.forget(forgotten);
        } else {
            self.unstored.remove(&key);
            self.unstored.remove(&forgotten);
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
        let written = self.storage.put(COUNTERS_KEY, &value);
        self.counters_unstored = written.is_err();
        if let Err(error) = written {
            self.trouble = Some(error);
        }
    }

    fn commit(&mut self, durable: bool) {
        match self.storage.commit(durable) {
            Ok(()) => {
                if self.unstored.is_empty() && !self.counters_unstored {
                    self.trouble = None;
                } else if self.trouble.take().is_some() {
                    // Works again, perhaps: what waits in memory is tried once more.
                    self.retry_unstored();
                    if self.counters_unstored {
                        self.write_counters();
                    }
                }
            }
            Err(error) => self.trouble = Some(error),
        }
    }
}

fn next_of(counters: &mut Counters, lane: i32) -> &mut u64 {
    if lane == Lane::Live as i32 { &mut counters.next_live } else { &mut counters.next_backlog }
}
