//! The columns: one value a device and field, a device being a slot number.

use super::{
    dictionary::{Dictionary, NONE, Named, Symbol},
    record::{HEALTH_NAMES, Status},
    summary::{DeviceSummary, Reference},
    texts::{Part, Texts},
};
use crate::api::time::Timestamp;
use breeze_proto::id::{DeviceId, OrgId, SiteId};
use uuid::Uuid;

/// No value in a column of permille.
pub(super) const NO_PERMILLE: u16 = u16::MAX;
/// No value in the column of uptimes.
pub(super) const NO_UPTIME: u32 = u32::MAX;

/// Columns whose words live in a dictionary of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    OsType,
    OsVersion,
    Architecture,
    AgentVersion,
    CpuModel,
    Manufacturer,
    Model,
}

pub(super) const WORDS: usize = 7;

/// One device's values, small enough to be copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) id: [u8; 16],
    pub(super) organization: Symbol,
    pub(super) site: Symbol,
    pub(super) config_version: u64,
    pub(super) facts_version: u64,
    /// Of the digest (its time) that the volatile values are from; 0: none, or the stored row.
    pub(super) latest_version: u64,
    /// When the newest change of anything, and of more than figures, was applied.
    pub(super) changed: u64,
    pub(super) changed_status: u64,
    pub(super) last_seen_ms: u64,
    pub(super) presence_since_ms: u64,
    pub(super) enrolled_at_ms: u64,
    pub(super) uptime_s: u32,
    pub(super) ram_mib: u32,
    pub(super) disk_gib: u32,
    pub(super) cpu_threads: u16,
    pub(super) cpu_permille: u16,
    pub(super) ram_permille: u16,
    pub(super) disk_permille: u16,
    /// 0: unknown, 1: online, 2: offline (`v1::Presence`).
    pub(super) presence: u8,
    pub(super) health: u8,
    pub(super) pending_reboot: bool,
    /// It has a configuration record: it exists for people.
    pub(super) visible: bool,
    pub(super) status: Status,
}

impl Cell {
    pub(super) fn new(id: [u8; 16]) -> Self {
        Self {
            id,
            organization: 0,
            site: 0,
            config_version: 0,
            facts_version: 0,
            latest_version: 0,
            changed: 0,
            changed_status: 0,
            last_seen_ms: 0,
            presence_since_ms: 0,
            enrolled_at_ms: 0,
            uptime_s: NO_UPTIME,
            ram_mib: 0,
            disk_gib: 0,
            cpu_threads: 0,
            cpu_permille: NO_PERMILLE,
            ram_permille: NO_PERMILLE,
            disk_permille: NO_PERMILLE,
            presence: 0,
            health: 0,
            pending_reboot: false,
            visible: false,
            status: Status::Pending,
        }
    }

    /// What the other values make of the status.
    pub(super) const fn derive_status(&self) -> Status {
        match self.presence {
            1 => Status::Online,
            0 if self.last_seen_ms == 0 => Status::Pending,
            _ => Status::Offline,
        }
    }

    pub(super) const fn status_since_ms(&self) -> u64 {
        if self.presence_since_ms > 0 { self.presence_since_ms } else { self.enrolled_at_ms }
    }
}

/// All devices. Slots are used again; a free one is not visible.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) cells: Vec<Cell>,
    pub(super) texts: Vec<Texts>,
    /// The beginning of each host name, see [`prefix`]: most comparisons need no more, and it lies
    /// where no pointer must be followed.
    pub(super) hostnames: Vec<u128>,
    pub(super) tags: Vec<Box<[Symbol]>>,
    pub(super) words: [Vec<Symbol>; WORDS],
    pub(super) dictionaries: [Dictionary; WORDS],
    pub(super) tag_words: Dictionary,
    pub(super) organizations: Named,
    pub(super) sites: Named,
}

impl Columns {
    pub(super) fn push(&mut self, cell: Cell) -> usize {
        self.cells.push(cell);
        self.texts.push(Texts::default());
        self.hostnames.push(0);
        self.tags.push(Box::default());
        for column in &mut self.words {
            column.push(NONE);
        }
        self.cells.len() - 1
    }

    pub(super) fn set_word(&mut self, word: Word, slot: usize, text: &str) {
        let text = &text[..text.floor_char_boundary(breeze_proto::limits::MAX_TEXT_BYTES)];
        self.dictionaries[word as usize].replace(&mut self.words[word as usize][slot], text);
    }

    pub(super) fn word(&self, word: Word, slot: usize) -> &str {
        self.dictionaries[word as usize].text(self.words[word as usize][slot])
    }

    pub(super) fn set_tags(&mut self, slot: usize, tags: &[String]) {
        let new: Box<[Symbol]> = tags.iter().map(|tag| self.tag_words.acquire(tag)).collect();
        for old in std::mem::replace(&mut self.tags[slot], new) {
            self.tag_words.release(old);
        }
    }

