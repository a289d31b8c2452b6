//! A cursor over one line that knows where it stands, so that every complaint can say so.

use super::ParseError;

/// One line, read word by word.
pub(super) struct Line<'a> {
    file: &'a str,
    number: usize,
    text: &'a str,
    at: usize,
}

/// A word and where it starts.
#[derive(Clone, Copy)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl<'a> Word<'a> {
    /// Splits at the first `mark`.
    pub(super) fn split(self, mark: char) -> Option<(Word<'a>, Word<'a>)> {
        let (left, right) = self.text.split_once(mark)?;
        let at = self.at + left.len() + mark.len_utf8();
        Some((Word { text: left, at: self.at }, Word { text: right, at }))
    }
}

impl<'a> Line<'a> {
    pub(super) fn new(file: &'a str, number: usize, text: &'a str) -> Self {
        Self { file, number, text, at: 0 }
    }

    /// The next word, which must be there; `expected` names it in the complaint.
    pub(super) fn word(&mut self, expected: &str) -> Result<Word<'a>, ParseError> {
        self.next_word().ok_or_else(|| {
            let end = Word { text: "", at: self.text.trim_end().len() };
            self.error(end, format!("expected {expected}, found the end of the line"))
        })
    }

    /// The next word, if there is one.
    pub(super) fn next_word(&mut self) -> Option<Word<'a>> {
        self.skip_blanks();
        let rest = &self.text[self.at..];
        let len = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let word = Word { text: &rest[..len], at: self.at };
        self.at += len;
        (len > 0).then_some(word)
    }

    /// Takes `mark` if it comes next.
    pub(super) fn take(&mut self, mark: char) -> bool {
        self.skip_blanks();
        let found = self.text[self.at..].starts_with(mark);
        if found {
            self.at += mark.len_utf8();
        }
        found
    }

    /// A run of digits with an optional end at `:`, which ClassBench puts between two ports.
    pub(super) fn digits(&mut self, expected: &str) -> Result<Word<'a>, ParseError> {
        self.skip_blanks();
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(rest.len());
        let word = Word { text: &rest[..len], at: self.at };
        if len == 0 {
            let found = if rest.is_empty() { "the end of the line" } else { "`:`" };
            return Err(self.error(word, format!("expected {expected}, found {found}")));
        }
        self.at += len;
        Ok(word)
    }

    /// Refuses anything that is left.
    pub(super) fn end(&mut self) -> Result<(), ParseError> {
        match self.next_word() {
            None => Ok(()),
            Some(word) => {
                Err(self
                    .error(word, format!("expected the end of the line, found `{}`", word.text)))
            }
        }
    }

    /// Where the cursor stands.
    pub(super) fn here(&self) -> Word<'a> {
        Word { text: "", at: self.at }
    }

    /// A complaint about `word`.
    pub(super) fn error(&self, word: Word<'_>, message: String) -> ParseError {
        ParseError { file: self.file.to_owned(), line: self.number, column: word.at + 1, message }
    }

    fn skip_blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }
}

/// The lines that hold something, numbered from 1.
pub(super) fn lines<'a>(file: &'a str, text: &'a str) -> impl Iterator<Item = Line<'a>> {
    text.lines().enumerate().filter_map(move |(index, line)| {
        let first = line.trim_start().chars().next()?;
        (first != '#').then(|| Line::new(file, index + 1, line))
    })
}
