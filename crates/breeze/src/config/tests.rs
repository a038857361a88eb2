//! Files as people write them, well and badly.

use super::*;
use std::{fs, os::unix::fs::PermissionsExt as _};
use tempfile::TempDir;

const PIN: &str = "aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00";

const RELAY: &str = r#"
region = "eu"
[bus]
servers = ["nats://127.0.0.1:4222"]
domain = "eu"
nkey_file = "relay.nk"
[relay]
id = "eu-1"
instance_ca = "PIN"
regions = ["eu", "us"]
quic_listen = "0.0.0.0:443"
wss_listen = "0.0.0.0:444"
data = "data"
"#;

const COLLECTOR: &str = r#"
region = "eu"
[bus]
servers = ["nats://127.0.0.1:4222"]
domain = "eu"
[state]
contact_points = ["127.0.0.1:9042"]
datacenter = "eu"
replication = { eu = 3, us = 3 }
[metrics]
url = "http://127.0.0.1:8123"
[collector]
id = "eu-a"
"#;

const CONTROL: &str = r#"
region = "eu"
[bus]
servers = ["tls://hub.example.com:4222"]
domain = "global"
ca_file = "ca.pem"
[state]
contact_points = ["cql.eu.example.com:9042"]
datacenter = "eu"
username = "breeze"
password_file = "cql.password"
ca_file = "ca.pem"
[metrics.regions.eu]
url = "https://clickhouse.eu.example.com:8443"
[metrics.regions.us]
url = "https://clickhouse.us.example.com:8443"
[control_plane]
id = "cp-1"
data = "data"
"#;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("relay.nk", "SUAB\n"),
        ("cql.password", "secret\n"),
        ("empty", "\n"),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    }
    folder
}

fn load(folder: &TempDir, text: &str) -> anyhow::Result<RoleFile> {
    let path = folder.path().join("role.toml");
    fs::write(&path, text.replace("PIN", PIN))?;
    RoleFile::load(&path)
}

#[test]
fn each_role_reads_its_file_with_paths_beside_it() {
    let folder = folder();
    let RoleFile::Relay(relay) = load(&folder, RELAY).expect("valid") else { panic!("a relay's") };
    assert_eq!(relay.relay.data, folder.path().join("data"));
    assert_eq!(relay.instance_ca().expect("hex")[..2], [0xaa, 0x00]);
    let collector = load(&folder, COLLECTOR).expect("valid");
    assert_eq!(collector.describe(), "collector eu-a of region eu");
    let RoleFile::ControlPlane(control) = load(&folder, CONTROL).expect("valid") else { panic!("a control plane's") };
    assert_eq!(control.control_plane.regions(), ["eu", "us"], "those that have metrics");
    assert_eq!((control.control_plane.default_region(), control.control_plane.region.as_str()), ("eu", "eu"));
    let error = super::relay(&folder.path().join("role.toml")).expect_err("another role's").to_string();
    assert!(error.contains("control plane cp-1"), "{error}");
}

/// It reads its own region's streams then, and nobody sees that it does not read others.
#[test]
fn a_collector_that_is_told_no_regions_is_warned_of() {
    let folder = folder();
    let warnings = load(&folder, COLLECTOR).expect("valid").warnings();
    assert!(matches!(warnings.as_slice(), [one] if one.contains("collector.regions")), "{warnings:?}");
    for regions in ["[\"eu\"]", "[\"eu\", \"us\"]"] {
        let said = load(&folder, &format!("{COLLECTOR}regions = {regions}\n")).expect("valid");
        assert_eq!(said.warnings(), [""; 0], "{regions}");
    }
    let mut printed = String::new();
    load(&folder, COLLECTOR).expect("valid");
    let check = crate::config_command::Command::Check { file: folder.path().join("role.toml") };
    crate::config_command::run(&check, &mut |text| printed.push_str(text)).expect("it is no error");
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("warning: ") && lines[1].starts_with("ok: "), "{printed}");
}

#[test]
fn what_is_shown_is_a_configuration_and_holds_no_secret() {
    let folder = folder();
    for text in [RELAY, COLLECTOR, CONTROL] {
        let shown = load(&folder, text).expect("valid").show().expect("TOML");
        assert!(!shown.contains("secret\n") && !shown.contains("SUAB"), "{shown}");
        let again = load(&folder, &shown).expect("valid").show().expect("TOML");
        assert_eq!(shown, again);
    }
    let shown = load(&folder, COLLECTOR).expect("valid").show().expect("TOML");
    assert!(shown.contains("raw_days = 30") && shown.contains("listen = \"127.0.0.1:9464\""), "{shown}");
}

