//! What all tasks of one relay share.

use crate::{
    config::{Config, Limits},
    lanes::Lane,
    mailbox::{Mailbox, Verdict},
    stats::Stats,
};
use anyhow::Context;
use arc_swap::ArcSwap;
use breeze_bus::Bus;
use breeze_proto::{
    id::DeviceId,
    shard::{LaneCount, Shard},
    trust::Root,
    v1::SignedDocument,
};
use breeze_relay_core::{
    Now,
    admission::{Admission, Verdict as Admitted},
    registry::{Claim, Registered, Registry},
    revocations::Revocations,
    session::UploadBudget,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Questions to other roles that may be under way for all connections together.
const MAX_QUESTIONS: usize = 256;

/// One relay.
pub(crate) struct Relay {
    pub(crate) id: Arc<str>,
    pub(crate) region: String,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) root: Arc<ArcSwap<Root>>,
    pub(crate) limits: Limits,
    pub(crate) stats: Stats,
    pub(crate) uploads: Arc<UploadBudget>,
    pub(crate) questions: Semaphore,
    pub(crate) revocations_path: PathBuf,
    /// Owns every connection's task.
    pub(crate) connections: TaskTracker,
    /// Cancelled when there is a revocation set, so that agents are let in.
    pub(crate) ready: CancellationToken,
    /// Connections say goodbye.
    pub(crate) drain: CancellationToken,
    /// Connections end where they are.
    pub(crate) abandon: CancellationToken,
    registry: Mutex<Registry<Arc<Mailbox>>>,
    pub(crate) revocations: Mutex<Revocations>,
    admission: Mutex<Admission>,
    lanes: Vec<Arc<Lane>>,
    /// Of the other regions that devices may belong to.
    guests: BTreeMap<String, Vec<Arc<Lane>>>,
    lane_count: LaneCount,
    started: Instant,
    run: u64,
}

