//! The typed expression and its canonical form.

use super::fields::Field;
use jiff::Timestamp;
use std::fmt;

/// A filter. Tests fit their field's type; an `And` or `Or` has at least two operands, none of its
/// own kind (use [`Expr::and`] and [`Expr::or`] to keep it so).
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    /// Text to be found in any of the searched fields.
    Words(String),
    Test(Field, Test),
}

/// What is asked of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Equals(Value),
    NotEquals(Value),
    /// A pattern with `*` and `?`; without either, a part.
    Matches(String),
    NotMatches(String),
    Compare(Order, Value),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Empty,
    NotEmpty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Whether `left` stands in this order to `right`.
    #[must_use]
    pub fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of text and tags as typed; of a choice in its own spelling.
    Text(String),
    Number(f64),
    Bool(bool),
    Time(Moment),
}

/// An instant, fixed or counted back from when the filter is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    AgoS(u64),
    /// Milliseconds since the Unix epoch.
    AtMs(i64),
}

impl Moment {
    /// Milliseconds since the Unix epoch, when it is `now_ms`.
    #[must_use]
    pub fn resolve_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::AgoS(seconds) => {
                now_ms.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
            }
            Self::AtMs(at) => at,
        }
    }
}

impl Expr {
    /// All of them; `None` of nothing.
    #[must_use]
    pub fn and(operands: Vec<Self>) -> Option<Self> {
        let mut flat = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                Self::And(inner) => flat.extend(inner),
                other @ (Self::Or(_) | Self::Not(_) | Self::Words(_) | Self::Test(..)) => flat.push(other),
            }
        }
        if flat.len() > 1 { Some(Self::And(flat)) } else { flat.pop() }
    }

    /// Any of them; `None` of nothing.
    #[must_use]
    pub fn or(operands: Vec<Self>) -> Option<Self> {
        let mut flat = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                Self::Or(inner) => flat.extend(inner),
                other @ (Self::And(_) | Self::Not(_) | Self::Words(_) | Self::Test(..)) => flat.push(other),
            }
        }
        if flat.len() > 1 { Some(Self::Or(flat)) } else { flat.pop() }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Or(operands) => joined(f, operands, " or "),
            Self::And(operands) => joined(f, operands, " and "),
            Self::Not(inner) => {
                f.write_str("not ")?;
                operand(f, inner)
            }
            Self::Words(text) => quoted(f, text),
            Self::Test(field, test) => print_test(f, field.name(), test),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, operands: &[Expr], separator: &str) -> fmt::Result {
    for (index, inner) in operands.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        // An `and` inside an `or` would not need its parentheses, but is read more surely with them.
        operand(f, inner)?;
    }
    Ok(())
}

fn operand(f: &mut fmt::Formatter<'_>, inner: &Expr) -> fmt::Result {
    match inner {
        Expr::And(_) | Expr::Or(_) => write!(f, "({inner})"),
        Expr::Not(_) | Expr::Words(_) | Expr::Test(..) => write!(f, "{inner}"),
    }
}

fn print_test(f: &mut fmt::Formatter<'_>, name: &str, test: &Test) -> fmt::Result {
    match test {
        Test::Equals(value) => write!(f, "{name} = {value}"),
        Test::NotEquals(value) => write!(f, "{name} != {value}"),
        Test::Matches(pattern) => {
            write!(f, "{name} ~ ")?;
            quoted(f, pattern)
        }
        Test::NotMatches(pattern) => {
            write!(f, "{name} !~ ")?;
            quoted(f, pattern)
        }
        Test::Compare(order, value) => write!(f, "{name} {} {value}", order.symbol()),
        Test::In(values) => list(f, name, "in", values),
        Test::NotIn(values) => list(f, name, "not in", values),
        Test::Empty => write!(f, "{name} is empty"),
        Test::NotEmpty => write!(f, "{name} is not empty"),
    }
}

fn list(f: &mut fmt::Formatter<'_>, name: &str, operator: &str, values: &[Value]) -> fmt::Result {
    write!(f, "{name} {operator} (")?;
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{value}")?;
    }
    f.write_str(")")
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quoted(f, text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Time(Moment::AgoS(seconds)) => {
                let (unit, name) = [(604_800, "w"), (86_400, "d"), (3600, "h"), (60, "m")]
                    .into_iter()
                    .find(|(unit, _)| *seconds > 0 && seconds % unit == 0)
                    .unwrap_or((1, "s"));
                write!(f, "{}{name} ago", seconds / unit)
            }
            Self::Time(Moment::AtMs(at)) => match Timestamp::from_millisecond(*at) {
                Ok(timestamp) => write!(f, "\"{timestamp}\""),
                Err(_) => write!(f, "\"{at}\""),
            },
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{c}")?;
    }
    f.write_str("\"")
}
