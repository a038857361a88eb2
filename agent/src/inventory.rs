//! Inventory documents: what the device has, whole or as a delta against what the server holds.
//!
//! Runs in a blocking thread and keeps nothing in memory. The software list that was sent last lies in
//! a file, to make the next delta from; if it is not what the server holds, the list is sent whole.

use crate::{
    os::{OperatingSystem as _, System},
    state_dir::StateDir,
};
use anyhow::Context as _;
use breeze_agent_core::InventoryRequest;
use breeze_proto::{
    inventory::{SectionHash, SoftwareList, hardware_hash, network_hash},
    limits::{MAX_SOFTWARE_ENTRIES, MAX_UPLOAD_BYTES},
    v1::{InventoryDocument, InventorySection, SoftwareDelta, inventory_document::Content},
};
use bytes::Bytes;
use prost::Message as _;
use std::path::Path;

const BASE_FILE: &str = "inventory-software.pb";
/// Encoded content of one document; the rest is room for its envelope and signature.
const MAX_CONTENT_BYTES: usize = MAX_UPLOAD_BYTES - 4 * 1024;

/// A document before it is signed.
#[derive(Debug)]
pub struct Built {
    pub document: InventoryDocument,
    /// Of the section after the document was applied.
    pub hash: SectionHash,
    /// Of the whole section: differs from `hash` when the rest follows later.
    pub local: SectionHash,
}

/// Hashes of what the device has now.
#[must_use]
pub fn scan() -> Vec<(InventorySection, SectionHash)> {
    let system = System::default();
    vec![
        (InventorySection::Hardware, hardware_hash(&system.hardware())),
        (InventorySection::Network, network_hash(&system.network())),
        (InventorySection::Software, software(&system).hash()),
    ]
}

/// Builds what was asked for.
///
/// # Errors
/// If the section is unknown or the base file cannot be written.
pub fn build(request: &InventoryRequest, state: &Path, wall_us: u64) -> anyhow::Result<Built> {
    let system = System::default();
    let mut document = InventoryDocument {
        section: request.section.into(),
        incarnation: request.incarnation,
        revision: request.revision,
        wall_us,
        ..InventoryDocument::default()
    };
    let (content, hash, local) = match request.section {
        InventorySection::Hardware => {
            let hardware = system.hardware();
            let hash = hardware_hash(&hardware);
            (Content::Hardware(hardware), hash, hash)
        }
        InventorySection::Network => {
            let network = system.network();
            let hash = network_hash(&network);
            (Content::Network(network), hash, hash)
        }
        InventorySection::Software => {
            let dir = StateDir::unlocked(state);
            let list = software(&system);
            let base = load_base(&dir).filter(|base| request.base == Some(base.hash()));
            if base.is_some() {
                document.base_hash = request.base.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash));
            }
            let (delta, after) = fitting_delta(&list, &base.unwrap_or_default());
            save_base(&dir, &after)?;
            (Content::Software(delta), after.hash(), list.hash())
        }
        InventorySection::Unspecified => anyhow::bail!("no section"),
    };
    document.content = Some(content);
    document.hash = Bytes::copy_from_slice(&hash);
    Ok(Built { document, hash, local })
}

fn software(system: &System) -> SoftwareList {
    let mut software = system.software();
    software.truncate(MAX_SOFTWARE_ENTRIES);
    SoftwareList::new(software)
}

/// What leads from `base` towards `list` and fits into one document, and the list after it.
fn fitting_delta(list: &SoftwareList, base: &SoftwareList) -> (SoftwareDelta, SoftwareList) {
    let mut delta = list.delta_from(base);
    let mut bytes = 0;
    let fits = |len: usize, bytes: &mut usize| {
        *bytes += len + 8;
        *bytes <= MAX_CONTENT_BYTES
    };
    let removals = delta.removals.iter().take_while(|key| fits(key.encoded_len(), &mut bytes)).count();
    let upserts = delta.upserts.iter().take_while(|entry| fits(entry.encoded_len(), &mut bytes)).count();
    delta.removals.truncate(removals);
    delta.upserts.truncate(upserts);
    let mut after = base.clone();
    after.apply(delta.clone());
    (delta, after)
}

fn load_base(dir: &StateDir) -> Option<SoftwareList> {
    let bytes = dir.read(BASE_FILE).ok()??;
    SoftwareDelta::decode(bytes.as_slice()).ok().map(|delta| SoftwareList::new(delta.upserts))
}

fn save_base(dir: &StateDir, list: &SoftwareList) -> anyhow::Result<()> {
    let whole = SoftwareDelta { upserts: list.iter().cloned().collect(), removals: Vec::new() };
    dir.write_lightly(BASE_FILE, &whole.encode_to_vec()).context("inventory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::{Software, SoftwareKey};

    #[test]
    fn a_list_too_long_for_one_document_arrives_in_steps() {
        let software = (0..12_000).map(|n| Software {
            key: Some(SoftwareKey {
                source: "dpkg".into(),
                name: format!("package-{n}"),
                architecture: "amd64".into(),
            }),
            version: "1.2.3-4".into(),
            publisher: "Somebody with a rather long name <somebody@example.com>".into(),
            ..Software::default()
        });
        let list = SoftwareList::new(software);
        let mut held = SoftwareList::default();
        let mut documents = 0;
        while held.hash() != list.hash() {
            let (delta, after) = fitting_delta(&list, &held);
            assert!(delta.encoded_len() <= MAX_CONTENT_BYTES);
            held.apply(delta);
            assert_eq!(held, after);
            documents += 1;
            assert!(documents < 10, "progress");
        }
        assert!(documents > 1);
    }
}
