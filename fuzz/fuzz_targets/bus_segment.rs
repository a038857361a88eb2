//! A segment file of the embedded bus as a crash may have left it.
#![no_main]

use breeze_bus::embedded::scan_segment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((records, end)) = scan_segment(bytes) {
        assert!(end <= bytes.len() as u64 && records <= end);
        // What was read is whole without what follows.
        assert_eq!(scan_segment(&bytes[..end as usize]), Some((records, end)));
    }
});
