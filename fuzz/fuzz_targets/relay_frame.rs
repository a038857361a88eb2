//! What an agent decodes of any bytes of a relay.
#![no_main]

use breeze_proto::{frame, limits::MAX_FRAME_BYTES, v1::RelayFrame};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(_)) = frame::take::<RelayFrame>(&mut buffer, MAX_FRAME_BYTES) {}
});
