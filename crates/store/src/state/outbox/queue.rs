//! Which partition is delivered next. Knows no tasks and reads no clock.

use crate::state::{CommitTable, OutboxHint};
use bytes::Bytes;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Partitions that the queue knows at once; the sweep finds the others later.
const MAX_KNOWN: usize = 16 * 1024;
/// Waits after failures: doubled from the first to the last.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) table: CommitTable,
    pub(super) partition: Bytes,
}

#[derive(Debug)]
enum Phase {
    Queued,
    /// `again`: something was added since it began.
    Running {
        again: bool,
    },
    Waiting,
}

#[derive(Debug)]
struct Known {
    phase: Phase,
    failures: u32,
    hint: Option<OutboxHint>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    Queued,
    /// It was there, and will be looked at.
    Known,
    Full,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    known: HashMap<Key, Known>,
    ready: VecDeque<Key>,
    /// By time; the number tells entries of the same time apart.
    waiting: BTreeSet<(Instant, u64)>,
    waiters: HashMap<u64, Key>,
    numbers: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn add(&mut self, key: Key, hint: Option<OutboxHint>) -> Added {
        if let Some(known) = self.known.get_mut(&key) {
            // A partition that waits after a failure goes on waiting: the items before the new one
            // are what failed.
            if let Phase::Running { again } = &mut known.phase {
                *again = true;
            }
            if hint.is_some() {
                known.hint = hint;
            }
            return Added::Known;
        }
        if self.known.len() >= MAX_KNOWN {
            return Added::Full;
        }
        self.ready.push_back(key.clone());
        self.known.insert(key, Known { phase: Phase::Queued, failures: 0, hint });
        Added::Queued
    }

    /// Somebody else delivered it and failed: it waits as after a failure of its own.
    pub(super) fn leave(&mut self, key: Key, now: Instant) -> Added {
        if self.known.contains_key(&key) {
            return self.add(key, None);
        }
        if self.known.len() >= MAX_KNOWN {
            return Added::Full;
        }
        self.known.insert(key.clone(), Known { phase: Phase::Waiting, failures: 0, hint: None });
        self.failed(&key, now);
        Added::Queued
    }

    /// The partition whose turn it is, with the hint that led to it.
    pub(super) fn start(&mut self, now: Instant) -> Option<(Key, Option<OutboxHint>)> {
        while let Some(&(at, number)) = self.waiting.first() {
            if at > now {
                break;
            }
            self.waiting.pop_first();
            self.ready.extend(self.waiters.remove(&number));
        }
        let key = self.ready.pop_front()?;
        let known = self.known.get_mut(&key)?;
        known.phase = Phase::Running { again: false };
        let hint = known.hint.clone();
        Some((key, hint))
    }

    /// When the first of those that failed is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// All of it is delivered.
    pub(super) fn done(&mut self, key: &Key) {
        match self.known.get_mut(key) {
            Some(Known { phase: Phase::Running { again: true }, .. }) => self.again(key),
            Some(_) | None => drop(self.known.remove(key)),
        }
    }

    /// There is more; others come first.
    pub(super) fn again(&mut self, key: &Key) {
        if let Some(known) = self.known.get_mut(key) {
            known.phase = Phase::Queued;
            known.failures = 0;
            self.ready.push_back(key.clone());
        }
    }

    pub(super) fn failed(&mut self, key: &Key, now: Instant) {
        let Some(known) = self.known.get_mut(key) else { return };
        let at = now + RETRY_FIRST.saturating_mul(1 << known.failures.min(16)).min(RETRY_LAST);
        let number = self.numbers;
        self.numbers += 1;
        known.failures += 1;
        known.phase = Phase::Waiting;
        self.waiting.insert((at, number));
        self.waiters.insert(number, key.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Family, Serial};

    fn key(name: &'static str) -> Key {
        let table = CommitTable::new("t", Family::Config, Serial::Local);
        Key { table, partition: Bytes::from_static(name.as_bytes()) }
    }

    #[test]
    fn runs_a_partition_once_at_a_time() {
        let now = Instant::now();
        let mut queue = Queue::default();
        assert_eq!(queue.add(key("a"), None), Added::Queued);
        assert_eq!(queue.start(now).map(|(key, _)| key), Some(key("a")));
        assert_eq!(queue.add(key("a"), None), Added::Known);
        assert!(queue.start(now).is_none(), "it runs already");
        queue.done(&key("a"));
        assert!(queue.start(now).is_some(), "something was added while it ran");
        queue.done(&key("a"));
        assert!(queue.start(now).is_none() && queue.len() == 0);
    }

    #[test]
    fn waits_longer_after_each_failure_and_holds_nobody_else_back() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        let _ = queue.add(key("bad"), None);
        for _ in 0..12 {
            assert!(queue.start(now).is_some());
            queue.failed(&key("bad"), now);
            let _ = queue.add(key("good"), None);
            assert_eq!(queue.start(now).map(|(key, _)| key), Some(key("good")));
            queue.done(&key("good"));
            let at = queue.next_retry().expect("it waits");
            waits.push(at - now);
            now = at;
        }
        assert_eq!(waits[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[11], RETRY_LAST);
    }

    #[test]
    fn what_somebody_else_left_waits_as_after_a_failure() {
        let now = Instant::now();
        let mut queue = Queue::default();
        assert_eq!(queue.leave(key("a"), now), Added::Queued);
        assert!(queue.start(now).is_none(), "it has just failed");
        assert_eq!(queue.leave(key("a"), now), Added::Known);
        assert!(queue.start(now + RETRY_FIRST).is_some());
        assert_eq!(queue.leave(key("a"), now), Added::Known);
        queue.done(&key("a"));
        assert!(queue.start(now + RETRY_FIRST).is_some(), "it was left while it ran");
        queue.failed(&key("a"), now);
        assert_eq!(queue.next_retry(), Some(now + RETRY_FIRST), "nothing of its own had failed");
    }

    #[test]
    fn knows_a_bounded_number() {
        let mut queue = Queue::default();
        let table = key("").table;
        for number in 0..MAX_KNOWN {
            let partition = Bytes::copy_from_slice(&number.to_be_bytes());
            assert_eq!(queue.add(Key { table, partition }, None), Added::Queued);
        }
        assert_eq!(queue.add(key("one more"), None), Added::Full);
    }
}
