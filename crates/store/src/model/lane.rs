//! A lane's record: who owns it, which batch was recorded before it was inserted, and which
//! heartbeats were received, so that a successor can drive an unconfirmed batch again byte for byte.
//!
//! ```text
//! boundary          LaneBoundary
//! delta/<through>   ReceivedSet of the devices that changed with the batch ending there, in parts
//! shard/<number>    ReceivedSet of a whole shard, as of its `through`
//! ```
//!
//! What is received is the shards' rows with the later deltas laid over them. A commit that records a
//! batch carries the delta of the *applied* batch before it, never its own: the batch must be
//! repeatable from what was received before. Deltas beyond `applied_through` do not count: they are
//! what a crash left of a delta that was too large for one commit.

use crate::state::{
    Assert, Commit, CommitOutcome, CommitTable, Family, MAX_PAGE_ROWS, Scan, Serial, State, StateError,
    leases::{Acquired, Lease, Leases},
};
use breeze_proto::{
    shard::{LaneId, SHARDS, Shard},
    v1::{LaneBoundary, ReceivedDevice, ReceivedSet},
};
use bytes::Bytes;
use prost::Message;
use std::{collections::HashMap, sync::Arc};

/// Partition: `lane/<region>/<number>`, and `region/<region>` for their number.
pub const LANES: CommitTable = CommitTable::new("lanes", Family::Device, Serial::Local);

const BOUNDARY: &[u8] = b"boundary";
const DELTA: &[u8] = b"delta/";
/// Behind every delta.
const DELTA_END: &[u8] = b"delta0";
const SHARD: &[u8] = b"shard/";
const SHARD_END: &[u8] = b"shard0";

/// The row of a region's lane count, in the partition `region/<region>`: decimal text.
const COUNT: &[u8] = b"lanes";

/// How many lanes the region was begun with: `count` if nobody has said so before. What was received is
/// kept by lane, so another number needs a migration.
///
/// # Errors
/// Of the state; [`StateError::Corrupt`] for a row that is no number.
pub async fn fix_lane_count(state: &dyn State, region: &str, count: u16) -> Result<u16, StateError> {
    let partition = format!("region/{region}");
    let row = match state.get(LANES.into(), partition.as_bytes(), COUNT).await? {
        Some(row) => row,
        None => {
            let commit = Commit::new(LANES, partition.into_bytes())
                .assert(Assert::Absent(COUNT.into()))
                .put(COUNT, count.to_string().into_bytes());
            match state.commit(commit).await? {
                CommitOutcome::Applied { .. } => return Ok(count),
                CommitOutcome::Conflict { rows, .. } => rows
                    .into_iter()
                    .next()
                    .ok_or_else(|| StateError::Unavailable("the region's lane count is contended".into()))?,
            }
        }
    };
    let text = std::str::from_utf8(&row.value).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| StateError::Corrupt("a region's lane count".into()))
}

/// One lane's record.
#[derive(Debug, Clone)]
pub struct LaneRecord {
    state: Arc<dyn State>,
    leases: Leases,
    partition: Bytes,
}

/// What a lane's owner found when it took over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    pub boundary: LaneBoundary,
    pub at: BoundaryAt,
    /// As of `boundary.applied_through`.
    pub received: Vec<ReceivedDevice>,
    /// The deltas that are stored, ascending.
    pub deltas: Vec<DeltaId>,
}

/// Where the batch of a delta ended, and which part of the delta it is.
pub type DeltaId = (u64, u16);

/// What to write of received heartbeats with the next commit. All of it is as of the applied batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReceivedWrite {
    /// Devices that changed with the applied batch, in parts.
    pub deltas: Vec<(u16, ReceivedSet)>,
    pub shards: Vec<(Shard, ReceivedSet)>,
    /// Deltas that the shards' rows have made superfluous.
    pub forget: Vec<DeltaId>,
}

/// Which writing of the boundary's row is known: the next must follow it, so that a commit that a
/// database carries out late cannot bring an older boundary back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BoundaryAt(Option<u64>);

/// Whether a commit was the owner's to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Recorded {
    Yes(BoundaryAt),
    /// Another owner has taken the lane: stop at once.
    Lost,
}

impl LaneRecord {
    #[must_use]
    pub fn new(state: Arc<dyn State>, region: &str, lane: LaneId) -> Self {
        let leases = Leases::new(state.clone(), LANES);
        Self { state, leases, partition: format!("lane/{region}/{lane}").into_bytes().into() }
    }

