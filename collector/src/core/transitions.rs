//! Devices that come online and go offline, as the history is told of it.
//!
//! A change is named by what it is about: the device, which way, and the sign of it that came first or
//! last. Whoever finds it, the owner, a successor that follows, or one that starts again from the stores,
//! names it the same. It waits in the device's newest values until the history has it: those are stored at
//! once when presence changes, so it outlives a crash, and a history that does not answer holds up nothing.

use super::{
    LaneCore, bounds,
    budget::{LeftOut, Subject, hour_of},
};
use breeze_proto::{
    id::DeviceId,
    v1::{self, PresenceChange},
};
use breeze_store::history::{Event, EventId, EventKind};
use serde_json::json;

/// Changes of one device that wait for the history; more are counted.
const MAX_UNTOLD: usize = 8;
/// Hours of which something was left out, that wait to be told; more are forgotten.
const MAX_NOTICES: usize = 4_096;
/// Between what ended or began a connection and the change that it made, so that the lists show it after.
const AFTER_US: u64 = 1_000;
const HOUR_MS: u64 = 3_600_000;

/// Silence, when nothing tells more.
pub(super) const SILENCE: &str = "silence";
/// The relay that had the connection is not heard of either.
pub(super) const RELAY_GONE: &str = "relay_gone";

/// Why a connection's end took its device offline, by what its relay said.
pub(super) fn cause_of(reason: &str) -> &'static str {
    match reason {
        "goodbye" => "goodbye",
        "timeout" => SILENCE,
        "replaced" => "replaced",
        "revoked" => "revoked",
        "drained" => "relay_stopped",
        _ => "connection_failed",
    }
}

impl LaneCore {
    /// Relays of which nothing is heard any more, by name.
    pub fn set_gone_relays(&mut self, gone: Vec<String>) {
        self.gone_relays = gone;
    }

    /// The device has come online with something that was received at `at_us` through the relay;
    /// `before_us`: when it was heard of before that, 0: never.
    pub(super) fn note_online(&mut self, at: u32, at_us: u64, relay: u16, before_us: u64) {
        let change = PresenceChange {
            at_us: at_us + AFTER_US,
            presence: v1::Presence::Online.into(),
            cause: String::new(),
            relay_id: self.relay_name(relay),
            before_us,
        };
        self.note_change(at, change);
    }

    /// How the device would go offline now; its presence must not have changed yet.
    pub(super) fn offline_change(&self, at: u32) -> PresenceChange {
        let device = &self.devices[at as usize];
        let since_us = device.latest.presence_since_us;
        let (end_us, relay, cause) = match device.presence.end() {
            Some((key, at_us, reason)) => (at_us, self.relay_name(key.relay), cause_of(reason)),
            None => {
                let relay = device.presence.primary().map_or_else(String::new, |key| self.relay_name(key.relay));
                let is_gone = !relay.is_empty() && self.gone_relays.contains(&relay);
                (device.latest.last_seen_us, relay, if is_gone { RELAY_GONE } else { SILENCE })
            }
        };
        PresenceChange {
            // Behind its coming online, whatever came of it since.
            at_us: end_us.max(since_us + AFTER_US) + AFTER_US,
            presence: v1::Presence::Offline.into(),
            cause: cause.to_owned(),
            relay_id: relay,
            before_us: since_us,
        }
    }

    pub(super) fn note_change(&mut self, at: u32, change: PresenceChange) {
        if !self.charge(at, Subject::Presence, change.at_us) {
            return;
        }
        let device = &mut self.devices[at as usize];
        if device.latest.untold.len() >= MAX_UNTOLD {
            self.leave_out(at, Subject::Presence);
            return;
        }
        device.latest.untold.push(change);
        self.mark_untold(at);
    }

    fn relay_name(&self, relay: u16) -> String {
        self.relays.get(usize::from(relay)).cloned().unwrap_or_default()
    }

    /// Whether an event of the device may be told.
    pub(super) fn charge(&mut self, at: u32, subject: Subject, at_us: u64) -> bool {
        let device = &mut self.devices[at as usize];
        let id = device.id;
        let charged = device.budgets[subject as usize].charge(at_us, subject.most());
        if let Some(ended) = charged.ended {
            self.notice(id, subject, ended);
        }
        if !charged.is_told {
            metrics::counter!("breeze_collector_events_left_out_total", "subject" => subject.name()).increment(1);
        }
        if charged.is_first_left_out {
            self.left_out.push((at, subject));
        }
        charged.is_told
    }

    /// Whether a change of a section may be told, and its version kept.
    pub fn charge_inventory(&mut self, at: u32, received_us: u64) -> bool {
        self.charge(at, Subject::Inventory, received_us)
    }

    fn leave_out(&mut self, at: u32, subject: Subject) {
        metrics::counter!("breeze_collector_events_left_out_total", "subject" => subject.name()).increment(1);
        if self.devices[at as usize].budgets[subject as usize].leave_out() {
            self.left_out.push((at, subject));
        }
    }

