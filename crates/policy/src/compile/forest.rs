//! Trees while they are folded: conditions and half-made outcomes, hash-consed, with a memoised
//! if-then-else.
//!
//! A [`Tree`] has an entry for each IP version and slot; below it are nodes of two levels that split
//! the outer and the inner field of the slot into intervals, down to leaves. Equal trees are one
//! tree, so a step of a fold that was taken before costs one look into a table. That is how binary
//! decision diagrams work (Bryant 1986), with intervals instead of bits.

use std::hash::{Hash, Hasher};

use ahash::{AHashMap, RandomState};
use indexmap::IndexSet;

use super::boxes::{Box2, Values};
use super::resolve::RuleId;
use super::trees::{Field, Full, Outcome, Ref, SLOT_PROTOCOLS, SLOTS, TreeBuilder};
use crate::flow::{Verdict, protocol};

/// A tree of a [`Forest`]: of conditions or of halves, equal if and only if they say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tree(u32);

impl Tree {
    /// Two trees as one number, to hash.
    pub(crate) fn both([one, other]: [Self; 2]) -> u64 {
        u64::from(one.0) << 32 | u64::from(other.0)
    }
}

/// Three of a kind, as a key: hashed as two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Three([u32; 3]);

impl Hash for Three {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0[0]) << 32 | u64::from(self.0[1]));
        state.write_u32(self.0[2]);
    }
}

/// What follows for each IP version and slot: hashed as half as many words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entries([Part; ENTRIES]);

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for pair in self.0.chunks_exact(2) {
            state.write_u64(u64::from(pair[0].0) << 32 | u64::from(pair[1].0));
        }
    }
}

/// Below a tree: a leaf or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Part(u32);

const LEAF: u32 = 1 << 31;

impl Part {
    /// Leaves of conditions.
    const FALSE: Self = Self(LEAF);
    const TRUE: Self = Self(LEAF | 1);

    fn is_leaf(self) -> bool {
        self.0 & LEAF != 0
    }

    fn index(self) -> usize {
        (self.0 & !LEAF) as usize
    }
}

/// What one walk over the tiers, with staged policies or without them, comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Half {
    pub(crate) verdict: Verdict,
    pub(crate) rule: RuleId,
    pub(crate) log: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    level: u8,
    /// First values of the intervals, ascending from 0, each with what follows.
    intervals: Box<[(u16, Part)]>,
}

/// Levels of nodes; leaves come after both.
const OUTER: u8 = 0;
const INNER: u8 = 1;

/// Entries of a tree: all slots of IPv4, then all of IPv6.
pub(crate) const ENTRIES: usize = 2 * SLOTS;

/// A tree exceeds the limit of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyCells(pub(crate) u64);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Forest {
    max_cells: u64,
    halves: IndexSet<Half, RandomState>,
    nodes: IndexSet<Node, RandomState>,
    /// Leaves below each node.
    cells: Vec<u64>,
    trees: IndexSet<Entries, RandomState>,
    chosen_parts: AHashMap<Three, Part>,
    chosen: AHashMap<Three, Tree>,
    logged_parts: AHashMap<Part, Part>,
    logged: AHashMap<Tree, Tree>,
    exported_parts: AHashMap<(Part, Part, bool), Ref>,
    exported: AHashMap<[Tree; 2], Ref>,
    words: usize,
}

impl Forest {
    pub(crate) fn new(max_cells: u64) -> Self {
        Self {
            max_cells,
            halves: IndexSet::default(),
            nodes: IndexSet::default(),
            cells: Vec::new(),
            trees: IndexSet::default(),
            chosen_parts: AHashMap::new(),
            chosen: AHashMap::new(),
            logged_parts: AHashMap::new(),
            logged: AHashMap::new(),
            exported_parts: AHashMap::new(),
            exported: AHashMap::new(),
            words: 0,
        }
    }

    /// The tree that says the same of all headers.
    pub(crate) fn uniform(&mut self, half: Half) -> Tree {
        let index = self.halves.insert_full(half).0;
        let index = u32::try_from(index).expect("fewer halves than rules, times four");
        self.tree([Part(LEAF | index); ENTRIES])
    }

    /// The condition that holds in any of the boxes of each entry.
    pub(crate) fn condition(
        &mut self,
        mut boxes: impl FnMut(usize) -> Vec<Box2>,
    ) -> Result<Tree, TooManyCells> {
        let mut entries = [Part::FALSE; ENTRIES];
        for (at, entry) in entries.iter_mut().enumerate() {
            for part in boxes(at) {
                let inner = self.within(INNER, &part.inner, Part::TRUE)?;
                let part = self.within(OUTER, &part.outer, inner)?;
                *entry = self.choose_part(part, Part::TRUE, *entry)?;
            }
        }
        Ok(self.tree(entries))
    }

