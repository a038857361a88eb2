//! The writer's side: records of each source are joined by device, older ones ignored.

use super::{
    columns::{Cell, Columns, NO_PERMILLE, NO_UPTIME, Word},
    dictionary::Symbol,
    record::{Change, ConfigRecord},
    texts::Part,
};
use breeze_proto::{
    id::{DeviceId, OrgId, SiteId},
    v1::{DeviceFacts, DeviceLatest, Digest, Presence, Scalars},
};
use roaring::RoaringBitmap;
use std::collections::{HashMap, VecDeque};

/// Most devices, those without a configuration record included.
pub const MAX_DEVICES: usize = 2_000_000;
/// Tags of a device that are looked at.
pub const MAX_TAGS: usize = 64;
/// Devices that are gone and whose versions are remembered, so that an older record of theirs that
/// comes late does not bring them back.
pub const MAX_TOMBSTONES: usize = 100_000;
/// Removals that watchers can still be told of.
pub(super) const MAX_REMOVALS: usize = 4096;

/// The state behind the lock.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) columns: Columns,
    slots: HashMap<[u8; 16], u32>,
    free: Vec<u32>,
    /// Visible devices by organization.
    pub(super) by_organization: HashMap<Symbol, RoaringBitmap>,
    pub(super) visible: u64,
    tombstones: HashMap<[u8; 16], u64>,
    tombstone_order: VecDeque<[u8; 16]>,
    pub(super) removals: VecDeque<Removal>,
    /// Raised with every change.
    pub(super) sequence: u64,
}

/// A device that ceased to be listed.
#[derive(Debug, Clone)]
pub(super) struct Removal {
    pub(super) sequence: u64,
    pub(super) device: DeviceId,
    pub(super) tenant: (OrgId, SiteId),
}

impl Index {
    pub(super) fn slot(&self, device: DeviceId) -> Option<usize> {
        self.slots.get(&device.to_bytes()).map(|slot| *slot as usize)
    }

    /// The slot of a device that people can see.
    pub(super) fn visible_slot(&self, device: DeviceId) -> Option<usize> {
        self.slot(device).filter(|slot| self.columns.cells[*slot].visible)
    }

    /// The version held of the configuration record, or of its end; 0 if there never was one.
    pub(super) fn config_version(&self, device: DeviceId) -> u64 {
        let live = self.slot(device).map_or(0, |slot| self.columns.cells[slot].config_version);
        self.tombstones.get(&device.to_bytes()).copied().unwrap_or(0).max(live)
    }

    pub(super) fn apply_config(&mut self, change: &Change<ConfigRecord>) -> bool {
        let id = change.device.to_bytes();
        let Some(record) = &change.record else { return self.remove(change.device, change.version) };
        if self.tombstones.get(&id).is_some_and(|version| *version >= change.version) {
            return false;
        }
        let Some(slot) = self.slot_or_new(id) else { return false };
        if self.columns.cells[slot].visible && self.columns.cells[slot].config_version >= change.version {
            return false;
        }
        self.tombstones.remove(&id);
        self.list(slot, false);
        let columns = &mut self.columns;
        columns.cells[slot].organization = columns.organizations.symbol(record.organization.to_bytes());
        columns.cells[slot].site = columns.sites.symbol(record.site.to_bytes());
        let cell = &mut columns.cells[slot];
        cell.config_version = change.version;
        cell.enrolled_at_ms = record.enrolled_at_ms;
        let reported = cell.facts_version > 0;
        let tags = &record.tags[..record.tags.len().min(MAX_TAGS)];
        columns.set_tags(slot, tags);
        if !reported {
            self.set_facts(slot, &record.enrolled);
        }
        let display_name = record.display_name.as_deref().unwrap_or_default();
        self.replace_texts(slot, &[(Part::DisplayName, display_name), (Part::Tags, &tags.join(" "))]);
        self.list(slot, true);
        self.touch(slot, true);
        true
    }

    pub(super) fn apply_facts(&mut self, change: &Change<DeviceFacts>) -> bool {
        let id = change.device.to_bytes();
        if self.tombstones.contains_key(&id) {
            return false;
        }
        let Some(slot) = self.slot_or_new(id) else { return false };
        if self.columns.cells[slot].facts_version >= change.version {
            return false;
        }
        let empty = DeviceFacts::default();
        self.set_facts(slot, change.record.as_ref().unwrap_or(&empty));
        self.columns.cells[slot].facts_version = change.version;
        self.touch(slot, true);
        true
    }

