//! What changes from heartbeat to heartbeat: processor, memory, disks, traffic, load.

use crate::os::{
    figures::{Traffic, permille, to_u32},
    files::read,
};
use std::fs;

/// Processor time in clock ticks since boot.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct CpuTimes {
    busy: u64,
    total: u64,
}

impl CpuTimes {
    /// From the fields of a line of `/proc/stat`: user nice system idle iowait irq softirq steal;
    /// guest is within user already (proc(5)).
    fn parse(fields: &str) -> Self {
        let ticks: Vec<u64> = fields.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
        let total = ticks.iter().fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
        let idle = ticks.iter().skip(3).take(2).fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
        Self { busy: total.saturating_sub(idle), total }
    }

    /// Thousandths of the time since `before` that were busy.
    pub(super) fn busy_permille_since(self, before: Self) -> u32 {
        permille(self.busy.saturating_sub(before.busy), self.total.saturating_sub(before.total))
    }
}

/// All cores together, and each by its number.
pub(super) fn cpu_times() -> (CpuTimes, Vec<(String, CpuTimes)>) {
    let mut all = CpuTimes::default();
    let mut cores = Vec::new();
    for (name, fields) in read("/proc/stat").lines().filter_map(|line| line.strip_prefix("cpu")?.split_once(' ')) {
        let times = CpuTimes::parse(fields);
        if name.is_empty() {
            all = times;
        } else {
            cores.push((name.to_owned(), times));
        }
    }
    (all, cores)
}

/// Bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Memory {
    pub(super) total: u64,
    /// What is not available to new programs.
    pub(super) used: u64,
    pub(super) swap_used: u64,
}

pub(super) fn memory() -> Memory {
    let text = read("/proc/meminfo");
    let bytes = |key: &str| -> u64 {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(1024)
    };
    let total = bytes("MemTotal");
    Memory {
        total,
        used: total.saturating_sub(bytes("MemAvailable")),
        swap_used: bytes("SwapTotal").saturating_sub(bytes("SwapFree")),
    }
}

/// Every interface but loopback.
pub(super) fn traffic() -> Vec<(String, Traffic)> {
    read("/proc/net/dev").lines().skip(2).filter_map(parse_traffic).filter(|(name, _)| name != "lo").collect()
}

fn parse_traffic(line: &str) -> Option<(String, Traffic)> {
    let (name, fields) = line.split_once(':')?;
    let fields: Vec<u64> = fields.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Some((name.trim().to_owned(), Traffic { received: *fields.first()?, sent: *fields.get(8)? }))
}

/// A block device that is mounted, at its first mount point.
#[derive(Debug, Clone)]
pub(super) struct MountedDisk {
    pub(super) device: String,
    pub(super) mount: String,
    pub(super) file_system: String,
    pub(super) total: u64,
    pub(super) used: u64,
    /// As df(1) counts: what is reserved for root is neither used nor free.
    pub(super) permille: u32,
}

/// Fixed disks: no loop devices, no network, no memory.
pub(super) fn mounted_disks() -> Vec<MountedDisk> {
    let mut disks: Vec<MountedDisk> = Vec::new();
    for line in read("/proc/self/mounts").lines() {
        let mut fields = line.split(' ').map(unescape);
        let (Some(device), Some(mount), Some(file_system)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_block_device = device.starts_with("/dev/") && !device.starts_with("/dev/loop");
        if !is_block_device || disks.iter().any(|disk| disk.device == device) {
            continue;
        }
        let Ok(stat) = rustix::fs::statvfs(&mount) else { continue };
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        if total > 0 {
            let permille = permille(used, used.saturating_add(available));
            disks.push(MountedDisk { device, mount, file_system, total, used, permille });
        }
    }
    disks
}

/// `/proc/mounts` writes blanks, tabs, newlines and backslashes as octal escapes.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// One-minute load times 100.
pub(super) fn load1_centi() -> u32 {
    let text = read("/proc/loadavg");
    let load = text.split(' ').next().and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (load * 100.0).round() as u32
}

pub(super) fn process_count() -> u32 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    to_u32(entries.flatten().filter(|entry| is_process(&entry.file_name())).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_what_was_neither_idle_nor_waiting() {
        let before = CpuTimes::parse("100 0 100 800 0 0 0 0 0 0");
        let after = CpuTimes::parse("150 0 125 1600 25 0 0 0 40 0");
        assert_eq!(after.busy_permille_since(before), 75 * 1000 / 900);
        assert_eq!(before.busy_permille_since(after), 0, "a counter that went back is no load");
    }

    #[test]
    fn traffic_lines_parse_and_broken_ones_do_not() {
        let line = "  eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0";
        let (name, traffic) = parse_traffic(line).expect("a line of proc(5)");
        assert_eq!((name.as_str(), traffic.received, traffic.sent), ("eth0", 1000, 2000));
        assert!(parse_traffic("eth0: 1 2 3").is_none());
    }

    #[test]
    fn mount_points_with_blanks_are_unescaped() {
        assert_eq!(unescape("/mnt/my\\040disk"), "/mnt/my disk");
    }

    #[test]
    fn this_machine_has_memory_processors_and_processes() {
        let memory = memory();
        assert!(memory.total > memory.used && memory.used > 0);
        assert!(!cpu_times().1.is_empty());
        assert!(process_count() > 0);
    }
}
