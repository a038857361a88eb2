//! What of one connection was stored, merged into ranges until it can be sent.

use breeze_proto::v1::{SeqRange, UploadAck, UploadResult};
use bytes::Bytes;

/// What one entry of a batch was for its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Nobody waits for it.
    Nothing,
    /// The session's first entry: everything of the device that came here before it is stored too.
    Connected,
    Heartbeat {
        incarnation: u64,
        lane: i32,
        seq: u64,
    },
    Upload {
        transfer_id: Bytes,
    },
}

/// Stored and not yet told. Bounded by what a connection may have unacknowledged.
#[derive(Debug, Default)]
pub struct Acks {
    ranges: Vec<SeqRange>,
    uploads: Vec<UploadAck>,
    connected: bool,
    entries: u32,
}

/// What [`Acks::take`] gives.
#[derive(Debug, Default)]
pub struct Taken {
    /// How many entries were stored.
    pub entries: u32,
    /// The session's first entry is among them.
    pub connected: bool,
    pub ranges: Vec<SeqRange>,
    pub uploads: Vec<UploadAck>,
}

impl Acks {
    /// Notes one stored entry.
    pub fn add(&mut self, stored: Stored) {
        self.entries += 1;
        match stored {
            Stored::Nothing => {}
            Stored::Connected => self.connected = true,
            Stored::Heartbeat { incarnation, lane, seq } => self.add_seq(incarnation, lane, seq),
            Stored::Upload { transfer_id } => {
                self.uploads.push(UploadAck { transfer_id, result: UploadResult::Stored.into() });
            }
        }
    }

    fn add_seq(&mut self, incarnation: u64, lane: i32, seq: u64) {
        // Entries come back in the order of sending: the newest range of its lane is the one to extend.
        let same = |range: &&mut SeqRange| range.incarnation == incarnation && range.lane == lane;
        if let Some(range) = self.ranges.iter_mut().rev().find(same)
            && range.last.checked_add(1) == Some(seq)
        {
            range.last = seq;
            return;
        }
        self.ranges.push(SeqRange { incarnation, lane, first: seq, last: seq });
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// What was stored since the last call.
    pub fn take(&mut self) -> Taken {
        let Self { ranges, uploads, connected, entries } = std::mem::take(self);
        Taken { entries, connected, ranges, uploads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_is_in_exactly_one_range(seqs in prop::collection::vec((0u64..2, 1i32..3, 1u64..50), 0..200)) {
            let mut acks = Acks::default();
            for (incarnation, lane, seq) in &seqs {
                acks.add(Stored::Heartbeat { incarnation: *incarnation, lane: *lane, seq: *seq });
            }
            let Taken { entries, ranges, .. } = acks.take();
            prop_assert_eq!(entries as usize, seqs.len());
            let mut told: Vec<_> = ranges
                .iter()
                .flat_map(|range| (range.first..=range.last).map(|seq| (range.incarnation, range.lane, seq)))
                .collect();
            let mut sent = seqs;
            told.sort_unstable();
            sent.sort_unstable();
            prop_assert_eq!(told, sent);
            prop_assert!(acks.is_empty());
        }
    }

    #[test]
    fn consecutive_sequences_of_interleaved_lanes_merge() {
        let mut acks = Acks::default();
        for seq in 1..=3 {
            for lane in [1, 2] {
                acks.add(Stored::Heartbeat { incarnation: 7, lane, seq });
            }
        }
        let Taken { ranges, .. } = acks.take();
        assert_eq!(ranges.len(), 2);
        assert!(ranges.iter().all(|range| (range.first, range.last) == (1, 3)));
    }
}
