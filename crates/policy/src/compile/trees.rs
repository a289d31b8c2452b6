//! Port trees: from a header to the outcome of one direction, shared wherever they are equal.
//!
//! A tree is a [`Root`] with one entry for each IP version and protocol, and below it nodes that
//! split one field into intervals. Roots, nodes and outcomes are hash-consed: equal ones exist once.

use std::hash::Hash;
use std::sync::Arc;

use ahash::AHashMap;

use super::resolve::RuleId;
use crate::flow::{Header, Verdict, protocol};
use crate::model::IpVersion;

/// Where a tree, or a part of one, is: a leaf, or the index of a root or node.
///
/// A leaf carries what every caller asks: whether it denies, logs, or differs from what staged
/// policies would decide; its low bits number the [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct Ref(pub(crate) u32);

const LEAF: u32 = 1 << 31;
const DENY: u32 = 1 << 30;
const LOG: u32 = 1 << 29;
const STAGED: u32 = 1 << 28;
const INDEX: u32 = STAGED - 1;

impl Ref {
    /// The leaf of a direction that policies have no say in.
    pub(crate) const NO_SAY: Self = Self(LEAF);

    pub(crate) const fn is_leaf(self) -> bool {
        self.0 & LEAF != 0
    }

    /// Of a leaf.
    pub(crate) const fn is_deny(self) -> bool {
        self.0 & DENY != 0
    }

    /// Of a leaf.
    pub(crate) const fn is_log(self) -> bool {
        self.0 & LOG != 0
    }

    /// Of a leaf: staged policies would decide otherwise.
    pub(crate) const fn is_staged(self) -> bool {
        self.0 & STAGED != 0
    }

    /// The number of a leaf's outcome, of a root or of a node.
    pub(crate) const fn index(self) -> usize {
        (self.0 & INDEX) as usize
    }
}

/// What one direction says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome {
    /// Allowed or denied.
    pub verdict: Verdict,
    /// The rule, or the end of a tier, that decided; [`RuleId::NONE`] if no tier did.
    pub rule: RuleId,
    /// Whether a `Log` rule matched on the way.
    pub log: bool,
    /// What it would be if staged policies were enforced: the same as above if they change nothing.
    pub staged: (Verdict, RuleId),
}

/// The entries of a root: one for each protocol that rules name, for each IP version.
pub(crate) const SLOTS: usize = 6;
/// Protocols by slot; the last slot is every other protocol.
pub(crate) const SLOT_PROTOCOLS: [u8; SLOTS - 1] =
    [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP, protocol::ICMPV6];
/// Words of a root: IPv4 slots from 0, IPv6 slots from 8, so that a root is one cache line.
const ROOT_WORDS: usize = 16;
const V6: usize = 8;

/// Which field a node splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Field {
    /// Source port, or ICMP type.
    Source,
    /// Destination port, or ICMP code.
    Destination,
    /// Protocol number.
    Protocol,
}

/// A node: intervals of one field, each with what follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) field: Field,
    /// First values of the intervals, ascending from 0.
    pub(crate) starts: Box<[u16]>,
    /// What follows, one for each interval.
    pub(crate) next: Box<[Ref]>,
}

/// All trees of a program.
///
/// Nodes lie one after the other in `words`: a head of field and number of intervals `n`, then
/// `n.div_ceil(2)` words of two starts each, then `n` references.
#[derive(Clone, Debug)]
pub(crate) struct Trees {
    pub(crate) roots: Vec<[u32; ROOT_WORDS]>,
    pub(crate) words: Vec<u32>,
    /// The first is that of [`Ref::NO_SAY`], which no tree has.
    pub(crate) outcomes: Vec<Outcome>,
}

impl Default for Trees {
    fn default() -> Self {
        let (verdict, rule) = (Verdict::Allow, RuleId::NONE);
        let no_say = Outcome { verdict, rule, log: false, staged: (verdict, rule) };
        Self { roots: Vec::new(), words: Vec::new(), outcomes: vec![no_say] }
    }
}

impl Trees {
    /// What the tree says of a header.
    pub(crate) fn walk(&self, tree: Ref, header: &Header) -> Ref {
        self.descend(self.enter(tree, header), header)
    }

    /// The first step of [`walk`](Trees::walk): past the root.
    pub(crate) fn enter(&self, tree: Ref, header: &Header) -> Ref {
        if tree.is_leaf() { tree } else { Ref(self.roots[tree.index()][slot(header)]) }
    }

    /// The other steps: down to a leaf.
    pub(crate) fn descend(&self, mut at: Ref, header: &Header) -> Ref {
        while !at.is_leaf() {
            at = self.step(at, header);
        }
        at
    }

    pub(crate) fn outcome(&self, leaf: Ref) -> &Outcome {
        &self.outcomes[leaf.index()]
    }

    /// Bytes on the heap.
    pub(crate) fn memory_usage(&self) -> usize {
        size_of_val(&self.roots[..])
            + size_of_val(&self.words[..])
            + size_of_val(&self.outcomes[..])
    }

