//! Measures the collector on the embedded engines: CPU a heartbeat of the pure core, and of the whole
//! of it with bus and stores. `cargo run --profile bench --example ingest -- [devices] [rounds] [seconds a round]`;
//! without seconds as fast as it goes.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use anyhow::Context as _;
use breeze_bus::{Bus, EmbeddedBus, EmbeddedBusConfig};
use breeze_collector::{
    Config,
    core::{Drive, Effects, LaneCore},
};
use breeze_proto::{
    id::DeviceId,
    shard::{LaneCount, Shard},
    subject, v1,
};
use breeze_runtime::shutdown::Shutdown;
use breeze_store::{
    metrics::{EmbeddedMetrics, EmbeddedMetricsConfig, Metrics},
    state::embedded::{Config as StateConfig, EmbeddedState},
};
use bytes::Bytes;
use prost::Message as _;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const LANES: u16 = 4;
/// Heartbeats of a lane in one entry: a quarter of a second at 1,000 a second.
const PER_ENTRY: usize = 64;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn heartbeat(device: DeviceId, seq: u64, at_us: u64) -> v1::LaneEntry {
    let n = at_us / 1000 % 977;
    let scalars = v1::Scalars {
        cpu_permille: n as u32,
        ram_permille: 430,
        ram_used_mib: 7000 + n as u32,
        swap_used_mib: 12,
        disk_permille: 610,
        disk_used_mib: 181_000,
        net_in_bytes: n * 1311,
        net_out_bytes: n * 277,
        load1_centi: n as u32 / 3,
        process_count: 311,
        uptime_s: at_us / 1_000_000 % 1_000_000,
        flags: 0,
    };
    let heartbeat = v1::Heartbeat {
        incarnation: 7,
        lane: v1::Lane::Live.into(),
        seq,
        wall_us: at_us,
        mono_us: at_us / 3,
        scalars: Some(scalars),
        status: v1::HealthStatus::Ok.into(),
        last_user: "ada".into(),
        ..v1::Heartbeat::default()
    };
    let stamped = v1::StampedHeartbeat {
        incarnation: 7,
        sample_us: at_us,
        offset_us: 1500,
        heartbeat: Some(heartbeat),
        round_trip_us: 20_000,
    };
    v1::LaneEntry {
        device_id: Bytes::copy_from_slice(&device.to_bytes()),
        session_epoch: 1,
        received_us: at_us,
        body: Some(v1::lane_entry::Body::Heartbeat(stamped)),
    }
}

/// Entries of all lanes, as relays would write them: (stream, payload).
fn entries(devices: &BTreeMap<u16, Vec<DeviceId>>, lanes: LaneCount, seq: u64, at_us: u64) -> Vec<(String, Bytes)> {
    let mut out = Vec::new();
    for lane in lanes.lanes() {
        for chunk in devices[&lane.number()].chunks(PER_ENTRY) {
            let entries = chunk.iter().map(|device| heartbeat(*device, seq, at_us)).collect();
            let batch = v1::LaneBatch { relay_id: "local-1".into(), region: "local".into(), entries };
            out.push((subject::lane_stream("local", lane), batch.encode_to_vec().into()));
        }
    }
    out
}

fn report(what: &str, spent: Duration, heartbeats: u64) {
    println!("{what}: {:.2} us CPU a heartbeat", spent.as_secs_f64() * 1e6 / heartbeats as f64);
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let (count, rounds) = (args.next().unwrap_or(10_000u64), args.next().unwrap_or(10));
    let pace = Duration::from_secs(args.next().unwrap_or(0));
    let lanes = LaneCount::new(LANES).context("lanes")?;
    let mut devices: BTreeMap<u16, Vec<DeviceId>> = BTreeMap::new();
    for _ in 0..count {
        let id = DeviceId::generate();
        devices.entry(Shard::of(id).lane(lanes).number()).or_default().push(id);
    }
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
    let at = |round: u64| now_us - (rounds - round) * 10_000_000;

    let mut core = LaneCore::new("local", 150_000_000);
    let mut spent = Duration::ZERO;
    for round in 0..rounds {
        let entries = entries(&devices, lanes, round + 1, at(round));
        let began = cpu();
        for (position, (_, payload)) in entries.into_iter().enumerate() {
            core.handle_entry(position as u64 + 1, payload, Drive::First, &mut Effects::default());
        }
        for rows in core.take_pending().map(|pending| pending.days).unwrap_or_default() {
            std::hint::black_box(rows.freeze());
        }
        std::hint::black_box(core.take_received(round));
        std::hint::black_box(core.take_merges(round + 1, at(round), 15_000_000, false, u64::MAX));
        spent += cpu() - began;
    }
    report("core and encoding", spent, count * rounds);
    whole(&devices, lanes, (count, rounds, pace), at).await
}

async fn whole(
    devices: &BTreeMap<u16, Vec<DeviceId>>,
    lanes: LaneCount,
    (count, rounds, pace): (u64, u64, Duration),
    at: impl Fn(u64) -> u64,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let bus = Arc::new(EmbeddedBus::open(EmbeddedBusConfig::new(dir.path().join("bus")))?);
    let state = Arc::new(EmbeddedState::open(dir.path().join("state"), StateConfig::default()).await?);
    let metrics = EmbeddedMetrics::open(EmbeddedMetricsConfig::new(dir.path().join("metrics")))?;
    let shutdown = Shutdown::new();
    let config = Config { lanes: LANES, ..Config::default() };
    let (sink, store): (Arc<dyn Metrics>, _) = (metrics.clone(), state.clone());
    let history = Arc::new(breeze_store::history::EmbeddedHistory::new(state.clone()));
    let collector = breeze_collector::start(config, bus.clone(), store, sink, history, shutdown.clone()).await?;

    let began = (cpu(), Instant::now());
    let mut encoding = Duration::ZERO;
    for round in 0..rounds {
        let before = cpu();
        let mut payloads = entries(devices, lanes, round + 1, at(round));
        encoding += cpu() - before;
        // Lanes take turns, as they do when devices send at their own times.
        payloads.sort_by_key(|(stream, payload)| (payload.len(), stream.clone()));
        let begins = tokio::time::Instant::now();
        let many = payloads.len() as u32;
        let mut appends = tokio::task::JoinSet::new();
        for (number, (stream, payload)) in (0..).zip(payloads) {
            tokio::time::sleep_until(begins + pace * number / many).await;
            let bus = bus.clone();
            appends.spawn(async move { bus.append(&stream, "", payload).await });
        }
        while let Some(appended) = appends.join_next().await {
            appended??;
        }
        while metrics.usage().await?.heartbeat_rows < count * (round + 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    report("bus, collector and stores", cpu() - began.0 - encoding, count * rounds);
    let per_second = (count * rounds) as f64 / began.1.elapsed().as_secs_f64();
    println!("{per_second:.0} heartbeats a second to queryable; bus {:?}", bus.stats());
    shutdown.begin();
    collector.join().await?;
    bus.close().await;
    state.close().await;
    Ok(())
}
