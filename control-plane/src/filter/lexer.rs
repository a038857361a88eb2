//! Text to tokens. Words are everything that is neither space nor punctuation, so that addresses,
//! file paths, times and numbers need no quotes.

use super::{MAX_FILTER_BYTES, error::FilterError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Quoted(String),
    Equals,
    NotEquals,
    Matches,
    NotMatches,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Colon,
    Comma,
    Open,
    Close,
}

/// A token and the bytes of the text that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

pub(super) fn tokens(text: &str) -> Result<Vec<Spanned>, FilterError> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(FilterError {
            position: 1,
            found: Some(format!("{} bytes", text.len())),
            expected: format!("a filter of at most {MAX_FILTER_BYTES} bytes"),
            suggestion: None,
        });
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let (token, end) = next_token(text, at, c)?;
        tokens.push(Spanned { token, start: at, end });
        at = end;
    }
    Ok(tokens)
}

fn next_token(text: &str, at: usize, c: char) -> Result<(Token, usize), FilterError> {
    let followed_by = |next: char| text[at + c.len_utf8()..].starts_with(next);
    Ok(match c {
        '(' => (Token::Open, at + 1),
        ')' => (Token::Close, at + 1),
        ',' => (Token::Comma, at + 1),
        ':' => (Token::Colon, at + 1),
        '~' => (Token::Matches, at + 1),
        '=' if followed_by('=') => (Token::Equals, at + 2),
        '=' => (Token::Equals, at + 1),
        '!' if followed_by('=') => (Token::NotEquals, at + 2),
        '!' if followed_by('~') => (Token::NotMatches, at + 2),
        '!' => return Err(FilterError::new(text, at, Some("!"), "!= or !~ (to negate, write `not`)")),
        '<' if followed_by('=') => (Token::LessOrEqual, at + 2),
        '<' => (Token::Less, at + 1),
        '>' if followed_by('=') => (Token::GreaterOrEqual, at + 2),
        '>' => (Token::Greater, at + 1),
        '"' | '\'' => quoted(text, at, c)?,
        _ => {
            let end = text[at..].find(ends_word).map_or(text.len(), |length| at + length);
            (Token::Word(text[at..end].to_owned()), end)
        }
    })
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | ',' | ':' | '~' | '=' | '!' | '<' | '>' | '"')
}

/// A backslash escapes a quote or a backslash; before anything else it is itself (`ACME\bob`).
fn quoted(text: &str, at: usize, quote: char) -> Result<(Token, usize), FilterError> {
    let mut value = String::new();
    let mut chars = text[at + 1..].char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        match c {
            '\\' => match chars.next_if(|(_, next)| matches!(next, '"' | '\'' | '\\')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            _ if c == quote => return Ok((Token::Quoted(value), at + 1 + offset + 1)),
            _ => value.push(c),
        }
    }
    Err(FilterError::new(text, at, Some(&text[at..]), format!("a closing {quote}")))
}
