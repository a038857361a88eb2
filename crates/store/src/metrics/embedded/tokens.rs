//! Which insert tokens are stored: ranges of positions per stream and day.
//!
//! Positions of a stream rise, so what was appended is a few ranges; at most [`MAX_RANGES`] of one
//! stream and day are kept apart. Beyond that the lowest becomes a floor: everything below it counts
//! as stored, which is right for an owner that repeats and never goes that far back with new rows.

use super::super::InsertToken;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Ranges kept apart of one stream and day.
pub(super) const MAX_RANGES: usize = 4_096;
/// Streams that an engine knows tokens of.
pub(super) const MAX_STREAMS: usize = 1_024;
/// Bytes of a stream's name.
pub(super) const MAX_STREAM_BYTES: usize = 256;

/// What is known of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    New,
    Stored,
    /// Some of its positions are stored and some are not: not a token that was given out.
    Overlaps,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tokens {
    streams: BTreeMap<String, BTreeMap<u32, Ranges>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ranges {
    /// Positions below this count as stored.
    floor: u64,
    /// First and last, inclusive; apart and rising.
    ranges: Vec<(u64, u64)>,
}

impl Tokens {
    pub(super) fn check(&self, token: &InsertToken) -> Known {
        let known = self.streams.get(&token.stream).and_then(|days| days.get(&token.day));
        known.map_or(Known::New, |ranges| ranges.check(token.first, token.last))
    }

    pub(super) fn insert(&mut self, token: &InsertToken) {
        let days = self.streams.entry(token.stream.clone()).or_default();
        days.entry(token.day).or_default().insert(token.first, token.last);
    }

    /// Whether a token of `stream` may be added within [`MAX_STREAMS`].
    pub(super) fn admits(&self, stream: &str) -> bool {
        self.streams.len() < MAX_STREAMS || self.streams.contains_key(stream)
    }

    /// Forgets the tokens of days that can no longer be appended to.
    pub(super) fn forget_before(&mut self, day: u32) {
        for days in self.streams.values_mut() {
            *days = days.split_off(&day);
        }
        self.streams.retain(|_, days| !days.is_empty());
    }
}

impl Ranges {
    fn check(&self, first: u64, last: u64) -> Known {
        if last < self.floor {
            return Known::Stored;
        }
        if first < self.floor {
            return Known::Overlaps;
        }
        let after = self.ranges.partition_point(|&(_, end)| end < first);
        match self.ranges.get(after) {
            Some(&(start, end)) if start <= first && last <= end => Known::Stored,
            Some(&(start, _)) if start <= last => Known::Overlaps,
            Some(_) | None => Known::New,
        }
    }

    fn insert(&mut self, first: u64, last: u64) {
        let from = self.ranges.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self.ranges.partition_point(|&(start, _)| start <= last.saturating_add(1));
        let merged = self.ranges[from..to].iter().fold((first, last), |(a, b), &(x, y)| (a.min(x), b.max(y)));
        self.ranges.splice(from..to, [merged]);
        if self.ranges.len() > MAX_RANGES {
            self.floor = self.ranges.remove(0).1.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn token(first: u64, last: u64) -> InsertToken {
        InsertToken { stream: "s".into(), first, last, day: 1 }
    }

    #[test]
    fn the_lowest_range_becomes_the_floor() {
        let mut tokens = Tokens::default();
        for i in 0..=MAX_RANGES as u64 {
            tokens.insert(&token(10 * i + 5, 10 * i + 6));
        }
        assert_eq!(tokens.check(&token(1, 2)), Known::Stored);
        assert_eq!(tokens.check(&token(7, 8)), Known::New);
        assert_eq!(tokens.check(&token(15, 16)), Known::Stored);
        assert_eq!(tokens.check(&token(14, 15)), Known::Overlaps);
        tokens.forget_before(2);
        assert_eq!(tokens, Tokens::default());
    }

    proptest! {
        #[test]
        fn ranges_are_as_a_set_of_positions(inserts in prop::collection::vec((0_u64..60, 0_u64..6), 0..30), probe in (0_u64..60, 0_u64..6)) {
            let mut tokens = Tokens::default();
            let mut model = BTreeSet::new();
            for (first, len) in inserts {
                let t = token(first, first + len);
                if tokens.check(&t) == Known::New {
                    tokens.insert(&t);
                    model.extend(first..=first + len);
                }
            }
            let probed: Vec<bool> = (probe.0..=probe.0 + probe.1).map(|p| model.contains(&p)).collect();
            let expected = if probed.iter().all(|&k| k) { Known::Stored } else if probed.iter().any(|&k| k) { Known::Overlaps } else { Known::New };
            prop_assert_eq!(tokens.check(&token(probe.0, probe.0 + probe.1)), expected);
        }
    }
}
