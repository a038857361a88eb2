//! Heartbeats on their way: numbering, sending, acknowledgement, sending again.

use super::{Numbering, Session};
use crate::{
    clock::{MINUTE, Now, SECOND},
    command::LinkId,
    spool::{Entry, Number, Storage},
};
use breeze_proto::{
    frame::PREFIX_BYTES,
    limits::{MAX_FRAME_BYTES, MAX_HEARTBEATS_PER_BATCH, MAX_UNACKED_HEARTBEATS},
    v1::{Ack, Heartbeat, HeartbeatBatch, Held, Lane, SeqRange, agent_frame::Body},
};
use prost::Message as _;

/// Age up to which a heartbeat still goes out as live.
const LIVE_AGE_US: u64 = 20 * SECOND;
/// Fresh heartbeats that are remembered as such.
pub(super) const MAX_FRESH: usize = 64;
/// Of the unacknowledged, what the backlog may take: the rest is kept for live ones.
const MAX_BACKLOG_IN_FLIGHT: usize = MAX_UNACKED_HEARTBEATS / 2;
/// Encoded heartbeats of one frame; the rest is room for the envelope.
const MAX_BATCH_BYTES: usize = MAX_FRAME_BYTES - 1024 - PREFIX_BYTES;
/// A relay acknowledges or closes; one that does neither for so long is left.
const ACK_PATIENCE_US: u64 = 15 * MINUTE;

impl<S: Storage> Session<S> {
    pub(super) fn can_number(&self, _now: Now) -> bool {
        self.numbering == Numbering::Open && self.links.working().is_some() && self.revoked.is_none()
    }

    pub(super) fn drive_numbering(&mut self, now: Now) {
        if let Numbering::AwaitsHeld { until_us: Some(until) } = self.numbering
            && now.mono_us >= until
            && self.links.working().is_some()
        {
            self.begin_incarnation();
            self.numbering = Numbering::Open;
        }
        let oldest = self.in_flight.values().min().copied();
        if oldest.is_some_and(|sent| now.mono_us >= sent + ACK_PATIENCE_US) {
            // Nothing is sent twice on one connection: the relay's bounds count what it has not acknowledged.
            self.links_close_all("the relay acknowledges nothing", 0, now);
            self.trouble = "the relay acknowledges nothing".into();
        }
    }

    pub(super) fn flow_wakeup(&self) -> Option<u64> {
        let held = match self.numbering {
            Numbering::AwaitsHeld { until_us } => until_us.filter(|_| self.links.working().is_some()),
            Numbering::Open => None,
        };
        let resend = self.in_flight.values().min().map(|sent| sent + ACK_PATIENCE_US);
        [held, resend].into_iter().flatten().min()
    }

    /// Sends what may be sent.
    pub(super) fn pump(&mut self, now: Now) {
        self.pump_with(now, true);
    }

    /// `durable`: numbers of fresh heartbeats are made durable before they go out.
    pub(super) fn pump_with(&mut self, now: Now, durable: bool) {
        let Some(link) = self.links.working() else { return };
        if self.revoked.is_some() {
            return;
        }
        let again = self.due_again();
        let again: Vec<Entry> = again.into_iter().filter_map(|number| self.spool.get(number)).collect();
        self.send_entries(link, again, now);
        if self.can_number(now) {
            let live = self.take_fresh(now);
            self.send_entries(link, live, now);
            self.send_backlog(link, now);
        }
        if durable {
            return;
        }
        self.next_fsync_us.get_or_insert(now.mono_us + super::FSYNC_BATCH_US);
    }

    /// Numbered ones that were not sent on this link, live before backlog.
    fn due_again(&self) -> Vec<Number> {
        let room = MAX_UNACKED_HEARTBEATS.saturating_sub(self.in_flight.len());
        let mut due: Vec<Number> =
            self.spool.numbered().filter(|number| !self.in_flight.contains_key(number)).collect();
        due.sort_by_key(|number| (number.lane, number.seq));
        due.truncate(room);
        due
    }

    fn take_fresh(&mut self, now: Now) -> Vec<Entry> {
        let room = MAX_UNACKED_HEARTBEATS.saturating_sub(self.in_flight.len());
        self.fresh.retain(|(_, taken)| now.mono_us.saturating_sub(*taken) <= LIVE_AGE_US);
        let count = room.min(self.fresh.len());
        let fresh: Vec<(u64, u64)> = self.fresh.drain(..count).collect();
        let fast = u64::from(self.intervals.heartbeat_ms) * 1000 < super::FSYNC_EACH_FROM_US;
        // One that was just taken was never durable without a number.
        let durable = !fast || fresh.iter().any(|(_, taken)| *taken != now.mono_us);
        let keys: Vec<u64> = fresh.into_iter().map(|(key, _)| key).collect();
        if keys.is_empty() { Vec::new() } else { self.spool.number(&keys, Lane::Live, durable) }
    }

