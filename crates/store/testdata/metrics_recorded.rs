//! Reads `metrics_recorded.csv`: series of a real machine, sampled once a second while it compiled,
//! tested and idled. A line is the time in milliseconds, the twelve scalars and the load of each core
//! in per mille. Shared by the test and the examples with `#[path]`.

use breeze_proto::id::DeviceId;
use breeze_store::metrics::{HeartbeatRow, NamedRow, SCALARS};

/// A heartbeat's period in the replay.
pub(crate) const PERIOD_MS: u64 = 60_000;
const UPTIME: usize = 10;

/// One recorded second.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    at_ms: u64,
    pub(crate) scalars: [u64; SCALARS],
    cores: Vec<f64>,
}

/// The recorded readings.
pub(crate) fn readings(text: &str) -> Vec<Reading> {
    let parse = |line: &str| {
        let numbers: Vec<u64> = line.split(',').map(|field| field.parse().expect("a whole number")).collect();
        let scalars = numbers[1..=SCALARS].try_into().expect("twelve scalars");
        let cores = numbers[SCALARS + 1..].iter().map(|&permille| permille as f64 / 10.0).collect();
        Reading { at_ms: numbers[0], scalars, cores }
    };
    text.lines().filter(|line| !line.is_empty()).map(parse).collect()
}

/// The `index`th heartbeat of a device that was given this reading: a minute apart instead of a
/// second, with the jitter that the reading had, and the uptime that fits.
pub(crate) fn heartbeat(device: DeviceId, day_ms: u64, index: u64, reading: &Reading, first: &Reading) -> HeartbeatRow {
    let mut scalars = reading.scalars;
    scalars[UPTIME] = first.scalars[UPTIME] + index * PERIOD_MS / 1_000;
    HeartbeatRow { device, at_ms: day_ms + index * PERIOD_MS + reading.at_ms % 1_000, scalars }
}

/// The per-core series that go with it.
pub(crate) fn cores(row: &HeartbeatRow, reading: &Reading) -> Vec<NamedRow> {
    let named = |(core, &value): (usize, &f64)| NamedRow {
        device: row.device,
        at_ms: row.at_ms,
        name: format!("cpu.{core}.percent"),
        value,
    };
    reading.cores.iter().enumerate().map(named).collect()
}
