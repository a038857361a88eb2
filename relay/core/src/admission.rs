//! Which handshakes are worth their price. A full one costs half a millisecond of a core, so their
//! rate and the number that are half open are bounded.
//!
//! An unvalidated source address is charged for its attempts, and asked to prove itself (QUIC Retry)
//! when it makes too many or when the relay is under pressure. Once an address has proven itself it
//! is no longer counted: a customer's 500 machines share one. From then on the identity is: a device
//! that reconnects without end is turned away by its own bucket.

use crate::{
    bucket::TokenBucket,
    limits::{MAX_REMEMBERED_ADDRESSES, MAX_REMEMBERED_DEVICES},
};
use breeze_proto::id::DeviceId;
use std::{collections::HashMap, hash::Hash, net::IpAddr};

/// Bounds of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Handshakes a second, all sources together.
    pub handshakes_per_second: u32,
    /// Handshakes that may begin at once.
    pub handshake_burst: u32,
    /// Handshakes under way at a time.
    pub half_open: u32,
    /// Attempts a second of one unvalidated address.
    pub per_address_per_second: u32,
    pub per_address_burst: u32,
    /// Connections a minute of one device.
    pub per_device_per_minute: u32,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            handshakes_per_second: 500,
            handshake_burst: 1_000,
            half_open: 1_000,
            per_address_per_second: 10,
            per_address_burst: 100,
            per_device_per_minute: 60,
        }
    }
}

/// What to do with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Begin the handshake; [`Admission::handle_finished`] when it is over, either way.
    Begin,
    /// Let it prove its address first, at no cost of memory.
    Retry,
    /// Turn it away: later.
    Refuse,
}

/// Admission of one relay.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    all: TokenBucket,
    half_open: u32,
    addresses: Buckets<IpAddr>,
    devices: Buckets<DeviceId>,
}

impl Admission {
    #[must_use]
    pub fn new(limits: AdmissionLimits, now_us: u64) -> Self {
        Self {
            limits,
            all: TokenBucket::new(limits.handshakes_per_second, limits.handshake_burst, now_us),
            half_open: 0,
            addresses: Buckets::new(MAX_REMEMBERED_ADDRESSES),
            devices: Buckets::new(MAX_REMEMBERED_DEVICES),
        }
    }

    /// Judges an attempt. `validated`: the source can receive at its address (a Retry token, or TCP);
    /// `may_retry`: the transport has a way to ask it for that.
    pub fn handle_attempt(&mut self, source: IpAddr, validated: bool, may_retry: bool, now_us: u64) -> Verdict {
        if !validated && may_retry {
            let limits = self.limits;
            let fresh = || TokenBucket::new(limits.per_address_per_second, limits.per_address_burst, now_us);
            let pressed = self.half_open >= limits.half_open / 2;
            if pressed || !self.addresses.try_take(canonical(source), fresh, now_us) {
                return Verdict::Retry;
            }
        }
        if self.half_open >= self.limits.half_open || !self.all.try_take(now_us) {
            return Verdict::Refuse;
        }
        self.half_open += 1;
        Verdict::Begin
    }

    /// A handshake that was begun is over.
    pub fn handle_finished(&mut self) {
        self.half_open = self.half_open.saturating_sub(1);
    }

    /// Whether a device that has proven its identity may have a session now.
    pub fn handle_identity(&mut self, device: DeviceId, now_us: u64) -> bool {
        let per_minute = self.limits.per_device_per_minute.max(1);
        let fresh = || TokenBucket::new(per_minute.div_ceil(60), per_minute, now_us);
        self.devices.try_take(device, fresh, now_us)
    }

    #[must_use]
    pub fn half_open(&self) -> u32 {
        self.half_open
    }
}

/// One bucket for a /64 of IPv6: a single host owns that many addresses.
fn canonical(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
    }
}

/// Buckets by key, at most so many. Full ones are forgotten first, since that changes nothing; if
/// none is full, an unknown key is refused.
#[derive(Debug)]
struct Buckets<K> {
    limit: usize,
    buckets: HashMap<K, TokenBucket>,
    swept_us: u64,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(limit: usize) -> Self {
        Self { limit, buckets: HashMap::new(), swept_us: 0 }
    }

    fn try_take(&mut self, key: K, fresh: impl FnOnce() -> TokenBucket, now_us: u64) -> bool {
        if self.buckets.len() >= self.limit && !self.buckets.contains_key(&key) {
            // Sweeping costs the whole map: at most once a second.
            if now_us >= self.swept_us.saturating_add(1_000_000) {
                self.swept_us = now_us;
                self.buckets.retain(|_, bucket| !bucket.is_full(now_us));
            }
            if self.buckets.len() >= self.limit {
                return false;
            }
        }
        self.buckets.entry(key).or_insert_with(fresh).try_take(now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn admission() -> Admission {
        let limits = AdmissionLimits {
            handshakes_per_second: 10,
            handshake_burst: 8,
            half_open: 6,
            per_address_per_second: 1,
            per_address_burst: 2,
            per_device_per_minute: 3,
        };
        Admission::new(limits, 0)
    }

    #[test]
    fn an_unvalidated_address_must_prove_itself_after_its_burst_and_counts_no_more_then() {
        let mut admission = admission();
        let mut verdicts = Vec::new();
        for validated in [false, false, false, true, true] {
            verdicts.push(admission.handle_attempt(SOURCE, validated, true, 0));
            admission.handle_finished();
        }
        use Verdict::{Begin, Retry};
        assert_eq!(verdicts, [Begin, Begin, Retry, Begin, Begin]);
    }

    #[test]
    fn half_open_handshakes_and_their_rate_are_bounded() {
        let mut admission = admission();
        for _ in 0..6 {
            assert_eq!(admission.handle_attempt(SOURCE, true, false, 0), Verdict::Begin);
        }
        assert_eq!(admission.handle_attempt(SOURCE, true, false, 0), Verdict::Refuse, "half open");
        let other = IpAddr::from([192, 0, 2, 9]);
        assert_eq!(admission.handle_attempt(other, false, true, 0), Verdict::Retry, "under pressure");
        for _ in 0..6 {
            admission.handle_finished();
        }
        for _ in 0..2 {
            assert_eq!(admission.handle_attempt(SOURCE, true, false, 0), Verdict::Begin);
        }
        assert_eq!(admission.handle_attempt(SOURCE, true, false, 0), Verdict::Refuse, "rate");
        assert_eq!(admission.handle_attempt(SOURCE, true, false, 100_000), Verdict::Begin);
    }

    #[test]
    fn a_device_that_returns_without_end_is_turned_away() {
        let mut admission = admission();
        let (device, other) = (DeviceId::generate(), DeviceId::generate());
        let admitted = (0..10).filter(|_| admission.handle_identity(device, 0)).count();
        assert_eq!(admitted, 3);
        assert!(admission.handle_identity(other, 0));
        assert!(admission.handle_identity(device, 1_000_000));
    }

    #[test]
    fn memory_is_bounded_by_the_limit() {
        let mut buckets = Buckets::new(100);
        for key in 0..1_000u32 {
            buckets.try_take(key, || TokenBucket::new(1, 1, 0), 0);
        }
        assert_eq!(buckets.buckets.len(), 100);
        assert!(buckets.try_take(5_000, || TokenBucket::new(1, 1, 9_000_000), 9_000_000), "the full ones made room");
    }
}
