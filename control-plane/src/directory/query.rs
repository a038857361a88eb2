//! The readers' side: filter, count, facet and page in one pass over the devices in reach.

use super::{
    columns::{Cell, Columns, NO_PERMILLE, NO_UPTIME, Word, prefix},
    compile::Node,
    dictionary::Symbol,
    index::Index,
    record::{HEALTH_NAMES, Status},
    summary::{DeviceSummary, Facets},
    texts::{Part, Texts},
};
use crate::filter::Expr;
use breeze_proto::id::DeviceId;
use breeze_store::model::{Scope, Sites};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, collections::BTreeMap};

/// Tags that the facets name.
pub const MAX_FACET_TAGS: usize = 50;
/// Words of a search that are looked at.
pub const MAX_SEARCH_WORDS: usize = 8;
/// Longest search, in bytes.
pub const MAX_SEARCH_BYTES: usize = 256;

/// What a list can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SortField {
    Hostname,
    DisplayName,
    Status,
    LastSeenAt,
    OsType,
    OsVersion,
    AgentVersion,
    CpuPercent,
    RamPercent,
    DiskPercent,
    EnrolledAt,
    UptimeS,
}

impl SortField {
    pub const ALL: [Self; 12] = [
        Self::Hostname,
        Self::DisplayName,
        Self::Status,
        Self::LastSeenAt,
        Self::OsType,
        Self::OsVersion,
        Self::AgentVersion,
        Self::CpuPercent,
        Self::RamPercent,
        Self::DiskPercent,
        Self::EnrolledAt,
        Self::UptimeS,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hostname => "hostname",
            Self::DisplayName => "display_name",
            Self::Status => "status",
            Self::LastSeenAt => "last_seen_at",
            Self::OsType => "os_type",
            Self::OsVersion => "os_version",
            Self::AgentVersion => "agent_version",
            Self::CpuPercent => "cpu_percent",
            Self::RamPercent => "ram_percent",
            Self::DiskPercent => "disk_percent",
            Self::EnrolledAt => "enrolled_at",
            Self::UptimeS => "uptime_s",
        }
    }
}

/// An order: a field, upwards or downwards. Devices without a value come last either way; equal
/// ones are in the order of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sort {
    pub field: SortField,
    pub descending: bool,
}

impl Sort {
    /// Reads `hostname` or `-hostname`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let field = SortField::ALL.into_iter().find(|field| field.name() == name)?;
        Some(Self { field, descending })
    }
}

impl std::fmt::Display for Sort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.descending { "-" } else { "" }, self.field.name())
    }
}

/// A place in an order: behind the device with this value and id. It stays good while devices come,
/// go and change: what sorts behind it follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub value: SortValue,
    pub id: DeviceId,
}

/// A device's value in an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortValue {
    None,
    Number(u64),
    Text(String),
}

/// What a list asks.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Words that must all be found.
    pub search: String,
    pub filter: Option<Expr>,
    pub sort: Sort,
    pub after: Option<Position>,
    pub limit: usize,
}

/// A page, and what is known of the whole list.
#[derive(Debug, Clone)]
pub struct ListPage {
    pub devices: Vec<DeviceSummary>,
    pub total: u64,
    pub facets: Facets,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Position>,
}

pub(super) fn list(index: &Index, scope: &Scope, query: &ListQuery, now_ms: u64) -> ListPage {
    let columns = &index.columns;
    let mut tests: Vec<Node<'_>> = Vec::new();
    if let Some(filter) = &query.filter {
        tests.push(Node::compile(filter, columns, now_ms));
    }
    tests.extend(query.search.split_whitespace().take(MAX_SEARCH_WORDS).map(Node::search));

    let mut matches: Vec<u32> = Vec::new();
    let mut counts = Counts::new(columns);
    each_in_reach(index, scope, |slot| {
        if tests.iter().all(|test| test.holds(columns, slot)) {
            matches.push(slot as u32);
            counts.add(columns, slot);
        }
    });
    let total = matches.len() as u64;
    let mut page = sorted(columns, matches, query.sort, query.after.as_ref(), query.limit + 1);
    let more = page.len() > query.limit;
    page.truncate(query.limit);
    let next = page.last().filter(|_| more).map(|slot| position(columns, *slot as usize, query.sort));
    let devices = page.into_iter().map(|slot| columns.summary(slot as usize)).collect();
    ListPage { devices, total, facets: counts.facets(columns), next }
}

