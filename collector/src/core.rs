//! What a lane's owner does with the lane's entries, as a function of entries and time: no clock, no
//! I/O, no task. The shell in [`crate::lane`] reads the stream, calls this and carries out the effects.

pub mod bounds;
pub mod budget;
pub mod changes;
mod custom;
mod device;
pub mod events;
pub mod handover;
pub mod inventory;
mod output;
mod passing;
pub mod pending;
pub mod presence;
pub mod received;
#[cfg(test)]
mod tests;
mod transitions;
pub mod wheel;

use breeze_proto::{
    id::DeviceId,
    limits::{MAX_CUSTOM_VALUES, MAX_DETAIL_VALUES, MAX_FUTURE, MAX_SAMPLE_AGE},
    shard::{LaneCount, LaneId, Shard},
    v1::{self, lane_entry::Body},
};
use breeze_store::{
    history::Event,
    metrics::{HeartbeatRow, NamedRow},
    model::device_state::DeviceRow,
};
use budget::Subject;
use bytes::Bytes;
use device::Device;
use events::Cause;
use pending::{InventoryWork, Pending};
use presence::{Session, SessionKey, Verdict};
use prost::Message as _;
use received::Received;
use smallvec::SmallVec;
use std::{
    collections::{HashMap, VecDeque},
    hash::RandomState,
};
use wheel::{Timer, Wheel};

/// Devices of one lane; entries of further ones are refused and counted.
pub const MAX_DEVICES: usize = 1_000_000;
/// Relays whose names are kept apart.
const MAX_RELAYS: usize = 4096;
/// Named rows from one entry of the stream; more are dropped and counted.
const MAX_NAMED_ROWS_PER_ENTRY: usize = 60_000;
/// Times above this (the year 2255) are nonsense.
const MAX_TIME_US: u64 = 9_000_000_000_000_000;

/// Why an entry is taken: most are taken once, as [`Drive::First`].
///
/// While the metrics store does not keep up, the lane is read *ahead* for presence, and the same
/// entries come once more from *behind* for their rows. Both together do what `First` does; what
/// becomes of an entry's rows depends on the entries whose rows were made before it only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// Presence, newest values, rows.
    First,
    /// The same, of a recorded batch after a crash.
    Again,
    /// Presence and newest values only.
    Ahead,
    /// Rows only, of an entry that was taken ahead.
    Behind,
}

impl Drive {
    const fn is_for_presence(self) -> bool {
        matches!(self, Self::First | Self::Again | Self::Ahead)
    }

    const fn is_for_rows(self) -> bool {
        matches!(self, Self::First | Self::Again | Self::Behind)
    }

    /// Whether live samples and pushes come of it.
    const fn has_effects(self) -> bool {
        matches!(self, Self::First | Self::Ahead)
    }
}

/// What the shell has to do right after an entry.
#[derive(Debug, Default)]
pub struct Effects {
    pub live: Vec<(DeviceId, v1::LiveSample)>,
    pub pushes: Vec<Push>,
}

/// A frame for a connected agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    pub relay_id: String,
    pub device: DeviceId,
    pub session_epoch: u64,
    pub frame: v1::RelayFrame,
}

/// Counts since the core was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub heartbeats: u64,
    pub duplicates: u64,
    /// Entries and heartbeats that were malformed or out of bounds.
    pub refused: u64,
    /// Named values with a bad name or value, or beyond a limit.
    pub values_dropped: u64,
    pub gaps_closed: u64,
    pub sequences_forgotten: u64,
    pub clones_suspected: u64,
}

/// Entries of devices whose shard rides on another lane. They are taken all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    pub entries: u64,
    /// The newest one's.
    pub device: DeviceId,
    pub belongs: LaneId,
    pub relay_id: String,
    pub region: String,
}

