//! One WebSocket: what its client subscribed to, and when it is told.
//!
//! Two halves run side by side in one task. The reader takes requests and, each [`TICK`], looks what
//! its topics have to tell and queues it; the writer sends what is queued, one message at a time. So
//! a client that does not read stops only its own writer.

use super::{
    outgoing::{Item, Outgoing},
    watch::Watcher,
};
use crate::{
    api::{
        Principal, Timestamp,
        access::{DevicesRead, Permission, StatusRead, grants},
        time::now_ms,
    },
    app::devices,
    context::App,
    directory::{DeviceFigures, DeviceSummary, Seen},
    routes::{overview, status},
};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use breeze_proto::id::DeviceId;
use breeze_store::model::session;
use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{MissedTickBehavior, interval, timeout},
};

/// How often topics are looked at: changed devices are told at most twice a second.
pub const TICK: Duration = Duration::from_millis(500);
/// Overview and status are told, and the session is looked up, every so many ticks.
const SLOW_TICKS: u64 = 4;
/// Devices in one message.
pub const MAX_CHANGED: usize = 200;
/// Topics of one connection.
pub const MAX_TOPICS: usize = 64;
/// Largest message of a client, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024;
/// A client that takes longer to take one message is cut off.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a silent client is pinged.
const PING: Duration = Duration::from_secs(20);
/// A client that was silent for longer, pongs included, is gone.
const SILENCE: Duration = Duration::from_secs(65);

/// A connection ends after this long: a new ticket brings what the caller may see by then.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A close code of ours: the session was ended or has expired.
pub const CLOSE_SESSION_ENDED: u16 = 4401;
const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_POLICY: u16 = 1008;

/// What a client sends.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming {
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    unsubscribe: Vec<String>,
    ping: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Devices,
    Overview,
    Status,
    Device(DeviceId),
}

impl Topic {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "devices" => Some(Self::Devices),
            "overview" => Some(Self::Overview),
            "status" => Some(Self::Status),
            _ => text.strip_prefix("device:")?.parse().ok().map(Self::Device),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Devices => "devices".to_owned(),
            Self::Overview => "overview".to_owned(),
            Self::Status => "status".to_owned(),
            Self::Device(id) => device_topic(id),
        }
    }

    const fn permission(self) -> &'static str {
        match self {
            Self::Devices | Self::Overview | Self::Device(_) => DevicesRead::NAME,
            Self::Status => StatusRead::NAME,
        }
    }
}

pub(super) fn device_topic(device: DeviceId) -> String {
    format!("device:{device}")
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By the client, or the network.
    Gone,
    ShuttingDown,
    /// It has lived for [`LIFETIME`].
    Renewal,
    SessionEnded,
    TooSlow,
    TooMuch,
}

impl End {
    const fn close(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Gone => None,
            Self::ShuttingDown => Some((CLOSE_GOING_AWAY, "the server is stopping; connect again")),
            Self::Renewal => Some((CLOSE_GOING_AWAY, "connect again with a new ticket")),
            Self::SessionEnded => Some((CLOSE_SESSION_ENDED, "the session has ended; sign in again")),
            Self::TooSlow => Some((CLOSE_POLICY, "messages were not read in time")),
            Self::TooMuch => Some((CLOSE_POLICY, "too many requests at once")),
        }
    }
}

/// Serves a socket until it ends; `_place` is its share of [`super::MAX_CONNECTIONS`].
pub async fn serve(app: App, principal: Arc<Principal>, socket: WebSocket, _place: OwnedSemaphorePermit) {
    metrics::gauge!("breeze_ws_connections").increment(1.0);
    let (mut sink, stream) = socket.split();
    let queue = Arc::new(Outgoing::default());
    let changed = Arc::new(Mutex::new(None));
    let mut reader = Reader {
        watcher: app.live.watchers.connection(Arc::clone(&queue)),
        app: app.clone(),
        principal: Arc::clone(&principal),
        queue: Arc::clone(&queue),
        changed: Arc::clone(&changed),
        topics: BTreeSet::new(),
        told: BTreeMap::new(),
        ticks: 0,
        heard: Instant::now(),
        opened: Instant::now(),
    };
    let stop = app.live.stop.clone();
    let writer = Writer { app, principal, queue, changed };
    let end = tokio::select! {
        biased;
        () = stop.cancelled_owned() => End::ShuttingDown,
        end = reader.run(stream) => end,
        end = writer.run(&mut sink) => end,
    };
    drop(reader);
    if let Some((code, reason)) = end.close() {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        // Best effort: the peer may be gone or not reading.
        let _sent = timeout(Duration::from_secs(1), sink.send(Message::Close(Some(frame)))).await;
    }
    metrics::gauge!("breeze_ws_connections").decrement(1.0);
    metrics::counter!("breeze_ws_closed_total", "end" => format!("{end:?}")).increment(1);
}

