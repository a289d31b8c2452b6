//! Buckets: a few prefixes of any length, searched from the longest to the shortest.
//!
//! A subtree of up to [`CAPACITY`] prefixes is one bucket, however deep they lie: that keeps sparse
//! regions (a feed of scattered addresses, a CIDR here and there) one step below the level above.
//! A bucket is never changed; a new one takes its place.
//!
//! Lengths are counted from the bucket's depth. Length 0 is the bucket's default: the identity that
//! the level above gives to all of its slot.
//!
//! ```text
//! IPv4  key 0 … key n-1 | code 0 … code n-1
//!       key: 16 bits of address after the depth, n (in key 0 only), 8 bits of length
//! IPv6  n + 16 w | lengths, 4 a word | code 0 … | keys, w words each
//!       w: words that the longest prefix needs after the depth
//! ```

use super::entry::MISS;
use super::words::Words;
use crate::prefix::mask;

/// Most prefixes of a bucket, beside its default.
pub(crate) const CAPACITY: usize = 8;
/// More words than any bucket has.
pub(crate) const MAX_WORDS: usize = 1 + 3 + (CAPACITY + 1) * 5;

/// A prefix with its code; the key is left-aligned in 128 bits, whatever the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) key: u128,
    pub(crate) len: u8,
    pub(crate) code: u32,
}

/// A bucket's words, before they have a place.
pub(crate) struct Encoded {
    words: [u32; MAX_WORDS],
    len: usize,
}

impl Encoded {
    pub(crate) fn words(&self) -> &[u32] {
        &self.words[..self.len]
    }
}

/// The words of a bucket at `depth` with `items` in any order and a default (MISS: none).
pub(crate) fn encode(v6: bool, depth: u8, default: u32, items: &[Item]) -> Encoded {
    debug_assert!(items.len() <= CAPACITY && items.iter().all(|i| i.len > depth));
    let mut sorted = [Item { key: 0, len: depth, code: default }; CAPACITY + 1];
    sorted[..items.len()].copy_from_slice(items);
    let count = items.len() + usize::from(default != MISS);
    let sorted = &mut sorted[..count];
    sorted.sort_unstable_by_key(|item| core::cmp::Reverse(item.len));
    let mut words = [0; MAX_WORDS];
    let len =
        if v6 { encode6(depth, sorted, &mut words) } else { encode4(depth, sorted, &mut words) };
    Encoded { words, len }
}

fn encode4(depth: u8, sorted: &[Item], words: &mut [u32]) -> usize {
    for (i, item) in sorted.iter().enumerate() {
        let suffix = (item.key << depth >> 112) as u32;
        words[i] = suffix << 16 | u32::from(item.len - depth);
        words[sorted.len() + i] = item.code;
    }
    words[0] |= (sorted.len() as u32) << 8;
    2 * sorted.len()
}

fn encode6(depth: u8, sorted: &[Item], words: &mut [u32]) -> usize {
    let longest = sorted[0].len - depth;
    let width = usize::from(longest).div_ceil(32).max(1);
    words[0] = (sorted.len() | width << 4) as u32;
    let (codes, keys, end) = layout6(sorted.len(), width);
    for (i, item) in sorted.iter().enumerate() {
        words[1 + i / 4] |= u32::from(item.len - depth) << (i % 4 * 8);
        words[codes + i] = item.code;
        let suffix = item.key << depth;
        for word in 0..width {
            words[keys + i * width + word] = (suffix >> (96 - 32 * word)) as u32;
        }
    }
    end
}

/// Where codes and keys of an IPv6 bucket start, and where it ends.
const fn layout6(count: usize, width: usize) -> (usize, usize, usize) {
    let codes = 1 + count.div_ceil(4);
    let keys = codes + count;
    (codes, keys, keys + count * width)
}

