//! Walking the forest: the choice of instructions, the steps, and one header alone. Batches are in
//! `batch`.
//!
//! What the `unsafe` here gains: no bounds checks in the inner loops. Every index comes from the
//! compiled form, which only `build` makes, and `Forest::check` has looked at all of them once.

use super::batch::{self, CHUNK};
use super::forest::{Forest, NOTHING, Node, RESIDUAL};
use crate::lanes::Key;
use crate::simd::{Instructions, Scalar, Simd, first_zero_byte};

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

    /// The lowest id of a rule that matches, for each of at most `CHUNK` keys; `NOTHING` when none
    /// does.
    pub(super) fn walk<const B: usize>(
        self,
        forest: &Forest<B>,
        keys: &[Key<B>],
        best: &mut [u32; CHUNK],
    ) {
        assert!(keys.len() <= CHUNK, "one answer a key");
        best[..keys.len()].fill(NOTHING);
        // Nothing is better than this, so that nothing is looked for where there is no key.
        best[keys.len()..].fill(0);
        match self {
            Self::Scalar(simd) => batch::walk(simd, forest, keys, best),
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
    best: &mut [u32; CHUNK],
) {
    batch::walk(simd, forest, keys, best);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
fn walk_avx512<const B: usize>(
    simd: crate::simd::Avx512,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
) {
    batch::walk(simd, forest, keys, best);
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
    let mut best = NOTHING;
    for root in &forest.roots {
        if root.node.best >= best {
            continue;
        }
        let mut at = step(simd, root.node, 0, key);
        loop {
            touch(1);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
            if node.best >= best {
                break;
            }
            if node.is_leaf() {
                for group in 0..node.groups() {
                    touch(2 * B + 1);
                    best = best.min(compare(simd, forest, key, node.first() + group));
                }
                break;
            }
            at = step(simd, node, at, key);
        }
    }
    if let Some(crossed) = &forest.crossed
        && crossed.best < best
    {
        touch(crossed.touches());
        best = best.min(crossed.find(simd, key));
    }
    best
}

/// One step down: the place in `node`'s table that `key` belongs to, or `at` itself for a leaf.
#[inline(always)]
pub(super) fn step<S: Simd, const B: usize>(simd: S, node: Node, at: u32, key: &Key<B>) -> u32 {
    // SAFETY: tables are made with windows inside the header, see `Forest::check`; a leaf's
    // offset is 0 or 1.
    let window = unsafe { window_unchecked(key, node.offset()) };
    let next = node.first() + simd.extract(window, node.mask) as u32;
    if node.is_leaf() { at } else { next }
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

/// The lowest id of a rule of group `at` that matches `key`, or `NOTHING`.
#[inline(always)]
pub(super) fn compare<S: Simd, const B: usize>(
    simd: S,
    forest: &Forest<B>,
    key: &Key<B>,
    at: u32,
) -> u32 {
    // SAFETY: `at` is a group of a leaf, see `Forest::check`.
    let group = unsafe { forest.groups.get_unchecked(at as usize) };
    // SAFETY: there are as many rows of ids as groups.
    let ids = unsafe { forest.ids.get_unchecked(at as usize) };
    let misses = simd.misses(group, key);
    let slot = first_zero_byte(misses);
    let id = ids[(slot & 3) as usize];
    let id = if slot > 3 { NOTHING } else { id };
    // One more makes 0 of `NOTHING` and leaves the mark of a residual.
    if id.wrapping_add(1) & RESIDUAL != 0 { ask(forest, key, misses, ids) } else { id }
}

/// The first match whose rule has no more to ask or is content with the answer.
#[cold]
fn ask<const B: usize>(forest: &Forest<B>, key: &Key<B>, misses: u32, ids: &[u32; 4]) -> u32 {
    for (id, miss) in ids.iter().zip(misses.to_le_bytes()) {
        if miss != 0 {
            continue;
        }
        if id & RESIDUAL == 0 {
            return *id;
        }
        let residual = &forest.residuals[(id ^ RESIDUAL) as usize];
        if residual.matches(key) {
            return residual.id;
        }
    }
    NOTHING
}
