//! The engines' sections: where they are and how to prove oneself to them.

use super::{
    check::{Problems, host_and_port, is_loopback},
    files::SecretFile,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Smallest stream that still holds some batches beside the one that is being read, in MiB.
const MIN_STREAM_MIB: u64 = 64;
/// Largest that a configuration may ask for: 1 PiB.
const MAX_STREAM_MIB: u64 = 1 << 30;

/// `[bus]`: NATS with JetStream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BusEngine {
    /// `tls://host:4222`; `nats://` to this machine only.
    pub(crate) servers: Vec<String>,
    /// JetStream domain of these servers: the region's name, or "global" at the hub.
    pub(crate) domain: String,
    /// NKey seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nkey_file: Option<SecretFile>,
    /// Authority of the servers' certificates, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Copies of each stream: 3 where there are three servers. For `breeze migrate`.
    #[serde(default = "one")]
    pub(crate) replicas: u16,
    /// A stream refuses beyond this, and agents keep what they have. For `breeze migrate`.
    #[serde(default = "one_gib")]
    pub(crate) max_stream_mib: u64,
}

const fn one() -> u16 {
    1
}

const fn one_gib() -> u64 {
    1024
}

impl BusEngine {
    pub(super) fn below(&mut self, folder: &Path) {
        self.nkey_file.iter_mut().for_each(|file| file.below(folder));
        self.ca_file.iter_mut().for_each(|path| *path = folder.join(&*path));
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        problems.must(!self.servers.is_empty(), "bus.servers", "write at least one, as \"tls://host:4222\"");
        for server in &self.servers {
            // A token or a password would be shown wherever the server is named: not even here.
            if server.contains('@') {
                problems.add("bus.servers", "a server's address holds no user; write the seed's file in bus.nkey_file");
                continue;
            }
            let (scheme, rest) = server.split_once("://").unwrap_or(("", server));
            let host = host_and_port(rest).map(|(host, _)| host);
            match (scheme, host) {
                ("tls", Some(_)) => problems.must(
                    self.ca_file.is_some(),
                    "bus.ca_file",
                    format_args!("is needed for {server}: the authority of its certificate, PEM"),
                ),
                ("nats", Some(host)) => problems.must(
                    is_loopback(host),
                    "bus.servers",
                    format_args!("{server} leaves this machine in the clear; write tls://"),
                ),
                _ => problems.add("bus.servers", format_args!("write \"tls://host:4222\"; found {server:?}")),
            }
        }
        problems.token("bus.domain", &self.domain);
        if let Some(file) = &self.nkey_file {
            let seed = file.read().and_then(|seed| {
                anyhow::ensure!(seed.reveal().trim().starts_with("SU"), "it holds no seed of a user (SU…)");
                Ok(())
            });
            problems.take("bus.nkey_file", seed);
        }
        problems.authority("bus.ca_file", self.ca_file.as_deref());
        problems.must([1, 3, 5].contains(&self.replicas), "bus.replicas", "write 1, 3 or 5");
        let size = (MIN_STREAM_MIB..=MAX_STREAM_MIB).contains(&self.max_stream_mib);
        problems.must(size, "bus.max_stream_mib", format_args!("write at least {MIN_STREAM_MIB}"));
    }
}

/// `[state]`: ScyllaDB or Cassandra.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateEngine {
    /// `host:9042`; some nodes of the own data centre.
    pub(crate) contact_points: Vec<String>,
    /// The own one.
    pub(crate) datacenter: String,
    /// Where the configuration (tenants, people, keys) has its home; the same in every file of the
    /// installation. The own data centre unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config_datacenter: Option<String>,
    #[serde(default = "breeze")]
    pub(crate) keyspace_prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<SecretFile>,
    /// Authority of the nodes' certificates, PEM; without it the connection is plain, and to this
    /// machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Copies in each data centre. For `breeze migrate`.
    #[serde(default)]
    pub(crate) replication: BTreeMap<String, u16>,
}

fn breeze() -> String {
    "breeze".to_owned()
}

impl StateEngine {
    pub(super) fn below(&mut self, folder: &Path) {
        self.password_file.iter_mut().for_each(|file| file.below(folder));
        self.ca_file.iter_mut().for_each(|path| *path = folder.join(&*path));
    }

