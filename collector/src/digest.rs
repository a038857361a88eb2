//! Volatile attributes of devices for the directories: what changed, every second; everything, page
//! by page, for who asks.
//!
//! Where several collectors share a region, each tells of its own devices. Who asks for everything asks
//! any of them, which passes the question on to one after the other: the cursor names whose turn it is.

use crate::{
    Config,
    clock::{boot_us, now_us},
    lane::LaneShared,
    members::Shares,
};
use breeze_bus::{Bus, Received, Request};
use breeze_proto::{id::DeviceId, subject, v1};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often changes are told.
const PERIOD: Duration = Duration::from_secs(1);
/// Devices in one digest. With the longest user names that is within a payload of the bus.
const MAX_DEVICES: usize = 2500;

/// How long another collector may take for its page.
const PAGE_WAIT: Duration = Duration::from_secs(2);
/// Bytes of a device's id, with which every cursor begins; the collector's name may follow.
const ID_BYTES: usize = 16;

/// Makes and tells digests of all lanes that this process owns.
#[derive(Debug)]
pub(crate) struct Digests {
    config: Arc<Config>,
    bus: Arc<dyn Bus>,
    lanes: Vec<Arc<LaneShared>>,
    shares: Shares,
    source: String,
    sequence: Mutex<u64>,
}

impl Digests {
    pub(crate) fn new(config: Arc<Config>, bus: Arc<dyn Bus>, lanes: Vec<Arc<LaneShared>>, shares: Shares) -> Self {
        let source = format!("{}-{}", config.id, now_us());
        Self { config, bus, lanes, shares, source, sequence: Mutex::new(0) }
    }

    fn empty(&self, full: bool, sequence: u64) -> v1::Digest {
        v1::Digest {
            region: self.config.region.clone(),
            source: self.source.clone(),
            at_us: now_us(),
            full,
            sequence,
            ..v1::Digest::default()
        }
    }

    /// Publishes what changed until `done`; once more at `stop`, when lanes begin to be given up.
    pub(crate) async fn publish(
        self: Arc<Self>,
        stop: CancellationToken,
        done: CancellationToken,
    ) -> anyhow::Result<()> {
        let subject = subject::digest(&self.config.region);
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopping = stop.is_cancelled();
            tokio::select! {
                () = done.cancelled() => {}
                () = stop.cancelled(), if !stopping => {}
                _ = ticks.tick() => {}
            }
            while let Some(digest) = self.next() {
                if let Err(error) = self.bus.publish(&subject, digest.encode_to_vec().into()).await {
                    // The gap in the sequence tells those who listen.
                    tracing::debug!(%error, "digest not published");
                }
            }
            if done.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// What changed in any lane; `None` if nothing has.
    fn next(&self) -> Option<v1::Digest> {
        let mut sequence = self.sequence.lock();
        let mut digest = self.empty(false, *sequence + 1);
        for lane in &self.lanes {
            if lane.with_owned(|core| core.take_digest(&mut digest, MAX_DEVICES)) == Some(true) {
                break;
            }
        }
        if digest.device_ids.is_empty() {
            return None;
        }
        *sequence += 1;
        Some(digest)
    }

    /// Answers who asks for everything, until `stop`.
    pub(crate) async fn serve(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let region = &self.config.region;
        let mut all = self.bus.serve(&subject::digest_full(region)).await?;
        let mut own = self.bus.serve(&subject::digest_of(region, &self.config.id)).await?;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                request = all.next() => {
                    let Some(request) = request else { return Ok(()) };
                    self.answer(request).await;
                }
                request = own.next() => {
                    let Some(request) = request else { return Ok(()) };
                    let Ok(asked) = v1::DigestRequest::decode(request.payload.clone()) else { continue };
                    (request.reply)(self.page(&asked).encode_to_vec().into());
                }
            }
        }
    }

    /// One page of the region's. When a collector does not answer, nobody is answered: who asks tries again.
    async fn answer(&self, request: Request) {
        let Ok(asked) = v1::DigestRequest::decode(request.payload.clone()) else { return };
        let members: Vec<String> = {
            let members = self.shares.members.lock();
            members.present(boot_us()).into_iter().map(str::to_owned).collect()
        };
        let (after, named) = asked.after.split_at(asked.after.len().min(ID_BYTES));
        let turn = std::str::from_utf8(named).ok().filter(|named| !named.is_empty());
        let turn = match turn.or(members.first().map(String::as_str)) {
            Some(turn) => turn.to_owned(),
            None => self.config.id.clone(),
        };
        // All zeros stand for the collector's beginning.
        let after = if after.iter().all(|byte| *byte == 0) { Bytes::new() } else { Bytes::copy_from_slice(after) };
        let asked = v1::DigestRequest { after };
        let mut page = if turn == self.config.id {
            self.page(&asked)
        } else {
            let subject = subject::digest_of(&self.config.region, &turn);
            match self.bus.request(&subject, asked.encode_to_vec().into(), PAGE_WAIT).await.map(v1::Digest::decode) {
                Ok(Ok(page)) => page,
                // It has gone, and its lanes with it to others.
                Err(_) if !self.shares.is_there(&turn) => self.empty(true, *self.sequence.lock()),
                Ok(Err(_)) | Err(_) => return,
            }
        };
        if !page.next.is_empty() {
            page.next = [page.next.as_ref(), turn.as_bytes()].concat().into();
        } else if let Some(next) = members.iter().find(|member| **member > turn) {
            page.next = [[0; ID_BYTES].as_slice(), next.as_bytes()].concat().into();
        }
        (request.reply)(page.encode_to_vec().into());
    }

    fn page(&self, asked: &v1::DigestRequest) -> v1::Digest {
        let after = DeviceId::from_slice(&asked.after);
        let mut digest = self.empty(true, *self.sequence.lock());
        // An id that no lane knows any more begins again from the first.
        let knows = |lane: &Arc<LaneShared>, id| lane.with_owned(|core| core.knows(id)) == Some(true);
        let from = after.and_then(|id| self.lanes.iter().position(|lane| knows(lane, id)));
        let mut after = after.filter(|_| from.is_some());
        for lane in self.lanes.iter().skip(from.unwrap_or(0)) {
            let from = after.take();
            let Some(is_full) = lane.with_owned(|core| core.page_digest(from, &mut digest, MAX_DEVICES)) else {
                continue;
            };
            // A full page asks for more even if nothing is left: the next one is then empty.
            if is_full || digest.device_ids.len() >= MAX_DEVICES {
                digest.next = digest.device_ids.last().cloned().unwrap_or_else(Bytes::new);
                break;
            }
        }
        digest
    }
}

/// Hears which devices are looked at, until `stop`.
pub(crate) async fn watch(
    bus: Arc<dyn Bus>,
    lanes: Vec<Arc<LaneShared>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut watches = bus.subscribe(subject::WATCH).await?;
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = watches.next() => received,
        };
        match received {
            None => return Ok(()),
            // Watches are repeated by who looks.
            Some(Received::Lagged(_)) => {}
            Some(Received::Message { payload, .. }) => {
                let Ok(watch) = v1::Watch::decode(payload) else { continue };
                for lane in &lanes {
                    if let Some(core) = lane.core.lock().as_mut() {
                        core.handle_watch(&watch);
                    }
                }
            }
        }
    }
}
