//! Linux: read from `/proc`, `/sys`, `/etc`, `/run` and the package managers' databases. sysinfo
//! lists the addresses; what a heartbeat needs is read straight, since sysinfo keeps every process
//! in memory to count them.

mod hardware;
mod load;
mod network;
mod people;
mod software;

use super::{
    OperatingSystem, Reading,
    figures::{self, MIB, Traffic, architecture, metric_name, permille, to_u32},
    files::{cut, list, read, read_value},
};
use breeze_proto::{
    limits::MAX_DETAIL_VALUES,
    v1::{Hardware, HostFacts, NamedValue, Network, Scalars, Software},
};
use load::CpuTimes;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fs};

/// The running Linux system, with the counters of the previous call.
#[derive(Debug, Default)]
pub struct Linux {
    cpu: CpuTimes,
    cores: BTreeMap<String, CpuTimes>,
    traffic: Option<Traffic>,
    interfaces: BTreeMap<String, Traffic>,
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
        let (cpu, _) = load::cpu_times();
        let cpu_permille = cpu.busy_permille_since(self.cpu);
        self.cpu = cpu;

        let memory = load::memory();
        let traffic = Traffic::total(&load::traffic());
        let moved = traffic.since(self.traffic.replace(traffic).unwrap_or(traffic));
        let disks = load::mounted_disks();
        let fullest = disks.iter().map(|disk| disk.permille).max().unwrap_or(0);
        let pending_reboot = pending_reboot();
        let status = figures::health(fullest);
        Reading {
            scalars: Scalars {
                cpu_permille,
                ram_permille: permille(memory.used, memory.total),
                ram_used_mib: to_u32(memory.used / MIB),
                swap_used_mib: to_u32(memory.swap_used / MIB),
                disk_permille: fullest,
                disk_used_mib: to_u32(disks.iter().map(|disk| disk.used).sum::<u64>() / MIB),
                net_in_bytes: moved.received,
                net_out_bytes: moved.sent,
                load1_centi: load::load1_centi(),
                process_count: load::process_count(),
                uptime_s: self.boottime_us() / 1_000_000,
                flags: figures::flags(pending_reboot, on_battery(), status),
            },
            status,
            last_user: people::last_user(),
            pending_reboot,
        }
    }

    fn details(&mut self) -> Vec<NamedValue> {
        let mut values = Vec::new();
        let mut push = |group: &str, of: &str, what: &str, value: f64| {
            if values.len() < MAX_DETAIL_VALUES {
                values.push(NamedValue { name: metric_name(group, of, what), value });
            }
        };
        for (core, times) in load::cpu_times().1 {
            let before = self.cores.insert(core.clone(), times).unwrap_or(times);
            push("cpu", &core, "percent", f64::from(times.busy_permille_since(before)) / 10.0);
        }
        for disk in load::mounted_disks() {
            push("disk", &disk.mount, "percent", f64::from(disk.permille) / 10.0);
        }
        let interfaces = load::traffic();
        self.interfaces.retain(|name, _| interfaces.iter().any(|(present, _)| present == name));
        for (name, traffic) in interfaces {
            let moved = traffic.since(self.interfaces.insert(name.clone(), traffic).unwrap_or(traffic));
            push("net", &name, "rx_bytes", moved.received as f64);
            push("net", &name, "tx_bytes", moved.sent as f64);
        }
        values
    }

    fn host_facts(&self) -> HostFacts {
        let release = os_release();
        HostFacts {
            hostname: read_value("/proc/sys/kernel/hostname"),
            os_type: "linux".into(),
            os_version: cut(release.get("PRETTY_NAME").map_or("Linux", String::as_str)),
            os_build: read_value("/proc/sys/kernel/osrelease"),
            architecture: architecture().into(),
            ..HostFacts::default()
        }
    }

    fn hardware(&self) -> Hardware {
        hardware::hardware()
    }

    fn network(&self) -> Network {
        network::network()
    }

    fn software(&self) -> Vec<Software> {
        software::software()
    }

    fn boot_id(&self) -> [u8; 16] {
        let text = read_value("/proc/sys/kernel/random/boot_id");
        uuid::Uuid::try_parse(&text).map_or([0; 16], uuid::Uuid::into_bytes)
    }

    fn boottime_us(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
    }

    fn machine_fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"breeze/v1/machine\0");
        for path in ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"] {
            hash.update(read_value(path));
            hash.update([0]);
        }
        hash.finalize().into()
    }

    fn network_fingerprint(&self) -> u64 {
        network::fingerprint()
    }
}

/// Debian and Ubuntu, openSUSE.
fn pending_reboot() -> bool {
    ["/run/reboot-required", "/run/reboot-needed"].iter().any(|path| fs::exists(path).unwrap_or(false))
}

fn on_battery() -> bool {
    list("/sys/class/power_supply").iter().any(|supply| {
        let value = |file: &str| read_value(format!("/sys/class/power_supply/{supply}/{file}"));
        value("type") == "Battery" && value("status") == "Discharging"
    })
}

fn os_release() -> BTreeMap<String, String> {
    let text = Some(read("/etc/os-release")).filter(|text| !text.is_empty());
    text.unwrap_or_else(|| read("/usr/lib/os-release"))
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_this_machine_is_plausible() {
        let mut system = Linux::new();
        let reading = system.sample();
        assert!(reading.scalars.cpu_permille <= 1000 && reading.scalars.ram_permille > 0);
        assert!(reading.scalars.process_count > 0 && reading.scalars.uptime_s > 0);
        assert!(!system.host_facts().hostname.is_empty());
        assert_ne!(system.boot_id(), [0; 16]);
        assert!(system.details().iter().any(|value| value.name == "cpu.0.percent"));
    }
}