    /// Takes the lane for `owner`; see [`Leases::acquire`].
    ///
    /// # Errors
    /// Of the state.
    pub async fn acquire(&self, owner: &str, until_ms: u64, now_ms: u64) -> Result<Acquired, StateError> {
        self.leases.acquire(&self.partition, owner.as_bytes(), until_ms, now_ms).await
    }

    /// Prolongs the lease; `false` when it is somebody else's.
    ///
    /// # Errors
    /// Of the state.
    pub async fn renew(&self, lease: &mut Lease, until_ms: u64) -> Result<bool, StateError> {
        self.leases.renew(lease, until_ms).await
    }

    /// Gives the lane back.
    ///
    /// # Errors
    /// Of the state.
    pub async fn release(&self, lease: Lease) -> Result<(), StateError> {
        self.leases.release(lease).await.map(drop)
    }

    /// Who holds the lane; see [`Leases::holder`].
    ///
    /// # Errors
    /// Of the state.
    pub async fn holder(&self) -> Result<Option<(Bytes, u64)>, StateError> {
        self.leases.holder(&self.partition).await
    }

    /// The newest boundary.
    ///
    /// # Errors
    /// Of the state; [`StateError::Corrupt`] for a row that does not decode.
    pub async fn boundary(&self) -> Result<(LaneBoundary, BoundaryAt), StateError> {
        match self.state.get(LANES.into(), &self.partition, BOUNDARY).await? {
            Some(row) => Ok((decode(&row.value)?, BoundaryAt(Some(row.version)))),
            None => Ok((LaneBoundary::default(), BoundaryAt(None))),
        }
    }

    /// The deltas that are stored of batches behind `after`, ascending.
    ///
    /// # Errors
    /// Of the state; [`StateError::Corrupt`] for a key that is none.
    pub async fn deltas(&self, after: u64) -> Result<Vec<DeltaId>, StateError> {
        let from = delta_key((after.saturating_add(1), 0));
        let rows = self.scan_from(from, DELTA_END).await?;
        rows.iter().map(|(key, _)| read_delta_key(key).ok_or_else(no_position)).collect()
    }

    /// Reads everything. Call it after the lane was acquired: from then on nobody else writes.
    ///
    /// # Errors
    /// Of the state; [`StateError::Corrupt`] for a row that does not decode.
    pub async fn recover(&self) -> Result<Recovered, StateError> {
        let (boundary, at) = self.boundary().await?;
        let mut devices: HashMap<Bytes, (u64, ReceivedDevice)> = HashMap::new();
        let mut lay = |set: ReceivedSet| {
            for device in set.devices {
                let held = devices.entry(device.device_id.clone()).or_default();
                if set.through >= held.0 {
                    *held = (set.through, device);
                }
            }
        };
        for (_, value) in self.scan(SHARD, SHARD_END).await? {
            lay(decode(&value)?);
        }
        let mut deltas = Vec::new();
        for (key, value) in self.scan(DELTA, DELTA_END).await? {
            let id = read_delta_key(&key).ok_or_else(no_position)?;
            deltas.push(id);
            if id.0 <= boundary.applied_through {
                lay(decode(&value)?);
            }
        }
        Ok(Recovered { boundary, at, received: devices.into_values().map(|(_, device)| device).collect(), deltas })
    }

