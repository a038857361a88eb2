//! Linux: read from `/proc`, `/sys`, `/etc` and `/run`.

use super::{OperatingSystem, Reading};
use breeze_proto::{
    limits::MAX_TEXT_BYTES,
    v1::{Hardware, HealthStatus, HostFacts, NamedValue, Network, Scalars, Software},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs,
    hash::Hasher as _,
};

const MIB: u64 = 1024 * 1024;
/// Fullness of a disk that is worth a warning, and an error, in thousandths.
const DISK_WARNING_PERMILLE: u32 = 900;
const DISK_ERROR_PERMILLE: u32 = 970;

/// The running Linux system, with the counters of the previous call.
#[derive(Debug, Default)]
pub struct Linux {
    cpu: CpuTimes,
    cores: BTreeMap<String, CpuTimes>,
    traffic: Option<Traffic>,
    interfaces: BTreeMap<String, Traffic>,
}

#[derive(Debug, Default, Clone, Copy)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Traffic {
    received: u64,
    sent: u64,
}

struct DiskUse {
    mount: String,
    used: u64,
    permille: u32,
}

impl Linux {
    #[must_use]
    pub fn new() -> Self {
        let mut system = Self::default();
        // The first deltas count from now, not from boot.
        system.sample();
        system.details();
        system
    }
}

impl OperatingSystem for Linux {
    fn sample(&mut self) -> Reading {
        let stat = read("/proc/stat");
        let cpu = stat.lines().find_map(|line| line.strip_prefix("cpu ")).map(cpu_times).unwrap_or_default();
        let cpu_permille = busy_permille(self.cpu, cpu);
        self.cpu = cpu;

        let memory = memory();
        let traffic = total_traffic(&interface_counters());
        let before = self.traffic.replace(traffic).unwrap_or(traffic);
        let disks = disks();
        let fullest = disks.iter().map(|disk| disk.permille).max().unwrap_or(0);
        let pending_reboot = pending_reboot();
        let status = match fullest {
            DISK_ERROR_PERMILLE.. => HealthStatus::Error,
            DISK_WARNING_PERMILLE.. => HealthStatus::Warning,
            _ => HealthStatus::Ok,
        };
        let flags = u32::from(pending_reboot) | u32::from(status != HealthStatus::Ok) << 2;
        Reading {
            scalars: Scalars {
                cpu_permille,
                ram_permille: permille(memory.used, memory.total),
                ram_used_mib: to_u32(memory.used / MIB),
                swap_used_mib: to_u32(memory.swap_used / MIB),
                disk_permille: fullest,
                disk_used_mib: to_u32(disks.iter().map(|disk| disk.used).sum::<u64>() / MIB),
                net_in_bytes: traffic.received.saturating_sub(before.received),
                net_out_bytes: traffic.sent.saturating_sub(before.sent),
                load1_centi: load1_centi(),
                process_count: process_count(),
                uptime_s: self.boottime_us() / 1_000_000,
                flags,
            },
            status,
            last_user: String::new(),
            pending_reboot,
        }
    }

    fn details(&mut self) -> Vec<NamedValue> {
        let mut values = Vec::new();
        let mut push = |name: String, value: f64| values.push(NamedValue { name, value });
        for (core, times) in core_times() {
            let before = self.cores.insert(core.clone(), times).unwrap_or(times);
            push(format!("cpu.{core}.percent"), f64::from(busy_permille(before, times)) / 10.0);
        }
        for disk in disks() {
            push(format!("disk.{}.percent", disk.mount), f64::from(disk.permille) / 10.0);
        }
        for (name, traffic) in interface_counters() {
            let before = self.interfaces.insert(name.clone(), traffic).unwrap_or(traffic);
            push(format!("net.{name}.rx_bytes"), traffic.received.saturating_sub(before.received) as f64);
            push(format!("net.{name}.tx_bytes"), traffic.sent.saturating_sub(before.sent) as f64);
        }
        values
    }

    fn host_facts(&self) -> HostFacts {
        let release = os_release();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        HostFacts {
            hostname: cut(read("/proc/sys/kernel/hostname").trim()),
            os_type: "linux".into(),
            os_version: cut(release.get("PRETTY_NAME").map_or("Linux", String::as_str)),
            os_build: cut(read("/proc/sys/kernel/osrelease").trim()),
            architecture: architecture.into(),
        }
    }

