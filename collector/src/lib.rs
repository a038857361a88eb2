//! The collector of a region: what relays have put into the lanes' streams becomes metrics, device
//! state and presence, each heartbeat exactly once.
//!
//! [`core`] decides (no clock, no I/O); `lane` reads, records, inserts and recovers; `held`, `digest`
//! and `push` talk to relays and directories.

mod clock;
pub mod core;
mod digest;
mod directory;
mod forward;
mod held;
mod lane;
mod members;
mod push;
mod relays;
mod status;

use anyhow::{Context as _, ensure};
use breeze_bus::{Bus, status::Reporter};
use breeze_proto::shard::{LaneCount, MAX_LANES};
use breeze_runtime::{shutdown::Shutdown, tasks::Tasks};
use breeze_store::{history::History, metrics::Metrics, state::State};
use lane::{LaneDeps, LaneShared};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long the lanes' last batches may take when the collector stops.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// Which collector this is, and its pace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Its name, of its own in the region: a collector that starts takes the lanes of its name over at once.
    pub id: String,
    pub region: String,
    /// How many lanes the region has; the same for its relays.
    pub lanes: u16,
    /// The longest that rows wait for a flush. With little load they wait less.
    pub flush_interval_ms: u64,
    /// A device's newest values are stored at most so often, unless its presence or health changed.
    /// Digests and live samples do not wait for it.
    pub latest_interval_ms: u64,
    /// The shortest silence after which a device counts as offline whose connection was not seen to end.
    pub offline_floor_ms: u64,
    /// How long a lane stays with a collector that is gone.
    pub lease_ms: u64,
    /// Regions whose devices relays of this one take: what was stored for them here is taken home.
    pub homes: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: "collector-1".to_owned(),
            region: "local".to_owned(),
            lanes: 4,
            flush_interval_ms: 1000,
            latest_interval_ms: 15_000,
            offline_floor_ms: 150_000,
            lease_ms: 15_000,
            homes: Vec::new(),
        }
    }
}

impl Config {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(LaneCount::new(self.lanes).is_some(), "lanes is {}: it must be 1 to {MAX_LANES}", self.lanes);
        ensure!(
            (10..=10_000).contains(&self.flush_interval_ms),
            "flush_interval_ms is {}: it must be 10 to 10000",
            self.flush_interval_ms
        );
        ensure!((1_000..=600_000).contains(&self.lease_ms), "lease_ms is {}: it must be 1000 to 600000", self.lease_ms);
        ensure!(
            (1_000..=3_600_000).contains(&self.offline_floor_ms),
            "offline_floor_ms is {}: it must be 1000 to 3600000",
            self.offline_floor_ms
        );
        ensure!(
            self.latest_interval_ms <= 600_000,
            "latest_interval_ms is {}: it must be at most 600000",
            self.latest_interval_ms
        );
        Ok(())
    }
}

/// A running collector.
#[derive(Debug)]
pub struct Handle {
    tasks: Tasks,
}

impl Handle {
    /// Waits until it has stopped: for as long as it takes until shutdown begins, then for the last
    /// batches.
    ///
    /// # Errors
    /// The first task's failure, if one failed.
    pub async fn join(self) -> anyhow::Result<()> {
        self.tasks.finish(STOP_DEADLINE).await
    }
}

/// Starts a collector. It shares the lanes of its region with the other collectors that are there; alone
/// it owns all of them.
///
/// # Errors
/// If the configuration is not usable; the error names the key.
pub async fn start(
    config: Config,
    bus: Arc<dyn Bus>,
    state: Arc<dyn State>,
    metrics: Arc<dyn Metrics>,
    history: Arc<dyn History>,
    shutdown: Shutdown,
) -> anyhow::Result<Handle> {
    config.check().context("collector configuration")?;
    let config = Arc::new(config);
    let stop = shutdown.token();
    let tasks = Tasks::new("collector", shutdown);
    let count = LaneCount::new(config.lanes).context("lanes")?;
    let lanes: Vec<_> = count.lanes().map(|lane| Arc::new(LaneShared::new(lane))).collect();
    let (pusher, pushes) = push::channel();
    let directory = Arc::new(directory::Teller::new(bus.clone()));
    let relays = Arc::new(relays::Relays::default());
    let (sharing, shares) = members::Sharing::new(config.clone(), bus.clone(), lanes.clone(), count);
    for shared in &lanes {
        let deps = LaneDeps {
            config: config.clone(),
            bus: bus.clone(),
            state: state.clone(),
            metrics: metrics.clone(),
            history: history.clone(),
            pusher: pusher.clone(),
            directory: directory.clone(),
            shares: shares.clone(),
            relays: relays.clone(),
            shared: shared.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(format!("lane {}", shared.lane), lane::run(deps));
    }
    let homes: Vec<&str> = config.homes.iter().map(String::as_str).filter(|home| *home != config.region).collect();
    if homes.is_empty() {
        tracing::info!(
            region = config.region,
            "forwards for no other region: what relays of this one store for others stays unread"
        );
    } else {
        tracing::info!(region = config.region, homes = homes.join(", "), "forwards what is stored here for others");
    }
    for home in config.homes.iter().filter(|home| **home != config.region) {
        let forward = forward::Forward {
            bus: bus.clone(),
            state: state.clone(),
            owner: config.id.clone(),
            region: config.region.clone(),
            lanes: count,
            lease_ms: config.lease_ms,
        };
        tasks.spawn(format!("forward to {home}"), forward::run(forward, home.clone(), stop.clone()));
    }
    // Cancelled when the last lane has been given back or away.
    let done = CancellationToken::new();
    let (sharing_stop, sharing_done) = (stop.clone(), done.clone().drop_guard());
    tasks.spawn("members", async move {
        let _done = sharing_done;
        sharing.run(sharing_stop).await
    });
    tasks.spawn("relays", relays::run(relays, bus.clone(), stop.clone()));
    tasks.spawn("directory", directory.run(done.clone()));
    let (push_bus, push_stop) = (bus.clone(), done.clone());
    tasks.spawn("push", async move {
        push::run(pushes, push_bus, push_stop).await;
        Ok(())
    });
    let digests = Arc::new(digest::Digests::new(config.clone(), bus.clone(), lanes.clone(), shares.clone()));
    tasks.spawn("digest", digests.clone().publish(stop.clone(), done.clone()));
    tasks.spawn("digest pages", digests.serve(done.clone()));
    tasks.spawn("watch", digest::watch(bus.clone(), lanes.clone(), done));
    let reporter = Reporter::new(bus, "collector", &config.id, &config.region, env!("CARGO_PKG_VERSION"));
    let mut status = status::Status::new(lanes, shares);
    tasks.spawn("status", async move {
        reporter.run(stop, move || status.report()).await;
        Ok(())
    });
    Ok(Handle { tasks })
}
