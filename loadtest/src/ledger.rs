//! What was sent and what was acknowledged: totals for everybody, and on request a line for each
//! acknowledged heartbeat, noted before the next is sent, against which the store can be checked.

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

/// What was acknowledged, heartbeat by heartbeat: in a file of `device value` lines, in memory, or both.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    file: Option<Mutex<File>>,
    memory: Option<Mutex<HashMap<DeviceId, Vec<u32>>>>,
}

impl Ledger {
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn create(path: Option<&Path>, in_memory: bool) -> std::io::Result<Self> {
        let file = path.map(File::create).transpose()?.map(Mutex::new);
        Ok(Self { file, memory: in_memory.then(Mutex::default) })
    }

    fn note(&self, device: DeviceId, values: &[u32]) {
        if let Some(file) = &self.file {
            let lines: String = values.iter().map(|value| format!("{device} {value}\n")).collect();
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = file.write_all(lines.as_bytes()) {
                tracing::error!("the ledger cannot be written: {error}");
            }
        }
        if let Some(memory) = &self.memory {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.entry(device).or_default().extend(values);
        }
    }

    /// What was acknowledged, if it was kept in memory.
    pub(crate) fn acknowledged(&self) -> HashMap<DeviceId, Vec<u32>> {
        let memory = self.memory.as_ref().map(|memory| memory.lock().unwrap_or_else(PoisonError::into_inner).clone());
        memory.unwrap_or_default()
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

    pub(crate) const fn device(&self) -> DeviceId {
        self.device
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
    pub(crate) fn acknowledged(&mut self, ack: &Ack, ledger: &Ledger) -> Vec<Duration> {
        let mut latencies = Vec::new();
        let mut values = Vec::new();
        self.under_way.retain(|(incarnation, lane, seq), (sent, value)| {
            let named = ack.stored.iter().any(|range| {
                (range.incarnation == *incarnation || *incarnation == 0)
                    && range.lane == *lane
                    && (range.first..=range.last).contains(seq)
            });
            if named {
                latencies.push(sent.elapsed());
                values.push(*value);
            }
            !named
        });
        if !values.is_empty() {
            ledger.note(self.device, &values);
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
        let ledger = Ledger::create(Some(&path), true).expect("a file");
        assert_eq!(account.acknowledged(&Ack { stored, refused: vec![] }, &ledger).len(), 2);
        let text = std::fs::read_to_string(path).expect("written");
        let mut values: Vec<_> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        values.sort_unstable();
        assert_eq!(values, ["101", "102"]);
        assert_eq!(ledger.acknowledged()[&account.device].len(), 2);
        assert_eq!(account.under_way.len(), 1);
    }
}