struct Reader {
    app: App,
    principal: Arc<Principal>,
    queue: Arc<Outgoing>,
    changed: Arc<Mutex<Option<Seen>>>,
    watcher: Watcher,
    topics: BTreeSet<Topic>,
    /// Which state of a device was told last.
    told: BTreeMap<DeviceId, u64>,
    ticks: u64,
    heard: Instant,
    opened: Instant,
}

impl Reader {
    async fn run(&mut self, mut stream: SplitStream<WebSocket>) -> End {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = stream.next() => {
                    self.heard = Instant::now();
                    let end = match message {
                        None | Some(Err(_) | Ok(Message::Close(_))) => Some(End::Gone),
                        Some(Ok(Message::Text(text))) => self.take(text.as_str()).await,
                        Some(Ok(Message::Binary(_))) => self.error(None, "Send text messages of JSON."),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
                    };
                    if let Some(end) = end {
                        return end;
                    }
                }
                _ = ticks.tick() => {
                    if let Some(end) = self.tick().await {
                        return end;
                    }
                }
            }
        }
    }

    async fn take(&mut self, text: &str) -> Option<End> {
        let incoming: Incoming = match serde_json::from_str(text) {
            Ok(incoming) => incoming,
            Err(_) => {
                return self.error(None, "Send {\"subscribe\":[…]}, {\"unsubscribe\":[…]} or {\"ping\":n}.");
            }
        };
        if let Some(n) = incoming.ping
            && !self.queue.answer(serde_json::json!({ "pong": n }).to_string())
        {
            return Some(End::TooMuch);
        }
        for name in &incoming.unsubscribe {
            if let Some(topic) = Topic::parse(name) {
                self.unsubscribe(topic);
            }
        }
        for name in &incoming.subscribe {
            if let Err(detail) = self.subscribe(name)
                && let Some(end) = self.error(Some(name), detail)
            {
                return Some(end);
            }
        }
        if !incoming.subscribe.is_empty() || !incoming.unsubscribe.is_empty() {
            let topics: Vec<String> = self.topics.iter().map(|topic| topic.name()).collect();
            if !self.queue.answer(serde_json::json!({ "type": "subscribed", "topics": topics }).to_string()) {
                return Some(End::TooMuch);
            }
            self.show(true).await;
        }
        None
    }

    fn subscribe(&mut self, name: &str) -> Result<(), &'static str> {
        let topic = Topic::parse(name).ok_or("There is no such topic: devices, overview, status or device:<id>.")?;
        if !grants(self.principal.role, topic.permission()) {
            return Err("Your role does not allow this topic.");
        }
        if self.topics.len() >= MAX_TOPICS && !self.topics.contains(&topic) {
            return Err("This connection has as many topics as it may; unsubscribe from one first.");
        }
        match topic {
            Topic::Devices => {
                self.changed.lock().get_or_insert_with(|| self.app.directory.seen_all());
            }
            Topic::Device(id) => {
                if !self.app.directory.contains(&self.principal.scope, id) {
                    return Err(NO_DEVICE);
                }
                self.watcher.watch(id)?;
            }
            Topic::Overview | Topic::Status => {}
        }
        self.topics.insert(topic);
        Ok(())
    }

    fn unsubscribe(&mut self, topic: Topic) {
        if !self.topics.remove(&topic) {
            return;
        }
        match topic {
            Topic::Devices => *self.changed.lock() = None,
            Topic::Device(id) => {
                self.watcher.unwatch(id);
                self.told.remove(&id);
            }
            Topic::Overview | Topic::Status => {}
        }
        self.queue.forget(&topic.name());
    }

    async fn tick(&mut self) -> Option<End> {
        self.ticks += 1;
        let slow = self.ticks.is_multiple_of(SLOW_TICKS);
        if self.heard.elapsed() > SILENCE {
            return Some(End::Gone);
        }
        if self.opened.elapsed() > LIFETIME {
            return Some(End::Renewal);
        }
        if slow && self.session_is_over().await {
            return Some(End::SessionEnded);
        }
        self.show(slow).await
    }

    async fn session_is_over(&self) -> bool {
        match session::find(&*self.app.state, self.principal.session_id()).await {
            Ok(found) => found.is_none_or(|session| session.is_over(now_ms())),
            // A store that does not answer ends nobody's session; the next look tells.
            Err(_) => false,
        }
    }

    /// Queues what each topic has to tell.
    async fn show(&mut self, slow: bool) -> Option<End> {
        let principal = Arc::clone(&self.principal);
        let scope = &principal.scope;
        for topic in self.topics.clone() {
            match topic {
                Topic::Devices => self.queue.devices(),
                Topic::Overview if slow => {
                    self.state("overview", "overview", &overview::overview(&self.app, scope));
                }
                Topic::Status if slow => match status::status(&self.app).await {
                    Ok(status) => self.state("status", "status", &status),
                    Err(_) => metrics::counter!("breeze_ws_states_failed_total").increment(1),
                },
                Topic::Overview | Topic::Status => {}
                Topic::Device(id) => match self.app.directory.told(scope, id) {
                    None => {
                        self.unsubscribe(topic);
                        if let Some(end) = self.error(Some(&topic.name()), NO_DEVICE) {
                            return Some(end);
                        }
                    }
                    Some(sequence) if self.told.get(&id) != Some(&sequence) => {
                        if let Ok(device) = devices::detail(&self.app, scope, id).await {
                            self.told.insert(id, sequence);
                            self.state(&topic.name(), "device", &device);
                        }
                    }
                    Some(_) => {}
                },
            }
        }
        None
    }

    fn state(&self, topic: &str, kind: &str, data: &impl Serialize) {
        self.queue.state(topic, message(topic, kind, data));
    }

    fn error(&self, topic: Option<&str>, detail: &str) -> Option<End> {
        let topic = topic.map(|topic| topic.chars().take(64).collect::<String>());
        let text = serde_json::json!({ "type": "error", "topic": topic, "detail": detail }).to_string();
        if self.queue.answer(text) { None } else { Some(End::TooMuch) }
    }
}

