//! What is different between two versions of an inventory section, entry by entry.

use breeze_proto::v1::{Disk, Hardware, Network, NetworkAddress, Software, StoredSection};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Changes that one answer tells; the rest is counted.
pub const MAX_CHANGES: usize = 1_000;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Added,
    Removed,
    Changed,
}

/// One entry that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Change {
    pub kind: ChangeKind,
    /// "software", "disk", "address", "dns_server", or "hardware" and "network" for the section's own fields.
    pub what: &'static str,
    /// Of the entry: a package, a mount, an address. Empty for the section's own fields.
    pub name: String,
    /// Where names are not enough: a package's source and architecture, an address's interface.
    pub qualifier: String,
    /// The fields that differ; of an added or removed entry, those that say something.
    pub fields: Vec<FieldChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldChange {
    pub field: &'static str,
    /// Null where there was no entry.
    #[schema(required)]
    pub before: Option<String>,
    /// Null where there is no entry any more.
    #[schema(required)]
    pub after: Option<String>,
}

/// An entry's name and fields.
type Entry = ((&'static str, String, String), Vec<(&'static str, String)>);

/// All that differs, in the order of kinds of entries and their names.
#[must_use]
pub fn difference(before: &StoredSection, after: &StoredSection) -> Vec<Change> {
    let mut before: BTreeMap<_, _> = entries(before).into_iter().collect();
    let mut changes = Vec::new();
    for (key, fields) in entries(after) {
        match before.remove(&key) {
            None => changes.push(whole(ChangeKind::Added, key, fields)),
            Some(old) if old != fields => {
                let pairs = old.into_iter().zip(fields).filter(|(old, new)| old != new);
                let field =
                    |((field, before), (_, after))| FieldChange { field, before: Some(before), after: Some(after) };
                changes.push(change(ChangeKind::Changed, key, pairs.map(field).collect()));
            }
            Some(_) => {}
        }
    }
    changes.extend(before.into_iter().map(|(key, fields)| whole(ChangeKind::Removed, key, fields)));
    changes.sort_by(|a, b| (a.what, &a.name, &a.qualifier).cmp(&(b.what, &b.name, &b.qualifier)));
    changes
}

fn change(
    kind: ChangeKind,
    (what, name, qualifier): (&'static str, String, String),
    fields: Vec<FieldChange>,
) -> Change {
    Change { kind, what, name, qualifier, fields }
}

fn whole(kind: ChangeKind, key: (&'static str, String, String), fields: Vec<(&'static str, String)>) -> Change {
    let said = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let field = |(field, value)| match kind {
        ChangeKind::Removed => FieldChange { field, before: Some(value), after: None },
        ChangeKind::Added | ChangeKind::Changed => FieldChange { field, before: None, after: Some(value) },
    };
    change(kind, key, said.map(field).collect())
}

fn entries(section: &StoredSection) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Some(hardware) = &section.hardware {
        entries.push(machine(hardware));
        entries.extend(hardware.disks.iter().map(disk));
    }
    if let Some(network) = &section.network {
        entries.push(routing(network));
        entries.extend(network.addresses.iter().map(address));
        let server = |server: &String| (("dns_server", server.clone(), String::new()), vec![]);
        entries.extend(network.dns_servers.iter().map(server));
    }
    entries.extend(section.software.iter().map(software));
    entries
}

fn machine(hardware: &Hardware) -> Entry {
    let text = |text: &String| text.clone();
    let fields = vec![
        ("cpu_model", text(&hardware.cpu_model)),
        ("cpu_cores", hardware.cpu_cores.to_string()),
        ("cpu_threads", hardware.cpu_threads.to_string()),
        ("ram_total_mb", hardware.ram_total_mib.to_string()),
        ("disk_total_gb", hardware.disk_total_gib.to_string()),
        ("gpu_model", text(&hardware.gpu_model)),
        ("serial_number", text(&hardware.serial_number)),
        ("manufacturer", text(&hardware.manufacturer)),
        ("model", text(&hardware.model)),
        ("bios_version", text(&hardware.bios_version)),
        ("virtualization", text(&hardware.virtualization)),
    ];
    (("hardware", String::new(), String::new()), fields)
}

