//! A cursor as somebody sent it: nothing opens that was not sealed.
#![no_main]

use breeze_control_plane::api::Cursors;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let cursors = Cursors::new([7; 32]);
    let context = ["devices", "org", "-hostname"];
    if let Ok(position) = cursors.open::<Value>(&context, text) {
        // Only what was sealed here opens, and it is what would be sealed again.
        assert_eq!(cursors.seal(&context, &position), text);
    }
    let sealed = cursors.seal(&context, &(text, 7));
    let opened = cursors.open::<(String, u64)>(&context, &sealed);
    assert!(opened.is_ok_and(|opened| opened == (text.to_owned(), 7)) || sealed.len() > 4096);
    assert!(cursors.open::<Value>(&["devices"], &sealed).is_err());
});
