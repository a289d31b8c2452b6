//! Calico's selector language: text to [`Selector`], and [`Selector`] back to its canonical text.
//!
//! ```text
//! or      = and { "||" and }
//! and     = unary { "&&" unary }
//! unary   = { "!" } primary
//! primary = "(" or ")" | "all()" | "global()" | "has(" key ")" | key operator
//! operator = "==" text | "!=" text | "in" set | "not in" set
//!          | "contains" text | "starts with" text | "ends with" text
//! set     = "{" [ text { "," text } ] "}"
//! ```
//!
//! A key is 1 to 512 letters, digits, `.`, `-`, `_` or `/`; a text stands between `'` or `"` and has
//! no escapes. Empty input means `all()`. Nesting is bounded by [`MAX_DEPTH`], so that neither
//! parsing nor evaluating hostile input can exhaust the stack. Cost: one pass, O(length).
//!
//! ```
//! use portcullis_identity_table::{Labels, selector::calico};
//! let selector = calico::parse("app == 'web' && !has(canary) && tier in {'a', 'b'}").unwrap();
//! let labels: Labels = [("app", "web"), ("tier", "a")].into_iter().collect();
//! assert!(selector.matches(&labels));
//! assert_eq!(calico::parse(&selector.to_string()).unwrap(), selector);
//!
//! let error = calico::parse("app = 'web'").unwrap_err();
//! assert_eq!(error.offset, 4);
//! assert!(error.to_string().contains("`==`"));
//! ```

use core::fmt::{self, Display as _};
use std::collections::BTreeSet;

use super::Selector;

/// Parentheses and negations that may stand inside one another.
pub const MAX_DEPTH: usize = 64;
/// Longest selector text that is read, in bytes.
pub const MAX_LENGTH: usize = 1 << 20;
/// Longest label key, in bytes.
pub const MAX_KEY: usize = 512;

/// Why a text is no selector, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset}: expected {expected}, found {found}")]
#[non_exhaustive]
pub struct SyntaxError {
    /// Bytes from the start of the text to what could not be read.
    pub offset: usize,
    /// What may stand there.
    pub expected: &'static str,
    /// What stands there, shortened.
    pub found: Box<str>,
}

/// Reads a selector.
///
/// # Errors
/// [`SyntaxError`] with the offset of the first byte that does not fit.
pub fn parse(text: &str) -> Result<Selector, SyntaxError> {
    let mut parser = Parser { text, at: 0 };
    if text.len() > MAX_LENGTH {
        parser.at = MAX_LENGTH;
        while !text.is_char_boundary(parser.at) {
            parser.at -= 1;
        }
        return Err(parser.error("the end (a selector has at most 1 MiB)"));
    }
    parser.space();
    if parser.rest().is_empty() {
        return Ok(Selector::All);
    }
    let selector = parser.or(MAX_DEPTH)?;
    if !parser.rest().is_empty() {
        return Err(parser.error("`&&`, `||` or the end"));
    }
    Ok(selector)
}

