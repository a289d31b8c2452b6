//! Looking up IPv6 addresses.
//!
//! `unsafe` here saves the bounds checks on every step, for the reasons given in [`super::walk4`].

use super::bucket;
use super::entry::{MISS, is_bucket, is_page, near_id, offset};
use super::jump::{self, Seed};
use super::trie::{DEFAULT, DEPTH, KEY, RIPPLE};
use super::walk4::{LANES, signs};
use super::words::Words;
use crate::IdentityId;

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
    let before = view.words.load(RIPPLE);
    let mut walk = Walk::new();
    // SAFETY: as the caller promises.
    unsafe { walk.begin(view.words, address) };
    // SAFETY: as the caller promises.
    while unsafe { walk.step(view.words, address) } {}
    // SAFETY: as the caller promises.
    unsafe { walk.answer(view, address, before) }
}

/// The identities of a batch; both slices have one length.
///
/// # Safety
/// As for [`lookup`].
pub(crate) unsafe fn lookup_batch(view: View<'_>, addresses: &[u128], out: &mut [IdentityId]) {
    let (full, tail) = addresses.as_chunks::<LANES>();
    let (full_out, tail_out) = out.as_chunks_mut::<LANES>();
    for (addresses, out) in full.iter().zip(full_out) {
        // SAFETY: as the caller promises.
        unsafe { lookup_chunk(view, addresses, out) };
    }
    for (address, out) in tail.iter().zip(tail_out) {
        // SAFETY: as the caller promises.
        *out = unsafe { lookup(view, *address) };
    }
}

/// First the short way for all, without a branch; then the long way for who is left.
///
/// # Safety
/// As for [`lookup`].
#[inline]
unsafe fn lookup_chunk(view: View<'_>, addresses: &[u128; LANES], out: &mut [IdentityId; LANES]) {
    let mut pages = [0; LANES];
    for (page, address) in pages.iter_mut().zip(addresses) {
        // SAFETY: as the caller promises.
        *page = unsafe { jump::candidate(view.jump, view.seed.hash(*address)) };
        view.words.prefetch(*page - KEY);
        view.words.prefetch(*page + (*address & 0xff) as usize);
    }
    for ((page, address), out) in pages.iter().zip(addresses).zip(out.iter_mut()) {
        // SAFETY: as the caller promises.
        let leads = unsafe { jump::leads(view.words, *page, *address) };
        // SAFETY: a page has an entry for each value of a byte, and so many words are at NOWHERE.
        let code = unsafe { view.words.load_unchecked(*page + (*address & 0xff) as usize) };
        // Not a branch: who is left cannot be foretold.
        *out = IdentityId::new(code | u32::from(!leads) << 31);
    }
    let rest = signs(out);
    if rest != 0 {
        // SAFETY: as the caller promises.
        unsafe { lookup_rest(view, addresses, out, rest) };
    }
}

/// The lanes that the short way left, a step of each in turn.
///
/// # Safety
/// As for [`lookup`].
unsafe fn lookup_rest(
    view: View<'_>,
    addresses: &[u128; LANES],
    out: &mut [IdentityId; LANES],
    mut rest: u32,
) {
    let before = view.words.load(RIPPLE);
    let mut walks = [Walk::new(); LANES];
    let mut lanes = [0_u8; LANES];
    let mut left = 0;
    while rest != 0 {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        // Whether it ends at once is known to the first step, which comes when all have begun.
        // SAFETY: as the caller promises.
        unsafe { walks[lane].begin(view.words, addresses[lane]) };
        lanes[left % LANES] = lane as u8;
        left += 1;
    }
    while left != 0 {
        let mut still = 0;
        for i in 0..left {
            let lane = usize::from(lanes[i % LANES]) % LANES;
            // SAFETY: as the caller promises.
            if unsafe { walks[lane].step(view.words, addresses[lane]) } {
                lanes[still % LANES] = lane as u8;
                still += 1;
            } else {
                // SAFETY: as the caller promises.
                out[lane] = unsafe { walks[lane].answer(view, addresses[lane], before) };
            }
        }
        left = still;
    }
}

/// A walk from the root, in steps that each end with a prefetch of what the next one reads.
#[derive(Clone, Copy)]
struct Walk {
    /// The entry whose target was prefetched.
    entry: u32,
    /// Where the slots below the entry start.
    depth: u32,
    /// The code of the longest prefix so far.
    best: u32,
    /// Whether the last level gave `best`.
    last: bool,
}

impl Walk {
    const fn new() -> Self {
        Self { entry: MISS, depth: 0, best: MISS, last: false }
    }

    /// Reads the root.
    ///
    /// # Safety
    /// As for [`lookup`].
    #[inline(always)]
    unsafe fn begin(&mut self, words: &Words, address: u128) {
        // SAFETY: the root's entries are always there.
        let entry = unsafe { words.load_unchecked((address >> 112) as usize) };
        (self.entry, self.depth) = (entry, 16);
        // What the first step reads if this is a page, as it mostly is.
        words.prefetch(offset(entry) + (address >> 104 & 0xff) as usize);
        words.prefetch(offset(entry) - KEY.min(offset(entry)));
    }

    /// One step after [`Walk::begin`]; false at the end.
    ///
    /// # Safety
    /// As for [`lookup`], with the same address at every step.
    #[inline(always)]
    unsafe fn step(&mut self, words: &Words, address: u128) -> bool {
        // SAFETY: every offset comes from an entry, and every kind of entry has the words read here.
        let load = |at: usize| unsafe { words.load_unchecked(at) };
        if is_page(self.entry) {
            let page = offset(self.entry);
            let default = load(page - DEFAULT);
            self.best = if default == MISS { self.best } else { default };
            let depth = load(page - DEPTH);
            // SAFETY: a page's key stands before its entries.
            let key = unsafe { words.load_four(page - KEY) };
            if (key ^ address) >> 8 >> (120 - depth) != 0 {
                return false;
            }
            self.entry = load(page + (address >> (120 - depth) & 0xff) as usize);
            self.depth = depth + 8;
            if is_page(self.entry) {
                let page = offset(self.entry);
                words.prefetch(page - KEY);
                // Most pages skip nothing, so that their slot is known before their header is.
                words.prefetch(page + (address << self.depth >> 120) as usize);
                return true;
            }
            if is_bucket(self.entry) {
                words.prefetch(offset(self.entry));
                return true;
            }
            self.end(self.entry);
        } else if is_bucket(self.entry) {
            // SAFETY: an entry of this kind points to a bucket.
            let code = unsafe { bucket::search6(words, offset(self.entry), address << self.depth) };
            self.end(code);
        } else {
            self.end(self.entry);
        }
        false
    }

    fn end(&mut self, code: u32) {
        if code != MISS {
            (self.best, self.last) = (code, true);
        }
    }

    /// What a walk that has ended found. An answer put together from several levels counts only if
    /// no default changed since `before`; else the walk is done again.
    ///
    /// # Safety
    /// As for [`lookup`].
    #[inline]
    unsafe fn answer(&mut self, view: View<'_>, address: u128, mut before: u32) -> IdentityId {
        while !self.last {
            let now = view.words.load(RIPPLE);
            if now == before {
                break;
            }
            before = now;
            *self = Self::new();
            // SAFETY: as the caller promises.
            unsafe { self.begin(view.words, address) };
            // SAFETY: as the caller promises.
            while unsafe { self.step(view.words, address) } {}
        }
        super::walk4::id(view.words, self.best)
    }
}
