//! Who sent a request: the other end of the connection, or, where that is a proxy that the
//! configuration trusts, whom the proxy names. Nobody else's word on it is taken.

use crate::config::Config;
use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap},
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// What proxies add, each their own.
const PROXY_HEADERS: [&str; 6] = ["forwarded", FORWARDED_FOR, FORWARDED_PROTO, "x-forwarded-host", "x-real-ip", "via"];

/// The sender; an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    /// Whether the way from the client is TLS.
    pub secure: bool,
    /// Whether it came straight from this machine, through no proxy.
    pub local: bool,
}

impl Client {
    /// Of a request as it came in.
    #[must_use]
    pub fn of(config: &Config, serves_tls: bool, extensions: &Extensions, headers: &HeaderMap) -> Self {
        let peer = peer(extensions);
        let proxied = PROXY_HEADERS.iter().any(|name| headers.contains_key(*name));
        let local = peer.is_loopback() && !proxied;
        if !config.trusts(peer) {
            return Self { address: peer, secure: serves_tls, local };
        }
        let proto = headers.get_all(FORWARDED_PROTO).iter().next_back().and_then(|value| value.to_str().ok());
        let said_secure =
            proto.and_then(|text| text.rsplit(',').next()).map(|last| last.trim().eq_ignore_ascii_case("https"));
        Self { address: behind(config, peer, headers), secure: said_secure.unwrap_or(serves_tls), local }
    }

    /// Of a request that has passed the outermost layer.
    #[must_use]
    pub fn found(extensions: &Extensions) -> Self {
        let unknown = || Self { address: peer(extensions), secure: false, local: false };
        extensions.get::<Self>().copied().unwrap_or_else(unknown)
    }
}

/// The last address that no trusted proxy has: each proxy appends whom it heard from, so what is left
/// of that is the client's own invention. What is no address ends the walk at the proxy that passed it on.
fn behind(config: &Config, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut address = peer;
    for line in headers.get_all(FORWARDED_FOR).iter().rev() {
        for text in line.to_str().unwrap_or_default().rsplit(',') {
            let Some(named) = parse(text.trim()) else { return address };
            address = named;
            if !config.trusts(address) {
                return address;
            }
        }
    }
    address
}

/// An address, as some proxies write it: with a port, or in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches(['[', ']']);
    let parsed = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

/// Who is at the other end of the connection.
fn peer(extensions: &Extensions) -> IpAddr {
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn client(trusted: &[&str], peer: &str, headers: &[(&str, &str)]) -> Client {
        let trusted_proxies = trusted.iter().map(|text| text.parse().expect("address")).collect();
        let config = Config { trusted_proxies, ..Config::default() };
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().expect("address"), 1)));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).expect("name"), HeaderValue::from_str(value).expect("value"));
        }
        Client::of(&config, false, &extensions, &map)
    }

    fn address(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|value| (FORWARDED_FOR, *value)).collect();
        client(trusted, peer, &headers).address.to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_about_whom_it_heard() {
        assert_eq!(address(&[], "127.0.0.1", &["203.0.113.7"]), "127.0.0.1");
        assert_eq!(address(&["10.0.0.1"], "10.0.0.2", &["203.0.113.7"]), "10.0.0.2");
        assert_eq!(address(&["10.0.0.1"], "10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(address(&["10.0.0.1"], "10.0.0.1", &["1.1.1.1, 203.0.113.7"]), "203.0.113.7", "the right-most");
        assert_eq!(address(&["10.0.0.1"], "10.0.0.1", &["1.1.1.1", "203.0.113.7"]), "203.0.113.7", "two lines are one");
        assert_eq!(address(&["10.0.0.1", "10.0.0.2"], "10.0.0.1", &["1.1.1.1,203.0.113.7, 10.0.0.2"]), "203.0.113.7");
        assert_eq!(address(&["10.0.0.1"], "::ffff:10.0.0.1", &["[2001:db8::1]:99"]), "2001:db8::1");
        assert_eq!(address(&["10.0.0.1"], "10.0.0.1", &["203.0.113.7, unknown"]), "10.0.0.1");
        assert_eq!(address(&["10.0.0.1"], "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn tls_before_a_proxy_is_believed_of_a_trusted_one() {
        let https = [(FORWARDED_PROTO, "https")];
        assert!(client(&["127.0.0.1"], "127.0.0.1", &https).secure);
        assert!(!client(&[], "127.0.0.1", &https).secure);
        assert!(!client(&["127.0.0.1"], "127.0.0.1", &[(FORWARDED_PROTO, "https, http")]).secure);
    }

    #[test]
    fn what_came_through_a_proxy_is_not_local() {
        assert!(client(&[], "127.0.0.1", &[]).local);
        assert!(!client(&[], "10.0.0.1", &[]).local);
        for name in PROXY_HEADERS {
            assert!(!client(&[], "127.0.0.1", &[(name, "for=127.0.0.1")]).local, "{name}");
            assert!(!client(&["127.0.0.1"], "127.0.0.1", &[(name, "127.0.0.1")]).local, "{name}");
        }
    }
}
