//! Complete configuration files of all nats-servers of a system, with a seed for each user: one hub with
//! the control plane, and servers in each region that join it as leaf nodes.

use super::{
    HEADER_ROOM_BYTES,
    permissions::{self, Permissions},
    place::GLOBAL_DOMAIN,
};
use crate::MAX_PAYLOAD_BYTES;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

/// Account of all users; the system account stays the servers' own.
const ACCOUNT: &str = "BREEZE";

/// All servers and users of a system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Servers beside the control plane: one, or three.
    pub hub: Vec<TopologyNode>,
    pub regions: Vec<TopologyRegion>,
    /// Needed unless every host is a loopback address.
    #[serde(default)]
    pub tls: Option<TopologyTls>,
    /// Seeds and passwords that exist already, by file name as [`server_config`] gives them; what is
    /// missing is made. Without them every call makes all anew.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
}

/// A region's servers and who connects to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyRegion {
    pub name: String,
    /// One, or three.
    pub servers: Vec<TopologyNode>,
    /// Ids.
    pub relays: Vec<String>,
    /// Ids.
    pub collectors: Vec<String>,
}

/// One nats-server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyNode {
    /// Unique; also the name of its file.
    pub name: String,
    /// Name or address under which others reach it; it listens on all addresses, on a loopback address
    /// only there.
    pub host: String,
    #[serde(default = "client_port")]
    pub client_port: u16,
    /// Used where there are three servers.
    #[serde(default = "cluster_port")]
    pub cluster_port: u16,
    /// Used at the hub.
    #[serde(default = "leaf_port")]
    pub leaf_port: u16,
    /// Folder of JetStream.
    pub store_dir: String,
}

fn client_port() -> u16 {
    4222
}

fn cluster_port() -> u16 {
    6222
}

fn leaf_port() -> u16 {
    7422
}

/// Paths on the servers' machines. The certificate serves clients, routes and leaf nodes; between
/// servers of a cluster it is also shown as the client's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyTls {
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
}

/// A topology that makes no system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TopologyError(String);

/// Files of a system: `<node>.conf` for every server, `<user>.nk` with the seed of every user, and
/// `<cluster>.routes` with the password of each cluster. All hold secrets or stand for them: mode 0600.
///
/// # Errors
/// [`TopologyError`] if it cannot be one; it names what is wrong.
pub fn server_config(topology: &Topology) -> Result<Vec<(String, String)>, TopologyError> {
    check(topology)?;
    let mut secrets = Secrets { known: topology.secrets.clone(), files: BTreeMap::new() };
    let regions: Vec<String> = topology.regions.iter().map(|region| region.name.clone()).collect();
    let mut files = Vec::new();

    let mut hub_users = vec![
        secrets.user(permissions::CONTROL_PLANE_USER, permissions::control_plane(), "STANDARD")?,
        secrets.user(permissions::MIGRATE_USER, permissions::migrate(), "STANDARD")?,
    ];
    for region in &topology.regions {
        let allowed = permissions::leaf(region, &topology.regions);
        hub_users.push(secrets.user(&permissions::leaf_user(&region.name), allowed, "LEAFNODE")?);
    }
    for node in &topology.hub {
        let mut text = head(node, GLOBAL_DOMAIN, topology.tls.as_ref());
        cluster(&mut text, GLOBAL_DOMAIN, node, &topology.hub, topology.tls.as_ref(), &mut secrets);
        let _ = write!(text, "\nleafnodes {{\n  listen: {}\n", quoted(&listen(node, node.leaf_port)));
        tls_block(&mut text, "  ", topology.tls.as_ref(), false);
        text.push_str("}\n");
        accounts(&mut text, &hub_users);
        files.push((format!("{}.conf", node.name), text));
    }

    for region in &topology.regions {
        let mut users = vec![secrets.user(permissions::MIGRATE_USER, permissions::migrate(), "STANDARD")?];
        for id in &region.relays {
            let allowed = permissions::relay(id, &region.name, &regions);
            users.push(secrets.user(&permissions::relay_user(id), allowed, "STANDARD")?);
        }
        for id in &region.collectors {
            let allowed = permissions::collector(id, &region.name, &regions);
            users.push(secrets.user(&permissions::collector_user(id), allowed, "STANDARD")?);
        }
        let leaf_seed = secrets.seed(&permissions::leaf_user(&region.name))?;
        for node in &region.servers {
            let mut text = head(node, &region.name, topology.tls.as_ref());
            cluster(&mut text, &region.name, node, &region.servers, topology.tls.as_ref(), &mut secrets);
            remotes(&mut text, topology, &leaf_seed);
            accounts(&mut text, &users);
            files.push((format!("{}.conf", node.name), text));
        }
    }
    files.extend(secrets.files);
    Ok(files)
}

