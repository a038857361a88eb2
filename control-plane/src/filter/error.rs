//! What is wrong with a filter, where, and how to go on.

use std::fmt;

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// Where, in characters from 1; one above the length when the text ended too early.
    pub position: usize,
    /// What is there, as typed; `None` at the end of the text.
    pub found: Option<String>,
    /// What would have been right there.
    pub expected: String,
    /// Something that was probably meant.
    pub suggestion: Option<String>,
}

/// Characters of the offending text that a message repeats.
const MAX_FOUND_CHARS: usize = 40;

impl FilterError {
    /// An error at byte `at` of `text`, where `found` stands.
    pub(super) fn new(text: &str, at: usize, found: Option<&str>, expected: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        Self {
            position: before.chars().count() + 1,
            found: found.map(cut),
            expected: expected.into(),
            suggestion: None,
        }
    }

    pub(super) fn suggest(mut self, suggestion: Option<&str>) -> Self {
        self.suggestion = suggestion.map(str::to_owned);
        self
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: expected {}", self.position, self.expected)?;
        match &self.found {
            Some(found) => write!(f, ", found {found:?}")?,
            None => write!(f, ", but the filter ends here")?,
        }
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean {suggestion:?}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FilterError {}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(MAX_FOUND_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// The candidate nearest to `word`: one that begins with it, or at most two edits away.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let word: String = word.chars().take(32).collect::<String>().to_lowercase();
    if word.len() >= 2
        && let Some(found) = candidates.clone().find(|candidate| candidate.starts_with(&word))
    {
        return Some(found);
    }
    candidates
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word() {
        let names = ["hostname", "ram_gb", "os_type", "status"];
        let find = |word| nearest(word, names.iter().copied());
        assert_eq!(find("hostnmae"), Some("hostname"));
        assert_eq!(find("ram"), Some("ram_gb"));
        assert_eq!(find("Statsu"), Some("status"));
        assert_eq!(find("zzzzzz"), None);
    }
}