const NO_DEVICE: &str = "There is no such device, or you may not see it.";

struct Writer {
    app: App,
    principal: Arc<Principal>,
    queue: Arc<Outgoing>,
    changed: Arc<Mutex<Option<Seen>>>,
}

impl Writer {
    async fn run(&self, sink: &mut SplitSink<WebSocket, Message>) -> End {
        loop {
            let message = match timeout(PING, self.queue.next()).await {
                Err(_) => Message::Ping(Bytes::new()),
                Ok(Item::Text(text)) => Message::Text(Utf8Bytes::from(&*text)),
                Ok(Item::Devices) => match self.changed_devices() {
                    Some(text) => Message::Text(text.into()),
                    None => continue,
                },
            };
            match timeout(SEND_TIMEOUT, sink.send(message)).await {
                Err(_) => return End::TooSlow,
                Ok(Err(_)) => return End::Gone,
                Ok(Ok(())) => metrics::counter!("breeze_ws_messages_sent_total").increment(1),
            }
        }
    }

    fn changed_devices(&self) -> Option<String> {
        let mut seen = self.changed.lock();
        let changes = self.app.directory.changes(&self.principal.scope, seen.as_mut()?, MAX_CHANGED);
        drop(seen);
        if changes.is_empty() {
            return None;
        }
        let gone = changes.removed.iter().map(|id| Changed::Gone { id: *id, status: "decommissioned", at: now() });
        let whole = changes.devices.iter().map(Changed::Whole);
        let figures = changes.figures.iter().map(Changed::Figures);
        let devices: Vec<Changed<'_>> = gone.chain(whole).chain(figures).collect();
        Some(message("devices", "changed", &serde_json::json!({ "devices": devices })))
    }
}

/// A device as a change tells of it: with its id, and what may have changed.
#[derive(Serialize)]
#[serde(untagged)]
enum Changed<'a> {
    Gone {
        id: DeviceId,
        status: &'static str,
        #[serde(rename = "status_since")]
        at: Timestamp,
    },
    Whole(&'a DeviceSummary),
    Figures(&'a DeviceFigures),
}

fn now() -> Timestamp {
    Timestamp(now_ms())
}

fn message(topic: &str, kind: &str, data: &impl Serialize) -> String {
    serde_json::json!({ "topic": topic, "type": kind, "data": data }).to_string()
}
