//! What leaves the core: batches, merges, digests, answers.

use super::{
    Counts, LaneCore, Push, inventory,
    pending::{InventoryWork, Pending},
    presence::{Session, SessionKey, Verdict},
    received::MAX_SEQUENCES,
};
use breeze_proto::{
    id::DeviceId,
    shard::Shard,
    v1::{self, StoredSection, relay_frame},
};
use breeze_store::{model::device_state, state::Merge};
use bytes::Bytes;
use prost::Message as _;

/// Encoded size of a part of a delta, in bytes; a part exceeds it by one device at most.
const DELTA_PART_BYTES: usize = 512 * 1024;
/// Encoded size above which a shard is collapsed; below the largest value of the state.
const SHARD_BYTES: usize = 900 * 1024;

/// How full the lane is, for status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Population {
    pub devices: usize,
    pub online: usize,
    pub watched: usize,
}

/// Rows of changed facts for the directory stream, in the order of their merges.
#[derive(Debug, Default)]
pub struct Merges {
    pub merges: Vec<Merge>,
    pub directory: Vec<v1::DirectoryChange>,
}

impl LaneCore {
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    #[must_use]
    pub fn population(&self) -> Population {
        Population { devices: self.devices.len(), online: self.online, watched: self.watched.len() }
    }

