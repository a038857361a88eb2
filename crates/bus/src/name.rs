//! Which subjects, patterns and stream names are allowed: only what every backend can carry, and
//! what is safe as a file name.

use crate::{BusError, MAX_NAME_BYTES};

/// A subject or stream name: tokens of `[A-Za-z0-9_-]` joined by dots.
pub(crate) fn check(name: &str) -> Result<(), BusError> {
    let token =
        |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if name.len() <= MAX_NAME_BYTES && name.split('.').all(token) {
        Ok(())
    } else {
        let shown: String = name.chars().take(64).collect();
        Err(BusError::Invalid(format!(
            "{shown:?} is not a subject: letters, digits, '_' and '-' joined by dots, at most {MAX_NAME_BYTES} bytes"
        )))
    }
}

/// What a subscription listens to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Pattern {
    Exact(String),
    /// Everything that begins with this and a dot, without the dot.
    Below(String),
}

impl Pattern {
    pub(crate) fn parse(pattern: &str) -> Result<Self, BusError> {
        if let Some(prefix) = pattern.strip_suffix(".>") {
            check(prefix)?;
            Ok(Self::Below(prefix.to_owned()))
        } else {
            check(pattern)?;
            Ok(Self::Exact(pattern.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_subjects_and_as_file_names() {
        for good in ["a", "lane.eu-1.0", "live.018f3f3e-7a1c-7000-8000-000000000001"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a/b", "..", "a b", "a.>", "*", "ä", &"a".repeat(MAX_NAME_BYTES + 1)]
        {
            assert!(matches!(check(bad), Err(BusError::Invalid(_))), "{bad}");
        }
        assert_eq!(Pattern::parse("a.b.>"), Ok(Pattern::Below("a.b".into())));
        assert!(Pattern::parse("a.>.b").is_err() && Pattern::parse(">").is_err());
    }
}