    fn step(&self, at: Ref, header: &Header) -> Ref {
        let node = &self.words[at.index()..];
        let count = (node[0] & 0xffff) as usize;
        let field = match node[0] >> 16 {
            0 => header.source_port,
            1 => header.destination_port,
            _ => header.protocol.into(),
        };
        let starts = &node[1..];
        let start = |i: usize| (starts[i / 2] >> (16 * (i & 1))) as u16;
        // The last interval that starts at or before the value.
        let index = if count <= 8 {
            (1..count).filter(|&i| start(i) <= field).count()
        } else {
            let (mut low, mut high) = (0, count);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if start(middle) <= field {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            low
        };
        Ref(starts[count.div_ceil(2) + index])
    }

    /// The node at a reference, unpacked; `None` if there is none.
    pub(crate) fn node(&self, at: Ref) -> Option<Node> {
        let (head, node) = self.words.get(at.index()..)?.split_first()?;
        let count = (head & 0xffff) as usize;
        let field = match head >> 16 {
            0 => Field::Source,
            1 => Field::Destination,
            2 => Field::Protocol,
            _ => return None,
        };
        let (starts, refs) = node.split_at_checked(count.div_ceil(2))?;
        let starts = (0..count).map(|i| (starts[i / 2] >> (16 * (i & 1))) as u16).collect();
        let next = refs.get(..count)?.iter().map(|&word| Ref(word)).collect();
        Some(Node { field, starts, next })
    }

    /// What follows a tree for one IP version and slot; `None` if there is no such tree.
    pub(crate) fn entry(&self, tree: Ref, version: IpVersion, slot: usize) -> Option<Ref> {
        if tree.is_leaf() {
            return Some(tree);
        }
        let offset = if version == IpVersion::V6 { V6 } else { 0 };
        self.roots.get(tree.index()).map(|root| Ref(root[offset + slot]))
    }
}

/// The place of a header's version and protocol in a root.
fn slot(header: &Header) -> usize {
    const BY_PROTOCOL: [u8; 256] = {
        let mut table = [SLOTS as u8 - 1; 256];
        let mut i = 0;
        while i < SLOT_PROTOCOLS.len() {
            table[SLOT_PROTOCOLS[i] as usize] = i as u8;
            i += 1;
        }
        table
    };
    let offset = if header.ip_version == IpVersion::V6 { V6 } else { 0 };
    offset + usize::from(BY_PROTOCOL[usize::from(header.protocol)])
}

/// More trees than references can number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Adds to [`Trees`] what is not there yet.
#[derive(Debug, Default)]
pub(crate) struct TreeBuilder {
    /// Shared with the programs made of it; the first change after that copies it.
    pub(crate) trees: Arc<Trees>,
    roots: AHashMap<[u32; ROOT_WORDS], Ref>,
    nodes: AHashMap<Node, Ref>,
    outcomes: AHashMap<Outcome, Ref>,
}

impl TreeBuilder {
    pub(crate) fn leaf(&mut self, outcome: Outcome) -> Result<Ref, Full> {
        if let Some(&leaf) = self.outcomes.get(&outcome) {
            return Ok(leaf);
        }
        let mut bits = LEAF | index(self.trees.outcomes.len())?;
        if outcome.verdict == Verdict::Deny {
            bits |= DENY;
        }
        if outcome.log {
            bits |= LOG;
        }
        if outcome.staged != (outcome.verdict, outcome.rule) {
            bits |= STAGED;
        }
        Arc::make_mut(&mut self.trees).outcomes.push(outcome);
        self.outcomes.insert(outcome, Ref(bits));
        Ok(Ref(bits))
    }

    /// A node over intervals; neighbours with the same reference are merged, and a node that
    /// distinguishes nothing is what follows it.
    pub(crate) fn node(&mut self, field: Field, intervals: &[(u16, Ref)]) -> Result<Ref, Full> {
        let mut merged: Vec<(u16, Ref)> = Vec::with_capacity(intervals.len());
        for &(start, next) in intervals {
            if merged.last().is_none_or(|last| last.1 != next) {
                merged.push((start, next));
            }
        }
        if let [(_, only)] = merged[..] {
            return Ok(only);
        }
        let node = Node {
            field,
            starts: merged.iter().map(|i| i.0).collect(),
            next: merged.iter().map(|i| i.1).collect(),
        };
        if let Some(&at) = self.nodes.get(&node) {
            return Ok(at);
        }
        let words = &mut Arc::make_mut(&mut self.trees).words;
        let at = Ref(index(words.len())?);
        // At most one interval a port: 65,536 do not fit the head.
        let count = u16::try_from(node.starts.len()).map_err(|_| Full)?;
        words.push((node.field as u32) << 16 | u32::from(count));
        for pair in node.starts.chunks(2) {
            words.push(u32::from(pair[0]) | pair.get(1).map_or(0, |&s| u32::from(s) << 16));
        }
        words.extend(node.next.iter().map(|next| next.0));
        self.nodes.insert(node, at);
        Ok(at)
    }

    /// A whole tree from what follows for each IP version and slot.
    pub(crate) fn root(&mut self, v4: [Ref; SLOTS], v6: [Ref; SLOTS]) -> Result<Ref, Full> {
        let first = v4[0];
        if first.is_leaf() && v4.iter().chain(&v6).all(|&entry| entry == first) {
            return Ok(first);
        }
        let mut words = [first.0; ROOT_WORDS];
        for slot in 0..SLOTS {
            words[slot] = v4[slot].0;
            words[V6 + slot] = v6[slot].0;
        }
        if let Some(&root) = self.roots.get(&words) {
            return Ok(root);
        }
        let root = Ref(index(self.trees.roots.len())?);
        Arc::make_mut(&mut self.trees).roots.push(words);
        self.roots.insert(words, root);
        Ok(root)
    }
}

fn index(length: usize) -> Result<u32, Full> {
    u32::try_from(length).ok().filter(|&i| i <= INDEX).ok_or(Full)
}
