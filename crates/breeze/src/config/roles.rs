//! One file a role: its engines and its own section.

use super::{
    check::{Problems, host_and_port},
    engines::{BusEngine, MetricsEngine, RegionalMetricsEngines, Retention, StateEngine},
};
use breeze_proto::shard::LaneCount;
use breeze_runtime::ops;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// A relay's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelayFile {
    pub(crate) region: String,
    #[serde(default)]
    pub(crate) http: ops::Config,
    pub(crate) bus: BusEngine,
    pub(crate) relay: RelaySection,
}

/// `[relay]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelaySection {
    /// As registered by `breeze admin add-relay`.
    pub(crate) id: String,
    /// Hex, from `breeze admin instance-ca`: whom this relay believes.
    pub(crate) instance_ca: String,
    /// Home regions whose devices it may take; its own unless given.
    #[serde(default)]
    pub(crate) regions: Vec<String>,
    /// Lanes of each region, 1 to 16; the same everywhere.
    #[serde(default = "four")]
    pub(crate) lanes: u16,
    /// UDP.
    pub(crate) quic_listen: SocketAddr,
    /// TCP.
    pub(crate) wss_listen: SocketAddr,
    /// Keys, certificate, and the last revocation set.
    pub(crate) data: PathBuf,
    #[serde(default = "five_seconds")]
    pub(crate) drain_ms: u64,
    #[serde(default)]
    pub(crate) limits: breeze_relay::Limits,
}

const fn four() -> u16 {
    4
}

const fn five_seconds() -> u64 {
    5_000
}

impl RelayFile {
    pub(super) fn below(mut self, folder: &Path) -> Self {
        self.bus.below(folder);
        self.relay.data = folder.join(&self.relay.data);
        or_own(&mut self.relay.regions, &self.region);
        self
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        every_role(problems, &self.region, &self.http, &self.bus);
        let section = &self.relay;
        problems.token("relay.id", &section.id);
        problems.must(
            self.instance_ca().is_some(),
            "relay.instance_ca",
            "write the 64 hex digits that `breeze admin instance-ca` prints",
        );
        regions(problems, "relay.regions", &section.regions, &self.region);
        lanes(problems, "relay.lanes", section.lanes);
        problems.must(section.drain_ms <= 600_000, "relay.drain_ms", "write at most 600000");
    }

    /// SHA-256 over the authority's public key.
    pub(crate) fn instance_ca(&self) -> Option<[u8; 32]> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&self.relay.instance_ca, &mut bytes).ok().map(|()| bytes)
    }
}

/// A collector's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CollectorFile {
    pub(crate) region: String,
    #[serde(default)]
    pub(crate) http: ops::Config,
    pub(crate) bus: BusEngine,
    pub(crate) state: StateEngine,
    pub(crate) metrics: MetricsEngine,
    pub(crate) collector: CollectorSection,
    #[serde(default)]
    pub(crate) retention: Retention,
}

/// `[collector]`; see [`breeze_collector::Config`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CollectorSection {
    /// Of its own among the region's collectors.
    pub(crate) id: String,
    /// Regions that the own region's relays take devices for; the own unless given.
    #[serde(default)]
    pub(crate) regions: Vec<String>,
    /// Whether the file did not say them.
    #[serde(skip)]
    pub(super) regions_left_out: bool,
    #[serde(default = "four")]
    pub(crate) lanes: u16,
    #[serde(default = "flush")]
    pub(crate) flush_interval_ms: u64,
    #[serde(default = "latest")]
    pub(crate) latest_interval_ms: u64,
    #[serde(default = "offline")]
    pub(crate) offline_floor_ms: u64,
    #[serde(default = "lease")]
    pub(crate) lease_ms: u64,
}

fn flush() -> u64 {
    breeze_collector::Config::default().flush_interval_ms
}

fn latest() -> u64 {
    breeze_collector::Config::default().latest_interval_ms
}

fn offline() -> u64 {
    breeze_collector::Config::default().offline_floor_ms
}

fn lease() -> u64 {
    breeze_collector::Config::default().lease_ms
}

impl CollectorFile {
    pub(super) fn below(mut self, folder: &Path) -> Self {
        self.bus.below(folder);
        self.state.below(folder);
        self.metrics.below(folder);
        self.collector.regions_left_out = self.collector.regions.is_empty();
        or_own(&mut self.collector.regions, &self.region);
        self
    }

