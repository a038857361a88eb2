//! Addresses, name servers, the default gateway.

use super::files::{cut, list, read, read_value};
use breeze_proto::{
    limits::MAX_HARDWARE_ENTRIES,
    v1::{Network, NetworkAddress},
};
use std::net::{IpAddr, Ipv4Addr};

/// Name servers that are reported at most.
const MAX_DNS_SERVERS: usize = 16;

pub(super) fn network() -> Network {
    let gateway = default_gateway(&read("/proc/net/route"));
    let mut addresses = addresses();
    mark_primary(&mut addresses, gateway.as_ref().map(|(interface, _)| interface.as_str()));
    Network {
        addresses,
        dns_servers: dns_servers(),
        default_gateway: gateway.map(|(_, address)| address.to_string()).unwrap_or_default(),
    }
}

fn addresses() -> Vec<NetworkAddress> {
    let mut addresses: Vec<NetworkAddress> = Vec::new();
    let Ok(interfaces) = sysinfo::Networks::new_with_refreshed_list() else { return addresses };
    for (name, data) in &interfaces {
        let name = name.to_string_lossy();
        let mac = mac_address(&name);
        let row = |address: Option<(IpAddr, u8)>| NetworkAddress {
            interface_name: cut(&name),
            mac_address: mac.clone(),
            ip_address: address.map(|(ip, _)| ip.to_string()).unwrap_or_default(),
            prefix_len: address.map_or(0, |(_, prefix)| u32::from(prefix)),
            is_ipv6: address.is_some_and(|(ip, _)| ip.is_ipv6()),
            is_primary: false,
        };
        let of_interface: Vec<_> = data
            .ip_networks()
            .iter()
            .filter(|network| !network.addr.is_loopback())
            .map(|network| row(Some((network.addr, network.prefix))))
            .collect();
        if of_interface.is_empty() && name != "lo" && !mac.is_empty() {
            addresses.push(row(None));
        }
        addresses.extend(of_interface);
    }
    // A fixed order, so that the hash changes only with the content.
    addresses.sort_by(|a, b| {
        (&a.interface_name, a.is_ipv6, &a.ip_address).cmp(&(&b.interface_name, b.is_ipv6, &b.ip_address))
    });
    addresses.truncate(MAX_HARDWARE_ENTRIES);
    addresses
}

fn mac_address(interface: &str) -> String {
    let mac = read_value(format!("/sys/class/net/{interface}/address"));
    if mac == "00:00:00:00:00:00" { String::new() } else { mac }
}

/// The first IPv4 address of the interface with the default route; without one, the first address
/// that is not link-local.
fn mark_primary(addresses: &mut [NetworkAddress], default_interface: Option<&str>) {
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

/// (interface, gateway) of the default route with the lowest metric. `/proc/net/route` writes
/// addresses as hexadecimal in host order.
fn default_gateway(routes: &str) -> Option<(String, Ipv4Addr)> {
    routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (interface, destination, gateway, mask) =
                (fields.first()?, fields.get(1)?, fields.get(2)?, fields.get(7)?);
            let metric: u32 = fields.get(6)?.parse().ok()?;
            let gateway = u32::from_str_radix(gateway, 16).ok()?;
            let is_default = *destination == "00000000" && *mask == "00000000" && gateway != 0;
            is_default.then(|| (metric, ((*interface).to_owned(), Ipv4Addr::from(gateway.to_le_bytes()))))
        })
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, route)| route)
}

/// What programs ask, and where that is systemd's stub, what the stub asks.
fn dns_servers() -> Vec<String> {
    let own = parse_resolv_conf(&read("/etc/resolv.conf"));
    if own == ["127.0.0.53"] {
        let behind = parse_resolv_conf(&read("/run/systemd/resolve/resolv.conf"));
        if !behind.is_empty() {
            return behind;
        }
    }
    own
}

fn parse_resolv_conf(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.split_whitespace().next())
        .filter(|server| server.split('%').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()))
        .take(MAX_DNS_SERVERS)
        .map(cut)
        .collect()
}

/// Changes when an interface, an address or a route does; its counters do not matter.
pub(super) fn fingerprint() -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hash = DefaultHasher::new();
    for path in ["/proc/net/fib_trie", "/proc/net/if_inet6", "/proc/net/ipv6_route"] {
        let text = read(path);
        for line in text.lines() {
            // Of an IPv6 route: destination, next hop and device; the rest counts its use.
            let fields: Vec<&str> = line.split_whitespace().collect();
            let kept = if path.ends_with("ipv6_route") { [0, 1, 4, 9].as_slice() } else { &[0, 1, 2, 3, 4, 5] };
            for field in kept.iter().filter_map(|index| fields.get(*index)) {
                hash.write(field.as_bytes());
            }
        }
    }
    for line in read("/proc/net/route").lines() {
        for field in line.split_whitespace().take(3) {
            hash.write(field.as_bytes());
        }
    }
    for interface in list("/sys/class/net") {
        hash.write(read_value(format!("/sys/class/net/{interface}/operstate")).as_bytes());
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        assert_eq!(default_gateway(ROUTES), Some(("eth0".into(), Ipv4Addr::new(10, 0, 0, 1))));
        assert_eq!(default_gateway("header\ngarbage"), None);
    }

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
    fn name_servers_are_addresses_only() {
        let text = "# x\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver evil<script>\nsearch example.com\n";
        assert_eq!(parse_resolv_conf(text), ["10.0.0.2", "fe80::1%eth0"]);
    }

    #[test]
    fn the_fingerprint_is_stable_while_nothing_changes() {
        assert_eq!(fingerprint(), fingerprint());
    }
}
