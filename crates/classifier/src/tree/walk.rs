//! Walking the forest with a batch of headers, level by level: while one header waits for memory,
//! the others move on.
//!
//! What the `unsafe` here gains: no bounds checks in the inner loops (measured in
//! docs/performance). Every index comes from the compiled form, which only `build` makes, and
//! `Forest::check` has looked at all of them once.

use super::forest::{Forest, LEAF, NOTHING, Node, RESIDUAL, Root};
use crate::lanes::Key;
use crate::simd::{Instructions, Scalar, Simd};

/// Headers that walk together.
pub(super) const CHUNK: usize = 64;

/// Instruction sets to walk with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Backend {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(crate::simd::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(crate::simd::Avx512),
}

impl Backend {
    /// The lowest id of a rule that matches `key`, or `NOTHING`.
    pub(super) fn find<const B: usize>(self, forest: &Forest<B>, key: &Key<B>) -> u32 {
        match self {
            Self::Scalar(simd) => find(simd, forest, key),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves that the processor has these instructions.
            Self::Avx2(simd) => unsafe { find_avx2(simd, forest, key) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves that the processor has these instructions.
            Self::Avx512(simd) => unsafe { find_avx512(simd, forest, key) },
        }
    }

    /// The instruction set that this walks with.
    pub(super) fn instructions(self) -> Instructions {
        match self {
            Self::Scalar(_) => Instructions::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Instructions::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Instructions::Avx512,
        }
    }

    /// The lowest id of a rule that matches, for each key; `NOTHING` when none does. `best` holds
    /// upper bounds on entry: rules with ids from there on are not looked for.
    pub(super) fn walk<const B: usize>(
        self,
        forest: &Forest<B>,
        keys: &[Key<B>],
        best: &mut [u32],
    ) {
        assert_eq!(keys.len(), best.len(), "one answer a key");
        match self {
            Self::Scalar(simd) => walk(simd, forest, keys, best),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves that the processor has these instructions.
            Self::Avx2(simd) => unsafe { walk_avx2(simd, forest, keys, best) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves that the processor has these instructions.
            Self::Avx512(simd) => unsafe { walk_avx512(simd, forest, keys, best) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn walk_avx2<const B: usize>(
    simd: crate::simd::Avx2,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32],
) {
    walk(simd, forest, keys, best);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
fn walk_avx512<const B: usize>(
    simd: crate::simd::Avx512,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32],
) {
    walk(simd, forest, keys, best);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn find_avx2<const B: usize>(simd: crate::simd::Avx2, forest: &Forest<B>, key: &Key<B>) -> u32 {
    find(simd, forest, key)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
fn find_avx512<const B: usize>(simd: crate::simd::Avx512, forest: &Forest<B>, key: &Key<B>) -> u32 {
    find(simd, forest, key)
}

/// One header alone.
#[inline(always)]
fn find<S: Simd, const B: usize>(simd: S, forest: &Forest<B>, key: &Key<B>) -> u32 {
    trace(simd, forest, key, &mut |_| ())
}

/// Cache lines that a lookup of `key` touches, found by walking as a lookup does.
pub(super) fn touches<const B: usize>(forest: &Forest<B>, key: &Key<B>) -> usize {
    let mut touches = 0;
    trace(Scalar, forest, key, &mut |lines| touches += lines);
    touches
}

/// Walks one header, and tells `touch` of the cache lines on the way.
#[inline(always)]
fn trace<S: Simd, const B: usize>(
    simd: S,
    forest: &Forest<B>,
    key: &Key<B>,
    touch: &mut impl FnMut(usize),
) -> u32 {
    let mut best = [NOTHING];
    let keys = std::slice::from_ref(key);
    for root in &forest.roots {
        if root.node.best >= best[0] {
            continue;
        }
        let mut at = step(simd, root.node, 0, key);
        loop {
            touch(1);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
            if node.best >= best[0] {
                break;
            }
            if node.is_leaf() {
                for group in 0..node.groups() {
                    touch(2 * B + 1);
                    compare(simd, forest, keys, &mut best, 0, node.first() + group);
                }
                break;
            }
            at = step(simd, node, at, key);
        }
    }
    best[0]
}

#[inline(always)]
fn walk<S: Simd, const B: usize>(simd: S, forest: &Forest<B>, keys: &[Key<B>], best: &mut [u32]) {
    for (keys, best) in keys.chunks(CHUNK).zip(best.chunks_mut(CHUNK)) {
        let mut roots = forest.roots.iter();
        if let Some(root) = roots.next() {
            let mut chunk = Chunk::new(simd, forest, keys, best);
            chunk.walk_first(root);
        }
        for root in roots {
            let mut chunk = Chunk::new(simd, forest, keys, best);
            chunk.walk_further(root);
        }
    }
}

/// Headers on their way, each packed with a number: `number << 32 | header`.
struct Queue {
    items: [u64; CHUNK],
    len: usize,
}

impl Queue {
    const fn new() -> Self {
        Self { items: [0; CHUNK], len: 0 }
    }

    /// Writes behind the end and moves the end when `keep`: no branch to guess wrong.
    #[inline(always)]
    fn push_if(&mut self, keep: bool, who: usize, number: u32) {
        // SAFETY: each header is kept in a queue at most once, and there are at most CHUNK, so
        // before a push fewer than CHUNK are in.
        let end = unsafe { self.items.get_unchecked_mut(self.len) };
        *end = u64::from(number) << 32 | who as u64;
        self.len += usize::from(keep);
    }

    /// Replaces an item.
    #[inline(always)]
    fn set(&mut self, index: usize, who: usize, number: u32) {
        // SAFETY: callers stay below `len`, which is at most CHUNK.
        let item = unsafe { self.items.get_unchecked_mut(index) };
        *item = u64::from(number) << 32 | who as u64;
    }

    /// Header and number of an item.
    #[inline(always)]
    fn item(&self, index: usize) -> (usize, u32) {
        // SAFETY: callers stay below `len`, which is at most CHUNK.
        let item = unsafe { *self.items.get_unchecked(index) };
        ((item & 0xffff_ffff) as usize, (item >> 32) as u32)
    }
}

/// One step down: the place in `node`'s table that `key` belongs to, or `at` itself for a leaf.
#[inline(always)]
fn step<S: Simd, const B: usize>(simd: S, node: Node, at: u32, key: &Key<B>) -> u32 {
    // SAFETY: tables are made with windows inside the header, see `Forest::check`; a leaf's
    // offset is 0 or 1.
    let window = unsafe { window_unchecked(key, node.offset()) };
    let next = node.first() + simd.extract(window, node.mask) as u32;
    if node.is_leaf() { at } else { next }
}

/// A batch on its way through one tree.
struct Chunk<'a, S, const B: usize> {
    simd: S,
    forest: &'a Forest<B>,
    keys: &'a [Key<B>],
    best: &'a mut [u32],
    /// Headers on a node that is yet to be looked at.
    inner: Queue,
    /// Headers on a leaf of one group.
    leaves: Queue,
    /// Headers on a leaf of several groups, with the leaf's node.
    crowded: Queue,
}

impl<'a, S: Simd, const B: usize> Chunk<'a, S, B> {
    #[inline(always)]
    fn new(simd: S, forest: &'a Forest<B>, keys: &'a [Key<B>], best: &'a mut [u32]) -> Self {
        let [inner, leaves, crowded] = [const { Queue::new() }; 3];
        Self { simd, forest, keys, best, inner, leaves, crowded }
    }

    /// Walks a tree in which most headers find something: all take the usual number of steps
    /// together, without asking who may stop.
    #[inline(always)]
    fn walk_first(&mut self, root: &Root) {
        let nodes = self.forest.nodes.as_slice();
        let mut at = [0u32; CHUNK];
        let at = &mut at[..self.keys.len()];
        for (at, key) in at.iter_mut().zip(self.keys) {
            *at = step(self.simd, root.node, 0, key);
            self.simd.prefetch(nodes.as_ptr().wrapping_add(*at as usize));
        }
        for _ in 0..root.usual_steps {
            for (at, key) in at.iter_mut().zip(self.keys) {
                // SAFETY: `at` is a node of the forest, see `Forest::check`.
                let node = unsafe { *nodes.get_unchecked(*at as usize) };
                *at = step(self.simd, node, *at, key);
                self.simd.prefetch(nodes.as_ptr().wrapping_add(*at as usize));
            }
        }
        for (who, at) in at.iter().enumerate() {
            self.arrive(who, *at);
        }
        self.descend();
    }

    /// Walks a tree in which most headers cannot improve on what they have: those stop early.
    #[inline(always)]
    fn walk_further(&mut self, root: &Root) {
        for (who, best) in self.best.iter().enumerate() {
            self.inner.push_if(root.node.best < *best, who, 0);
        }
        for index in 0..self.inner.len {
            let (who, _) = self.inner.item(index);
            // SAFETY: `who` counts keys.
            let at = step(self.simd, root.node, 0, unsafe { self.keys.get_unchecked(who) });
            self.simd.prefetch(self.forest.nodes.as_ptr().wrapping_add(at as usize));
            self.inner.set(index, who, at);
        }
        for index in 0..std::mem::take(&mut self.inner.len) {
            let (who, at) = self.inner.item(index);
            self.arrive(who, at);
        }
        self.descend();
    }

    /// Puts a header in the queue that fits the node it stands on, or in none if nothing below can
    /// win.
    #[inline(always)]
    fn arrive(&mut self, who: usize, at: u32) {
        // SAFETY: `at` is a node of the forest, see `Forest::check`.
        let node = unsafe { *self.forest.nodes.get_unchecked(at as usize) };
        // SAFETY: there is one best a key.
        let alive = node.best < unsafe { *self.best.get_unchecked(who) };
        let group = self.forest.groups.as_ptr().wrapping_add(node.first() as usize);
        self.simd.prefetch_group(group);
        self.leaves.push_if(alive & node.is_simple_leaf(), who, node.first());
        self.crowded.push_if(alive & node.is_crowded_leaf(), who, at);
        self.inner.push_if(alive & !node.is_leaf(), who, at);
    }

    /// Moves those that are still inside down to their leaves, and compares.
    #[inline(always)]
    fn descend(&mut self) {
        while self.inner.len > 0 {
            for index in 0..std::mem::take(&mut self.inner.len) {
                let (who, at) = self.inner.item(index);
                // SAFETY: `at` is a node of the forest, see `Forest::check`.
                let node = unsafe { *self.forest.nodes.get_unchecked(at as usize) };
                // SAFETY: `who` counts keys.
                let at = step(self.simd, node, at, unsafe { self.keys.get_unchecked(who) });
                self.arrive(who, at);
            }
        }
        for index in 0..self.leaves.len {
            let (who, group) = self.leaves.item(index);
            compare(self.simd, self.forest, self.keys, self.best, who, group);
        }
        for index in 0..self.crowded.len {
            let (who, at) = self.crowded.item(index);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *self.forest.nodes.get_unchecked(at as usize) };
            for group in 0..node.groups() {
                compare(self.simd, self.forest, self.keys, self.best, who, node.first() + group);
            }
        }
    }
}

/// The four lanes from `offset` on as one word, the first lane lowest.
///
/// # Safety
/// `offset + 4` must not exceed the number of lanes.
#[inline(always)]
unsafe fn window_unchecked<const B: usize>(key: &Key<B>, offset: usize) -> u64 {
    // SAFETY: the caller's promise.
    let lanes = unsafe { key.0.as_ptr().cast::<u16>().add(offset) };
    // SAFETY: the caller's promise; lanes are aligned as they must be.
    let lanes = unsafe { lanes.cast::<[u16; 4]>().read() };
    lanes.iter().rev().fold(0, |word, lane| word << 16 | u64::from(*lane))
}

/// Compares header `who` with the rules of group `at` and keeps the best.
#[inline(always)]
fn compare<S: Simd, const B: usize>(
    simd: S,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32],
    who: usize,
    at: u32,
) {
    // SAFETY: `who` counts keys.
    let key = unsafe { keys.get_unchecked(who) };
    // SAFETY: there is one best a key.
    let best = unsafe { best.get_unchecked_mut(who) };
    // SAFETY: `at` is a group of a leaf, see `Forest::check`.
    let group = unsafe { forest.groups.get_unchecked(at as usize) };
    // SAFETY: there are as many rows of ids as groups.
    let ids = unsafe { forest.ids.get_unchecked(at as usize) };
    let hits = simd.compare(group, key);
    let slot = (hits.trailing_zeros() >> 3 & 3) as usize;
    let id = if hits == 0 { NOTHING } else { ids[slot] };
    if id & RESIDUAL != 0 && hits != 0 {
        *best = (*best).min(ask(forest, key, hits, ids));
    } else {
        *best = (*best).min(id);
    }
}

/// The first hit whose rule has no more to ask or is content with the answer.
#[cold]
fn ask<const B: usize>(forest: &Forest<B>, key: &Key<B>, mut hits: u32, ids: &[u32; 4]) -> u32 {
    while hits != 0 {
        let id = ids[(hits.trailing_zeros() >> 3) as usize];
        if id & RESIDUAL == 0 {
            return id;
        }
        let residual = &forest.residuals[(id ^ RESIDUAL) as usize];
        if residual.matches(key) {
            return residual.id;
        }
        hits &= hits - 1;
    }
    NOTHING
}

const _: () = assert!(LEAF == RESIDUAL && CHUNK <= 256, "marks are the top bit");
