//! The filter language: what parses prints to something that parses to the same.
#![no_main]

use breeze_control_plane::filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(Some(expression)) = filter::parse(text) {
        let printed = expression.to_string();
        // What it means can be written longer than it was: `not in` for instance.
        if printed.len() <= filter::MAX_FILTER_BYTES {
            assert_eq!(filter::parse(&printed), Ok(Some(expression)), "{printed}");
        }
    }
});
