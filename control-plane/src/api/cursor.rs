//! Paging. A cursor is opaque and signed: its MAC covers the position *and* what it belongs to
//! (scope, filter, sort), so it can neither be made up nor carried to another list.

use crate::error::ApiError;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;
use utoipa::{IntoParams, ToSchema};

/// Rows of a page unless `limit` says otherwise.
pub const DEFAULT_LIMIT: usize = 50;
/// Most rows of a page.
pub const MAX_LIMIT: usize = 500;
/// Longest cursor that is looked at, in characters.
pub const MAX_CURSOR_CHARS: usize = 4096;
const MAC_BYTES: usize = 16;

/// `limit` and `cursor` of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Rows at most.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// Rows to answer.
    ///
    /// # Errors
    /// A validation problem outside 1 to [`MAX_LIMIT`].
    pub fn limit(&self) -> Result<usize, ApiError> {
        checked_limit(self.limit)
    }
}

/// As [`PageQuery::limit`], for lists with a query type of their own.
///
/// # Errors
/// A validation problem outside 1 to [`MAX_LIMIT`].
pub fn checked_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit {
        None => Ok(DEFAULT_LIMIT),
        Some(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        Some(_) => Err(ApiError::field("limit", format!("must be between 1 and {MAX_LIMIT}"))),
    }
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Where the next page begins; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub has_more: bool,
    /// Rows of the whole list.
    pub total: u64,
}

/// Makes and checks cursors.
#[derive(Clone)]
pub struct Cursors {
    key: [u8; 32],
}

impl Cursors {
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// A cursor to `position` of the list that `context` names (route, scope, filter, sort).
    #[must_use]
    pub fn seal<T: Serialize>(&self, context: &[&str], position: &T) -> String {
        let mut bytes = serde_json::to_vec(position).unwrap_or_default();
        let mac = self.mac(context, &bytes);
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position in `cursor`.
    ///
    /// # Errors
    /// A validation problem if it was not made here for this list.
    pub fn open<T: DeserializeOwned>(&self, context: &[&str], cursor: &str) -> Result<T, ApiError> {
        let wrong =
            || ApiError::field("cursor", "is not a cursor of this list with this filter and sort; begin without one");
        if cursor.len() > MAX_CURSOR_CHARS {
            return Err(wrong());
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
        let split = bytes.len().checked_sub(MAC_BYTES).ok_or_else(wrong)?;
        let (position, mac) = bytes.split_at(split);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(self.mac(context, position).as_slice(), mac)) {
            return Err(wrong());
        }
        serde_json::from_slice(position).map_err(|_| wrong())
    }

    fn mac(&self, context: &[&str], position: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        for part in context {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.update(&(context.len() as u64).to_be_bytes());
        mac.update(position);
        let full = mac.finalize().into_bytes();
        let mut cut = [0; MAC_BYTES];
        cut.copy_from_slice(&full[..MAC_BYTES]);
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cursor_opens_only_where_it_was_made() {
        let cursors = Cursors::new([7; 32]);
        let cursor = cursors.seal(&["devices", "org", "-hostname"], &("web-1", 7));
        let back: (String, u32) = cursors.open(&["devices", "org", "-hostname"], &cursor).expect("own cursor");
        assert_eq!(back, ("web-1".to_owned(), 7));
        for context in [&["devices", "org", "hostname"][..], &["devices", "org"], &["devices", "org-", "hostname"]] {
            assert!(cursors.open::<(String, u32)>(context, &cursor).is_err(), "{context:?}");
        }
        assert!(Cursors::new([8; 32]).open::<(String, u32)>(&["devices", "org", "-hostname"], &cursor).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_a_cursor(text in ".{0,200}") {
            prop_assert!(Cursors::new([7; 32]).open::<serde_json::Value>(&[], &text).is_err());
        }
    }
}