/// Calls `visit` with every visible device that `scope` reaches. A small part of all is visited by
/// its bitmaps; a large one in the order of slots, which is how they lie in memory.
pub(super) fn each_in_reach(index: &Index, scope: &Scope, mut visit: impl FnMut(usize)) {
    let cells = &index.columns.cells;
    let Some(organizations) = scope.organizations() else {
        cells.iter().enumerate().filter(|(_, cell)| cell.visible).for_each(|(slot, _)| visit(slot));
        return;
    };
    let mut reach: Vec<Option<SiteReach>> = Vec::new();
    let (mut parts, mut devices) = (Vec::new(), 0);
    for (id, sites) in organizations {
        let Some(symbol) = index.columns.organizations.find(&id.to_bytes()) else { continue };
        let Some(slots) = index.by_organization.get(&symbol) else { continue };
        let place = symbol as usize;
        if reach.len() <= place {
            reach.resize_with(place + 1, || None);
        }
        reach[place] = Some(match sites {
            Sites::All => SiteReach::All,
            Sites::Only(sites) => {
                SiteReach::Only(sites.iter().filter_map(|site| index.columns.sites.find(&site.to_bytes())).collect())
            }
        });
        devices += slots.len();
        parts.push(slots);
    }
    let reached = |cell: &Cell| match reach.get(cell.organization as usize) {
        Some(Some(SiteReach::All)) => true,
        Some(Some(SiteReach::Only(sites))) => sites.contains(&cell.site),
        Some(None) | None => false,
    };
    if devices > index.visible / DENSE {
        let all = cells.iter().enumerate().filter(|(_, cell)| cell.visible && reached(cell));
        all.for_each(|(slot, _)| visit(slot));
    } else {
        for slot in parts.into_iter().flatten().map(|slot| slot as usize) {
            if reached(&cells[slot]) {
                visit(slot);
            }
        }
    }
}

/// One in so many devices in reach is enough to visit them all in order.
const DENSE: u64 = 16;

/// Which devices of an organization are reached.
enum SiteReach {
    All,
    Only(Vec<Symbol>),
}

struct Counts {
    status: [u64; Status::ALL.len()],
    health: [u64; HEALTH_NAMES.len()],
    os_type: Vec<u64>,
    tags: Vec<u64>,
}

impl Counts {
    fn new(columns: &Columns) -> Self {
        Self {
            status: [0; Status::ALL.len()],
            health: [0; HEALTH_NAMES.len()],
            os_type: vec![0; columns.dictionaries[Word::OsType as usize].len()],
            tags: vec![0; columns.tag_words.len()],
        }
    }

    fn add(&mut self, columns: &Columns, slot: usize) {
        let cell = &columns.cells[slot];
        self.status[cell.status as usize] += 1;
        self.health[usize::from(cell.health)] += 1;
        self.os_type[columns.words[Word::OsType as usize][slot] as usize] += 1;
        for tag in &columns.tags[slot] {
            self.tags[*tag as usize] += 1;
        }
    }

    fn facets(&self, columns: &Columns) -> Facets {
        let named = |counts: &[u64], name: &dyn Fn(usize) -> String| -> BTreeMap<String, u64> {
            let present = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            present.map(|(index, count)| (name(index), *count)).filter(|(name, _)| !name.is_empty()).collect()
        };
        let mut tags: Vec<(usize, u64)> =
            self.tags.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        tags.sort_unstable_by_key(|(symbol, count)| {
            (std::cmp::Reverse(*count), columns.tag_words.text(*symbol as Symbol))
        });
        tags.truncate(MAX_FACET_TAGS);
        Facets {
            status: named(&self.status, &|index| Status::ALL[index].name().to_owned()),
            health: named(&self.health, &|index| HEALTH_NAMES[index].to_owned()),
            os_type: named(&self.os_type, &|index| {
                columns.dictionaries[Word::OsType as usize].text(index as Symbol).to_owned()
            }),
            tags: tags
                .into_iter()
                .map(|(symbol, count)| (columns.tag_words.text(symbol as Symbol).to_owned(), count))
                .collect(),
        }
    }
}

/// A device's value in an order; what has none is greatest.
#[derive(Debug, Clone, Copy)]
enum Key<'a> {
    Number(u64),
    Text(u128, Rest<'a>),
    None,
}

/// A text behind its [`prefix`]: looked up only where prefixes are equal.
#[derive(Debug, Clone, Copy)]
enum Rest<'a> {
    Hostname(&'a Texts),
    Text(&'a str),
}

impl<'a> Rest<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Hostname(texts) => texts.folded_part(Part::Hostname),
            Self::Text(text) => text,
        }
    }
}

impl<'a> Key<'a> {
    fn text(text: &'a str) -> Self {
        if text.is_empty() { Self::None } else { Self::Text(prefix(text), Rest::Text(text)) }
    }
}

