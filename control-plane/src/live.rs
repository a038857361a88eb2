//! Live updates over one WebSocket a browser, with topics: the device list, one device, overview and
//! system status. See `docs/adr/0010-directory-and-filter-language.md` for what is sent when.
//!
//! Every queue towards a client is bounded and prefers the newest ([`outgoing`]); what a topic may
//! show is asked of the directory with the caller's scope each time it is shown.

pub mod connection;
pub mod outgoing;
pub mod roles;
pub mod tickets;
pub mod watch;

pub use connection::serve;

use crate::{api::time::now_ms, app::devices::metrics::live_values, context::App};
use breeze_bus::{Received, Subscription};
use breeze_proto::{
    id::DeviceId,
    subject,
    v1::{LiveSample, PushReply, PushRequest, RelayFrame, RoleStatus, Watch, relay_frame},
};
use breeze_store::model::{Scope, device, device_state};
use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;
use roles::{HISTORY_STEP, Roles};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use watch::{FAST_INTERVAL, LASTING, RENEW, Watchers};

/// WebSockets that one node holds.
pub const MAX_CONNECTIONS: usize = 2_000;
/// Devices that are asked for a fast heartbeat at the same time.
const PUSHES_AT_A_TIME: usize = 16;
/// How long a relay may take to pass a document on.
const PUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after the bus refused a subscription.
const RETRY: Duration = Duration::from_secs(1);

/// What the live part of this node keeps.
#[derive(Debug)]
pub struct Live {
    pub roles: Roles,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) connections: Arc<Semaphore>,
    /// Closes every socket when it is cancelled.
    pub(crate) stop: CancellationToken,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            roles: Roles::default(),
            watchers: Arc::default(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            stop: CancellationToken::new(),
        }
    }
}

/// The tasks behind the sockets: role statuses, live samples, renewal of watches. Until `stop`, when
/// the sockets close too.
///
/// # Errors
/// When the bus has closed without `stop`.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let work = async { tokio::try_join!(statuses(&app), samples(&app), watches(&app), history(&app)).map(|_| ()) };
    let ended = stop.run_until_cancelled(work).await.unwrap_or(Ok(()));
    app.live.stop.cancel();
    ended
}

async fn subscribe(app: &App, pattern: &str) -> Box<dyn Subscription> {
    loop {
        match app.bus.subscribe(pattern).await {
            Ok(subscription) => return subscription,
            Err(error) => {
                tracing::warn!(%error, pattern, "cannot be subscribed; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn statuses(app: &App) -> anyhow::Result<()> {
    let mut subscription = subscribe(app, "status.>").await;
    loop {
        match subscription.next().await {
            Some(Received::Message { payload, .. }) => match RoleStatus::decode(payload) {
                Ok(status) => app.live.roles.take(status),
                Err(_) => metrics::counter!("breeze_role_statuses_malformed_total").increment(1),
            },
            Some(Received::Lagged(_)) => {}
            None => anyhow::bail!("the bus has closed"),
        }
    }
}

async fn history(app: &App) -> anyhow::Result<()> {
    let mut ticks = interval(HISTORY_STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes when roles have had the time to speak.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        app.live.roles.record(now_ms() * 1000);
    }
}

async fn samples(app: &App) -> anyhow::Result<()> {
    let mut subscription = subscribe(app, "live.>").await;
    loop {
        match subscription.next().await {
            Some(Received::Message { payload, .. }) => pass_on(app, payload),
            Some(Received::Lagged(lost)) => metrics::counter!("breeze_ws_samples_dropped_total").increment(lost),
            None => anyhow::bail!("the bus has closed"),
        }
    }
}

fn pass_on(app: &App, payload: Bytes) {
    let Ok(live) = LiveSample::decode(payload) else {
        metrics::counter!("breeze_ws_samples_malformed_total").increment(1);
        return;
    };
    let (Some(device), Some(sample)) = (DeviceId::from_slice(&live.device_id), live.sample) else { return };
    let Some(since_us) = app.live.watchers.advance(device, sample.sample_us) else { return };
    let topic = connection::device_topic(device);
    let text = serde_json::json!({
        "topic": topic,
        "type": "sample",
        "data": { "t": sample.sample_us / 1000, "values": live_values(&sample, since_us) },
    });
    app.live.watchers.dispatch(device, &topic, &Arc::from(text.to_string()));
}

/// Renews watches: all of them each [`RENEW`], new ones at once.
async fn watches(app: &App) -> anyhow::Result<()> {
    let mut ticks = interval(RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: HashSet<DeviceId> = HashSet::new();
    loop {
        let all = tokio::select! {
            _ = ticks.tick() => true,
            () = app.live.watchers.added() => false,
        };
        let devices: HashSet<DeviceId> = app.live.watchers.devices().into_iter().collect();
        let asked: Vec<DeviceId> = devices.iter().filter(|device| all || !known.contains(device)).copied().collect();
        known = devices;
        if !asked.is_empty() {
            announce(app, &asked).await;
        }
    }
}

async fn announce(app: &App, devices: &[DeviceId]) {
    let watch = Watch {
        device_ids: devices.iter().map(|device| Bytes::copy_from_slice(&device.to_bytes())).collect(),
        until_us: now_ms() * 1000 + LASTING.as_micros() as u64,
    };
    if let Err(error) = app.bus.publish(subject::WATCH, watch.encode_to_vec().into()).await {
        tracing::warn!(%error, "collectors were not told who is watched");
    }
    let pushes = futures_util::stream::iter(devices.iter().copied());
    pushes
        .for_each_concurrent(PUSHES_AT_A_TIME, |device| async move {
            if let Err(error) = hurry(app, device).await {
                tracing::debug!(device.id = %device, %error, "the device was not asked for a fast heartbeat");
            }
        })
        .await;
}

/// Asks a device for a heartbeat each second, through the relay that held it last.
async fn hurry(app: &App, device: DeviceId) -> anyhow::Result<()> {
    let Some((_, facts)) = device_state::facts(&*app.state, device).await? else { return Ok(()) };
    let Some(connection) = facts.connection.filter(|connection| !connection.relay_id.is_empty()) else {
        return Ok(());
    };
    let seen = device::find(&*app.state, &Scope::system("a watched device"), device).await?;
    let document = app.authority.fast_config(device, &seen.config().home_region, FAST_INTERVAL, LASTING)?;
    let push = PushRequest {
        device_id: Bytes::copy_from_slice(&device.to_bytes()),
        session_epoch: 0,
        frame: Some(RelayFrame { body: Some(relay_frame::Body::Document(document)) }),
    };
    let subject = subject::relay_push(&connection.relay_id);
    let reply = app.bus.request(&subject, push.encode_to_vec().into(), PUSH_TIMEOUT).await?;
    if !PushReply::decode(reply)?.delivered {
        metrics::counter!("breeze_ws_pushes_not_here_total").increment(1);
    }
    Ok(())
}
