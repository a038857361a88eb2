//! What the history is told of an inventory section that changed.

use super::events::{Cause, PendingEvent};
use breeze_proto::{
    id::DeviceId,
    v1::{InventorySection, Software, StoredSection},
};
use breeze_store::history::EventKind;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The event of a section that `before` has become `after`; `None` before: it was never reported.
#[must_use]
pub fn changed(cause: Cause, device: DeviceId, before: Option<&StoredSection>, after: &StoredSection) -> PendingEvent {
    let (name, label) = match after.section() {
        InventorySection::Hardware => ("hardware", "Hardware"),
        InventorySection::Network => ("network", "Network"),
        InventorySection::Software => ("software", "Software"),
        InventorySection::Unspecified => ("unknown", "Inventory"),
    };
    let mut details = json!({ "section": name, "hash": hex(&after.hash), "first": before.is_none() });
    let summary = match before {
        None => format!("{label} reported for the first time"),
        Some(before) if after.section() == InventorySection::Software => {
            let Difference { added, removed, updated } = difference(&before.software, &after.software);
            for (key, count) in [("added", added), ("removed", removed), ("updated", updated)] {
                details[key] = Value::from(count);
            }
            format!("Software changed: {added} added, {removed} removed, {updated} updated")
        }
        Some(_) => format!("{label} changed"),
    };
    PendingEvent { cause, device, kind: EventKind::InventoryChanged, summary, details: details.to_string() }
}

#[derive(Debug, PartialEq, Eq)]
struct Difference {
    added: usize,
    removed: usize,
    updated: usize,
}

/// Entries are told apart by their keys.
fn difference(before: &[Software], after: &[Software]) -> Difference {
    let name = |software: &Software| {
        let key = software.key.clone().unwrap_or_default();
        (key.source, key.name, key.architecture)
    };
    let mut gone: HashMap<_, _> = before.iter().map(|software| (name(software), software)).collect();
    let mut difference = Difference { added: 0, removed: 0, updated: 0 };
    for software in after {
        match gone.remove(&name(software)) {
            None => difference.added += 1,
            Some(held) if held != software => difference.updated += 1,
            Some(_) => {}
        }
    }
    difference.removed = gone.len();
    difference
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::SoftwareKey;

    fn software(name: &str, version: &str) -> Software {
        let key = SoftwareKey { source: "dpkg".into(), name: name.into(), architecture: "amd64".into() };
        Software { key: Some(key), version: version.into(), ..Software::default() }
    }

    #[test]
    fn software_is_compared_by_its_keys() {
        let before = [software("a", "1"), software("b", "1"), software("c", "1")];
        let after = [software("a", "1"), software("b", "2"), software("d", "1")];
        assert_eq!(difference(&before, &after), Difference { added: 1, removed: 1, updated: 1 });
        assert_eq!(difference(&after, &after), Difference { added: 0, removed: 0, updated: 0 });
    }
}
