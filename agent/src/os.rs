//! Everything that the agent knows from the operating system, behind one trait with one module a
//! system; and what a process does differently on each (`process`): private files, the local channel,
//! the signals that stop it. The shell calls it from its own thread; nothing here waits for the network.

use breeze_proto::v1::{Hardware, HealthStatus, HostFacts, NamedValue, Network, Scalars, Software};

mod addresses;
mod figures;
mod files;
mod firmware;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::Linux as System;

#[cfg(any(test, not(target_os = "linux")))]
#[cfg_attr(target_os = "linux", expect(unreachable_pub, reason = "there only its tests reach it"))]
mod portable;
#[cfg(not(target_os = "linux"))]
pub use portable::Portable as System;

#[cfg(unix)]
pub(crate) mod unix;
#[cfg(unix)]
pub(crate) use unix as process;
#[cfg(windows)]
pub(crate) mod windows;
#[cfg(windows)]
pub(crate) use windows as process;

/// What one heartbeat says.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The fixed row; counters are deltas since the previous call.
    pub scalars: Scalars,
    pub status: HealthStatus,
    /// Who is signed in, or was last; empty if unknown. At most `MAX_TEXT_BYTES`.
    pub last_user: String,
    pub pending_reboot: bool,
}

/// What an operating system offers. Nothing here fails: what cannot be read is left at its default,
/// so that one broken file does not cost a heartbeat.
pub trait OperatingSystem {
    /// Cheap: called for every heartbeat, down to once a second.
    fn sample(&mut self) -> Reading;

    /// Per-core, per-disk and per-interface series: "cpu.0.percent", "disk./home.percent",
    /// "net.eth0.rx_bytes". Counters are deltas since the previous call. At most `MAX_DETAIL_VALUES`,
    /// names only of `[A-Za-z0-9_.:/%-]` and at most `MAX_METRIC_NAME_BYTES`.
    fn details(&mut self) -> Vec<NamedValue>;

    /// For every hello. Cheap.
    fn host_facts(&self) -> HostFacts;

    /// May take a while; called at start and every inventory interval, in a blocking thread.
    fn hardware(&self) -> Hardware;
    fn network(&self) -> Network;
    /// In any order; the caller sorts. At most `MAX_SOFTWARE_ENTRIES`.
    fn software(&self) -> Vec<Software>;

    /// Differs after each boot.
    fn boot_id(&self) -> [u8; 16];

    /// Microseconds since boot, sleep included.
    fn boottime_us(&self) -> u64;

    /// What tells this machine from a clone of its disk, hashed; the same over reboots and upgrades.
    fn machine_fingerprint(&self) -> [u8; 32];

    /// Changes when addresses or routes do, so that the agent can look at its connection at once. Cheap.
    fn network_fingerprint(&self) -> u64;
}
