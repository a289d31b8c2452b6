//! YAML text to nodes, one document at a time.
//!
//! Aliases are copied within a budget, so that a few lines cannot expand to gigabytes. Merge keys
//! and tags other than `!!str` are refused: what they would mean differs between readers.

use std::borrow::Cow;

use ahash::AHashMap;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::tree::{Builder, Key, Node, Position, SyntaxError, Value};

/// Bytes that all anchors and aliases of one document may copy.
const MAX_ALIAS_BYTES: usize = 1 << 20;

/// Calls `each` with every document of `text` in turn, empty ones left out.
pub(crate) fn documents(text: &str, mut each: impl FnMut(Node)) -> Result<(), SyntaxError> {
    let mut parser = Parser::new_from_str(text);
    let mut reader = Reader::default();
    while let Some(event) = parser.next_event() {
        let (event, span) =
            event.map_err(|e| SyntaxError::new(position(e.marker()), e.info().to_owned()))?;
        if let Some(document) = reader.event(event, position(&span.start))?
            && document.value != Value::Null
        {
            each(document);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Reader {
    builder: Builder,
    /// Finished nodes that have an anchor, by its number.
    anchors: AHashMap<usize, Node>,
    /// The anchor of each open list and map; 0 is none.
    open_anchors: Vec<usize>,
    /// Bytes copied so far for anchors and aliases.
    copied: usize,
}

impl Reader {
    fn event(&mut self, event: Event<'_>, at: Position) -> Result<Option<Node>, SyntaxError> {
        match event {
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.copied = 0;
                Ok(None)
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), at)?;
                self.open_anchors.push(anchor);
                self.builder.open_map(at).map(|()| None)
            }
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), at)?;
                self.open_anchors.push(anchor);
                self.builder.open_list(at).map(|()| None)
            }
            Event::MappingEnd | Event::SequenceEnd => {
                let anchor = self.open_anchors.pop().unwrap_or(0);
                match self.builder.close() {
                    Some(node) => self.finished(node, anchor),
                    None => Ok(None),
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = style != ScalarStyle::Plain || scalar_tag(tag.as_deref(), at)?;
                self.scalar(text, quoted, anchor, at)
            }
            Event::Alias(anchor) => {
                if self.builder.expects_key() {
                    return Err(SyntaxError::new(at, "an alias cannot be a key"));
                }
                let Some(target) = self.anchors.get(&anchor) else {
                    return Err(SyntaxError::new(at, "alias to an anchor that is not there"));
                };
                let copy = copy(target, &mut self.copied, at)?;
                self.builder.node(copy)
            }
            Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => Ok(None),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        quoted: bool,
        anchor: usize,
        at: Position,
    ) -> Result<Option<Node>, SyntaxError> {
        if self.builder.expects_key() {
            if anchor != 0 {
                return Err(SyntaxError::new(at, "a key cannot be an anchor"));
            }
            if !quoted && text == "<<" {
                return Err(SyntaxError::new(
                    at,
                    "merge keys (<<) are not supported: write the fields out",
                ));
            }
            return self.builder.key(Key { at, text: text.into() }).map(|()| None);
        }
        let value = match &*text {
            _ if quoted => Value::Quoted(text.into()),
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            _ => Value::Plain(text.into()),
        };
        self.finished(Node { at, value }, anchor)
    }

    fn finished(&mut self, node: Node, anchor: usize) -> Result<Option<Node>, SyntaxError> {
        if anchor != 0 {
            let copy = copy(&node, &mut self.copied, node.at)?;
            self.anchors.insert(anchor, copy);
        }
        self.builder.node(node)
    }
}

/// A copy of `node`, as long as `copied` stays within the budget.
fn copy(node: &Node, copied: &mut usize, at: Position) -> Result<Node, SyntaxError> {
    let value = match &node.value {
        Value::Null => Value::Null,
        Value::Quoted(text) | Value::Plain(text) => {
            *copied += text.len();
            node.value.clone()
        }
        Value::List(items) => {
            Value::List(items.iter().map(|item| copy(item, copied, at)).collect::<Result<_, _>>()?)
        }
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, value)| {
                    *copied += key.text.len();
                    Ok((key.clone(), copy(value, copied, at)?))
                })
                .collect::<Result<_, _>>()?,
        ),
    };
    *copied += size_of::<Node>();
    if *copied > MAX_ALIAS_BYTES {
        return Err(SyntaxError::new(
            at,
            format!("anchors and aliases expand to more than {MAX_ALIAS_BYTES} bytes"),
        ));
    }
    Ok(Node { at: node.at, value })
}

/// Whether the tag says that a scalar is a string, `!!str`; no other tag is accepted.
fn scalar_tag(tag: Option<&Tag>, at: Position) -> Result<bool, SyntaxError> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(true),
        Some(tag) => Err(SyntaxError::new(at, format!("the tag {tag} is not supported"))),
    }
}

fn collection_tag(tag: Option<&Tag>, at: Position) -> Result<(), SyntaxError> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && matches!(&*tag.suffix, "map" | "seq") => Ok(()),
        Some(tag) => Err(SyntaxError::new(at, format!("the tag {tag} is not supported"))),
    }
}

fn position(mark: &Marker) -> Position {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: small(mark.line()), column: small(mark.col().saturating_add(1)) }
}