fn check(topology: &Topology) -> Result<(), TopologyError> {
    let error = |text: String| Err(TopologyError(text));
    let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let groups = std::iter::once((GLOBAL_DOMAIN, &topology.hub))
        .chain(topology.regions.iter().map(|region| (region.name.as_str(), &region.servers)));
    let mut names = std::collections::BTreeSet::new();
    for (group, nodes) in groups {
        if !token(group) || !names.insert(format!("region {group}")) {
            return error(format!("region {group:?}: letters, digits and '-', each once, and not {GLOBAL_DOMAIN:?}"));
        }
        if nodes.len() != 1 && nodes.len() != 3 {
            return error(format!("{group}: {} servers; it must be 1 or 3", nodes.len()));
        }
        for node in nodes {
            if !token(&node.name) || !names.insert(format!("node {}", node.name)) {
                return error(format!("server {:?}: letters, digits and '-', each once", node.name));
            }
            if topology.tls.is_none() && !is_loopback(&node.host) {
                return error(format!("{}: without tls only loopback addresses, found {:?}", node.name, node.host));
            }
        }
    }
    for region in &topology.regions {
        let relays = region.relays.iter().map(|id| permissions::relay_user(id));
        let collectors = region.collectors.iter().map(|id| permissions::collector_user(id));
        for user in relays.chain(collectors) {
            if !token(&user) || !names.insert(format!("user {user}")) {
                return error(format!("{}: user {user:?}: letters, digits and '-', each once", region.name));
            }
        }
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn listen(node: &TopologyNode, port: u16) -> String {
    if is_loopback(&node.host) { format!("{}:{port}", node.host) } else { format!("0.0.0.0:{port}") }
}

/// A string of the configuration's language, which is JSON's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn head(node: &TopologyNode, domain: &str, tls: Option<&TopologyTls>) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "# Written by `breeze bus-config`: user keys and permissions are in step with the roles.\n\
         server_name: {}\nlisten: {}\n\
         # Largest payload of the bus, with room for headers.\nmax_payload: {}\n\
         # A client that has stopped leaves its queue groups after three of these.\nping_interval: \"5s\"\nping_max: 2\n",
        quoted(&node.name),
        quoted(&listen(node, node.client_port)),
        MAX_PAYLOAD_BYTES + 4 * HEADER_ROOM_BYTES,
    );
    tls_block(&mut text, "", tls, false);
    let _ = write!(
        text,
        "\njetstream {{\n  store_dir: {}\n  domain: {}\n  \
         # What is acknowledged is on disk. The default (2m) acknowledges before.\n  sync_interval: always\n  \
         # Orders with fields that they do not have are refused. Not so, a confirmation of an append would order\n  \
         # to purge, if its writer named that subject for it. Before 2.12 this is off by default.\n  \
         strict: true\n}}\n",
        quoted(&node.store_dir),
        quoted(domain),
    );
    text
}

