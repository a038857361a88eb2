//! What only Windows knows; nearly all of it lies in the registry.

use super::texts::{Routing, installed, parse_addresses};
use breeze_proto::v1::{NetworkAddress, Software};
use sha2::{Digest as _, Sha256};
use std::{sync::OnceLock, time::Instant};
use windows_registry::{Key, LOCAL_MACHINE, USERS};

pub(super) const OS_TYPE: &str = "windows";

const VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const LOGON: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Authentication\LogonUI";
const PREFETCH: &str = r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters";
/// Keys that exist while a restart is due: servicing, and Windows Update.
const REBOOTS: &[&str] = &[
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending",
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired",
];
const FIRMWARE: &str = r"HARDWARE\DESCRIPTION\System\BIOS";
/// The device class of display adapters.
const DISPLAYS: &str = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}";
/// What TCP/IP knows of each interface, and what the interfaces are called.
const INTERFACES: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces";
const CONNECTIONS: &str = r"SYSTEM\CurrentControlSet\Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}";
/// (key of installed programs, their architecture where it is not the machine's).
const UNINSTALL: &[(&str, Option<&str>)] = &[
    (r"SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall", None),
    (r"SOFTWARE\WOW6432Node\Microsoft\Windows\CurrentVersion\Uninstall", Some("386")),
];

fn text(key: &str, name: &str) -> String {
    LOCAL_MACHINE.open(key).and_then(|key| key.get_string(name)).unwrap_or_default()
}

/// "26100.2314": build and update.
pub(super) fn os_build() -> String {
    let build = text(VERSION, "CurrentBuildNumber");
    match LOCAL_MACHINE.open(VERSION).and_then(|key| key.get_u32("UBR")) {
        Ok(update) => format!("{build}.{update}"),
        Err(_) => build,
    }
}

/// The counter behind `Instant` runs from boot and goes on while the machine sleeps; where it started
/// is known to the second, and looked at once.
pub(super) fn boottime_us() -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (seen, uptime_us) = START.get_or_init(|| {
        let uptime_s = sysinfo::System::uptime().unwrap_or(0);
        (Instant::now(), uptime_s.saturating_mul(1_000_000))
    });
    uptime_us.saturating_add(seen.elapsed().as_micros() as u64)
}

/// Of the number that Windows raises with each boot.
pub(super) fn boot_id() -> Option<[u8; 16]> {
    let number = LOCAL_MACHINE.open(PREFETCH).and_then(|key| key.get_u32("BootId")).ok()?;
    let digest = Sha256::new()
        .chain_update(b"breeze/v1/boot\0")
        .chain_update(installation_id())
        .chain_update(number.to_be_bytes())
        .finalize();
    digest[..16].try_into().ok()
}

pub(super) fn installation_id() -> String {
    text(r"SOFTWARE\Microsoft\Cryptography", "MachineGuid")
}

/// "DOMAIN\user", or ".\user" of an account of this machine.
pub(super) fn last_user() -> String {
    crate::os::files::cut(&text(LOGON, "LastLoggedOnUser"))
}

pub(super) fn pending_reboot() -> bool {
    REBOOTS.iter().any(|key| LOCAL_MACHINE.open(key).is_ok())
}

pub(super) fn gpu() -> String {
    let Ok(displays) = LOCAL_MACHINE.open(DISPLAYS) else { return String::new() };
    let mut names: Vec<String> =
        children(&displays).iter().filter_map(|(_, display)| display.get_string("DriverDesc").ok()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

pub(super) fn bios_version() -> String {
    text(FIRMWARE, "BIOSVersion")
}

/// Vendor and product tell; the processor's own word is not to be had without unsafe code.
pub(super) fn has_hypervisor() -> bool {
    false
}

/// Keys below that can be opened, with their names.
fn children(key: &Key) -> Vec<(String, Key)> {
    let Ok(names) = key.keys() else { return Vec::new() };
    names.filter_map(|name| key.open(&name).ok().map(|child| (name, child))).collect()
}

/// The interface that has an address now and a gateway: what is unplugged keeps its old one.
pub(super) fn routing(addresses: &[NetworkAddress]) -> Routing {
    let Ok(interfaces) = LOCAL_MACHINE.open(INTERFACES) else { return Routing::default() };
    let mut first: Option<Routing> = None;
    let mut servers: Vec<String> = Vec::new();
    for (id, interface) in children(&interfaces) {
        let name = text(&format!(r"{CONNECTIONS}\{id}\Connection"), "Name");
        if !addresses.iter().any(|row| row.interface_name == name && !row.ip_address.is_empty()) {
            continue;
        }
        let own = parse_addresses(&interface.get_string("NameServer").unwrap_or_default());
        let given = || parse_addresses(&interface.get_string("DhcpNameServer").unwrap_or_default());
        for server in if own.is_empty() { given() } else { own } {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        let gateways = |value: &str| parse_addresses(&interface.get_multi_string(value).unwrap_or_default().join(" "));
        let gateway = gateways("DefaultGateway").into_iter().chain(gateways("DhcpDefaultGateway")).next();
        if let (None, Some(gateway)) = (&first, gateway) {
            first = Some(Routing { interface: Some(name), gateway, dns_servers: Vec::new() });
        }
    }
    first.unwrap_or_default().with_dns(servers)
}

/// Of the machine, and of each user whose part of the registry is loaded.
pub(super) fn software() -> Vec<Software> {
    let users = children(USERS);
    let roots = std::iter::once(LOCAL_MACHINE).chain(users.iter().map(|(_, user)| user));
    let mut software = Vec::new();
    for root in roots {
        for (path, architecture) in UNINSTALL {
            let Ok(list) = root.open(path) else { continue };
            let architecture = architecture.unwrap_or(crate::os::figures::architecture());
            software.extend(children(&list).iter().filter_map(|(_, program)| {
                let is_system = program.get_u32("SystemComponent").is_ok_and(|value| value == 1);
                installed(|name| program.get_string(name).ok(), is_system, architecture)
            }));
        }
    }
    software
}
