//! Takes home what relays of this region stored for devices of another one while that was away: reads
//! `foreign.<region>.<home>`, appends to the home's lanes, records how far that is, and trims behind it.
//!
//! One collector of the region does it for each home, under a lease; how far it is can be recorded only
//! under the current one. What was appended and not recorded is appended again: the home's collector
//! knows each heartbeat by its number, so that counts nothing twice.

use crate::clock;
use breeze_bus::{Bus, BusError, Entry, Extent, Position};
use breeze_proto::{
    id::DeviceId,
    limits::MAX_LANE_BATCH_BYTES,
    shard::{ForeignLane, LaneCount, LaneId, MAX_LANES, Shard},
    subject,
    v1::LaneBatch,
};
use breeze_store::{
    model::lane::LANES,
    state::{
        Commit, CommitOutcome, State, StateError,
        leases::{Acquired, Lease, Leases},
    },
};
use bytes::{Bytes, BytesMut};
use futures_util::future;
use prost::Message as _;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Row of the lease's partition: the last position that the home has, u64 big endian.
const CURSOR: &[u8] = b"cursor";
/// Row beside it: which stream that position is of, u64 big endian.
const STREAM: &[u8] = b"stream";
/// Bytes of one read of the stream.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// How long a read waits for something.
const READ_WAIT: Duration = Duration::from_secs(1);
/// Pauses while the home, the bus or the store is away: doubling, before jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(15);

/// What the tasks of all homes need.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) state: Arc<dyn State>,
    /// The collector's name.
    pub(crate) owner: String,
    pub(crate) region: String,
    pub(crate) lanes: LaneCount,
    pub(crate) lease_ms: u64,
}

/// Why nothing could be moved just now.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the lease is somebody else's")]
    Lost,
    #[error("the stream was deleted or lost, and made anew")]
    Restarted,
    #[error(
        "entry {position} is for lane {number} of region {home:?}, which has more lanes than the {lanes} that are set \
         here, and no relay has said how many: all regions must have as many lanes; it is kept, and all behind it"
    )]
    MoreLanes { position: Position, number: u16, home: String, lanes: u16 },
}

/// Moves what is stored for `home` until `stop`.
pub(crate) async fn run(forward: Forward, home: String, stop: CancellationToken) -> anyhow::Result<()> {
    let task = Task {
        stream: subject::foreign_stream(&forward.region, &home),
        leases: Leases::new(forward.state.clone(), LANES),
        partition: format!("forward/{}/{home}", forward.region),
        forward,
        home,
        home_lanes: AtomicU16::new(0),
    };
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let wait = match task.acquire_and_move(&stop, &mut pause).await {
            Ok(wait) => wait,
            Err(error) => {
                metrics::counter!("breeze_collector_forward_errors_total", "home" => task.home.clone()).increment(1);
                if pause == FIRST_PAUSE {
                    tracing::warn!(stream = task.stream, %error, "what is stored for another region is not moved; it is tried again");
                } else {
                    tracing::debug!(stream = task.stream, %error, "still not moved");
                }
                let wait = pause;
                pause = (pause * 2).min(LAST_PAUSE);
                wait
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))) => {}
        }
    }
    Ok(())
}

struct Task {
    forward: Forward,
    home: String,
    stream: String,
    leases: Leases,
    partition: String,
    /// How many lanes the home has, where that is not what a relay of this region has: as relays wrote into the entries that
    /// they stored once the home had told them. 0: not known.
    home_lanes: AtomicU16,
}

impl Task {
    /// Moves for as long as the lease is ours and the home takes it; returns how long to wait before the
    /// next attempt.
    async fn acquire_and_move(&self, stop: &CancellationToken, pause: &mut Duration) -> Result<Duration, Stuck> {
        let (now_ms, lease_ms) = (now_ms(), self.forward.lease_ms);
        let owner = self.forward.owner.as_bytes();
        let acquired = self.leases.acquire(self.partition.as_bytes(), owner, now_ms + lease_ms, now_ms).await?;
        let mut lease = match acquired {
            Acquired::Yes(lease) => lease,
            Acquired::Held { until_ms, .. } => {
                return Ok(Duration::from_millis(until_ms.saturating_sub(now_ms).clamp(lease_ms / 4, lease_ms)));
            }
        };
        let moved = self.move_on(&mut lease, stop, pause).await;
        if !matches!(moved, Err(Stuck::Lost)) {
            self.leases.release(lease).await?;
        }
        moved.map(|()| FIRST_PAUSE)
    }

