//! What an inventory document makes of the section that is held.
//!
//! A delta applies to exactly the section whose hash it names, and the result must have the hash that
//! the document announces; anything else changes nothing, and the agent is told what is held, so that
//! it sends the section whole. Texts are cut after the hash was checked: the hash that is kept is the
//! device's own.

use super::bounds;
use breeze_proto::{
    inventory::{SoftwareList, hardware_hash, network_hash},
    limits::MAX_SOFTWARE_ENTRIES,
    v1::{self, InventorySection, StoredSection, inventory_document::Content},
};
use bytes::Bytes;

/// What became of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The section to store.
    Changed(Box<StoredSection>),
    /// It is held already, or something newer is: confirm what is held.
    Held,
    /// It builds on something that is not held.
    OtherBase,
    /// It contradicts itself or exceeds a limit.
    Refused(&'static str),
}

/// Applies a document that was received at `received_us` to what is held of its section.
#[must_use]
pub fn apply(held: Option<&StoredSection>, document: v1::InventoryDocument, received_us: u64) -> Applied {
    let section = document.section();
    if document.hash.len() != 32 {
        return Applied::Refused("hash is not 32 bytes");
    }
    if let Some(held) = held {
        let is_older = held.incarnation == document.incarnation && document.revision <= held.revision;
        if held.hash == document.hash || is_older {
            return Applied::Held;
        }
    }
    let is_whole = document.base_hash.is_empty();
    if !is_whole && held.is_none_or(|held| held.hash != document.base_hash) {
        return Applied::OtherBase;
    }
    let mut stored = StoredSection {
        section: document.section,
        hash: document.hash.clone(),
        incarnation: document.incarnation,
        revision: document.revision,
        wall_us: document.wall_us,
        received_us,
        device_signature: if document.device_signature.len() <= 128 { document.device_signature } else { Bytes::new() },
        ..StoredSection::default()
    };
    match (section, document.content) {
        (InventorySection::Hardware, Some(Content::Hardware(hardware))) => {
            if hardware_hash(&hardware).as_slice() != document.hash.as_ref() {
                return Applied::Refused("hash does not match the hardware");
            }
            stored.hardware = Some(bounds::hardware(hardware));
        }
        (InventorySection::Network, Some(Content::Network(network))) => {
            if network_hash(&network).as_slice() != document.hash.as_ref() {
                return Applied::Refused("hash does not match the network");
            }
            stored.network = Some(bounds::network(network));
        }
        (InventorySection::Software, Some(Content::Software(delta))) => {
            let base = held.filter(|_| !is_whole).map_or_else(Vec::new, |held| held.software.clone());
            let mut list = SoftwareList::new(base);
            list.apply(delta);
            if list.len() > MAX_SOFTWARE_ENTRIES {
                return Applied::Refused("too many software entries");
            }
            if list.hash().as_slice() != document.hash.as_ref() {
                // Also where an earlier text had to be cut: the whole section then settles it.
                return if is_whole {
                    Applied::Refused("hash does not match the software")
                } else {
                    Applied::OtherBase
                };
            }
            stored.software = list.iter().cloned().map(bounds::software).collect();
        }
        _ => return Applied::Refused("content is not of its section"),
    }
    Applied::Changed(Box::new(stored))
}