fn tls_block(text: &mut String, indent: &str, tls: Option<&TopologyTls>, verify: bool) {
    let Some(TopologyTls { ca_file, cert_file, key_file }) = tls else { return };
    let _ = write!(
        text,
        "{indent}tls {{\n{indent}  ca_file: {}\n{indent}  cert_file: {}\n{indent}  key_file: {}\n{indent}  timeout: 5\n",
        quoted(ca_file),
        quoted(cert_file),
        quoted(key_file),
    );
    if verify {
        let _ = writeln!(text, "{indent}  verify: true");
    }
    let _ = writeln!(text, "{indent}}}");
}

fn cluster(
    text: &mut String,
    name: &str,
    node: &TopologyNode,
    nodes: &[TopologyNode],
    tls: Option<&TopologyTls>,
    secrets: &mut Secrets,
) {
    if nodes.len() < 2 {
        return;
    }
    let password = secrets.password(&format!("{name}.routes"));
    let routes: Vec<String> = nodes
        .iter()
        .filter(|other| other.name != node.name)
        .map(|other| quoted(&format!("nats://routes:{password}@{}:{}", other.host, other.cluster_port)))
        .collect();
    let _ = write!(
        text,
        "\ncluster {{\n  name: {}\n  listen: {}\n  authorization {{ user: routes, password: {}, timeout: 5 }}\n  routes: [{}]\n",
        quoted(name),
        quoted(&listen(node, node.cluster_port)),
        quoted(&password),
        routes.join(", "),
    );
    tls_block(text, "  ", tls, true);
    text.push_str("}\n");
}

fn remotes(text: &mut String, topology: &Topology, seed: &str) {
    let scheme = if topology.tls.is_some() { "tls" } else { "nats" };
    let urls: Vec<String> =
        topology.hub.iter().map(|node| quoted(&format!("{scheme}://{}:{}", node.host, node.leaf_port))).collect();
    let _ = write!(
        text,
        "\nleafnodes {{\n  reconnect: 2\n  remotes: [{{\n    urls: [{}]\n    account: {ACCOUNT}\n    nkey: {}\n",
        urls.join(", "),
        quoted(seed),
    );
    if let Some(tls) = &topology.tls {
        let _ = writeln!(text, "    tls {{ ca_file: {}, timeout: 5 }}", quoted(&tls.ca_file));
    }
    text.push_str("  }]\n}\n");
}

fn accounts(text: &mut String, users: &[User]) {
    let _ = write!(text, "\naccounts {{\n  {ACCOUNT} {{\n    jetstream: enabled\n    users: [\n");
    for User { name, public_key, permissions, connection } in users {
        let _ = write!(
            text,
            "      # {name}\n      {{\n        nkey: {public_key}\n        allowed_connection_types: [{connection}]\n        \
             permissions {{\n          publish: {{ allow: {} }}\n          subscribe: {{ allow: {} }}\n",
            list(&permissions.publish),
            list(&permissions.subscribe),
        );
        if permissions.answers {
            text.push_str("          allow_responses: { max: 1, expires: \"1m\" }\n");
        }
        text.push_str("        }\n      }\n");
    }
    text.push_str("    ]\n  }\n}\n");
}

fn list(subjects: &[String]) -> String {
    let subjects: Vec<String> = subjects.iter().map(|subject| quoted(subject)).collect();
    format!("[{}]", subjects.join(", "))
}

struct User {
    name: String,
    public_key: String,
    permissions: Permissions,
    /// Which kind of connection may be it.
    connection: &'static str,
}

