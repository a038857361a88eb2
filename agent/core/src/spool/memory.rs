//! A storage in memory: for load generators, and for tests, where it can be copied as a snapshot
//! of the disk, lose what was not made durable, and be full.

use super::{Storage, StorageError};
use std::collections::{BTreeMap, BTreeSet};

/// Records in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    records: BTreeMap<u64, Vec<u8>>,
    /// What a loss of power would leave.
    durable: Option<BTreeMap<u64, Vec<u8>>>,
    /// Keys that changed since it was made so.
    changed: BTreeSet<u64>,
    full: bool,
}

impl MemoryStorage {
    /// Tracks what is durable, so that [`MemoryStorage::after_power_loss`] can be asked.
    #[must_use]
    pub fn tracking_durability() -> Self {
        Self { durable: Some(BTreeMap::new()), ..Self::default() }
    }

    /// What would be found after a loss of power now.
    #[must_use]
    pub fn after_power_loss(&self) -> Self {
        let records = self.durable.clone().unwrap_or_else(|| self.records.clone());
        let durable = self.durable.is_some().then(|| records.clone());
        Self { durable, records, changed: BTreeSet::new(), full: self.full }
    }

    fn note(&mut self, key: u64) {
        if self.durable.is_some() {
            self.changed.insert(key);
        }
    }

    /// While full, every write fails.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }
}

impl Storage for MemoryStorage {
    fn load(&mut self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), StorageError> {
        for (key, value) in &self.records {
            visit(*key, value);
        }
        Ok(())
    }

    fn put(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError> {
        if self.full {
            return Err(StorageError { action: "written", cause: "no space left".into() });
        }
        self.records.insert(key, value.to_vec());
        self.note(key);
        Ok(())
    }

    fn get(&mut self, key: u64) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.records.get(&key).cloned())
    }

    fn remove(&mut self, key: u64) -> Result<(), StorageError> {
        if self.full {
            return Err(StorageError { action: "written", cause: "no space left".into() });
        }
        self.records.remove(&key);
        self.note(key);
        Ok(())
    }

    fn replace(&mut self, key: u64, value: &[u8], removed: u64) -> Result<(), StorageError> {
        self.put(key, value)?;
        self.remove(removed)
    }

    fn commit(&mut self, durable: bool) -> Result<(), StorageError> {
        if durable {
            let changed = std::mem::take(&mut self.changed);
            if let Some(kept) = &mut self.durable {
                for key in changed {
                    match self.records.get(&key) {
                        Some(value) => kept.insert(key, value.clone()),
                        None => kept.remove(&key),
                    };
                }
            }
        }
        Ok(())
    }
}
