//! A short way to IPv6 pages at depth 120: where the pods of a block are.
//!
//! Pods of one node stand close together at the far end of a long prefix. A walk from the root takes
//! four to fourteen steps to get there; the hash of the first 120 bits takes one. It is only a short
//! way: an address that is not found here is walked, so the table may forget a page, and a reader
//! may use an older table, without any wrong answer. What is found is checked against the page's key.

use std::hash::{BuildHasher, RandomState};

use super::trie::{KEY, NOWHERE};
use super::words::Words;

/// Slots looked at before giving up, for readers and the writer alike: bounds a lookup whatever
/// the addresses are.
pub(crate) const PROBES: usize = 4;
const EMPTY: u32 = 0;
/// A slot that held a page. Below any page's offset, as EMPTY is.
const TOMB: u32 = 1;

/// Page offsets by hash, at most a sixteenth full: all but a few stand in the first slot looked at.
#[derive(Clone)]
pub(crate) struct Jump {
    pub(crate) table: Words,
    pub(crate) seed: Seed,
    /// Slots not empty.
    used: usize,
    pages: usize,
}

impl Jump {
    pub(crate) fn new() -> Self {
        let state = RandomState::new();
        let seed = Seed(state.hash_one(0), state.hash_one(1));
        Self { table: Words::zeroed(PROBES), seed, used: 0, pages: 0 }
    }

    /// Notes the page at word `at`, whose header stands already.
    pub(crate) fn insert(&mut self, words: &Words, at: u32) {
        if (self.used + 1) * 16 > self.table.len() {
            self.rebuild(words);
        }
        self.put(page_key(words, at), at);
    }

    /// Forgets the page at word `at`.
    pub(crate) fn remove(&mut self, words: &Words, at: u32) {
        let slots = slots(&self.table, self.seed.hash(page_key(words, at)));
        for slot in slots {
            if self.table.load(slot) == at {
                self.table.store(slot, TOMB);
                self.pages -= 1;
                return;
            }
        }
    }

    /// A fresh table with room to double, without tombstones.
    fn rebuild(&mut self, words: &Words) {
        let len = (self.pages + 1).next_power_of_two() * 32;
        let old = core::mem::replace(&mut self.table, Words::zeroed(len));
        (self.used, self.pages) = (0, 0);
        for at in (0..old.len()).map(|slot| old.load(slot)).filter(|at| *at > TOMB) {
            self.put(page_key(words, at), at);
        }
    }

    fn put(&mut self, key: u128, at: u32) {
        for slot in slots(&self.table, self.seed.hash(key)) {
            let was = self.table.load(slot);
            if was <= TOMB {
                self.table.store(slot, at);
                self.used += usize::from(was == EMPTY);
                self.pages += 1;
                return;
            }
        }
    }
}

/// The slots where a page of this hash may stand.
fn slots(table: &Words, hash: usize) -> impl Iterator<Item = usize> {
    let mask = table.len() - 1;
    (0..PROBES).map(move |probe| (hash + probe) & mask)
}

fn page_key(words: &Words, at: u32) -> u128 {
    let word = |i: usize| u128::from(words.load(at as usize - KEY + i)) << (32 * i);
    (0..4).map(word).sum()
}

/// Where the entries of the page of this address's first 120 bits begin, if the table knows it.
///
/// # Safety
/// `table` and `words` must be of one snapshot that the reader has pinned.
#[inline]
pub(crate) unsafe fn find(
    table: &Words,
    words: &Words,
    hash: usize,
    address: u128,
) -> Option<usize> {
    for probe in 0..PROBES {
        // SAFETY: as the caller promises.
        let at = unsafe { candidate(table, hash + probe) };
        // SAFETY: as the caller promises, and `at` comes from the table.
        if unsafe { leads(words, at, address) } {
            return Some(at);
        }
    }
    None
}

/// What the table has for a hash: a page's offset, or a stand-in that [`leads`] nowhere.
///
/// # Safety
/// As for [`find`].
#[inline]
pub(crate) unsafe fn candidate(table: &Words, hash: usize) -> usize {
    // SAFETY: masked to the table's length, a power of two.
    let at = unsafe { table.load_unchecked(hash & (table.len() - 1)) } as usize;
    // Words stand there as around a page: no branch is needed for slots without one.
    at.max(NOWHERE)
}

/// Whether `at` is the page of the address's first 120 bits.
///
/// # Safety
/// As for [`find`], and `at` must come from [`candidate`].
#[inline]
pub(crate) unsafe fn leads(words: &Words, at: usize, address: u128) -> bool {
    // SAFETY: a page's key stands before its entries; words that nobody writes do at NOWHERE.
    let key = unsafe { words.load_four(at - KEY) };
    ((key ^ address) >> 8 == 0) & (at != NOWHERE)
}

/// Two random numbers: addresses that meet in one slot here do not elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Seed(u64, u64);

impl Seed {
    /// A number for the first 120 bits of an address.
    #[inline]
    pub(crate) fn hash(self, address: u128) -> usize {
        let (high, low) = ((address >> 64) as u64, address as u64 >> 8);
        let product = u128::from(high ^ self.0) * u128::from(low ^ self.1);
        (product >> 64) as usize ^ product as usize
    }
}
