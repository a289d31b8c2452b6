//! The index: from a hash to the slots that may hold a connection.
//!
//! A bucket is one cache line: twelve tags of 8 bits, twelve slot numbers, a lock bit and the number
//! of connections that belong here but found no room and stand in one of the following buckets.
//! Readers take no lock: a tag that matches is only a hint, the key itself tells. An empty place names
//! slot 0, which never holds a connection.
//!
//! | word | |
//! |---|---|
//! | 0 | tags 0 to 7; 0 = empty |
//! | 1 | tags 8 to 11; 12 bits: connections elsewhere; 8 bits: how far at most; top bit: the lock |
//! | 2 .. 8 | slot numbers, two a word |

use super::memory::Zeroed;
use super::sync::{AtomicU32, AtomicU64, Ordering, acquire_if};

/// Slots that a bucket can name.
pub(super) const WIDTH: usize = 12;

const LOCK: u64 = 1 << 63;
const ELSEWHERE: u32 = 32;
const DISTANCE: u32 = 44;

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

/// Places of a bucket whose tag matches, lowest first: one bit each.
#[derive(Clone, Copy)]
pub(super) struct Matches(u32);

impl Iterator for Matches {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(place)
    }
}

impl Matches {
    /// The first place; the last one of the bucket if there is none.
    #[inline(always)]
    pub(super) fn first(self) -> usize {
        (self.0 | 1 << (WIDTH - 1)).trailing_zeros() as usize
    }

    /// Of twelve tags in two words. Exact: an empty place may still name a slot, and must not be
    /// taken for a place that names it.
    #[inline(always)]
    fn of(first: u64, second: u64, tag: u8) -> Self {
        #[cfg(target_arch = "x86_64")]
        let equal = super::memory::equal_bytes(first, second, tag);
        #[cfg(not(target_arch = "x86_64"))]
        let equal = equal_bytes(first, tag) | equal_bytes(second, tag) << 8;
        Self(equal & ((1 << WIDTH) - 1))
    }
}

