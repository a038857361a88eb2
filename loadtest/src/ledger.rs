//! What was sent and what was acknowledged: totals for everybody, and on request a line for each
//! acknowledged heartbeat, written before the next is sent, against which the store can be checked.

use breeze_proto::{
    id::DeviceId,
    v1::{Ack, HeartbeatBatch},
};
use hdrhistogram::Histogram;
use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Acknowledgements later than this count as that late.
const MAX_LATENCY_US: u64 = 600_000_000;

/// Totals of a load.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) connections: AtomicU64,
    pub(crate) failed_connections: AtomicU64,
    pub(crate) lost_connections: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) acked: AtomicU64,
    /// From the first sending to the acknowledgement, microseconds.
    latency_us: Mutex<Histogram<u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("bounds and digits are valid");
        Self {
            connections: AtomicU64::new(0),
            failed_connections: AtomicU64::new(0),
            lost_connections: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            latency_us: Mutex::new(latency_us),
        }
    }
}

impl Tally {
    pub(crate) fn acknowledged(&self, latencies: &[Duration]) {
        self.acked.fetch_add(latencies.len() as u64, Ordering::Relaxed);
        let mut histogram = self.latency_us.lock().unwrap_or_else(PoisonError::into_inner);
        for latency in latencies {
            histogram.saturating_record(latency.as_micros() as u64);
        }
    }

    /// The latencies so far, and begins anew.
    pub(crate) fn take_latencies(&self) -> Histogram<u64> {
        let mut histogram = self.latency_us.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = histogram.clone();
        histogram.reset();
        taken
    }
}

/// A file of `device value` lines, one an acknowledged heartbeat.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Mutex<File>,
}

impl Ledger {
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: Mutex::new(File::create(path)?) })
    }

    fn write(&self, lines: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(lines.as_bytes()) {
            tracing::error!("the ledger cannot be written: {error}");
        }
    }
}

type Identity = (u64, i32, u64);

/// One agent's heartbeats that are under way.
#[derive(Debug)]
pub(crate) struct Account {
    device: DeviceId,
    under_way: HashMap<Identity, (Instant, u32)>,
}

impl Account {
    pub(crate) fn new(device: DeviceId) -> Self {
        Self { device, under_way: HashMap::new() }
    }

    /// What is sent again keeps the time of its first sending.
    pub(crate) fn sent(&mut self, batch: &HeartbeatBatch) {
        let now = Instant::now();
        for heartbeat in &batch.heartbeats {
            let value = heartbeat.scalars.map_or(0, |scalars| scalars.process_count);
            let identity = (heartbeat.incarnation, heartbeat.lane, heartbeat.seq);
            self.under_way.entry(identity).or_insert((now, value));
        }
    }

    /// Latencies of what `ack` names, each written to the ledger.
    pub(crate) fn acknowledged(&mut self, ack: &Ack, ledger: Option<&Ledger>) -> Vec<Duration> {
        let mut latencies = Vec::new();
        let mut lines = String::new();
        self.under_way.retain(|(incarnation, lane, seq), (sent, value)| {
            let named = ack.stored.iter().any(|range| {
                (range.incarnation == *incarnation || *incarnation == 0)
                    && range.lane == *lane
                    && (range.first..=range.last).contains(seq)
            });
            if named {
                latencies.push(sent.elapsed());
                lines.push_str(&format!("{} {value}\n", self.device));
            }
            !named
        });
        if let Some(ledger) = ledger.filter(|_| !lines.is_empty()) {
            ledger.write(&lines);
        }
        latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::{Heartbeat, Lane, Scalars, SeqRange};

    #[test]
    fn only_what_an_acknowledgement_names_is_settled() {
        let mut account = Account::new(DeviceId::generate());
        let beat = |seq: u64| Heartbeat {
            lane: Lane::Live.into(),
            seq,
            scalars: Some(Scalars { process_count: 100 + seq as u32, ..Scalars::default() }),
            ..Heartbeat::default()
        };
        account.sent(&HeartbeatBatch { heartbeats: vec![beat(1), beat(2), beat(3)], ..HeartbeatBatch::default() });
        let stored = vec![SeqRange { incarnation: 9, lane: Lane::Live.into(), first: 1, last: 2 }];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ledger");
        let ledger = Ledger::create(&path).expect("a file");
        assert_eq!(account.acknowledged(&Ack { stored, refused: vec![] }, Some(&ledger)).len(), 2);
        let text = std::fs::read_to_string(path).expect("written");
        let mut values: Vec<_> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        values.sort_unstable();
        assert_eq!(values, ["101", "102"]);
        assert_eq!(account.under_way.len(), 1);
    }
}