/// The core of one lane.
#[derive(Debug)]
pub struct LaneCore {
    region: String,
    offline_floor_us: u64,
    /// Which lane it is and of how many, where that is known.
    place: Option<(LaneId, LaneCount)>,
    /// Since it was asked for.
    misplaced: Option<Misplaced>,
    devices: Vec<Device>,
    index: HashMap<DeviceId, u32>,
    by_shard: Vec<Vec<u32>>,
    relays: Vec<String>,
    wheel: Wheel,
    fired: Vec<Timer>,
    watched: HashMap<DeviceId, u64>,
    pending: Pending,
    dirty_received: Vec<u32>,
    dirty_latest: Vec<u32>,
    dirty_facts: Vec<u32>,
    dirty_digest: Vec<u32>,
    /// Devices whose presence changed and the history does not know it.
    untold: VecDeque<u32>,
    /// Told beside them, once: what was left out of an hour.
    notices: VecDeque<Event>,
    /// Devices of which something was left out, and when they were looked through last.
    left_out: Vec<(u32, Subject)>,
    left_out_hour: u32,
    gone_relays: Vec<String>,
    /// Numbers that were read ahead and are not among the received ones yet.
    ahead: HashMap<u32, SmallVec<[AheadOf; 2]>>,
    /// When the newest entry whose rows were made had reached its relay.
    rows_us: u64,
    counts: Counts,
    online: usize,
    /// Since when everything that there is has been seen; `None` while that is not so.
    live_since_us: Option<u64>,
    behind_since_us: Option<u64>,
    /// When time passed last; 0: not yet.
    ticked_us: u64,
    /// For names that devices make up.
    hasher: RandomState,
}

/// The newest number of a sequence that was read ahead.
#[derive(Debug, Clone, Copy)]
struct AheadOf {
    incarnation: u64,
    lane: i32,
    seq: u64,
}

/// An entry's envelope.
#[derive(Debug, Clone, Copy)]
struct Envelope {
    position: u64,
    device: u32,
    session: SessionKey,
    received_us: u64,
    drive: Drive,
}

impl LaneCore {
    /// `offline_floor_us`: the shortest silence after which a device whose connection was not seen to
    /// end counts as offline.
    #[must_use]
    pub fn new(region: &str, offline_floor_us: u64) -> Self {
        Self {
            region: region.to_owned(),
            offline_floor_us,
            place: None,
            misplaced: None,
            devices: vec![],
            index: HashMap::new(),
            by_shard: vec![vec![]; usize::from(breeze_proto::shard::SHARDS)],
            relays: vec![],
            wheel: Wheel::default(),
            fired: vec![],
            watched: HashMap::new(),
            pending: Pending::default(),
            dirty_received: vec![],
            dirty_latest: vec![],
            dirty_facts: vec![],
            dirty_digest: vec![],
            untold: VecDeque::new(),
            notices: VecDeque::new(),
            left_out: vec![],
            left_out_hour: 0,
            gone_relays: vec![],
            ahead: HashMap::new(),
            rows_us: 0,
            counts: Counts::default(),
            online: 0,
            live_since_us: None,
            behind_since_us: None,
            ticked_us: 0,
            hasher: RandomState::new(),
        }
    }

    /// Says which lane it is and of how many: entries of devices that belong to another are counted.
    #[must_use]
    pub fn with_place(mut self, lane: LaneId, lanes: LaneCount) -> Self {
        self.place = Some((lane, lanes));
        self
    }

    // ---- loading ----

    /// What was received of a device, as recovered.
    pub fn load_received(&mut self, stored: &v1::ReceivedDevice) {
        if let Some(at) = DeviceId::from_slice(&stored.device_id).and_then(|id| self.find_or_add(id)) {
            self.devices[at as usize].received = Received::decode(stored);
        }
    }

    /// The stream has started over: positions of what was received say nothing any more.
    pub fn forget_positions(&mut self) {
        for device in &mut self.devices {
            device.received.forget_positions();
        }
    }

    /// A row of the device state.
    pub fn load_row(&mut self, id: DeviceId, row: DeviceRow) {
        let Some(at) = self.find_or_add(id) else { return };
        let device = &mut self.devices[at as usize];
        match row {
            DeviceRow::Facts(facts) => device.facts = *facts,
            DeviceRow::Latest(latest) => {
                device.sample_us = latest.last_seen_us.saturating_sub(MAX_FUTURE.as_micros() as u64);
                device.latest = latest;
            }
        }
    }