    /// What is allowed and may not be meant.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let left_out = self.collector.regions_left_out.then(|| {
            format!(
                "key `collector.regions` is left out: this collector forwards for nobody. If relays of {0} take devices \
                 of other regions, what they store for those stays here unread: write all of them, as \
                 regions = [\"{0}\", …]; or regions = [\"{0}\"] if there are none",
                self.region
            )
        });
        left_out.into_iter().collect()
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        every_role(problems, &self.region, &self.http, &self.bus);
        self.state.check(problems);
        self.metrics.check("metrics", problems);
        self.retention.check(problems);
        let section = &self.collector;
        problems.token("collector.id", &section.id);
        regions(problems, "collector.regions", &section.regions, &self.region);
        lanes(problems, "collector.lanes", section.lanes);
        let mut within = |key: &str, value: u64, low: u64, high: u64| {
            problems.must((low..=high).contains(&value), key, format_args!("write {low} to {high}; found {value}"));
        };
        within("collector.flush_interval_ms", section.flush_interval_ms, 10, 10_000);
        within("collector.latest_interval_ms", section.latest_interval_ms, 0, 600_000);
        within("collector.offline_floor_ms", section.offline_floor_ms, 1_000, 3_600_000);
        within("collector.lease_ms", section.lease_ms, 1_000, 600_000);
    }
}

/// A control-plane node's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ControlPlaneFile {
    /// Of this node.
    pub(crate) region: String,
    #[serde(default)]
    pub(crate) http: ops::Config,
    pub(crate) bus: BusEngine,
    pub(crate) state: StateEngine,
    pub(crate) metrics: RegionalMetricsEngines,
    /// Its own `region` is the file's and is not to be written.
    pub(crate) control_plane: breeze_control_plane::Config,
    #[serde(default)]
    pub(crate) retention: Retention,
}

impl ControlPlaneFile {
    pub(super) fn below(mut self, folder: &Path) -> Self {
        self.bus.below(folder);
        self.state.below(folder);
        self.metrics.regions.values_mut().for_each(|engine| engine.below(folder));
        let config = &mut self.control_plane;
        config.region.clone_from(&self.region);
        config.data = folder.join(&config.data);
        config.agent_binaries.iter_mut().for_each(|path| *path = folder.join(&*path));
        config.audit.checkpoint_file.iter_mut().for_each(|path| *path = folder.join(&*path));
        if let Some(store) = &mut config.audit.store {
            store.secret_access_key_file.iter_mut().for_each(|path| *path = folder.join(&*path));
        }
        if let breeze_control_plane::Tls::Files { cert, key } = &mut config.tls {
            (*cert, *key) = (folder.join(&*cert), folder.join(&*key));
        }
        if config.regions.is_empty() {
            config.regions = self.metrics.regions.keys().cloned().collect();
        }
        self
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        every_role(problems, &self.region, &self.http, &self.bus);
        self.state.check(problems);
        self.retention.check(problems);
        for (region, engine) in &self.metrics.regions {
            let section = format!("metrics.regions.{region}");
            problems.token(&section, region);
            engine.check(&section, problems);
        }
        let config = &self.control_plane;
        problems.token("control_plane.id", &config.id);
        for region in &config.regions {
            problems.must(
                self.metrics.regions.contains_key(region),
                "metrics.regions",
                format_args!("the region {region} of control_plane.regions is missing"),
            );
        }
        problems.take("control_plane", config.check());
    }
}

/// What every file has.
fn every_role(problems: &mut Problems, region: &str, http: &ops::Config, bus: &BusEngine) {
    problems.token("region", region);
    problems.must(
        http.checked_listen().is_ok(),
        "http.listen",
        "is not on loopback: set http.allow_remote = true to let others read it",
    );
    bus.check(problems);
}

/// The own region, where none is named.
fn or_own(regions: &mut Vec<String>, own: &str) {
    if regions.is_empty() {
        regions.push(own.to_owned());
    }
}

fn lanes(problems: &mut Problems, key: &str, lanes: u16) {
    problems.must(LaneCount::new(lanes).is_some(), key, format_args!("write 1 to 16; found {lanes}"));
}

fn regions(problems: &mut Problems, key: &str, regions: &[String], own: &str) {
    regions.iter().for_each(|region| problems.token(key, region));
    problems.must(regions.iter().any(|region| region == own), key, format_args!("the own region {own} is missing"));
}

/// Host of `host:port` as a certificate names it.
pub(crate) fn host_of(address: &str) -> Option<String> {
    host_and_port(address).map(|(host, _)| host.trim_start_matches('[').trim_end_matches(']').to_owned())
}
