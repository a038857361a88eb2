//! Bounds on what an agent sends: everything of it is hostile until it has passed here.

use breeze_proto::{
    limits::{MAX_HARDWARE_ENTRIES, MAX_METRIC_NAME_BYTES, MAX_TEXT_BYTES},
    v1,
};

/// DNS servers of one device.
const MAX_DNS_SERVERS: usize = 32;

/// Cuts a text to its limit and takes control characters out of it. Nothing is copied where there is
/// nothing to do.
#[must_use]
pub fn text(mut text: String) -> String {
    if text.chars().any(char::is_control) {
        text.retain(|c| !c.is_control());
    }
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    }
    text
}

/// Whether a metric's name, with `prefix` bytes before it, may be stored.
#[must_use]
pub fn is_metric_name(name: &str, prefix: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:/%-".contains(&b);
    !name.is_empty() && name.len() + prefix <= MAX_METRIC_NAME_BYTES && name.bytes().all(allowed)
}

#[must_use]
pub fn host(host: v1::HostFacts) -> v1::HostFacts {
    v1::HostFacts {
        hostname: text(host.hostname),
        os_type: text(host.os_type),
        os_version: text(host.os_version),
        os_build: text(host.os_build),
        architecture: text(host.architecture),
        key_protection: text(host.key_protection),
    }
}

#[must_use]
pub fn hardware(mut hardware: v1::Hardware) -> v1::Hardware {
    hardware.disks.truncate(MAX_HARDWARE_ENTRIES);
    let disk = |disk: v1::Disk| v1::Disk {
        mount: text(disk.mount),
        device: text(disk.device),
        file_system: text(disk.file_system),
        ..disk
    };
    v1::Hardware {
        cpu_model: text(hardware.cpu_model),
        gpu_model: text(hardware.gpu_model),
        serial_number: text(hardware.serial_number),
        manufacturer: text(hardware.manufacturer),
        model: text(hardware.model),
        bios_version: text(hardware.bios_version),
        virtualization: text(hardware.virtualization),
        disks: hardware.disks.into_iter().map(disk).collect(),
        ..hardware
    }
}

#[must_use]
pub fn network(mut network: v1::Network) -> v1::Network {
    network.addresses.truncate(MAX_HARDWARE_ENTRIES);
    network.dns_servers.truncate(MAX_DNS_SERVERS);
    let address = |address: v1::NetworkAddress| v1::NetworkAddress {
        interface_name: text(address.interface_name),
        mac_address: text(address.mac_address),
        ip_address: text(address.ip_address),
        ..address
    };
    v1::Network {
        addresses: network.addresses.into_iter().map(address).collect(),
        dns_servers: network.dns_servers.into_iter().map(text).collect(),
        default_gateway: text(network.default_gateway),
    }
}

#[must_use]
pub fn software(software: v1::Software) -> v1::Software {
    let key = |key: v1::SoftwareKey| v1::SoftwareKey {
        source: text(key.source),
        name: text(key.name),
        architecture: text(key.architecture),
    };
    v1::Software {
        key: software.key.map(key),
        version: text(software.version),
        publisher: text(software.publisher),
        install_date: text(software.install_date),
        install_location: text(software.install_location),
        is_system: software.is_system,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_come_out_short_and_printable(input in ".{0,400}") {
            let output = text(input.clone());
            prop_assert!(output.len() <= MAX_TEXT_BYTES && !output.chars().any(char::is_control));
            let printable: String = input.chars().filter(|c| !c.is_control()).collect();
            prop_assert!(printable.starts_with(&output));
        }
    }

    #[test]
    fn markup_is_text_like_any_other_and_names_have_an_alphabet() {
        assert_eq!(text("<b>host</b>\u{0}\n".into()), "<b>host</b>");
        assert!(is_metric_name("disk./home.percent", 0));
        for bad in ["", "a b", "a\"", "ä", &"a".repeat(MAX_METRIC_NAME_BYTES + 1)] {
            assert!(!is_metric_name(bad, 0), "{bad}");
        }
        assert!(!is_metric_name(&"a".repeat(MAX_METRIC_NAME_BYTES), 1));
    }
}
