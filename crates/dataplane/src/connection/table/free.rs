//! Free slots: a bitmap, and above it bitmaps that tell which words below have none.
//!
//! A set bit means: taken. So memory of zeros says that all is free, and nothing is touched before it
//! is used. Finding a free slot among `n` takes a step up and down for each power of 64 in `n`, all
//! of them in memory that fits a cache: 16 KB for 128,000 slots. Taking up to 64 that lie together is
//! one atomic change.

use super::memory::Array;
use super::sync::{AtomicU32, AtomicU64, Ordering};

/// Workers begin their search in different places, so that they rarely meet at one word.
const ZONES: usize = if cfg!(loom) { 1 } else { 16 };

const FULL: u64 = !0;

/// The free slots of a table. Slot 0 is nobody's.
#[derive(Debug)]
pub(super) struct Free {
    /// First the slots; of every level above, a bit for each word below. A bit that is set there while
    /// the word is not full would hide free slots: it never stays.
    levels: Box<[Array<AtomicU64>]>,
    used: AtomicU32,
}

impl Free {
    /// Slots 1 to `capacity`.
    pub(super) fn new(capacity: usize) -> std::io::Result<Self> {
        let mut levels = Vec::new();
        let mut bits = capacity + 1;
        loop {
            let words = Array::<AtomicU64>::new(bits.div_ceil(64))?;
            if !bits.is_multiple_of(64)
                && let Some(last) = words.last()
            {
                last.store(FULL << (bits % 64), Ordering::Relaxed);
            }
            bits = words.len();
            levels.push(words);
            if bits == 1 {
                break;
            }
        }
        let free = Self { levels: levels.into(), used: AtomicU32::new(1) };
        free.levels[0][0].fetch_or(1, Ordering::Relaxed);
        free.note_if_full(0);
        Ok(free)
    }

    /// Slots that were ever taken lie below this: all others are untouched memory.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed) as usize
    }

    /// Takes a free slot, if possible one of those that `hint` names. `fetch` is told which one is
    /// likely to be next there: whoever opens that connection should find its memory in the cache.
    #[inline]
    pub(super) fn take(&self, hint: usize, fetch: impl Fn(u32)) -> Option<u32> {
        for (mut from, end) in self.places(hint) {
            while let Some(at) = self.find(from).filter(|at| *at < end) {
                let bit = 1 << (at % 64);
                let old = self.levels[0][at / 64].fetch_or(bit, Ordering::Acquire);
                if old & bit == 0 {
                    self.taken(at, old | bit);
                    fetch((at + (old >> (at % 64) | 1).trailing_ones() as usize) as u32);
                    return Some(at as u32);
                }
                from = at + 1;
            }
        }
        None
    }

    /// Where to look for free slots, from where to where: what was used before, to its end, then from
    /// its beginning; at last, what never was.
    #[inline(always)]
    fn places(&self, hint: usize) -> [(usize, usize); 3] {
        let used = self.used();
        let start = used / ZONES * (hint % ZONES);
        [(start, used), (0, start), (used, usize::MAX)]
    }

    /// Notes that slot `last` was taken, and those before it in its word, which is `word` now.
    #[inline(always)]
    fn taken(&self, last: usize, word: u64) {
        if word == FULL {
            self.note_if_full(last / 64);
        }
        if last >= self.used() {
            self.used.fetch_max(last as u32 + 1, Ordering::Relaxed);
        }
    }

    /// Takes as many free slots as `out` has room for, or as there are; answers how many, and which one
    /// may be next. Those that were used before come first.
    #[inline]
    pub(super) fn take_many(&self, hint: usize, out: &mut [u32]) -> (usize, u32) {
        let (mut taken, mut next) = (0, 0);
        for (mut from, end) in self.places(hint) {
            while taken < out.len()
                && let Some(at) = self.find(from).filter(|at| *at < end)
            {
                let (count, after) = self.take_of(at, &mut out[taken..]);
                taken += count;
                next = after;
                from = at + 1;
            }
            if taken == out.len() {
                break;
            }
        }
        (taken, next)
    }

    /// Takes slots from `at` to the end of its word, if others do not. How many, and the next one.
    #[inline]
    fn take_of(&self, at: usize, out: &mut [u32]) -> (usize, u32) {
        let (n, word) = (at / 64, &self.levels[0][at / 64]);
        let free = !word.load(Ordering::Relaxed) & FULL << (at % 64);
        let mut rest = free;
        for _ in 0..out.len() {
            rest &= rest.wrapping_sub(1);
        }
        let old = word.fetch_or(free & !rest, Ordering::Acquire);
        let slots = Bits(free & !rest & !old).map(|bit| (64 * n) as u32 + bit);
        let (mut taken, mut last) = (0, at as u32);
        for (place, slot) in out.iter_mut().zip(slots) {
            (*place, last) = (slot, slot);
            taken += 1;
        }
        self.taken(last as usize, old | free & !rest);
        (taken, Bits(rest).next().map_or(last + 1, |bit| (64 * n) as u32 + bit))
    }

    /// Gives a slot back. Nobody else may hold it.
    #[inline]
    pub(super) fn give(&self, slot: u32) {
        self.clear(0, slot as usize);
    }

    /// The first slot from `from` on that looks free.
    #[inline]
    fn find(&self, mut from: usize) -> Option<usize> {
        let mut level = 0;
        // Every step goes on, never back: it ends, whatever others do meanwhile.
        loop {
            let word = self.levels.get(level)?.get(from / 64)?;
            let free = !word.load(Ordering::Relaxed) & FULL << (from % 64);
            if free == 0 {
                from = from / 64 + 1;
                level += 1;
                continue;
            }
            from = from / 64 * 64 + free.trailing_zeros() as usize;
            if level == 0 {
                return Some(from);
            }
            level -= 1;
            from *= 64;
        }
    }

    /// Tells the levels above that word `at` of the lowest is full, if it is.
    fn note_if_full(&self, mut at: usize) {
        for (level, pair) in self.levels.windows(2).enumerate() {
            let [below, above] = pair else { return };
            if below[at].load(Ordering::Relaxed) != FULL {
                return;
            }
            above[at / 64].fetch_or(1 << (at % 64), Ordering::AcqRel);
            // Who made room before that, and cleared the bit too early, is seen now.
            if below[at].load(Ordering::Acquire) != FULL {
                return self.clear(level + 1, at);
            }
            at /= 64;
        }
    }

    /// Clears bit `at` of a level, and above it what says that the word was full.
    fn clear(&self, level: usize, mut at: usize) {
        for words in &self.levels[level..] {
            let old = words[at / 64].fetch_and(!(1 << (at % 64)), Ordering::AcqRel);
            if old != FULL {
                return;
            }
            at /= 64;
        }
    }
}

