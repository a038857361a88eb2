//! What a session starts from, and what it tells of itself.

use crate::{
    clock::{MINUTE, SECOND},
    command::TransportKind,
    documents::Documents,
};
use breeze_proto::{
    id::DeviceId,
    v1::{HostFacts, SignedDocument},
};

/// Who this is. Does not change while the process lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    pub device: DeviceId,
    /// One installation; made with the state directory.
    pub instance_nonce: [u8; 16],
    pub boot_id: [u8; 16],
    pub agent_version: String,
    pub host: HostFacts,
}

/// Periods that tests and load generators change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// WebSocket starts that long after QUIC, in microseconds.
    pub head_start_us: u64,
    /// After a lost connection agents return within that time.
    pub return_spread_us: u64,
    /// The most that one waits between attempts.
    pub backoff_cap_us: u64,
    /// First probe for QUIC while on WebSocket; doubles up to sixteen times that.
    pub probe_us: u64,
    /// Instead of what the server asks for, in milliseconds.
    pub heartbeat_ms: Option<u32>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            head_start_us: 1_500_000,
            return_spread_us: 10 * SECOND,
            backoff_cap_us: 5 * MINUTE,
            probe_us: MINUTE,
            heartbeat_ms: None,
        }
    }
}

/// The device certificate's validity, seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    pub not_before_s: u64,
    pub not_after_s: u64,
}

/// What a session starts from.
#[derive(Debug, Clone)]
pub struct Start {
    pub identity: Identity,
    pub documents: Documents,
    /// The proof, if this device was revoked.
    pub revoked: Option<SignedDocument>,
    pub certificate: Certificate,
    pub tuning: Tuning,
}

/// What the agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits before the next attempt.
    Waiting,
    Connecting,
    Connected,
    /// Only renewal is answered: the certificate has expired.
    RenewOnly,
    Revoked,
    Stopped,
}

/// For `breeze-agent status` and logs.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub phase: Phase,
    pub relay: Option<String>,
    pub transport: Option<TransportKind>,
    /// As the relay sees this device.
    pub observed_address: String,
    /// Server time of the last acknowledgement, microseconds; 0: none in this process.
    pub last_ack_us: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub spooled: usize,
    pub spooled_bytes: u64,
    pub thinned: u64,
    pub certificate: Certificate,
    pub renewal_trouble: String,
    pub heartbeat_interval_ms: u32,
    /// Why it was revoked.
    pub revoked_reason: Option<String>,
    /// What went wrong last, in words; empty while all is well.
    pub trouble: String,
}
