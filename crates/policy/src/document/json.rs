//! JSON text (RFC 8259) to nodes: one document, or several one after the other.
//!
//! Most JSON is also YAML, but not all: escaped surrogate pairs and keys longer than 1024 characters
//! are not. So JSON has its own reader.

use super::tree::{Builder, Key, Node, Position, SyntaxError, Value, shorten};

/// Calls `each` with every document of `text` in turn.
pub(crate) fn documents(text: &str, mut each: impl FnMut(Node)) -> Result<(), SyntaxError> {
    let mut reader = Reader { rest: text, line: 1, column: 1 };
    loop {
        reader.skip_blanks();
        if reader.rest.is_empty() {
            return Ok(());
        }
        let document = reader.document()?;
        if document.value != Value::Null {
            each(document);
        }
    }
}

struct Reader<'t> {
    rest: &'t str,
    line: u32,
    column: u32,
}

impl<'t> Reader<'t> {
    /// Reads one value with everything in it, without recursion.
    fn document(&mut self) -> Result<Node, SyntaxError> {
        let mut builder = Builder::default();
        // The closing bracket of each open list and map.
        let mut closers: Vec<char> = Vec::new();
        loop {
            self.skip_blanks();
            let at = self.at();
            if builder.expects_key() {
                let key = self.string("a key in double quotes")?;
                builder.key(Key { at, text: key.into() })?;
                self.skip_blanks();
                self.expect(':')?;
                continue;
            }
            let mut finished = match self.rest.chars().next() {
                Some(open @ ('{' | '[')) => {
                    self.advance(open);
                    let closer = if open == '{' {
                        builder.open_map(at)?;
                        '}'
                    } else {
                        builder.open_list(at)?;
                        ']'
                    };
                    self.skip_blanks();
                    if !self.accept(closer) {
                        closers.push(closer);
                        continue;
                    }
                    builder.close()
                }
                Some('"') => Some(Node { at, value: Value::Quoted(self.string("")?.into()) }),
                _ => Some(Node { at, value: self.word()? }),
            };
            // A finished value may finish what it stands in, and so on.
            while let Some(node) = finished.take() {
                if let Some(document) = builder.node(node)? {
                    return Ok(document);
                }
                self.skip_blanks();
                let Some(&closer) = closers.last() else { continue };
                if self.accept(closer) {
                    closers.pop();
                    finished = builder.close();
                } else {
                    self.expect(',')?;
                }
            }
        }
    }

    /// `true`, `false`, `null` or a number.
    fn word(&mut self) -> Result<Value, SyntaxError> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))
            .unwrap_or(self.rest.len());
        let (word, _) = self.rest.split_at(end);
        let value = match word {
            "null" => Value::Null,
            "true" | "false" => Value::Plain(word.into()),
            _ if word.starts_with(|c: char| c == '-' || c.is_ascii_digit())
                && word.parse::<f64>().is_ok_and(f64::is_finite) =>
            {
                Value::Plain(word.into())
            }
            "" => return Err(self.unexpected("a value")),
            _ => {
                let message = format!("{:?} is no JSON value: strings need quotes", shorten(word));
                return Err(SyntaxError::new(self.at(), message));
            }
        };
        for c in word.chars() {
            self.advance(c);
        }
        Ok(value)
    }

    /// A string in double quotes, unescaped. `wanted` says what it is if it is not there.
    fn string(&mut self, wanted: &str) -> Result<String, SyntaxError> {
        let start = self.at();
        if !self.accept('"') {
            return Err(self.unexpected(wanted));
        }
        let mut text = String::new();
        loop {
            let at = self.at();
            let Some(c) = self.rest.chars().next() else {
                return Err(SyntaxError::new(start, "this string has no end"));
            };
            self.advance(c);
            match c {
                '"' => return Ok(text),
                '\\' => text.push(self.escape(at)?),
                c if c < ' ' => {
                    return Err(SyntaxError::new(at, "control characters must be escaped"));
                }
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, at: Position) -> Result<char, SyntaxError> {
        let wrong = || SyntaxError::new(at, "no valid escape");
        let c = self.rest.chars().next().ok_or_else(wrong)?;
        self.advance(c);
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.hex().ok_or_else(wrong)?;
                let units = if (0xd800..0xdc00).contains(&first) {
                    if !(self.accept('\\') && self.accept('u')) {
                        return Err(wrong());
                    }
                    vec![first, self.hex().ok_or_else(wrong)?]
                } else {
                    vec![first]
                };
                match char::decode_utf16(units).next() {
                    Some(Ok(c)) => c,
                    _ => return Err(wrong()),
                }
            }
            _ => return Err(wrong()),
        })
    }

    fn hex(&mut self) -> Option<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let c = self.rest.chars().next()?;
            unit = unit * 16 + c.to_digit(16)?;
            self.advance(c);
        }
        u16::try_from(unit).ok()
    }

    fn skip_blanks(&mut self) {
        while let Some(c @ (' ' | '\t' | '\r' | '\n')) = self.rest.chars().next() {
            self.advance(c);
        }
    }

    /// Steps over `c`, the next character.
    fn advance(&mut self, c: char) {
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
    }

    fn accept(&mut self, c: char) -> bool {
        let there = self.rest.starts_with(c);
        if there {
            self.advance(c);
        }
        there
    }

    fn expect(&mut self, c: char) -> Result<(), SyntaxError> {
        if self.accept(c) { Ok(()) } else { Err(self.unexpected(&format!("`{c}`"))) }
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let found = match self.rest.chars().next() {
            Some(c) => format!("{c:?}"),
            None => "the end of the file".to_owned(),
        };
        SyntaxError::new(self.at(), format!("expected {wanted}, found {found}"))
    }

    fn at(&self) -> Position {
        Position { line: self.line, column: self.column }
    }
}