fn disk(disk: &Disk) -> Entry {
    let fields = vec![
        ("device", disk.device.clone()),
        ("file_system", disk.file_system.clone()),
        ("total_bytes", disk.total_bytes.to_string()),
        ("removable", disk.removable.to_string()),
    ];
    (("disk", disk.mount.clone(), String::new()), fields)
}

fn routing(network: &Network) -> Entry {
    (("network", String::new(), String::new()), vec![("default_gateway", network.default_gateway.clone())])
}

fn address(address: &NetworkAddress) -> Entry {
    let fields = vec![
        ("mac_address", address.mac_address.clone()),
        ("prefix_len", address.prefix_len.to_string()),
        ("is_primary", address.is_primary.to_string()),
    ];
    (("address", address.ip_address.clone(), address.interface_name.clone()), fields)
}

fn software(software: &Software) -> Entry {
    let key = software.key.clone().unwrap_or_default();
    let fields = vec![
        ("version", software.version.clone()),
        ("publisher", software.publisher.clone()),
        ("install_date", software.install_date.clone()),
        ("install_location", software.install_location.clone()),
    ];
    let qualifier = [key.source, key.architecture].into_iter().filter(|part| !part.is_empty());
    (("software", key.name, qualifier.collect::<Vec<_>>().join(" ")), fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::SoftwareKey;

    fn package(name: &str, version: &str) -> Software {
        let key = SoftwareKey { source: "dpkg".into(), name: name.into(), architecture: "amd64".into() };
        Software { key: Some(key), version: version.into(), ..Software::default() }
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let fields = |change: &Change| -> Vec<String> {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
            let one = |field: &FieldChange| format!("{} {}>{}", field.field, value(&field.before), value(&field.after));
            change.fields.iter().map(one).collect()
        };
        changes.iter().map(|c| format!("{:?} {} {}: {}", c.kind, c.what, c.name, fields(c).join(", "))).collect()
    }

    #[test]
    fn software_that_came_went_and_changed() {
        let before = StoredSection {
            software: vec![package("bash", "5"), package("curl", "8.1"), package("zlib", "1")],
            ..StoredSection::default()
        };
        let after = StoredSection {
            software: vec![package("curl", "8.2"), package("nginx", "1.2"), package("zlib", "1")],
            ..StoredSection::default()
        };
        let changes = difference(&before, &after);
        assert_eq!(
            told(&changes),
            [
                "Removed software bash: version 5>-",
                "Changed software curl: version 8.1>8.2",
                "Added software nginx: version ->1.2"
            ]
        );
        assert_eq!(changes[0].qualifier, "dpkg amd64");
        assert_eq!(difference(&after, &after), []);
    }

    #[test]
    fn hardware_and_network_are_compared_field_by_field() {
        let hardware = |ram, mounts: &[&str]| StoredSection {
            hardware: Some(Hardware {
                ram_total_mib: ram,
                disks: mounts.iter().map(|mount| Disk { mount: (*mount).into(), ..Disk::default() }).collect(),
                ..Hardware::default()
            }),
            ..StoredSection::default()
        };
        let changes = difference(&hardware(1024, &["/", "/data"]), &hardware(2048, &["/"]));
        assert_eq!(
            told(&changes),
            ["Removed disk /data: total_bytes 0>-, removable false>-", "Changed hardware : ram_total_mb 1024>2048"]
        );
        let network = |ip: &str, gateway: &str| StoredSection {
            network: Some(Network {
                addresses: vec![NetworkAddress { ip_address: ip.into(), ..NetworkAddress::default() }],
                dns_servers: vec!["9.9.9.9".into()],
                default_gateway: gateway.into(),
            }),
            ..StoredSection::default()
        };
        let changes = difference(&network("10.0.0.1", "10.0.0.254"), &network("10.0.0.2", ""));
        let kinds: Vec<_> = changes.iter().map(|change| (change.kind, change.what)).collect();
        assert_eq!(
            kinds,
            [(ChangeKind::Removed, "address"), (ChangeKind::Added, "address"), (ChangeKind::Changed, "network")]
        );
    }
}
