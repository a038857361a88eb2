//! Validation and stamping of heartbeats. Each is taken, or refused for ever with a reason; a fault
//! in one says nothing of the others in its frame.

use super::{Command, Commands, Entries, Session, cut};
use crate::{Now, acks::Stored};
use breeze_proto::{
    limits::{
        MAX_CUSTOM_VALUES, MAX_DETAIL_VALUES, MAX_HEARTBEAT_BYTES, MAX_HEARTBEATS_PER_BATCH, MAX_METRIC_NAME_BYTES,
    },
    time::{FrameClock, Stamp},
    v1::{
        Ack, Heartbeat, HeartbeatBatch, Lane, NamedValue, Refusal, RefusalReason, SeqRange, StampedHeartbeat,
        lane_entry, relay_frame,
    },
};
use prost::Message;

impl Session {
    pub(super) fn handle_heartbeats(
        &mut self,
        batch: HeartbeatBatch,
        epoch: u64,
        round_trip_us: u32,
        now: Now,
    ) -> Commands {
        if batch.heartbeats.len() > MAX_HEARTBEATS_PER_BATCH {
            return self.protocol("oversized", "too many heartbeats in one frame");
        }
        let clock =
            FrameClock { sent_wall_us: batch.sent_wall_us, sent_mono_us: batch.sent_mono_us, received_us: now.wall_us };
        let mut entries = Entries::with_capacity(batch.heartbeats.len());
        let mut refused: Vec<Refusal> = Vec::new();
        let mut clamped = 0;
        for mut heartbeat in batch.heartbeats {
            self.resolve(&mut heartbeat);
            match self.check(&mut heartbeat, &clock) {
                Ok((sample_us, was_clamped)) => {
                    clamped += u64::from(was_clamped);
                    let (incarnation, lane, seq) = (heartbeat.incarnation, heartbeat.lane, heartbeat.seq);
                    let stamped = StampedHeartbeat {
                        incarnation,
                        sample_us,
                        offset_us: clock.offset_us(),
                        heartbeat: Some(heartbeat),
                        round_trip_us,
                    };
                    let entry = self.entry(epoch, now, lane_entry::Body::Heartbeat(stamped));
                    entries.push_back((entry, Stored::Heartbeat { incarnation, lane, seq }));
                }
                Err(reason) => refuse(&mut refused, &heartbeat, reason),
            }
        }
        let mut commands = Vec::new();
        if !entries.is_empty() {
            commands.push(self.append(entries));
        }
        if clamped > 0 {
            commands.push(Command::Count("clamped_to_arrival", clamped));
        }
        if !refused.is_empty() {
            for refusal in &refused {
                if let Some(range) = &refusal.range {
                    commands.push(Command::Count(counted(refusal.reason()), range.last - range.first + 1));
                }
            }
            commands.extend(self.send(relay_frame::Body::Ack(Ack { stored: Vec::new(), refused })));
        }
        commands
    }

    /// Fills in what the hello said for all.
    fn resolve(&self, heartbeat: &mut Heartbeat) {
        let Some(greeted) = &self.greeted else { return };
        if heartbeat.incarnation == 0 {
            heartbeat.incarnation = greeted.incarnation;
        }
        if heartbeat.boot_id.is_empty() {
            heartbeat.boot_id = greeted.boot_id.clone();
        }
    }

    /// The stored time and whether it was clamped, or why the heartbeat is refused.
    fn check(&mut self, heartbeat: &mut Heartbeat, clock: &FrameClock) -> Result<(u64, bool), RefusalReason> {
        if heartbeat.encoded_len() > MAX_HEARTBEAT_BYTES
            || heartbeat.details.len() > MAX_DETAIL_VALUES
            || heartbeat.custom.len() > MAX_CUSTOM_VALUES
        {
            return Err(RefusalReason::TooLarge);
        }
        let known_lane = matches!(Lane::try_from(heartbeat.lane), Ok(Lane::Live | Lane::Backlog));
        let numbered = heartbeat.incarnation != 0 && heartbeat.seq != 0 && heartbeat.seq != u64::MAX;
        let named = heartbeat.details.iter().chain(&heartbeat.custom).all(|value| is_name(&value.name));
        let Some(scalars) = heartbeat.scalars.as_mut() else { return Err(RefusalReason::Malformed) };
        if !known_lane || !numbered || !named || heartbeat.boot_id.len() != 16 {
            return Err(RefusalReason::Malformed);
        }
        // Not worth losing a heartbeat for: rounding, a division by nothing, a long name.
        for permille in [&mut scalars.cpu_permille, &mut scalars.ram_permille, &mut scalars.disk_permille] {
            *permille = (*permille).min(1_000);
        }
        let finite = |value: &NamedValue| value.value.is_finite();
        heartbeat.details.retain(finite);
        heartbeat.custom.retain(finite);
        cut(&mut heartbeat.last_user);
        let same_boot = self.greeted.as_ref().is_some_and(|greeted| greeted.boot_id == heartbeat.boot_id);
        match clock.stamp(heartbeat.wall_us, heartbeat.mono_us, same_boot) {
            Stamp::At(at) if same_boot => Ok((self.apart(heartbeat.mono_us, at), false)),
            Stamp::At(at) => Ok((at, false)),
            Stamp::Clamped(at) => Ok((at, true)),
            Stamp::TooOld => Err(RefusalReason::TooOld),
        }
    }
}

/// How far back times may lie and still be moved behind the newest.
const STALL_US: u64 = 1_000_000;
/// Rows are told apart by device and millisecond.
const ROW_US: u64 = 1_000;

impl Session {
    /// The time of a heartbeat, a millisecond after that of the one before it at least. Frames that waited
    /// in a stalled connection arrive together, each as if it had just been sent: at one time they
    /// would be one row.
    fn apart(&mut self, mono_us: u64, at_us: u64) -> u64 {
        let (newest_mono_us, newest_us) = self.newest;
        if mono_us <= newest_mono_us {
            return at_us;
        }
        let after = newest_us + ROW_US;
        let is_stalled = at_us < after && after - at_us < STALL_US;
        let at_us = if is_stalled { after } else { at_us };
        self.newest = (mono_us, at_us);
        at_us
    }
}

/// `[A-Za-z0-9_.:/%-]`, 1 to [`MAX_METRIC_NAME_BYTES`].
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_METRIC_NAME_BYTES
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/%-".contains(&b))
}

fn refuse(refused: &mut Vec<Refusal>, heartbeat: &Heartbeat, reason: RefusalReason) {
    let Heartbeat { incarnation, lane, seq, .. } = *heartbeat;
    if let Some(Refusal { range: Some(range), reason: last }) = refused.last_mut()
        && *last == i32::from(reason)
        && (range.incarnation, range.lane) == (incarnation, lane)
        && range.last.checked_add(1) == Some(seq)
    {
        range.last = seq;
        return;
    }
    let range = SeqRange { incarnation, lane, first: seq, last: seq };
    refused.push(Refusal { range: Some(range), reason: reason.into() });
}

fn counted(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::TooOld => "too_old",
        RefusalReason::TooLarge => "heartbeat_too_large",
        RefusalReason::Malformed | RefusalReason::Unspecified => "heartbeat_malformed",
    }
}