struct Parser<'a> {
    text: &'a str,
    /// Byte offset of the next token: white space before it is always consumed.
    at: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self, depth: usize) -> Result<Selector, SyntaxError> {
        let mut parts = vec![self.and(depth)?];
        while self.take("||") {
            parts.push(self.and(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Selector::Or(parts) })
    }

    fn and(&mut self, depth: usize) -> Result<Selector, SyntaxError> {
        let mut parts = vec![self.unary(depth)?];
        while self.take("&&") {
            parts.push(self.unary(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Selector::And(parts) })
    }

    fn unary(&mut self, depth: usize) -> Result<Selector, SyntaxError> {
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(self.error("an expression nested at most 64 levels deep"));
        };
        if self.rest().starts_with('!') {
            self.take("!");
            return Ok(Selector::Not(Box::new(self.unary(deeper)?)));
        }
        if self.take("(") {
            let inner = self.or(deeper)?;
            self.require(")", "`&&`, `||` or `)`")?;
            return Ok(inner);
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Selector, SyntaxError> {
        const EXPECTED: &str = "a label key, `has(`, `all()`, `global()`, `!` or `(`";
        let start = self.at;
        let word = self.key(EXPECTED)?;
        // `has`, `all` and `global` are label keys too, unless a parenthesis follows.
        if self.rest().starts_with('(') {
            match word {
                "all" | "global" => {
                    self.take("(");
                    self.require(")", "`)`")?;
                    return Ok(if word == "all" { Selector::All } else { Selector::Global });
                }
                "has" => {
                    self.take("(");
                    let key = self.key("a label key")?;
                    self.require(")", "`)`")?;
                    return Ok(Selector::Has(key.into()));
                }
                _ => {
                    self.at = start;
                    return Err(self.error(EXPECTED));
                }
            }
        }
        self.operator(word.into())
    }

    fn operator(&mut self, key: Box<str>) -> Result<Selector, SyntaxError> {
        if self.take("==") {
            return Ok(Selector::Equals(key, self.string()?));
        }
        if self.take("!=") {
            return Ok(Selector::NotEquals(key, self.string()?));
        }
        if self.take_word("contains") {
            return Ok(Selector::Contains(key, self.string()?));
        }
        if self.take_words("starts", "with") {
            return Ok(Selector::StartsWith(key, self.string()?));
        }
        if self.take_words("ends", "with") {
            return Ok(Selector::EndsWith(key, self.string()?));
        }
        if self.take_words("not", "in") {
            return Ok(Selector::NotIn(key, self.set()?));
        }
        if self.take_word("in") {
            return Ok(Selector::In(key, self.set()?));
        }
        Err(self.error(
            "`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with` after the key",
        ))
    }

    fn set(&mut self) -> Result<BTreeSet<Box<str>>, SyntaxError> {
        self.require("{", "`{`")?;
        let mut values = BTreeSet::new();
        if self.take("}") {
            return Ok(values);
        }
        loop {
            values.insert(self.string()?);
            if self.take("}") {
                return Ok(values);
            }
            self.require(",", "`,` or `}`")?;
        }
    }

    fn string(&mut self) -> Result<Box<str>, SyntaxError> {
        let Some(quote @ ('\'' | '"')) = self.rest().chars().next() else {
            return Err(self.error("a text in quotes"));
        };
        let body = &self.rest()[1..];
        let Some(end) = body.find(quote) else {
            self.at = self.text.len();
            return Err(self.error("the closing quote"));
        };
        self.at += end + 2;
        self.space();
        Ok(body[..end].into())
    }

    fn key(&mut self, expected: &'static str) -> Result<&'a str, SyntaxError> {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|b| !is_key_byte(b)).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error(expected));
        }
        if end > MAX_KEY {
            return Err(self.error("a label key of at most 512 characters"));
        }
        self.at += end;
        self.space();
        Ok(&rest[..end])
    }

    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        // Calico lets the two words touch: `notin`, `startswith`.
        if self.take(first) && self.take_word(second) {
            return true;
        }
        self.at = start;
        false
    }

    /// Takes `word` unless it is only the start of a longer word.
    fn take_word(&mut self, word: &str) -> bool {
        let whole =
            self.rest().strip_prefix(word).is_some_and(|rest| !rest.starts_with(is_key_char));
        whole && self.take(word)
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
            self.space();
        }
        found
    }

    fn require(&mut self, token: &str, expected: &'static str) -> Result<(), SyntaxError> {
        if self.take(token) { Ok(()) } else { Err(self.error(expected)) }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn error(&self, expected: &'static str) -> SyntaxError {
        const SHOWN: usize = 16;
        let rest = self.rest();
        let mut found: String = rest.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        if rest.chars().nth(SHOWN).is_some() {
            found.push('…');
        }
        let found = if rest.is_empty() { "the end".into() } else { format!("`{found}`").into() };
        SyntaxError { offset: self.at, expected, found }
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/')
}

fn is_key_char(c: char) -> bool {
    u8::try_from(c).is_ok_and(is_key_byte)
}

/// Canonical text in Calico's language, whatever language the selector was written in.
///
/// [`parse`] reads it back to an equal selector if the selector came from a parser of this crate;
/// a selector made by hand reads back to one that matches the same labels, provided that its keys
/// are keys of the language and no value holds both kinds of quotes.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEquals(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => write!(f, "{key} in {}", Set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Set(values)),
            Self::Contains(key, part) => write!(f, "{key} contains {}", Quoted(part)),
            Self::StartsWith(key, part) => write!(f, "{key} starts with {}", Quoted(part)),
            Self::EndsWith(key, part) => write!(f, "{key} ends with {}", Quoted(part)),
            Self::Not(part) => write!(f, "!{}", Operand(part)),
            Self::And(parts) => list(f, parts, " && ", "all()"),
            Self::Or(parts) => list(f, parts, " || ", "!all()"),
        }
    }
}

