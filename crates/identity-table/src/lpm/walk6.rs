//! Looking up IPv6 addresses.
//!
//! `unsafe` here saves the bounds checks on every step, for the reasons given in [`super::walk4`].

use super::bucket;
use super::entry::{MISS, is_bucket, is_page, near_id, offset};
use super::jump::{self, Seed};
use super::trie::{DEFAULT, DEPTH, KEY, RIPPLE};
use super::words::Words;
use crate::IdentityId;

/// Addresses walked side by side.
const LANES: usize = 32;

/// What a reader of the IPv6 structure holds.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) words: &'a Words,
    pub(crate) jump: &'a Words,
    pub(crate) seed: Seed,
}

/// The identity of one address.
///
/// # Safety
/// `view` must be of one published snapshot that the reader has pinned.
#[inline]
pub(crate) unsafe fn lookup(view: View<'_>, address: u128) -> IdentityId {
    let hash = view.seed.hash(address);
    // SAFETY: as the caller promises.
    if let Some(at) = unsafe { jump::find(view.jump, view.words, hash, address) } {
        // SAFETY: a page has an entry for each value of a byte.
        let code = unsafe { view.words.load_unchecked(at + (address & 0xff) as usize) };
        if let Some(id) = near_id(code) {
            return IdentityId::new(id);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { lookup_long(view.words, address) }
}

/// The identities of a batch; both slices have one length.
///
/// # Safety
/// As for [`lookup`].
pub(crate) unsafe fn lookup_batch(view: View<'_>, addresses: &[u128], out: &mut [IdentityId]) {
    for (addresses, out) in addresses.chunks(LANES).zip(out.chunks_mut(LANES)) {
        // SAFETY: as the caller promises.
        unsafe { lookup_chunk(view, addresses, out) };
    }
}

/// Up to [`LANES`] addresses: first the short way for all, then the long way for who is left.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn lookup_chunk(view: View<'_>, addresses: &[u128], out: &mut [IdentityId]) {
    let mut hashes = [0_usize; LANES];
    for (hash, address) in hashes.iter_mut().zip(addresses) {
        *hash = view.seed.hash(*address);
        view.jump.prefetch(*hash & (view.jump.len() - 1));
    }
    let mut pages = [0_usize; LANES];
    for ((page, hash), address) in pages.iter_mut().zip(hashes).zip(addresses) {
        // SAFETY: as the caller promises.
        let found = unsafe { jump::find(view.jump, view.words, hash, *address) };
        *page = found.map_or(0, |at| at + (*address & 0xff) as usize);
    }
    let mut rest = [0_u8; LANES];
    let mut left = 0;
    for (lane, (page, out)) in pages.into_iter().zip(out.iter_mut()).enumerate() {
        // SAFETY: an entry of a page, or the root's first, which is looked at and not used.
        let code = unsafe { view.words.load_unchecked(page) };
        let id = if page == 0 { MISS } else { code };
        *out = IdentityId::new(id);
        rest[left & (LANES - 1)] = lane as u8;
        left += usize::from(id as i32 <= -1);
    }
    for lane in &rest[..left] {
        let lane = usize::from(*lane);
        // SAFETY: as the caller promises.
        out[lane] = unsafe { lookup_long(view.words, addresses[lane]) };
    }
}

/// The walk from the root.
///
/// # Safety
/// As for [`lookup`].
unsafe fn lookup_long(words: &Words, address: u128) -> IdentityId {
    loop {
        let before = words.load(RIPPLE);
        // SAFETY: as the caller promises.
        let (code, last) = unsafe { walk(words, address) };
        if !last && words.load(RIPPLE) != before {
            continue;
        }
        return super::walk4::id(words, code);
    }
}

/// The code of the longest prefix, and whether the last level gave it.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn walk(words: &Words, address: u128) -> (u32, bool) {
    // SAFETY: every offset comes from an entry, and every kind of entry has the words read here.
    let load = |at: usize| unsafe { words.load_unchecked(at) };
    let mut entry = load((address >> 112) as usize);
    let mut depth = 16;
    let mut best = MISS;
    loop {
        let at = offset(entry);
        if is_bucket(entry) {
            // SAFETY: an entry of this kind points to a bucket.
            let code = unsafe { bucket::search6(words, at, address << depth) };
            return if code == MISS { (best, false) } else { (code, true) };
        }
        if !is_page(entry) {
            return if entry == MISS { (best, false) } else { (entry, true) };
        }
        let default = load(at - DEFAULT);
        best = if default == MISS { best } else { default };
        depth = load(at - DEPTH);
        let word = |i: usize| u128::from(load(at - KEY + i)) << (96 - 32 * i);
        let key = word(0) | word(1) | word(2) | word(3);
        if (key ^ address) >> 8 >> (120 - depth) != 0 {
            return (best, false);
        }
        entry = load(at + (address >> (120 - depth) & 0xff) as usize);
        depth += 8;
    }
}
