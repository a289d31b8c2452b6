//! Looking up IPv4 addresses.
//!
//! `unsafe` here saves the bounds checks on every step: offsets come out of the structure itself,
//! whose writer only publishes runs that lie inside, and which stay while the reader is pinned.

use super::bucket;
use super::entry::{
    MISS, WIDE, fan_bits, fan_offset, is_bucket, is_fan, is_page, near_id, offset, wide_offset,
};
use super::fan::{self, LINE};
use super::trie::{DEFAULT, RIPPLE};
use super::words::Words;
use crate::IdentityId;

/// Addresses of one round of the first pass: one bit each in a word.
pub(crate) const LANES: usize = 32;
/// Addresses whose cache misses overlap: enough to hide memory's latency twice, few enough for
/// their notes to stay in the first cache.
const GROUP: usize = 256;
/// A batch up to this size has smaller notes, which cost less to clear.
const SMALL: usize = 64;

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
    if addresses.len() <= SMALL {
        // SAFETY: as the caller promises.
        return unsafe { lookup_group::<SMALL>(words, addresses, out) };
    }
    for (addresses, out) in addresses.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
        // SAFETY: as the caller promises.
        unsafe { lookup_group::<GROUP>(words, addresses, out) };
    }
}

/// What ends in the root or in a wide page is done at once and without a branch; the others are
/// noted and walked a level at a time, so that their misses overlap.
///
/// # Safety
/// As for [`lookup`], with one length up to `N`.
#[inline(always)]
unsafe fn lookup_group<const N: usize>(words: &Words, addresses: &[u32], out: &mut [IdentityId]) {
    let mut rest = Rest::<N> { lanes: [0; N], entries: [0; N], len: 0 };
    let (full, tail) = addresses.as_chunks::<LANES>();
    let (full_out, tail_out) = out.as_chunks_mut::<LANES>();
    for (chunk, (addresses, out)) in full.iter().zip(full_out).enumerate() {
        // SAFETY: as the caller promises.
        let left = unsafe { lookup_chunk(words, addresses, out) };
        if left != 0 {
            rest.note(words, addresses, chunk * LANES, left);
        }
    }
    for (address, out) in tail.iter().zip(tail_out) {
        // SAFETY: as the caller promises.
        *out = unsafe { lookup(words, *address) };
    }
    // SAFETY: as the caller promises.
    unsafe { rest.finish(words, addresses, out) };
}

/// The first pass; gives back the lanes that it left.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn lookup_chunk(
    words: &Words,
    addresses: &[u32; LANES],
    out: &mut [IdentityId; LANES],
) -> u32 {
    for (address, out) in addresses.iter().zip(out.iter_mut()) {
        let root = (address >> 16) as usize;
        // SAFETY: the root's entries are always there.
        let entry = unsafe { words.load_unchecked(root) };
        let wide = wide_offset(entry) + (address & 0xffff) as usize;
        let at = if entry >= WIDE { wide } else { root };
        // SAFETY: a wide page has an entry for each value of the last 16 bits.
        let code = unsafe { words.load_unchecked(at) };
        *out = IdentityId::new(code);
    }
    // What is no plain answer has the sign bit.
    signs(out)
}

/// The sign bits of all lanes.
#[inline]
pub(crate) fn signs(ids: &[IdentityId; LANES]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE2.
    return unsafe { signs_sse2(ids) };
    #[cfg(not(target_arch = "x86_64"))]
    ids.iter().enumerate().fold(0, |signs, (lane, id)| signs | id.get() >> 31 << lane)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn signs_sse2(ids: &[IdentityId; LANES]) -> u32 {
    use core::arch::x86_64::{_mm_castsi128_ps, _mm_loadu_si128, _mm_movemask_ps};
    let mut signs = 0;
    for (i, four) in ids.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: four identities are 16 bytes.
        let four = unsafe { _mm_loadu_si128(four.as_ptr().cast()) };
        signs |= (_mm_movemask_ps(_mm_castsi128_ps(four)) as u32) << (4 * i);
    }
    signs
}

/// The lanes of a group that the first pass left.
struct Rest<const N: usize> {
    lanes: [u8; N],
    /// The entry of each that was read last.
    entries: [u32; N],
    len: usize,
}

