//! Tells relays what the lane holds of a device that says hello, and whether it may stay.

use crate::{clock::now_us, lane::LaneDeps};
use anyhow::{Context as _, anyhow};
use breeze_bus::Request;
use breeze_proto::{limits::HELD_WAIT, subject, v1};
use prost::Message as _;
use std::collections::VecDeque;
use tokio::time::Instant;

/// Requests that wait for the lane to be read up.
const MAX_WAITING: usize = 4096;

/// A request, and the position up to which the lane must have been read: numbers that are stored and
/// not yet read would be missed otherwise.
struct Waiting {
    position: u64,
    until: Instant,
    request: Request,
}

/// Serves for as long as the lane is owned; returns only when that is no longer possible.
pub(crate) async fn serve(deps: &LaneDeps) -> anyhow::Error {
    match serve_until_failure(deps).await {
        Ok(()) => anyhow!("the bus has closed"),
        Err(error) => error.context("answering relays"),
    }
}

async fn serve_until_failure(deps: &LaneDeps) -> anyhow::Result<()> {
    let lane = deps.shared.lane;
    let stream = subject::lane_stream(&deps.config.region, lane);
    let mut service = deps.bus.serve(&subject::lane_held(&deps.config.region, lane)).await.context("serving")?;
    let mut handled = deps.shared.handled.subscribe();
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    loop {
        tokio::select! {
            request = service.next() => {
                let Some(request) = request else { return Ok(()) };
                if waiting.len() >= MAX_WAITING {
                    metrics::counter!("breeze_collector_held_refused_total").increment(1);
                    continue;
                }
                // Left to the relay's deadline: it asks again, and the lane is worked on meanwhile.
                let position = match deps.bus.extent(&stream).await {
                    Ok(extent) => extent.last,
                    Err(error) => {
                        metrics::counter!("breeze_collector_held_refused_total").increment(1);
                        tracing::debug!(%lane, %error, "a relay is not answered: the lane cannot be measured");
                        continue;
                    }
                };
                waiting.push_back(Waiting { position, until: Instant::now() + HELD_WAIT, request });
            }
            changed = handled.changed(), if !waiting.is_empty() => changed.context("the lane is gone")?,
        }
        let read_up_to = *handled.borrow_and_update();
        let now = Instant::now();
        waiting.retain(|waiting| waiting.until > now);
        // Positions only rise, so the first that has to wait holds all behind it.
        while waiting.front().is_some_and(|waiting| waiting.position <= read_up_to) {
            if let Some(Waiting { request, .. }) = waiting.pop_front() {
                answer(deps, request);
            }
        }
    }
}

fn answer(deps: &LaneDeps, request: Request) {
    let Ok(asked) = v1::HeldRequest::decode(request.payload.clone()) else {
        metrics::counter!("breeze_collector_held_malformed_total").increment(1);
        return;
    };
    let reply = deps.shared.with_owned(|core| core.held(&asked, now_us()));
    if let Some(mut reply) = reply {
        // A relay of another region chose the lane by the number of lanes there.
        reply.lanes = deps.config.lanes.into();
        (request.reply)(reply.encode_to_vec().into());
    }
}