/// Numbers of the bits that are set, lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        let first = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (first < 64).then_some(first)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Beside a set of free numbers.
        #[test]
        fn every_slot_is_taken_once_and_found_again(
            capacity in prop_oneof![1..200usize, 4000..4200usize],
            steps in proptest::collection::vec((0..100usize, 0..70usize, 0..64usize), 1..60),
        ) {
            let free = Free::new(capacity).unwrap();
            let mut model: BTreeSet<u32> = (1..=capacity as u32).collect();
            let mut taken = Vec::new();
            for (give, take, hint) in steps {
                for _ in 0..give.min(taken.len()) {
                    let slot = taken.swap_remove(hint * 31 % taken.len());
                    free.give(slot);
                    prop_assert!(model.insert(slot));
                }
                let mut out = vec![0; take];
                let (count, _) = free.take_many(hint, &mut out);
                prop_assert_eq!(count, take.min(model.len()));
                for slot in &out[..count] {
                    prop_assert!(model.remove(slot), "{} was not free", slot);
                    prop_assert!((*slot as usize) < free.used());
                }
                taken.extend(&out[..count]);
                if let Some(slot) = free.take(hint, |_| ()) {
                    prop_assert!(model.remove(&slot));
                    taken.push(slot);
                } else {
                    prop_assert!(model.is_empty());
                }
            }
        }
    }

    #[test]
    fn what_was_used_is_used_again_first() {
        let free = Free::new(10_000).unwrap();
        let mut out = vec![0; 1_000];
        assert_eq!(free.take_many(0, &mut out), (1_000, 1_001));
        assert_eq!(free.used(), 1_001);
        out.iter().step_by(10).for_each(|slot| free.give(*slot));
        for n in 0..100 {
            assert!(free.take(n, |_| ()).is_some_and(|slot| slot <= 1_000));
        }
        assert_eq!((free.take(5, |_| ()), free.used()), (Some(1_001), 1_002));
    }

    /// No slot is lost, and none is given to two, while several threads take and give.
    #[test]
    fn threads_share_the_slots() {
        const CAPACITY: usize = 130;
        let free = Free::new(CAPACITY).unwrap();
        let owners: Vec<AtomicU32> = (0..=CAPACITY).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 1..=4u32 {
                let (free, owners) = (&free, &owners);
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for round in 0..20_000usize {
                        let mut out = vec![0; round % 40];
                        let (count, _) = free.take_many(thread as usize * round, &mut out);
                        for slot in &out[..count] {
                            let before = owners[*slot as usize].swap(thread, Ordering::Relaxed);
                            assert_eq!(before, 0, "slot {slot} was taken twice");
                        }
                        mine.extend_from_slice(&out[..count]);
                        for slot in mine.drain(round % 7 * mine.len() / 7..) {
                            owners[slot as usize].store(0, Ordering::Relaxed);
                            free.give(slot);
                        }
                    }
                    mine.into_iter().for_each(|slot| free.give(slot));
                });
            }
        });
        let mut out = vec![0; CAPACITY + 1];
        assert_eq!(free.take_many(3, &mut out).0, CAPACITY, "all are free again");
        assert!(free.take(0, |_| ()).is_none());
    }
}
