//! The memory that readers walk: one run of 32-bit words that never moves.
//!
//! `unsafe` here buys three things, worth a quarter of a lookup in a table of 110,000 prefixes:
//! words that come zeroed from the system and cost nothing until touched, loads without a bounds
//! check, and one step less from a snapshot to its words. Every word is atomic, so a mistake in
//! reclamation could give a wrong answer but never a data race.

use core::ptr::NonNull;
use std::sync::Arc;

use crate::sync::{AtomicU32, Ordering};

/// Huge pages for large tables: a lookup that misses all caches mostly waits for the page walk.
#[cfg(not(loom))]
mod huge_pages {
    /// From this size on: a small table would only waste the rest of its last page.
    #[cfg(target_os = "linux")]
    const FROM: usize = 32 << 20;

    /// Asks for huge pages where they come on demand (`transparent_hugepage` set to `madvise`, as
    /// most distributions do). Without them everything works, more slowly.
    #[cfg(target_os = "linux")]
    pub(super) fn advise(memory: *mut u8, len: usize) {
        const MADV_HUGEPAGE: i32 = 14;
        const HUGE: usize = 2 << 20;
        // Declared here rather than by the libc crate: std links the function on Linux anyway, and
        // the only dependency of this kind for one call is not worth it.
        unsafe extern "C" {
            fn madvise(memory: *mut u8, len: usize, advice: i32) -> i32;
        }
        let skipped = memory.align_offset(HUGE);
        if len >= FROM && skipped < len {
            // SAFETY: the range lies inside one allocation, and this advice changes no content.
            let _refused =
                unsafe { madvise(memory.wrapping_add(skipped), len - skipped, MADV_HUGEPAGE) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn advise(_memory: *mut u8, _len: usize) {}
}

/// Words of a cache line, which the first word begins.
const LINE: usize = 16;

/// A fixed run of words, all zero at first. Clones share it.
#[derive(Clone)]
pub(crate) struct Words {
    /// Word number `skipped` of `owner`.
    base: NonNull<AtomicU32>,
    /// Less than [`LINE`]; so many more words `owner` has than are used.
    skipped: usize,
    owner: Arc<Box<[AtomicU32]>>,
}

// SAFETY: `base` is a shared reference to what `owner` owns, and atomics may be shared.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// `len` words of zero. Not resident until written.
    #[cfg(not(loom))]
    pub(crate) fn zeroed(len: usize) -> Self {
        let zeroed: Box<[u32]> = vec![0; len + LINE].into_boxed_slice();
        let raw = Box::into_raw(zeroed) as *mut [AtomicU32];
        huge_pages::advise(raw.cast(), len * size_of::<AtomicU32>());
        // SAFETY: `raw` comes from the box above, and AtomicU32 has the size, alignment and bit
        // validity of u32.
        Self::owning(unsafe { Box::from_raw(raw) })
    }

    /// `len` words of zero.
    #[cfg(loom)]
    pub(crate) fn zeroed(len: usize) -> Self {
        Self::owning((0..len + LINE).map(|_| AtomicU32::new(0)).collect())
    }

    fn owning(words: Box<[AtomicU32]>) -> Self {
        let owner = Arc::new(words);
        let skipped = owner.as_ptr().align_offset(LINE * size_of::<u32>()) % LINE;
        let base = NonNull::from(&owner[skipped..]).cast();
        Self { base, skipped, owner }
    }

    pub(crate) fn len(&self) -> usize {
        self.owner.len() - LINE
    }

    fn words(&self) -> &[AtomicU32] {
        &self.owner[self.skipped..self.owner.len() - LINE + self.skipped]
    }

    /// Whether both are the same memory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.owner, &other.owner)
    }

    /// The word at `at`; what was stored before it was stored is seen too.
    #[inline]
    pub(crate) fn load(&self, at: usize) -> u32 {
        assert!(at < self.len(), "word {at} of {}", self.len());
        // SAFETY: just seen.
        unsafe { self.load_unchecked(at) }
    }

    /// Sets the word at `at`, and with it publishes everything stored before.
    #[inline]
    pub(crate) fn store(&self, at: usize, value: u32) {
        self.words()[at].store(value, Ordering::Release);
    }

    /// As [`Words::load`], without the bounds check.
    ///
    /// # Safety
    /// `at` must be below [`Words::len`].
    #[inline]
    pub(crate) unsafe fn load_unchecked(&self, at: usize) -> u32 {
        debug_assert!(at < self.len());
        // SAFETY: the caller keeps `at` in bounds of the run that begins at `base`.
        let word = unsafe { self.base.add(at) };
        // SAFETY: a word of `owner`, which lives as long as this.
        unsafe { word.as_ref() }.load(Ordering::Acquire)
    }

    /// Four words as one number, the first word lowest.
    ///
    /// # Safety
    /// `at + 3` must be below [`Words::len`], and nobody may write the four meanwhile: they were
    /// published and the reader has been pinned since.
    #[inline]
    pub(crate) unsafe fn load_four(&self, at: usize) -> u128 {
        debug_assert!(at + 3 < self.len());
        if cfg!(all(target_endian = "little", not(loom))) {
            // SAFETY: the caller keeps `at` in bounds of the run that begins at `base`.
            let four = unsafe { self.base.add(at) }.cast::<u128>();
            // SAFETY: in bounds, of no one's writing, and any bits are a number.
            return unsafe { four.read_unaligned() };
        }
        (0..4).map(|i| u128::from(self.load(at + i)) << (32 * i)).sum()
    }

    /// Asks the processor to fetch the line of the word at `at`; any `at` is allowed.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.base.as_ptr().wrapping_add(at);
            // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(loom))))]
        let _ = at;
    }

    /// Copies `len` words from `from` on to where `to` begins, where nobody looks yet: what is stored
    /// next publishes them.
    pub(crate) fn copy(&self, from: usize, to: usize, len: usize) {
        let words = self.words();
        for (to, from) in words[to..to + len].iter().zip(&words[from..from + len]) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// A copy with room for `len` words, of which the first `used` come from here.
    pub(crate) fn grown(&self, len: usize, used: usize) -> Self {
        let copy = Self::zeroed(len);
        for (to, from) in copy.words().iter().zip(&self.words()[..used]) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        copy
    }
}