/// Bytes of `word` that equal `tag`: one bit each.
#[cfg(any(all(test, not(loom)), not(target_arch = "x86_64")))]
fn equal_bytes(word: u64, tag: u8) -> u32 {
    const LOWS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let difference = word ^ (0x0101_0101_0101_0101 * u64::from(tag));
    let equal = !(((difference & LOWS) + LOWS) | difference | LOWS);
    // Gathers the highest bit of each byte into the highest byte.
    ((equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}

impl Bucket {
    /// Places whose tag is `tag`, and how many of the following buckets may hold connections of this
    /// one. No lock.
    #[inline(always)]
    pub(super) fn find(&self, tag: u8) -> (Matches, usize) {
        let first = self.tags[0].load(Ordering::Acquire);
        let second = self.tags[1].load(Ordering::Acquire);
        (Matches::of(first, second, tag), usize::from((second >> DISTANCE) as u8))
    }

    /// The slot number at `place`; means something only together with its tag.
    #[inline(always)]
    pub(super) fn slot(&self, place: usize) -> u32 {
        self.slots[place].load(Ordering::Relaxed)
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub(super) fn lock(&self) -> LockedBucket<'_> {
        // Nothing is needed, so the answer is never `None`.
        let second = acquire_if(&self.tags[1], LOCK, 0).unwrap_or_default();
        LockedBucket { bucket: self, second }
    }
}

/// A bucket whose lock this value holds, until it is dropped. While held, nobody else writes.
pub(super) struct LockedBucket<'a> {
    bucket: &'a Bucket,
    /// The word with the lock, without it: written back when the lock is released. Reading it from
    /// memory just after the lock was taken would wait for that.
    second: u64,
}

impl LockedBucket<'_> {
    /// A place without connection.
    #[inline]
    pub(super) fn vacant(&self) -> Option<usize> {
        self.find(0).next()
    }

    /// Names a slot at `place`.
    #[inline]
    pub(super) fn set(&mut self, place: usize, tag: u8, slot: u32) {
        self.bucket.slots[place].store(slot, Ordering::Relaxed);
        self.set_tag(place, tag);
    }

    /// Forgets what is at `place`.
    #[inline]
    pub(super) fn clear(&mut self, place: usize) {
        self.set_tag(place, 0);
        self.bucket.slots[place].store(0, Ordering::Relaxed);
    }

    /// Places whose tag is `tag`.
    #[inline]
    pub(super) fn find(&self, tag: u8) -> Matches {
        Matches::of(self.bucket.tags[0].load(Ordering::Relaxed), self.second, tag)
    }

    /// The slot number at `place`.
    #[inline]
    pub(super) fn slot(&self, place: usize) -> u32 {
        self.bucket.slot(place)
    }

    /// How many of the following buckets may hold connections of this one.
    #[inline]
    pub(super) fn distance(&self) -> usize {
        usize::from((self.second >> DISTANCE) as u8)
    }

    /// Notes that a connection of this bucket found room only `distance` buckets on (at most 255).
    pub(super) fn note_elsewhere(&mut self, distance: usize) {
        let (elsewhere, farthest) = self.elsewhere();
        self.set_elsewhere(elsewhere + 1, farthest.max(distance as u64));
    }

    /// Notes that such a connection is gone.
    pub(super) fn note_returned(&mut self) {
        let (elsewhere, farthest) = self.elsewhere();
        let elsewhere = elsewhere.saturating_sub(1);
        self.set_elsewhere(elsewhere, if elsewhere == 0 { 0 } else { farthest });
    }

    fn elsewhere(&self) -> (u64, u64) {
        (self.second >> ELSEWHERE & 0xfff, self.second >> DISTANCE & 0xff)
    }

    fn set_elsewhere(&mut self, count: u64, farthest: u64) {
        self.second = self.second & 0xffff_ffff | count << ELSEWHERE | farthest << DISTANCE;
    }

    #[inline]
    fn set_tag(&mut self, place: usize, tag: u8) {
        let shift = 8 * (place % 8);
        let set = |tags: u64| tags & !(0xff << shift) | u64::from(tag) << shift;
        if place < 8 {
            let first = &self.bucket.tags[0];
            first.store(set(first.load(Ordering::Relaxed)), Ordering::Release);
        } else {
            self.second = set(self.second);
        }
    }
}

impl Drop for LockedBucket<'_> {
    #[inline]
    fn drop(&mut self) {
        self.bucket.tags[1].store(self.second, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_to_compare_tags_agree(first: u64, second: u64, place in 0..8u32, near: bool) {
            // Of any byte of the words, or one that differs in one bit.
            let tag = (first >> (8 * place)) as u8 ^ u8::from(near);
            let slow = equal_bytes(first, tag) | equal_bytes(second, tag) << 8;
            prop_assert_eq!(Matches::of(first, second, tag).0, slow & 0xfff);
            for n in 0..8 {
                prop_assert_eq!(slow >> n & 1 != 0, (first >> (8 * n)) as u8 == tag);
            }
        }

        #[test]
        fn exactly_the_places_with_the_tag_are_found(tags: [u8; WIDTH], tag: u8, near in 0..3u8) {
            let bucket = Bucket::zero();
            let tags = tags.map(|t| if t % 3 == near { tag ^ (t & 1) } else { t });
            let mut locked = bucket.lock();
            for (place, tag) in tags.iter().enumerate() {
                locked.set(place, *tag, place as u32 * 7);
            }
            for _ in 0..tag {
                locked.note_elsewhere(3);
            }
            let expected: Vec<_> = (0..WIDTH).filter(|place| tags[*place] == tag).collect();
            prop_assert_eq!(locked.find(tag).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(locked.distance(), if tag > 0 { 3 } else { 0 });
            prop_assert_eq!(locked.vacant(), tags.iter().position(|tag| *tag == 0));
            drop(locked);
            let (found, distance) = bucket.find(tag);
            prop_assert_eq!(found.collect::<Vec<_>>(), expected);
            prop_assert_eq!(distance, if tag > 0 { 3 } else { 0 });
            prop_assert!((0..WIDTH).all(|place| bucket.slot(place) == place as u32 * 7));
        }
    }
}
