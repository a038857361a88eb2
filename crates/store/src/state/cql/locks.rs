//! Turns of this process's commits in a partition: those of one process need not fight each other by
//! Paxos. It only saves work, so who waits too long goes without.

use std::time::Instant;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout_at,
};

const STRIPES: usize = 1024;

#[derive(Debug)]
pub(super) struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(())).collect())
    }
}

impl Turns {
    pub(super) async fn take(&self, relation: &str, partition: &[u8], until: Instant) -> Option<MutexGuard<'_, ()>> {
        let hash = crc32c::crc32c_append(crc32c::crc32c(relation.as_bytes()), partition);
        let stripe = self.0.get(hash as usize % STRIPES)?;
        timeout_at(until.into(), stripe.lock()).await.ok()
    }
}
