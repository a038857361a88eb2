//! How many custom metrics a device may have: whoever holds a device's key can make up names without
//! end, and each is a series in the store for ever.
//!
//! This is memory of the process, not of the stream: a batch that is driven again after a crash may keep
//! names that were dropped at first. That costs a hostile device's series once more and nothing else,
//! for the same positions are stored once.

use super::{Envelope, LaneCore, bounds};
use breeze_proto::v1::NamedValue;
use std::hash::BuildHasher as _;

/// Distinct names of custom metrics that one device may send a day.
pub(super) const MAX_NAMES_A_DAY: usize = 256;
const DAY_US: u64 = 86_400_000_000;

/// What one device has sent on the day.
#[derive(Debug, Default)]
pub(super) struct CustomNames {
    /// By the clock of the relays, so that a device cannot begin another day.
    day: u64,
    /// Hashes under a key that nobody knows, ascending.
    seen: Vec<u64>,
}

impl LaneCore {
    /// Takes out values of names beyond the limit; how many went. Names that are no names are left to
    /// whoever makes rows.
    pub(super) fn bound_custom(&mut self, envelope: Envelope, values: &mut Vec<NamedValue>) -> u64 {
        if values.is_empty() {
            return 0;
        }
        let day = envelope.received_us / DAY_US;
        let names = self.devices[envelope.device as usize].custom.get_or_insert_default();
        if day > names.day {
            **names = CustomNames { day, seen: Vec::new() };
        }
        let sent = values.len();
        values.truncate(breeze_proto::limits::MAX_CUSTOM_VALUES);
        values.retain(|value| {
            if !bounds::is_metric_name(&value.name, 0) {
                return true;
            }
            let hash = self.hasher.hash_one(&value.name);
            match names.seen.binary_search(&hash) {
                Ok(_) => true,
                Err(at) if names.seen.len() < MAX_NAMES_A_DAY => {
                    names.seen.insert(at, hash);
                    true
                }
                Err(_) => false,
            }
        });
        let dropped = (sent - values.len()) as u64;
        metrics::counter!("breeze_collector_custom_dropped_total").increment(dropped);
        dropped
    }
}
