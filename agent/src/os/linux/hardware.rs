//! What the machine is made of.

use super::load::{memory, mounted_disks};
use crate::os::{
    figures::{GIB, MIB, to_u32},
    files::{cut, list, read, read_value},
    firmware,
};
use breeze_proto::{
    limits::MAX_HARDWARE_ENTRIES,
    v1::{Disk, Hardware},
};
use std::{collections::BTreeSet, path::Path};

/// `/sys/block/<disk>/size` counts these, whatever the disk's own blocks are.
const SECTOR_BYTES: u64 = 512;
/// PCI base class of display controllers.
const DISPLAY_CLASS: &str = "0x03";

pub(super) fn hardware() -> Hardware {
    let cpu = Cpu::parse(&read("/proc/cpuinfo"));
    let disks = disks();
    Hardware {
        cpu_model: cpu.model,
        cpu_cores: cpu.cores,
        cpu_threads: cpu.threads,
        ram_total_mib: memory().total / MIB,
        disk_total_gib: disk_total(&disks).div_ceil(GIB),
        gpu_model: gpu(),
        serial_number: dmi("product_serial"),
        manufacturer: dmi("sys_vendor"),
        model: model(),
        bios_version: dmi("bios_version"),
        disks,
        virtualization: virtualization(),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Cpu {
    model: String,
    cores: u32,
    threads: u32,
}

impl Cpu {
    fn parse(cpuinfo: &str) -> Self {
        let mut cpu = Self::default();
        let mut cores = BTreeSet::new();
        for block in cpuinfo.split("\n\n") {
            let value = |key: &str| {
                block.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':')).map(str::trim)
            };
            if value("processor").is_none() {
                // ARM names the model once, in a block of its own.
                if cpu.model.is_empty() {
                    cpu.model = cut(value("Model").or_else(|| value("Hardware")).unwrap_or_default());
                }
                continue;
            }
            cpu.threads += 1;
            if cpu.model.is_empty() {
                cpu.model = cut(value("model name").or_else(|| value("Processor")).unwrap_or_default());
            }
            if let Some(core) = value("core id") {
                cores.insert((value("physical id").unwrap_or("0").to_owned(), core.to_owned()));
            }
        }
        cpu.cores = if cores.is_empty() { cpu.threads } else { to_u32(cores.len() as u64) };
        cpu
    }
}

fn disks() -> Vec<Disk> {
    mounted_disks()
        .into_iter()
        .take(MAX_HARDWARE_ENTRIES)
        .map(|disk| Disk {
            removable: is_removable(&disk.device),
            mount: cut(&disk.mount),
            device: cut(&disk.device),
            file_system: cut(&disk.file_system),
            total_bytes: disk.total,
        })
        .collect()
}

fn is_removable(device: &str) -> bool {
    let name = device.trim_start_matches("/dev/");
    let parent = list("/sys/block").into_iter().filter(|disk| name.starts_with(disk.as_str())).max_by_key(String::len);
    parent.is_some_and(|disk| read_value(format!("/sys/block/{disk}/removable")) == "1")
}

/// Bytes of all disks that are devices of their own; of what is mounted where none is to be seen.
fn disk_total(mounted: &[Disk]) -> u64 {
    let of_device = |disk: &String| -> Option<u64> {
        let folder = Path::new("/sys/block").join(disk);
        let is_fixed = folder.join("device").exists() && read_value(folder.join("removable")) != "1";
        is_fixed.then(|| read_value(folder.join("size")).parse::<u64>().ok())?
    };
    let sectors: u64 = list("/sys/block").iter().filter_map(of_device).sum();
    if sectors > 0 { sectors.saturating_mul(SECTOR_BYTES) } else { mounted.iter().map(|disk| disk.total_bytes).sum() }
}