    /// `then` where the condition holds, else `otherwise`. Cost: once for three trees, the product of
    /// their intervals in the worst case.
    pub(crate) fn choose(
        &mut self,
        condition: Tree,
        then: Tree,
        otherwise: Tree,
    ) -> Result<Tree, TooManyCells> {
        if then == otherwise {
            return Ok(then);
        }
        let three = [condition, then, otherwise];
        let key = Three(three.map(|tree| tree.0));
        if let Some(&known) = self.chosen.get(&key) {
            return Ok(known);
        }
        let [condition, then, otherwise] = three.map(|tree| self.trees[tree.0 as usize].0);
        let mut entries = otherwise;
        for (at, entry) in entries.iter_mut().enumerate() {
            *entry = self.choose_part(condition[at], then[at], otherwise[at])?;
        }
        let tree = self.tree(entries);
        self.chosen.insert(key, tree);
        Ok(tree)
    }

    /// The same decisions, logged.
    pub(crate) fn logged(&mut self, tree: Tree) -> Tree {
        if let Some(&known) = self.logged.get(&tree) {
            return known;
        }
        let entries = self.trees[tree.0 as usize].0.map(|part| self.logged_part(part));
        let logged = self.tree(entries);
        self.logged.insert(tree, logged);
        logged
    }

    /// The tree as lookups read it, from what is enforced and from what would be with staged policies.
    pub(crate) fn export(
        &mut self,
        enforced: Tree,
        staged: Tree,
        builder: &mut TreeBuilder,
    ) -> Result<Ref, Full> {
        if let Some(&known) = self.exported.get(&[enforced, staged]) {
            return Ok(known);
        }
        let mut entries = [Ref(0); ENTRIES];
        for (at, entry) in entries.iter_mut().enumerate() {
            let part = |tree: Tree| self.trees[tree.0 as usize].0[at];
            *entry = self.export_part(part(enforced), part(staged), at % SLOTS, builder)?;
        }
        let side = |at: usize| std::array::from_fn(|slot| entries[at + slot]);
        let tree = builder.root(side(0), side(SLOTS))?;
        self.exported.insert([enforced, staged], tree);
        Ok(tree)
    }

    /// About how many bytes are on the heap.
    pub(crate) fn memory_usage(&self) -> usize {
        const ENTRY: usize = 8;
        self.words * size_of::<u32>()
            + self.nodes.len() * (size_of::<Node>() + 3 * ENTRY)
            + self.trees.len() * (size_of::<[Part; ENTRIES]>() + 3 * ENTRY)
            + (self.chosen_parts.capacity() + self.chosen.capacity()) * 17
            + (self.exported_parts.capacity() + self.exported.capacity()) * 17
            + (self.logged_parts.capacity() + self.logged.capacity()) * 9
    }

    fn tree(&mut self, entries: [Part; ENTRIES]) -> Tree {
        let index = self.trees.insert_full(Entries(entries)).0;
        Tree(u32::try_from(index).expect("the forest is cleared long before"))
    }

    /// What follows within the values, and false elsewhere.
    fn within(&mut self, level: u8, values: &Values, follows: Part) -> Result<Part, TooManyCells> {
        let mut intervals = vec![(0, Part::FALSE)];
        for &(first, last) in &values.0 {
            if intervals.last().is_some_and(|&(start, _)| start == first) {
                intervals.pop();
            }
            intervals.push((first, follows));
            intervals.extend(last.checked_add(1).map(|next| (next, Part::FALSE)));
        }
        self.node(level, intervals)
    }

    fn choose_part(
        &mut self,
        condition: Part,
        then: Part,
        otherwise: Part,
    ) -> Result<Part, TooManyCells> {
        match condition {
            Part::TRUE => return Ok(then),
            Part::FALSE => return Ok(otherwise),
            _ if then == otherwise => return Ok(then),
            _ => {}
        }
        let three = [condition, then, otherwise];
        let key = Three(three.map(|part| part.0));
        if let Some(&known) = self.chosen_parts.get(&key) {
            return Ok(known);
        }
        let (level, cuts) = self.cut(&three);
        let mut intervals = Vec::with_capacity(cuts.len());
        let mut total = 0;
        for (start, [condition, then, otherwise]) in cuts {
            let part = self.choose_part(condition, then, otherwise)?;
            total += self.cells_of(part);
            if total > self.max_cells {
                return Err(TooManyCells(total));
            }
            intervals.push((start, part));
        }
        let part = self.node(level, intervals)?;
        self.chosen_parts.insert(key, part);
        Ok(part)
    }