    async fn move_on(&self, lease: &mut Lease, stop: &CancellationToken, pause: &mut Duration) -> Result<(), Stuck> {
        let mut cursor = self.number(CURSOR).await?;
        let known = self.number(STREAM).await?;
        let Extent { last, mut identity, .. } = self.forward.bus.extent(&self.stream).await?;
        if cursor > last || (cursor > 0 && is_another(known, identity)) {
            metrics::counter!("breeze_collector_streams_restarted_total").increment(1);
            tracing::error!(
                stream = self.stream,
                cursor,
                last,
                "the stream is another one than was recorded: it was deleted or lost, and is read from its beginning"
            );
            cursor = 0;
        }
        // Whoever recorded it may not have come to this.
        self.forward.bus.trim(&self.stream, cursor + 1).await?;
        while !stop.is_cancelled() {
            if lease.until_ms < now_ms() + self.forward.lease_ms * 2 / 3
                && !self.leases.renew(lease, now_ms() + self.forward.lease_ms).await?
            {
                return Err(Stuck::Lost);
            }
            let reading = self.forward.bus.read(&self.stream, cursor + 1, READ_BYTES, READ_WAIT);
            let entries = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                entries = reading => entries?,
            };
            let entries = self.check_lanes(entries)?;
            let Some(through) = entries.last().map(|entry| entry.position) else {
                self.tell_lag(cursor, cursor);
                *pause = FIRST_PAUSE;
                continue;
            };
            let extent = self.forward.bus.extent(&self.stream).await?;
            if is_another(identity, extent.identity) {
                return Err(Stuck::Restarted);
            }
            identity = extent.identity;
            self.tell_lag(cursor, extent.last.max(through));
            self.take_home(entries).await?;
            self.record(lease, through, identity).await?;
            cursor = through;
            if *pause > FIRST_PAUSE {
                tracing::info!(stream = self.stream, "the home region takes what was stored for it");
                *pause = FIRST_PAUSE;
            }
            self.forward.bus.trim(&self.stream, through + 1).await?;
        }
        Ok(())
    }

    /// The entries before the first that is for a lane which is not known here. That one is kept, and
    /// everything behind it: the relays that stored it know the home better.
    fn check_lanes(&self, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Stuck> {
        entries.iter().for_each(|entry| self.learn_lanes(entry));
        let beyond = entries.iter().enumerate().find_map(|(at, entry)| match self.place(entry) {
            Place::Beyond(number) => Some((at, number)),
            Place::Lane(_) | Place::ByDevice(_) | Place::Malformed => None,
        });
        if let Some((at, number)) = beyond {
            if at == 0 {
                let (home, lanes, position) = (self.home.clone(), self.forward.lanes.get(), entries[0].position);
                return Err(Stuck::MoreLanes { position, number, home, lanes });
            }
            entries.truncate(at);
        }
        Ok(entries)
    }

    /// What a relay wrote of the home's lanes goes for all entries: for those, too, that one wrote which did not
    /// know it yet.
    fn learn_lanes(&self, entry: &Entry) {
        let Some((prefix, payload)) = entry.payload.split_first_chunk::<2>() else { return };
        let said = ForeignLane::from_bytes(*prefix).and_then(|foreign| foreign.home_lanes);
        let Some(lanes) = said.map(LaneCount::get) else { return };
        if LaneBatch::decode(payload).is_ok() && self.home_lanes.swap(lanes, Relaxed) != lanes {
            tracing::error!(
                stream = self.stream,
                home.lanes = lanes,
                own.lanes = self.forward.lanes.get(),
                "the home region has another number of lanes than a relay of this one: the lane of each device is found anew"
            );
        }
    }

    fn place(&self, entry: &Entry) -> Place {
        let Some((prefix, payload)) = entry.payload.split_first_chunk::<2>() else { return Place::Malformed };
        let Some(foreign) = ForeignLane::from_bytes(*prefix) else { return beyond(*prefix, payload) };
        if let Some(lanes) = foreign.home_lanes.or_else(|| LaneCount::new(self.home_lanes.load(Relaxed))) {
            return Place::ByDevice(lanes);
        }
        let lane = self.forward.lanes.lanes().find(|lane| lane.number() == u16::from(foreign.lane));
        lane.map_or_else(|| beyond(*prefix, payload), Place::Lane)
    }

    /// The batches of an entry with their lanes; none for what no relay wrote.
    fn batches(&self, entry: &Entry) -> Option<Vec<(LaneId, Batch)>> {
        let payload = entry.payload.get(2..)?;
        let batch = LaneBatch::decode(payload).ok()?;
        match self.place(entry) {
            Place::Lane(lane) => Some(vec![(lane, Batch::new(entry.position, &batch, payload.into()))]),
            Place::ByDevice(lanes) => Some(by_device(entry.position, batch, lanes)),
            Place::Beyond(_) | Place::Malformed => None,
        }
    }

    fn tell_lag(&self, cursor: Position, last: Position) {
        metrics::gauge!("breeze_collector_forward_lag_entries", "home" => self.home.clone())
            .set(last.saturating_sub(cursor) as f64);
    }

    /// What a row of the partition says; 0 if there is none.
    async fn number(&self, key: &[u8]) -> Result<u64, Stuck> {
        let row = self.forward.state.get(LANES.into(), self.partition.as_bytes(), key).await?;
        let Some(row) = row else { return Ok(0) };
        let bytes: [u8; 8] = row.value.as_ref().try_into().map_err(|_| StateError::Corrupt("a cursor".to_owned()))?;
        Ok(u64::from_be_bytes(bytes))
    }

    async fn record(&self, lease: &Lease, through: Position, identity: u64) -> Result<(), Stuck> {
        let commit = Commit::new(LANES, self.partition.clone().into_bytes())
            .assert(lease.fence())
            .put(CURSOR, Bytes::copy_from_slice(&through.to_be_bytes()))
            .put(STREAM, Bytes::copy_from_slice(&identity.to_be_bytes()));
        match self.forward.state.commit(commit).await? {
            CommitOutcome::Applied { .. } => Ok(()),
            CommitOutcome::Conflict { .. } => Err(Stuck::Lost),
        }
    }

    /// Lanes beside each other, the batches of a lane in their order.
    async fn take_home(&self, entries: Vec<Entry>) -> Result<(), Stuck> {
        let mut lanes: Vec<Vec<Batch>> = (0..MAX_LANES).map(|_| Vec::new()).collect();
        for entry in entries {
            let Some(parts) = self.batches(&entry) else {
                metrics::counter!("breeze_collector_forward_dropped_total", "home" => self.home.clone()).increment(1);
                tracing::warn!(stream = self.stream, entry.position, "an entry is no batch; it is dropped");
                continue;
            };
            for (lane, batch) in parts {
                let batches = &mut lanes[usize::from(lane.number())];
                if !batches.last_mut().is_some_and(|last| last.join(&batch)) {
                    batches.push(batch);
                }
            }
        }
        let all = LaneCount::new(MAX_LANES).into_iter().flat_map(LaneCount::lanes);
        let appends = all.zip(lanes).map(|(lane, batches)| self.append_all(lane, batches));
        future::try_join_all(appends).await?;
        Ok(())
    }

    async fn append_all(&self, lane: LaneId, batches: Vec<Batch>) -> Result<(), Stuck> {
        let stream = subject::lane_stream(&self.home, lane);
        for batch in batches {
            let id = format!("forward-{}-{}-{}", self.forward.region, batch.first, batch.last);
            self.forward.bus.append(&stream, &id, batch.payload.freeze()).await?;
            metrics::counter!("breeze_collector_forwarded_batches_total", "home" => self.home.clone()).increment(1);
        }
        Ok(())
    }
}

