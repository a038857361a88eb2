//! Values in the form that their field's type asks for.

use super::{
    ast::{Moment, Value},
    error::{FilterError, nearest},
    fields::{Field, Kind},
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// Longest number, in characters.
const MAX_NUMBER_CHARS: usize = 18;
/// Longest duration: a hundred years.
const MAX_DURATION_S: u64 = 100 * 366 * 86_400;

/// Where a value stands in a filter's text, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) text: &'a str,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Place<'_> {
    pub(super) fn expected(&self, expected: impl Into<String>) -> FilterError {
        FilterError::new(self.text, self.start, self.text.get(self.start..self.end), expected)
    }
}

/// `word` as a value of `field`; `ago` says that the word "ago" followed.
pub(super) fn read(place: Place<'_>, field: Field, word: &str, ago: bool) -> Result<Value, FilterError> {
    match field.kind() {
        Kind::Text | Kind::Tags => Ok(Value::Text(word.to_owned())),
        Kind::Choice(choices) => choice(place, choices, word).map(Value::Text),
        Kind::Bool => match word.to_ascii_lowercase().as_str() {
            "true" | "yes" => Ok(Value::Bool(true)),
            "false" | "no" => Ok(Value::Bool(false)),
            _ => Err(place.expected("true or false")),
        },
        Kind::Number(unit) => number(unit, word).map(Value::Number).ok_or_else(|| {
            place.expected(match unit {
                "seconds" => "a number of seconds or a duration such as 3d or 12h".to_owned(),
                _ => format!("a number ({unit})"),
            })
        }),
        Kind::Time => time(place, word, ago).map(Value::Time),
    }
}

fn choice(place: Place<'_>, choices: &[&str], word: &str) -> Result<String, FilterError> {
    let found = choices.iter().find(|choice| choice.eq_ignore_ascii_case(word));
    found.map(|choice| (*choice).to_owned()).ok_or_else(|| {
        let suggestion = nearest(word, choices.iter().copied());
        place.expected(format!("one of {}", choices.join(", "))).suggest(suggestion)
    })
}

fn number(unit: &str, word: &str) -> Option<f64> {
    if unit == "seconds"
        && let Some(seconds) = duration_s(word)
    {
        return Some(seconds as f64);
    }
    let digits = if unit == "percent" { word.strip_suffix('%').unwrap_or(word) } else { word };
    let plain = digits.strip_prefix('-').unwrap_or(digits);
    let formed = digits.len() <= MAX_NUMBER_CHARS
        && plain.starts_with(|c: char| c.is_ascii_digit())
        && plain.ends_with(|c: char| c.is_ascii_digit())
        && plain.chars().all(|c| c.is_ascii_digit() || c == '.');
    // Zero has no sign, so that it prints as it compares.
    formed.then(|| digits.parse::<f64>().ok()).flatten().map(|number| if number == 0.0 { 0.0 } else { number })
}

fn time(place: Place<'_>, word: &str, ago: bool) -> Result<Moment, FilterError> {
    if let Some(seconds) = duration_s(word) {
        return if ago { Ok(Moment::AgoS(seconds)) } else { Err(place.expected(format!("`{word} ago`"))) };
    }
    if ago {
        return Err(place.expected("a duration before `ago`, such as 30m, 2h or 7d"));
    }
    if word.eq_ignore_ascii_case("now") {
        return Ok(Moment::AgoS(0));
    }
    let date = || TimeZone::UTC.to_timestamp(word.parse::<Date>().ok()?.at(0, 0, 0, 0)).ok();
    let timestamp = word.parse::<Timestamp>().ok().or_else(|| if word.len() == 10 { date() } else { None });
    timestamp
        .map(Timestamp::as_millisecond)
        .filter(|at| *at >= 0)
        .map(Moment::AtMs)
        .ok_or_else(|| place.expected("a time: `2h ago`, 2026-11-24, or \"2026-11-24T13:00:00Z\" in quotes"))
}

/// "90s", "1h30m", "2w": seconds.
fn duration_s(word: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = word;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest.get(..digits).filter(|digits| (1..=10).contains(&digits.len()))?.parse().ok()?;
        let unit = match rest[digits..].chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(count.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (!word.is_empty() && total <= MAX_DURATION_S).then_some(total)
}