    /// After the last row: takes presence up again. Every device is in the next digest, but those of which
    /// only received heartbeats are known: their rows are another region's.
    pub fn finish_loading(&mut self, now_us: u64) {
        self.wheel.advance(now_us, &mut self.fired);
        self.fired.clear();
        for at in 0..self.devices.len() as u32 {
            let relays = &mut self.relays;
            let device = &mut self.devices[at as usize];
            device.restore_session(|name| intern(relays, name), now_us);
            let has_untold = !device.latest.untold.is_empty();
            if device.is_online() {
                self.online += 1;
                self.arm(at, now_us);
            }
            if has_untold {
                self.mark_untold(at);
            }
            if self.devices[at as usize].is_known() {
                self.mark_digest(at);
            }
        }
    }

    // ---- entries ----

    /// Takes one entry of the stream.
    pub fn handle_entry(&mut self, position: u64, payload: Bytes, drive: Drive, effects: &mut Effects) {
        if drive.is_for_rows() {
            if self.pending.first == 0 {
                self.pending.first = position;
            }
            self.pending.last = position;
        }
        let Ok(batch) = v1::LaneBatch::decode(payload) else {
            self.counts.refused += u64::from(drive.is_for_rows());
            return;
        };
        if drive.is_for_rows() {
            self.rows_us = batch.entries.last().map_or(self.rows_us, |entry| entry.received_us);
        }
        let relay = intern(&mut self.relays, &batch.relay_id);
        let mut named_left = MAX_NAMED_ROWS_PER_ENTRY;
        for (ordinal, entry) in (0..).zip(batch.entries) {
            let device = DeviceId::from_slice(&entry.device_id).and_then(|id| self.find_or_add(id));
            let (Some(device), Some(body), true) = (device, entry.body, entry.received_us < MAX_TIME_US) else {
                self.counts.refused += u64::from(drive.is_for_rows());
                continue;
            };
            if drive.is_for_rows() {
                self.check_place(device, &batch.relay_id, &batch.region);
            }
            let session = SessionKey { relay, epoch: entry.session_epoch };
            let envelope = Envelope { position, device, session, received_us: entry.received_us, drive };
            let cause = Cause { position, ordinal, received_us: entry.received_us };
            match body {
                Body::Heartbeat(stamped) => self.handle_heartbeat(envelope, stamped, &mut named_left, effects),
                Body::Connected(hello) => {
                    if drive.is_for_rows() {
                        let id = self.devices[device as usize].id;
                        if self.charge(device, Subject::Connections, cause.received_us) {
                            self.pending.add_event(device, events::connected(cause, id, &batch.relay_id, &hello));
                        }
                    }
                    if drive.is_for_presence() {
                        self.handle_connected(envelope, hello, effects);
                    }
                }
                Body::Disconnected(end) => {
                    if drive.is_for_rows() {
                        let id = self.devices[device as usize].id;
                        if self.charge(device, Subject::Connections, cause.received_us) {
                            self.pending.add_event(device, events::disconnected(cause, id, &batch.relay_id, &end));
                        }
                    }
                    if drive.is_for_presence() {
                        self.handle_disconnected(envelope, &end.reason);
                    }
                }
                Body::Inventory(document) => {
                    if drive.is_for_presence() {
                        self.note_life(envelope);
                    }
                    if !drive.is_for_rows() {
                        continue;
                    }
                    let work = InventoryWork { cause, device, session, document };
                    self.pending.inventory.push(work);
                }
            }
        }
    }

