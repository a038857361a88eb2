//! Attempts at a password: taken before it is verified, given back when it was right. So parallel
//! guesses are all counted, and who signs in often is not throttled.

use super::MAX_KEYS;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// A bucket of attempts for each key.
#[derive(Debug)]
pub(super) struct Attempts {
    burst: f64,
    period: Duration,
    buckets: Mutex<HashMap<u64, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Attempts {
    /// `burst` at once, and one more every `period`.
    pub(super) fn new(burst: u32, period: Duration) -> Self {
        Self { burst: f64::from(burst), period, buckets: Mutex::default() }
    }

    fn refilled(&self, bucket: Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at);
        (bucket.left + since.as_secs_f64() / self.period.as_secs_f64()).min(self.burst)
    }

    /// Takes one at `now`.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn take(&self, key: impl Hash, now: Instant) -> Result<(), Duration> {
        let mut key = hash(key);
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| self.refilled(*bucket, now) < self.burst);
            if buckets.len() >= MAX_KEYS {
                metrics::counter!("breeze_api_rate_keys_shared_total").increment(1);
                key = 0;
            }
        }
        let left = buckets.get(&key).map_or(self.burst, |bucket| self.refilled(*bucket, now));
        if left < 1.0 {
            return Err(self.period.mul_f64(1.0 - left));
        }
        buckets.insert(key, Bucket { left: left - 1.0, at: now });
        Ok(())
    }

    /// Gives one back: it was no guess.
    pub(super) fn give_back(&self, key: impl Hash) {
        if let Some(bucket) = self.buckets.lock().get_mut(&hash(key)) {
            bucket.left = (bucket.left + 1.0).min(self.burst);
        }
    }
}

fn hash(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_run_out_and_come_back_and_right_ones_cost_nothing() {
        let attempts = Attempts::new(3, Duration::from_secs(6));
        let now = Instant::now();
        for _ in 0..20 {
            assert_eq!(attempts.take("a", now), Ok(()));
            attempts.give_back("a");
        }
        for _ in 0..3 {
            assert_eq!(attempts.take("a", now), Ok(()));
        }
        assert_eq!(attempts.take("a", now), Err(Duration::from_secs(6)));
        assert_eq!(attempts.take("b", now), Ok(()));
        assert_eq!(attempts.take("a", now + Duration::from_secs(6)), Ok(()));
        assert!(attempts.take("a", now + Duration::from_secs(6)).is_err());
    }

    #[test]
    fn strangers_share_a_bucket_when_there_are_too_many() {
        let attempts = Attempts::new(1, Duration::from_secs(3_600));
        let now = Instant::now();
        for key in 0..MAX_KEYS {
            let _taken = attempts.take(key, now);
        }
        assert_eq!(attempts.take("one", now), Ok(()));
        assert!(attempts.take("two", now).is_err());
        assert!(attempts.buckets.lock().len() <= MAX_KEYS + 1);
    }
}
