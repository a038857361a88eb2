//! Bytes a sample of the embedded metrics engine on real series.
//!
//! `metrics_bytes_per_sample [FILE]` replays a recorded file (default: the one of the tests) as
//! heartbeats of several devices, merges, and prints what each file takes.
//! `metrics_bytes_per_sample record FILE SECONDS` records one from this machine's `/proc`.

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

#[path = "../testdata/metrics_recorded.rs"]
mod recorded;

use breeze_proto::id::DeviceId;
use breeze_store::metrics::{EmbeddedMetrics, EmbeddedMetricsConfig, FrozenBatch, InsertToken, Metrics, SCALARS};
use std::error::Error;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DAY: u32 = 20_100;
const DAY_MS: u64 = 86_400_000;
const DEFAULT_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/metrics_recorded.csv");
const DEVICES: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["record", file, seconds] => record(file, seconds.parse()?),
        [] => replay(DEFAULT_FILE),
        [file] => replay(file),
        _ => Err("usage: metrics_bytes_per_sample [FILE] | record FILE SECONDS".into()),
    }
}

fn replay(file: &str) -> Result<(), Box<dyn Error>> {
    let readings = recorded::readings(&fs::read_to_string(file)?);
    let slices: Vec<_> = readings.chunks_exact(readings.len() / DEVICES).take(DEVICES).collect();
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = EmbeddedMetricsConfig { reserve_bytes: 0, ..EmbeddedMetricsConfig::new(dir.path()) };
    let engine = EmbeddedMetrics::open(config)?;
    let day_ms = u64::from(DAY) * DAY_MS;
    let mut named_rows = 0;
    runtime.block_on(async {
        for index in 0..slices[0].len() {
            let (mut rows, mut named) = (Vec::new(), Vec::new());
            for (number, slice) in slices.iter().enumerate() {
                let device = DeviceId::from_slice(&[number as u8; 16]).ok_or("16 bytes")?;
                rows.push(recorded::heartbeat(device, day_ms, index as u64, &slice[index], &slice[0]));
                named.extend(recorded::cores(&rows[number], &slice[index]));
            }
            named_rows += named.len();
            for (half, batch) in [FrozenBatch::encode(&rows, &[]), FrozenBatch::encode(&[], &named)].iter().enumerate()
            {
                let position = (2 * index + half) as u64;
                let token = InsertToken { stream: "replay".into(), first: position, last: position, day: DAY };
                engine.append(&token, batch).await?;
            }
        }
        engine.flush().await?;
        engine.maintain(day_ms + 2 * DAY_MS).await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    let rows = DEVICES * slices[0].len();
    println!("{DEVICES} devices, {rows} heartbeats, {} samples and {named_rows} named values", rows * SCALARS);
    let samples = (rows * SCALARS + named_rows) as f64;
    let mut files: Vec<_> = fs::read_dir(dir.path().join("segments"))?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::path);
    for (file, what) in files.iter().zip(["raw", "5 min", "1 h", "1 d"]) {
        let bytes = file.metadata()?.len();
        println!("{what:>6}: {bytes:>8} bytes, {:.3} a sample", bytes as f64 / samples);
    }
    Ok(())
}

/// Counters of which differences are recorded.
struct Counters {
    /// Busy and total time of all cores together, then of each.
    cpu: Vec<(u64, u64)>,
    net_in: u64,
    net_out: u64,
}

fn record(file: &str, seconds: u64) -> Result<(), Box<dyn Error>> {
    let mut out = fs::File::create(file)?;
    let mut before = counters()?;
    let start = Instant::now();
    for second in 1..=seconds {
        std::thread::sleep((start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        let now = counters()?;
        let mut loads = now.cpu.iter().zip(&before.cpu).map(|(now, before)| {
            let total = now.1.saturating_sub(before.1);
            (now.0.saturating_sub(before.0) * 1_000).checked_div(total).unwrap_or(0)
        });
        let mut line = vec![SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64];
        line.push(loads.next().ok_or("no cores")?);
        line.extend(gauges()?);
        line.splice(7..7, [now.net_in.saturating_sub(before.net_in), now.net_out.saturating_sub(before.net_out)]);
        line.extend(loads);
        writeln!(out, "{}", line.iter().map(u64::to_string).collect::<Vec<_>>().join(","))?;
        before = now;
    }
    println!("recorded {seconds} s to {file}");
    Ok(())
}

fn counters() -> Result<Counters, Box<dyn Error>> {
    let mut counters = Counters { cpu: Vec::new(), net_in: 0, net_out: 0 };
    for line in fs::read_to_string("/proc/stat")?.lines().filter(|line| line.starts_with("cpu")) {
        let times: Vec<u64> = line.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<_, _>>()?;
        let total: u64 = times.iter().sum();
        counters.cpu.push((total - times[3] - times[4], total));
    }
    for line in fs::read_to_string("/proc/net/dev")?.lines().skip(2) {
        let fields: Vec<&str> = line.split(':').nth(1).unwrap_or_default().split_whitespace().collect();
        counters.net_in += fields.first().ok_or("no bytes in")?.parse::<u64>()?;
        counters.net_out += fields.get(8).ok_or("no bytes out")?.parse::<u64>()?;
    }
    Ok(counters)
}

/// Memory, swap, disk, load, processes, uptime and flags.
fn gauges() -> Result<Vec<u64>, Box<dyn Error>> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = |name: &str| -> Result<u64, Box<dyn Error>> {
        let line = memory.lines().find(|line| line.starts_with(name)).ok_or("a line of meminfo is missing")?;
        Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
    };
    let (total, used) = (kib("MemTotal:")?, kib("MemTotal:")? - kib("MemAvailable:")?);
    let disk = rustix::fs::statvfs("/")?;
    let disk_used = disk.f_blocks - disk.f_bfree;
    let load: f64 = fs::read_to_string("/proc/loadavg")?.split(' ').next().ok_or("no load")?.parse()?;
    let uptime: f64 = fs::read_to_string("/proc/uptime")?.split(' ').next().ok_or("no uptime")?.parse()?;
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let processes = fs::read_dir("/proc")?.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_number));
    Ok(vec![
        used * 1_000 / total.max(1),
        used >> 10,
        (kib("SwapTotal:")? - kib("SwapFree:")?) >> 10,
        disk_used * 1_000 / (disk_used + disk.f_bavail).max(1),
        (disk_used * disk.f_frsize) >> 20,
        (load * 100.0).round() as u64,
        processes.count() as u64,
        uptime as u64,
        0,
    ])
}
