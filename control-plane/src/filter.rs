//! The filter language: `os = "windows" and ram_gb > 8 and not tag:patched`.
//!
//! One language for lists, groups and targets. This module is pure: [`parse`] turns text into a
//! typed [`Expr`] or an error that names the place and what was expected there; an expression
//! prints in one canonical form that parses to itself. The directory compiles it against its columns.
//!
//! Grammar (`docs/filter-language.md` is the version for people):
//!
//! ```text
//! or     = and { "or" and }
//! and    = not { ["and"] not }
//! not    = "not" not | "(" or ")" | test | word | quoted
//! test   = field ("=" | "!=" | "~" | "!~" | "<" | "<=" | ">" | ">=" | ":") value
//!        | field ["not"] "in" "(" value { "," value } ")"
//!        | field "is" ["not"] "empty"
//! value  = word | quoted | duration "ago"
//! ```

mod ast;
mod error;
mod fields;
mod lexer;
mod parser;
mod value;

pub use ast::{Expr, Moment, Order, Test, Value};
pub use error::FilterError;
pub use fields::{FIELDS, Field, FieldDescription, Kind, describe};
pub use parser::parse;

/// Longest filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 4096;
/// Deepest nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 32;
/// Most tests and words in one filter: what asking one device may cost.
pub const MAX_TESTS: usize = 64;
/// Most values in all lists of one filter.
pub const MAX_VALUES: usize = 512;
