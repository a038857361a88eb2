//! What a collector decodes of a lane's entry.
#![no_main]

use breeze_proto::v1::LaneBatch;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(batch) = LaneBatch::decode(bytes) {
        // What decodes encodes to something that decodes to the same.
        assert_eq!(LaneBatch::decode(batch.encode_to_vec().as_slice()).ok().as_ref(), Some(&batch));
    }
});