impl<const N: usize> Rest<N> {
    /// Notes the lanes of a chunk whose bits are set, and has what they read next fetched.
    #[inline]
    fn note(&mut self, words: &Words, addresses: &[u32; LANES], first: usize, mut left: u32) {
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            let address = addresses[lane];
            let entry = words.load((address >> 16) as usize);
            words.prefetch(next(entry, address));
            self.lanes[self.len % N] = (first + lane) as u8;
            self.entries[self.len % N] = entry;
            self.len += 1;
        }
    }

    /// Walks all to their ends.
    ///
    /// # Safety
    /// As for [`lookup`].
    #[inline]
    unsafe fn finish(&mut self, words: &Words, addresses: &[u32], out: &mut [IdentityId]) {
        let lanes = self.lanes.iter().map(|lane| usize::from(*lane)).take(self.len);
        for (lane, entry) in lanes.clone().zip(&mut self.entries) {
            let address = addresses[lane];
            if is_fan(*entry) {
                // A line leads to a bucket now and then, which is fetched while others are searched.
                // SAFETY: a fan has a line for each value of its bits.
                *entry =
                    unsafe { fan::search(words, line(*entry, address & 0xffff), address & 0xffff) };
                if is_bucket(*entry) {
                    words.prefetch(offset(*entry));
                }
            } else if is_page(*entry) {
                let entry = *entry;
                let at = offset(entry) + (address >> 8 & 0xff) as usize;
                // SAFETY: a page has an entry for each value of a byte.
                let below = unsafe { words.load_unchecked(at) };
                let slot = if is_page(below) { (address & 0xff) as usize } else { 0 };
                words.prefetch(offset(below) + slot);
            }
        }
        for (lane, entry) in lanes.zip(self.entries) {
            // SAFETY: as the caller promises.
            out[lane] = unsafe { finish(words, addresses[lane], entry) };
        }
    }
}

/// Walks on from the root's entry.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn finish(words: &Words, address: u32, entry: u32) -> IdentityId {
    // SAFETY: as the caller promises.
    let code = unsafe { walk(words, address << 16, entry) };
    match near_id(code) {
        Some(id) => IdentityId::new(id),
        // SAFETY: as the caller promises.
        None => unsafe { finish_rare(words, address, code) },
    }
}

/// The code that the deepest level gives: MISS if that level says nothing.
/// `rest` is the address without the bits that led to `entry`, left-aligned.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn walk(words: &Words, mut rest: u32, mut entry: u32) -> u32 {
    loop {
        let at = offset(entry);
        if is_bucket(entry) {
            // SAFETY: an entry of this kind points to a bucket.
            return unsafe { bucket::search4(words, at, rest) };
        }
        if is_page(entry) {
            // SAFETY: a page has an entry for each value of a byte.
            entry = unsafe { words.load_unchecked(at + (rest >> 24) as usize) };
            rest <<= 8;
        } else if entry >= WIDE {
            // SAFETY: a wide page has an entry for each value of the last 16 bits.
            return unsafe { words.load_unchecked(wide_offset(entry) + (rest >> 16) as usize) };
        } else if is_fan(entry) {
            // SAFETY: a fan has a line for each value of its bits.
            entry = unsafe { fan::search(words, line(entry, rest >> 16), rest >> 16) };
            if !is_bucket(entry) {
                return entry;
            }
        } else {
            return entry;
        }
    }
}

/// What is read next for an entry of the root.
#[inline]
fn next(entry: u32, address: u32) -> usize {
    let page = if is_page(entry) { (address >> 8 & 0xff) as usize } else { 0 };
    if is_fan(entry) { line(entry, address & 0xffff) } else { offset(entry) + page }
}

/// The line of a fan for the 16 bits `low` of an address.
#[inline]
fn line(entry: u32, low: u32) -> usize {
    fan_offset(entry) + fan::line_of(fan_bits(entry), low) * LINE
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
    id(words, code)
}

/// The identity that a code stands for.
pub(crate) fn id(words: &Words, code: u32) -> IdentityId {
    match near_id(code) {
        Some(id) => IdentityId::new(id),
        None if code == MISS => IdentityId::UNKNOWN,
        None => IdentityId::new(words.load(offset(code))),
    }
}

/// The walk from the root again, this time minding the defaults on the way.
///
/// # Safety
/// As for [`lookup`].
unsafe fn walk_defaults(words: &Words, address: u32) -> u32 {
    let mut at = (address >> 16) as usize;
    let mut rest = address << 16;
    let mut best = MISS;
    loop {
        let entry = words.load(at);
        let (run, slot) = if is_page(entry) {
            (offset(entry), rest >> 24)
        } else if entry >= WIDE {
            (wide_offset(entry), rest >> 16)
        } else {
            if is_fan(entry) {
                let default = words.load(fan_offset(entry) - DEFAULT);
                best = if default == MISS { best } else { default };
            }
            // SAFETY: as the caller promises.
            let code = unsafe { walk(words, rest, entry) };
            return if code == MISS { best } else { code };
        };
        let default = words.load(run - DEFAULT);
        best = if default == MISS { best } else { default };
        at = run + slot as usize;
        rest <<= 8;
    }
}
