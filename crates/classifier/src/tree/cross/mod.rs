//! Cross-product tables: for each lane, the class of the number; for the classes of all lanes, the
//! first rule (recursive flow classification, Gupta and McKeown, SIGCOMM 1999).
//!
//! A lookup takes the same few steps whatever the header and however much the rules overlap. Rules
//! that leave both addresses open overlap so much that a tree of them is deep and its leaves are
//! full, and a header made by an attacker would go through all of it. Tables grow with the product of
//! what the rules tell apart, so there is a limit, beyond which a tree takes the rules after all.
//!
//! What the `unsafe` here gains: no bounds checks in the inner loops. `check` has seen that no sum of
//! classes leads outside a table.

mod build;
mod proof;
mod sets;

pub(super) use build::MOST_RULES;

use super::batch::CHUNK;
use super::forest::{NOTHING, RESIDUAL};
use crate::lanes::{Key, LaneBox, Residual, WIDTH, places};
use crate::simd::Simd;

/// Tables other than those of lanes, the last included.
const REGISTERS: usize = 8;
/// Numbers that share an entry of the first table of a lane that has two.
const BLOCK: usize = 64;
const BLOCK_BITS: u32 = BLOCK.trailing_zeros();

/// Rules that are looked up by crossing classes.
#[derive(Clone, Debug)]
pub(super) struct Crossed<const B: usize> {
    /// The lowest id.
    pub(super) best: u32,
    lanes: Vec<Lane>,
    /// The tables behind those of lanes, in an order in which each comes after what leads to it. The
    /// last gives outcomes.
    joins: Vec<Join>,
    /// All tables, one after the other.
    tables: Vec<u16>,
    /// An id, `NOTHING`, or `RESIDUAL` and a place in `lists`.
    outcomes: Vec<u32>,
    /// Rules to ask one after the other.
    lists: Vec<Vec<u32>>,
    /// The rules in order: an id, or `RESIDUAL` and a place in `residuals`.
    pub(super) ids: Vec<u32>,
    /// The box of each rule, which lookups do not read.
    pub(super) bounds: Vec<LaneBox<B>>,
    pub(super) residuals: Vec<Residual>,
}

/// From the number in a lane to a class.
#[derive(Clone, Copy, Debug)]
struct Lane {
    lane: usize,
    /// Low bits that the first table does not look at.
    shift: u32,
    /// The last entry of the first table, which holds for all numbers behind.
    last: u16,
    /// Where the table starts.
    first: usize,
    /// Where the blocks that the first table names start, if it names any.
    blocks: Option<usize>,
    way: Way,
}

/// From a sum of classes to a class, or, in the last table, to an outcome.
#[derive(Clone, Copy, Debug)]
struct Join {
    first: usize,
    len: usize,
    way: Way,
}

/// Where a class goes: `factor` times the class is added to the index of table `to`.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    to: usize,
    factor: u32,
}

