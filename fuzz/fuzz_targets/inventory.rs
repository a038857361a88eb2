//! An inventory document: decoding, applying its delta, hashing.
#![no_main]

use breeze_proto::{
    inventory::SoftwareList,
    v1::{InventoryDocument, inventory_document::Content},
};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let Ok(document) = InventoryDocument::decode(bytes) else { return };
    if let Some(Content::Software(delta)) = document.content {
        let mut list = SoftwareList::new(delta.upserts.iter().take(3).cloned());
        list.apply(delta.clone());
        let again = list.delta_from(&SoftwareList::default());
        let mut copy = SoftwareList::default();
        copy.apply(again);
        assert_eq!(copy.hash(), list.hash());
    }
});