fn gpu() -> String {
    let devices = list("/sys/bus/pci/devices");
    let names: Vec<String> = devices
        .iter()
        .map(|device| Path::new("/sys/bus/pci/devices").join(device))
        .filter(|device| read_value(device.join("class")).starts_with(DISPLAY_CLASS))
        .map(|device| pci_name(&read_value(device.join("vendor")), &read_value(device.join("device"))))
        .collect();
    cut(&names.join(", "))
}

/// Name from the system's PCI id database, else the ids themselves.
fn pci_name(vendor: &str, device: &str) -> String {
    let (vendor, device) = (vendor.trim_start_matches("0x"), device.trim_start_matches("0x"));
    let databases = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];
    databases
        .iter()
        .find_map(|path| look_up_pci(&read(path), vendor, device))
        .unwrap_or_else(|| format!("PCI {vendor}:{device}"))
}

/// Format: vendors at the start of a line, their devices indented by one tab.
fn look_up_pci(database: &str, vendor: &str, device: &str) -> Option<String> {
    let mut lines = database.lines().skip_while(|line| line.split_once("  ").is_none_or(|(id, _)| id != vendor));
    let (_, vendor_name) = lines.next()?.split_once("  ")?;
    let device_name = lines
        .take_while(|line| line.starts_with('\t') || line.starts_with('#'))
        .filter_map(|line| line.strip_prefix('\t').filter(|line| !line.starts_with('\t'))?.split_once("  "))
        .find_map(|(id, name)| (id == device).then_some(name));
    Some(device_name.map_or_else(|| vendor_name.to_owned(), |name| format!("{vendor_name} {name}")))
}

fn dmi(field: &str) -> String {
    firmware::said(&read(Path::new("/sys/class/dmi/id").join(field)))
}

fn model() -> String {
    let model = dmi("product_name");
    if model.is_empty() { read_value("/proc/device-tree/model") } else { model }
}

/// Container first: inside one, the processor's flags tell of the host.
fn virtualization() -> String {
    let container = read_value("/run/systemd/container");
    if !container.is_empty() {
        return container;
    }
    if Path::new("/.dockerenv").exists() {
        return "docker".into();
    }
    let environment = read("/proc/1/environ");
    if let Some(name) = environment.split('\0').find_map(|variable| variable.strip_prefix("container=")) {
        return cut(name);
    }
    let has_hypervisor =
        read("/proc/cpuinfo").lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    firmware::hypervisor(&dmi("sys_vendor"), &dmi("product_name"), has_hypervisor).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_core_count_once() {
        let thread = |n: u32, core: u32| {
            format!("processor\t: {n}\nmodel name\t: Xeon\nphysical id\t: 0\ncore id\t\t: {core}\n\n")
        };
        let cpu = Cpu::parse(&[thread(0, 0), thread(1, 1), thread(2, 0), thread(3, 1)].concat());
        assert_eq!(cpu, Cpu { model: "Xeon".into(), cores: 2, threads: 4 });
    }

    #[test]
    fn arm_has_no_core_ids_and_names_its_model_at_the_end() {
        let text =
            "processor\t: 0\nBogoMIPS\t: 108.00\n\nprocessor\t: 1\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 4\n";
        assert_eq!(Cpu::parse(text), Cpu { model: "Raspberry Pi 4".into(), cores: 2, threads: 2 });
    }

    #[test]
    fn pci_names_come_from_the_database() {
        let ids = "# comment\n8086  Intel\n\t0416  HD 4600\n\t\t17aa 220e  Laptop\n10de  NVIDIA\n\t1b80  GTX 1080\n";
        assert_eq!(look_up_pci(ids, "10de", "1b80").as_deref(), Some("NVIDIA GTX 1080"));
        assert_eq!(look_up_pci(ids, "8086", "ffff").as_deref(), Some("Intel"));
        assert_eq!(look_up_pci(ids, "ffff", "0416"), None);
    }

    #[test]
    fn this_machine_has_a_processor_and_a_disk() {
        let hardware = hardware();
        assert!(hardware.cpu_threads >= hardware.cpu_cores && hardware.cpu_cores > 0);
        assert!(hardware.ram_total_mib > 0);
    }
}