#[test]
fn a_wrong_value_is_named_with_file_key_and_what_to_write() {
    let folder = folder();
    let wrong = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let error = load(&folder, &text.replace(from, to)).expect_err(to).to_string();
        assert!(error.contains("role.toml"), "{error}");
        error
    };
    for (text, from, to, key, words) in [
        (RELAY, "nats://127.0.0.1:4222", "nats://nats.example.com:4222", "bus.servers", "tls://"),
        (RELAY, "nats://127.0.0.1:4222", "127.0.0.1:4222", "bus.servers", "tls://host:4222"),
        (RELAY, "nats://127.0.0.1:4222", "nats://secret@127.0.0.1:4222", "bus.servers", "holds no user"),
        (RELAY, "relay.nk", "missing.nk", "bus.nkey_file", "missing.nk"),
        (RELAY, "PIN", "abc", "relay.instance_ca", "breeze admin instance-ca"),
        (RELAY, "[\"eu\", \"us\"]", "[\"us\"]", "relay.regions", "eu"),
        (RELAY, "id = \"eu-1\"", "id = \"eu.1\"", "relay.id", "letters"),
        (RELAY, "id = \"eu-1\"", "id = 7", "relay.id", "string"),
        (RELAY, "data = \"data\"", "data = \"data\"\nlnaes = 4", "relay", "lnaes"),
        (COLLECTOR, "\"127.0.0.1:9042\"", "\"cql.example.com:9042\"", "state.ca_file", "TLS"),
        (COLLECTOR, "{ eu = 3, us = 3 }", "{ us = 3 }", "state.replication", "eu"),
        (COLLECTOR, "http://127.0.0.1:8123", "http://example.com:8123", "metrics.url", "https://"),
        (COLLECTOR, "http://127.0.0.1:8123", "http://u:p@127.0.0.1:8123", "metrics.url", "password_file"),
        (COLLECTOR, "id = \"eu-a\"", "id = \"eu-a\"\nlease_ms = 5", "collector.lease_ms", "1000"),
        (COLLECTOR, "[collector]", "[retention]\nraw_days = 0\n[collector]", "retention.raw_days", "1 day"),
        (COLLECTOR, "domain = \"eu\"", "domain = \"eu\"\nca_file = \"relay.nk\"", "bus.ca_file", "no certificate"),
        (COLLECTOR, "[bus]", "[http]\nlisten = \"0.0.0.0:9464\"\n[bus]", "http.listen", "allow_remote"),
        (COLLECTOR, "127.0.0.1:4222", "localhost.example.com:4222", "bus.servers", "in the clear"),
        (
            CONTROL,
            "domain = \"global\"\nca_file = \"ca.pem\"",
            "domain = \"global\"",
            "bus.ca_file",
            "tls://hub.example.com",
        ),
        (CONTROL, "\nca_file = \"ca.pem\"\n[metrics", "\n[metrics", "state.ca_file", "without TLS"),
        (
            CONTROL,
            "id = \"cp-1\"",
            "id = \"cp-1\"\nlisten = \"0.0.0.0:80\"\ntls = \"none\"",
            "control_plane",
            "loopback",
        ),
        (CONTROL, "https://clickhouse.us", "http://clickhouse.us", "metrics.regions.us.url", "in the clear"),
        (CONTROL, "password_file = \"cql.password\"", "password_file = \"empty\"", "state.password_file", "is empty"),
        (CONTROL, "username = \"breeze\"", "", "state.username", "together"),
        (CONTROL, "id = \"cp-1\"", "id = \"cp-1\"\nregions = [\"eu\", \"asia\"]", "metrics.regions", "asia"),
        (CONTROL, "id = \"cp-1\"", "id = \"cp-1\"\ndefault_region = \"asia\"", "control_plane", "asia"),
    ] {
        let error = wrong(text, from, to);
        assert!(error.contains(key) && error.contains(words), "{to}: {error}");
    }
    let error = load(&folder, "region = \"eu\"").expect_err("no role").to_string();
    assert!(error.contains("[relay]"), "{error}");
    let both = format!("{COLLECTOR}\n[relay]\nid = \"x\"");
    assert!(load(&folder, &both).expect_err("two roles").to_string().contains("collector and relay"));
}

#[test]
fn all_problems_are_told_at_once_and_open_secrets_are_one() {
    let folder = folder();
    let open = folder.path().join("relay.nk");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("set");
    let text = RELAY.replace("PIN", "abc").replace("id = \"eu-1\"", "id = \"\"");
    let error = load(&folder, &text).expect_err("three things").to_string();
    for words in ["chmod 600", "relay.instance_ca", "relay.id"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(error.lines().count(), 3, "{error}");
}
