//! What a relay is told, parsed once.

use anyhow::ensure;
use breeze_proto::shard::LaneCount;
use breeze_relay_core::admission::AdmissionLimits;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// Regions of one system.
const MAX_REGIONS: usize = 32;

/// Configuration of one relay.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unique among all relays; also in its certificate as URI `breeze:relay:<id>`.
    pub id: String,
    pub region: String,
    /// All regions that devices may belong to. What a device of another one of them sends goes to the
    /// lanes of that region; of a region that is not named, to this relay's own.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Lanes of the bus in every region, 1 to 16; the same for every role.
    #[serde(default = "four")]
    pub lanes: u16,
    /// UDP address of the QUIC listener; port 0 lets the system choose.
    pub quic_listen: SocketAddr,
    /// TCP address of the WebSocket listener; port 0 lets the system choose.
    pub wss_listen: SocketAddr,
    /// Name or address by which agents reach both listeners, if not the bound ones; IPv6 without brackets.
    #[serde(default)]
    pub public_host: Option<String>,
    /// "host:port" by which agents reach the QUIC listener, if not `public_host` and the bound port.
    #[serde(default)]
    pub public_quic: Option<String>,
    /// "host:port" by which agents reach the WebSocket listener, if not `public_host` and the bound port.
    #[serde(default)]
    pub public_wss: Option<String>,
    /// Folder of keys and of the last revocation set.
    pub data_dir: PathBuf,
    /// How long connections may take to leave when the relay stops, in milliseconds.
    #[serde(default = "five_seconds")]
    pub drain_ms: u64,
    #[serde(default)]
    pub limits: Limits,
}

fn four() -> u16 {
    4
}

fn five_seconds() -> u64 {
    5_000
}

/// Bounds of one relay.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at a time, both transports together.
    pub max_connections: usize,
    /// Handshakes a second, all sources together.
    pub handshakes_per_second: u32,
    /// Handshakes that may begin at once.
    pub handshake_burst: u32,
    /// Handshakes under way at a time.
    pub half_open: u32,
    /// Attempts a second of one address that has not proven itself; beyond it is asked to.
    pub per_address_per_second: u32,
    /// As many of them at once.
    pub per_address_burst: u32,
    /// Connections a minute of one device.
    pub per_device_per_minute: u32,
    /// Over how many milliseconds the agents of a relay that stops are told to spread their return.
    pub drain_spread_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let admission = AdmissionLimits::default();
        Self {
            max_connections: 150_000,
            handshakes_per_second: admission.handshakes_per_second,
            handshake_burst: admission.handshake_burst,
            half_open: admission.half_open,
            per_address_per_second: admission.per_address_per_second,
            per_address_burst: admission.per_address_burst,
            per_device_per_minute: admission.per_device_per_minute,
            drain_spread_ms: 5_000,
        }
    }
}

impl Limits {
    pub(crate) fn admission(&self) -> AdmissionLimits {
        AdmissionLimits {
            handshakes_per_second: self.handshakes_per_second,
            handshake_burst: self.handshake_burst,
            half_open: self.half_open,
            per_address_per_second: self.per_address_per_second,
            per_address_burst: self.per_address_burst,
            per_device_per_minute: self.per_device_per_minute,
        }
    }
}

impl Config {
    /// What serde cannot say.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let is_token = |text: &str| {
            !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        ensure!(is_token(&self.id), "relay.id: 1 to 64 letters, digits and '-', found {:?}", self.id);
        ensure!(is_token(&self.region), "relay.region: 1 to 64 letters, digits and '-', found {:?}", self.region);
        ensure!(
            self.regions.len() <= MAX_REGIONS,
            "relay.regions: at most {MAX_REGIONS}, found {}",
            self.regions.len()
        );
        for region in &self.regions {
            ensure!(is_token(region), "relay.regions: 1 to 64 letters, digits and '-', found {region:?}");
        }
        ensure!(LaneCount::new(self.lanes).is_some(), "relay.lanes: 1 to 16, found {}", self.lanes);
        ensure!(self.limits.half_open > 0, "relay.limits.half_open: must be above 0");
        ensure!(self.limits.max_connections > 0, "relay.limits.max_connections: must be above 0");
        Ok(())
    }
}
