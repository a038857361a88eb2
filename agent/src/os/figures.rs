//! What the figures of every system have in common: units, ratios, names, and when a disk is too full.

use breeze_proto::{limits::MAX_METRIC_NAME_BYTES, v1::HealthStatus};

pub(in crate::os) const MIB: u64 = 1024 * 1024;
pub(in crate::os) const GIB: u64 = 1024 * MIB;

/// Fullness of a disk that is worth a warning, and an error, in thousandths.
const DISK_WARNING_PERMILLE: u32 = 900;
const DISK_ERROR_PERMILLE: u32 = 970;

/// Bits of `Scalars::flags`.
const FLAG_PENDING_REBOOT: u32 = 1;
const FLAG_ON_BATTERY: u32 = 1 << 1;
const FLAG_NOT_OK: u32 = 1 << 2;

pub(in crate::os) fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

pub(in crate::os) fn permille(part: u64, whole: u64) -> u32 {
    if whole == 0 { 0 } else { to_u32((u128::from(part) * 1000 / u128::from(whole)) as u64).min(1000) }
}

/// Bytes that came and went since boot.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::os) struct Traffic {
    pub(in crate::os) received: u64,
    pub(in crate::os) sent: u64,
}

impl Traffic {
    pub(in crate::os) fn total(interfaces: &[(String, Self)]) -> Self {
        interfaces.iter().fold(Self::default(), |sum, (_, traffic)| Self {
            received: sum.received.saturating_add(traffic.received),
            sent: sum.sent.saturating_add(traffic.sent),
        })
    }

    /// What came and went since `before`.
    pub(in crate::os) fn since(self, before: Self) -> Self {
        Self { received: self.received.saturating_sub(before.received), sent: self.sent.saturating_sub(before.sent) }
    }
}

/// By the fullest of the fixed disks.
pub(in crate::os) fn health(fullest_permille: u32) -> HealthStatus {
    match fullest_permille {
        DISK_ERROR_PERMILLE.. => HealthStatus::Error,
        DISK_WARNING_PERMILLE.. => HealthStatus::Warning,
        0.. => HealthStatus::Ok,
    }
}

pub(in crate::os) fn flags(pending_reboot: bool, on_battery: bool, status: HealthStatus) -> u32 {
    let flag = |bit: u32, is_set: bool| if is_set { bit } else { 0 };
    flag(FLAG_PENDING_REBOOT, pending_reboot)
        | flag(FLAG_ON_BATTERY, on_battery)
        | flag(FLAG_NOT_OK, status != HealthStatus::Ok)
}

/// `group.of.what` in the characters that a metric's name may have, cut in the middle if too long.
pub(in crate::os) fn metric_name(group: &str, of: &str, what: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:/%-".contains(c);
    let room = MAX_METRIC_NAME_BYTES - group.len() - what.len() - 2;
    let of: String = of.chars().map(|c| if allowed(c) { c } else { '_' }).take(room).collect();
    format!("{group}.{of}.{what}")
}

/// The processor's architecture as the protocol names it.
pub(in crate::os) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_are_allowed_whatever_the_mount_is_called() {
        assert_eq!(metric_name("disk", "/mnt/my dïsk", "percent"), "disk./mnt/my_d_sk.percent");
        assert_eq!(metric_name("disk", &"x".repeat(500), "percent").len(), MAX_METRIC_NAME_BYTES);
    }

    #[test]
    fn a_ratio_is_bounded_and_of_nothing_is_nothing() {
        assert_eq!((permille(1, 3), permille(5, 4), permille(1, 0)), (333, 1000, 0));
        assert_eq!(permille(u64::MAX, u64::MAX), 1000);
    }

    #[test]
    fn a_full_disk_is_not_ok() {
        assert_eq!([899, 900, 970].map(health), [HealthStatus::Ok, HealthStatus::Warning, HealthStatus::Error]);
        assert_eq!(flags(true, false, HealthStatus::Warning), 0b101);
    }
}