impl Relay {
    pub(crate) fn new(config: &Config, root: Arc<ArcSwap<Root>>, bus: Arc<dyn Bus>) -> anyhow::Result<Arc<Self>> {
        let lane_count = LaneCount::new(config.lanes).context("relay.lanes")?;
        let started = Instant::now();
        Ok(Arc::new(Self {
            id: config.id.as_str().into(),
            region: config.region.clone(),
            bus,
            root,
            limits: config.limits,
            stats: Stats::default(),
            uploads: Arc::default(),
            questions: Semaphore::new(MAX_QUESTIONS),
            revocations_path: config.data_dir.join("revocations"),
            connections: TaskTracker::new(),
            ready: CancellationToken::new(),
            drain: CancellationToken::new(),
            abandon: CancellationToken::new(),
            registry: Mutex::default(),
            revocations: Mutex::default(),
            admission: Mutex::new(Admission::new(config.limits.admission(), 0)),
            lanes: lane_count.lanes().map(|id| Arc::new(Lane::new(id, &config.id, &config.region))).collect(),
            guests: config
                .regions
                .iter()
                .filter(|home| **home != config.region)
                .map(|home| {
                    let health = Arc::default();
                    let lane = |id| Arc::new(Lane::guest(id, lane_count, config, home, &health));
                    (home.clone(), lane_count.lanes().map(lane).collect())
                })
                .collect(),
            lane_count,
            started,
            run: rand::random(),
        }))
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono_us: self.started.elapsed().as_micros() as u64, wall_us: wall_us() }
    }

    /// Tells this run's batch ids from an earlier one's; random, so that nobody can take them beforehand.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// The instant of a monotonic time of [`Self::now`], at most a day ahead.
    pub(crate) fn instant(&self, mono_us: u64) -> tokio::time::Instant {
        const DAY_US: u64 = 24 * 3_600 * 1_000_000;
        let now_us = self.started.elapsed().as_micros() as u64;
        let wait = std::time::Duration::from_micros(mono_us.saturating_sub(now_us).min(DAY_US));
        tokio::time::Instant::now() + wait
    }

    /// This region's, then those of other regions.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.iter().chain(self.guests.values().flatten())
    }

    /// Other regions whose lanes do not take what is sent to them.
    pub(crate) fn homes_away(&self) -> usize {
        self.guests.values().filter(|lanes| lanes.first().is_some_and(|lane| lane.is_away())).count()
    }

    /// The lane of a device that says that it belongs to `home`; a region that is not configured is this one.
    pub(crate) fn lane_of(&self, device: DeviceId, home: &str) -> &Arc<Lane> {
        let lanes = self.guests.get(home).unwrap_or_else(|| {
            if !home.is_empty() && home != self.region {
                metrics::counter!("breeze_relay_unknown_homes_total").increment(1);
            }
            &self.lanes
        });
        &lanes[usize::from(Shard::of(device).lane(self.lane_count).number())]
    }

    // ---- admission ----

    /// Judges an attempt; with `Some`, the handshake is counted as under way until that is dropped.
    pub(crate) fn admit(
        self: &Arc<Self>,
        source: IpAddr,
        validated: bool,
        may_retry: bool,
    ) -> (Admitted, Option<HalfOpen>) {
        let full = self.connections.len() >= self.limits.max_connections;
        if full || self.drain.is_cancelled() || !self.ready.is_cancelled() {
            self.stats.count_handshake("refused");
            return (Admitted::Refuse, None);
        }
        let now = self.now();
        let verdict = self.admission.lock().handle_attempt(source, validated, may_retry, now.mono_us);
        self.stats.count_handshake(match verdict {
            Admitted::Begin => "begun",
            Admitted::Retry => "retry",
            Admitted::Refuse => "refused",
        });
        let guard = (verdict == Admitted::Begin).then(|| HalfOpen { relay: self.clone() });
        (verdict, guard)
    }

    /// Whether a device that has proven who it is may have a session now.
    pub(crate) fn admit_identity(&self, device: DeviceId) -> bool {
        let now = self.now();
        self.admission.lock().handle_identity(device, now.mono_us)
    }

    pub(crate) fn half_open(&self) -> u32 {
        self.admission.lock().half_open()
    }

    // ---- registry ----

    /// Registers a connection; what it replaces is told so. `None` if it is stale.
    pub(crate) fn register(&self, claim: Claim, mailbox: Arc<Mailbox>) -> Option<u64> {
        let now = self.now();
        match self.registry.lock().register(claim, mailbox, now.wall_us) {
            Registered::Stale => None,
            Registered::Yes { epoch, replaced } => {
                if let Some(replaced) = replaced {
                    let by_other_installation = replaced.by_other_installation;
                    replaced.connection.judge(Verdict::Replaced { by_other_installation });
                }
                Some(epoch)
            }
        }
    }

    pub(crate) fn unregister(&self, device: DeviceId, standby: bool, epoch: u64) {
        self.registry.lock().remove(device, standby, epoch);
    }

    pub(crate) fn find(&self, device: DeviceId, epoch: u64) -> Option<Arc<Mailbox>> {
        self.registry.lock().find(device, epoch)
    }

    pub(crate) fn registered(&self) -> usize {
        self.registry.lock().len()
    }

    // ---- revocations ----

    /// `Some` if the device is revoked, with its notice if there is one.
    pub(crate) fn revocation(&self, device: DeviceId) -> Option<Option<SignedDocument>> {
        self.revocations.lock().find(device).map(|notice| notice.cloned())
    }

    /// Tells the connections of devices that were revoked just now.
    pub(crate) fn close_revoked(&self, devices: &[DeviceId]) {
        for device in devices {
            let Some(notice) = self.revocation(*device) else { continue };
            for connection in self.registry.lock().of_device(*device) {
                connection.judge(Verdict::Revoked(notice.clone().map(Box::new)));
            }
        }
    }
}

/// A handshake under way.
pub(crate) struct HalfOpen {
    relay: Arc<Relay>,
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.relay.admission.lock().handle_finished();
    }
}

/// Microseconds since the Unix epoch; 0 before it.
pub(crate) fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
