//! Addresses, name servers, the default gateway.

use crate::os::{
    addresses::{addresses, mark_primary, parse_resolv_conf},
    files::{list, read, read_value},
};
use breeze_proto::v1::Network;
use std::net::Ipv4Addr;

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
    fn the_fingerprint_is_stable_while_nothing_changes() {
        assert_eq!(fingerprint(), fingerprint());
    }
}
