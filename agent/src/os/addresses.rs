//! Addresses as every system has them, and the name servers of a resolv.conf(5).

use super::files::cut;
use breeze_proto::{limits::MAX_HARDWARE_ENTRIES, v1::NetworkAddress};
use std::net::IpAddr;
use sysinfo::{InterfaceOperationalState, IpNetwork, MacAddr};

/// Name servers that are reported at most.
pub(in crate::os) const MAX_DNS_SERVERS: usize = 16;

/// Every address but loopback, in a fixed order; an interface without one is there, with its MAC, while
/// it is up.
pub(in crate::os) fn addresses() -> Vec<NetworkAddress> {
    let mut addresses: Vec<NetworkAddress> = Vec::new();
    let Ok(interfaces) = sysinfo::Networks::new_with_refreshed_list() else { return addresses };
    for (name, data) in &interfaces {
        let name = name.to_string_lossy();
        let is_up = data.operational_state() == InterfaceOperationalState::Up;
        addresses.extend(rows(&name, data.mac_address(), is_up, data.ip_networks()));
    }
    // A fixed order, so that the hash changes only with the content.
    addresses.sort_by(|a, b| {
        (&a.interface_name, a.is_ipv6, &a.ip_address).cmp(&(&b.interface_name, b.is_ipv6, &b.ip_address))
    });
    addresses.truncate(MAX_HARDWARE_ENTRIES);
    addresses
}

/// What is told of one interface. One that is down and has no address is a driver's placeholder: it says
/// nothing about the device.
fn rows(name: &str, mac: MacAddr, is_up: bool, networks: &[IpNetwork]) -> Vec<NetworkAddress> {
    let mac = if mac == MacAddr::UNSPECIFIED { String::new() } else { mac.to_string() };
    let row = |address: Option<(IpAddr, u8)>| NetworkAddress {
        interface_name: cut(name),
        mac_address: mac.clone(),
        ip_address: address.map(|(ip, _)| ip.to_string()).unwrap_or_default(),
        prefix_len: address.map_or(0, |(_, prefix)| u32::from(prefix)),
        is_ipv6: address.is_some_and(|(ip, _)| ip.is_ipv6()),
        is_primary: false,
    };
    let rows: Vec<_> = networks
        .iter()
        .filter(|network| !network.addr.is_loopback())
        .map(|network| row(Some((network.addr, network.prefix))))
        .collect();
    if rows.is_empty() && is_up && !mac.is_empty() { vec![row(None)] } else { rows }
}

/// The first IPv4 address of the interface with the default route; without one, the first address
/// that is not link-local.
pub(in crate::os) fn mark_primary(addresses: &mut [NetworkAddress], default_interface: Option<&str>) {
    let is_candidate = |row: &NetworkAddress| {
        !row.ip_address.is_empty() && !row.ip_address.starts_with("fe80") && !row.ip_address.starts_with("169.254.")
    };
    let on_default = |row: &NetworkAddress| default_interface.is_none_or(|name| row.interface_name == name);
    let position = addresses
        .iter()
        .position(|row| is_candidate(row) && on_default(row) && !row.is_ipv6)
        .or_else(|| addresses.iter().position(|row| is_candidate(row) && on_default(row)))
        .or_else(|| addresses.iter().position(is_candidate));
    if let Some(position) = position {
        addresses[position].is_primary = true;
    }
}

/// Name servers of a resolv.conf(5).
#[cfg(unix)]
pub(in crate::os) fn parse_resolv_conf(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.split_whitespace().next())
        .filter(|server| server.split('%').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()))
        .take(MAX_DNS_SERVERS)
        .map(cut)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_address_is_the_one_that_others_reach() {
        let row = |interface: &str, ip: &str| NetworkAddress {
            interface_name: interface.into(),
            ip_address: ip.into(),
            is_ipv6: ip.contains(':'),
            ..NetworkAddress::default()
        };
        let mut rows = vec![row("docker0", "172.17.0.1"), row("eth0", "fe80::1"), row("eth0", "10.0.0.7")];
        mark_primary(&mut rows, Some("eth0"));
        assert_eq!(rows.iter().map(|row| row.is_primary).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn an_interface_without_an_address_is_told_of_only_while_it_is_up() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let network = |addr: &str, prefix| IpNetwork { addr: addr.parse().expect("an address"), prefix };
        let told = |is_up, networks: &[IpNetwork]| -> Vec<(String, u32)> {
            rows("ifb0", mac, is_up, networks).into_iter().map(|row| (row.ip_address, row.prefix_len)).collect()
        };
        assert_eq!(told(false, &[]), []);
        assert_eq!(told(true, &[]), [(String::new(), 0)]);
        assert_eq!(told(false, &[network("10.0.0.7", 24)]), [("10.0.0.7".to_owned(), 24)], "it has an address");
        assert_eq!(rows("lo", MacAddr::UNSPECIFIED, true, &[network("127.0.0.1", 8)]), []);
    }

    #[test]
    #[cfg(unix)]
    fn name_servers_are_addresses_only() {
        let text = "# x\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver evil<script>\nsearch example.com\n";
        assert_eq!(parse_resolv_conf(text), ["10.0.0.2", "fe80::1%eth0"]);
    }
}