fn key(columns: &Columns, slot: usize, field: SortField) -> Key<'_> {
    let cell = &columns.cells[slot];
    let word = |word: Word| Key::text(columns.dictionaries[word as usize].folded(columns.words[word as usize][slot]));
    let permille = |value: u16| if value == NO_PERMILLE { Key::None } else { Key::Number(u64::from(value)) };
    let time = |value: u64| if value == 0 { Key::None } else { Key::Number(value) };
    match field {
        SortField::Hostname => match columns.hostnames[slot] {
            0 => Key::None,
            prefix => Key::Text(prefix, Rest::Hostname(&columns.texts[slot])),
        },
        SortField::DisplayName => Key::text(columns.texts[slot].folded_part(Part::DisplayName)),
        SortField::Status => Key::Number(cell.status as u64),
        SortField::LastSeenAt => time(cell.last_seen_ms),
        SortField::OsType => word(Word::OsType),
        SortField::OsVersion => word(Word::OsVersion),
        SortField::AgentVersion => word(Word::AgentVersion),
        SortField::CpuPercent => permille(cell.cpu_permille),
        SortField::RamPercent => permille(cell.ram_permille),
        SortField::DiskPercent => permille(cell.disk_permille),
        SortField::EnrolledAt => time(cell.enrolled_at_ms),
        SortField::UptimeS => match cell.uptime_s {
            NO_UPTIME => Key::None,
            uptime => Key::Number(u64::from(uptime)),
        },
    }
}

fn compare(a: (Key<'_>, &[u8; 16]), b: (Key<'_>, &[u8; 16]), descending: bool) -> Ordering {
    let by_value = |ordering: Ordering| if descending { ordering.reverse() } else { ordering };
    let values = match (a.0, b.0) {
        (Key::None, Key::None) => Ordering::Equal,
        (Key::None, Key::Number(_) | Key::Text(..)) => Ordering::Greater,
        (Key::Number(_) | Key::Text(..), Key::None) => Ordering::Less,
        (Key::Number(a), Key::Number(b)) => by_value(a.cmp(&b)),
        (Key::Text(a, rest_a), Key::Text(b, rest_b)) => {
            by_value(a.cmp(&b).then_with(|| rest_a.text().cmp(rest_b.text())))
        }
        (Key::Number(_), Key::Text(..)) => Ordering::Less,
        (Key::Text(..), Key::Number(_)) => Ordering::Greater,
    };
    values.then_with(|| a.1.cmp(b.1))
}

fn position(columns: &Columns, slot: usize, sort: Sort) -> Position {
    let value = match key(columns, slot, sort.field) {
        Key::None => SortValue::None,
        Key::Number(number) => SortValue::Number(number),
        Key::Text(_, rest) => SortValue::Text(rest.text().to_owned()),
    };
    Position { value, id: columns.device(slot) }
}

/// The first `limit` of `matches` behind `after`, in order. Keeps at most twice as many as it
/// returns and sorts only those, so a page costs about one comparison a device.
pub(super) fn sorted(
    columns: &Columns,
    matches: Vec<u32>,
    sort: Sort,
    after: Option<&Position>,
    limit: usize,
) -> Vec<u32> {
    let at = |slot: u32| (key(columns, slot as usize, sort.field), &columns.cells[slot as usize].id);
    let order = |a: &u32, b: &u32| compare(at(*a), at(*b), sort.descending);
    let after = after.map(|position| {
        let value = match &position.value {
            SortValue::None => Key::None,
            SortValue::Number(number) => Key::Number(*number),
            SortValue::Text(text) => Key::text(text),
        };
        (value, position.id.to_bytes())
    });
    let mut kept: Vec<u32> = Vec::with_capacity(limit * 2);
    let mut worst: Option<u32> = None;
    for slot in matches {
        let here = at(slot);
        if after.as_ref().is_some_and(|(value, id)| compare(here, (*value, id), sort.descending) != Ordering::Greater) {
            continue;
        }
        if worst.is_some_and(|worst| compare(here, at(worst), sort.descending) == Ordering::Greater) {
            continue;
        }
        kept.push(slot);
        if kept.len() >= limit * 2 && limit > 0 {
            let (_, last, _) = kept.select_nth_unstable_by(limit - 1, order);
            worst = Some(*last);
            kept.truncate(limit);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(limit);
    kept
}

/// Devices in reach by what they are, for an overview.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub total: u64,
    pub online: u64,
    pub offline: u64,
    pub pending: u64,
    pub warning: u64,
    pub error: u64,
}

impl Totals {
    pub(super) fn add(&mut self, cell: &Cell) {
        self.total += 1;
        match cell.status {
            Status::Online => self.online += 1,
            Status::Offline => self.offline += 1,
            Status::Pending => self.pending += 1,
        }
        match cell.health {
            2 => self.warning += 1,
            3 => self.error += 1,
            _ => {}
        }
    }
}
