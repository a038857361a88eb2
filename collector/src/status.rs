//! What the status page and `/metrics` show of this collector.

use crate::{
    core::Counts,
    lane::{LaneShared, Unstored},
    members::{Plan, Shares},
};
use breeze_bus::status::{Report, gauge};
use std::{sync::Arc, time::Instant};

/// Rows are gathered for a second at most; when the metrics store is so far behind, people should know.
const SHOW_LAG_SECONDS: f64 = 10.0;

/// Makes a report each time it is asked, with rates since the last.
#[derive(Debug)]
pub(crate) struct Status {
    lanes: Vec<Arc<LaneShared>>,
    shares: Shares,
    last: (Instant, u64),
}

/// Sums over lanes.
#[derive(Debug, Default)]
struct Sums {
    counts: Counts,
    heartbeats: u64,
    lag: u64,
    /// Entries and bytes of all lanes, seconds of the worst.
    unstored: Unstored,
    devices: usize,
    online: usize,
    watched: usize,
    owned: usize,
    to_own: usize,
    held_timers: usize,
    trouble: Vec<String>,
}

impl Status {
    pub(crate) fn new(lanes: Vec<Arc<LaneShared>>, shares: Shares) -> Self {
        Self { lanes, shares, last: (Instant::now(), 0) }
    }

    pub(crate) fn report(&mut self) -> Report {
        let sums = self.sum();
        let (then, before) = std::mem::replace(&mut self.last, (Instant::now(), sums.heartbeats));
        let seconds = then.elapsed().as_secs_f64().max(0.001);
        let rate = sums.heartbeats.saturating_sub(before) as f64 / seconds;
        metrics::gauge!("breeze_collector_lag_entries").set(sums.lag as f64);
        metrics::gauge!("breeze_collector_devices_online").set(sums.online as f64);
        metrics::gauge!("breeze_collector_devices").set(sums.devices as f64);
        metrics::counter!("breeze_collector_heartbeats_total").absolute(sums.heartbeats);
        Report {
            // With more collectors than lanes one may have nothing to do.
            ready: sums.owned > 0 || sums.to_own == 0,
            message: sums.trouble.first().cloned().unwrap_or_default(),
            gauges: vec![
                gauge("collector_heartbeats", "per_second", rate),
                gauge("collector_lag_entries", "", sums.lag as f64),
                gauge("collector_store_lag_entries", "", sums.unstored.entries as f64),
                gauge("collector_store_lag", "seconds", sums.unstored.seconds),
                gauge("collector_store_lag", "bytes", sums.unstored.bytes as f64),
                gauge("collector_lanes_owned", "", sums.owned as f64),
                gauge("collector_devices", "", sums.devices as f64),
                gauge("collector_devices_online", "", sums.online as f64),
                gauge("collector_devices_offline", "", (sums.devices - sums.online) as f64),
                gauge("collector_devices_watched", "", sums.watched as f64),
                gauge("collector_lanes_timers_held", "", sums.held_timers as f64),
                gauge("collector_heartbeats_total", "", sums.heartbeats as f64),
                gauge("collector_duplicates_total", "", sums.counts.duplicates as f64),
                gauge("collector_refused_total", "", sums.counts.refused as f64),
                gauge("collector_values_dropped_total", "", sums.counts.values_dropped as f64),
                gauge("collector_gaps_closed_total", "", sums.counts.gaps_closed as f64),
                gauge("collector_sequences_forgotten_total", "", sums.counts.sequences_forgotten as f64),
                gauge("collector_clones_suspected_total", "", sums.counts.clones_suspected as f64),
            ],
        }
    }

    fn sum(&self) -> Sums {
        let mut sums = Sums::default();
        for lane in &self.lanes {
            let status = lane.status.lock().clone();
            sums.lag += status.lag;
            sums.heartbeats += status.heartbeats_before;
            let unstored = status.unstored;
            sums.unstored.entries += unstored.entries;
            sums.unstored.bytes += unstored.bytes;
            sums.unstored.seconds = sums.unstored.seconds.max(unstored.seconds);
            sums.to_own += usize::from(self.shares.plan(lane) == Plan::Mine);
            tell_lag(lane, unstored);
            if !status.store_trouble.is_empty() || unstored.seconds > SHOW_LAG_SECONDS {
                let why = if status.store_trouble.is_empty() { "it is slow" } else { &status.store_trouble };
                sums.trouble.push(format!(
                    "lane {}: the metrics store is {:.0} s behind ({} entries), presence goes on: {why}",
                    lane.lane, unstored.seconds, unstored.entries
                ));
            }
            if !status.trouble.is_empty() {
                sums.trouble.push(format!("lane {}: {}", lane.lane, status.trouble));
            }
            let core = lane.core.lock();
            let Some(core) = core.as_ref() else { continue };
            let (counts, population) = (core.counts(), core.population());
            sums.owned += 1;
            sums.held_timers += usize::from(!core.is_live());
            sums.heartbeats += counts.heartbeats;
            sums.devices += population.devices;
            sums.online += population.online;
            sums.watched += population.watched;
            sums.counts.duplicates += counts.duplicates;
            sums.counts.refused += counts.refused;
            sums.counts.values_dropped += counts.values_dropped;
            sums.counts.gaps_closed += counts.gaps_closed;
            sums.counts.sequences_forgotten += counts.sequences_forgotten;
            sums.counts.clones_suspected += counts.clones_suspected;
        }
        sums
    }
}

/// What of a lane is in the stream and not in the metrics store.
fn tell_lag(lane: &LaneShared, unstored: Unstored) {
    let number = lane.lane.to_string();
    metrics::gauge!("breeze_collector_lane_lag_entries", "lane" => number.clone()).set(unstored.entries as f64);
    metrics::gauge!("breeze_collector_lane_lag_seconds", "lane" => number.clone()).set(unstored.seconds);
    metrics::gauge!("breeze_collector_lane_lag_bytes", "lane" => number).set(unstored.bytes as f64);
}
