//! The owner's side of a hand-over: a snapshot for the successor to follow the stream from, and then
//! the lane itself, when nothing of it is left to do here.
//!
//! Only the collector that this one sees entitled to the lane gets either, so that two with different
//! views of the members do not pass a lane to and fro.

use super::{Halt, LaneDeps, insert::bounded, owner::Owner};
use crate::{clock::now_us, members::Plan};
use anyhow::{Context as _, anyhow};
use breeze_bus::Request;
use breeze_proto::{subject, v1};
use bytes::Bytes;
use prost::Message as _;
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

/// How long a snapshot is kept for its pages to be fetched, and the stream with it.
const SNAPSHOT_KEPT: Duration = Duration::from_secs(30);
/// How long the owner may take to make one.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(5);
/// How long a successor waits for the lane; the owner goes on if it could not be given by then.
pub(super) const YIELD_WAIT: Duration = Duration::from_secs(8);
/// The last batch's inserts; nobody works on the lane meanwhile.
const LAST_BATCH_WAIT: Duration = Duration::from_secs(2);
/// How long a lane that was given waits for its successor alone.
const GIVEN_MS: u64 = 5_000;
const MAX_ASKS: usize = 16;

/// What a successor asks of the owner's loop.
#[derive(Debug)]
pub(super) enum Ask {
    Follow(oneshot::Sender<Result<Vec<Bytes>, &'static str>>),
    Yield { to: String, request: Request },
}

pub(super) fn channel() -> (mpsc::Sender<Ask>, mpsc::Receiver<Ask>) {
    mpsc::channel(MAX_ASKS)
}

/// A successor that waits for the lane.
#[derive(Debug)]
pub(super) struct Giving {
    to: String,
    request: Request,
    until: Instant,
}

/// Entries behind `position` stay in the stream for a successor that has a snapshot as of it.
#[derive(Debug)]
pub(super) struct TrimHold {
    pub(super) position: u64,
    until: Instant,
}

impl TrimHold {
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// A snapshot whose pages are being fetched.
struct Kept {
    pages: Vec<Bytes>,
    number: u64,
    until: Instant,
}

/// Serves for as long as the lane is owned; returns only when that is no longer possible.
pub(super) async fn serve(deps: &LaneDeps, asks: mpsc::Sender<Ask>) -> anyhow::Error {
    match serve_until_failure(deps, asks).await {
        Ok(()) => anyhow!("the bus has closed"),
        Err(error) => error.context("answering successors"),
    }
}

async fn serve_until_failure(deps: &LaneDeps, asks: mpsc::Sender<Ask>) -> anyhow::Result<()> {
    let (region, lane) = (&deps.config.region, deps.shared.lane);
    let mut follows = deps.bus.serve(&subject::lane_follow(region, lane)).await.context("serving")?;
    let mut yields = deps.bus.serve(&subject::lane_yield(region, lane)).await.context("serving")?;
    let mut kept: Option<Kept> = None;
    loop {
        let until = kept.as_ref().map(|kept| kept.until);
        tokio::select! {
            request = follows.next() => {
                let Some(request) = request else { return Ok(()) };
                let Ok(asked) = v1::FollowLane::decode(request.payload.clone()) else { continue };
                let page = page(deps, &asks, &mut kept, &asked).await;
                (request.reply)(page.unwrap_or_else(|refusal| {
                    v1::LanePage { refusal: refusal.into(), ..v1::LanePage::default() }.encode_to_vec().into()
                }));
            }
            request = yields.next() => {
                let Some(request) = request else { return Ok(()) };
                let Ok(asked) = v1::YieldLane::decode(request.payload.clone()) else { continue };
                if deps.plan() == Plan::Of(asked.collector_id.clone()) {
                    let ask = Ask::Yield { to: asked.collector_id, request };
                    asks.send(ask).await.map_err(|_| anyhow!("the lane is gone"))?;
                } else {
                    refuse(request, "the lane is not yours");
                }
            }
            () = over(until) => kept = None,
        }
    }
}

async fn over(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn page(
    deps: &LaneDeps,
    asks: &mpsc::Sender<Ask>,
    kept: &mut Option<Kept>,
    asked: &v1::FollowLane,
) -> Result<Bytes, &'static str> {
    if deps.plan() != Plan::Of(asked.collector_id.clone()) {
        return Err("the lane is not yours");
    }
    if asked.snapshot == 0 {
        let (reply, pages) = oneshot::channel();
        asks.try_send(Ask::Follow(reply)).map_err(|_| "the owner is busy")?;
        let pages = timeout(SNAPSHOT_WAIT, pages).await.map_err(|_| "the owner is busy")?;
        let pages = pages.map_err(|_| "the lane is gone")??;
        let first = pages.first().and_then(|page| v1::LanePage::decode(page.clone()).ok());
        let number = first.ok_or("the snapshot is empty")?.snapshot;
        *kept = Some(Kept { pages, number, until: Instant::now() + SNAPSHOT_KEPT });
    }
    let held = kept.as_ref().filter(|kept| asked.snapshot == 0 || kept.number == asked.snapshot);
    held.and_then(|kept| kept.pages.get(asked.page as usize).cloned()).ok_or("the snapshot is gone")
}

fn refuse(request: Request, why: &str) {
    let reply = v1::YieldReply { refusal: why.to_owned(), ..v1::YieldReply::default() };
    (request.reply)(reply.encode_to_vec().into());
}

impl Owner<'_> {
    pub(super) fn handle_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Follow(reply) => {
                let pages = self.snapshot();
                // Whoever asked may have gone.
                let _ = reply.send(pages);
            }
            Ask::Yield { to, request } if self.giving.is_none() => {
                self.giving = Some(Giving { to, request, until: Instant::now() + YIELD_WAIT });
            }
            Ask::Yield { request, .. } => refuse(request, "another asked before"),
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Bytes>, &'static str> {
        if self.seen > self.handled {
            return Err("the metrics store is behind");
        }
        let (position, generation) = (self.handled, self.boundary.generation);
        self.trim_hold = Some(TrimHold { position, until: Instant::now() + SNAPSHOT_KEPT });
        Ok(self.with_core(|core| core.export(now_us().max(1), position, generation)))
    }

