//! The collector on the embedded engines, restarted as a process would be.

use crate::world::*;
use breeze_bus::{Bus, EmbeddedBus, EmbeddedBusConfig};
use breeze_collector::{Config, Handle};
use breeze_proto::v1;
use breeze_runtime::shutdown::Shutdown;
use breeze_store::{
    metrics::{EmbeddedMetrics, EmbeddedMetricsConfig, Metrics, Query, Selector},
    model::device_state,
    state::embedded::{Config as StateConfig, EmbeddedState},
};
use std::{path::Path, sync::Arc};

pub(crate) struct Engines {
    pub(crate) bus: Arc<EmbeddedBus>,
    state: Arc<EmbeddedState>,
    pub(crate) metrics: Arc<EmbeddedMetrics>,
}

impl Engines {
    pub(crate) async fn open(dir: &Path) -> Self {
        let bus = EmbeddedBusConfig { reserve_bytes: 0, ..EmbeddedBusConfig::new(dir.join("bus")) };
        let metrics = EmbeddedMetricsConfig { reserve_bytes: 0, ..EmbeddedMetricsConfig::new(dir.join("metrics")) };
        let state = StateConfig { reserve_bytes: 0, ..StateConfig::default() };
        Self {
            bus: Arc::new(EmbeddedBus::open(bus).expect("the bus opens")),
            state: Arc::new(EmbeddedState::open(dir.join("state"), state).await.expect("the state opens")),
            metrics: EmbeddedMetrics::open(metrics).expect("the metrics open"),
        }
    }

    pub(crate) async fn start(&self, shutdown: &Shutdown) -> Handle {
        let (bus, state, metrics) = (self.bus.clone(), self.state.clone(), self.metrics.clone());
        let history = Arc::new(breeze_store::history::EmbeddedHistory::new(state.clone()));
        breeze_collector::start(config(), bus, state, metrics, history, shutdown.clone()).await.expect("starts")
    }

    pub(crate) async fn start_as(&self, config: Config, shutdown: Shutdown) -> Running {
        let (bus, state, metrics) = (self.bus.clone(), self.state.clone(), self.metrics.clone());
        let history = Arc::new(breeze_store::history::EmbeddedHistory::new(state.clone()));
        let handle =
            breeze_collector::start(config, bus, state, metrics, history, shutdown.clone()).await.expect("starts");
        Running { handle, shutdown }
    }

    pub(crate) async fn load_of(&self, number: u8) -> Vec<(u64, f64)> {
        let now_ms = now_us() / 1000;
        let mut rows = Vec::new();
        let mut from_ms = now_ms - 3_600_000;
        loop {
            let query = Query {
                device: device(number),
                selector: Selector::Scalars(vec![8]),
                from_ms,
                to_ms: now_ms + 3_600_000,
                step_ms: 0,
            };
            let result = self.metrics.query(&query).await.expect("answers");
            let points = result.series.into_iter().flat_map(|series| series.points);
            rows.extend(points.map(|point| (point.at_ms, point.last)));
            if !result.truncated {
                return rows;
            }
            from_ms = rows.last().map_or(from_ms, |(at_ms, _)| at_ms + 1);
        }
    }

    pub(crate) async fn close(self) {
        self.bus.close().await;
        self.state.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_become_rows_once_over_restarts() {
    let dir = tempfile::tempdir().expect("a folder");
    let start = now_us() - 600_000_000;
    let mut wanted = Vec::new();
    for round in 0..3u64 {
        let engines = Engines::open(dir.path()).await;
        let shutdown = Shutdown::new();
        let handle = engines.start(&shutdown).await;
        for seq in round * 10 + 1..=round * 10 + 10 {
            let at = start + seq * 1_000_000;
            // Each is sent twice, the second time after the next round's restart has begun.
            let again =
                heartbeat(device(1), seq.saturating_sub(5).max(1), start + seq.saturating_sub(5).max(1) * 1_000_000);
            append(&*engines.bus, vec![heartbeat(device(1), seq, at), again]).await;
            wanted.push((at / 1000, seq as f64));
        }
        until("all rows", || async { (engines.load_of(1).await == wanted).then_some(()) }).await;
        let (_, latest) = until("the newest values", || async {
            device_state::latest(&*engines.state, device(1)).await.expect("reads")
        })
        .await;
        assert_eq!(latest.presence(), v1::Presence::Online);
        shutdown.begin();
        handle.join().await.expect("stops");
        assert_eq!(engines.load_of(1).await, wanted);
        let extent = engines.bus.extent(&stream()).await.expect("an extent");
        assert_eq!(extent.first, extent.last + 1, "nothing is left in the stream");
        engines.close().await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes");
    for entry in std::fs::read_dir(from).expect("reads") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// Metrics that are newer than the lane's record, as after `state/` alone came from a backup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_was_restored_without_the_metrics_goes_on_under_another_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let backup = tempfile::tempdir().expect("a folder");
    let start = now_us() - 600_000_000;
    let at = |seq: u64| start + seq * 1_000_000;
    for (seqs, copies) in [(1..=3u64, &["state", "bus"][..]), (4..=9, &[])] {
        let engines = Engines::open(dir.path()).await;
        let shutdown = Shutdown::new();
        // All in one batch: its positions are then one token's.
        for seq in seqs.clone() {
            append(&*engines.bus, vec![heartbeat(device(1), seq, at(seq))]).await;
        }
        let handle = engines.start(&shutdown).await;
        until("all rows", || async { (engines.load_of(1).await.len() as u64 == *seqs.end()).then_some(()) }).await;
        shutdown.begin();
        handle.join().await.expect("stops");
        engines.close().await;
        for name in copies {
            copy(&dir.path().join(name), &backup.path().join(name));
        }
    }
    for name in ["state", "bus"] {
        std::fs::remove_dir_all(dir.path().join(name)).expect("removes");
        copy(&backup.path().join(name), &dir.path().join(name));
    }
    let engines = Engines::open(dir.path()).await;
    // Some of these positions are in the metrics already, and some are not.
    for seq in 20..=27u64 {
        append(&*engines.bus, vec![heartbeat(device(1), seq, at(seq))]).await;
    }
    let shutdown = Shutdown::new();
    let handle = engines.start(&shutdown).await;
    until("the new ones", || async {
        let loads: Vec<f64> = engines.load_of(1).await.into_iter().map(|(_, load)| load).collect();
        (20..=27).all(|seq| loads.contains(&f64::from(seq))).then_some(())
    })
    .await;
    shutdown.begin();
    handle.join().await.expect("stops");
    engines.close().await;
}
