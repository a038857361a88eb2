//! Every system but Linux: figures from sysinfo, and one module a system for what that does not know.

#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(any(windows, target_os = "macos")))]
mod other;
mod texts;
#[cfg(windows)]
mod windows;

use self::texts::Routing;
use super::{
    OperatingSystem, Reading,
    addresses::{addresses, mark_primary},
    figures::{self, GIB, MIB, Traffic, architecture, metric_name, permille, to_u32},
    files::cut,
    firmware,
};
use breeze_proto::{
    limits::{MAX_DETAIL_VALUES, MAX_HARDWARE_ENTRIES, MAX_SOFTWARE_ENTRIES},
    v1::{Disk, Hardware, HostFacts, NamedValue, Network, Scalars, Software},
};
#[cfg(target_os = "macos")]
use macos as native;
#[cfg(not(any(windows, target_os = "macos")))]
use other as native;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};
use sysinfo::{CpuRefreshKind, DiskRefreshKind, Disks, Networks, ProcessRefreshKind, ProcessesToUpdate, Product};
#[cfg(windows)]
use windows as native;

/// The running system, with the counters of the previous call.
#[derive(Debug, Default)]
pub struct Portable {
    /// Made at the first sample: inventory needs none.
    machine: Option<sysinfo::System>,
    traffic: Option<Traffic>,
    interfaces: BTreeMap<String, Traffic>,
}

impl Portable {
    #[must_use]
    pub fn new() -> Self {
        let mut system = Self::default();
        // The first deltas count from now, not from boot.
        system.sample();
        system.details();
        system
    }

    /// With processor, memory and processes as they are now; `None` if the system does not answer.
    fn refresh(&mut self) -> Option<&sysinfo::System> {
        if self.machine.is_none() {
            self.machine = sysinfo::System::new().ok();
        }
        let machine = self.machine.as_mut()?;
        machine.refresh_cpu_usage();
        machine.refresh_memory();
        machine.refresh_processes_specifics(ProcessesToUpdate::All, true, ProcessRefreshKind::nothing());
        Some(machine)
    }
}

impl OperatingSystem for Portable {
    fn sample(&mut self) -> Reading {
        let traffic = Traffic::total(&traffic());
        let moved = traffic.since(self.traffic.replace(traffic).unwrap_or(traffic));
        let mut scalars = Scalars {
            net_in_bytes: moved.received,
            net_out_bytes: moved.sent,
            load1_centi: sysinfo::System::load_average().map_or(0, |load| (load.one * 100.0).round() as u32),
            uptime_s: self.boottime_us() / 1_000_000,
            ..Scalars::default()
        };
        if let Some(machine) = self.refresh() {
            let total = machine.total_memory();
            let used = total.saturating_sub(machine.available_memory());
            scalars.cpu_permille = percent_to_permille(machine.global_cpu_usage());
            scalars.ram_permille = permille(used, total);
            scalars.ram_used_mib = to_u32(used / MIB);
            scalars.swap_used_mib = to_u32(machine.used_swap() / MIB);
            scalars.process_count = to_u32(machine.processes().len() as u64);
        }
        let fixed: Vec<Volume> = volumes().into_iter().filter(|volume| !volume.removable).collect();
        scalars.disk_permille = fixed.iter().map(Volume::permille).max().unwrap_or(0);
        scalars.disk_used_mib = to_u32(fixed.iter().map(Volume::used).sum::<u64>() / MIB);

        let status = figures::health(scalars.disk_permille);
        let pending_reboot = native::pending_reboot();
        // Whether it runs on battery, sysinfo does not know.
        scalars.flags = figures::flags(pending_reboot, false, status);
        Reading { scalars, status, last_user: native::last_user(), pending_reboot }
    }

    /// The processor's figures are those of the last sample: sysinfo needs a while between two looks.
    fn details(&mut self) -> Vec<NamedValue> {
        let mut values = Vec::new();
        let mut push = |group: &str, of: &str, what: &str, value: f64| {
            if values.len() < MAX_DETAIL_VALUES {
                values.push(NamedValue { name: metric_name(group, of, what), value });
            }
        };
        for (number, core) in self.machine.iter().flat_map(sysinfo::System::cpus).enumerate() {
            let permille = percent_to_permille(core.usage());
            push("cpu", &number.to_string(), "percent", f64::from(permille) / 10.0);
        }
        for volume in volumes().iter().filter(|volume| !volume.removable) {
            push("disk", series_name(&volume.mount), "percent", f64::from(volume.permille()) / 10.0);
        }
        let interfaces = traffic();
        self.interfaces.retain(|name, _| interfaces.iter().any(|(present, _)| present == name));
        for (name, traffic) in interfaces {
            let moved = traffic.since(self.interfaces.insert(name.clone(), traffic).unwrap_or(traffic));
            push("net", &name, "rx_bytes", moved.received as f64);
            push("net", &name, "tx_bytes", moved.sent as f64);
        }
        values
    }

