//! What the systems' texts mean. Pure, so that each is tested wherever the tests run.

use crate::os::addresses::MAX_DNS_SERVERS;
#[cfg(any(test, windows, target_os = "macos"))]
use crate::os::files::cut;
#[cfg(any(test, windows))]
use breeze_proto::v1::{Software, SoftwareKey};
#[cfg(any(test, windows, target_os = "macos"))]
use std::net::IpAddr;

/// The way out of this machine; empty where it is unknown.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Routing {
    pub(super) interface: Option<String>,
    pub(super) gateway: String,
    pub(super) dns_servers: Vec<String>,
}

impl Routing {
    pub(super) fn with_dns(mut self, servers: Vec<String>) -> Self {
        self.dns_servers = servers;
        self.dns_servers.truncate(MAX_DNS_SERVERS);
        self
    }
}

/// `route -n get default` of the BSDs: indented lines of `key: value`.
#[cfg(any(test, target_os = "macos"))]
pub(super) fn parse_route(text: &str) -> Routing {
    let value =
        |key: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    // A gateway may be "link#12" (none of its own) or carry its interface, as fe80::1%en0.
    let gateway =
        value("gateway").filter(|text| text.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok()));
    Routing {
        interface: value("interface").map(cut),
        gateway: gateway.map(cut).unwrap_or_default(),
        dns_servers: Vec::new(),
    }
}

/// The highest version among the folders of a Homebrew formula: by its numbers, then by its text.
#[cfg(any(test, target_os = "macos"))]
pub(super) fn newest_version(versions: &[String]) -> Option<&str> {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    let newest = versions
        .iter()
        .filter(|version| !version.starts_with('.'))
        .max_by(|a, b| numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b)));
    newest.map(String::as_str)
}

/// Addresses of a registry value, which separates them by blanks or commas.
#[cfg(any(test, windows))]
pub(super) fn parse_addresses(text: &str) -> Vec<String> {
    text.split([' ', ','])
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .filter(|address| !address.is_unspecified())
        .map(|address| address.to_string())
        .collect()
}

/// "2026-11-24" of the registry's "20261124"; empty for what is no date.
#[cfg(any(test, windows))]
pub(super) fn parse_date(text: &str) -> String {
    let is_date = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_date { format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..]) } else { String::new() }
}

/// An entry of `…\CurrentVersion\Uninstall`, by its values' names; `None` for what Windows does not
/// list either: updates of other entries, and entries without a name.
#[cfg(any(test, windows))]
pub(super) fn installed(
    value: impl Fn(&str) -> Option<String>,
    is_system: bool,
    architecture: &str,
) -> Option<Software> {
    let text = |name: &str| cut(value(name).unwrap_or_default().trim());
    let name = Some(text("DisplayName")).filter(|name| !name.is_empty())?;
    let is_update = !text("ParentKeyName").is_empty() || text("ReleaseType").contains("Update");
    (!is_update).then(|| Software {
        key: Some(SoftwareKey { source: "windows".into(), name, architecture: architecture.into() }),
        version: text("DisplayVersion"),
        publisher: text("Publisher"),
        install_date: parse_date(&text("InstallDate")),
        install_location: text("InstallLocation"),
        is_system,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_macos_parses() {
        let text = "   route to: default\ndestination: default\n       mask: default\n    gateway: 192.168.1.1\n  \
            interface: en0\n      flags: <UP,GATEWAY,DONE,STATIC,PRCLONING,GLOBAL>\n";
        let routing = parse_route(text);
        assert_eq!((routing.interface.as_deref(), routing.gateway.as_str()), (Some("en0"), "192.168.1.1"));
        let tunnel = parse_route("    gateway: link#22\n  interface: utun4\n");
        assert_eq!((tunnel.interface.as_deref(), tunnel.gateway.as_str()), (Some("utun4"), ""));
        assert_eq!(parse_route("route: writing to routing socket: not in table\n"), Routing::default());
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        let versions = ["1.9.0", "1.10.0_1", ".keepme", "1.10.0"].map(str::to_owned);
        assert_eq!(newest_version(&versions), Some("1.10.0_1"));
        assert_eq!(newest_version(&[]), None);
    }

    #[test]
    fn addresses_of_the_registry_parse_and_nothing_else_does() {
        assert_eq!(parse_addresses("10.0.0.1 10.0.0.2"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(parse_addresses("10.0.0.1,,<script>,fe80::1,0.0.0.0"), ["10.0.0.1", "fe80::1"]);
        assert_eq!(Routing::default().with_dns(vec!["10.0.0.1".into(); 99]).dns_servers.len(), MAX_DNS_SERVERS);
    }

    #[test]
    fn uninstall_entries_parse_and_updates_are_left_out() {
        let app = |name: &str| match name {
            "DisplayName" => Some(" 7-Zip 24.08 (x64) ".to_owned()),
            "DisplayVersion" => Some("24.08".to_owned()),
            "Publisher" => Some("Igor Pavlov".to_owned()),
            "InstallDate" => Some("20260102".to_owned()),
            _ => None,
        };
        let software = installed(app, false, "amd64").expect("an entry");
        assert_eq!(software.key.as_ref().map(|key| key.name.as_str()), Some("7-Zip 24.08 (x64)"));
        assert_eq!((software.install_date.as_str(), software.version.as_str()), ("2026-01-02", "24.08"));
        assert!(installed(|name| (name == "Publisher").then(String::new), false, "amd64").is_none());
        let update = |name: &str| if name == "ReleaseType" { Some("Security Update".to_owned()) } else { app(name) };
        assert!(installed(update, false, "amd64").is_none());
        assert_eq!([parse_date("2026-1-2"), parse_date("ä260102")], ["", ""]);
    }
}
