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

/// So many headers that have not yet arrived take all steps together, which costs each a quarter of
/// what a step alone does.
const MANY: usize = 32;

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
    if let Some((first, further)) = forest.roots.split_first() {
        walk_first::<S, B, FAR>(simd, forest, first, keys, best);
        for root in further {
            walk_further::<S, B, FAR>(simd, forest, root, keys, best);
        }
    }
    if let Some(crossed) = &forest.crossed {
        crossed.walk(simd, keys, best);
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
    unpack(unsafe { *queue.get_unchecked(index) })
}

#[inline(always)]
fn unpack(item: u64) -> (usize, u32) {
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
    let steps = root.steps.saturating_sub(root.usual_steps);
    descend::<S, B, FAR>(simd, forest, keys, best, steps, &mut odd, odd_len);
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
    // Most of those that come to a further tree leave it at once.
    let mut alive = 0;
    for index in 0..len {
        let (who, at) = item(&inner, index);
        // SAFETY: `at` is a node of the forest, see `Forest::check`.
        let node = unsafe { forest.nodes.get_unchecked(at as usize) };
        // SAFETY: `who` is below CHUNK.
        let can_win = node.best < unsafe { *best.get_unchecked(who) };
        push(&mut inner, &mut alive, can_win, u64::from(at) << 32 | who as u64);
    }
    descend::<S, B, FAR>(simd, forest, keys, best, root.steps, &mut inner, alive);
}

/// Moves the first `len` headers of `inner` down to their leaves, which are at most `steps` away,
/// except those that cannot win any more, and compares.
#[inline(always)]
fn descend<S: Simd, const B: usize, const FAR: bool>(
    simd: S,
    forest: &Forest<B>,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
    steps: u32,
    inner: &mut Queue,
    mut len: usize,
) {
    let (mut leaves, mut leaves_len): (Queue, usize) = ([0; CHUNK], 0);
    if len >= MANY {
        len = together::<S, B, FAR>(simd, forest, steps, keys, best, inner, len);
    }
    while len > 0 {
        let mut below = 0;
        for index in 0..len {
            let (who, at) = item(inner, index);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
            // SAFETY: `who` is below CHUNK.
            let can_win = node.best < unsafe { *best.get_unchecked(who) };
            // SAFETY: `who` counts keys.
            let next = step(simd, node, at, unsafe { keys.get_unchecked(who) });
            let here = u64::from(next) << 32 | who as u64;
            push(&mut leaves, &mut leaves_len, can_win & node.is_leaf(), here);
            push(inner, &mut below, can_win & !node.is_leaf(), here);
            if FAR {
                let group = forest.groups.as_ptr().wrapping_add(node.first() as usize);
                let node = forest.nodes.as_ptr().wrapping_add(next as usize);
                simd.prefetch_group(group);
                simd.prefetch(node);
            }
        }
        len = below;
    }
    // One group of each leaf after the other, until no leaf has more.
    let mut round = 0;
    while leaves_len > 0 {
        let mut more = 0;
        for index in 0..leaves_len {
            let (who, at) = item(&leaves, index);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
            improve(simd, forest, keys, best, who, node.first() + round);
            let here = u64::from(at) << 32 | who as u64;
            push(&mut leaves, &mut more, node.groups() > round + 1, here);
        }
        leaves_len = more;
        round += 1;
    }
}

/// Takes `steps` steps with the first `len` headers of `inner`, and compares; how many
/// stand elsewhere then, which are the first of `inner` now.
#[inline(always)]
fn together<S: Simd, const B: usize, const FAR: bool>(
    simd: S,
    forest: &Forest<B>,
    steps: u32,
    keys: &[Key<B>],
    best: &mut [u32; CHUNK],
    inner: &mut Queue,
    len: usize,
) -> usize {
    for _ in 0..steps {
        for here in &mut inner[..len] {
            let (who, at) = unpack(*here);
            // SAFETY: `at` is a node of the forest, see `Forest::check`.
            let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
            // SAFETY: `who` counts keys.
            let next = step(simd, node, at, unsafe { keys.get_unchecked(who) });
            *here = u64::from(next) << 32 | who as u64;
            if FAR {
                simd.prefetch(forest.nodes.as_ptr().wrapping_add(next as usize));
            }
        }
    }
    let (mut groups, mut odd): (Queue, usize) = ([0; CHUNK], 0);
    for (index, here) in groups[..len].iter_mut().enumerate() {
        let (who, at) = item(inner, index);
        // SAFETY: as above.
        let node = unsafe { *forest.nodes.get_unchecked(at as usize) };
        let simple = node.is_simple_leaf();
        push(inner, &mut odd, !simple, u64::from(at) << 32 | who as u64);
        let group = if simple { node.first() } else { 0 };
        *here = u64::from(group) << 32 | who as u64;
        if FAR {
            simd.prefetch_group(forest.groups.as_ptr().wrapping_add(group as usize));
        }
    }
    for here in &groups[..len] {
        let (who, group) = unpack(*here);
        improve(simd, forest, keys, best, who, group);
    }
    odd
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