    /// The highest level of some parts, and what follows each of them between neighbouring starts of
    /// any of them.
    fn cut<const N: usize>(&self, parts: &[Part; N]) -> (u8, Vec<(u16, [Part; N])>) {
        let whole = parts.map(|part| [(0, part)]);
        let node = |part: Part| (!part.is_leaf()).then(|| &self.nodes[part.index()]);
        let level = parts.iter().filter_map(|&part| node(part)).map(|node| node.level).min();
        let level = level.unwrap_or(INNER);
        let lists: [&[(u16, Part)]; N] = std::array::from_fn(|i| match node(parts[i]) {
            Some(node) if node.level == level => &node.intervals,
            _ => &whole[i][..],
        });
        let mut at = [0; N];
        let mut cuts = Vec::new();
        let mut start = 0;
        loop {
            cuts.push((start, std::array::from_fn(|i| lists[i][at[i]].1)));
            let next = (0..N).filter_map(|i| lists[i].get(at[i] + 1)).map(|next| next.0).min();
            let Some(next) = next else { return (level, cuts) };
            for i in 0..N {
                at[i] += usize::from(lists[i].get(at[i] + 1).is_some_and(|n| n.0 == next));
            }
            start = next;
        }
    }

    fn cells_of(&self, part: Part) -> u64 {
        if part.is_leaf() { 1 } else { self.cells[part.index()] }
    }

    fn node(&mut self, level: u8, mut intervals: Vec<(u16, Part)>) -> Result<Part, TooManyCells> {
        intervals.dedup_by_key(|interval| interval.1);
        if let [(_, only)] = intervals[..] {
            return Ok(only);
        }
        let cells = intervals.iter().map(|&(_, part)| self.cells_of(part)).sum();
        if cells > self.max_cells {
            return Err(TooManyCells(cells));
        }
        let words = 2 * intervals.len();
        let (index, new) = self.nodes.insert_full(Node { level, intervals: intervals.into() });
        if new {
            self.cells.push(cells);
            self.words += words;
        }
        Ok(Part(u32::try_from(index).expect("the forest is cleared long before")))
    }

    fn logged_part(&mut self, part: Part) -> Part {
        if part.is_leaf() {
            let half = Half { log: true, ..self.halves[part.index()] };
            return Part(LEAF | self.halves.insert_full(half).0 as u32);
        }
        if let Some(&known) = self.logged_parts.get(&part) {
            return known;
        }
        let Node { level, intervals } = self.nodes[part.index()].clone();
        let intervals = intervals.iter().map(|&(start, part)| (start, self.logged_part(part)));
        let intervals = intervals.collect();
        let logged = self.node(level, intervals).expect("no more cells than before");
        self.logged_parts.insert(part, logged);
        logged
    }

    fn export_part(
        &mut self,
        enforced: Part,
        staged: Part,
        slot: usize,
        builder: &mut TreeBuilder,
    ) -> Result<Ref, Full> {
        if enforced.is_leaf() && staged.is_leaf() {
            let (half, staged) = (self.halves[enforced.index()], self.halves[staged.index()]);
            let Half { verdict, rule, log } = half;
            return builder.leaf(Outcome {
                verdict,
                rule,
                log,
                staged: (staged.verdict, staged.rule),
            });
        }
        let (outer, inner) = fields(slot);
        let key = (enforced, staged, outer == Field::Destination);
        // The slots of other protocols share nothing worth remembering.
        if outer != Field::Protocol
            && let Some(&known) = self.exported_parts.get(&key)
        {
            return Ok(known);
        }
        let (level, cuts) = self.cut(&[enforced, staged]);
        let mut intervals = Vec::with_capacity(cuts.len());
        for (start, [enforced, staged]) in cuts {
            intervals.push((start, self.export_part(enforced, staged, slot, builder)?));
        }
        let node = builder.node(if level == OUTER { outer } else { inner }, &intervals)?;
        if outer != Field::Protocol {
            self.exported_parts.insert(key, node);
        }
        Ok(node)
    }
}

/// Which fields the outer and inner nodes of a slot split.
fn fields(slot: usize) -> (Field, Field) {
    match SLOT_PROTOCOLS.get(slot) {
        None => (Field::Protocol, Field::Source),
        Some(&p) if protocol::is_icmp(p) => (Field::Source, Field::Destination),
        Some(_) => (Field::Destination, Field::Source),
    }
}
