//! A lane on its way to another collector: what the owner knows of its devices, as of one position, and
//! how a successor makes a core of it that does from there on what the owner's would.

use super::{LaneCore, MAX_RELAYS, budget::Budget, device::Device, pending::InventoryWork};
use breeze_proto::{
    id::DeviceId,
    v1::{self, LaneDevice, LanePage, ReceivedDevice},
};
use bytes::Bytes;
use prost::Message as _;

/// Encoded size of a page's devices; it exceeds it by one device at most.
const PAGE_BYTES: usize = 640 * 1024;

impl LaneCore {
    /// Everything, in pages as they cross the bus, encoded. `number` is the snapshot's, `position` the
    /// last entry that was handled.
    #[must_use]
    pub fn export(&self, number: u64, position: u64, generation: u64) -> Vec<Bytes> {
        let empty = || LanePage { snapshot: number, position, generation, ..LanePage::default() };
        let mut page = LanePage {
            relays: self.relays.clone(),
            live_since_us: self.live_since_us.unwrap_or(0),
            ticked_us: self.ticked_us,
            ..empty()
        };
        let waits: std::collections::HashSet<u32> = self.pending.inventory.iter().map(|work| work.device).collect();
        let (mut pages, mut bytes) = (Vec::new(), 0);
        for (at, device) in (0..).zip(&self.devices) {
            let exported = LaneDevice { inventory_waits: waits.contains(&at), ..device.export() };
            bytes += exported.encoded_len() + 8;
            page.devices.push(exported);
            if bytes > PAGE_BYTES {
                pages.push(std::mem::replace(&mut page, empty()).encode_to_vec().into());
                bytes = 0;
            }
        }
        page.last = true;
        pages.push(page.encode_to_vec().into());
        pages
    }

    /// Takes a page over; the first into a new core, the others after it in order. Devices of which a
    /// document waits to be applied come out.
    pub fn import(&mut self, page: LanePage, waiting: &mut Vec<DeviceId>) {
        if self.devices.is_empty() {
            self.relays = page.relays;
            self.relays.truncate(MAX_RELAYS);
            self.live_since_us = (page.live_since_us > 0).then_some(page.live_since_us);
            self.ticked_us = page.ticked_us;
            self.wheel.advance(page.ticked_us, &mut self.fired);
            self.fired.clear();
        }
        for stored in page.devices {
            let Some(at) = DeviceId::from_slice(&stored.device_id).and_then(|id| self.find_or_add(id)) else {
                continue;
            };
            let latest_waits = stored.latest_waits;
            if stored.inventory_waits {
                waiting.push(self.devices[at as usize].id);
            }
            self.devices[at as usize].import(stored);
            if self.devices[at as usize].is_online() {
                self.online += 1;
                self.arm(at, self.ticked_us);
            }
            if latest_waits {
                self.mark_latest(at);
            }
            if !self.devices[at as usize].latest.untold.is_empty() {
                self.mark_untold(at);
            }
        }
    }

    /// Lets go of what was gathered: the owner inserts it. Devices that sent documents come out, with
    /// the position of the last entry.
    pub fn discard_pending(&mut self, waiting: &mut Vec<(u64, DeviceId)>) {
        let Some(pending) = self.take_pending() else { return };
        let device = |work: &InventoryWork| (pending.last, self.devices[work.device as usize].id);
        waiting.extend(pending.inventory.iter().map(device));
    }

    /// The lane has just been handed over, with everything up to where this core is recorded and in
    /// the stores, but for newest values: those wait until they are due, spread over `every_us`.
    pub fn take_over(&mut self, live_since_us: u64, ticked_us: u64, every_us: u64) {
        for at in std::mem::take(&mut self.dirty_received) {
            self.devices[at as usize].dirty.received = false;
        }
        for at in std::mem::take(&mut self.dirty_facts) {
            self.devices[at as usize].dirty.facts = None;
        }
        let many = self.dirty_latest.len().max(1) as u64;
        for (number, at) in (0..).zip(&self.dirty_latest) {
            self.devices[*at as usize].merged_us = ticked_us.saturating_sub(every_us * number / many);
        }
        // The owner has told.
        self.misplaced = None;
        self.live_since_us = (live_since_us > 0).then_some(live_since_us);
        self.behind_since_us = None;
        self.ticked_us = self.ticked_us.max(ticked_us);
    }

    /// Since when everything has been seen, 0 if that is not so, and until when time has passed.
    #[must_use]
    pub fn time(&self) -> (u64, u64) {
        (self.live_since_us.unwrap_or(0), self.ticked_us)
    }

    /// Facts that the owner stored: what inventory says in them. The rest came with the stream.
    pub fn load_inventory_facts(&mut self, id: DeviceId, stored: v1::DeviceFacts) {
        let Some(at) = self.index.get(&id) else { return };
        let facts = &mut self.devices[*at as usize].facts;
        let held = std::mem::replace(facts, stored);
        facts.host = held.host;
        facts.agent_version = held.agent_version;
        facts.region = held.region;
        facts.public_ip = held.public_ip;
        facts.connection = held.connection;
    }
}

impl Device {
    fn export(&self) -> LaneDevice {
        let mut exported = LaneDevice {
            device_id: Bytes::copy_from_slice(&self.id.to_bytes()),
            received: self.received.encode(Bytes::new()).lanes,
            facts: Some(self.facts.clone()),
            latest: Some(self.latest.clone()),
            sample_us: self.sample_us,
            live_us: self.live_us,
            interval_us: self.interval_us,
            latest_waits: self.dirty.latest,
            ..LaneDevice::default()
        };
        self.presence.export(&mut exported);
        exported.budgets = self.budgets.iter().map(|budget| budget.export()).collect();
        exported
    }

    fn import(&mut self, stored: LaneDevice) {
        self.presence = super::presence::Presence::import(&stored);
        for (held, stored) in self.budgets.iter_mut().zip(&stored.budgets) {
            *held = Budget::import(stored);
        }
        self.received =
            super::received::Received::decode(&ReceivedDevice { device_id: stored.device_id, lanes: stored.received });
        self.facts = stored.facts.unwrap_or_default();
        self.latest = stored.latest.unwrap_or_default();
        self.sample_us = stored.sample_us;
        self.live_us = stored.live_us;
        self.interval_us = stored.interval_us;
    }
}

#[cfg(test)]
mod tests;