    fn hardware(&self) -> Hardware {
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Hardware {
            cpu_model: cut(model.map_or("", |(_, name)| name)),
            cpu_threads: to_u32(core_times().len() as u64),
            ram_total_mib: memory().total / MIB,
            ..Hardware::default()
        }
    }

    fn network(&self) -> Network {
        Network::default()
    }

    fn software(&self) -> Vec<Software> {
        Vec::new()
    }

    fn boot_id(&self) -> [u8; 16] {
        uuid::Uuid::try_parse(read("/proc/sys/kernel/random/boot_id").trim()).map_or([0; 16], uuid::Uuid::into_bytes)
    }

    fn boottime_us(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
    }

    fn machine_fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"breeze/v1/machine\0");
        for path in ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"] {
            hash.update(read(path).trim());
            hash.update([0]);
        }
        hash.finalize().into()
    }

    fn network_fingerprint(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for path in ["/proc/net/fib_trie", "/proc/net/route"] {
            hash.write(read(path).as_bytes());
        }
        // Only addresses: the file's other columns count usage.
        for line in read("/proc/net/if_inet6").lines() {
            hash.write(line.as_bytes());
        }
        hash.finish()
    }
}

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn permille(part: u64, whole: u64) -> u32 {
    if whole == 0 { 0 } else { to_u32((part as u128 * 1000 / whole as u128) as u64).min(1000) }
}

fn cpu_times(fields: &str) -> CpuTimes {
    // user nice system idle iowait irq softirq steal; guest is within user already (proc(5)).
    let ticks: Vec<u64> = fields.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let total = ticks.iter().sum();
    let idle = ticks.iter().skip(3).take(2).sum::<u64>();
    CpuTimes { busy: total - idle, total }
}

fn busy_permille(before: CpuTimes, now: CpuTimes) -> u32 {
    permille(now.busy.saturating_sub(before.busy), now.total.saturating_sub(before.total))
}

fn core_times() -> Vec<(String, CpuTimes)> {
    read("/proc/stat")
        .lines()
        .filter_map(|line| line.strip_prefix("cpu")?.split_once(' '))
        .filter(|(core, _)| !core.is_empty())
        .map(|(core, fields)| (core.to_owned(), cpu_times(fields)))
        .collect()
}

struct Memory {
    total: u64,
    used: u64,
    swap_used: u64,
}

fn memory() -> Memory {
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

fn interface_counters() -> Vec<(String, Traffic)> {
    read("/proc/net/dev")
        .lines()
        .skip(2)
        .filter_map(|line| {
            let (name, fields) = line.split_once(':')?;
            let fields: Vec<u64> = fields.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            let traffic = Traffic { received: *fields.first()?, sent: *fields.get(8)? };
            (name.trim() != "lo").then(|| (name.trim().to_owned(), traffic))
        })
        .collect()
}

fn total_traffic(interfaces: &[(String, Traffic)]) -> Traffic {
    interfaces.iter().fold(Traffic::default(), |sum, (_, traffic)| Traffic {
        received: sum.received.saturating_add(traffic.received),
        sent: sum.sent.saturating_add(traffic.sent),
    })
}

/// One entry for each block device that is mounted, at its first mount point.
fn disks() -> Vec<DiskUse> {
    let mut seen = Vec::new();
    read("/proc/self/mounts")
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, mount) = (fields.next()?, fields.next()?);
            if !device.starts_with("/dev/") || device.starts_with("/dev/loop") || seen.contains(&device.to_owned()) {
                return None;
            }
            seen.push(device.to_owned());
            let stat = rustix::fs::statvfs(mount).ok()?;
            let total = stat.f_blocks.saturating_mul(stat.f_frsize);
            let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
            let available = stat.f_bavail.saturating_mul(stat.f_frsize);
            // As df(1): what is reserved for root counts neither as used nor as free.
            (total > 0).then(|| DiskUse {
                mount: mount.to_owned(),
                used,
                permille: permille(used, used.saturating_add(available)),
            })
        })
        .collect()
}

fn load1_centi() -> u32 {
    let text = read("/proc/loadavg");
    let load = text.split(' ').next().and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (load * 100.0).round() as u32
}

fn process_count() -> u32 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    to_u32(
        entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)).count()
            as u64,
    )
}

fn pending_reboot() -> bool {
    ["/run/reboot-required", "/var/run/reboot-required"].iter().any(|path| fs::exists(path).unwrap_or(false))
}

fn os_release() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    text.unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}
