//! The revocation set: which devices may not come in, and the notice that each is handed.
//!
//! Versions are dense. An update that does not follow the held version is a gap, and the shell asks
//! for a snapshot; a set that is older than the held one is ignored, so nobody can bring back a device
//! by repeating what was once true. Signatures are checked before anything comes here.

use crate::limits::MAX_REVOCATIONS;
use breeze_proto::{
    id::DeviceId,
    v1::{RevocationSet, SignedDocument},
};
use bytes::Bytes;
use std::collections::HashMap;

/// What came of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Devices that were not revoked before.
    Added(Vec<DeviceId>),
    /// Not newer than what is held.
    Old,
    /// Does not follow what is held: ask for a snapshot.
    Gap,
    /// A page of a snapshot: ask for the next one after this device id.
    More(Vec<u8>),
    /// Not to be understood, or too large. Nothing was changed.
    Invalid,
}

/// The set as held.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Whether a snapshot ever came: version 0 may be an honest empty set.
    known: bool,
    version: u64,
    notices: HashMap<DeviceId, Option<SignedDocument>>,
    /// Pages of a snapshot that is not complete.
    partial: Option<Partial>,
}

/// Pages so far, of one version, and the device id that the next one begins behind.
#[derive(Debug)]
struct Partial {
    version: u64,
    next: Bytes,
    entries: Vec<SignedDocumentOf>,
}

type SignedDocumentOf = (DeviceId, Option<SignedDocument>);

impl Revocations {
    /// Version held; 0 before the first snapshot.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether there is a set at all. Without one nobody can be let in.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.notices.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.notices.is_empty()
    }

    /// `Some` if the device is revoked, with its notice if there is one.
    #[must_use]
    pub fn find(&self, device: DeviceId) -> Option<Option<&SignedDocument>> {
        self.notices.get(&device).map(Option::as_ref)
    }

    /// Applies a verified set: an update, or the first, next or only page of a snapshot.
    pub fn apply(&mut self, set: RevocationSet) -> Applied {
        let Some(added) = decode(&set) else { return Applied::Invalid };
        if set.base_version == 0 { self.apply_page(set, added) } else { self.apply_update(&set, added) }
    }

    fn apply_update(&mut self, set: &RevocationSet, added: Vec<SignedDocumentOf>) -> Applied {
        if set.version <= self.version && self.known {
            return Applied::Old;
        }
        // An update from before what is held to after it carries everything that is missing.
        if set.base_version > self.version || !self.known {
            return Applied::Gap;
        }
        if self.notices.len() + added.len() > MAX_REVOCATIONS {
            return Applied::Invalid;
        }
        for lifted in set.lifted.iter().filter_map(|id| DeviceId::from_slice(id)) {
            self.notices.remove(&lifted);
        }
        self.version = set.version;
        self.partial = None;
        let mut fresh = Vec::new();
        for (device, notice) in added {
            if self.notices.insert(device, notice).is_none() {
                fresh.push(device);
            }
        }
        Applied::Added(fresh)
    }

    fn apply_page(&mut self, set: RevocationSet, added: Vec<SignedDocumentOf>) -> Applied {
        if set.version < self.version {
            return Applied::Old;
        }
        let mut entries = match self.partial.take() {
            _ if set.after.is_empty() => Vec::new(),
            Some(partial) if partial.version == set.version && partial.next == set.after => partial.entries,
            // Another version's page, or one out of order: begin again.
            Some(_) | None => return Applied::Gap,
        };
        if entries.len() + added.len() > MAX_REVOCATIONS {
            return Applied::Invalid;
        }
        entries.extend(added);
        if !set.next.is_empty() {
            let next = set.next.to_vec();
            self.partial = Some(Partial { version: set.version, next: set.next, entries });
            return Applied::More(next);
        }
        let before = std::mem::replace(&mut self.notices, entries.into_iter().collect());
        self.version = set.version;
        self.known = true;
        Applied::Added(self.notices.keys().filter(|device| !before.contains_key(device)).copied().collect())
    }
}

fn decode(set: &RevocationSet) -> Option<Vec<SignedDocumentOf>> {
    set.added
        .iter()
        .map(|revocation| Some((DeviceId::from_slice(&revocation.device_id)?, revocation.notice.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::Revocation;
    use proptest::prelude::*;

    fn id(number: u8) -> DeviceId {
        DeviceId::from_slice(&[number; 16]).expect("16 bytes")
    }

    fn set(version: u64, base_version: u64, added: &[u8], lifted: &[u8]) -> RevocationSet {
        let bytes = |number: &u8| Bytes::copy_from_slice(&[*number; 16]);
        RevocationSet {
            version,
            base_version,
            added: added.iter().map(|number| Revocation { device_id: bytes(number), notice: None }).collect(),
            lifted: lifted.iter().map(bytes).collect(),
            next: Bytes::new(),
            after: Bytes::new(),
        }
    }

    #[test]
    fn updates_follow_each_other_and_a_gap_is_noticed() {
        let mut held = Revocations::default();
        assert_eq!(held.apply(set(2, 1, &[9], &[])), Applied::Gap, "nothing is known before a snapshot");
        assert_eq!(held.apply(set(3, 0, &[1], &[])), Applied::Added(vec![id(1)]));
        assert_eq!(held.apply(set(4, 3, &[2], &[1])), Applied::Added(vec![id(2)]));
        assert!(held.find(id(1)).is_none() && held.find(id(2)).is_some());
        assert_eq!(held.apply(set(4, 3, &[1], &[2])), Applied::Old, "a repetition changes nothing");
        assert_eq!(held.apply(set(6, 5, &[3], &[])), Applied::Gap);
        assert_eq!(held.apply(set(3, 0, &[], &[])), Applied::Old, "an older snapshot brings nobody back");
        assert_eq!(held.apply(set(6, 0, &[2, 3], &[])), Applied::Added(vec![id(3)]));
        assert_eq!(held.version(), 6);
    }

    #[test]
    fn a_snapshot_in_pages_takes_effect_when_it_is_whole() {
        let page = |version, number: u8, after: &'static [u8], next: &'static [u8]| RevocationSet {
            after: Bytes::from_static(after),
            next: Bytes::from_static(next),
            ..set(version, 0, &[number], &[])
        };
        let mut held = Revocations::default();
        assert_eq!(held.apply(page(5, 1, b"", b"a")), Applied::More(b"a".to_vec()));
        assert!(held.is_empty());
        assert_eq!(held.apply(page(6, 2, b"a", b"")), Applied::Gap, "the set changed between two pages");
        assert_eq!(held.apply(page(6, 2, b"a", b"")), Applied::Gap, "a later page alone is no snapshot");
        held.apply(page(6, 1, b"", b"a"));
        assert_eq!(held.apply(page(6, 2, b"b", b"")), Applied::Gap, "a page is missing");
        held.apply(page(6, 1, b"", b"a"));
        held.apply(page(6, 2, b"a", b""));
        assert_eq!((held.len(), held.version()), (2, 6));
    }

    proptest! {
        #[test]
        fn the_version_never_goes_back(sets in prop::collection::vec((0u64..6, 0u64..6, prop::collection::vec(0u8..5, 0..3)), 0..40)) {
            let mut held = Revocations::default();
            for (version, base, added) in sets {
                let before = held.version();
                held.apply(set(version, base, &added, &[]));
                prop_assert!(held.version() >= before);
            }
        }
    }
}
