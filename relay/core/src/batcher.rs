//! Gathers the entries of one lane into batches, and maps what was stored back to who waits for it.
//!
//! One append is under way at a time: the stream then holds a lane's entries in the order in which
//! the relay took them, which a second one could turn round. What gathers meanwhile is the next batch,
//! so the cost of an append bounds the rate by itself. On a quiet lane an entry is written at once;
//! above [`limits::LOW_RATE`] the gather window grows to where a batch is worth its write, and never
//! beyond [`MAX_GATHER_WINDOW`]. What does not fit is not taken: the connection is not read on.

use crate::limits::{self, MAX_LANE_WAITING_BYTES};
use breeze_proto::{
    limits::{MAX_GATHER_WINDOW, MAX_LANE_BATCH_BYTES},
    v1::LaneEntry,
};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// An encoded [`breeze_proto::v1::LaneBatch`] to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Counts the batches of this batcher from 1.
    pub number: u64,
    pub payload: Bytes,
    pub entries: usize,
}

struct Gathered<T> {
    payload: BytesMut,
    tickets: Vec<T>,
    since_us: u64,
}

/// The batcher of one lane; `T` is what comes back for an entry when it was stored.
pub struct Batcher<T> {
    /// `relay_id` and `region`, encoded: how every batch starts.
    header: Bytes,
    /// The last one is still open; those before it are at their limit.
    waiting: VecDeque<Gathered<T>>,
    under_way: Option<(u64, Vec<T>, usize)>,
    bytes: usize,
    numbered: u64,
    rate: Rate,
}

/// Field numbers of `LaneBatch`.
const RELAY_ID: u32 = 1;
const REGION: u32 = 2;
const ENTRIES: u32 = 3;

impl<T> Batcher<T> {
    #[must_use]
    pub fn new(relay_id: &str, region: &str) -> Self {
        let mut header = BytesMut::new();
        prost::encoding::string::encode(RELAY_ID, &relay_id.to_owned(), &mut header);
        prost::encoding::string::encode(REGION, &region.to_owned(), &mut header);
        Self {
            header: header.freeze(),
            waiting: VecDeque::new(),
            under_way: None,
            bytes: 0,
            numbered: 0,
            rate: Rate::default(),
        }
    }

    /// Takes entries from the front of `entries` for as long as there is room; what is left was not taken.
    pub fn handle_entries(&mut self, entries: &mut VecDeque<(LaneEntry, T)>, now_us: u64) {
        while let Some((entry, _)) = entries.front() {
            let len = prost::encoding::message::encoded_len(ENTRIES, entry);
            if self.bytes + len > MAX_LANE_WAITING_BYTES && self.bytes > 0 {
                return;
            }
            let Some((entry, ticket)) = entries.pop_front() else { return };
            self.take(&entry, len, ticket, now_us);
        }
    }

    fn take(&mut self, entry: &LaneEntry, len: usize, ticket: T, now_us: u64) {
        self.rate.count(now_us);
        let fits = |batch: &Gathered<T>| batch.payload.len() + len <= MAX_LANE_BATCH_BYTES;
        if !self.waiting.back().is_some_and(fits) {
            let payload = BytesMut::from(&self.header[..]);
            self.waiting.push_back(Gathered { payload, tickets: Vec::new(), since_us: now_us });
        }
        if let Some(open) = self.waiting.back_mut() {
            prost::encoding::message::encode(ENTRIES, entry, &mut open.payload);
            open.tickets.push(ticket);
            self.bytes += len;
        }
    }

    /// The next batch to append, if it is due and none is under way.
    pub fn poll_append(&mut self, now_us: u64) -> Option<Batch> {
        if self.poll_timeout()? > now_us {
            return None;
        }
        let Gathered { payload, tickets, .. } = self.waiting.pop_front()?;
        self.numbered += 1;
        let entries = tickets.len();
        self.under_way = Some((self.numbered, tickets, payload.len() - self.header.len()));
        Some(Batch { number: self.numbered, payload: payload.freeze(), entries })
    }

    /// When [`Self::poll_append`] will have a batch; `None` while one is under way or nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.under_way.is_some() {
            return None;
        }
        let first = self.waiting.front()?;
        let sealed = self.waiting.len() > 1;
        Some(if sealed { first.since_us } else { first.since_us.saturating_add(self.rate.window_us()) })
    }

    /// The append of that batch is over, either way: who waited for its entries, in their order.
    /// Empty for a batch that is not the one under way.
    pub fn handle_appended(&mut self, number: u64) -> Vec<T> {
        match self.under_way.take() {
            Some((under_way, tickets, bytes)) if under_way == number => {
                self.bytes -= bytes;
                tickets
            }
            other => {
                self.under_way = other;
                Vec::new()
            }
        }
    }

    /// Makes everything due: the relay drains.
    pub fn handle_flush(&mut self) {
        for gathered in &mut self.waiting {
            gathered.since_us = 0;
        }
        self.rate = Rate::default();
    }

    /// Bytes that wait, the batch under way included.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }
}

/// Entries a second, counted over windows of a second and smoothed by half.
#[derive(Debug, Default)]
struct Rate {
    window_start_us: u64,
    in_window: u32,
    per_second: u32,
}