/// Encoded [`LaneBatch`] of one or several entries of the stream.
struct Batch {
    first: Position,
    last: Position,
    relay_id: String,
    region: String,
    payload: BytesMut,
}

/// Where an entry of the stream belongs at home.
enum Place {
    Lane(LaneId),
    /// Each device to its own, of so many.
    ByDevice(LaneCount),
    /// To a lane of this number, beyond those that are known here.
    Beyond(u16),
    /// Not what a relay wrote.
    Malformed,
}

fn beyond(prefix: [u8; 2], payload: &[u8]) -> Place {
    if LaneBatch::decode(payload).is_ok() { Place::Beyond(u16::from_be_bytes(prefix)) } else { Place::Malformed }
}

/// A batch, parted by the lanes on which its devices ride at home; each device's entries stay in their order.
fn by_device(position: Position, batch: LaneBatch, lanes: LaneCount) -> Vec<(LaneId, Batch)> {
    let LaneBatch { relay_id, region, entries } = batch;
    let mut parts: Vec<_> = lanes.lanes().map(|lane| (lane, Vec::new())).collect();
    for entry in entries {
        // What names no device is the home's to refuse, whichever of its lanes it comes by.
        let lane = DeviceId::from_slice(&entry.device_id).map_or(0, |id| Shard::of(id).lane(lanes).number());
        parts[usize::from(lane)].1.push(entry);
    }
    let filled = parts.into_iter().filter(|(_, entries)| !entries.is_empty());
    filled
        .map(|(lane, entries)| {
            let part = LaneBatch { relay_id: relay_id.clone(), region: region.clone(), entries };
            (lane, Batch::new(position, &part, part.encode_to_vec().as_slice().into()))
        })
        .collect()
}

impl Batch {
    fn new(position: Position, batch: &LaneBatch, payload: BytesMut) -> Self {
        let (relay_id, region) = (batch.relay_id.clone(), batch.region.clone());
        Self { first: position, last: position, relay_id, region, payload }
    }

    /// Takes the next one in, if one relay wrote both and they fit: messages of protobuf written one
    /// behind the other are one, with the entries of both.
    fn join(&mut self, next: &Self) -> bool {
        let same = self.relay_id == next.relay_id && self.region == next.region;
        if !same || self.payload.len() + next.payload.len() > MAX_LANE_BATCH_BYTES {
            return false;
        }
        self.payload.extend_from_slice(&next.payload);
        self.last = next.last;
        true
    }
}

/// Of identities of which 0 is not known.
const fn is_another(known: u64, found: u64) -> bool {
    known != 0 && found != 0 && known != found
}

fn now_ms() -> u64 {
    clock::now_us() / 1000
}
