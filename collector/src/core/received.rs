//! Which heartbeats of a device were received: intervals of sequence numbers for each incarnation and
//! lane. Bounded, with a defined answer at the bound:
//!
//! - beyond [`MAX_GAPS`] gaps in a sequence the oldest is closed: what is missing there counts as
//!   received from then on, and would be dropped as a duplicate;
//! - beyond [`MAX_SEQUENCES`] sequences the one that grew longest ago is forgotten: what is sent again
//!   of it would be stored again, in the rows that it already has.
//!
//! Both are counted. A well-behaved agent has two sequences without a gap.

use breeze_proto::v1;
use bytes::Bytes;
use smallvec::SmallVec;

/// Sequences (incarnation and lane) that are remembered of one device.
pub const MAX_SEQUENCES: usize = 8;
/// Intervals of one sequence; one less is the number of gaps.
pub const MAX_INTERVALS: usize = 16;
/// Gaps of one sequence.
pub const MAX_GAPS: usize = MAX_INTERVALS - 1;

/// Numbers received without a gap, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub first: u64,
    pub last: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sequence {
    incarnation: u64,
    lane: i32,
    /// Position of the entry with which it last grew.
    touched: u64,
    /// Ascending, neither overlapping nor adjacent.
    intervals: SmallVec<[Interval; 1]>,
}

/// What became of one heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inserted {
    pub is_new: bool,
    /// A gap was closed to stay within the bound.
    pub closed_gap: bool,
    /// A sequence was forgotten to stay within the bound.
    pub forgot_sequence: bool,
}

/// Of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    sequences: SmallVec<[Sequence; 2]>,
}

impl Received {
    /// Notes a heartbeat that was read at `position` of the stream.
    pub fn insert(&mut self, incarnation: u64, lane: i32, seq: u64, position: u64) -> Inserted {
        let mut inserted = Inserted::default();
        let at = self.sequences.iter().position(|held| held.incarnation == incarnation && held.lane == lane);
        let sequence = match at {
            Some(at) => &mut self.sequences[at],
            None => {
                inserted.forgot_sequence = self.make_room();
                self.sequences.push(Sequence { incarnation, lane, touched: 0, intervals: SmallVec::new() });
                let at = self.sequences.len() - 1;
                &mut self.sequences[at]
            }
        };
        inserted.is_new = sequence.insert(seq);
        if inserted.is_new {
            sequence.touched = position;
            inserted.closed_gap = sequence.close_gaps_beyond(MAX_INTERVALS);
        }
        inserted
    }

    /// Whether the number is among the received ones.
    #[must_use]
    pub fn contains(&self, incarnation: u64, lane: i32, seq: u64) -> bool {
        let held = self.sequences.iter().find(|held| held.incarnation == incarnation && held.lane == lane);
        held.is_some_and(|held| held.intervals.iter().any(|interval| (interval.first..=interval.last).contains(&seq)))
    }

    /// Positions begin again: whatever grows from now on grew later.
    pub fn forget_positions(&mut self) {
        for sequence in &mut self.sequences {
            sequence.touched = 0;
        }
    }

    fn make_room(&mut self) -> bool {
        if self.sequences.len() < MAX_SEQUENCES {
            return false;
        }
        let oldest = self.sequences.iter().enumerate().min_by_key(|(_, sequence)| sequence.touched);
        let oldest = oldest.map(|(at, _)| at);
        oldest.is_some_and(|at| {
            self.sequences.remove(at);
            true
        })
    }

    /// Keeps only the two sequences that grew last, without gaps: for a shard whose record would
    /// otherwise be too large to be stored.
    pub fn collapse(&mut self) {
        self.sequences.sort_by_key(|sequence| std::cmp::Reverse(sequence.touched));
        self.sequences.truncate(2);
        for sequence in &mut self.sequences {
            sequence.close_gaps_beyond(1);
        }
    }

    /// What the agent is told in [`v1::Held`].
    #[must_use]
    pub fn held(&self) -> Vec<v1::HeldLane> {
        let held = |sequence: &Sequence| v1::HeldLane {
            incarnation: sequence.incarnation,
            lane: sequence.lane,
            next_seq: sequence.intervals.last().map_or(1, |interval| interval.last.saturating_add(1)),
        };
        self.sequences.iter().map(held).collect()
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self, device_id: Bytes) -> v1::ReceivedDevice {
        let lanes = self.sequences.iter().map(|sequence| v1::ReceivedLane {
            incarnation: sequence.incarnation,
            lane: sequence.lane,
            touched: sequence.touched,
            bounds: sequence.intervals.iter().flat_map(|interval| [interval.first, interval.last]).collect(),
        });
        v1::ReceivedDevice { device_id, lanes: lanes.collect() }
    }