    fn host_facts(&self) -> HostFacts {
        HostFacts {
            hostname: cut(&sysinfo::System::host_name().unwrap_or_default()),
            os_type: native::OS_TYPE.into(),
            os_version: cut(sysinfo::System::long_os_version().unwrap_or_default().trim()),
            os_build: cut(&native::os_build()),
            architecture: architecture().into(),
            ..HostFacts::default()
        }
    }

    fn hardware(&self) -> Hardware {
        let mut machine = sysinfo::System::new().ok();
        if let Some(machine) = &mut machine {
            machine.refresh_memory();
            machine.refresh_cpu_list(CpuRefreshKind::nothing());
        }
        let cpus = machine.as_ref().map_or(&[][..], |machine| machine.cpus());
        let volumes = volumes();
        let said = |text: Result<String, sysinfo::Error>| firmware::said(&text.unwrap_or_default());
        let (manufacturer, model) = (said(Product::vendor_name()), said(Product::name()));
        let fixed_bytes: u64 = volumes.iter().filter(|volume| !volume.removable).map(|volume| volume.total).sum();
        Hardware {
            cpu_model: cut(cpus.first().map_or("", |cpu| cpu.brand()).trim()),
            cpu_cores: sysinfo::System::physical_core_count().map_or(0, |cores| to_u32(cores as u64)),
            cpu_threads: to_u32(cpus.len() as u64),
            ram_total_mib: machine.as_ref().map_or(0, sysinfo::System::total_memory) / MIB,
            disk_total_gib: fixed_bytes.div_ceil(GIB),
            gpu_model: cut(&native::gpu()),
            serial_number: said(Product::serial_number()),
            virtualization: firmware::hypervisor(&manufacturer, &model, native::has_hypervisor()).to_owned(),
            manufacturer,
            model,
            bios_version: firmware::said(&native::bios_version()),
            disks: volumes.into_iter().take(MAX_HARDWARE_ENTRIES).map(Volume::into_disk).collect(),
        }
    }

    fn network(&self) -> Network {
        let mut addresses = addresses();
        let Routing { interface, gateway, dns_servers } = native::routing(&addresses);
        mark_primary(&mut addresses, interface.as_deref());
        Network { addresses, dns_servers, default_gateway: gateway }
    }

    fn software(&self) -> Vec<Software> {
        let mut software = native::software();
        software.truncate(MAX_SOFTWARE_ENTRIES);
        software
    }

    fn boot_id(&self) -> [u8; 16] {
        // Where the system names no boot, each start of the agent counts as one.
        native::boot_id().unwrap_or_else(rand::random)
    }

    fn boottime_us(&self) -> u64 {
        native::boottime_us()
    }

    fn machine_fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"breeze/v1/machine\0");
        for id in [native::installation_id(), Product::uuid().unwrap_or_default()] {
            hash.update(id.trim());
            hash.update([0]);
        }
        hash.finalize().into()
    }

    fn network_fingerprint(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for row in addresses() {
            (row.interface_name, row.mac_address, row.ip_address, row.prefix_len).hash(&mut hash);
        }
        hash.finish()
    }
}

fn percent_to_permille(percent: f32) -> u32 {
    ((percent * 10.0).round() as u32).min(1000)
}

/// A mount as a series' name has it: "C:" for `C:\`.
fn series_name(mount: &str) -> &str {
    mount.strip_suffix('\\').unwrap_or(mount)
}

/// Every interface but loopback, since boot.
fn traffic() -> Vec<(String, Traffic)> {
    let Ok(interfaces) = Networks::new_with_refreshed_list() else { return Vec::new() };
    let mut traffic: Vec<(String, Traffic)> = interfaces
        .iter()
        .map(|(name, data)| {
            let moved = Traffic { received: data.total_received(), sent: data.total_transmitted() };
            (name.to_string_lossy().into_owned(), moved)
        })
        .filter(|(name, _)| name != "lo" && name != "lo0")
        .collect();
    traffic.sort_by(|(a, _), (b, _)| a.cmp(b));
    traffic
}

