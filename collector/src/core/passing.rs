//! What the passing of time does: devices go offline, watches end.

use super::{LaneCore, wheel};
use breeze_proto::{id::DeviceId, v1};

/// Devices of a lane that are watched at a time; further ones are not shown live.
pub(super) const MAX_WATCHED: usize = 1024;
/// A tick that comes so much later than the one before: the clock was set forward, or nothing ran
/// meanwhile. Ticks are due every half second.
const JUMP_US: u64 = 10_000_000;
/// Lag may last this long before offline timers are held.
const LAG_GRACE_US: u64 = 3_000_000;

impl LaneCore {
    /// Lets time pass. `is_caught_up`: everything in the stream has been handled.
    pub fn handle_tick(&mut self, now_us: u64, is_caught_up: bool) {
        self.watched.retain(|_, until_us| *until_us > now_us);
        let jumped = self.ticked_us != 0 && now_us > self.ticked_us.saturating_add(JUMP_US);
        self.ticked_us = now_us;
        self.end_budgets(now_us);
        if jumped {
            // Silence is counted from here: what came before has times of the clock before.
            metrics::counter!("breeze_collector_clock_jumps_total").increment(1);
            self.live_since_us = None;
        }
        if is_caught_up {
            self.behind_since_us = None;
            self.live_since_us.get_or_insert(now_us);
        } else {
            let since = *self.behind_since_us.get_or_insert(now_us);
            if now_us.saturating_sub(since) > LAG_GRACE_US {
                self.live_since_us = None;
            }
        }
        // Held: a device may have sent what has not been read yet.
        let Some(live_since_us) = self.live_since_us else { return };
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(now_us, &mut fired);
        for (at, tick) in fired.drain(..) {
            let device = &mut self.devices[at as usize];
            if device.armed_tick != tick || !device.is_online() {
                continue;
            }
            device.armed_tick = 0;
            let period = device.period_us(self.offline_floor_us);
            let deadline = device.presence.deadline_us(device.latest.last_seen_us, live_since_us, period);
            // By its tick, so that a timer that was armed for an earlier deadline makes no difference.
            if wheel::due_tick(deadline) > now_us / wheel::TICK_US {
                device.armed_tick = self.wheel.arm(at, deadline);
                continue;
            }
            let change = self.offline_change(at);
            let device = &mut self.devices[at as usize];
            device.presence.handle_expired();
            if device.set_presence(v1::Presence::Offline, now_us) {
                self.online -= 1;
                self.note_change(at, change);
                self.mark_latest(at);
            }
        }
        self.fired = fired;
    }

    /// Arms the device's timer for its deadline as things are; an earlier one replaces a later one.
    pub(super) fn arm(&mut self, at: u32, now_us: u64) {
        let floor = self.offline_floor_us;
        let device = &mut self.devices[at as usize];
        let live_since_us = self.live_since_us.unwrap_or(now_us);
        let deadline = device.presence.deadline_us(device.latest.last_seen_us, live_since_us, device.period_us(floor));
        // One that fires earlier arms itself again.
        if device.armed_tick == 0 || wheel::due_tick(deadline) < device.armed_tick {
            device.armed_tick = self.wheel.arm(at, deadline);
        }
    }

    /// Somebody looks at these devices until then.
    pub fn handle_watch(&mut self, watch: &v1::Watch) {
        for id in watch.device_ids.iter().filter_map(|id| DeviceId::from_slice(id)) {
            if !self.index.contains_key(&id) {
                continue;
            }
            if self.watched.len() < MAX_WATCHED || self.watched.contains_key(&id) {
                let until_us = self.watched.entry(id).or_default();
                *until_us = watch.until_us.max(*until_us);
            } else {
                metrics::counter!("breeze_collector_watches_refused_total").increment(1);
            }
        }
    }
}
