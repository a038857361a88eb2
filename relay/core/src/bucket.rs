//! A token bucket that may go into debt, so that one large frame is taken and then paid for.

/// Integer arithmetic in millionths of a token, so that nothing is lost to rounding.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// Millionths; negative is debt.
    level: i64,
    at_us: u64,
}

const MICRO: i64 = 1_000_000;

impl TokenBucket {
    /// Full at `now_us`.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, now_us: u64) -> Self {
        Self { per_second: per_second.max(1), burst, level: i64::from(burst) * MICRO, at_us: now_us }
    }

    fn refill(&mut self, now_us: u64) {
        let elapsed = now_us.saturating_sub(self.at_us);
        self.at_us = self.at_us.max(now_us);
        let gained = i64::try_from(elapsed.saturating_mul(u64::from(self.per_second))).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(gained).min(i64::from(self.burst) * MICRO);
    }

    /// Takes `tokens`, into debt if need be.
    pub fn spend(&mut self, tokens: u32, now_us: u64) {
        self.refill(now_us);
        self.level = self.level.saturating_sub(i64::from(tokens) * MICRO);
    }

    /// Takes one token if there is one.
    pub fn try_take(&mut self, now_us: u64) -> bool {
        self.refill(now_us);
        let there = self.level >= MICRO;
        if there {
            self.level -= MICRO;
        }
        there
    }

    /// Microseconds until the debt is paid; 0 if there is none.
    pub fn debt_us(&mut self, now_us: u64) -> u64 {
        self.refill(now_us);
        if self.level >= 0 { 0 } else { self.level.unsigned_abs().div_ceil(u64::from(self.per_second)) }
    }

    /// Whether it is full again, so that forgetting it changes nothing.
    pub fn is_full(&mut self, now_us: u64) -> bool {
        self.refill(now_us);
        self.level >= i64::from(self.burst) * MICRO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(steps in prop::collection::vec((0u64..2_000_000, any::<bool>()), 1..200)) {
            let mut bucket = TokenBucket::new(3, 5, 0);
            let (mut now, mut taken) = (0, 0u64);
            for (elapsed, take) in steps {
                now += elapsed;
                taken += u64::from(take && bucket.try_take(now));
                prop_assert!(taken <= 5 + now * 3 / 1_000_000);
            }
        }

        #[test]
        fn debt_is_paid_exactly_when_it_says(spend in 0u32..5_000_000) {
            let mut bucket = TokenBucket::new(1_000, 10, 7);
            bucket.spend(spend, 7);
            let wait = bucket.debt_us(7);
            prop_assert_eq!(bucket.debt_us(7 + wait), 0);
            prop_assert!(wait == 0 || bucket.clone().debt_us(7 + wait - 1) <= 1);
        }
    }
}
