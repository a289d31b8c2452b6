//! Walking the forest with a batch of headers, level by level: while one header waits for memory,
//! the others move on. No step branches on what a header is, so nothing is guessed wrong: headers
//! are written behind the end of a queue, and the end moves if they belong there.
//!
//! What the `unsafe` here gains: no bounds checks in the inner loops.

use super::forest::{Forest, Root};
use super::walk::{compare, step};
use crate::lanes::Key;
use crate::simd::Simd;

/// Headers that walk together.
pub(super) const CHUNK: usize = 64;

/// A forest of up to this many bytes stays in the second-level cache, where asking early costs more
/// than waiting.
const NEAR: usize = 256 << 10;

/// Improves `best` for each key, tree by tree.
#[inline(always)]
pub(super) fn walk<S: Simd, const B: usize>(
    simd: S,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
) {
    if forest.bytes <= NEAR {
        walk_trees::<S, B, false>(simd, forest, keys, best);
    } else {
        walk_trees::<S, B, true>(simd, forest, keys, best);
    }
}

#[inline(always)]
fn walk_trees<S: Simd, const B: usize, const FAR: bool>(
    simd: S,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
) {
    let Some((first, further)) = forest.roots.split_first() else { return };
    walk_first::<S, B, FAR>(simd, forest, first, keys, best);
    for root in further {
        walk_further::<S, B, FAR>(simd, forest, root, keys, best);
    }
}

/// Headers on their way, each packed with where it stands: `at << 32 | header`.
type Queue = [u64; CHUNK];

/// Writes behind the end, and moves the end when `keep`.
#[inline(always)]
fn push(queue: &mut Queue, len: &mut usize, keep: bool, item: u64) {
    // SAFETY: each header is kept in a queue at most once, and there are at most CHUNK, so before a
    // push fewer than CHUNK are in.
    let end = unsafe { queue.get_unchecked_mut(*len) };
    *end = item;
    *len += usize::from(keep);
}

/// Item `index`: which header, and where it stands.
#[inline(always)]
fn item(queue: &Queue, index: usize) -> (usize, u32) {
    // SAFETY: callers stay below a length that is at most CHUNK.
    let item = unsafe { *queue.get_unchecked(index) };
    ((item & 0xffff_ffff) as usize, (item >> 32) as u32)
}

/// Walks a tree in which most headers find something: all take the usual number of steps together
/// and are compared with one group, without asking who may stop. Those that stand elsewhere then
/// are compared with the group that nothing matches, and go on by themselves.
#[inline(always)]
fn walk_first<S: Simd, const B: usize, const FAR: bool>(
    simd: S,
    forest: &Forest<B>,
    root: &Root,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
) {
    let nodes = forest.nodes.as_ptr();
    let mut places = [0u32; CHUNK];
    for (at, key) in places.iter_mut().zip(keys) {
        *at = step(simd, root.node, 0, key);
        if FAR {
            simd.prefetch(nodes.wrapping_add(*at as usize));
        }
    }
    for _ in 0..root.usual_steps {
        for (at, key) in places.iter_mut().zip(keys) {
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *forest.nodes.get_unchecked(*at as usize) };
            *at = step(simd, node, *at, key);
            if FAR {
                simd.prefetch(nodes.wrapping_add(*at as usize));
            }
        }
    }
    let (mut odd, mut odd_len): (Queue, usize) = ([0; CHUNK], 0);
    for (who, at) in places[..keys.len()].iter_mut().enumerate() {
        // SAFETY: as above.
        let node = unsafe { *forest.nodes.get_unchecked(*at as usize) };
        let simple = node.is_simple_leaf();
        push(&mut odd, &mut odd_len, !simple, u64::from(*at) << 32 | who as u64);
        *at = if simple { node.first() } else { 0 };
        if FAR {
            simd.prefetch_group(forest.groups.as_ptr().wrapping_add(*at as usize));
        }
    }
    for ((best, at), key) in best.iter_mut().zip(&places).zip(keys) {
        *best = compare(simd, forest, key, *at);
    }
    descend::<S, B, FAR>(simd, forest, keys, best, &mut odd, odd_len);
}