    pub(super) fn set_texts(&mut self, slot: usize, texts: Texts) {
        self.hostnames[slot] = prefix(texts.folded_part(Part::Hostname));
        self.texts[slot] = texts;
    }

    /// Forgets everything of a slot but its place.
    pub(super) fn clear(&mut self, slot: usize) {
        self.set_tags(slot, &[]);
        for index in 0..WORDS {
            self.dictionaries[index].replace(&mut self.words[index][slot], "");
        }
        self.set_texts(slot, Texts::default());
        self.cells[slot] = Cell::new([0; 16]);
    }

    pub(super) fn device(&self, slot: usize) -> DeviceId {
        DeviceId::from_uuid(Uuid::from_bytes(self.cells[slot].id))
    }

    pub(super) fn tenant(&self, slot: usize) -> (OrgId, SiteId) {
        let cell = &self.cells[slot];
        (
            OrgId::from_uuid(Uuid::from_bytes(self.organizations.entry(cell.organization).id)),
            SiteId::from_uuid(Uuid::from_bytes(self.sites.entry(cell.site).id)),
        )
    }

    pub(super) fn summary(&self, slot: usize) -> DeviceSummary {
        let cell = &self.cells[slot];
        let text = |part| some(self.texts[slot].part(part));
        let word = |word: Word| self.dictionaries[word as usize].some(self.words[word as usize][slot]);
        DeviceSummary {
            id: self.device(slot),
            hostname: self.texts[slot].part(Part::Hostname).to_owned(),
            display_name: text(Part::DisplayName),
            os_type: self.word(Word::OsType, slot).to_owned(),
            os_version: self.word(Word::OsVersion, slot).to_owned(),
            architecture: self.word(Word::Architecture, slot).to_owned(),
            agent_version: self.word(Word::AgentVersion, slot).to_owned(),
            status: cell.status.name(),
            last_seen_at: (cell.last_seen_ms > 0).then_some(Timestamp(cell.last_seen_ms)),
            status_since: (cell.status_since_ms() > 0).then_some(Timestamp(cell.status_since_ms())),
            enrolled_at: Timestamp(cell.enrolled_at_ms),
            organization: reference(&self.organizations, cell.organization),
            site: reference(&self.sites, cell.site),
            tags: self.tags[slot].iter().map(|tag| self.tag_words.text(*tag).to_owned()).collect(),
            last_user: text(Part::LastUser),
            health: (cell.health > 0).then(|| HEALTH_NAMES[usize::from(cell.health)]),
            pending_reboot: cell.pending_reboot,
            public_ip: text(Part::PublicIp),
            primary_ip: text(Part::PrimaryIp),
            cpu_percent: percent(cell.cpu_permille),
            ram_percent: percent(cell.ram_permille),
            disk_percent: percent(cell.disk_permille),
            uptime_s: (cell.uptime_s != NO_UPTIME).then_some(u64::from(cell.uptime_s)),
            cpu_model: word(Word::CpuModel),
            cpu_threads: (cell.cpu_threads > 0).then_some(u32::from(cell.cpu_threads)),
            ram_gb: (cell.ram_mib > 0).then(|| gib(cell.ram_mib)),
            disk_gb: (cell.disk_gib > 0).then_some(u64::from(cell.disk_gib)),
            serial_number: text(Part::SerialNumber),
            manufacturer: word(Word::Manufacturer),
            model: word(Word::Model),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let slots = self.cells.capacity() * size_of::<Cell>()
            + self.texts.capacity() * size_of::<Texts>()
            + self.hostnames.capacity() * size_of::<u128>()
            + self.tags.capacity() * size_of::<Box<[Symbol]>>()
            + self.words.iter().map(|column| column.capacity() * size_of::<Symbol>()).sum::<usize>();
        let heap: usize = self.texts.iter().map(Texts::heap_bytes).sum::<usize>()
            + self.tags.iter().map(|tags| tags.len() * size_of::<Symbol>()).sum::<usize>();
        let words: usize = self.dictionaries.iter().map(Dictionary::heap_bytes).sum();
        slots + heap + words + self.tag_words.heap_bytes()
    }
}

/// The first sixteen bytes of a text as a number that compares as they do; 0 for the empty one.
pub(super) fn prefix(text: &str) -> u128 {
    let mut bytes = [0; 16];
    let length = text.len().min(16);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    u128::from_be_bytes(bytes)
}

/// As shown: tenths of a percent.
pub(super) fn percent(permille: u16) -> Option<f64> {
    (permille != NO_PERMILLE).then(|| f64::from(permille) / 10.0)
}

/// MiB as GiB, to tenths.
pub(super) fn gib(mib: u32) -> f64 {
    (f64::from(mib) / 102.4).round() / 10.0
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn reference(named: &Named, symbol: Symbol) -> Reference {
    let entry = named.entry(symbol);
    let id = Uuid::from_bytes(entry.id);
    Reference { id, name: entry.name.as_deref().unwrap_or_default().to_owned() }
}
