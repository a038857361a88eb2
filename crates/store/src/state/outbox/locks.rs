//! One lock a partition, which exists only while somebody holds it or waits for it.

use super::queue::Key;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// As many as there are deliveries and callers that wait for one.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<Key, Arc<AsyncMutex<()>>>>);

/// Holds a partition.
#[derive(Debug)]
pub(super) struct Held<'a> {
    // Dropped before the interest, so that the next one finds the lock free.
    _guard: OwnedMutexGuard<()>,
    _interest: Interest<'a>,
}

/// Somebody holds or waits; the last one takes the lock out of the map.
#[derive(Debug)]
struct Interest<'a> {
    locks: &'a Locks,
    key: &'a Key,
    lock: Option<Arc<AsyncMutex<()>>>,
}

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        let mut locks = self.locks.0.lock();
        drop(self.lock.take());
        // Shares are handed out and given back under the map's lock: one is left, and it is the map's.
        if locks.get(self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(self.key);
        }
    }
}

impl Locks {
    /// Waits in turn; a caller that stops waiting leaves nothing.
    pub(super) async fn hold<'a>(&'a self, key: &'a Key) -> Held<'a> {
        let lock = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        let interest = Interest { locks: self, key, lock: Some(Arc::clone(&lock)) };
        Held { _guard: lock.lock_owned().await, _interest: interest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{CommitTable, Family, Serial};
    use bytes::Bytes;
    use std::{
        future::Future as _,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    #[tokio::test]
    async fn one_holds_a_partition_and_nothing_is_left() {
        let table = CommitTable::new("t", Family::Config, Serial::Local);
        let key = |name: &'static str| Key { table, partition: Bytes::from_static(name.as_bytes()) };
        let (a, b) = (key("a"), key("b"));
        let locks = Locks::default();
        let held = locks.hold(&a).await;
        let _other = locks.hold(&b).await;
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut gives_up = pin!(locks.hold(&a));
            assert!(gives_up.as_mut().poll(&mut context).is_pending());
        }
        let mut waits = pin!(locks.hold(&a));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(held);
        let Poll::Ready(next) = waits.as_mut().poll(&mut context) else { panic!("it is free") };
        assert_eq!(locks.0.lock().len(), 2);
        drop(next);
        assert_eq!(locks.0.lock().len(), 1, "only the other is held");
    }
}