/// A volume with files on it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Volume {
    mount: String,
    device: String,
    file_system: String,
    /// Bytes.
    total: u64,
    available: u64,
    removable: bool,
}

impl Volume {
    fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }

    fn permille(&self) -> u32 {
        permille(self.used(), self.total)
    }

    fn into_disk(self) -> Disk {
        Disk {
            mount: cut(&self.mount),
            device: cut(&self.device),
            file_system: cut(&self.file_system),
            total_bytes: self.total,
            removable: self.removable,
        }
    }
}

fn volumes() -> Vec<Volume> {
    let refresh = DiskRefreshKind::nothing().with_storage();
    let Ok(disks) = Disks::new_with_refreshed_list_specifics(refresh) else { return Vec::new() };
    let volumes = disks.iter().map(|disk| Volume {
        mount: disk.mount_point().to_string_lossy().into_owned(),
        device: disk.name().to_string_lossy().into_owned(),
        file_system: disk.file_system().to_string_lossy().into_owned(),
        total: disk.total_space(),
        available: disk.available_space(),
        removable: disk.is_removable(),
    });
    distinct(volumes.filter(|volume| volume.total > 0).collect())
}

/// In a fixed order, and without what would count twice: the volumes of an APFS container share its
/// space, so each of them shows the container's.
fn distinct(mut volumes: Vec<Volume>) -> Vec<Volume> {
    volumes.sort_by(|a, b| a.mount.cmp(&b.mount));
    let mut kept: Vec<Volume> = Vec::new();
    for volume in volumes {
        let shares_space = |other: &Volume| {
            volume.file_system == "apfs"
                && other.file_system == "apfs"
                && (other.total, other.available) == (volume.total, volume.available)
        };
        if !kept.iter().any(|other| other.mount == volume.mount || shares_space(other)) {
            kept.push(volume);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(mount: &str, file_system: &str, available: u64) -> Volume {
        Volume {
            mount: mount.into(),
            device: String::new(),
            file_system: file_system.into(),
            total: 1000,
            available,
            removable: false,
        }
    }

    #[test]
    fn a_sample_of_this_machine_is_plausible() {
        let mut system = Portable::new();
        let reading = system.sample();
        assert!(reading.scalars.cpu_permille <= 1000 && reading.scalars.ram_permille > 0);
        assert!(reading.scalars.process_count > 0 && reading.scalars.uptime_s > 0);
        assert!(!system.host_facts().hostname.is_empty());
        assert_ne!(system.boot_id(), [0; 16]);
        assert!(system.details().iter().any(|value| value.name == "cpu.0.percent"));
    }

    #[test]
    fn the_inventory_of_this_machine_is_plausible() {
        let system = Portable::default();
        let hardware = system.hardware();
        assert!(hardware.cpu_threads >= hardware.cpu_cores && hardware.cpu_cores > 0);
        assert!(hardware.ram_total_mib > 0);
        assert!(system.network().addresses.iter().filter(|row| row.is_primary).count() <= 1);
        assert_eq!(system.machine_fingerprint(), system.machine_fingerprint());
        assert_eq!(system.network_fingerprint(), system.network_fingerprint());
        assert!(system.software().len() <= MAX_SOFTWARE_ENTRIES);
    }

    #[test]
    fn time_goes_on() {
        let system = Portable::default();
        let before = system.boottime_us();
        assert!(before > 0 && system.boottime_us() >= before);
    }

    #[test]
    fn volumes_of_one_apfs_container_count_once() {
        let all = vec![
            volume("/System/Volumes/Data", "apfs", 400),
            volume("/", "apfs", 400),
            volume("/Volumes/Other", "apfs", 300),
            volume("D:\\", "NTFS", 400),
            volume("E:\\", "NTFS", 400),
        ];
        let mounts: Vec<String> = distinct(all).into_iter().map(|volume| volume.mount).collect();
        assert_eq!(mounts, ["/", "/Volumes/Other", "D:\\", "E:\\"]);
        assert_eq!((volume("/", "apfs", 250).permille(), series_name("C:\\")), (750, "C:"));
    }
}