    fn set_facts(&mut self, slot: usize, facts: &DeviceFacts) {
        let host = facts.host.clone().unwrap_or_default();
        let columns = &mut self.columns;
        for (word, text) in [
            (Word::OsType, &host.os_type),
            (Word::OsVersion, &host.os_version),
            (Word::Architecture, &host.architecture),
            (Word::AgentVersion, &facts.agent_version),
            (Word::CpuModel, &facts.cpu_model),
            (Word::Manufacturer, &facts.manufacturer),
            (Word::Model, &facts.model),
        ] {
            columns.set_word(word, slot, text);
        }
        let cell = &mut columns.cells[slot];
        cell.cpu_threads = u16::try_from(facts.cpu_threads).unwrap_or(u16::MAX);
        cell.ram_mib = u32::try_from(facts.ram_total_mib).unwrap_or(u32::MAX);
        cell.disk_gib = u32::try_from(facts.disk_total_gib).unwrap_or(u32::MAX);
        let parts = [
            (Part::Hostname, host.hostname.as_str()),
            (Part::PrimaryIp, &facts.primary_ip),
            (Part::PublicIp, &facts.public_ip),
            (Part::SerialNumber, &facts.serial_number),
        ];
        self.replace_texts(slot, &parts);
    }

    /// The stored row of a device's newest values: taken until a digest has told newer ones.
    pub(super) fn apply_latest(&mut self, device: DeviceId, latest: &DeviceLatest) -> bool {
        let id = device.to_bytes();
        if self.tombstones.contains_key(&id) {
            return false;
        }
        let Some(slot) = self.slot_or_new(id) else { return false };
        let cell = &mut self.columns.cells[slot];
        if cell.latest_version > 0 {
            // Digests say since when only by when they first said it.
            let same = cell.presence == presence_code(latest.presence) && latest.presence_since_us > 0;
            if same {
                cell.presence_since_ms = latest.presence_since_us / 1000;
                self.touch(slot, true);
            }
            return same;
        }
        self.set_volatile(
            slot,
            &Volatile {
                last_seen_us: latest.last_seen_us,
                presence: latest.presence,
                presence_since_us: latest.presence_since_us,
                scalars: latest.scalars,
                status: latest.status,
                last_user: &latest.last_user,
                pending_reboot: latest.pending_reboot,
            },
        );
        true
    }

    /// Rows `from..to` of a digest; so a large one is applied under several short locks.
    pub(super) fn apply_digest(&mut self, digest: &Digest, from: usize, to: usize) -> usize {
        let mut applied = 0;
        for index in from..to.min(digest.device_ids.len()) {
            let Ok(id) = <[u8; 16]>::try_from(digest.device_ids[index].as_ref()) else { continue };
            if self.tombstones.contains_key(&id) {
                continue;
            }
            let Some(slot) = self.slot_or_new(id) else { continue };
            if self.columns.cells[slot].latest_version > digest.at_us {
                continue;
            }
            self.columns.cells[slot].latest_version = digest.at_us.max(1);
            let presence = digest.presence.get(index).map_or(0, |presence| *presence as i32);
            let same_presence = self.columns.cells[slot].presence == presence_code(presence);
            self.set_volatile(
                slot,
                &Volatile {
                    last_seen_us: digest.last_seen_us.get(index).copied().unwrap_or(0),
                    presence,
                    presence_since_us: if same_presence { 0 } else { digest.at_us },
                    scalars: digest.scalars.get(index).copied(),
                    status: digest.status.get(index).map_or(0, |status| *status as i32),
                    last_user: digest.last_user.get(index).map_or("", String::as_str),
                    pending_reboot: digest.pending_reboot.get(index).copied().unwrap_or(false),
                },
            );
            applied += 1;
        }
        applied
    }

    fn set_volatile(&mut self, slot: usize, new: &Volatile<'_>) {
        let cell = &mut self.columns.cells[slot];
        let before = (cell.status, cell.health, cell.pending_reboot);
        cell.last_seen_ms = cell.last_seen_ms.max(new.last_seen_us / 1000);
        cell.presence = presence_code(new.presence);
        if new.presence_since_us > 0 {
            cell.presence_since_ms = new.presence_since_us / 1000;
        }
        cell.health = u8::try_from(new.status).ok().filter(|health| *health <= 3).unwrap_or(0);
        cell.pending_reboot = new.pending_reboot;
        if let Some(scalars) = new.scalars {
            set_scalars(cell, &scalars);
        }
        cell.status = cell.derive_status();
        let told = before != (cell.status, cell.health, cell.pending_reboot);
        if !new.last_user.is_empty() {
            self.replace_texts(slot, &[(Part::LastUser, new.last_user)]);
        }
        self.touch(slot, told);
    }