    /// Whoever put it here counted other lanes than this region has. It is stored; but what was received of
    /// the device is kept with another lane, if its other entries go there, so nothing tells repetitions.
    fn check_place(&mut self, at: u32, relay_id: &str, region: &str) {
        let Some((own, lanes)) = self.place else { return };
        let device = self.devices[at as usize].id;
        let belongs = Shard::of(device).lane(lanes);
        if belongs != own {
            let entries = self.misplaced.as_ref().map_or(0, |before| before.entries) + 1;
            let (relay_id, region) = (relay_id.to_owned(), region.to_owned());
            self.misplaced = Some(Misplaced { entries, device, belongs, relay_id, region });
        }
    }

    /// Entries that came by the wrong lane since this was asked last.
    pub fn take_misplaced(&mut self) -> Option<Misplaced> {
        self.misplaced.take()
    }

    fn handle_heartbeat(
        &mut self,
        envelope: Envelope,
        stamped: v1::StampedHeartbeat,
        named_left: &mut usize,
        effects: &mut Effects,
    ) {
        let mut stamped = stamped;
        let Some(mut heartbeat) =
            stamped.heartbeat.take().filter(|heartbeat| is_plausible(envelope, &stamped, heartbeat))
        else {
            self.counts.refused += u64::from(envelope.drive.is_for_rows());
            return;
        };
        if envelope.drive.is_for_presence() {
            self.note_life(envelope);
        }
        let is_new = if envelope.drive.is_for_rows() {
            self.receive(envelope, stamped.incarnation, &heartbeat)
        } else {
            self.receive_ahead(envelope, stamped.incarnation, &heartbeat)
        };
        if !is_new {
            return;
        }
        let device = &mut self.devices[envelope.device as usize];
        let id = device.id;
        let is_newest = envelope.drive.is_for_presence() && device.take_sample(&stamped, &mut heartbeat);
        if envelope.drive.has_effects() && !self.watched.is_empty() && self.watched.contains_key(&id) {
            effects.live.push((id, live_sample(id, &stamped, &heartbeat)));
        }
        if envelope.drive.is_for_rows() {
            self.make_rows(envelope, id, stamped.sample_us / 1000, heartbeat, named_left);
        }
        if is_newest {
            // A period that has become shorter may bring the deadline forward.
            if self.devices[envelope.device as usize].is_online() {
                self.arm(envelope.device, envelope.received_us);
            }
            self.mark_latest(envelope.device);
        }
    }

    /// Notes a heartbeat among the received ones. Whether it was not there yet.
    fn receive(&mut self, envelope: Envelope, incarnation: u64, heartbeat: &v1::Heartbeat) -> bool {
        let device = &mut self.devices[envelope.device as usize];
        let inserted = device.received.insert(incarnation, heartbeat.lane, heartbeat.seq, envelope.position);
        self.counts.gaps_closed += u64::from(inserted.closed_gap);
        self.counts.sequences_forgotten += u64::from(inserted.forgot_sequence);
        if !inserted.is_new {
            self.counts.duplicates += 1;
            return false;
        }
        self.counts.heartbeats += 1;
        if !device.dirty.received {
            device.dirty.received = true;
            self.dirty_received.push(envelope.device);
        }
        true
    }

    /// Notes a heartbeat that was read ahead, for what relays ask. What was *received* stays as it is:
    /// the rows of the entries before this one are still to be made by it.
    fn receive_ahead(&mut self, envelope: Envelope, incarnation: u64, heartbeat: &v1::Heartbeat) -> bool {
        let (lane, seq) = (heartbeat.lane, heartbeat.seq);
        if self.devices[envelope.device as usize].received.contains(incarnation, lane, seq) {
            return false;
        }
        let sequences = self.ahead.entry(envelope.device).or_default();
        match sequences.iter().position(|held| held.incarnation == incarnation && held.lane == lane) {
            Some(at) => sequences[at].seq = sequences[at].seq.max(seq),
            None if sequences.len() < received::MAX_SEQUENCES => {
                sequences.push(AheadOf { incarnation, lane, seq });
            }
            None => {}
        }
        true
    }

