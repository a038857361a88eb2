//! What metrics cost on ClickHouse: `BREEZE_TEST_CLICKHOUSE=http://host:port clickhouse_bench [DEVICES] [HOURS]`
//! (default 200 and 6). In a database of its own, which it drops at the end, it
//!
//! - replays the recorded series as five devices, merges, and prints the bytes a sample of the columns;
//! - appends hours of heartbeats of many devices, each at its own place in the recording, and prints our
//!   CPU a million samples, how long an append takes, and the bytes a sample on disk, roll-ups included.

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

#[path = "../testdata/metrics_recorded.rs"]
mod recorded;

use breeze_proto::id::DeviceId;
use breeze_store::metrics::clickhouse::{ClickHouseConfig, ClickHouseMetrics, migrate};
use breeze_store::metrics::{FrozenBatch, HeartbeatRow, InsertToken, Metrics, Query, SCALARS, Selector};
use clickhouse::{Client, Compression};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

const DAY: u32 = 20_100;
const DAY_MS: u64 = 86_400_000;
const RECORDED_DEVICES: usize = 5;
const LANES: u64 = 4;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("BREEZE_TEST_CLICKHOUSE").map_err(|_| "set BREEZE_TEST_CLICKHOUSE=http://host:port")?;
    let arguments: Vec<u64> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let devices = arguments.first().copied().unwrap_or(200);
    let hours = arguments.get(1).copied().unwrap_or(6).min(24);
    let readings = recorded::readings(include_str!("../testdata/metrics_recorded.csv"));
    for (what, devices) in [("recorded", 0), ("many", devices)] {
        let config = ClickHouseConfig {
            // The server's clock is years later than the rows.
            retention_raw_days: 20_000,
            retention_5m_days: 20_000,
            retention_1h_days: 20_000,
            retention_1d_days: 20_000,
            ..ClickHouseConfig::new(&url, format!("breeze_bench_{}_{what}", std::process::id()))
        };
        migrate(&config).await?;
        let engine = ClickHouseMetrics::connect(config.clone()).await?;
        let client =
            Client::default().with_url(&url).with_database(&config.database).with_compression(Compression::None);
        let result = if devices == 0 {
            recorded_series(&engine, &client, &readings).await
        } else {
            many(&engine, &client, &readings, devices, hours).await
        };
        client.query(&format!("DROP DATABASE {}", config.database)).execute().await?;
        result?;
    }
    Ok(())
}

async fn recorded_series(
    engine: &Arc<ClickHouseMetrics>,
    client: &Client,
    readings: &[recorded::Reading],
) -> Result<(), Box<dyn Error>> {
    let day_ms = u64::from(DAY) * DAY_MS;
    let slices: Vec<_> = readings.chunks_exact(readings.len() / RECORDED_DEVICES).take(RECORDED_DEVICES).collect();
    let (mut rows, mut named) = (Vec::new(), Vec::new());
    for index in 0..slices[0].len() {
        for (number, slice) in slices.iter().enumerate() {
            let device = DeviceId::from_slice(&[number as u8; 16]).ok_or("16 bytes")?;
            rows.push(recorded::heartbeat(device, day_ms, index as u64, &slice[index], &slice[0]));
            named.extend(recorded::cores(rows.last().ok_or("a row")?, &slice[index]));
        }
    }
    let token = InsertToken { stream: "recorded".into(), first: 1, last: 1, day: DAY };
    engine.append(&token, &FrozenBatch::encode(&rows, &named)).await?;
    println!("recorded series: {} heartbeats of {RECORDED_DEVICES} devices, {} named values", rows.len(), named.len());
    let samples = (rows.len() * SCALARS) as f64;
    for (table, samples) in [("heartbeats", samples), ("named", named.len() as f64)] {
        client.query(&format!("OPTIMIZE TABLE {table} FINAL")).execute().await?;
        let (packed, disk) = part_bytes(client, table).await?;
        println!(
            "{table:>12}: {:.3} bytes a sample in columns ({packed}); {disk} bytes on disk with what each part has of its own",
            packed as f64 / samples
        );
    }
    Ok(())
}