    fn remove(&mut self, device: DeviceId, version: u64) -> bool {
        let id = device.to_bytes();
        match self.slot(device) {
            Some(slot) if self.columns.cells[slot].visible && self.columns.cells[slot].config_version > version => {
                return false;
            }
            Some(slot) => {
                if self.columns.cells[slot].visible {
                    let tenant = self.columns.tenant(slot);
                    self.list(slot, false);
                    self.sequence += 1;
                    if self.removals.len() == MAX_REMOVALS {
                        self.removals.pop_front();
                    }
                    self.removals.push_back(Removal { sequence: self.sequence, device, tenant });
                }
                self.columns.clear(slot);
                self.slots.remove(&id);
                self.free.push(slot as u32);
            }
            None => {}
        }
        self.bury(id, version);
        true
    }

    fn bury(&mut self, id: [u8; 16], version: u64) {
        let held = self.tombstones.entry(id).or_insert(0);
        if *held == 0 {
            self.tombstone_order.push_back(id);
        }
        *held = version.max(*held);
        while self.tombstone_order.len() > MAX_TOMBSTONES {
            if let Some(oldest) = self.tombstone_order.pop_front() {
                self.tombstones.remove(&oldest);
                metrics::counter!("breeze_directory_tombstones_dropped_total").increment(1);
            }
        }
    }

    fn slot_or_new(&mut self, id: [u8; 16]) -> Option<usize> {
        if let Some(slot) = self.slots.get(&id) {
            return Some(*slot as usize);
        }
        if self.slots.len() >= MAX_DEVICES {
            metrics::counter!("breeze_directory_devices_refused_total").increment(1);
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.columns.cells[slot as usize] = Cell::new(id);
                slot as usize
            }
            None => self.columns.push(Cell::new(id)),
        };
        self.slots.insert(id, slot as u32);
        Some(slot)
    }

    fn list(&mut self, slot: usize, visible: bool) {
        let cell = &mut self.columns.cells[slot];
        if cell.visible == visible {
            return;
        }
        cell.visible = visible;
        let bitmap = self.by_organization.entry(cell.organization).or_default();
        if visible {
            bitmap.insert(slot as u32);
            self.visible += 1;
        } else {
            bitmap.remove(slot as u32);
            self.visible -= 1;
        }
    }

    fn replace_texts(&mut self, slot: usize, parts: &[(Part, &str)]) {
        for (part, value) in parts {
            if let Some(texts) = self.columns.texts[slot].with(*part, value) {
                self.columns.set_texts(slot, texts);
            }
        }
    }

    fn touch(&mut self, slot: usize, told: bool) {
        self.sequence += 1;
        let cell = &mut self.columns.cells[slot];
        cell.status = cell.derive_status();
        cell.changed = self.sequence;
        if told {
            cell.changed_status = self.sequence;
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let bitmaps: usize = self.by_organization.values().map(RoaringBitmap::serialized_size).sum();
        self.columns.heap_bytes()
            + self.slots.capacity() * 24
            + self.free.capacity() * 4
            + bitmaps
            + self.tombstones.capacity() * 28
            + self.tombstone_order.capacity() * 16
            + self.removals.capacity() * size_of::<Removal>()
    }
}

struct Volatile<'a> {
    last_seen_us: u64,
    presence: i32,
    /// 0: as it was.
    presence_since_us: u64,
    scalars: Option<Scalars>,
    status: i32,
    last_user: &'a str,
    pending_reboot: bool,
}

fn presence_code(presence: i32) -> u8 {
    match Presence::try_from(presence) {
        Ok(Presence::Online) => 1,
        Ok(Presence::Offline) => 2,
        Ok(Presence::Unknown) | Err(_) => 0,
    }
}

fn set_scalars(cell: &mut Cell, scalars: &Scalars) {
    let permille = |value: u32| u16::try_from(value).unwrap_or(NO_PERMILLE - 1).min(1000);
    cell.cpu_permille = permille(scalars.cpu_permille);
    cell.ram_permille = permille(scalars.ram_permille);
    cell.disk_permille = permille(scalars.disk_permille);
    cell.uptime_s = u32::try_from(scalars.uptime_s).unwrap_or(NO_UPTIME - 1).min(NO_UPTIME - 1);
}