    fn make_rows(
        &mut self,
        envelope: Envelope,
        id: DeviceId,
        at_ms: u64,
        mut heartbeat: v1::Heartbeat,
        named_left: &mut usize,
    ) {
        self.counts.values_dropped += self.bound_custom(envelope, &mut heartbeat.custom);
        let rows = self.pending.day(at_ms);
        rows.heartbeats.push(HeartbeatRow { device: id, at_ms, scalars: device::scalar_row(heartbeat.scalars) });
        let before = rows.named.len();
        let dropped = push_named(&mut rows.named, id, at_ms, heartbeat.details, heartbeat.custom, named_left);
        self.pending.rows += 1 + rows.named.len() - before;
        self.counts.values_dropped += dropped as u64;
    }

    fn handle_connected(&mut self, envelope: Envelope, hello: v1::Connected, effects: &mut Effects) {
        let session = Session {
            key: envelope.session,
            installation: hello.instance_nonce.as_ref().try_into().ok().map(|nonce| (nonce, hello.session_counter)),
            is_standby: hello.role() == v1::ConnectionRole::Standby,
        };
        let device = &mut self.devices[envelope.device as usize];
        let connected = device.presence.handle_connected(session, envelope.received_us);
        match connected.verdict {
            Verdict::GoOn => {}
            Verdict::Stale => return,
            Verdict::CloneSuspected => {
                self.counts.clones_suspected += 1;
                tracing::warn!(device.id = %device.id, "two installations take turns under one certificate");
                return;
            }
        }
        self.note_life(envelope);
        if session.is_standby {
            return;
        }
        let relay_id = self.relays[usize::from(envelope.session.relay)].clone();
        let device = &mut self.devices[envelope.device as usize];
        let changed = device.take_hello(&relay_id, envelope.session, hello, envelope.received_us);
        if changed || envelope.drive == Drive::Again {
            self.mark_facts(envelope.device, envelope.position);
        }
        // The relay itself ends an older connection of its own.
        if let Some(old) = connected.replaced.filter(|old| old.relay != envelope.session.relay)
            && envelope.drive.has_effects()
        {
            let close = v1::Close { reason: v1::CloseReason::Replaced.into(), ..v1::Close::default() };
            effects.pushes.push(self.push(envelope.device, old, v1::relay_frame::Body::Close(close)));
        }
    }

    fn handle_disconnected(&mut self, envelope: Envelope, reason: &str) {
        let device = &mut self.devices[envelope.device as usize];
        let is_last = device.presence.handle_disconnected(envelope.session, envelope.received_us, reason);
        // The agent itself has said it.
        if is_last && reason == "goodbye" && device.is_known() && envelope.received_us > device.latest.last_seen_us {
            device.latest.last_seen_us = envelope.received_us;
            self.mark_latest(envelope.device);
        }
        let device = &self.devices[envelope.device as usize];
        if is_last && device.is_online() {
            self.arm(envelope.device, envelope.received_us);
        }
    }

    /// Something came from the device.
    fn note_life(&mut self, envelope: Envelope) {
        let at = envelope.device;
        let device = &mut self.devices[at as usize];
        let before_us = device.latest.last_seen_us;
        if envelope.received_us > before_us {
            device.latest.last_seen_us = envelope.received_us;
        }
        let is_there = device.presence.handle_sign_of_life(envelope.session);
        if is_there && device.set_presence(v1::Presence::Online, envelope.received_us) {
            self.online += 1;
            self.note_online(at, envelope.received_us, envelope.session.relay, before_us);
            self.arm(at, envelope.received_us);
        }
        self.mark_latest(at);
    }

    // ---- helpers ----

    fn find_or_add(&mut self, id: DeviceId) -> Option<u32> {
        if let Some(at) = self.index.get(&id) {
            return Some(*at);
        }
        if self.devices.len() >= MAX_DEVICES {
            return None;
        }
        let at = self.devices.len() as u32;
        let device = Device::new(id, &self.region);
        self.by_shard[usize::from(device.shard.number())].push(at);
        self.devices.push(device);
        self.index.insert(id, at);
        Some(at)
    }

    fn mark_latest(&mut self, at: u32) {
        self.mark_latest_row(at);
        self.mark_digest(at);
    }

