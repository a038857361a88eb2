//! What goes when the spool is full.

use super::{Entry, Spool, Storage};
use prost::Message as _;
use std::collections::BTreeSet;

/// Entries that go in one pass of thinning, at most.
const THIN_AT_ONCE: usize = 256;

impl<S: Storage> Spool<S> {
    pub(super) fn make_room(&mut self, incoming: u64) {
        while self.len() + 1 > self.limits.entries || self.bytes + incoming > self.limits.bytes {
            if self.thin() == 0 {
                break;
            }
        }
    }

    /// Makes the older part coarser; how many went.
    fn thin(&mut self) -> usize {
        let mut dropped = 0;
        for (victim, heir) in self.victims() {
            let merged = heir.and_then(|heir| Some((heir, merge(&self.read(victim)?, self.read(heir)?))));
            if let Some((heir, entry)) = merged {
                let value = entry.encode_to_vec();
                let before = self.unnumbered.insert(heir, value.len() as u32).unwrap_or(0);
                self.bytes = self.bytes + value.len() as u64 - u64::from(before);
                self.store_and_forget(heir, value, victim);
            } else {
                self.forget(victim);
            }
            if let Some(bytes) = self.unnumbered.remove(&victim) {
                self.bytes -= u64::from(bytes);
            }
            dropped += 1;
        }
        self.counters.thinned += dropped as u64;
        self.write_counters();
        self.commit(false);
        dropped
    }

    /// Which go, each with the next one, which takes its sums over: those whose going leaves the shortest
    /// spans, the oldest of them first, so that what is left lies evenly. Keys count heartbeats, so their
    /// distance is the span in intervals. The newest quarter stays as it is.
    fn victims(&self) -> Vec<(u64, Option<u64>)> {
        let older = (self.unnumbered.len() * 3 / 4).max(1);
        let keys: Vec<u64> = self.unnumbered.keys().copied().take(older).collect();
        if let [only] = keys.as_slice() {
            return vec![(*only, self.unnumbered.keys().copied().find(|key| key > only))];
        }
        let before = |at: usize| if at == 0 { keys[0].saturating_sub(1) } else { keys[at - 1] };
        let mut spans: Vec<(u64, usize)> =
            (0..keys.len().saturating_sub(1)).map(|at| (keys[at + 1] - before(at), at)).collect();
        spans.sort_unstable();
        let mut chosen = BTreeSet::new();
        for (_, at) in spans {
            let apart = !chosen.contains(&(at + 1)) && (at == 0 || !chosen.contains(&(at - 1)));
            if apart && chosen.len() < (keys.len() / 8).clamp(1, THIN_AT_ONCE) {
                chosen.insert(at);
            }
        }
        chosen.into_iter().map(|at| (keys[at], Some(keys[at + 1]))).collect()
    }
}

/// The heir with what the victim counted.
fn merge(victim: &Entry, mut heir: Entry) -> Entry {
    if let (Some(from), Some(into)) = (&victim.heartbeat, &mut heir.heartbeat) {
        if let (Some(from), Some(into)) = (&from.scalars, &mut into.scalars) {
            into.net_in_bytes = into.net_in_bytes.saturating_add(from.net_in_bytes);
            into.net_out_bytes = into.net_out_bytes.saturating_add(from.net_out_bytes);
        }
        if into.details.is_empty() {
            into.details.clone_from(&from.details);
        }
        if into.custom.is_empty() {
            into.custom.clone_from(&from.custom);
        }
    }
    heir
}
