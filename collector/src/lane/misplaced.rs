//! Words about entries that came by the wrong lane: whoever wrote them counts other lanes than this region.

use crate::{Config, core::Misplaced};
use breeze_proto::shard::LaneId;
use std::time::{Duration, Instant};

/// At most so often; what is counted meanwhile is in the next words.
const PAUSE: Duration = Duration::from_secs(60);

/// Counts at once, and says so seldom.
#[derive(Debug, Default)]
pub(super) struct Teller {
    told: Option<Instant>,
    untold: u64,
}

impl Teller {
    pub(super) fn tell(&mut self, config: &Config, lane: LaneId, found: Misplaced) {
        metrics::counter!("breeze_collector_misplaced_entries_total", "lane" => lane.to_string())
            .increment(found.entries);
        self.untold += found.entries;
        if self.told.is_some_and(|told| told.elapsed() < PAUSE) {
            return;
        }
        self.told = Some(Instant::now());
        tracing::error!(
            %lane,
            lanes = config.lanes,
            entries = std::mem::take(&mut self.untold),
            device.id = %found.device,
            device.lane = %found.belongs,
            relay.id = found.relay_id,
            relay.region = found.region,
            "entries of devices that belong to another lane; they are stored: does that relay's region have as many lanes?"
        );
    }
}