    fn mark_latest_row(&mut self, at: u32) {
        let device = &mut self.devices[at as usize];
        if !device.dirty.latest {
            device.dirty.latest = true;
            self.dirty_latest.push(at);
        }
    }

    fn mark_digest(&mut self, at: u32) {
        let device = &mut self.devices[at as usize];
        if !device.dirty.digest {
            device.dirty.digest = true;
            self.dirty_digest.push(at);
        }
    }

    /// `position`: of the entry that changed them.
    fn mark_facts(&mut self, at: u32, position: u64) {
        let device = &mut self.devices[at as usize];
        match &mut device.dirty.facts {
            Some((_, last)) => *last = position.max(*last),
            None => {
                device.dirty.facts = Some((position, position));
                self.dirty_facts.push(at);
            }
        }
    }

    fn push(&self, at: u32, session: SessionKey, body: v1::relay_frame::Body) -> Push {
        Push {
            relay_id: self.relays.get(usize::from(session.relay)).cloned().unwrap_or_default(),
            device: self.devices[at as usize].id,
            session_epoch: session.epoch,
            frame: v1::RelayFrame { body: Some(body) },
        }
    }
}

/// The index of a relay's name. Beyond the limit all share one, which only blurs whose connection it was.
fn intern(relays: &mut Vec<String>, name: &str) -> u16 {
    if let Some(at) = relays.iter().position(|held| held == name) {
        return at as u16;
    }
    if relays.len() < MAX_RELAYS {
        relays.push(bounds::text(name.to_owned()));
    }
    (relays.len() - 1) as u16
}

fn is_plausible(envelope: Envelope, stamped: &v1::StampedHeartbeat, heartbeat: &v1::Heartbeat) -> bool {
    let newest = envelope.received_us + MAX_FUTURE.as_micros() as u64;
    let oldest = envelope.received_us.saturating_sub(MAX_SAMPLE_AGE.as_micros() as u64);
    stamped.incarnation != 0
        && heartbeat.seq != 0
        && matches!(heartbeat.lane(), v1::Lane::Live | v1::Lane::Backlog)
        && (oldest..=newest).contains(&stamped.sample_us)
}

/// Moves named values into rows; how many were dropped.
fn push_named(
    rows: &mut Vec<NamedRow>,
    device: DeviceId,
    at_ms: u64,
    details: Vec<v1::NamedValue>,
    custom: Vec<v1::NamedValue>,
    left: &mut usize,
) -> usize {
    const CUSTOM: &str = "custom.";
    let sent = details.len() + custom.len();
    let before = rows.len();
    let details = details.into_iter().take(MAX_DETAIL_VALUES).filter(|value| bounds::is_metric_name(&value.name, 0));
    let custom = custom
        .into_iter()
        .take(MAX_CUSTOM_VALUES)
        .filter(|value| bounds::is_metric_name(&value.name, CUSTOM.len()))
        .map(|value| v1::NamedValue { name: format!("{CUSTOM}{}", value.name), ..value });
    for value in details.chain(custom).filter(|value| value.value.is_finite()).take(*left) {
        rows.push(NamedRow { device, at_ms, name: value.name, value: value.value });
    }
    let kept = rows.len() - before;
    *left -= kept;
    sent - kept
}

fn live_sample(id: DeviceId, stamped: &v1::StampedHeartbeat, heartbeat: &v1::Heartbeat) -> v1::LiveSample {
    let named = |values: &[v1::NamedValue], most: usize| {
        let valid = values.iter().filter(|value| bounds::is_metric_name(&value.name, 0) && value.value.is_finite());
        valid.take(most).cloned().collect()
    };
    v1::LiveSample {
        device_id: Bytes::copy_from_slice(&id.to_bytes()),
        sample: Some(v1::StampedSample {
            sample_us: stamped.sample_us,
            scalars: heartbeat.scalars,
            status: heartbeat.status,
            details: named(&heartbeat.details, MAX_DETAIL_VALUES),
            custom: named(&heartbeat.custom, MAX_CUSTOM_VALUES),
        }),
    }
}
