//! A frozen batch of metrics as it lies on disk.
#![no_main]

use breeze_store::metrics::{FrozenBatch, NamedRow};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The checksum lets nothing damaged through to the rest; so also with one that fits.
    if let Some(body) = bytes.len().checked_sub(4).map(|end| &bytes[..end]) {
        check(&[body, &crc32c::crc32c(body).to_le_bytes()].concat());
    }
});

fn check(bytes: &[u8]) {
    let Ok(batch) = FrozenBatch::from_bytes(Bytes::copy_from_slice(bytes)).decode() else { return };
    let row = |named: &breeze_store::metrics::DecodedNamed| NamedRow {
        device: named.device,
        at_ms: named.at_ms,
        name: batch.names[named.name as usize].to_string(),
        value: named.value,
    };
    let named: Vec<NamedRow> = batch.named.iter().map(row).collect();
    let again = FrozenBatch::encode(&batch.heartbeats, &named).decode().expect("what was encoded decodes");
    assert_eq!(again.heartbeats, batch.heartbeats);
    assert_eq!(again.named.len(), named.len());
}