/// Carries the section's summary into the facts. Whether they changed.
pub fn summarize(facts: &mut v1::DeviceFacts, stored: &StoredSection) -> bool {
    let before = facts.clone();
    if let Some(hardware) = &stored.hardware {
        facts.cpu_model.clone_from(&hardware.cpu_model);
        facts.cpu_threads = hardware.cpu_threads;
        facts.ram_total_mib = hardware.ram_total_mib;
        facts.disk_total_gib = hardware.disk_total_gib;
        facts.serial_number.clone_from(&hardware.serial_number);
        facts.manufacturer.clone_from(&hardware.manufacturer);
        facts.model.clone_from(&hardware.model);
        facts.virtualization.clone_from(&hardware.virtualization);
    }
    if let Some(network) = &stored.network {
        let primary = network.addresses.iter().find(|address| address.is_primary);
        facts.primary_ip = primary.map(|address| address.ip_address.clone()).unwrap_or_default();
        facts.primary_mac = primary.map(|address| address.mac_address.clone()).unwrap_or_default();
    }
    if stored.section() == InventorySection::Software {
        facts.software_count = stored.software.len() as u32;
    }
    facts.inventory.retain(|hash| hash.section != stored.section);
    facts.inventory.push(v1::InventoryHash { section: stored.section, hash: stored.hash.clone() });
    facts.inventory.sort_by_key(|hash| hash.section);
    *facts != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::{InventoryDocument, Software, SoftwareKey};

    fn software(name: &str, version: &str) -> Software {
        let key = SoftwareKey { source: "dpkg".into(), name: name.into(), architecture: "amd64".into() };
        Software { key: Some(key), version: version.into(), ..Software::default() }
    }

    fn document(revision: u64, base: &SoftwareList, new: &SoftwareList, whole: bool) -> InventoryDocument {
        let delta = if whole { new.delta_from(&SoftwareList::default()) } else { new.delta_from(base) };
        InventoryDocument {
            section: InventorySection::Software.into(),
            incarnation: 7,
            revision,
            base_hash: if whole { Bytes::new() } else { Bytes::copy_from_slice(&base.hash()) },
            hash: Bytes::copy_from_slice(&new.hash()),
            content: Some(Content::Software(delta)),
            ..InventoryDocument::default()
        }
    }

    fn changed(applied: Applied) -> StoredSection {
        let Applied::Changed(stored) = applied else { panic!("{applied:?}") };
        *stored
    }

    #[test]
    fn deltas_apply_to_their_base_only_and_in_order() {
        let empty = SoftwareList::default();
        let one = SoftwareList::new([software("a", "1"), software("b", "1")]);
        let two = SoftwareList::new([software("a", "2")]);
        let held = changed(apply(None, document(1, &empty, &one, true), 9));
        assert_eq!((held.software.len(), held.received_us), (2, 9));
        assert_eq!(apply(None, document(2, &one, &two, false), 9), Applied::OtherBase);
        let held_two = changed(apply(Some(&held), document(2, &one, &two, false), 9));
        assert_eq!(held_two.software, [software("a", "2")]);
        assert_eq!(apply(Some(&held_two), document(2, &one, &two, false), 9), Applied::Held, "again");
        assert_eq!(apply(Some(&held_two), document(1, &empty, &one, true), 9), Applied::Held, "older");
        let mut facts = v1::DeviceFacts::default();
        assert!(summarize(&mut facts, &held_two) && !summarize(&mut facts, &held_two));
        assert_eq!((facts.software_count, facts.inventory.len()), (1, 1));
    }

    #[test]
    fn a_document_that_contradicts_itself_changes_nothing() {
        let list = SoftwareList::new([software("a", "1")]);
        let mut wrong = document(1, &SoftwareList::default(), &list, true);
        wrong.hash = Bytes::from_static(&[0; 32]);
        assert!(matches!(apply(None, wrong, 0), Applied::Refused(_)));
        let mut other = document(1, &SoftwareList::default(), &list, true);
        other.section = InventorySection::Hardware.into();
        assert!(matches!(apply(None, other, 0), Applied::Refused(_)));
        let mut short = document(1, &SoftwareList::default(), &list, true);
        short.hash = Bytes::new();
        assert!(matches!(apply(None, short, 0), Applied::Refused(_)));
    }

    #[test]
    fn a_text_that_had_to_be_cut_makes_the_next_delta_ask_for_the_whole() {
        let long = SoftwareList::new([software("a", &"9".repeat(1000))]);
        let held = changed(apply(None, document(1, &SoftwareList::default(), &long, true), 0));
        assert_eq!(held.software[0].version.len(), breeze_proto::limits::MAX_TEXT_BYTES);
        let more = SoftwareList::new([software("a", &"9".repeat(1000)), software("b", "1")]);
        assert_eq!(apply(Some(&held), document(2, &long, &more, false), 0), Applied::OtherBase);
        assert_eq!(changed(apply(Some(&held), document(3, &long, &more, true), 0)).software.len(), 2);
    }
}
