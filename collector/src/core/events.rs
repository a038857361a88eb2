//! What the history is told of connections: a function of the stream's entries alone, so that a batch
//! that is driven again names the same events.

use super::{bounds, pending::Pending};
use breeze_proto::{id::DeviceId, v1};
use breeze_store::history::EventKind;
use serde_json::json;
use std::net::SocketAddr;

/// Events of one device in a batch; a connection that flaps faster is cut short and counted.
pub const MAX_PER_DEVICE: u8 = 16;
/// Events of a batch. One entry of the stream may bring thousands, when a relay's devices come back.
pub const MAX_EVENTS: usize = 16_384;
/// Events after which a batch is full.
pub(super) const FULL_EVENTS: usize = 2_048;
/// Above this (the year 2105) no engine takes a time.
const MAX_EVENT_US: u64 = 4_260_000_000_000_000;

/// An event and the entry that caused it, which will name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEvent {
    pub cause: Cause,
    pub device: DeviceId,
    pub kind: EventKind,
    pub summary: String,
    /// JSON.
    pub details: String,
}

/// An entry that a relay put into the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// In the stream.
    pub position: u64,
    /// Within what is at that position.
    pub ordinal: u32,
    pub received_us: u64,
}

impl Pending {
    /// Adds an event of the device, a number of the core's, if there is room.
    pub(super) fn add_event(&mut self, number: u32, event: PendingEvent) {
        let of_device = self.events_of.entry(number).or_default();
        let is_dropped =
            *of_device >= MAX_PER_DEVICE || self.events.len() >= MAX_EVENTS || !is_time(event.cause.received_us);
        if is_dropped {
            metrics::counter!("breeze_collector_events_dropped_total").increment(1);
            return;
        }
        *of_device += 1;
        self.events.push(event);
    }
}

/// Whether the history's engines take the time.
#[must_use]
pub const fn is_time(received_us: u64) -> bool {
    received_us < MAX_EVENT_US
}

pub(super) fn connected(cause: Cause, device: DeviceId, relay_id: &str, hello: &v1::Connected) -> PendingEvent {
    let text = |text: &str| bounds::text(text.to_owned());
    let address = match hello.observed_address.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_canonical().to_string(),
        Err(_) => String::new(),
    };
    let (relay, transport, version) = (text(relay_id), text(&hello.transport), text(&hello.agent_version));
    let is_standby = hello.role() == v1::ConnectionRole::Standby;
    let what = if is_standby { "Standby connection" } else { "Connected" };
    let from = if address.is_empty() { String::new() } else { format!(" from {address}") };
    let over = if transport.is_empty() { String::new() } else { format!(" over {transport}") };
    let details = json!({
        "address": address,
        "transport": transport,
        "relay_id": relay,
        "agent_version": version,
        "standby": is_standby,
    });
    PendingEvent {
        cause,
        device,
        kind: EventKind::Connected,
        summary: format!("{what}{from}{over} through relay {relay}"),
        details: details.to_string(),
    }
}

pub(super) fn disconnected(cause: Cause, device: DeviceId, relay_id: &str, end: &v1::Disconnected) -> PendingEvent {
    let (relay, reason) = (bounds::text(relay_id.to_owned()), bounds::text(end.reason.clone()));
    let why = match reason.as_str() {
        "goodbye" => "the agent ended the connection",
        "timeout" => "nothing came any more",
        "replaced" => "a newer connection took its place",
        "revoked" => "its certificate was revoked",
        "drained" => "the relay was stopped",
        "" => "the connection ended",
        _ => "the connection failed",
    };
    PendingEvent {
        cause,
        device,
        kind: EventKind::Disconnected,
        summary: format!("Disconnected from relay {relay}: {why}"),
        details: json!({ "reason": reason, "relay_id": relay }).to_string(),
    }
}
