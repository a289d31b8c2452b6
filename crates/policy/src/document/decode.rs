//! Typed reading of nodes: every field is asked for by name, and what nobody asked for is an error.
//!
//! A function answers `None` after it has reported why, so that a reader goes on and one run finds
//! as many mistakes as possible.

use std::fmt::Display;
use std::sync::Arc;

use super::tree::{Key, Node, Position, Value, shorten};
use crate::diagnostic::Report;
use crate::model::Origin;

/// One file being read: where findings go and the name they carry.
pub(crate) struct Reader<'r> {
    pub(crate) file: Arc<str>,
    pub(crate) report: &'r mut Report,
}

impl Reader<'_> {
    pub(crate) fn origin(&self, at: Position) -> Origin {
        at.in_file(&self.file)
    }

    pub(crate) fn error(&mut self, at: Position, message: impl Into<String>) {
        let origin = self.origin(at);
        self.report.error(origin, message);
    }

    pub(crate) fn warn(&mut self, at: Position, message: impl Into<String>) {
        let origin = self.origin(at);
        self.report.warn(origin, message);
    }

    /// The node as a list; `null` is an empty one.
    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Null => Some(&[]),
            _ => {
                self.error(node.at, format!("{what} must be a list, found {}", node.describe()));
                None
            }
        }
    }

    /// The node as a list of between `least` and `most` items.
    pub(crate) fn bounded_list<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        least: usize,
        most: usize,
    ) -> Option<&'n [Node]> {
        let items = self.list(node, what)?;
        if items.len() < least {
            self.error(node.at, format!("{what} must have at least {least} item"));
            return None;
        }
        if items.len() > most {
            self.error(
                node.at,
                format!("{what} must have at most {most} items, found {}", items.len()),
            );
            return None;
        }
        Some(items)
    }

    /// The node as a string. Text that YAML or its readers take for something else must be quoted.
    pub(crate) fn string<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Quoted(text) => Some(text),
            Value::Plain(text) => match other_reading(text) {
                None => Some(text),
                Some(other) => {
                    self.error(
                        node.at,
                        format!("{what} must be a string, but {text} is {other}: write {text:?}"),
                    );
                    None
                }
            },
            Value::Null => {
                self.error(
                    node.at,
                    format!("{what} must be a string, found nothing: write \"\" for an empty one"),
                );
                None
            }
            Value::List(_) | Value::Map(_) => {
                self.error(node.at, format!("{what} must be a string, found {}", node.describe()));
                None
            }
        }
    }

    /// The node as one of these words.
    pub(crate) fn word<'w>(
        &mut self,
        node: &Node,
        what: &str,
        words: &[&'w str],
    ) -> Option<&'w str> {
        let text = self.string(node, what)?;
        let found = words.iter().find(|w| **w == text).copied();
        if found.is_none() {
            let hint = match words.iter().find(|w| w.eq_ignore_ascii_case(text)) {
                Some(word) => format!(" (did you mean {word}?)"),
                None => String::new(),
            };
            self.error(
                node.at,
                format!("{what} {:?} is not one of {}{hint}", shorten(text), words.join(", ")),
            );
        }
        found
    }

    /// The node as a whole number between `least` and `most`, in plain decimal digits.
    pub(crate) fn integer<T>(&mut self, node: &Node, what: &str, least: T, most: T) -> Option<T>
    where
        T: Copy + Display + PartialOrd + TryFrom<i64>,
    {
        let refuse = |reader: &mut Self, found: &str| {
            reader.error(
                node.at,
                format!("{what} must be a number from {least} to {most}, found {found}"),
            );
            None
        };
        match &node.value {
            Value::Plain(text) if is_decimal(text) => {
                match text.parse::<i64>().ok().and_then(|n| T::try_from(n).ok()) {
                    Some(n) if n >= least && n <= most => Some(n),
                    _ => refuse(self, &shorten(text)),
                }
            }
            Value::Plain(text) => refuse(self, &shorten(text)),
            Value::Quoted(text) => refuse(self, &format!("the string {:?}", shorten(text))),
            _ => refuse(self, node.describe()),
        }
    }

    /// The node as a finite number.
    pub(crate) fn number(&mut self, node: &Node, what: &str) -> Option<f64> {
        if let Value::Plain(text) = &node.value
            && text.starts_with(|c: char| matches!(c, '-' | '.') || c.is_ascii_digit())
            && let Ok(number) = text.parse::<f64>()
            && number.is_finite()
        {
            return Some(number);
        }
        self.error(node.at, format!("{what} must be a number"));
        None
    }

    /// The node as a boolean.
    pub(crate) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match &node.value {
            Value::Plain(text) => match &**text {
                "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
                "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
                    Some(false)
                }
                _ => None,
            },
            _ => None,
        }
        .or_else(|| {
            self.error(node.at, format!("{what} must be true or false"));
            None
        })
    }

    /// The node as a mapping, whose fields are then taken one by one.
    pub(crate) fn fields<'n>(&mut self, node: &'n Node, what: &'static str) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(entries) => Some(Fields { at: node.at, what, entries, known: Vec::new() }),
            _ => {
                self.error(node.at, format!("{what} must be a mapping, found {}", node.describe()));
                None
            }
        }
    }
}

