//! How long a heartbeat takes from the agent's sending until a person's query finds it: one heartbeat
//! at a time, whichever is sent next, is asked for through the API until it is there.

use crate::api::Api;
use breeze_proto::id::DeviceId;
use hdrhistogram::Histogram;
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two queries: the precision of what is measured, and below the rate that one client may ask at.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Later than this counts as this late.
const PATIENCE: Duration = Duration::from_secs(60);
/// The part of the history that is asked for, one point a second.
const RANGE: Duration = Duration::from_secs(120);

/// A heartbeat that was just sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) device: DeviceId,
    pub(crate) value: u32,
    pub(crate) at: Instant,
}

/// Where agents tell of what they send.
#[derive(Debug)]
pub(crate) struct Watch {
    sender: mpsc::Sender<Sent>,
    receiver: Mutex<Option<mpsc::Receiver<Sent>>>,
}

impl Default for Watch {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Watch {
    /// Kept if nobody else's is waiting to be looked for.
    pub(crate) fn sent(&self, device: DeviceId, value: u32) {
        let _one_is_enough = self.sender.try_send(Sent { device, value, at: Instant::now() });
    }

    /// Follows heartbeats until `stop`; latencies in microseconds.
    ///
    /// # Errors
    /// If the API refuses.
    pub(crate) async fn follow(&self, api: &Api, stop: &CancellationToken) -> anyhow::Result<Histogram<u64>> {
        let mut latencies = Histogram::new_with_bounds(1, PATIENCE.as_micros() as u64, 3)?;
        let taken = self.receiver.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(mut receiver) = taken else { return Ok(latencies) };
        loop {
            // What waited while the last one was looked for is old.
            while receiver.try_recv().is_ok() {}
            let sent = tokio::select! {
                () = stop.cancelled() => return Ok(latencies),
                sent = receiver.recv() => sent,
            };
            let Some(sent) = sent else { return Ok(latencies) };
            latencies.saturating_record(until_found(api, &sent).await?.as_micros() as u64);
        }
    }
}

async fn until_found(api: &Api, sent: &Sent) -> anyhow::Result<Duration> {
    let mut failures = 0;
    loop {
        let asked = Instant::now();
        match is_found(api, sent).await {
            Ok(true) => return Ok(sent.at.elapsed()),
            Ok(false) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::warn!("query: {error:#}");
                anyhow::ensure!(failures < 20, "the API does not answer: {error:#}");
            }
        }
        if sent.at.elapsed() > PATIENCE {
            tracing::warn!(device = %sent.device, "a heartbeat is not found after {PATIENCE:?}");
            return Ok(PATIENCE);
        }
        tokio::time::sleep_until((asked + ASK_AGAIN).into()).await;
    }
}

async fn is_found(api: &Api, sent: &Sent) -> anyhow::Result<bool> {
    let from = time(std::time::SystemTime::now() - RANGE)?;
    let path = format!("/devices/{}/metrics?series=process_count&step=1&from={from}", sent.device);
    let answer = api.get(&path).await?;
    let points = answer["series"][0]["points"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(points.iter().any(|point| point[3].as_f64() == Some(f64::from(sent.value))))
}

/// RFC 3339, UTC.
fn time(at: std::time::SystemTime) -> anyhow::Result<String> {
    Ok(jiff::Timestamp::try_from(at)?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
