//! What the roles said of themselves last, and the ingest rate of the last hour.

use breeze_proto::v1::RoleStatus;
use breeze_store::metrics::SCALARS;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Roles that are remembered.
pub const MAX_ROLES: usize = 1024;
/// A role that was silent for longer is not ready, whatever it said last.
pub const STALE: Duration = Duration::from_secs(10);
/// A role that was silent for longer is forgotten.
pub const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Distance of the points of the history.
pub const HISTORY_STEP: Duration = Duration::from_secs(10);
/// Points of the history: an hour.
pub const HISTORY_POINTS: usize = 360;
/// The collectors' gauge of heartbeats taken.
const HEARTBEATS: &str = "collector_heartbeats";

#[derive(Debug, Default)]
struct Known {
    /// By role, region and id: ids are unique in a region.
    roles: BTreeMap<(String, String, String), RoleStatus>,
    history: VecDeque<(u64, f64)>,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Roles {
    known: Mutex<Known>,
}

/// How fast heartbeats arrive, all collectors together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    pub heartbeats_per_s: f64,
    /// Of the heartbeats' fixed rows.
    pub samples_per_s: f64,
}

impl Roles {
    /// Takes in a status. Text and gauges beyond any role's own are cut.
    pub fn take(&self, mut status: RoleStatus) {
        status.gauges.truncate(256);
        let mut known = self.known.lock();
        let key = (status.role.clone(), status.region.clone(), status.id.clone());
        if known.roles.len() >= MAX_ROLES && !known.roles.contains_key(&key) {
            metrics::counter!("breeze_role_statuses_refused_total").increment(1);
            return;
        }
        known.roles.insert(key, status);
    }

    /// All roles heard of within [`FORGOTTEN`]; those silent for [`STALE`] as not ready.
    #[must_use]
    pub fn list(&self, now_us: u64) -> Vec<RoleStatus> {
        let mut known = self.known.lock();
        known.roles.retain(|_, status| !is_older(status, now_us, FORGOTTEN));
        let mut roles: Vec<RoleStatus> = known.roles.values().cloned().collect();
        drop(known);
        for status in roles.iter_mut().filter(|status| is_older(status, now_us, STALE)) {
            status.ready = false;
            status.message = format!("silent for {} s", now_us.saturating_sub(status.at_us) / 1_000_000);
        }
        roles
    }

    /// What the collectors that are alive say together.
    #[must_use]
    pub fn rate(&self, now_us: u64) -> Rate {
        let known = self.known.lock();
        let alive = known.roles.values().filter(|status| !is_older(status, now_us, STALE));
        let heartbeats_per_s: f64 = alive
            .filter(|status| status.role == "collector")
            .flat_map(|status| &status.gauges)
            .filter(|gauge| gauge.name == HEARTBEATS && gauge.unit == "per_second")
            .map(|gauge| finite(gauge.value))
            .sum();
        Rate { heartbeats_per_s, samples_per_s: heartbeats_per_s * SCALARS as f64 }
    }

    /// Adds a point to the history.
    pub fn record(&self, now_us: u64) {
        let rate = self.rate(now_us);
        let mut known = self.known.lock();
        if known.history.len() >= HISTORY_POINTS {
            known.history.pop_front();
        }
        known.history.push_back((now_us / 1000, rate.heartbeats_per_s));
    }

    /// Milliseconds and heartbeats a second, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<(u64, f64)> {
        self.known.lock().history.iter().copied().collect()
    }
}

fn is_older(status: &RoleStatus, now_us: u64, than: Duration) -> bool {
    now_us.saturating_sub(status.at_us) > than.as_micros() as u64
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::Gauge;

    const S: u64 = 1_000_000;

    fn collector(id: &str, at_us: u64, rate: f64) -> RoleStatus {
        let gauge = Gauge { name: HEARTBEATS.into(), unit: "per_second".into(), value: rate };
        RoleStatus {
            role: "collector".into(),
            id: id.into(),
            at_us,
            ready: true,
            gauges: vec![gauge],
            ..RoleStatus::default()
        }
    }

    #[test]
    fn a_silent_role_is_not_ready_then_forgotten_and_its_rate_does_not_count() {
        let roles = Roles::default();
        roles.take(collector("a", 100 * S, 40.0));
        roles.take(collector("b", 109 * S, 2.5));
        roles.take(collector("b", 110 * S, f64::NAN));
        assert_eq!(roles.rate(110 * S).heartbeats_per_s, 40.0);
        let listed = roles.list(111 * S);
        assert_eq!((listed[0].ready, listed[0].message.as_str(), listed[1].ready), (false, "silent for 11 s", true));
        assert_eq!(roles.rate(111 * S).heartbeats_per_s, 0.0);
        assert_eq!(roles.list(110 * S + 3601 * S).len(), 0);
    }

    #[test]
    fn the_history_is_an_hour_and_no_more() {
        let roles = Roles::default();
        for n in 0..500 {
            roles.record(n * 10 * S);
        }
        let history = roles.history();
        assert_eq!((history.len(), history[0].0, history[359].0), (360, 1_400_000, 4_990_000));
    }
}
