//! A filter against the columns. Tests on shared words are decided once a word; what is cheap is
//! asked before what is dear.

use super::{
    columns::{Cell, Columns, NO_PERMILLE, NO_UPTIME, Word, gib},
    dictionary::{Dictionary, NONE, Named, Symbol, folded},
    record::{HEALTH_NAMES, Status},
    texts::Part,
};
use crate::filter::{Expr, Field, Moment, Order, Test, Value};
use memchr::memmem::Finder;
use std::collections::HashSet;
use uuid::Uuid;

/// Longest pattern of `~`, in bytes: what one comparison may cost.
pub const MAX_PATTERN_BYTES: usize = 256;

/// A filter that can be asked of a slot.
pub(super) enum Node<'a> {
    Const(bool),
    All(Vec<Node<'a>>),
    Any(Vec<Node<'a>>),
    Not(Box<Node<'a>>),
    /// Bit of the status among those wanted.
    Status(u8),
    /// Bit of the health among those wanted.
    Health(u8),
    Flag(fn(&Cell) -> bool),
    /// The column's word is among those wanted.
    Word(&'a [Symbol], Vec<bool>),
    /// As `Word`, of organization or site.
    Tenant(fn(&Cell) -> Symbol, Vec<bool>),
    Tags(Vec<bool>),
    NoTags,
    Part(Part, TextTest),
    Number(fn(&Cell) -> Option<f64>, NumberTest),
    Time(fn(&Cell) -> u64, Order, u64),
    NoTime(fn(&Cell) -> u64),
    Search(Box<Finder<'static>>),
}

pub(super) enum TextTest {
    Equals(String),
    In(HashSet<String>),
    Contains(Box<Finder<'static>>),
    Glob(Vec<char>),
    Empty,
}

pub(super) enum NumberTest {
    Equals(f64),
    In(Vec<f64>),
    Compare(Order, f64),
    Empty,
}

impl TextTest {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Equals(wanted) => text == wanted,
            Self::In(wanted) => wanted.contains(text),
            Self::Contains(finder) => finder.find(text.as_bytes()).is_some(),
            Self::Glob(pattern) => glob(pattern, text),
            Self::Empty => text.is_empty(),
        }
    }

    fn equals(value: &Value) -> Self {
        Self::Equals(text_of(value))
    }

    fn matches(pattern: &str) -> Self {
        let pattern = folded(&pattern[..pattern.floor_char_boundary(MAX_PATTERN_BYTES)]);
        if pattern.contains(['*', '?']) {
            Self::Glob(pattern.chars().collect())
        } else {
            Self::Contains(Box::new(Finder::new(pattern.as_bytes()).into_owned()))
        }
    }

    /// The test without its negation, and whether it was negated.
    fn of(test: &Test) -> Option<(Self, bool)> {
        let list = |values: &[Value]| Self::In(values.iter().map(text_of).collect());
        Some(match test {
            Test::Equals(value) => (Self::equals(value), false),
            Test::NotEquals(value) => (Self::equals(value), true),
            Test::Matches(pattern) => (Self::matches(pattern), false),
            Test::NotMatches(pattern) => (Self::matches(pattern), true),
            Test::In(values) => (list(values), false),
            Test::NotIn(values) => (list(values), true),
            Test::Empty => (Self::Empty, false),
            Test::NotEmpty => (Self::Empty, true),
            Test::Compare(..) => return None,
        })
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Text(text) => folded(text),
        Value::Number(_) | Value::Bool(_) | Value::Time(_) => value.to_string(),
    }
}

/// `*` any run, `?` one character. Greedy with one place to go back to.
fn glob(pattern: &[char], text: &str) -> bool {
    let mut rest = text.chars();
    let mut at = 0;
    let mut back: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let mut ahead = rest.clone();
        match (pattern.get(at), ahead.next()) {
            (Some('*'), _) => {
                at += 1;
                back = Some((at, rest.clone()));
                continue;
            }
            (None, None) => return true,
            (Some(p), Some(c)) if *p == '?' || *p == c => {
                at += 1;
                rest = ahead;
                continue;
            }
            (Some(_) | None, _) => {}
        }
        let Some((after_star, from)) = &mut back else { return false };
        if from.next().is_none() {
            return false;
        }
        at = *after_star;
        rest = from.clone();
    }
}

impl<'a> Node<'a> {
    /// Compiles; `now_ms` is what "ago" counts from.
    pub(super) fn compile(expr: &Expr, columns: &'a Columns, now_ms: u64) -> Self {
        let operands = |exprs: &[Expr]| {
            let mut nodes: Vec<Self> = exprs.iter().map(|expr| Self::compile(expr, columns, now_ms)).collect();
            nodes.sort_by_key(Self::cost);
            nodes
        };
        match expr {
            Expr::And(exprs) => Self::All(operands(exprs)),
            Expr::Or(exprs) => Self::Any(operands(exprs)),
            Expr::Not(inner) => Self::Not(Box::new(Self::compile(inner, columns, now_ms))),
            Expr::Words(text) => Self::search(text),
            Expr::Test(field, test) => Self::test(*field, test, columns, now_ms),
        }
    }

    pub(super) fn search(text: &str) -> Self {
        Self::Search(Box::new(Finder::new(folded(text).as_bytes()).into_owned()))
    }

    pub(super) fn holds(&self, columns: &Columns, slot: usize) -> bool {
        let cell = &columns.cells[slot];
        match self {
            Self::Const(value) => *value,
            Self::All(nodes) => nodes.iter().all(|node| node.holds(columns, slot)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(columns, slot)),
            Self::Not(node) => !node.holds(columns, slot),
            Self::Status(mask) => mask & (1 << cell.status as u8) != 0,
            Self::Health(mask) => mask & (1 << cell.health) != 0,
            Self::Flag(get) => get(cell),
            Self::Word(column, wanted) => wanted[column[slot] as usize],
            Self::Tenant(get, wanted) => wanted[get(cell) as usize],
            Self::Tags(wanted) => columns.tags[slot].iter().any(|tag| wanted[*tag as usize]),
            Self::NoTags => columns.tags[slot].is_empty(),
            Self::Part(part, test) => test.holds(columns.texts[slot].folded_part(*part)),
            Self::Number(get, test) => match (get(cell), test) {
                (None, NumberTest::Empty) => true,
                (None, NumberTest::Equals(_) | NumberTest::In(_) | NumberTest::Compare(..)) => false,
                (Some(_), NumberTest::Empty) => false,
                (Some(value), NumberTest::Equals(wanted)) => value == *wanted,
                (Some(value), NumberTest::In(wanted)) => wanted.contains(&value),
                (Some(value), NumberTest::Compare(order, bound)) => order.holds(&value, bound),
            },
            Self::Time(get, order, bound) => {
                let at = get(cell);
                at > 0 && order.holds(&at, bound)
            }
            Self::NoTime(get) => get(cell) == 0,
            Self::Search(finder) => finder.find(columns.texts[slot].folded().as_bytes()).is_some(),
        }
    }

    fn cost(&self) -> u32 {
        match self {
            Self::Const(_) => 0,
            Self::Status(_) | Self::Health(_) | Self::Flag(_) | Self::Tenant(..) => 1,
            Self::Number(..) | Self::Time(..) | Self::NoTime(_) => 2,
            Self::Word(..) => 3,
            Self::Tags(_) | Self::NoTags => 6,
            Self::Part(..) => 20,
            Self::Search(_) => 60,
            Self::Not(node) => node.cost(),
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().map(Self::cost).sum(),
        }
    }

    fn negated(self, negated: bool) -> Self {
        if negated { Self::Not(Box::new(self)) } else { self }
    }

    fn test(field: Field, test: &Test, columns: &'a Columns, now_ms: u64) -> Self {
        match field {
            Field::Hostname => Self::part(Part::Hostname, test),
            Field::DisplayName => Self::part(Part::DisplayName, test),
            Field::LastUser => Self::part(Part::LastUser, test),
            Field::PublicIp => Self::part(Part::PublicIp, test),
            Field::PrimaryIp => Self::part(Part::PrimaryIp, test),
            Field::SerialNumber => Self::part(Part::SerialNumber, test),
            Field::OsType => Self::word(Word::OsType, test, columns),
            Field::OsVersion => Self::word(Word::OsVersion, test, columns),
            Field::Architecture => Self::word(Word::Architecture, test, columns),
            Field::AgentVersion => Self::word(Word::AgentVersion, test, columns),
            Field::CpuModel => Self::word(Word::CpuModel, test, columns),
            Field::Manufacturer => Self::word(Word::Manufacturer, test, columns),
            Field::Model => Self::word(Word::Model, test, columns),
            Field::Organization => Self::tenant(&columns.organizations, |cell| cell.organization, test),
            Field::Site => Self::tenant(&columns.sites, |cell| cell.site, test),
            Field::Tag => Self::tags(&columns.tag_words, test),
            Field::Status => Self::choice(test, &Status::ALL.map(Status::name), Self::Status),
            Field::Health => Self::choice(test, &HEALTH_NAMES, Self::Health),
            Field::PendingReboot => match test {
                Test::Equals(Value::Bool(wanted)) => Self::Flag(|cell| cell.pending_reboot).negated(!wanted),
                Test::NotEquals(Value::Bool(unwanted)) => Self::Flag(|cell| cell.pending_reboot).negated(*unwanted),
                Test::Equals(_)
                | Test::NotEquals(_)
                | Test::Matches(_)
                | Test::NotMatches(_)
                | Test::Compare(..)
                | Test::In(_)
                | Test::NotIn(_)
                | Test::Empty
                | Test::NotEmpty => Self::Const(false),
            },
            Field::CpuPercent => Self::number(|cell| permille(cell.cpu_permille), test),
            Field::RamPercent => Self::number(|cell| permille(cell.ram_permille), test),
            Field::DiskPercent => Self::number(|cell| permille(cell.disk_permille), test),
            Field::UptimeS => Self::number(|cell| (cell.uptime_s != NO_UPTIME).then(|| f64::from(cell.uptime_s)), test),
            Field::CpuThreads => Self::number(|cell| (cell.cpu_threads > 0).then(|| f64::from(cell.cpu_threads)), test),
            Field::RamGb => Self::number(|cell| (cell.ram_mib > 0).then(|| gib(cell.ram_mib)), test),
            Field::DiskGb => Self::number(|cell| (cell.disk_gib > 0).then(|| f64::from(cell.disk_gib)), test),
            Field::LastSeenAt => Self::time(|cell| cell.last_seen_ms, test, now_ms),
            Field::StatusSince => Self::time(Cell::status_since_ms, test, now_ms),
            Field::EnrolledAt => Self::time(|cell| cell.enrolled_at_ms, test, now_ms),
        }
    }

    fn part(part: Part, test: &Test) -> Self {
        match TextTest::of(test) {
            Some((test, negated)) => Self::Part(part, test).negated(negated),
            None => Self::Const(false),
        }
    }

    fn word(word: Word, test: &Test, columns: &'a Columns) -> Self {
        let Some((test, negated)) = TextTest::of(test) else { return Self::Const(false) };
        let wanted = wanted(&columns.dictionaries[word as usize], &test);
        Self::Word(&columns.words[word as usize], wanted).negated(negated)
    }

    fn tags(words: &Dictionary, test: &Test) -> Self {
        match TextTest::of(test) {
            None => Self::Const(false),
            Some((TextTest::Empty, negated)) => Self::NoTags.negated(negated),
            Some((test, negated)) => {
                let mut wanted = wanted(words, &test);
                wanted[NONE as usize] = false;
                Self::Tags(wanted).negated(negated)
            }
        }
    }

    fn tenant(named: &Named, get: fn(&Cell) -> Symbol, test: &Test) -> Self {
        let Some((test, negated)) = TextTest::of(test) else { return Self::Const(false) };
        let wanted = named
            .entries()
            .iter()
            .map(|entry| {
                let id = Uuid::from_bytes(entry.id).to_string();
                let by_id = match &test {
                    TextTest::Equals(wanted) => *wanted == id,
                    TextTest::In(wanted) => wanted.contains(&id),
                    TextTest::Contains(_) | TextTest::Glob(_) | TextTest::Empty => false,
                };
                by_id || test.holds(&entry.folded)
            })
            .collect();
        Self::Tenant(get, wanted).negated(negated)
    }

    fn choice(test: &Test, names: &[&str], node: fn(u8) -> Self) -> Self {
        let Some((test, negated)) = TextTest::of(test) else { return Self::Const(false) };
        let mask =
            names.iter().enumerate().filter(|(_, name)| test.holds(name)).fold(0, |mask, (bit, _)| mask | 1 << bit);
        node(mask).negated(negated)
    }

    fn number(get: fn(&Cell) -> Option<f64>, test: &Test) -> Self {
        let numbers = |values: &[Value]| NumberTest::In(values.iter().filter_map(number_of).collect());
        let one = |value: &Value| number_of(value).map(NumberTest::Equals);
        let (test, negated) = match test {
            Test::Equals(value) => (one(value), false),
            Test::NotEquals(value) => (one(value), true),
            Test::Compare(order, value) => (number_of(value).map(|bound| NumberTest::Compare(*order, bound)), false),
            Test::In(values) => (Some(numbers(values)), false),
            Test::NotIn(values) => (Some(numbers(values)), true),
            Test::Empty => (Some(NumberTest::Empty), false),
            Test::NotEmpty => (Some(NumberTest::Empty), true),
            Test::Matches(_) | Test::NotMatches(_) => (None, false),
        };
        test.map_or(Self::Const(false), |test| Self::Number(get, test).negated(negated))
    }

    fn time(get: fn(&Cell) -> u64, test: &Test, now_ms: u64) -> Self {
        match test {
            Test::Compare(order, Value::Time(moment)) => Self::Time(get, *order, resolve(*moment, now_ms)),
            Test::Empty => Self::NoTime(get),
            Test::NotEmpty => Self::NoTime(get).negated(true),
            Test::Compare(..)
            | Test::Equals(_)
            | Test::NotEquals(_)
            | Test::Matches(_)
            | Test::NotMatches(_)
            | Test::In(_)
            | Test::NotIn(_) => Self::Const(false),
        }
    }
}

fn wanted(dictionary: &Dictionary, test: &TextTest) -> Vec<bool> {
    (0..dictionary.len()).map(|symbol| test.holds(dictionary.folded(symbol as Symbol))).collect()
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Text(_) | Value::Bool(_) | Value::Time(_) => None,
    }
}

fn permille(value: u16) -> Option<f64> {
    (value != NO_PERMILLE).then(|| f64::from(value) / 10.0)
}

fn resolve(moment: Moment, now_ms: u64) -> u64 {
    let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
    u64::try_from(moment.resolve_ms(now)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_words() {
        for (pattern, text, expected) in [
            ("web*", "web-1", true),
            ("web*", "my-web", false),
            ("*web*", "my-web-1", true),
            ("w?b", "wäb", true),
            ("w?b", "wb", false),
            ("*a*b", "xaabab", true),
            ("*a*b", "xaaba", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            let pattern: Vec<char> = pattern.chars().collect();
            assert_eq!(glob(&pattern, text), expected, "{pattern:?} {text}");
        }
    }
}
