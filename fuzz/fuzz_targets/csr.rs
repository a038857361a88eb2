//! A certificate request of a device.
#![no_main]

use breeze_control_plane::pki::csr;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = csr::check(bytes) {
        let point = csr::point_of(&key.spki).expect("a P-256 key has a point");
        assert_eq!(point.first(), Some(&4), "an uncompressed one");
        assert_eq!(key.sha256_hex().len(), 64);
    }
});