impl Rate {
    fn count(&mut self, now_us: u64) {
        let elapsed = now_us.saturating_sub(self.window_start_us);
        if elapsed >= 1_000_000 {
            let seen = u64::from(self.in_window) * 1_000_000 / elapsed;
            // A quiet spell says more than what was before it.
            let before = if elapsed >= 4_000_000 { seen } else { u64::from(self.per_second) };
            self.per_second = u32::try_from((seen + before) / 2).unwrap_or(u32::MAX);
            self.window_start_us = now_us;
            self.in_window = 0;
        }
        self.in_window = self.in_window.saturating_add(1);
    }

    fn window_us(&self) -> u64 {
        // A burst counts before its second is over.
        let rate = self.per_second.max(self.in_window);
        if rate <= limits::LOW_RATE {
            return 0;
        }
        let window = u64::from(limits::TARGET_ENTRIES) * 1_000_000 / u64::from(rate);
        window.min(MAX_GATHER_WINDOW.as_micros() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use breeze_proto::v1::{LaneBatch, StampedHeartbeat, lane_entry::Body};
    use proptest::prelude::*;
    use prost::Message;

    fn entry(seq: u64, pad: usize) -> LaneEntry {
        let heartbeat = breeze_proto::v1::Heartbeat { seq, last_user: "x".repeat(pad), ..Default::default() };
        LaneEntry {
            body: Some(Body::Heartbeat(StampedHeartbeat { heartbeat: Some(heartbeat), ..Default::default() })),
            ..Default::default()
        }
    }

    fn offer(batcher: &mut Batcher<u64>, seqs: std::ops::Range<u64>, pad: usize, now: u64) -> usize {
        let mut entries: VecDeque<_> = seqs.map(|seq| (entry(seq, pad), seq)).collect();
        batcher.handle_entries(&mut entries, now);
        entries.len()
    }

    #[test]
    fn a_quiet_lane_writes_at_once_and_a_busy_one_gathers() {
        let mut batcher = Batcher::new("r", "local");
        offer(&mut batcher, 0..1, 0, 10);
        let batch = batcher.poll_append(10).expect("at once");
        let decoded = LaneBatch::decode(batch.payload.clone()).expect("a batch");
        assert_eq!((decoded.relay_id.as_str(), decoded.region.as_str()), ("r", "local"));
        assert_eq!(decoded.entries, vec![entry(0, 0)]);

        // While it is under way nothing is due; then what gathered goes together.
        offer(&mut batcher, 1..3, 0, 20);
        assert_eq!(batcher.poll_append(20), None);
        assert_eq!(batcher.handle_appended(batch.number), vec![0]);
        assert_eq!(batcher.poll_append(20).map(|batch| batch.entries), Some(2));
        batcher.handle_appended(2);

        // Above the low rate the window opens, at most to its limit.
        offer(&mut batcher, 3..40, 0, 30);
        let due = batcher.poll_timeout().expect("waits");
        assert!(due > 30 && due <= 30 + 250_000, "{due}");
        assert_eq!(batcher.poll_append(due - 1), None);
        assert_eq!(batcher.poll_append(due).map(|batch| batch.entries), Some(37));
    }

    #[test]
    fn what_does_not_fit_is_not_taken_until_there_is_room() {
        let mut batcher = Batcher::new("r", "local");
        let left = offer(&mut batcher, 0..400, 30_000, 0);
        assert!(left > 0 && batcher.waiting_bytes() <= MAX_LANE_WAITING_BYTES);
        let batch = batcher.poll_append(0).expect("sealed batches are due at once");
        assert!(batch.payload.len() <= MAX_LANE_BATCH_BYTES);
        let before = batcher.waiting_bytes();
        assert_eq!(offer(&mut batcher, 0..1, 30_000, 0), 1, "still under way");
        batcher.handle_appended(batch.number);
        assert!(batcher.waiting_bytes() < before);
        assert_eq!(offer(&mut batcher, 0..1, 30_000, 0), 0);
    }

    proptest! {
        #[test]
        fn every_ticket_comes_back_once_and_in_order(steps in prop::collection::vec((0u64..400_000, 0usize..5, any::<bool>()), 1..100)) {
            let mut batcher = Batcher::new("r", "local");
            let (mut now, mut sent, mut back, mut written) = (0, 0, Vec::new(), Vec::new());
            let mut under_way: Option<Batch> = None;
            for (elapsed, count, finish) in steps {
                now += elapsed;
                offer(&mut batcher, sent..sent + count as u64, 3, now);
                sent += count as u64;
                if finish && let Some(batch) = under_way.take() {
                    prop_assert!(batcher.handle_appended(batch.number + 1).is_empty());
                    back.extend(batcher.handle_appended(batch.number));
                }
                if let Some(batch) = batcher.poll_append(now) {
                    prop_assert!(under_way.is_none());
                    let decoded = LaneBatch::decode(batch.payload.clone()).expect("a batch");
                    prop_assert_eq!(decoded.entries.len(), batch.entries);
                    written.extend(decoded.entries);
                    under_way = Some(batch);
                }
                prop_assert!(back.len() <= written.len(), "nothing comes back before it was written");
            }
            batcher.handle_flush();
            loop {
                if let Some(batch) = under_way.take() {
                    back.extend(batcher.handle_appended(batch.number));
                }
                under_way = batcher.poll_append(now);
                if under_way.is_none() { break }
            }
            prop_assert!(batcher.is_idle() && batcher.waiting_bytes() == 0);
            prop_assert_eq!(back, (0..sent).collect::<Vec<_>>());
        }
    }
}
