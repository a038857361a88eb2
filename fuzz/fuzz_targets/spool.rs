//! What an agent finds in its spool after any damage: it opens, takes a heartbeat, and finds the same
//! when it is opened again.
#![no_main]

use breeze_agent_core::{Entry, Limits, MemoryStorage, Spool, Storage as _};
use breeze_proto::v1::Heartbeat;
use libfuzzer_sys::fuzz_target;

/// Records: key (1 byte), length (2 bytes, big endian), value.
fn storage(mut bytes: &[u8]) -> MemoryStorage {
    let mut storage = MemoryStorage::default();
    while let Some((&[key, high, low], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        storage.put(key.into(), &rest[..length]).expect("memory takes it");
        bytes = &rest[length..];
    }
    storage
}

fuzz_target!(|bytes: &[u8]| {
    let mut spool = Spool::open(storage(bytes), Limits::default()).expect("damaged records are skipped");
    let before = spool.len();
    let entry = Entry { heartbeat: Some(Heartbeat { wall_us: 1, ..Heartbeat::default() }), ..Entry::default() };
    spool.append(&entry, true);
    spool.flush();
    assert!(spool.len() <= before + 1 && !spool.is_empty());
});
