//! What the embedded metrics engine costs: `metrics_bench [DEVICES] [HOURS]` (default 10,000 and 24)
//! appends that many hours of heartbeats at 60 s, with upkeep every hour, then seals the day. Values
//! are recorded ones, per-core series every 5 minutes among them, each device at its own place in the recording. Prints the CPU a million samples
//! and the time of a 24 h query of one device, before and after sealing. Run it with `--release`.

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

#[path = "../testdata/metrics_recorded.rs"]
mod recorded;

use breeze_proto::id::DeviceId;
use breeze_store::metrics::{
    EmbeddedMetrics, EmbeddedMetricsConfig, FrozenBatch, HeartbeatRow, InsertToken, Metrics, NamedRow, Query, SCALARS,
    Selector,
};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::time::Instant;

const DAY: u32 = 20_100;
const DAY_MS: u64 = 86_400_000;
const LANES: usize = 4;
const QUERIES: u64 = 2_000;
/// How often a device sends its per-core series.
const DETAIL_MINUTES: u64 = 5;

struct Bench {
    engine: std::sync::Arc<EmbeddedMetrics>,
    readings: Vec<recorded::Reading>,
    devices: u64,
    ids: Vec<DeviceId>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let devices = arguments.first().copied().unwrap_or(10_000);
    let hours = arguments.get(1).copied().unwrap_or(24).min(24);
    let dir = tempfile::tempdir()?;
    let config = EmbeddedMetricsConfig { reserve_bytes: 0, ..EmbeddedMetricsConfig::new(dir.path()) };
    let engine = EmbeddedMetrics::open(config)?;
    let readings = recorded::readings(include_str!("../testdata/metrics_recorded.csv"));
    let bench = Bench { engine, readings, devices, ids: (0..devices).map(device).collect() };
    let day_ms = u64::from(DAY) * DAY_MS;
    let (mut rows, mut named) = (0, 0);

    let (start, cpu) = (Instant::now(), cpu_seconds(ClockId::ProcessCPUTime));
    let (mut making, mut encoding) = (0.0, 0.0);
    for minute in 0..hours * 60 {
        let before = cpu_seconds(ClockId::ThreadCPUTime);
        let lanes = bench.minute(day_ms, minute);
        let made = cpu_seconds(ClockId::ThreadCPUTime);
        let frozen: Vec<FrozenBatch> = lanes.iter().map(|(rows, cores)| FrozenBatch::encode(rows, cores)).collect();
        rows += lanes.iter().map(|(rows, _)| rows.len()).sum::<usize>();
        named += lanes.iter().map(|(_, cores)| cores.len()).sum::<usize>();
        making += made - before;
        encoding += cpu_seconds(ClockId::ThreadCPUTime) - made;
        bench.append(minute, &frozen).await?;
        if minute % 60 == 59 {
            bench.engine.maintain(day_ms + minute * 60_000).await?;
        }
    }
    let appended = cpu_seconds(ClockId::ProcessCPUTime) - cpu - making;
    let samples = (rows * SCALARS + named) as f64 / 1e6;
    println!("{devices} devices, {hours} h at 60 s: {samples:.1} M samples in {:.1} s", start.elapsed().as_secs_f64());
    println!("encode: {:.3} us a row", encoding * 1e6 / (rows + named) as f64);
    println!("append, flush and merges: {:.3} CPU-s a million samples", appended / samples);
    bench.query("today", day_ms, hours).await?;
    let cpu = cpu_seconds(ClockId::ProcessCPUTime);
    bench.engine.maintain(day_ms + 2 * DAY_MS).await?;
    let sealed = cpu_seconds(ClockId::ProcessCPUTime) - cpu;
    println!("sealing with roll-ups: {:.3} CPU-s a million samples", sealed / samples);
    println!("all: {:.3} CPU-s a million samples", (appended + sealed) / samples);
    let usage = bench.engine.usage().await?;
    println!("stored, roll-ups included: {:.3} bytes a sample", usage.bytes as f64 / (samples * 1e6));
    bench.query("sealed", day_ms, hours).await
}

impl Bench {
    /// A minute's heartbeats and named values, by lane.
    fn minute(&self, day_ms: u64, minute: u64) -> Vec<(Vec<HeartbeatRow>, Vec<NamedRow>)> {
        let mut lanes = vec![(Vec::new(), Vec::new()); LANES];
        for (number, &device) in (0_u64..).zip(&self.ids) {
            let place = |index: u64| (number * 37 + index) as usize % self.readings.len();
            let (reading, first) = (&self.readings[place(minute)], &self.readings[place(0)]);
            let (rows, cores) = &mut lanes[number as usize % LANES];
            let row = recorded::heartbeat(device, day_ms, minute, reading, first);
            if minute % DETAIL_MINUTES == number % DETAIL_MINUTES {
                cores.extend(recorded::cores(&row, reading));
            }
            rows.push(row);
        }
        lanes
    }

    async fn append(&self, minute: u64, lanes: &[FrozenBatch]) -> Result<(), Box<dyn Error>> {
        let mut tasks = tokio::task::JoinSet::new();
        for (lane, batch) in lanes.iter().enumerate() {
            let (engine, batch) = (std::sync::Arc::clone(&self.engine), batch.clone());
            let token = InsertToken { stream: format!("lane.{lane}"), first: minute, last: minute, day: DAY };
            tasks.spawn(async move { engine.append(&token, &batch).await });
        }
        for outcome in tasks.join_all().await {
            outcome?;
        }
        Ok(())
    }

    async fn query(&self, what: &str, day_ms: u64, hours: u64) -> Result<(), Box<dyn Error>> {
        for (kind, scalars) in [("one series", vec![0]), ("all twelve", (0..SCALARS).collect::<Vec<_>>())] {
            let mut micros = Vec::new();
            for i in 0..QUERIES {
                let selector = Selector::Scalars(scalars.clone());
                let device = device(i * 7_919 % self.devices);
                let query = Query { device, selector, from_ms: day_ms, to_ms: day_ms + DAY_MS, step_ms: 0 };
                let start = Instant::now();
                let found = self.engine.query(&query).await?;
                micros.push(start.elapsed().as_micros());
                assert_eq!(found.series[0].points.len() as u64, hours * 60, "every row is there");
            }
            micros.sort_unstable();
            let at = |share: f64| micros[(micros.len() as f64 * share) as usize] as f64 / 1e3;
            println!("query {what}, raw, {kind}: p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
        }
        Ok(())
    }
}

fn device(number: u64) -> DeviceId {
    DeviceId::derive(b"bench", "device", &number.to_string())
}

fn cpu_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