    async fn scan(&self, from: &'static [u8], to: &'static [u8]) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        self.scan_from(Bytes::from_static(from), to).await
    }

    async fn scan_from(&self, from: Bytes, to: &'static [u8]) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let mut rows = Vec::new();
        let mut next = Some(from);
        while let Some(from) = next {
            let scan = Scan { from, to: Some(Bytes::from_static(to)), reverse: false, limit: MAX_PAGE_ROWS };
            let page = self.state.scan(LANES.into(), &self.partition, scan).await?;
            rows.extend(page.rows.into_iter().map(|row| (row.key, row.value)));
            next = page.next;
        }
        Ok(rows)
    }

    /// Records a boundary and what was received up to its `applied_through`, if the lane is still
    /// the lease's. `at`: the boundary's row as it is known. The same call may be repeated after an error.
    ///
    /// # Errors
    /// Of the state. Unless the error is definite, it may have happened; repeated, it tells.
    pub async fn record(
        &self,
        lease: &Lease,
        at: BoundaryAt,
        boundary: &LaneBoundary,
        received: &ReceivedWrite,
    ) -> Result<Recorded, StateError> {
        let commit = self.record_commit(lease, at, boundary, received);
        match self.state.commit(commit).await? {
            CommitOutcome::Applied { version } => Ok(Recorded::Yes(BoundaryAt(Some(version)))),
            CommitOutcome::Conflict { rows, .. } if lease.is_held_in(&rows) => {
                // Nobody else writes under this lease: an earlier attempt did it.
                let row = rows.iter().find(|row| row.key == BOUNDARY);
                let row = row.ok_or_else(|| StateError::Corrupt("a lane's boundary is gone".into()))?;
                if decode::<LaneBoundary>(&row.value)? != *boundary {
                    return Err(StateError::Corrupt("a lane's boundary is not the owner's".into()));
                }
                Ok(Recorded::Yes(BoundaryAt(Some(row.version))))
            }
            CommitOutcome::Conflict { .. } => Ok(Recorded::Lost),
        }
    }

    /// Records as [`LaneRecord::record`] does and hands the lane to `to` in one: nobody else can take it
    /// before `until_ms`. Whether it was the owner's to give.
    ///
    /// # Errors
    /// Of the state. After one that is not definite the lane may be given away.
    pub async fn hand_over(
        &self,
        lease: &Lease,
        at: BoundaryAt,
        (boundary, received): (&LaneBoundary, &ReceivedWrite),
        to: &str,
        until_ms: u64,
    ) -> Result<bool, StateError> {
        let commit = self.record_commit(lease, at, boundary, received);
        let commit = Leases::hand_over(commit, lease, to.as_bytes(), until_ms);
        Ok(matches!(self.state.commit(commit).await?, CommitOutcome::Applied { .. }))
    }

    fn record_commit(
        &self,
        lease: &Lease,
        at: BoundaryAt,
        boundary: &LaneBoundary,
        received: &ReceivedWrite,
    ) -> Commit {
        let known = match at.0 {
            Some(version) => Assert::Version(Bytes::from_static(BOUNDARY), version),
            None => Assert::Absent(Bytes::from_static(BOUNDARY)),
        };
        let mut commit = Commit::new(LANES, self.partition.clone())
            .assert(lease.fence())
            .assert(known)
            .put(BOUNDARY, boundary.encode_to_vec());
        for (part, delta) in &received.deltas {
            commit = commit.put(delta_key((delta.through, *part)), delta.encode_to_vec());
        }
        for (shard, set) in &received.shards {
            commit = commit.put(shard_key(*shard), set.encode_to_vec());
        }
        for delta in &received.forget {
            commit = commit.delete(delta_key(*delta));
        }
        commit
    }
}

fn no_position() -> StateError {
    StateError::Corrupt("a lane's delta has no position".into())
}

fn delta_key((through, part): DeltaId) -> Bytes {
    [DELTA, through.to_be_bytes().as_slice(), part.to_be_bytes().as_slice()].concat().into()
}

fn read_delta_key(key: &[u8]) -> Option<DeltaId> {
    let (through, part) = key.strip_prefix(DELTA)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*through), u16::from_be_bytes(part.try_into().ok()?)))
}

fn shard_key(shard: Shard) -> Bytes {
    debug_assert!(shard.number() < SHARDS);
    [SHARD, shard.number().to_be_bytes().as_slice()].concat().into()
}