    /// Tells of hours that are over what was left out of them.
    pub(super) fn end_budgets(&mut self, now_us: u64) {
        if self.left_out.is_empty() || hour_of(now_us) == self.left_out_hour {
            return;
        }
        self.left_out_hour = hour_of(now_us);
        let mut left = std::mem::take(&mut self.left_out);
        left.retain(|(at, subject)| {
            let device = &mut self.devices[*at as usize];
            let id = device.id;
            match device.budgets[*subject as usize].end(hour_of(now_us)) {
                Some(ended) => {
                    self.notice(id, *subject, ended);
                    false
                }
                // Of this hour, or told with an event of it.
                None => device.budgets[*subject as usize] != super::budget::Budget::default(),
            }
        });
        left.dedup();
        left.append(&mut self.left_out);
        self.left_out = left;
    }

    fn notice(&mut self, device: DeviceId, subject: Subject, LeftOut { hour, events }: LeftOut) {
        if self.notices.len() >= MAX_NOTICES {
            metrics::counter!("breeze_collector_events_dropped_total").increment(1);
            return;
        }
        let details = json!({ "subject": subject.name(), "left_out": events });
        self.notices.push_back(Event {
            device,
            id: EventId::of(subject.name(), hour.into(), 1),
            at_ms: (u64::from(hour) + 1) * HOUR_MS - 1,
            kind: EventKind::LeftOut,
            summary: format!("{events} more {} in this hour are counted only", subject.words()),
            details: details.to_string(),
        });
    }

    // ---- telling ----

    pub(super) fn mark_untold(&mut self, at: u32) {
        let device = &mut self.devices[at as usize];
        if !device.dirty.untold {
            device.dirty.untold = true;
            self.untold.push_back(at);
        }
    }

    /// What the history is to be told next, `most` or a few more; [`LaneCore::handle_told`] when it has it.
    #[must_use]
    pub fn untold(&self, most: usize) -> Vec<Event> {
        let mut events: Vec<Event> = self.notices.iter().take(most).cloned().collect();
        for at in &self.untold {
            if events.len() >= most {
                break;
            }
            let device = &self.devices[*at as usize];
            events.extend(device.latest.untold.iter().map(|change| event(device.id, change, &self.region)));
        }
        events
    }

    /// The history has these.
    pub fn handle_told(&mut self, events: &[Event]) {
        while self.notices.front().is_some_and(|notice| events.contains(notice)) {
            self.notices.pop_front();
        }
        for told in events {
            let Some(at) = self.index.get(&told.device).copied() else { continue };
            let device = &mut self.devices[at as usize];
            let before = device.latest.untold.len();
            device.latest.untold.retain(|change| id_of(change) != told.id);
            if device.latest.untold.len() < before {
                self.mark_latest_row(at);
            }
        }
        while let Some(at) = self.untold.front().copied() {
            let device = &mut self.devices[at as usize];
            if !device.latest.untold.is_empty() {
                break;
            }
            device.dirty.untold = false;
            self.untold.pop_front();
        }
    }
}

/// Which way, and of when.
fn id_of(change: &PresenceChange) -> EventId {
    let way = if change.presence() == v1::Presence::Online { "presence.online" } else { "presence.offline" };
    EventId::of(way, change.at_us, 0)
}

fn event(device: DeviceId, change: &PresenceChange, region: &str) -> Event {
    let lasted_us = change.at_us.saturating_sub(change.before_us);
    let relay = bounds::text(change.relay_id.clone());
    let (kind, summary, details) = if change.presence() == v1::Presence::Online {
        let (summary, offline_s) = match change.before_us {
            0 => ("Online for the first time".to_owned(), None),
            _ => (format!("Online again after {}", duration(lasted_us)), Some(lasted_us / 1_000_000)),
        };
        (EventKind::Online, summary, json!({ "relay_id": relay, "region": region, "offline_s": offline_s }))
    } else {
        let why = match change.cause.as_str() {
            "goodbye" => "the agent ended its connection".to_owned(),
            RELAY_GONE => format!("relay {relay} is gone, and the device did not come back through another"),
            "relay_stopped" => format!("relay {relay} was stopped, and the device did not come back through another"),
            "replaced" => "its connection was replaced, and the newer one has ended".to_owned(),
            "revoked" => "its certificate was revoked".to_owned(),
            "connection_failed" => "its connection failed, and it did not come back".to_owned(),
            _ => "nothing was heard of it any more".to_owned(),
        };
        let summary = format!("Offline: {why}");
        let cause = bounds::text(change.cause.clone());
        let online_s = lasted_us / 1_000_000;
        (
            EventKind::Offline,
            summary,
            json!({ "cause": cause, "relay_id": relay, "region": region, "online_s": online_s }),
        )
    };
    Event { device, id: id_of(change), at_ms: change.at_us / 1_000, kind, summary, details: details.to_string() }
}

/// In words, in its largest unit.
fn duration(us: u64) -> String {
    let s = us / 1_000_000;
    let (count, unit) = match s {
        0..60 => (s, "second"),
        60..3_600 => (s / 60, "minute"),
        3_600..172_800 => (s / 3_600, "hour"),
        _ => (s / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

#[cfg(test)]
mod tests;