impl<const B: usize> Crossed<B> {
    /// What each rule takes of a lane.
    fn ranges(&self, lane: usize) -> impl Iterator<Item = (u16, u16)> + '_ {
        let ends = move |bounds: &LaneBox<B>| {
            (bounds.low.as_flattened()[lane], bounds.high.as_flattened()[lane])
        };
        self.bounds.iter().map(ends)
    }

    /// Whether no sum of classes leads outside a table, which lookups rely on.
    pub(super) fn check(&self) -> bool {
        let mut most = [0u64; REGISTERS];
        let mut sound = !self.joins.is_empty() && self.joins.len() <= REGISTERS;
        let add = |way: Way, table: Option<&[u16]>, most: &mut [u64; REGISTERS]| {
            let class = table.and_then(|table| table.iter().max());
            let (Some(class), Some(most)) = (class, most.get_mut(way.to)) else { return false };
            *most += u64::from(*class) * u64::from(way.factor);
            true
        };
        for lane in &self.lanes {
            let table = self.tables.get(lane.first..=lane.first + usize::from(lane.last));
            let classes = match lane.blocks {
                None => table,
                Some(blocks) => {
                    let most = table.and_then(|table| table.iter().max()).copied().unwrap_or(0);
                    self.tables.get(blocks..blocks + (usize::from(most) + 1) * BLOCK)
                }
            };
            sound &= lane.lane < B * WIDTH && lane.shift < 16 && table.is_some();
            sound &= lane.blocks.is_none() || lane.shift == BLOCK_BITS;
            sound &= add(lane.way, classes, &mut most);
        }
        for (number, join) in self.joins.iter().enumerate() {
            let table = self.tables.get(join.first..join.first + join.len);
            sound &= most[number] < join.len as u64;
            if number + 1 < self.joins.len() {
                sound &= join.way.to > number && add(join.way, table, &mut most);
            } else {
                let inside = |outcome: &u16| usize::from(*outcome) < self.outcomes.len();
                sound &= table.is_some_and(|table| table.iter().all(inside));
            }
        }
        sound
    }

    /// Bytes of heap.
    pub(super) fn memory_usage(&self) -> usize {
        self.lanes.capacity() * size_of::<Lane>()
            + self.joins.capacity() * size_of::<Join>()
            + self.tables.capacity() * size_of::<u16>()
            + (self.outcomes.capacity() + self.ids.capacity()) * size_of::<u32>()
            + self.lists.iter().map(|list| list.capacity() * size_of::<u32>()).sum::<usize>()
            + self.lists.capacity() * size_of::<Vec<u32>>()
            + self.bounds.capacity() * size_of::<LaneBox<B>>()
            + self.residuals.capacity() * size_of::<Residual>()
    }

    /// Cache lines that a lookup touches at most: one for each table and the outcome; for a list, two
    /// for each rule that is asked.
    pub(super) fn touches(&self) -> usize {
        let lanes = self.lanes.iter().map(|lane| 1 + usize::from(lane.blocks.is_some()));
        let asked = self.lists.iter().map(Vec::len).max();
        lanes.sum::<usize>() + self.joins.len() + 1 + 2 * asked.unwrap_or(0)
    }

    /// Improves `best` for each key that these rules can improve: table by table, all headers.
    #[inline(always)]
    pub(super) fn walk<S: Simd>(&self, simd: S, keys: &[Key<B>], best: &mut [u32; CHUNK]) {
        let mut alive = simd.above(best, self.best);
        let mut queue = [0u8; CHUNK];
        let mut len = 0;
        while alive != 0 {
            queue[len % CHUNK] = alive.trailing_zeros() as u8;
            alive &= alive - 1;
            len += 1;
        }
        if len == 0 {
            return;
        }
        let queue = &queue[..len.min(CHUNK)];
        let mut sums = [[0u32; CHUNK]; REGISTERS];
        for lane in &self.lanes {
            let sums = &mut sums[lane.way.to % REGISTERS];
            for (sum, who) in sums.iter_mut().zip(queue) {
                // SAFETY: only keys have a best above anything.
                let key = unsafe { keys.get_unchecked(usize::from(*who)) };
                *sum += u32::from(self.class(lane, key)) * lane.way.factor;
            }
        }
        let Some((last, inner)) = self.joins.split_last() else { return };
        for (number, join) in inner.iter().enumerate() {
            let from = sums[number % REGISTERS];
            let sums = &mut sums[join.way.to % REGISTERS];
            for (sum, index) in sums.iter_mut().zip(&from[..queue.len()]) {
                *sum += u32::from(self.entry(join.first + *index as usize)) * join.way.factor;
            }
        }
        for (index, who) in sums[inner.len() % REGISTERS].iter().zip(queue) {
            let outcome = self.entry(last.first + *index as usize);
            // SAFETY: `check` saw that there is such an outcome.
            let id = unsafe { *self.outcomes.get_unchecked(usize::from(outcome)) };
            let who = usize::from(*who) % CHUNK;
            // One more makes 0 of `NOTHING` and leaves the mark of a residual.
            let more = id.wrapping_add(1) & RESIDUAL != 0;
            let id = if more { self.ask(&keys[who], id) } else { id };
            best[who] = best[who].min(id);
        }
    }

    /// The class of what `key` has in a lane.
    #[inline(always)]
    fn class(&self, lane: &Lane, key: &Key<B>) -> u16 {
        // SAFETY: `check` saw that the lane is one of the key's.
        let number = usize::from(unsafe { *key.0.as_flattened().get_unchecked(lane.lane) });
        self.class_of(lane, number)
    }

    /// The class of a number in a lane.
    #[inline(always)]
    fn class_of(&self, lane: &Lane, number: usize) -> u16 {
        let index = (number >> lane.shift).min(lane.last.into());
        let class = self.entry(lane.first + index);
        let Some(blocks) = lane.blocks else { return class };
        // Behind the last block all is as at its end.
        let behind = number >> lane.shift > index;
        let number = if behind { BLOCK - 1 } else { number % BLOCK };
        self.entry(blocks + usize::from(class) * BLOCK + number)
    }

    #[inline(always)]
    fn entry(&self, at: usize) -> u16 {
        // SAFETY: `check` saw that no lane and no sum of classes leads outside its table.
        unsafe { *self.tables.get_unchecked(at) }
    }

    /// The lowest id of a rule that matches `key`, or `NOTHING`.
    #[inline(always)]
    pub(super) fn find<S: Simd>(&self, simd: S, key: &Key<B>) -> u32 {
        let mut best = [0; CHUNK];
        best[0] = NOTHING;
        self.walk(simd, std::slice::from_ref(key), &mut best);
        best[0]
    }

    /// The first rule of a list that has no more to ask or is content with the answer.
    #[cold]
    fn ask(&self, key: &Key<B>, list: u32) -> u32 {
        for &rule in &self.lists[(list ^ RESIDUAL) as usize] {
            let id = self.ids[rule as usize];
            if id & RESIDUAL == 0 {
                return id;
            }
            let residual = &self.residuals[(id ^ RESIDUAL) as usize];
            if residual.matches(key) {
                return residual.id;
            }
        }
        NOTHING
    }

    /// The rules whose boxes meet `bounds`.
    pub(super) fn meeting<'a>(&'a self, bounds: &'a LaneBox<B>) -> impl Iterator<Item = u32> + 'a {
        let ids = self.ids.iter().map(|id| self.rule(*id));
        self.bounds.iter().zip(ids).filter(|(other, _)| other.meets(bounds)).map(|(_, id)| id)
    }

    /// The rule that an entry of `ids` names.
    fn rule(&self, id: u32) -> u32 {
        if id & RESIDUAL == 0 { id } else { self.residuals[(id ^ RESIDUAL) as usize].id }
    }
}

/// How many numbers, from 0 on, a header can have in a lane.
fn numbers<const B: usize>(lane: usize) -> u32 {
    if lane == const { places(B) }.protocol { 1 << 8 } else { 1 << 16 }
}

/// Whether a range leaves out none of them.
fn is_whole<const B: usize>(lane: usize, (low, high): &(u16, u16)) -> bool {
    *low == 0 && u32::from(*high) + 1 >= numbers::<B>(lane)
}