fn decode<M: Message + Default>(value: &Bytes) -> Result<M, StateError> {
    M::decode(value.clone()).map_err(|error| StateError::Corrupt(format!("a lane's record: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryState;
    use breeze_proto::{shard::LaneCount, v1::ReceivedLane};

    fn received(device: u8, last: u64) -> ReceivedDevice {
        let lane = ReceivedLane { incarnation: 1, lane: 1, touched: last, bounds: vec![1, last] };
        ReceivedDevice { device_id: Bytes::from(vec![device; 16]), lanes: vec![lane] }
    }

    fn set(through: u64, devices: Vec<ReceivedDevice>) -> ReceivedSet {
        ReceivedSet { through, devices }
    }

    fn lane() -> LaneRecord {
        let lane = LaneCount::new(1).and_then(|count| count.lanes().next()).expect("lane 0");
        LaneRecord::new(Arc::new(MemoryState::new()), "local", lane)
    }

    async fn take(lane: &LaneRecord, owner: &str, now_ms: u64) -> Lease {
        match lane.acquire(owner, now_ms + 100, now_ms).await.expect("acquires") {
            Acquired::Yes(lease) => lease,
            Acquired::Held { .. } => panic!("held"),
        }
    }

    #[tokio::test]
    async fn shards_and_later_deltas_make_what_was_received() {
        let lane = lane();
        let lease = take(&lane, "a", 0).await;
        let shard = |number| Shard::new(number).expect("below");
        let boundary = LaneBoundary { first: 9, last: 12, applied_through: 8, ..LaneBoundary::default() };
        let writes = [
            ReceivedWrite {
                deltas: vec![(0, set(4, vec![received(1, 4)])), (1, set(4, vec![received(2, 4)]))],
                ..ReceivedWrite::default()
            },
            ReceivedWrite { deltas: vec![(0, set(6, vec![received(1, 6)]))], ..ReceivedWrite::default() },
            ReceivedWrite { deltas: vec![(0, set(12, vec![received(4, 12)]))], ..ReceivedWrite::default() },
            ReceivedWrite {
                deltas: vec![(0, set(8, vec![received(2, 8)]))],
                shards: vec![(shard(3), set(8, vec![received(1, 6), received(3, 2)]))],
                forget: vec![(6, 0)],
            },
        ];
        let mut at = BoundaryAt::default();
        for write in &writes {
            match lane.record(&lease, at, &boundary, write).await.expect("records") {
                Recorded::Yes(now) => at = now,
                Recorded::Lost => panic!("lost"),
            }
        }
        let mut recovered = lane.recover().await.expect("recovers");
        recovered.received.sort_by_key(|device| device.device_id.clone());
        assert_eq!(recovered.boundary, boundary);
        assert_eq!(recovered.deltas, [(4, 0), (4, 1), (8, 0), (12, 0)]);
        assert_eq!(recovered.received, [received(1, 6), received(2, 8), received(3, 2)]);
    }

    #[tokio::test]
    async fn a_region_keeps_the_lanes_it_was_begun_with() {
        let state = MemoryState::new();
        assert_eq!(fix_lane_count(&state, "local", 4).await.expect("fixes"), 4);
        assert_eq!(fix_lane_count(&state, "local", 8).await.expect("reads"), 4);
        assert_eq!(fix_lane_count(&state, "other", 8).await.expect("fixes"), 8);
    }

    #[tokio::test]
    async fn a_replaced_owner_records_nothing_more() {
        let lane = lane();
        let mut first = take(&lane, "a", 0).await;
        assert!(matches!(lane.acquire("b", 150, 50).await, Ok(Acquired::Held { .. })));
        let second = take(&lane, "b", 200).await;
        assert!(second.epoch > first.epoch);
        let (boundary, nothing) = (LaneBoundary { last: 5, ..LaneBoundary::default() }, ReceivedWrite::default());
        let at = BoundaryAt::default();
        assert_eq!(lane.record(&first, at, &boundary, &nothing).await.expect("answers"), Recorded::Lost);
        assert!(!lane.renew(&mut first, 900).await.expect("answers"));
        let Recorded::Yes(now) = lane.record(&second, at, &boundary, &nothing).await.expect("answers") else {
            panic!("lost");
        };
        assert_eq!(lane.record(&second, at, &boundary, &nothing).await.expect("answers"), Recorded::Yes(now), "again");
        let other = LaneBoundary { last: 4, ..LaneBoundary::default() };
        assert!(lane.record(&second, at, &other, &nothing).await.is_err(), "late");
        lane.release(second).await.expect("releases");
        let _ = take(&lane, "c", 210).await;
    }

    #[tokio::test]
    async fn a_lane_that_is_handed_over_is_the_successors_alone() {
        let lane = lane();
        let first = take(&lane, "a", 0).await;
        let (boundary, nothing) = (LaneBoundary { last: 5, ..LaneBoundary::default() }, ReceivedWrite::default());
        let delta = ReceivedWrite { deltas: vec![(0, set(5, vec![received(1, 5)]))], ..ReceivedWrite::default() };
        let at = BoundaryAt::default();
        assert!(lane.hand_over(&first, at, (&boundary, &delta), "b", 500).await.expect("records"));
        assert_eq!(lane.holder().await.expect("reads"), Some((Bytes::from_static(b"b"), 500)));
        assert!(matches!(lane.acquire("a", 600, 200).await, Ok(Acquired::Held { .. })), "also not by who had it");
        assert_eq!(lane.record(&first, at, &boundary, &nothing).await.expect("answers"), Recorded::Lost);
        let second = take(&lane, "b", 200).await;
        assert!(second.epoch > first.epoch);
        assert_eq!(lane.boundary().await.expect("reads").0, boundary);
        assert_eq!(lane.deltas(4).await.expect("reads"), [(5, 0)]);
        assert_eq!(lane.deltas(5).await.expect("reads"), []);
    }
}
