//! How many entries of the audit log strangers may cause. Entries of a chain are durable one after the
//! other, and mutations wait for theirs; guesses at passwords from many addresses must not fill the
//! queue. Beyond the limit they are counted, and the next entry that is written says how many.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Entries at once, of one chain.
const BURST: u32 = 60;
/// Then one every so long.
const PERIOD: Duration = Duration::from_secs(1);
/// Chains that are followed; beyond that those that nothing is owed to are forgotten.
const MAX_CHAINS: usize = 1_024;

/// See the module; `K` names a chain.
#[derive(Debug)]
pub struct Denials<K>(Mutex<HashMap<K, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
    omitted: u64,
}

impl<K> Default for Denials<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Denials<K> {
    /// Whether an entry may be written at `now`; then, how many were not since the last. `None`: it is
    /// one more that is not.
    pub fn admit(&self, chain: K, now: Instant) -> Option<u64> {
        let mut buckets = self.0.lock();
        if buckets.len() >= MAX_CHAINS && !buckets.contains_key(&chain) {
            buckets.retain(|_, bucket| bucket.omitted > 0 || bucket.refilled(now) < f64::from(BURST));
            if buckets.len() >= MAX_CHAINS {
                return None;
            }
        }
        let bucket = buckets.entry(chain).or_insert(Bucket { left: f64::from(BURST), at: now, omitted: 0 });
        (bucket.left, bucket.at) = (bucket.refilled(now), now);
        if bucket.left < 1.0 {
            bucket.omitted += 1;
            return None;
        }
        bucket.left -= 1.0;
        Some(std::mem::take(&mut bucket.omitted))
    }
}

impl Bucket {
    fn refilled(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at);
        (self.left + since.as_secs_f64() / PERIOD.as_secs_f64()).min(f64::from(BURST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_counted_by_the_next_that_is() {
        let (denials, now) = (Denials::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(denials.admit("a", now), Some(0));
        }
        for _ in 0..500 {
            assert_eq!(denials.admit("a", now), None);
        }
        assert_eq!(denials.admit("b", now), Some(0), "another chain");
        assert_eq!(denials.admit("a", now + PERIOD), Some(500));
        assert_eq!(denials.admit("a", now + PERIOD), None);
        assert_eq!(denials.admit("a", now + PERIOD * 2), Some(1));
    }

    #[test]
    fn chains_are_bounded() {
        let (denials, now) = (Denials::default(), Instant::now());
        for chain in 0..MAX_CHAINS {
            assert_eq!(denials.admit(chain, now), Some(0));
        }
        assert_eq!(denials.admit(MAX_CHAINS, now), None);
        assert_eq!(denials.admit(MAX_CHAINS, now + PERIOD * 2), Some(0));
    }
}
