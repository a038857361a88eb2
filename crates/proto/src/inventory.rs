//! Canonical form, hash and delta of inventory sections: both ends must agree to the byte on what
//! is held, or a delta would be applied to something else.

use crate::v1::{Hardware, Network, Software, SoftwareDelta, SoftwareKey};
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// SHA-256 of a section's canonical bytes.
pub type SectionHash = [u8; 32];

/// Hash of the hardware section: its protobuf encoding (fields in order of number).
#[must_use]
pub fn hardware_hash(hardware: &Hardware) -> SectionHash {
    Sha256::digest(hardware.encode_to_vec()).into()
}

/// Hash of the network section, as [`hardware_hash`].
#[must_use]
pub fn network_hash(network: &Network) -> SectionHash {
    Sha256::digest(network.encode_to_vec()).into()
}

/// The identity of a software entry, ordered: source, name, architecture.
pub type SoftwareId = (String, String, String);

/// The software section in canonical order, ready to be compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SoftwareList {
    entries: BTreeMap<SoftwareId, Software>,
}

impl SoftwareList {
    /// Later entries with the same identity win; entries without a key are skipped.
    #[must_use]
    pub fn new(software: impl IntoIterator<Item = Software>) -> Self {
        let mut list = Self::default();
        for entry in software {
            list.upsert(entry);
        }
        list
    }

    fn upsert(&mut self, entry: Software) {
        if let Some(key) = &entry.key {
            self.entries.insert(id(key), entry);
        }
    }

    /// Entries in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = &Software> {
        self.entries.values()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Hash over every entry's length-delimited encoding, in canonical order.
    #[must_use]
    pub fn hash(&self) -> SectionHash {
        let mut hash = Sha256::new();
        for entry in self.iter() {
            hash.update(entry.encode_length_delimited_to_vec());
        }
        hash.finalize().into()
    }

    /// What turns `base` into `self`.
    #[must_use]
    pub fn delta_from(&self, base: &Self) -> SoftwareDelta {
        SoftwareDelta {
            upserts: self
                .entries
                .iter()
                .filter(|(id, entry)| base.entries.get(*id) != Some(entry))
                .map(|(_, entry)| entry.clone())
                .collect(),
            removals: base
                .entries
                .iter()
                .filter(|(id, _)| !self.entries.contains_key(*id))
                .filter_map(|(_, entry)| entry.key.clone())
                .collect(),
        }
    }

    /// Applies a delta in place.
    pub fn apply(&mut self, delta: SoftwareDelta) {
        for key in &delta.removals {
            self.entries.remove(&id(key));
        }
        for entry in delta.upserts {
            self.upsert(entry);
        }
    }
}

fn id(key: &SoftwareKey) -> SoftwareId {
    (key.source.clone(), key.name.clone(), key.architecture.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn software(name: u8, version: u8) -> Software {
        Software {
            key: Some(SoftwareKey { source: "dpkg".into(), name: format!("p{name}"), architecture: "amd64".into() }),
            version: version.to_string(),
            ..Software::default()
        }
    }

    proptest! {
        #[test]
        fn applying_the_delta_gives_the_list_and_its_hash(old in prop::collection::vec((0u8..12, 0u8..3), 0..20), new in prop::collection::vec((0u8..12, 0u8..3), 0..20)) {
            let old = SoftwareList::new(old.into_iter().map(|(n, v)| software(n, v)));
            let new = SoftwareList::new(new.into_iter().map(|(n, v)| software(n, v)));
            let mut applied = old.clone();
            applied.apply(new.delta_from(&old));
            prop_assert_eq!(applied.hash(), new.hash());
            prop_assert_eq!(applied, new);
        }
    }
}