/// Walks a tree in which most headers cannot improve on what they have: those do not even start.
#[inline(always)]
fn walk_further<S: Simd, const B: usize, const FAR: bool>(
    simd: S,
    forest: &Forest<B>,
    root: &Root,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
) {
    let mut alive = simd.above(best, root.node.best);
    let mut inner: Queue = [0; CHUNK];
    let mut len = 0;
    while alive != 0 {
        let who = alive.trailing_zeros() as usize;
        alive &= alive - 1;
        // SAFETY: only keys have a best above anything.
        let key = unsafe { keys.get_unchecked(who) };
        let at = step(simd, root.node, 0, key);
        // SAFETY: a bit of 64 for each item.
        unsafe { *inner.get_unchecked_mut(len) = u64::from(at) << 32 | who as u64 };
        len += 1;
        if FAR {
            simd.prefetch(forest.nodes.as_ptr().wrapping_add(at as usize));
        }
    }
    descend::<S, B, FAR>(simd, forest, keys, best, &mut inner, len);
}

/// Moves the first `len` headers of `inner` down to their leaves, except those that cannot win any
/// more, and compares.
#[inline(always)]
fn descend<S: Simd, const B: usize, const FAR: bool>(
    simd: S,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
    inner: &mut Queue,
    mut len: usize,
) {
    // On a leaf of one group, with the group; and on a leaf of several, with the node.
    let (mut leaves, mut leaves_len): (Queue, usize) = ([0; CHUNK], 0);
    let (mut crowded, mut crowded_len): (Queue, usize) = ([0; CHUNK], 0);
    while len > 0 {
        let mut alive = 0;
        for index in 0..len {
            let (who, at) = item(inner, index);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { forest.nodes.get_unchecked(at as usize) };
            // SAFETY: `who` is below CHUNK.
            let can_win = node.best < unsafe { *best.get_unchecked(who) };
            push(inner, &mut alive, can_win, u64::from(at) << 32 | who as u64);
        }
        len = 0;
        for index in 0..alive {
            let (who, at) = item(inner, index);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
            // SAFETY: `who` counts keys.
            let next = step(simd, node, at, unsafe { keys.get_unchecked(who) });
            let group = u64::from(node.first()) << 32 | who as u64;
            push(&mut leaves, &mut leaves_len, node.is_simple_leaf(), group);
            let here = u64::from(next) << 32 | who as u64;
            push(&mut crowded, &mut crowded_len, node.is_crowded_leaf(), here);
            push(inner, &mut len, !node.is_leaf(), here);
            if FAR {
                let group = forest.groups.as_ptr().wrapping_add(node.first() as usize);
                let node = forest.nodes.as_ptr().wrapping_add(next as usize);
                simd.prefetch_group(group);
                simd.prefetch(node);
            }
        }
    }
    for index in 0..leaves_len {
        let (who, group) = item(&leaves, index);
        improve(simd, forest, keys, best, who, group);
    }
    for index in 0..crowded_len {
        let (who, at) = item(&crowded, index);
        // SAFETY: `at` is a node of the forest, see `Forest::check`.
        let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
        for group in 0..node.groups() {
            improve(simd, forest, keys, best, who, node.first() + group);
        }
    }
}

/// Compares header `who` with the rules of group `group` and keeps the better.
#[inline(always)]
fn improve<S: Simd, const B: usize>(
    simd: S,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
    who: usize,
    group: u32,
) {
    // SAFETY: `who` counts keys.
    let id = compare(simd, forest, unsafe { keys.get_unchecked(who) }, group);
    // SAFETY: `who` is below CHUNK.
    let best = unsafe { best.get_unchecked_mut(who) };
    *best = (*best).min(id);
}
