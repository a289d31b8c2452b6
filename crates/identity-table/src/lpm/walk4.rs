//! Looking up IPv4 addresses.
//!
//! `unsafe` here saves the bounds checks on every step: offsets come out of the structure itself,
//! whose writer only publishes runs that lie inside, and which stay while the reader is pinned.

use super::bucket;
use super::entry::{BUCKET, FAR, MISS, PAGE, WIDE, far_offset, offset};
use super::trie::{HEAD4, RIPPLE, ROOT};
use super::words::Words;
use crate::IdentityId;

/// Addresses walked side by side.
const LANES: usize = 64;

/// The identity of one address.
///
/// # Safety
/// `words` must be a published IPv4 structure that the reader has pinned.
#[inline]
pub(crate) unsafe fn lookup(words: &Words, address: u32) -> IdentityId {
    // SAFETY: the root's entries are always there.
    let entry = unsafe { words.load_unchecked((address >> 16) as usize) };
    // SAFETY: as the caller promises.
    unsafe { finish(words, address, entry) }
}

/// The identities of a batch; both slices have one length.
///
/// # Safety
/// As for [`lookup`].
pub(crate) unsafe fn lookup_batch(words: &Words, addresses: &[u32], out: &mut [IdentityId]) {
    for (addresses, out) in addresses.chunks(LANES).zip(out.chunks_mut(LANES)) {
        // SAFETY: as the caller promises.
        unsafe { lookup_chunk(words, addresses, out) };
    }
}

/// Up to [`LANES`] addresses. What ends in the root or in a wide page is done at once and without a
/// branch; the others are noted and walked a level at a time, so that their misses overlap.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn lookup_chunk(words: &Words, addresses: &[u32], out: &mut [IdentityId]) {
    let mut rest = [0_u8; LANES];
    let mut left = 0;
    for (lane, (address, out)) in addresses.iter().zip(out.iter_mut()).enumerate() {
        let root = (address >> 16) as usize;
        // SAFETY: the root's entries are always there.
        let entry = unsafe { words.load_unchecked(root) };
        let wide = offset(entry) + HEAD4 + (address & 0xffff) as usize;
        let at = if entry >= WIDE { wide } else { root };
        // SAFETY: a wide page has an entry for each value of the last 16 bits.
        let id = unsafe { words.load_unchecked(at) }.wrapping_sub(1);
        *out = IdentityId::new(id);
        rest[left] = lane as u8;
        // Not so for MISS, far codes, buckets and pages.
        left += usize::from(id >= FAR - 1);
    }
    if left != 0 {
        // SAFETY: as the caller promises.
        unsafe { lookup_rest(words, addresses, out, &rest[..left]) };
    }
}

/// The lanes that the first pass left.
///
/// # Safety
/// As for [`lookup`].
unsafe fn lookup_rest(words: &Words, addresses: &[u32], out: &mut [IdentityId], rest: &[u8]) {
    let mut entries = [0_u32; LANES];
    for (entry, lane) in entries.iter_mut().zip(rest) {
        let address = addresses[usize::from(*lane)];
        // SAFETY: the root's entries are always there.
        *entry = unsafe { words.load_unchecked((address >> 16) as usize) };
        let page = (PAGE..WIDE).contains(entry);
        words.prefetch(
            offset(*entry) + if page { HEAD4 + (address >> 8 & 0xff) as usize } else { 0 },
        );
    }
    for (entry, lane) in entries.iter_mut().zip(rest) {
        if (PAGE..WIDE).contains(entry) {
            let address = addresses[usize::from(*lane)];
            let at = offset(*entry) + HEAD4 + (address >> 8 & 0xff) as usize;
            // SAFETY: a page has an entry for each value of a byte.
            let below = unsafe { words.load_unchecked(at) };
            let page = below >= PAGE;
            words
                .prefetch(offset(below) + if page { HEAD4 + (address & 0xff) as usize } else { 0 });
        }
    }
    for (entry, lane) in entries.iter().zip(rest) {
        let lane = usize::from(*lane);
        // SAFETY: as the caller promises.
        out[lane] = unsafe { finish(words, addresses[lane], *entry) };
    }
}

/// Walks on from the root's entry.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn finish(words: &Words, address: u32, entry: u32) -> IdentityId {
    // SAFETY: as the caller promises.
    let code = unsafe { walk(words, address, entry) };
    if code.wrapping_sub(1) < FAR - 1 {
        return IdentityId::new(code - 1);
    }
    // SAFETY: as the caller promises.
    unsafe { finish_rare(words, address, code) }
}

/// The code that the deepest level gives: MISS if that level says nothing.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn walk(words: &Words, address: u32, mut entry: u32) -> u32 {
    let mut rest = address << 16;
    loop {
        if entry < BUCKET {
            return entry;
        }
        let at = offset(entry);
        if entry < PAGE {
            // SAFETY: an entry of this kind points to a bucket.
            return unsafe { bucket::search4(words, at, rest) };
        }
        let slot = if entry < WIDE { rest >> 24 } else { rest >> 16 };
        // SAFETY: pages have an entry for each value of a byte, wide ones of two.
        entry = unsafe { words.load_unchecked(at + HEAD4 + slot as usize) };
        rest <<= 8;
    }
}

/// Identities that stand elsewhere, and answers that a level above gives.
///
/// # Safety
/// As for [`lookup`].
#[cold]
unsafe fn finish_rare(words: &Words, address: u32, mut code: u32) -> IdentityId {
    while code == MISS {
        let before = words.load(RIPPLE);
        // SAFETY: as the caller promises.
        code = unsafe { walk_defaults(words, address) };
        if words.load(RIPPLE) == before {
            break;
        }
        code = MISS;
    }
    match code {
        MISS => IdentityId::UNKNOWN,
        FAR.. => IdentityId::new(words.load(far_offset(code))),
        near => IdentityId::new(near - 1),
    }
}

/// The walk from the root again, this time minding the defaults on the way.
///
/// # Safety
/// As for [`lookup`].
unsafe fn walk_defaults(words: &Words, address: u32) -> u32 {
    let mut at = (address >> 16) as usize;
    debug_assert!(at < ROOT);
    let mut rest = address << 16;
    let mut best = MISS;
    loop {
        let entry = words.load(at);
        if entry < PAGE {
            // SAFETY: as the caller promises.
            let code = unsafe { walk(words, rest >> 16, entry) };
            return if code == MISS { best } else { code };
        }
        let default = words.load(offset(entry));
        best = if default == MISS { best } else { default };
        let slot = if entry < WIDE { rest >> 24 } else { rest >> 16 };
        at = offset(entry) + HEAD4 + slot as usize;
        rest <<= 8;
    }
}
