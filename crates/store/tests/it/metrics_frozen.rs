//! The frozen batch: comes back as it was, the same bytes each time, and refuses all else.

use crate::metrics_support::device;
use breeze_store::metrics::{FrozenBatch, HeartbeatRow, MAX_BATCH_ROWS, MAX_SCALAR, MetricsError, NamedRow};
use bytes::Bytes;
use proptest::prelude::*;

fn heartbeats() -> impl Strategy<Value = Vec<HeartbeatRow>> {
    let row = (0_u8..4, any::<u64>(), prop::array::uniform12(prop_oneof![0_u64..1000, any::<u64>()]))
        .prop_map(|(number, at_ms, scalars)| HeartbeatRow { device: device(number), at_ms, scalars });
    prop::collection::vec(row, 0..30)
}

fn named() -> impl Strategy<Value = Vec<NamedRow>> {
    let row = (0_u8..4, any::<u64>(), "[a-z.]{0,6}", any::<f64>()).prop_map(|(number, at_ms, name, value)| NamedRow {
        device: device(number),
        at_ms,
        name,
        value,
    });
    prop::collection::vec(row, 0..30)
}

proptest! {
    #[test]
    fn batches_come_back_and_torn_or_flipped_ones_are_refused(heartbeats in heartbeats(), named in named(), cut in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let frozen = FrozenBatch::encode(&heartbeats, &named);
        prop_assert_eq!(&frozen, &FrozenBatch::encode(&heartbeats, &named));
        let decoded = frozen.decode().expect("decode");
        let cut_to_most = |row: &HeartbeatRow| HeartbeatRow { scalars: std::array::from_fn(|i| row.scalars[i].min(MAX_SCALAR[i])), ..*row };
        prop_assert_eq!(&decoded.heartbeats, &heartbeats.iter().map(cut_to_most).collect::<Vec<_>>());
        let back: Vec<NamedRow> = decoded.named.iter().map(|row| NamedRow {
            device: row.device, at_ms: row.at_ms, name: decoded.names[row.name as usize].to_string(), value: row.value,
        }).collect();
        let storable: Vec<NamedRow> = named.into_iter().filter(|row| !row.name.is_empty() && row.value.is_finite()).collect();
        prop_assert_eq!(back, storable);

        let bytes = frozen.as_bytes();
        let at = cut.index(bytes.len());
        let torn = FrozenBatch::from_bytes(bytes.slice(..at)).decode();
        prop_assert!(matches!(torn, Err(MetricsError::Corrupt(_))));
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << bit;
        prop_assert!(matches!(FrozenBatch::from_bytes(Bytes::from(flipped)).decode(), Err(MetricsError::Corrupt(_))));
    }

    /// With a right checksum, so that what lies behind it is reached.
    #[test]
    fn hostile_bytes_never_panic(version in 0_u8..3, body in prop::collection::vec(prop_oneof![Just(0_u8), Just(1_u8), Just(0xff_u8), any::<u8>()], 0..200)) {
        let mut bytes = b"BZMB".to_vec();
        bytes.push(version);
        bytes.extend(body);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        let _result = FrozenBatch::from_bytes(Bytes::from(bytes)).decode();
    }
}

#[test]
fn counts_are_checked_before_anything_is_allocated() {
    // Base time 0, and 2^60 heartbeats in no bytes.
    let mut bytes = b"BZMB\x01\x00\x80\x80\x80\x80\x80\x80\x80\x80\x10".to_vec();
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    assert!(matches!(FrozenBatch::from_bytes(Bytes::from(bytes)).decode(), Err(MetricsError::Corrupt(_))));

    let row = HeartbeatRow { device: device(1), at_ms: 1, scalars: [0; 12] };
    let too_many = FrozenBatch::encode(&vec![row; MAX_BATCH_ROWS + 1], &[]);
    assert!(matches!(too_many.decode(), Err(MetricsError::Corrupt(_))));
}
