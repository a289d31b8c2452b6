//! The compiled form: a few trees whose inner nodes are tables and whose leaves are groups of four
//! rules. Walking it is in `walk`, making it in `build`.

use super::cross::Crossed;
use crate::lanes::{Residual, WIDTH};
use crate::simd::{GROUP, Group};

/// A place in a tree: either a table that some bits of the header index, or a leaf.
///
/// Tables are rows of nodes, so that one touch of memory is one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub(super) struct Node {
    /// Inner: which bits of the header's window index the table. Leaf: the number of groups.
    pub(super) mask: u64,
    /// Inner: first lane of the window (bits 27 to 31) and first node of the table. Leaf: `LEAF`,
    /// whether there are more groups than one (bit 27) and the first group.
    pub(super) target: u32,
    /// The lowest rule id below. `NOTHING` when there is none.
    pub(super) best: u32,
}

/// Marks a leaf.
pub(super) const LEAF: u32 = 1 << 26;
const OFFSET_SHIFT: u32 = 27;
/// Nodes and groups are at most this many.
pub(super) const MAX_INDEX: u32 = LEAF;
/// No rule.
pub(super) const NOTHING: u32 = u32::MAX;
/// Marks an id that is the place of a residual.
pub(super) const RESIDUAL: u32 = 1 << 31;

/// What a node is.
pub(super) enum Kind {
    /// `groups` groups, from number `first` on.
    Leaf { first: u32, groups: u32 },
    /// A table, from node `first` on, indexed by the bits `mask` of the window at lane `offset`.
    Table { first: u32, offset: usize, mask: u64 },
}

impl Node {
    /// A leaf of the one group, number 0, that nothing matches.
    pub(super) const EMPTY: Self = Self { mask: 1, target: LEAF, best: NOTHING };

    pub(super) fn leaf(first: u32, groups: u32, best: u32) -> Self {
        let more = u32::from(groups > 1);
        Self { mask: groups.into(), target: LEAF | more << OFFSET_SHIFT | first, best }
    }

    pub(super) fn table(first: u32, offset: usize, mask: u64, best: u32) -> Self {
        let offset = u32::try_from(offset).expect("a header has at most 32 lanes");
        Self { mask, target: offset << OFFSET_SHIFT | first, best }
    }

    #[inline(always)]
    pub(super) fn is_leaf(self) -> bool {
        self.target & LEAF != 0
    }

    /// A leaf of one group.
    #[inline(always)]
    pub(super) fn is_simple_leaf(self) -> bool {
        self.target & !(MAX_INDEX - 1) == LEAF
    }

    /// Groups of a leaf.
    #[inline(always)]
    pub(super) fn groups(self) -> u32 {
        self.mask as u32
    }

    /// First lane of a table's window.
    #[inline(always)]
    pub(super) fn offset(self) -> usize {
        (self.target >> OFFSET_SHIFT) as usize
    }

    /// First node of a table, first group of a leaf.
    #[inline(always)]
    pub(super) fn first(self) -> u32 {
        self.target & (MAX_INDEX - 1)
    }

    pub(super) fn kind(self) -> Kind {
        if self.is_leaf() {
            Kind::Leaf { first: self.first(), groups: self.groups() }
        } else {
            Kind::Table { first: self.first(), offset: self.offset(), mask: self.mask }
        }
    }
}

/// Where a tree starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    /// A table, never a leaf.
    pub(super) node: Node,
    /// Further tables that most headers pass before they reach a leaf.
    pub(super) usual_steps: u32,
    /// Further tables that any header passes at most; at least `usual_steps`.
    pub(super) steps: u32,
}

/// All trees of one address family.
#[derive(Clone, Debug, Default)]
pub(super) struct Forest<const B: usize> {
    /// A root each, the one with the best rule first.
    pub(super) roots: Vec<Root>,
    /// Rules that are looked up by bit crossed, after the trees.
    pub(super) crossed: Option<Crossed<B>>,
    pub(super) nodes: Vec<Node>,
    pub(super) groups: Vec<Group<B>>,
    /// Which rules a group holds: ids, or `RESIDUAL` and a place in `residuals`.
    pub(super) ids: Vec<[u32; GROUP]>,
    pub(super) residuals: Vec<Residual>,
    /// Cache lines that a lookup touches at most.
    pub(super) touches: usize,
    /// Bytes that lookups read.
    pub(super) bytes: usize,
}

/// A group's slots that hold no rule.
pub(super) const NO_SLOT: u32 = NOTHING;

impl<const B: usize> Forest<B> {
    /// Whether every index in the forest is inside what it indexes, which the walk relies on.
    pub(super) fn check(&self) -> bool {
        let nodes = self.nodes.iter().chain(self.roots.iter().map(|root| &root.node));
        let inside = |node: &Node| match node.kind() {
            Kind::Leaf { first, groups } => {
                node.offset() <= 1
                    && (1..=64).contains(&groups)
                    && (first + groups) as usize <= self.groups.len()
            }
            Kind::Table { first, offset, mask } => {
                let size = 1u64 << mask.count_ones();
                offset + 4 <= B * WIDTH && u64::from(first) + size <= self.nodes.len() as u64
            }
        };
        let slots = self.ids.iter().as_slice().as_flattened();
        self.ids.len() == self.groups.len()
            && self.crossed.as_ref().is_none_or(Crossed::check)
            && self.roots.iter().all(|root| !root.node.is_leaf())
            && nodes.into_iter().all(inside)
            && slots.iter().all(|&id| {
                id == NO_SLOT
                    || id & RESIDUAL == 0
                    || ((id ^ RESIDUAL) as usize) < self.residuals.len()
            })
    }

    /// Bytes of heap.
    pub(super) fn memory_usage(&self) -> usize {
        self.crossed.as_ref().map_or(0, Crossed::memory_usage)
            + self.roots.capacity() * size_of::<Root>()
            + self.nodes.capacity() * size_of::<Node>()
            + self.groups.capacity() * size_of::<Group<B>>()
            + self.ids.capacity() * size_of::<[u32; GROUP]>()
            + self.residuals.capacity() * size_of::<Residual>()
    }
}
