//! Values as SQL: ids, times and text, none of which can end a literal early.

use breeze_proto::id::DeviceId;
use std::fmt::Write as _;

/// A time in milliseconds.
pub(crate) fn time(at_ms: u64) -> String {
    format!("fromUnixTimestamp64Milli({at_ms}, 'UTC')")
}

pub(crate) fn device_literal(device: DeviceId) -> String {
    fixed_literal(&device.to_bytes())
}

/// Bytes as a `FixedString` of their length.
pub(crate) fn fixed_literal(bytes: &[u8]) -> String {
    format!("toFixedString({}, {})", unhex(bytes), bytes.len())
}

/// Text whatever is in it.
pub(crate) fn text(text: &str) -> String {
    unhex(text.as_bytes())
}

fn unhex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(10 + 2 * bytes.len());
    hex.push_str("unhex('");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _written = write!(hex, "{byte:02x}");
    }
    hex.push_str("')");
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_only_hex() {
        assert_eq!(text("a'"), "unhex('6127')");
    }
}