    fn send_backlog(&mut self, link: LinkId, now: Now) {
        loop {
            let flying = self.in_flight.keys().filter(|number| number.lane == Lane::Backlog as i32).count();
            let room = MAX_BACKLOG_IN_FLIGHT
                .saturating_sub(flying)
                .min(MAX_UNACKED_HEARTBEATS.saturating_sub(self.in_flight.len()))
                .min(MAX_HEARTBEATS_PER_BATCH);
            let fresh = &self.fresh;
            let keys: Vec<u64> =
                self.spool.unnumbered().filter(|key| !fresh.iter().any(|(fresh, _)| fresh == key)).take(room).collect();
            // Small steps cost an fsync each: better wait for more acknowledgements.
            let worth = keys.len() >= MAX_HEARTBEATS_PER_BATCH || flying == 0;
            if keys.is_empty() || !worth {
                return;
            }
            let entries = self.spool.number(&keys, Lane::Backlog, true);
            if entries.is_empty() {
                // The disk takes no numbers.
                return;
            }
            self.send_entries(link, entries, now);
        }
    }

    fn send_entries(&mut self, link: LinkId, entries: Vec<Entry>, now: Now) {
        let mut batch: Vec<Heartbeat> = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let Some(heartbeat) = self.for_the_wire(entry, now) else { continue };
            let size = heartbeat.encoded_len() + 8;
            if !batch.is_empty() && (batch.len() >= MAX_HEARTBEATS_PER_BATCH || bytes + size > MAX_BATCH_BYTES) {
                self.send_batch(link, std::mem::take(&mut batch), now);
                bytes = 0;
            }
            self.in_flight.insert(Number::of(&heartbeat), now.mono_us);
            bytes += size;
            batch.push(heartbeat);
        }
        if !batch.is_empty() {
            self.send_batch(link, batch, now);
        }
    }

    fn send_batch(&mut self, link: LinkId, heartbeats: Vec<Heartbeat>, now: Now) {
        let batch = HeartbeatBatch { sent_wall_us: now.wall_us, sent_mono_us: now.mono_us, heartbeats };
        self.send(link, Body::Heartbeats(batch));
    }

    /// Within this boot the monotonic clock says how old a heartbeat is. From an earlier one only wall
    /// time is left, which the receiver corrects by today's offset: where the server's time was known
    /// then, it is written so that the correction gives it back.
    fn for_the_wire(&self, entry: Entry, now: Now) -> Option<Heartbeat> {
        let mut heartbeat = entry.heartbeat?;
        if heartbeat.boot_id.as_ref() == self.identity.boot_id {
            heartbeat.boot_id.clear();
        } else if let Some(server_now) = self.server.estimate(now)
            && entry.server_us > 0
        {
            heartbeat.wall_us = entry.server_us.wrapping_add(now.wall_us).wrapping_sub(server_now);
        }
        Some(heartbeat)
    }

    pub(super) fn held(&mut self, id: LinkId, held: &Held, now: Now) {
        if !self.links.is_primary(id) {
            return;
        }
        self.uploads.held(held);
        // One that follows an upload says nothing about numbers.
        if !held.answers_hello {
            return;
        }
        let counters = self.spool.counters();
        let behind = held.lanes.iter().filter(|lane| lane.incarnation == counters.incarnation).any(|lane| {
            let ours = if lane.lane == Lane::Live as i32 { counters.next_live } else { counters.next_backlog };
            lane.next_seq > ours
        });
        if behind {
            self.begin_incarnation();
        }
        self.numbering = Numbering::Open;
        self.pump(now);
    }

    pub(super) fn acked(&mut self, ack: &Ack, now: Now) {
        for range in &ack.stored {
            self.acknowledged += self.settle(range) as u64;
        }
        for refusal in &ack.refused {
            if let Some(range) = &refusal.range {
                self.refused += self.settle(range) as u64;
            }
        }
        if !ack.stored.is_empty() {
            self.last_ack_us = self.server.best_us(now);
            self.links.served();
        }
    }

    fn settle(&mut self, range: &SeqRange) -> usize {
        let incarnation = if range.incarnation == 0 { self.spool.counters().incarnation } else { range.incarnation };
        let first = Number { incarnation, lane: range.lane, seq: range.first };
        if range.last < range.first {
            return 0;
        }
        let gone: Vec<Number> =
            self.in_flight.range(first..=Number { seq: range.last, ..first }).map(|(number, _)| *number).collect();
        for number in gone {
            self.in_flight.remove(&number);
        }
        self.spool.remove_range(first, range.last)
    }
}
