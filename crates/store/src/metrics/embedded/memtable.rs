//! What was appended and is not yet in a segment, by day and device; queryable at once.

use super::super::{DecodedBatch, SCALARS};
use super::run::{Key, Run, Table};
use breeze_proto::id::DeviceId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

pub(super) const DAY_MS: u64 = 86_400_000;
/// Memory that a heartbeat row takes, and a named one, with their share of the maps.
const HEARTBEAT_BYTES: usize = 8 * SCALARS + 4 + 16;
const NAMED_BYTES: usize = 12 + 20;
/// Memory that a device's or a series' first row takes besides.
const SERIES_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct MemTable {
    pub(super) days: BTreeMap<u32, DayMem>,
    /// Names are shared by all devices.
    names: HashSet<Arc<str>>,
    /// Memory taken, estimated.
    pub(super) bytes: usize,
    pub(super) heartbeat_rows: u64,
    pub(super) named_rows: u64,
}

#[derive(Debug, Default)]
pub(super) struct DayMem {
    devices: HashMap<DeviceId, DeviceMem>,
}

#[derive(Debug, Default)]
struct DeviceMem {
    ts: Vec<u32>,
    scalars: Vec<[u64; SCALARS]>,
    named: BTreeMap<Arc<str>, (Vec<u32>, Vec<u64>)>,
}

impl MemTable {
    pub(super) fn is_empty(&self) -> bool {
        self.days.is_empty()
    }

    /// Adds rows, all of `day`.
    pub(super) fn apply(&mut self, day: u32, batch: &DecodedBatch) {
        let devices = &mut self.days.entry(day).or_default().devices;
        for row in &batch.heartbeats {
            let device = devices.entry(row.device).or_default();
            if device.ts.is_empty() {
                self.bytes += SERIES_BYTES;
            }
            device.ts.push((row.at_ms % DAY_MS) as u32);
            device.scalars.push(row.scalars);
        }
        let mut names = Vec::with_capacity(batch.names.len());
        for name in &batch.names {
            let shared = self.names.get(name).cloned().unwrap_or_else(|| {
                self.names.insert(Arc::clone(name));
                Arc::clone(name)
            });
            names.push(shared);
        }
        for row in &batch.named {
            let Some(name) = names.get(row.name as usize) else { continue };
            let named = &mut devices.entry(row.device).or_default().named;
            if !named.contains_key(name) {
                named.insert(Arc::clone(name), (Vec::new(), Vec::new()));
                self.bytes += SERIES_BYTES;
            }
            if let Some((ts, values)) = named.get_mut(name) {
                ts.push((row.at_ms % DAY_MS) as u32);
                values.push(row.value.to_bits());
            }
        }
        self.bytes += batch.heartbeats.len() * HEARTBEAT_BYTES + batch.named.len() * NAMED_BYTES;
        self.heartbeat_rows += batch.heartbeats.len() as u64;
        self.named_rows += batch.named.len() as u64;
    }
}

impl DayMem {
    pub(super) fn devices(&self) -> Vec<DeviceId> {
        let mut devices: Vec<DeviceId> = self.devices.keys().copied().collect();
        devices.sort_unstable();
        devices
    }

    /// A device's runs in the order of their names, all columns, rows in order of time.
    pub(super) fn runs(&self, table: Table, device: DeviceId, prefix: &str) -> Vec<Run> {
        let Some(mem) = self.devices.get(&device) else { return Vec::new() };
        let mut runs = match table {
            Table::Scalars => mem.scalar_run(device),
            Table::Named => mem.named_runs(device, prefix),
        };
        runs.iter_mut().for_each(Run::normalise);
        runs
    }
}

impl DeviceMem {
    fn scalar_run(&self, device: DeviceId) -> Vec<Run> {
        if self.ts.is_empty() {
            return Vec::new();
        }
        let cols = (0..SCALARS).map(|column| self.scalars.iter().map(|row| row[column]).collect()).collect();
        vec![Run { key: Key { device, name: Arc::from("") }, ts: self.ts.clone(), cols }]
    }

    fn named_runs(&self, device: DeviceId, prefix: &str) -> Vec<Run> {
        let from = self.named.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, (ts, values))| Run {
                key: Key { device, name: Arc::clone(name) },
                ts: ts.clone(),
                cols: vec![values.clone()],
            })
            .collect()
    }
}