/// Parts joined by an operator; `none` where there is no part.
fn list(f: &mut fmt::Formatter<'_>, parts: &[Selector], joint: &str, none: &str) -> fmt::Result {
    match parts {
        [] => f.write_str(none),
        [only] => only.fmt(f),
        [first, others @ ..] => {
            Operand(first).fmt(f)?;
            for part in others {
                f.write_str(joint)?;
                Operand(part).fmt(f)?;
            }
            Ok(())
        }
    }
}

/// A part of a larger expression, in parentheses where it is itself a list.
struct Operand<'a>(&'a Selector);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Selector::And(_) | Selector::Or(_) => write!(f, "({})", self.0),
            other => other.fmt(f),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a BTreeSet<Box<str>>);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, value) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i > 0 { ", " } else { "" }, Quoted(value))?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_language_allows() {
        for (text, canonical) in [
            ("", "all()"),
            (" \n", "all()"),
            ("all ( )", "all()"),
            ("global()", "global()"),
            ("has( a.b/c-d_e )", "has(a.b/c-d_e)"),
            ("!has(x)", "!has(x)"),
            ("! ! has(x)", "!!has(x)"),
            ("!a == \"b\"", "!a == 'b'"),
            ("a==\"it's\"", "a == \"it's\""),
            ("a != '\"'", "a != '\"'"),
            ("has == 'x'", "has == 'x'"),
            ("in in {'in'}", "in in {'in'}"),
            ("not not in {'b','a','b'}", "not not in {'a', 'b'}"),
            ("a notin {}", "a not in {}"),
            ("a in {}", "a in {}"),
            ("a contains 'x'", "a contains 'x'"),
            ("a starts  with 'x'", "a starts with 'x'"),
            ("a endswith ''", "a ends with ''"),
            ("has(a)&&has(b)||has(c)", "(has(a) && has(b)) || has(c)"),
            ("has(a) && (has(b) || has(c))", "has(a) && (has(b) || has(c))"),
            ("!(a == 'b' && has(c))", "!(a == 'b' && has(c))"),
        ] {
            let selector = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.to_string(), canonical, "{text}");
            assert_eq!(parse(canonical).unwrap(), selector, "{text}");
        }
    }

    #[test]
    fn says_where_a_text_goes_wrong() {
        for (text, offset, expected) in [
            ("a", 1, "after the key"),
            ("a = 'b'", 2, "`==`"),
            ("a == b", 5, "quotes"),
            ("a == 'b", 7, "closing quote"),
            ("a == 'b' c", 9, "the end"),
            ("a in 'b'", 5, "`{`"),
            ("a in {'b' 'c'}", 10, "`,` or `}`"),
            ("a in {'b',}", 10, "quotes"),
            ("a contains'x' &&", 16, "label key"),
            ("(has(a)", 7, "`)`"),
            ("has(a))", 6, "the end"),
            ("has()", 4, "label key"),
            ("all(x)", 4, "`)`"),
            ("any()", 0, "`all()`"),
            ("a inside {'x'}", 2, "`in`"),
            ("&& has(a)", 0, "label key"),
            ("é == 'x'", 0, "label key"),
            ("!", 1, "label key"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.offset, offset, "{text}: {error}");
            assert!(error.expected.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |n: usize| format!("{}has(a){}", "(".repeat(n), ")".repeat(n));
        assert_eq!(parse(&nested(MAX_DEPTH - 1)).unwrap(), Selector::Has("a".into()));
        assert!(parse(&nested(MAX_DEPTH)).is_err());
        assert!(parse(&nested(500_000)).is_err());
        assert!(parse(&"!".repeat(500_000)).is_err());
        assert!(parse(&"é".repeat(MAX_LENGTH)).is_err());
        assert!(parse(&format!("has({})", "k".repeat(MAX_KEY))).is_ok());
        assert!(parse(&format!("has({})", "k".repeat(MAX_KEY + 1))).is_err());
        let long = vec!["has(a)"; 100_000].join(" && ");
        assert!(matches!(parse(&long).unwrap(), Selector::And(parts) if parts.len() == 100_000));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_keep_the_meaning(
            selector in super::super::tests::any_selector(),
            labels in super::super::tests::any_labels(),
        ) {
            let printed = selector.to_string();
            let read = parse(&printed).unwrap();
            prop_assert_eq!(read.matches(&labels), selector.matches(&labels), "{}", &printed);
            prop_assert_eq!(parse(&read.to_string()).unwrap(), read);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-c!&|(){}'\"=, ]{0,40}|\\PC*") {
            match parse(&text) {
                Ok(selector) => prop_assert_eq!(parse(&selector.to_string()).unwrap(), selector),
                Err(error) => prop_assert!(text.is_char_boundary(error.offset)),
            }
        }
    }
}
