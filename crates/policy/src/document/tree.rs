//! A document as a tree of nodes that know where they were written. YAML and JSON both become this.

use std::sync::Arc;

use crate::model::Origin;

/// The deepest nesting; real objects stay below 20.
pub(crate) const MAX_DEPTH: usize = 64;

/// The most nodes in one document: a list of a million networks, or 50,000 pods, fits.
pub(crate) const MAX_NODES: usize = 4_000_000;

/// The most keys of one mapping; annotations, the largest there are, end at 256 KiB.
pub(crate) const MAX_KEYS: usize = 1 << 16;

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

/// A place in a file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Position {
    pub(crate) fn in_file(self, file: &Arc<str>) -> Origin {
        Origin { file: Arc::clone(file), line: self.line, column: self.column }
    }
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `null`, `~` or nothing at all.
    Null,
    /// Text that stood in quotes or in a block, so that it can only be a string.
    Quoted(Box<str>),
    /// Text without quotes: a string, a number or a boolean, as the field needs.
    Plain(Box<str>),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) at: Position,
    pub(crate) text: Box<str>,
}

impl Node {
    /// The value of `key`, if this is a map that has it. O(keys).
    pub(crate) fn entry(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| &*k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// What to call this kind of value in a message.
    pub(crate) fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Quoted(_) | Value::Plain(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Why text is no document, and where.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SyntaxError {
    pub(crate) at: Position,
    pub(crate) message: String,
}

impl SyntaxError {
    pub(crate) fn new(at: Position, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// Builds nodes from a stream of events, refusing duplicate keys and whatever is too deep or too
/// big. Shared by both syntaxes, so that they cannot differ.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    open: Vec<Open>,
    nodes: usize,
}

/// A list or map whose end has not come yet.
#[derive(Debug)]
struct Open {
    at: Position,
    items: Items,
}

#[derive(Debug)]
enum Items {
    List(Vec<Node>),
    /// The key whose value is awaited, the entries, and their keys once they are many.
    Map(Option<Key>, Vec<(Key, Node)>, ahash::AHashSet<Box<str>>),
}

/// From this many keys on, a set finds duplicates; below, looking is cheaper.
const FEW_KEYS: usize = 16;

impl Builder {
    pub(crate) fn open_list(&mut self, at: Position) -> Result<(), SyntaxError> {
        self.open(at, Items::List(Vec::new()))
    }

    pub(crate) fn open_map(&mut self, at: Position) -> Result<(), SyntaxError> {
        self.open(at, Items::Map(None, Vec::new(), ahash::AHashSet::default()))
    }

    fn open(&mut self, at: Position, items: Items) -> Result<(), SyntaxError> {
        if self.expects_key() {
            return Err(SyntaxError::new(at, "a key must be a single value"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError::new(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(Open { at, items });
        Ok(())
    }

    /// Whether the next single value is a key.
    pub(crate) fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { items: Items::Map(None, ..), .. }))
    }

    /// Takes the next key; only when [`Self::expects_key`].
    pub(crate) fn key(&mut self, key: Key) -> Result<(), SyntaxError> {
        let Some(Open { items: Items::Map(awaited, entries, seen), .. }) = self.open.last_mut()
        else {
            return Ok(());
        };
        let duplicate = if entries.len() < FEW_KEYS {
            entries.iter().any(|(k, _)| k.text == key.text)
        } else {
            if seen.is_empty() {
                seen.extend(entries.iter().map(|(k, _)| k.text.clone()));
            }
            !seen.insert(key.text.clone())
        };
        if duplicate {
            return Err(SyntaxError::new(
                key.at,
                format!("duplicate key {:?}", shorten(&key.text)),
            ));
        }
        if entries.len() >= MAX_KEYS {
            return Err(SyntaxError::new(
                key.at,
                format!("a mapping of more than {MAX_KEYS} keys"),
            ));
        }
        *awaited = Some(key);
        Ok(())
    }

    /// Takes a complete node; answers it back if it is a whole document.
    pub(crate) fn node(&mut self, node: Node) -> Result<Option<Node>, SyntaxError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(SyntaxError::new(
                node.at,
                format!("more than {MAX_NODES} values in one document: split it"),
            ));
        }
        match self.open.last_mut().map(|open| &mut open.items) {
            None => {
                self.nodes = 0;
                return Ok(Some(node));
            }
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map(awaited, entries, _)) => {
                if let Some(key) = awaited.take() {
                    entries.push((key, node));
                }
            }
        }
        Ok(None)
    }

    /// Ends the innermost list or map and hands it out; give it back with [`Self::node`].
    pub(crate) fn close(&mut self) -> Option<Node> {
        let Open { at, items } = self.open.pop()?;
        let value = match items {
            Items::List(items) => Value::List(items),
            Items::Map(_, entries, _) => Value::Map(entries),
        };
        Some(Node { at, value })
    }
}

/// `text`, cut so that a message stays readable.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().nth(MOST).is_none() {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MOST).collect();
    short.push('…');
    short
}