    /// Whether offline timers run.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live_since_us.is_some()
    }

    #[must_use]
    pub const fn pending(&self) -> &Pending {
        &self.pending
    }

    /// When the newest entry whose rows were made had reached its relay, in microseconds; 0: none was.
    #[must_use]
    pub const fn rows_us(&self) -> u64 {
        self.rows_us
    }

    /// Everything that was read ahead is among what was received now.
    pub fn clear_ahead(&mut self) {
        self.ahead = std::collections::HashMap::new();
    }

    /// Whether [`LaneCore::take_merges`] may have something.
    #[must_use]
    pub fn has_merges(&self) -> bool {
        !self.dirty_latest.is_empty() || !self.dirty_facts.is_empty()
    }

    /// The gathered batch; `None` if no entry was read since the last one.
    pub fn take_pending(&mut self) -> Option<Pending> {
        (self.pending.first != 0).then(|| std::mem::take(&mut self.pending))
    }

    /// Merges for what changed. `latest` of a device waits until it is `every_us` old, unless it is
    /// urgent or `all` are wanted. Facts wait until `through` has reached the entry that changed them:
    /// who drives a recorded batch again must find them changed by it.
    pub fn take_merges(&mut self, version: u64, now_us: u64, every_us: u64, all: bool, through: u64) -> Merges {
        let mut out = self.take_facts(version, through);
        let mut waiting = Vec::new();
        for at in std::mem::take(&mut self.dirty_latest) {
            let device = &mut self.devices[at as usize];
            if !all && !device.dirty.urgent && now_us.saturating_sub(device.merged_us) < every_us {
                waiting.push(at);
                continue;
            }
            device.dirty.latest = false;
            device.dirty.urgent = false;
            device.merged_us = now_us;
            out.merges.push(device_state::latest_row(device.id, version, &device.latest));
        }
        self.dirty_latest = waiting;
        out
    }

    /// The facts' share of [`LaneCore::take_merges`].
    fn take_facts(&mut self, version: u64, through: u64) -> Merges {
        let mut out = Merges::default();
        let mut waiting = Vec::new();
        for at in std::mem::take(&mut self.dirty_facts) {
            let device = &mut self.devices[at as usize];
            let Some((first, last)) = device.dirty.facts else { continue };
            if last > through {
                // Again when that entry's batch is recorded.
                device.dirty.facts = Some((first.max(through + 1), last));
                waiting.push(at);
            } else {
                device.dirty.facts = None;
            }
            if first > through {
                continue;
            }
            let row = device_state::facts_row(device.id, version, &device.facts);
            out.directory.push(v1::DirectoryChange {
                device_id: row.partition.clone(),
                source: v1::DirectorySource::Facts.into(),
                version,
                record: row.value.clone().unwrap_or_default(),
            });
            out.merges.push(row);
        }
        self.dirty_facts = waiting;
        out
    }

    // ---- received heartbeats ----

    /// The devices that received something since the last call, in parts, as of `through`; and their
    /// shards.
    pub fn take_received(&mut self, through: u64) -> (Vec<(u16, v1::ReceivedSet)>, Vec<Shard>) {
        let (mut parts, mut shards) = (Vec::new(), Vec::new());
        let mut set = v1::ReceivedSet { through, devices: vec![] };
        let mut bytes = 0;
        for at in std::mem::take(&mut self.dirty_received) {
            let device = &mut self.devices[at as usize];
            device.dirty.received = false;
            shards.push(device.shard);
            let stored = device.received.encode(id_bytes(device.id));
            bytes += stored.encoded_len() + 4;
            set.devices.push(stored);
            if bytes > DELTA_PART_BYTES {
                let full = std::mem::replace(&mut set, v1::ReceivedSet { through, devices: vec![] });
                parts.push((parts.len() as u16, full));
                bytes = 0;
            }
        }
        if !set.devices.is_empty() {
            parts.push((parts.len() as u16, set));
        }
        shards.sort_unstable();
        shards.dedup();
        (parts, shards)
    }

    /// A whole shard as of `through`. One that would be too large to store is collapsed first.
    pub fn encode_shard(&mut self, shard: Shard, through: u64) -> v1::ReceivedSet {
        let mut set = self.shard_set(shard, through);
        if set.encoded_len() > SHARD_BYTES {
            tracing::warn!(shard = shard.number(), "devices left so many gaps that the shard's are closed");
            metrics::counter!("breeze_collector_shards_collapsed_total").increment(1);
            for at in &self.by_shard[usize::from(shard.number())] {
                self.devices[*at as usize].received.collapse();
            }
            set = self.shard_set(shard, through);
        }
        set
    }

    /// Whether any device of the shard has received something.
    #[must_use]
    pub fn has_received(&self, shard: Shard) -> bool {
        let held = &self.by_shard[usize::from(shard.number())];
        held.iter().any(|at| self.devices[*at as usize].received != super::received::Received::default())
    }

    fn shard_set(&self, shard: Shard, through: u64) -> v1::ReceivedSet {
        let devices = self.by_shard[usize::from(shard.number())].iter().map(|at| {
            let device = &self.devices[*at as usize];
            device.received.encode(id_bytes(device.id))
        });
        v1::ReceivedSet { through, devices: devices.filter(|device| !device.lanes.is_empty()).collect() }
    }

    // ---- inventory ----

    #[must_use]
    pub fn device_id(&self, at: u32) -> DeviceId {
        self.devices[at as usize].id
    }

    /// A section was changed by the batch that ends at `position` and is about to be stored: its summary
    /// goes into the facts.
    pub fn handle_section(&mut self, at: u32, stored: &StoredSection, position: u64) {
        if inventory::summarize(&mut self.devices[at as usize].facts, stored) {
            self.mark_facts(at, position);
        }
    }

    /// Tells the agent what is held of a section: the confirmation of a document, or the reason to
    /// send it whole.
    #[must_use]
    pub fn push_held(&self, work: &InventoryWork, held: Option<&StoredSection>) -> Push {
        let hash = v1::InventoryHash {
            section: work.document.section,
            hash: held.map_or_else(Bytes::new, |held| held.hash.clone()),
        };
        let held = v1::Held { inventory: vec![hash], ..v1::Held::default() };
        self.push(work.device, work.session, relay_frame::Body::Held(held))
    }

    // ---- answers ----

    /// What a relay is told for a hello.
    #[must_use]
    pub fn held(&self, request: &v1::HeldRequest, now_us: u64) -> v1::HeldReply {
        let Some(at) = DeviceId::from_slice(&request.device_id).and_then(|id| self.index.get(&id)) else {
            return v1::HeldReply { held: Some(v1::Held::default()), ..v1::HeldReply::default() };
        };
        let device = &self.devices[*at as usize];
        // A relay that is not known here has no connection that could be this one.
        let relay = self.relays.iter().position(|held| *held == request.relay_id).map_or(u16::MAX, |at| at as u16);
        let session = Session {
            key: SessionKey { relay, epoch: request.session_epoch },
            installation: request.instance_nonce.as_ref().try_into().ok().map(|nonce| (nonce, request.session_counter)),
            is_standby: request.role() == v1::ConnectionRole::Standby,
        };
        let close = match device.presence.judge(&session, now_us) {
            Verdict::GoOn => v1::CloseReason::Unspecified,
            Verdict::Stale => v1::CloseReason::StaleSession,
            Verdict::CloneSuspected => v1::CloseReason::CloneSuspected,
        };
        let mut lanes = device.received.held();
        for ahead in self.ahead.get(at).into_iter().flatten() {
            let next_seq = ahead.seq.saturating_add(1);
            let known = lanes.iter().position(|held| held.incarnation == ahead.incarnation && held.lane == ahead.lane);
            match known {
                Some(at) => lanes[at].next_seq = lanes[at].next_seq.max(next_seq),
                None if lanes.len() < MAX_SEQUENCES => {
                    lanes.push(v1::HeldLane { incarnation: ahead.incarnation, lane: ahead.lane, next_seq });
                }
                None => {}
            }
        }
        debug_assert!(lanes.len() <= MAX_SEQUENCES);
        let held = v1::Held { lanes, inventory: device.facts.inventory.clone(), ..v1::Held::default() };
        v1::HeldReply { held: Some(held), close: close.into(), ..v1::HeldReply::default() }
    }

    // ---- digests ----

    /// Adds devices that changed since the last digest, as long as there are fewer than `most`.
    /// Whether more are left.
    pub fn take_digest(&mut self, digest: &mut v1::Digest, most: usize) -> bool {
        while digest.device_ids.len() < most {
            let Some(at) = self.dirty_digest.pop() else { return false };
            self.devices[at as usize].dirty.digest = false;
            self.add_to_digest(at, digest);
        }
        !self.dirty_digest.is_empty()
    }

    /// Adds all devices behind `after` (from the first if `None`), as long as there are fewer than
    /// `most`. Whether more are left.
    pub fn page_digest(&self, after: Option<DeviceId>, digest: &mut v1::Digest, most: usize) -> bool {
        let from = after.and_then(|id| self.index.get(&id)).map_or(0, |at| at + 1);
        for at in from..self.devices.len() as u32 {
            if digest.device_ids.len() >= most {
                return true;
            }
            if self.devices[at as usize].is_known() {
                self.add_to_digest(at, digest);
            }
        }
        false
    }

    /// Whether the device is of this lane.
    #[must_use]
    pub fn knows(&self, id: DeviceId) -> bool {
        self.index.contains_key(&id)
    }

    fn add_to_digest(&self, at: u32, digest: &mut v1::Digest) {
        let device = &self.devices[at as usize];
        let latest = &device.latest;
        digest.device_ids.push(id_bytes(device.id));
        digest.last_seen_us.push(latest.last_seen_us);
        digest.presence.push(latest.presence as u32);
        digest.scalars.push(latest.scalars.unwrap_or_default());
        digest.status.push(latest.status as u32);
        digest.last_user.push(latest.last_user.clone());
        digest.pending_reboot.push(latest.pending_reboot);
        digest.round_trip_us.push(latest.round_trip_us);
        digest.clock_offset_us.push(latest.clock_offset_us);
    }
}

fn id_bytes(id: DeviceId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}
