//! An enrolment key as somebody typed it.
#![no_main]

use breeze_proto::enroll::EnrollmentKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<EnrollmentKey>() {
        assert_eq!(key.reveal().parse(), Ok(key));
    }
});
