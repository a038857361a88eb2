//! When the device is measured, and what becomes of a reading.

use super::{FSYNC_BATCH_US, FSYNC_EACH_FROM_US, Session, flow};
use crate::{
    clock::Now,
    command::{Command, Reading},
    documents::Intervals,
    spool::{Entry, Storage},
};
use breeze_proto::{
    limits::MAX_CUSTOM_VALUES,
    v1::{Heartbeat, NamedValue},
};
use bytes::Bytes;
use rand::RngExt as _;

impl<S: Storage> Session<S> {
    /// The answer to [`Command::Sample`].
    pub fn handle_reading(&mut self, reading: Reading, now: Now) {
        self.awaiting_reading = false;
        if self.revoked.is_some() || self.stopped {
            return;
        }
        let slow = u64::from(self.intervals.heartbeat_ms) * 1000 >= FSYNC_EACH_FROM_US;
        let entry = self.make_entry(reading, now);
        // If it goes out at once, giving it its number makes it durable.
        let key = self.spool.append(&entry, slow && !self.can_number(now));
        if !slow {
            self.next_fsync_us.get_or_insert(now.mono_us + FSYNC_BATCH_US);
        }
        self.fresh.push_back((key, now.mono_us));
        if self.fresh.len() > flow::MAX_FRESH {
            self.fresh.pop_front();
        }
        self.pump_with(now, slow);
        if slow && self.spool.is_unnumbered(key) {
            self.spool.flush();
        }
        self.plan(now);
    }

    /// A custom metric from the local socket, checked for its name and number; the newest value of each
    /// name rides with the next heartbeat. `false` if there are too many names.
    pub fn handle_custom(&mut self, name: &str, value: f64) -> bool {
        if !self.custom.contains_key(name) && self.custom.len() >= MAX_CUSTOM_VALUES {
            return false;
        }
        self.custom.insert(name.to_owned(), value);
        true
    }

    pub(super) fn wanted_intervals(&self, now: Now) -> Intervals {
        let asked = self.documents.intervals(self.now_s(now));
        Intervals { heartbeat_ms: self.tuning.heartbeat_ms.unwrap_or(asked.heartbeat_ms), ..asked }
    }

    pub(super) fn drive_heartbeats(&mut self, now: Now) {
        let before = self.intervals;
        self.intervals = self.wanted_intervals(now);
        if self.next_fsync_us.is_some_and(|at| at <= now.mono_us) {
            self.next_fsync_us = None;
            self.spool.flush();
        }
        if self.revoked.is_some() {
            self.next_sample_us = now.mono_us;
            return;
        }
        let interval = u64::from(self.intervals.heartbeat_ms) * 1000;
        if before.heartbeat_ms != self.intervals.heartbeat_ms {
            self.next_sample_us = self.next_sample_us.min(now.mono_us + interval);
        }
        if before.inventory_ms != self.intervals.inventory_ms {
            self.next_scan_us = self.next_scan_us.min(now.mono_us + u64::from(self.intervals.inventory_ms) * 1000);
        }
        if now.mono_us >= self.next_sample_us && !self.awaiting_reading {
            let first = self.last_details_us.is_none();
            let due = self.last_details_us.is_none_or(|at| {
                now.mono_us.saturating_sub(at) + interval / 2 >= u64::from(self.intervals.detail_ms) * 1000
            });
            if due {
                self.last_details_us = Some(now.mono_us);
            }
            self.awaiting_reading = true;
            self.commands.push_back(Command::Sample { details: due });
            // The first interval is cut at random, which sets the phase; later ones waver a little.
            let jittered = if first {
                self.rng.random_range(interval / 2..=interval)
            } else {
                let waver = interval / 20;
                interval - waver + self.rng.random_range(0..=2 * waver)
            };
            self.next_sample_us = now.mono_us + jittered;
        }
        if now.mono_us >= self.next_scan_us {
            self.next_scan_us = now.mono_us + u64::from(self.intervals.inventory_ms) * 1000;
            self.commands.push_back(Command::ScanInventory);
        }
    }

    fn make_entry(&mut self, reading: Reading, now: Now) -> Entry {
        let mut custom = reading.custom;
        custom.extend(std::mem::take(&mut self.custom).into_iter().map(|(name, value)| NamedValue { name, value }));
        custom.truncate(MAX_CUSTOM_VALUES);
        Entry {
            heartbeat: Some(Heartbeat {
                wall_us: now.wall_us,
                mono_us: now.mono_us,
                boot_id: Bytes::copy_from_slice(&self.identity.boot_id),
                scalars: Some(reading.scalars),
                status: reading.status.into(),
                last_user: reading.last_user,
                pending_reboot: reading.pending_reboot,
                details: reading.details,
                custom,
                thinned: self.spool.counters().thinned,
                ..Heartbeat::default()
            }),
            server_us: self.server.estimate(now).unwrap_or(0),
        }
    }
}
