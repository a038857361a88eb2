//! Limits on enrolment. Hundreds of honest machines share one address and come at once, perhaps with
//! somebody who tries keys among them. So an address pays only for keys that nobody has proven to
//! know, and a known key has its own, generous, limit: neither takes from the other.

use super::{Attempts, Left, Limit, network};
use crate::error::ApiError;
use breeze_proto::id::EnrollmentKeyId;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};
use subtle::ConstantTimeEq as _;

/// Keys that are remembered as known; beyond that all are forgotten and looked up again.
const MAX_KNOWN: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub struct Enrolments {
    /// Of a network: given back when the key was right. Secrets of 256 bits are not guessed; this
    /// bounds the work of looking them up.
    unproven: Attempts,
    /// Of a key.
    proven: Limit,
    /// Hash of the secret (hex) by key, as the store has it. Only says whose limit a request is taken
    /// from: whether a key admits is looked up each time.
    known: Mutex<HashMap<EnrollmentKeyId, String>>,
}

/// What a request with an unproven key took from its network.
#[derive(Debug)]
#[must_use]
pub enum Taken {
    /// The key is known: nothing.
    Nothing,
    OfNetwork(IpAddr),
}

impl Default for Enrolments {
    fn default() -> Self {
        Self {
            unproven: Attempts::new(600, Duration::from_secs(1)),
            proven: Limit::new(20_000, Duration::from_millis(5)),
            known: Mutex::default(),
        }
    }
}

impl Enrolments {
    /// Before the key is looked up.
    ///
    /// # Errors
    /// `rate_limited` for a network that sent too many wrong ones.
    pub fn begin(&self, address: IpAddr, key: EnrollmentKeyId, secret_sha256: &str) -> Result<Taken, ApiError> {
        let same = |held: &String| bool::from(held.as_bytes().ct_eq(secret_sha256.as_bytes()));
        if self.known.lock().get(&key).is_some_and(same) {
            return Ok(Taken::Nothing);
        }
        let network = network(address);
        self.unproven.take(("enrol", network), Instant::now()).map_err(limited)?;
        Ok(Taken::OfNetwork(network))
    }

    /// The secret was right: what was taken is given back, and the key pays instead.
    ///
    /// # Errors
    /// `rate_limited` when the key is used too fast.
    pub fn proven(&self, taken: Taken, key: EnrollmentKeyId, secret_sha256: &str) -> Result<Left, ApiError> {
        if let Taken::OfNetwork(network) = taken {
            self.unproven.give_back(("enrol", network));
            let mut known = self.known.lock();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(key, secret_sha256.to_owned());
        }
        self.proven.take(key.to_bytes()).map_err(limited)
    }
}

fn limited(wait: Duration) -> ApiError {
    metrics::counter!("breeze_api_rate_limited_total").increment(1);
    ApiError::rate_limited(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_keys_run_out_and_the_honest_behind_the_same_address_do_not() {
        let enrolments = Enrolments::default();
        let address: IpAddr = "203.0.113.1".parse().expect("address");
        let (honest, wrong) = (EnrollmentKeyId::generate(), EnrollmentKeyId::generate());
        let taken = enrolments.begin(address, honest, "right").expect("within the limit");
        enrolments.proven(taken, honest, "right").expect("within the limit");

        while enrolments.begin(address, wrong, "x").is_ok() {}
        assert!(enrolments.begin(address, honest, "wrong").is_err(), "a guess at a known key is one");
        assert!(enrolments.begin("203.0.113.2".parse().expect("address"), wrong, "x").is_ok());
        for _ in 0..10_000 {
            let taken = enrolments.begin(address, honest, "right").expect("a known key");
            enrolments.proven(taken, honest, "right").expect("within the key's limit");
        }
    }
}