    /// Gives the lane to a successor that waits, as soon as no batch is under way.
    pub(super) async fn give_if_asked(&mut self) -> Result<(), Halt> {
        let Some(giving) = self.giving.as_ref() else { return Ok(()) };
        let refusal = if self.seen > self.handled {
            "the metrics store is behind"
        } else if Instant::now() >= giving.until {
            "a batch is under way"
        } else if self.inserting.is_some() {
            return Ok(());
        } else if !self.finish_for_successor(LAST_BATCH_WAIT).await? {
            "the metrics store does not take the last batch"
        } else {
            ""
        };
        let Some(giving) = self.giving.take() else { return Ok(()) };
        if refusal.is_empty() {
            return self.give(giving).await;
        }
        refuse(giving.request, refusal);
        Ok(())
    }

    /// The last commit of this ownership: everything is applied, and the lease is the successor's.
    async fn give(&mut self, giving: Giving) -> Result<(), Halt> {
        let last = self.record_first_parts().await?;
        let boundary = v1::LaneBoundary { applied_through: self.boundary.last, ..self.boundary.clone() };
        let (live_since_us, ticked_us) = self.with_core(|core| core.time());
        self.check_fence()?;
        let until_ms = now_us() / 1000 + GIVEN_MS;
        let given = self.record.hand_over(&self.lease, self.at, (&boundary, &last), &giving.to, until_ms);
        if !bounded(self.call_time(), given).await.context("giving the lane away")? {
            return Err(Halt::Lost);
        }
        self.deps.shared.set_fence(0);
        let reply = v1::YieldReply {
            yielded: true,
            through: boundary.last,
            generation: boundary.generation,
            live_since_us,
            ticked_us,
            ..v1::YieldReply::default()
        };
        (giving.request.reply)(reply.encode_to_vec().into());
        metrics::counter!("breeze_collector_lanes_given_total").increment(1);
        tracing::info!(lane = %self.deps.shared.lane, to = giving.to, through = boundary.last, "lane given away");
        Err(Halt::Given)
    }
}
