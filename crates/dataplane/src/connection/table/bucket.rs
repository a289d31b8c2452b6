//! The index: from a hash to the slots that may hold a connection.
//!
//! A bucket is one cache line: twelve tags of 8 bits, twelve slot numbers, a lock bit and the number
//! of connections that belong here but found no room and stand in one of the following buckets.
//! Readers take no lock: a tag that matches is only a hint, the slot itself tells.
//!
//! | word | |
//! |---|---|
//! | 0 | tags 0 to 7; 0 = empty |
//! | 1 | tags 8 to 11; 12 bits: connections elsewhere; 8 bits: how far at most; top bit: the lock |
//! | 2 .. 8 | slot numbers, two a word |

use super::memory::Zeroed;
use super::sync::{AtomicU32, AtomicU64, Backoff, Ordering};

/// Slots that a bucket can name.
pub(super) const WIDTH: usize = 12;

const LOCK: u64 = 1 << 63;
const ELSEWHERE: u32 = 32;
const DISTANCE: u32 = 44;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// One bucket.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    tags: [AtomicU64; 2],
    slots: [AtomicU32; WIDTH],
}

const _: () = assert!(cfg!(loom) || size_of::<Bucket>() == 64);

// SAFETY: atomics only.
#[allow(unsafe_code)]
unsafe impl Zeroed for Bucket {
    fn zero() -> Self {
        Self {
            tags: [AtomicU64::new(0), AtomicU64::new(0)],
            slots: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

/// Places of a bucket whose tag matches, lowest first.
#[derive(Clone, Copy)]
pub(super) struct Matches {
    low: u64,
    high: u64,
}

impl Iterator for Matches {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.low != 0 {
            let place = self.low.trailing_zeros() as usize / 8;
            self.low &= self.low - 1;
            Some(place)
        } else if self.high != 0 {
            let place = 8 + self.high.trailing_zeros() as usize / 8;
            self.high &= self.high - 1;
            Some(place)
        } else {
            None
        }
    }
}

/// Bytes of `word` that equal `tag`: their highest bits. May also mark a byte that differs in its
/// lowest bit right after one that matches: a wasted look, never a wrong answer.
#[inline(always)]
const fn equal_bytes(word: u64, tag: u8) -> u64 {
    let difference = word ^ (ONES * tag as u64);
    difference.wrapping_sub(ONES) & !difference & HIGHS
}

impl Bucket {
    /// Places whose tag is `tag`, and how many of the following buckets may hold connections of this
    /// one. No lock.
    #[inline(always)]
    pub(super) fn find(&self, tag: u8) -> (Matches, usize) {
        let first = self.tags[0].load(Ordering::Acquire);
        let second = self.tags[1].load(Ordering::Acquire);
        let low = equal_bytes(first, tag);
        let high = equal_bytes(second & 0xffff_ffff, tag) & 0xffff_ffff;
        (Matches { low, high }, usize::from((second >> DISTANCE) as u8))
    }

    /// The slot number at `place`; means something only together with its tag.
    #[inline(always)]
    pub(super) fn slot(&self, place: usize) -> u32 {
        self.slots[place].load(Ordering::Relaxed)
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub(super) fn lock(&self) -> LockedBucket<'_> {
        let mut backoff = Backoff::default();
        while self.tags[1].fetch_or(LOCK, Ordering::Acquire) & LOCK != 0 {
            while self.tags[1].load(Ordering::Relaxed) & LOCK != 0 {
                backoff.wait();
            }
        }
        LockedBucket(self)
    }
}

/// A bucket whose lock this value holds, until it is dropped. While held, nobody else writes.
pub(super) struct LockedBucket<'a>(&'a Bucket);

impl LockedBucket<'_> {
    /// A place without connection.
    #[inline]
    pub(super) fn vacant(&self) -> Option<usize> {
        self.0.find(0).0.find(|place| self.tag(*place) == 0)
    }

    /// Names a slot at `place`.
    #[inline]
    pub(super) fn set(&self, place: usize, tag: u8, slot: u32) {
        self.0.slots[place].store(slot, Ordering::Relaxed);
        self.set_tag(place, tag);
    }

    /// Forgets what is at `place`.
    #[inline]
    pub(super) fn clear(&self, place: usize) {
        self.set_tag(place, 0);
    }

    /// Places whose tag is `tag`.
    #[inline]
    pub(super) fn find(&self, tag: u8) -> Matches {
        self.0.find(tag).0
    }

    /// The slot number at `place`.
    #[inline]
    pub(super) fn slot(&self, place: usize) -> u32 {
        self.0.slot(place)
    }

    /// How many of the following buckets may hold connections of this one.
    #[inline]
    pub(super) fn distance(&self) -> usize {
        self.0.find(0).1
    }

    /// Notes that a connection of this bucket found room only `distance` buckets on (at most 255).
    pub(super) fn note_elsewhere(&self, distance: usize) {
        let (elsewhere, farthest) = self.elsewhere();
        self.set_elsewhere(elsewhere + 1, farthest.max(distance as u64));
    }

    /// Notes that such a connection is gone.
    pub(super) fn note_returned(&self) {
        let (elsewhere, farthest) = self.elsewhere();
        let elsewhere = elsewhere.saturating_sub(1);
        self.set_elsewhere(elsewhere, if elsewhere == 0 { 0 } else { farthest });
    }

    fn elsewhere(&self) -> (u64, u64) {
        let word = self.0.tags[1].load(Ordering::Relaxed);
        (word >> ELSEWHERE & 0xfff, word >> DISTANCE & 0xff)
    }

    fn set_elsewhere(&self, count: u64, farthest: u64) {
        let word = self.0.tags[1].load(Ordering::Relaxed);
        let word = word & (LOCK | 0xffff_ffff) | count << ELSEWHERE | farthest << DISTANCE;
        self.0.tags[1].store(word, Ordering::Release);
    }

    #[inline]
    fn tag(&self, place: usize) -> u8 {
        (self.0.tags[place / 8].load(Ordering::Relaxed) >> (8 * (place % 8))) as u8
    }

    #[inline]
    fn set_tag(&self, place: usize, tag: u8) {
        let word = &self.0.tags[place / 8];
        let shift = 8 * (place % 8);
        let tags = word.load(Ordering::Relaxed) & !(0xff << shift) | u64::from(tag) << shift;
        word.store(tags, Ordering::Release);
    }
}

impl Drop for LockedBucket<'_> {
    #[inline]
    fn drop(&mut self) {
        let word = self.0.tags[1].load(Ordering::Relaxed);
        self.0.tags[1].store(word & !LOCK, Ordering::Release);
    }
}