/// Reads the bucket at word `at` back: adds its prefixes to `items`, sorted as prefixes sort, and
/// returns its default and its size in words. `base` is any key inside the bucket's slot.
pub(crate) fn decode(
    v6: bool,
    words: &Words,
    at: usize,
    depth: u8,
    base: u128,
    items: &mut Vec<Item>,
) -> (u32, usize) {
    let first = items.len();
    let base = base & mask(depth);
    let mut default = MISS;
    let mut add = |rel: u32, suffix: u128, code: u32| match rel as u8 {
        0 => default = code,
        rel => items.push(Item { key: base | suffix >> depth, len: depth + rel, code }),
    };
    let size = if v6 {
        let head = words.load(at) as usize;
        let (count, width) = (head & 15, head >> 4);
        let (codes, keys, end) = layout6(count, width);
        for i in 0..count {
            let rel = words.load(at + 1 + i / 4) >> (i % 4 * 8) & 0xff;
            let word =
                |w: usize| u128::from(words.load(at + keys + i * width + w)) << (96 - 32 * w);
            add(rel, (0..width).map(word).sum(), words.load(at + codes + i));
        }
        end
    } else {
        let count = count4(words.load(at));
        for i in 0..count {
            let key = words.load(at + i);
            add(key & 0xff, u128::from(key >> 16) << 112, words.load(at + count + i));
        }
        2 * count
    };
    items[first..].sort_unstable_by_key(|item| (item.key, item.len));
    (default, size)
}

const fn count4(key: u32) -> usize {
    (key >> 8 & 0xff) as usize
}

/// The code of the longest prefix that matches in the IPv4 bucket at `at`, or MISS.
/// `suffix` holds the address's bits after the depth in its upper half, left-aligned.
///
/// # Safety
/// A bucket must have been published at `at`, and the reader pinned since.
#[inline]
pub(crate) unsafe fn search4(words: &Words, at: usize, suffix: u32) -> u32 {
    // SAFETY: a bucket has at least one key.
    let mut key = unsafe { words.load_unchecked(at) };
    let count = count4(key);
    let mut i = 0;
    loop {
        // The difference has its top 16 bits compared down to the length: shift by 32 - length.
        let differing = u64::from(key ^ suffix) >> (32 - (key & 0xff));
        if differing == 0 {
            // SAFETY: the codes follow the `count` keys.
            return unsafe { words.load_unchecked(at + count + i) };
        }
        i += 1;
        if i == count {
            return MISS;
        }
        // SAFETY: `i` is below the count of keys.
        key = unsafe { words.load_unchecked(at + i) };
    }
}

/// The code of the longest prefix that matches in the IPv6 bucket at `at`, or MISS.
/// `suffix` is the address shifted left by the bucket's depth.
///
/// # Safety
/// A bucket must have been published at `at`, and the reader pinned since.
#[inline]
pub(crate) unsafe fn search6(words: &Words, at: usize, suffix: u128) -> u32 {
    // SAFETY: `at` and every word that `layout6` names are inside the bucket.
    let load = |i: usize| unsafe { words.load_unchecked(at + i) };
    let head = load(0) as usize;
    let (count, width) = (head & 15, head >> 4);
    let (codes, keys, _) = layout6(count, width);
    for i in 0..count {
        let rel = load(1 + i / 4) >> (i % 4 * 8) & 0xff;
        let key = keys + i * width;
        let mut bits = u64::from(load(key)) << 32;
        if width > 1 {
            bits |= u64::from(load(key + 1));
        }
        let differing = bits ^ (suffix >> 64) as u64;
        let matches = if rel <= 64 {
            rel == 0 || differing >> (64 - rel) == 0
        } else {
            let mut low = u64::from(load(key + 2)) << 32;
            if width > 3 {
                low |= u64::from(load(key + 3));
            }
            differing == 0 && (low ^ suffix as u64) >> (128 - rel) == 0
        };
        if matches {
            return load(codes + i);
        }
    }
    MISS
}
