//! When the rows of whole shards are written, and when the deltas that they cover may go.

use breeze_proto::shard::Shard;
use breeze_store::model::lane::DeltaId;
use std::collections::{BTreeSet, VecDeque};

/// Which shards' rows are behind the deltas. Each flush writes a few, round after round, so that a
/// delta lives for about [`Snapshots::ROUND`] flushes and no flush writes everything.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) dirty: BTreeSet<Shard>,
    /// Left to write in this round.
    round: VecDeque<Shard>,
    per_flush: usize,
    /// Stored deltas, ascending.
    deltas: VecDeque<DeltaId>,
    /// Deltas up to here are superfluous when the round is through.
    round_through: u64,
}

impl Snapshots {
    const ROUND: usize = 32;

    /// With the deltas that are stored.
    pub(super) fn new(deltas: VecDeque<DeltaId>) -> Self {
        Self { deltas, ..Self::default() }
    }

    /// The shards whose rows the next record writes, and the deltas that it may delete: those that
    /// the round before has made superfluous, all of whose rows are stored by now. `through`: the
    /// applied position; shards that changed with it are dirty already.
    pub(super) fn next(&mut self, through: u64) -> (Vec<Shard>, Vec<DeltaId>) {
        let mut forget = Vec::new();
        if self.round.is_empty() {
            while self.deltas.front().is_some_and(|(delta, _)| *delta <= self.round_through) {
                forget.extend(self.deltas.pop_front());
            }
            self.round = std::mem::take(&mut self.dirty).into_iter().collect();
            self.round_through = through;
            self.per_flush = self.round.len().div_ceil(Self::ROUND);
        }
        let take = self.per_flush.min(self.round.len());
        (self.round.drain(..take).collect(), forget)
    }

    /// For shards that the record had no room for: they are the next of the round. None may be lost, for
    /// the round's end deletes the deltas that hold them.
    pub(super) fn put_back(&mut self, shards: impl DoubleEndedIterator<Item = Shard>) {
        for shard in shards.rev() {
            self.round.push_front(shard);
        }
    }

    /// All stored deltas; they are forgotten here.
    pub(super) fn take_deltas(&mut self) -> Vec<DeltaId> {
        std::mem::take(&mut self.deltas).into()
    }

    /// Notes deltas of the newest batch. Those that a crash left of the same batch are there already.
    pub(super) fn add_deltas(&mut self, ids: Vec<DeltaId>) {
        for id in ids {
            if self.deltas.back().is_none_or(|newest| *newest < id) {
                self.deltas.push_back(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Shards' rows and stored deltas always give the newest state of every shard, and deltas do
        /// not pile up.
        #[test]
        fn no_delta_goes_before_its_shards_are_stored(
            batches in prop::collection::vec((prop::collection::btree_set(0u16..200, 0..12), 1usize..4), 1..300),
        ) {
            let mut snapshots = Snapshots::default();
            let mut newest: BTreeMap<u16, u64> = BTreeMap::new();
            let mut rows: BTreeMap<u16, u64> = BTreeMap::new();
            let mut deltas: BTreeMap<DeltaId, BTreeSet<u16>> = BTreeMap::new();
            for (through, (changed, room)) in (1..).zip(batches) {
                // As `prepare_carry` does, and the commit after it.
                snapshots.dirty.extend(changed.iter().copied().filter_map(Shard::new));
                let (mut shards, forget) = snapshots.next(through);
                snapshots.add_deltas(vec![(through, 0)]);
                // A record has room for so many.
                let rest = shards.split_off(room.min(shards.len()));
                snapshots.put_back(rest.into_iter());
                newest.extend(changed.iter().map(|shard| (*shard, through)));
                deltas.insert((through, 0), changed);
                rows.extend(shards.iter().map(|shard| (shard.number(), through)));
                for id in forget {
                    prop_assert!(deltas.remove(&id).is_some());
                }
                for (shard, newest) in &newest {
                    let in_delta = deltas.iter().filter(|(_, shards)| shards.contains(shard)).map(|(id, _)| id.0).max();
                    let stored = in_delta.max(rows.get(shard).copied());
                    prop_assert!(stored >= Some(*newest), "shard {} at {:?}, not {}", shard, stored, newest);
                }
                // A round of 200 shards takes 200 records at most.
                prop_assert!(deltas.len() <= 3 * 200);
            }
        }
    }
}