    pub(crate) fn config_datacenter(&self) -> &str {
        self.config_datacenter.as_deref().unwrap_or(&self.datacenter)
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        problems.must(!self.contact_points.is_empty(), "state.contact_points", "write at least one, as \"host:9042\"");
        for point in &self.contact_points {
            match host_and_port(point) {
                None => problems.add("state.contact_points", format_args!("write \"host:9042\"; found {point:?}")),
                Some((host, _)) => problems.must(
                    self.ca_file.is_some() || is_loopback(host),
                    "state.ca_file",
                    format_args!("is needed: without TLS only this machine is spoken to, not {point}"),
                ),
            }
        }
        problems.must(!self.datacenter.is_empty(), "state.datacenter", "write the name of the own data centre");
        let prefix = &self.keyspace_prefix;
        let valid = !prefix.is_empty()
            && prefix.len() <= 32
            && prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && prefix.as_bytes()[0].is_ascii_lowercase();
        problems.must(valid, "state.keyspace_prefix", "write up to 32 small letters, digits and '_'");
        problems.must(
            self.username.is_some() == self.password_file.is_some(),
            "state.username",
            "username and password_file go together",
        );
        if let Some(file) = &self.password_file {
            problems.take("state.password_file", file.read());
        }
        problems.authority("state.ca_file", self.ca_file.as_deref());
        let copies = self.replication.values().all(|copies| (1..=7).contains(copies));
        problems.must(copies, "state.replication", "write 1 to 7 copies a data centre");
        if !self.replication.is_empty() {
            for datacenter in [self.datacenter.as_str(), self.config_datacenter()] {
                let named = self.replication.contains_key(datacenter);
                problems.must(named, "state.replication", format_args!("the data centre {datacenter} is missing"));
            }
        }
    }
}

/// `[metrics]` of a collector, and each `[metrics.regions.<region>]` of the control plane: ClickHouse.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsEngine {
    /// `https://host:8443`; `http://` to this machine only.
    pub(crate) url: String,
    #[serde(default = "breeze")]
    pub(crate) database: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<SecretFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
}

impl MetricsEngine {
    pub(super) fn below(&mut self, folder: &Path) {
        self.password_file.iter_mut().for_each(|file| file.below(folder));
        self.ca_file.iter_mut().for_each(|path| *path = folder.join(&*path));
    }

    pub(super) fn check(&self, section: &str, problems: &mut Problems) {
        let key = format!("{section}.url");
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        let host = host_and_port(rest.trim_end_matches('/')).map(|(host, _)| host);
        match (scheme, host) {
            // They would be shown wherever the server is named: not even here.
            _ if self.url.contains('@') => {
                problems.add(key, "holds a name and password; write them as user and password_file");
            }
            ("https", Some(_)) => {}
            ("http", Some(host)) => problems.must(
                is_loopback(host),
                &key,
                format_args!("{} leaves this machine in the clear; write https://", self.url),
            ),
            _ => problems.add(key, format_args!("write \"https://host:8443\"; found {:?}", self.url)),
        }
        let name =
            !self.database.is_empty() && self.database.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        problems.must(name, &format!("{section}.database"), "write letters, digits and '_'");
        if let Some(file) = &self.password_file {
            problems.take(&format!("{section}.password_file"), file.read());
        }
        problems.authority(&format!("{section}.ca_file"), self.ca_file.as_deref());
    }
}

/// `[metrics]` of the control plane: every region's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionalMetricsEngines {
    pub(crate) regions: BTreeMap<String, MetricsEngine>,
}

/// `[retention]`: how long metrics and the history are kept, in days. For `breeze migrate`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retention {
    /// Each report as it came.
    pub(crate) raw_days: u32,
    pub(crate) five_minutes_days: u32,
    pub(crate) hour_days: u32,
    pub(crate) day_days: u32,
    /// Events, and what inventories were.
    pub(crate) history_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { raw_days: 30, five_minutes_days: 180, hour_days: 730, day_days: 3_650, history_days: 400 }
    }
}

impl Retention {
    pub(crate) fn check(&self, problems: &mut Problems) {
        let Self { raw_days, five_minutes_days, hour_days, day_days, history_days } = *self;
        for (key, days) in [
            ("retention.raw_days", raw_days),
            ("retention.five_minutes_days", five_minutes_days),
            ("retention.hour_days", hour_days),
            ("retention.day_days", day_days),
            ("retention.history_days", history_days),
        ] {
            problems.must(days >= 1, key, "at least 1 day is kept");
        }
    }
}
