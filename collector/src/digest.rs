//! Volatile attributes of devices for the directories: what changed, every second; everything, page
//! by page, for who asks.

use crate::{Config, clock::now_us, lane::LaneShared};
use breeze_bus::{Bus, Received};
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

/// Makes and tells digests of all lanes that this process owns.
#[derive(Debug)]
pub(crate) struct Digests {
    config: Arc<Config>,
    bus: Arc<dyn Bus>,
    lanes: Vec<Arc<LaneShared>>,
    source: String,
    sequence: Mutex<u64>,
}

impl Digests {
    pub(crate) fn new(config: Arc<Config>, bus: Arc<dyn Bus>, lanes: Vec<Arc<LaneShared>>) -> Self {
        let source = format!("{}-{}", config.id, now_us());
        Self { config, bus, lanes, source, sequence: Mutex::new(0) }
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

    /// Publishes what changed until `stop`, and once more then.
    pub(crate) async fn publish(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let subject = subject::digest(&self.config.region);
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            while let Some(digest) = self.next() {
                if let Err(error) = self.bus.publish(&subject, digest.encode_to_vec().into()).await {
                    // The gap in the sequence tells those who listen.
                    tracing::debug!(%error, "digest not published");
                }
            }
            if stopping {
                return Ok(());
            }
        }
    }

    /// What changed in any lane; `None` if nothing has.
    fn next(&self) -> Option<v1::Digest> {
        let mut sequence = self.sequence.lock();
        let mut digest = self.empty(false, *sequence + 1);
        for lane in &self.lanes {
            if let Some(core) = lane.core.lock().as_mut()
                && core.take_digest(&mut digest, MAX_DEVICES)
            {
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
        let mut service = self.bus.serve(&subject::digest_full(&self.config.region)).await?;
        loop {
            let request = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                request = service.next() => request,
            };
            let Some(request) = request else { return Ok(()) };
            let Ok(asked) = v1::DigestRequest::decode(request.payload.clone()) else { continue };
            (request.reply)(self.page(&asked).encode_to_vec().into());
        }
    }

    fn page(&self, asked: &v1::DigestRequest) -> v1::Digest {
        let after = DeviceId::from_slice(&asked.after);
        let mut digest = self.empty(true, *self.sequence.lock());
        // An id that no lane knows any more begins again from the first.
        let knows = |lane: &Arc<LaneShared>, id| lane.core.lock().as_ref().is_some_and(|core| core.knows(id));
        let from = after.and_then(|id| self.lanes.iter().position(|lane| knows(lane, id)));
        let mut after = after.filter(|_| from.is_some());
        for lane in self.lanes.iter().skip(from.unwrap_or(0)) {
            let core = lane.core.lock();
            let Some(core) = core.as_ref() else { continue };
            // A full page asks for more even if nothing is left: the next one is then empty.
            if core.page_digest(after.take(), &mut digest, MAX_DEVICES) || digest.device_ids.len() >= MAX_DEVICES {
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
