//! A Unix that is neither Linux nor macOS: what sysinfo does not know stays unknown.

use super::texts::Routing;
use crate::os::{
    addresses::parse_resolv_conf,
    files::{read, read_value},
};
use breeze_proto::v1::{NetworkAddress, Software};

pub(super) const OS_TYPE: &str = std::env::consts::OS;

pub(super) fn os_build() -> String {
    sysinfo::System::kernel_version().unwrap_or_default()
}

pub(super) fn boottime_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

pub(super) fn boot_id() -> Option<[u8; 16]> {
    None
}

/// As dbus(1) and, on FreeBSD, the system keep it.
pub(super) fn installation_id() -> String {
    let ids = ["/etc/machine-id", "/etc/hostid", "/var/db/dbus/machine-id"].map(read_value);
    ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default()
}

pub(super) fn last_user() -> String {
    String::new()
}

pub(super) fn pending_reboot() -> bool {
    false
}

pub(super) fn gpu() -> String {
    String::new()
}

pub(super) fn bios_version() -> String {
    String::new()
}

pub(super) fn has_hypervisor() -> bool {
    false
}

pub(super) fn routing(_addresses: &[NetworkAddress]) -> Routing {
    Routing::default().with_dns(parse_resolv_conf(&read("/etc/resolv.conf")))
}

pub(super) fn software() -> Vec<Software> {
    Vec::new()
}
