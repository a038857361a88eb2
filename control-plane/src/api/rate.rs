//! Limits on requests: by person for those who are signed in, by address for everybody else. The
//! maps are bounded: beyond that, strangers share one bucket.

mod attempts;
mod denials;
mod enrolments;

pub use denials::Denials;
pub use enrolments::{Enrolments, Taken};

use crate::error::ApiError;
use attempts::Attempts;
use axum::http::{HeaderMap, HeaderValue};
use breeze_proto::id::PartnerId;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// Keys that one limiter follows.
pub const MAX_KEYS: usize = 50_000;

/// Which limit applies to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Of a signed-in person.
    Session,
    /// Anonymous reads.
    Public,
    /// Attempts to sign in, set up or refresh: each may cost a password hash.
    SignIn,
    /// Devices that enrol: taken by the handler, see [`Enrolments`].
    Enroll,
}

type Limiter = RateLimiter<u64, DashMapStateStore<u64>, DefaultClock, StateInformationMiddleware>;

/// One limit with its map.
pub struct Limit {
    limiter: Limiter,
    burst: u32,
    per_second: f64,
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limit").field("burst", &self.burst).finish_non_exhaustive()
    }
}

/// What the caller has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    limit: u32,
    remaining: u32,
    reset_s: u64,
}

impl Left {
    pub fn write(self, headers: &mut HeaderMap) {
        headers.insert("ratelimit-limit", HeaderValue::from(self.limit));
        headers.insert("ratelimit-remaining", HeaderValue::from(self.remaining));
        headers.insert("ratelimit-reset", HeaderValue::from(self.reset_s));
    }
}

impl Limit {
    /// `burst` at once, and one more every `period`.
    ///
    /// # Panics
    /// When either is zero.
    #[must_use]
    pub fn new(burst: u32, period: Duration) -> Self {
        let quota = Quota::with_period(period)
            .expect("a period above zero")
            .allow_burst(NonZeroU32::new(burst).expect("a burst above zero"));
        let limiter = RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>();
        Self { limiter, burst, per_second: 1.0 / period.as_secs_f64() }
    }

    /// Takes one of `key`'s.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take(&self, key: impl Hash) -> Result<Left, Duration> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut key = hasher.finish();
        if self.limiter.len() >= MAX_KEYS {
            self.limiter.retain_recent();
            if self.limiter.len() >= MAX_KEYS {
                metrics::counter!("breeze_api_rate_keys_shared_total").increment(1);
                key = 0;
            }
        }
        match self.limiter.check_key(&key) {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                let missing = f64::from(self.burst.saturating_sub(remaining));
                let reset_s = Duration::try_from_secs_f64(missing / self.per_second).map_or(0, |d| d.as_secs() + 1);
                Ok(Left { limit: self.burst, remaining, reset_s })
            }
            Err(refused) => Err(refused.wait_time_from(DefaultClock::default().now())),
        }
    }
}

/// All limits.
#[derive(Debug)]
pub struct Limits {
    session: Limit,
    public: Limit,
    sign_in: Limit,
    pub enrolments: Enrolments,
    /// Entries that strangers cause, by chain.
    pub denials: Denials<Option<PartnerId>>,
    /// An account from one address: an attacker elsewhere does not lock the owner out.
    account: Attempts,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session: Limit::new(500, Duration::from_millis(10)),
            public: Limit::new(200, Duration::from_millis(50)),
            sign_in: Limit::new(40, Duration::from_millis(500)),
            enrolments: Enrolments::default(),
            denials: Denials::default(),
            account: Attempts::new(10, Duration::from_secs(6)),
        }
    }
}

impl Limits {
    /// Takes one of an endpoint's class.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn take(&self, class: Class, key: impl Hash) -> Result<Left, ApiError> {
        let limit = match class {
            Class::Session => &self.session,
            Class::Public | Class::Enroll => &self.public,
            Class::SignIn => &self.sign_in,
        };
        limit.take(key).map_err(|wait| {
            metrics::counter!("breeze_api_rate_limited_total").increment(1);
            ApiError::rate_limited(wait)
        })
    }

    /// Takes one attempt at an account's password.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn take_attempt(&self, email: &str, address: IpAddr) -> Result<(), ApiError> {
        self.account.take((email, network(address)), Instant::now()).map_err(ApiError::rate_limited)
    }

    /// The attempt was right and does not count.
    pub fn give_back_attempt(&self, email: &str, address: IpAddr) {
        self.account.give_back((email, network(address)));
    }
}

/// What counts as one address: IPv6 users have a whole /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends_for_its_own_key_only() {
        let limit = Limit::new(3, Duration::from_secs(60));
        for remaining in (0..3).rev() {
            assert_eq!(limit.take("a").map(|left| left.remaining), Ok(remaining));
        }
        assert!(limit.take("a").is_err_and(|wait| wait > Duration::from_secs(30)));
        assert!(limit.take("b").is_ok());
    }

    #[test]
    fn an_attacker_elsewhere_does_not_lock_the_owner_out() {
        let limits = Limits::default();
        let attacker = "203.0.113.1".parse().expect("address");
        let owner = "198.51.100.7".parse().expect("address");
        while limits.take_attempt("a@example.com", attacker).is_ok() {}
        assert!(limits.take_attempt("a@example.com", owner).is_ok());
        assert!(limits.take_attempt("b@example.com", attacker).is_ok());
    }
}