/// Bytes of the columns, and of all files, of a table's active parts.
async fn part_bytes(client: &Client, table: &str) -> Result<(u64, u64), Box<dyn Error>> {
    let sql = "SELECT toUInt64(sum(data_compressed_bytes)), toUInt64(sum(bytes_on_disk)) FROM system.parts \
               WHERE database = currentDatabase() AND table = ? AND active";
    Ok(client.query(sql).bind(table).fetch_one().await?)
}

async fn many(
    engine: &Arc<ClickHouseMetrics>,
    client: &Client,
    readings: &[recorded::Reading],
    devices: u64,
    hours: u64,
) -> Result<(), Box<dyn Error>> {
    let day_ms = u64::from(DAY) * DAY_MS;
    let (start, mut cpu, mut appends, mut samples) = (Instant::now(), 0.0, Vec::new(), 0_usize);
    // A batch is five minutes of a lane's devices.
    for batch in 0..hours * 12 {
        for lane in 0..LANES {
            let mut rows: Vec<HeartbeatRow> = Vec::new();
            for minute in batch * 5..batch * 5 + 5 {
                for device in (lane..devices).step_by(LANES as usize) {
                    let offset = (device * 7_919) as usize;
                    let reading = |index: u64| &readings[(offset + index as usize) % readings.len()];
                    rows.push(recorded::heartbeat(id(device), day_ms, minute, reading(minute), reading(0)));
                }
            }
            samples += rows.len() * SCALARS;
            let token = InsertToken { stream: format!("lane.{lane}"), first: batch, last: batch, day: DAY };
            let before = (cpu_seconds(), Instant::now());
            engine.append(&token, &FrozenBatch::encode(&rows, &[])).await?;
            cpu += cpu_seconds() - before.0;
            appends.push(before.1.elapsed().as_secs_f64() * 1e3);
        }
    }
    let millions = samples as f64 / 1e6;
    println!("{devices} devices, {hours} h at 60 s: {millions:.2} M samples in {:.1} s", start.elapsed().as_secs_f64());
    println!("our CPU, encoding and appending: {:.3} CPU-s a million samples", cpu / millions);
    appends.sort_by(f64::total_cmp);
    let at = |share: usize| appends[(appends.len() - 1) * share / 100];
    println!("append of {} rows: p50 {:.1} ms, p99 {:.1} ms", devices * 5 / LANES, at(50), at(99));
    for table in ["heartbeats", "heartbeats_5m", "heartbeats_1h", "heartbeats_1d", "appended"] {
        client.query(&format!("OPTIMIZE TABLE {table} FINAL")).execute().await?;
        let (packed, disk) = part_bytes(client, table).await?;
        let (packed, disk) = (packed as f64 / samples as f64, disk as f64 / samples as f64);
        println!("{table:>14}: {packed:.3} bytes a sample in columns, {disk:.3} on disk");
    }
    for (what, step_ms) in [("raw rows", 0), ("minutes", 60_000), ("hours", 3_600_000)] {
        let mut times = Vec::new();
        for number in 0..50 {
            let selector = Selector::Scalars((0..SCALARS).collect());
            let device = id(number * 31 % devices);
            let query = Query { device, selector, from_ms: day_ms, to_ms: day_ms + DAY_MS, step_ms };
            let before = Instant::now();
            engine.query(&query).await?;
            times.push(before.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!("a day of one device, all twelve, {what}: p50 {:.1} ms, max {:.1} ms", times[25], times[49]);
    }
    Ok(())
}

/// Spread as random ids are.
fn id(device: u64) -> DeviceId {
    let bytes = (u128::from(device) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
    DeviceId::from_slice(&bytes).unwrap_or_else(|| unreachable!("16 bytes"))
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