/// The fields of a mapping. Every `take` makes a name known; [`Fields::finish`] refuses the others.
pub(crate) struct Fields<'n> {
    pub(crate) at: Position,
    what: &'static str,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The field's value; `None` if it is absent or `null`.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<&'n Node> {
        self.take_nullable(name).filter(|node| node.value != Value::Null)
    }

    /// The field's value, also if that is `null`.
    pub(crate) fn take_nullable(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.push(name);
        self.entries.iter().find(|(key, _)| &*key.text == name).map(|(_, node)| node)
    }

    /// The field's value; an error if it is absent or `null`.
    pub(crate) fn require(
        &mut self,
        name: &'static str,
        reader: &mut Reader<'_>,
    ) -> Option<&'n Node> {
        let node = self.take(name);
        if node.is_none() {
            reader.error(self.at, format!("{} has no {name}", self.what));
        }
        node
    }

    /// Where `name` is written.
    pub(crate) fn place(&self, name: &str) -> Position {
        self.entries.iter().find(|(key, _)| &*key.text == name).map_or(self.at, |(key, _)| key.at)
    }

    /// The fields that nobody took.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = &'n Key> {
        self.entries.iter().map(|(key, _)| key).filter(|key| !self.known.contains(&&*key.text))
    }

    /// Whether the mapping has no field at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Refuses every field that was not taken.
    pub(crate) fn finish(self, reader: &mut Reader<'_>) {
        for key in self.unknown() {
            let mut known = self.known.clone();
            known.sort_unstable();
            known.dedup();
            reader.error(
                key.at,
                format!(
                    "{} has no field {:?}; it has {}",
                    self.what,
                    shorten(&key.text),
                    known.join(", ")
                ),
            );
        }
    }
}

/// Digits with perhaps a sign, no leading zero: what every reader takes for the same number.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'))
}

/// What a plain scalar is to the YAML reader of the Kubernetes tools, if not a string.
fn other_reading(text: &str) -> Option<&'static str> {
    let boolean = matches!(
        text,
        "true"
            | "True"
            | "TRUE"
            | "false"
            | "False"
            | "FALSE"
            | "yes"
            | "Yes"
            | "YES"
            | "no"
            | "No"
            | "NO"
            | "on"
            | "On"
            | "ON"
            | "off"
            | "Off"
            | "OFF"
    );
    if boolean {
        return Some("a boolean");
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let lower = digits.to_ascii_lowercase();
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)].iter().any(|(prefix, radix)| {
        lower
            .strip_prefix(prefix)
            .is_some_and(|d| !d.is_empty() && d.chars().all(|c| c == '_' || c.is_digit(*radix)))
    });
    let special = matches!(&*lower, ".inf" | ".nan");
    let number = digits.starts_with(|c: char| c == '.' || c.is_ascii_digit())
        && lower.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-' | '_'))
        && lower.replace('_', "").parse::<f64>().is_ok();
    (radix || special || number).then_some("a number")
}
