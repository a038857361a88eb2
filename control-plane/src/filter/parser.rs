//! Tokens to a typed expression, by recursive descent of bounded depth.

use super::{
    MAX_DEPTH, MAX_TESTS, MAX_VALUES,
    ast::{Expr, Order, Test, Value},
    error::{FilterError, nearest},
    fields::{FIELDS, Field, FieldInfo, Kind},
    lexer::{Spanned, Token, tokens},
    value::{self, Place},
};

/// Reads a filter; `None` when it is empty, which every device passes.
///
/// # Errors
/// [`FilterError`] names the place and what was expected there.
pub fn parse(text: &str) -> Result<Option<Expr>, FilterError> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0, tests: 0, values: 0 };
    if parser.tokens.is_empty() {
        return Ok(None);
    }
    let expr = parser.or()?;
    match parser.peek() {
        None => Ok(Some(expr)),
        Some(_) => Err(parser.unexpected("`and`, `or`, a field or a word")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Spanned>,
    at: usize,
    depth: usize,
    tests: usize,
    values: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Expr, FilterError> {
        let first = self.and()?;
        let mut operands = vec![first];
        while self.take_keyword("or") {
            operands.push(self.and()?);
        }
        Expr::or(operands).ok_or_else(|| self.unexpected("a test"))
    }

    fn and(&mut self) -> Result<Expr, FilterError> {
        let first = self.not()?;
        let mut operands = vec![first];
        loop {
            let said = self.take_keyword("and");
            let begins = match self.peek() {
                Some(Token::Word(word)) => !word.eq_ignore_ascii_case("or"),
                Some(Token::Quoted(_) | Token::Open) => true,
                Some(
                    Token::Equals
                    | Token::NotEquals
                    | Token::Matches
                    | Token::NotMatches
                    | Token::Less
                    | Token::LessOrEqual
                    | Token::Greater
                    | Token::GreaterOrEqual
                    | Token::Colon
                    | Token::Comma
                    | Token::Close,
                )
                | None => false,
            };
            if !said && !begins {
                break;
            }
            operands.push(self.not()?);
        }
        Expr::and(operands).ok_or_else(|| self.unexpected("a test"))
    }

    fn not(&mut self) -> Result<Expr, FilterError> {
        if self.take_keyword("not") {
            self.enter()?;
            let inner = self.not()?;
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(inner)));
        }
        if self.take(&Token::Open) {
            self.enter()?;
            let inner = self.or()?;
            self.depth -= 1;
            if !self.take(&Token::Close) {
                return Err(self.unexpected("`)`"));
            }
            return Ok(inner);
        }
        self.test()
    }

    fn enter(&mut self) -> Result<(), FilterError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.unexpected(&format!("at most {MAX_DEPTH} levels of parentheses and `not`")));
        }
        Ok(())
    }

    fn test(&mut self) -> Result<Expr, FilterError> {
        self.tests += 1;
        if self.tests > MAX_TESTS {
            return Err(self.unexpected(&format!("at most {MAX_TESTS} tests and words")));
        }
        let begin = self.at;
        let word = match self.next() {
            Some(Token::Quoted(text)) => return Ok(Expr::Words(text)),
            Some(Token::Word(word)) if !is_connective(&word) => word,
            Some(_) | None => {
                self.at = begin;
                return Err(self.unexpected("a field such as hostname, or a word to search for"));
            }
        };
        let Some(operator) = self.operator() else { return Ok(Expr::Words(word)) };
        let Some(info) = Field::find(&word) else {
            self.at = begin;
            let names = FIELDS.iter().flat_map(|info| std::iter::once(info.name).chain(info.aliases.iter().copied()));
            let expected = "the name of a field (put text that has a punctuation mark in quotes)";
            return Err(self.unexpected(expected).suggest(nearest(&word, names)));
        };
        self.finish_test(info, operator).map(|test| Expr::Test(info.field, test))
    }

    /// The operator that follows a word, if one does; the parser stands behind it.
    fn operator(&mut self) -> Option<Operator> {
        let operator = match self.peek()? {
            Token::Equals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Matches => Operator::Matches,
            Token::NotMatches => Operator::NotMatches,
            Token::Less => Operator::Compare(Order::Less),
            Token::LessOrEqual => Operator::Compare(Order::LessOrEqual),
            Token::Greater => Operator::Compare(Order::Greater),
            Token::GreaterOrEqual => Operator::Compare(Order::GreaterOrEqual),
            Token::Colon => Operator::Colon,
            Token::Word(word) if word.eq_ignore_ascii_case("in") && self.follows(1, &Token::Open) => Operator::In,
            Token::Word(word)
                if word.eq_ignore_ascii_case("not") && self.follows_word(1, "in") && self.follows(2, &Token::Open) =>
            {
                self.at += 1;
                Operator::NotIn
            }
            Token::Word(word) if word.eq_ignore_ascii_case("is") && self.follows_word(1, "empty") => {
                self.at += 1;
                Operator::Empty
            }
            Token::Word(word)
                if word.eq_ignore_ascii_case("is") && self.follows_word(1, "not") && self.follows_word(2, "empty") =>
            {
                self.at += 2;
                Operator::NotEmpty
            }
            Token::Word(_) | Token::Quoted(_) | Token::Comma | Token::Open | Token::Close => return None,
        };
        self.at += 1;
        Some(operator)
    }

    fn finish_test(&mut self, info: &FieldInfo, operator: Operator) -> Result<Test, FilterError> {
        if !info.kind.operators().contains(&operator.name()) {
            self.at -= 1;
            let operators = info.kind.operators().join("  ");
            return Err(self.unexpected(&format!("an operator of {}, which takes  {operators}  here", info.name)));
        }
        Ok(match operator {
            Operator::Equals => Test::Equals(self.value(info.field)?),
            Operator::NotEquals => Test::NotEquals(self.value(info.field)?),
            Operator::Matches => Test::Matches(self.text()?),
            Operator::NotMatches => Test::NotMatches(self.text()?),
            Operator::Compare(order) => Test::Compare(order, self.value(info.field)?),
            // Short for what one most often wants: a part of a text, exactly anything else.
            Operator::Colon if info.kind == Kind::Text => Test::Matches(self.text()?),
            Operator::Colon => Test::Equals(self.value(info.field)?),
            Operator::In => Test::In(self.list(info.field)?),
            Operator::NotIn => Test::NotIn(self.list(info.field)?),
            Operator::Empty => Test::Empty,
            Operator::NotEmpty => Test::NotEmpty,
        })
    }

    fn list(&mut self, field: Field) -> Result<Vec<Value>, FilterError> {
        self.take(&Token::Open);
        let mut values = vec![self.value(field)?];
        while self.take(&Token::Comma) {
            self.values += 1;
            if self.values > MAX_VALUES {
                return Err(self.unexpected(&format!("at most {MAX_VALUES} values in lists")));
            }
            values.push(self.value(field)?);
        }
        if self.take(&Token::Close) { Ok(values) } else { Err(self.unexpected("`,` or `)`")) }
    }

    fn value(&mut self, field: Field) -> Result<Value, FilterError> {
        let place = self.place();
        let text = self.text()?;
        let ago = field.kind() == Kind::Time && self.take_keyword("ago");
        value::read(place, field, &text, ago)
    }

    fn text(&mut self) -> Result<String, FilterError> {
        let text = match self.peek() {
            Some(Token::Word(text) | Token::Quoted(text)) => text.clone(),
            Some(_) | None => return Err(self.unexpected("a value")),
        };
        self.at += 1;
        Ok(text)
    }

    fn place(&self) -> Place<'a> {
        let (start, end) =
            self.tokens.get(self.at).map_or((self.text.len(), self.text.len()), |spanned| (spanned.start, spanned.end));
        Place { text: self.text, start, end }
    }

    fn unexpected(&self, expected: &str) -> FilterError {
        match self.tokens.get(self.at) {
            Some(spanned) => {
                FilterError::new(self.text, spanned.start, self.text.get(spanned.start..spanned.end), expected)
            }
            None => FilterError::new(self.text, self.text.len(), None, expected),
        }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|spanned| &spanned.token)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|spanned| spanned.token.clone());
        self.at += usize::from(token.is_some());
        token
    }

    fn follows(&self, ahead: usize, token: &Token) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|spanned| spanned.token == *token)
    }

    fn follows_word(&self, ahead: usize, keyword: &str) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|spanned| is_keyword(&spanned.token, keyword))
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.follows(0, token);
        self.at += usize::from(found);
        found
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.follows_word(0, keyword);
        self.at += usize::from(found);
        found
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equals,
    NotEquals,
    Matches,
    NotMatches,
    Compare(Order),
    Colon,
    In,
    NotIn,
    Empty,
    NotEmpty,
}

impl Operator {
    const fn name(self) -> &'static str {
        match self {
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::Matches => "~",
            Self::NotMatches => "!~",
            Self::Compare(order) => order.symbol(),
            Self::Colon => ":",
            Self::In => "in",
            Self::NotIn => "not in",
            Self::Empty => "is empty",
            Self::NotEmpty => "is not empty",
        }
    }
}

fn is_keyword(token: &Token, keyword: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
}

fn is_connective(word: &str) -> bool {
    ["and", "or", "not"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}