    /// From what [`Received::encode`] gave.
    #[must_use]
    pub fn decode(stored: &v1::ReceivedDevice) -> Self {
        let sequence = |lane: &v1::ReceivedLane| Sequence {
            incarnation: lane.incarnation,
            lane: lane.lane,
            touched: lane.touched,
            intervals: lane
                .bounds
                .chunks_exact(2)
                .map(|bounds| Interval { first: bounds[0], last: bounds[1] })
                .collect(),
        };
        Self { sequences: stored.lanes.iter().map(sequence).collect() }
    }
}

impl Sequence {
    /// Whether it was new.
    fn insert(&mut self, seq: u64) -> bool {
        // The common case: one more than the newest.
        if let Some(newest) = self.intervals.last_mut()
            && seq > newest.last
        {
            if seq == newest.last + 1 {
                newest.last = seq;
            } else {
                self.intervals.push(Interval { first: seq, last: seq });
            }
            return true;
        }
        // The first interval that does not end before the number.
        let at = self.intervals.partition_point(|interval| interval.last < seq);
        if self.intervals.get(at).is_some_and(|interval| interval.first <= seq) {
            return false;
        }
        let joins_left = at > 0 && self.intervals[at - 1].last + 1 == seq;
        let joins_right = self.intervals.get(at).is_some_and(|interval| seq + 1 == interval.first);
        match (joins_left, joins_right) {
            (true, true) => {
                self.intervals[at - 1].last = self.intervals[at].last;
                self.intervals.remove(at);
            }
            (true, false) => self.intervals[at - 1].last = seq,
            (false, true) => self.intervals[at].first = seq,
            (false, false) => self.intervals.insert(at, Interval { first: seq, last: seq }),
        }
        true
    }

    fn close_gaps_beyond(&mut self, most: usize) -> bool {
        let mut closed = false;
        while self.intervals.len() > most {
            let oldest = self.intervals.remove(0);
            self.intervals[0].first = oldest.first;
            closed = true;
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashMap};

    proptest! {
        #[test]
        fn within_the_bounds_it_is_a_set(inserts in prop::collection::vec((0u64..3, 1i32..3, 1u64..25), 0..200)) {
            let mut received = Received::default();
            let mut model: HashMap<(u64, i32), BTreeSet<u64>> = HashMap::new();
            for (position, (incarnation, lane, seq)) in (1..).zip(inserts) {
                let is_new = model.entry((incarnation, lane)).or_default().insert(seq);
                let inserted = received.insert(incarnation, lane, seq, position);
                prop_assert_eq!(inserted, Inserted { is_new, ..Inserted::default() });
                let stored = received.encode(Bytes::new());
                prop_assert_eq!(&Received::decode(&stored), &received);
                prop_assert!(received.contains(incarnation, lane, seq));
                prop_assert!(!received.contains(incarnation, lane, seq + 100));
            }
            for held in received.held() {
                let newest = model[&(held.incarnation, held.lane)].last().copied();
                prop_assert_eq!(Some(held.next_seq - 1), newest);
            }
        }

        #[test]
        fn hostile_numbers_never_panic_and_stay_within_the_bounds(inserts in prop::collection::vec((0u64..40, 0i32..9, any::<u64>()), 0..300)) {
            let mut received = Received::default();
            for (position, (incarnation, lane, seq)) in (1..).zip(inserts) {
                let first = received.insert(incarnation, lane, seq, position);
                prop_assert!(first.is_new || first.forgot_sequence || first == Inserted::default());
                prop_assert!(!received.insert(incarnation, lane, seq, position).is_new, "the same again is never new");
                prop_assert!(received.sequences.len() <= MAX_SEQUENCES);
                prop_assert!(received.sequences.iter().all(|sequence| sequence.intervals.len() <= MAX_INTERVALS));
            }
            received.collapse();
            prop_assert!(received.encode(Bytes::new()).lanes.iter().all(|lane| lane.bounds.len() == 2));
        }
    }

    #[test]
    fn at_the_bounds_the_oldest_gap_is_closed_and_the_oldest_sequence_forgotten() {
        let mut received = Received::default();
        for number in 0..MAX_INTERVALS as u64 {
            assert!(!received.insert(1, 1, 2 + 2 * number, 1).closed_gap);
        }
        assert!(received.insert(1, 1, 1000, 1).closed_gap);
        assert!(!received.insert(1, 1, 3, 1).is_new, "the closed gap counts as received");
        assert!(received.insert(1, 1, 5, 1).is_new, "younger gaps are open");

        for incarnation in 2..=MAX_SEQUENCES as u64 {
            assert!(!received.insert(incarnation, 1, 1, incarnation).forgot_sequence);
        }
        assert!(received.insert(99, 1, 1, 99).forgot_sequence);
        assert!(received.insert(1, 1, 1000, 100).is_new, "forgotten, so it is new");
    }
}