struct Secrets {
    known: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl Secrets {
    fn seed(&mut self, user: &str) -> Result<String, TopologyError> {
        let file = format!("{user}.nk");
        if let Some(seed) = self.files.get(&file) {
            return Ok(seed.clone());
        }
        let made = || nkeys::KeyPair::new_user().seed().map_err(|error| TopologyError(format!("{file}: {error}")));
        let seed = self.known.get(&file).map_or_else(made, |seed| Ok(seed.trim().to_owned()))?;
        self.files.insert(file, seed.clone());
        Ok(seed)
    }

    fn user(&mut self, name: &str, permissions: Permissions, connection: &'static str) -> Result<User, TopologyError> {
        let seed = self.seed(name)?;
        let pair = nkeys::KeyPair::from_seed(&seed).map_err(|error| TopologyError(format!("{name}.nk: {error}")))?;
        Ok(User { name: name.to_owned(), public_key: pair.public_key(), permissions, connection })
    }

    fn password(&mut self, file: &str) -> String {
        let made = || rand::random::<[u8; 24]>().iter().map(|byte| format!("{byte:02x}")).collect();
        let password: String = self.known.get(file).map_or_else(made, |known| known.trim().to_owned());
        let password = self.files.entry(file.to_owned()).or_insert(password);
        password.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, host: &str) -> TopologyNode {
        TopologyNode {
            name: name.to_owned(),
            host: host.to_owned(),
            client_port: 4222,
            cluster_port: 6222,
            leaf_port: 7422,
            store_dir: format!("/var/lib/nats/{name}"),
        }
    }

    fn topology() -> Topology {
        let region = TopologyRegion {
            name: "eu".to_owned(),
            servers: ["eu-1", "eu-2", "eu-3"].map(|name| node(name, &format!("{name}.example"))).into(),
            relays: vec!["eu-1".to_owned()],
            collectors: vec!["eu-a".to_owned()],
        };
        let tls = TopologyTls {
            ca_file: "/etc/nats/ca.pem".to_owned(),
            cert_file: "/etc/nats/cert.pem".to_owned(),
            key_file: "/etc/nats/key.pem".to_owned(),
        };
        Topology {
            hub: vec![node("hub-1", "hub.example")],
            regions: vec![region],
            tls: Some(tls),
            ..Topology::default()
        }
    }

    #[test]
    fn what_exists_is_kept_and_what_is_missing_made() {
        let first = server_config(&topology()).expect("files");
        let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names.join(" "),
            "hub-1.conf eu-1.conf eu-2.conf eu-3.conf collector-eu-a.nk control-plane.nk eu.routes leaf-eu.nk \
             migrate.nk relay-eu-1.nk"
        );
        let secrets = first.iter().filter(|(name, _)| !name.ends_with(".conf")).cloned().collect();
        let again = server_config(&Topology { secrets, ..topology() }).expect("files");
        assert_eq!(first, again);
        let other = server_config(&topology()).expect("files");
        assert_ne!(first, other, "seeds are random");
    }

    #[test]
    fn stopped_clients_are_found_and_leaves_speak_for_themselves() {
        let files: BTreeMap<_, _> = server_config(&topology()).expect("files").into_iter().collect();
        for (name, text) in files.iter().filter(|(name, _)| name.ends_with(".conf")) {
            assert!(text.contains("\n  strict: true\n"), "{name}: {text}");
            assert!(text.contains("\nping_interval: \"5s\"\nping_max: 2\n"), "{name}: {text}");
        }
        let hub = &files["hub-1.conf"];
        assert!(hub.contains("\"_INBOX.relay-eu-1.>\"") && hub.contains("\"ca.relay.eu-1\""), "{hub}");
        assert!(!hub.contains("\"_INBOX.>\""), "{hub}");
    }

    #[test]
    fn what_cannot_be_is_named() {
        let mut plain = topology();
        plain.tls = None;
        assert!(server_config(&plain).expect_err("plain text").to_string().contains("loopback"));
        let mut two = topology();
        two.regions[0].servers.pop();
        assert!(server_config(&two).expect_err("no majority").to_string().contains("1 or 3"));
        let mut same = topology();
        same.hub[0].name = "eu-1".to_owned();
        assert!(server_config(&same).expect_err("twice").to_string().contains("each once"));
    }
}
