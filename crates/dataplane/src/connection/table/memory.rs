//! Large arrays of zeroed atomics, in huge pages where the kernel has them; prefetching; comparing
//! tags with vector instructions.
//!
//! The `unsafe` of the connection table, with that of hashing. What it gains, at a million connections: nothing is
//! touched before it is used, huge pages save the page walk that would else come with every look at
//! a connection, and a bucket is compared in one instruction without a branch.

#![allow(unsafe_code)]

#[cfg(not(loom))]
use std::ptr::NonNull;

/// Types for which all-zero bytes are a value, and whose size is not zero.
///
/// # Safety
/// As said.
pub(super) unsafe trait Zeroed: Send + Sync {
    /// Such a value, where memory cannot be mapped as zero.
    #[cfg_attr(not(loom), allow(dead_code))]
    fn zero() -> Self;
}

// SAFETY: a word.
unsafe impl Zeroed for super::sync::AtomicU64 {
    fn zero() -> Self {
        Self::new(0)
    }
}

#[cfg(not(loom))]
mod mapped {
    use super::*;

    /// Size and alignment of a huge page.
    const HUGE: usize = 2 << 20;

    /// A fixed array in memory of its own.
    pub(in super::super) struct Array<T: Zeroed> {
        start: NonNull<T>,
        len: usize,
        mapping: NonNull<libc::c_void>,
        mapped: usize,
    }

    // SAFETY: the array owns its elements, which may be sent and shared.
    unsafe impl<T: Zeroed> Send for Array<T> {}
    // SAFETY: as above.
    unsafe impl<T: Zeroed> Sync for Array<T> {}

    impl<T: Zeroed> Array<T> {
        /// `len` zeroed elements.
        ///
        /// # Errors
        /// The kernel has no such memory.
        pub(in super::super) fn new(len: usize) -> std::io::Result<Self> {
            Self::with_advice(len, libc::MADV_HUGEPAGE)
        }

        /// The same for elements few of which will ever be used: in small pages.
        ///
        /// # Errors
        /// As above.
        pub(in super::super) fn sparse(len: usize) -> std::io::Result<Self> {
            Self::with_advice(len, libc::MADV_NOHUGEPAGE)
        }

        fn with_advice(len: usize, advice: libc::c_int) -> std::io::Result<Self> {
            let too_large = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_large)?.max(1);
            // Whole huge pages, so that the end of the array gets one too; and one to align the start.
            let whole =
                if bytes >= HUGE { bytes.checked_next_multiple_of(HUGE) } else { Some(bytes) };
            let whole = whole.ok_or_else(too_large)?;
            let mapped = whole.checked_add(HUGE).ok_or_else(too_large)?;
            // Miri knows no other flags.
            let lazy = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | lazy;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a fresh anonymous mapping touches nothing that exists.
            let mapping =
                unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
            let mapping = match NonNull::new(mapping) {
                Some(start) if start.as_ptr() != libc::MAP_FAILED => start,
                _ => return Err(std::io::Error::last_os_error()),
            };
            let skip = mapping.align_offset_to(HUGE);
            // SAFETY: `skip` is less than HUGE, by which the mapping is longer than `whole`, which is at
            // least the array.
            let start = unsafe { mapping.cast::<u8>().add(skip) }.cast::<T>();
            #[cfg(not(miri))]
            if bytes >= HUGE {
                // SAFETY: the range lies within the mapping; the advice changes no contents.
                // Without huge pages everything works, only slower.
                let _ = unsafe { libc::madvise(start.as_ptr().cast(), whole, advice) };
            }
            Ok(Self { start, len, mapping, mapped })
        }

        /// Bytes of it that have memory, in whole pages. One system call.
        pub(in super::super) fn resident(&self) -> usize {
            let bytes = self.len * size_of::<T>();
            if cfg!(miri) {
                return bytes;
            }
            // SAFETY: a number of the system's, without conditions.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let page = usize::try_from(page).unwrap_or(4096);
            let mut pages = vec![0u8; bytes.div_ceil(page)];
            let (start, out) = (self.start.as_ptr().cast(), pages.as_mut_ptr());
            // SAFETY: the range lies within the mapping and begins with a page; the kernel writes one
            // byte for each of its pages.
            if unsafe { libc::mincore(start, bytes, out.cast()) } != 0 {
                return bytes;
            }
            pages.iter().filter(|there| **there & 1 != 0).count() * page
        }
    }

    impl<T: Zeroed> std::ops::Deref for Array<T> {
        type Target = [T];

        #[inline]
        fn deref(&self) -> &[T] {
            // SAFETY: `start` is aligned to HUGE and followed by `len` elements of zeroed memory,
            // which are valid values of T and live as long as `self`.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
        }
    }

    impl<T: Zeroed> Drop for Array<T> {
        fn drop(&mut self) {
            // SAFETY: exactly the mapping that `new` made. Elements are plain atomics without drop.
            let _ = unsafe { libc::munmap(self.mapping.as_ptr(), self.mapped) };
        }
    }

    trait AlignOffset {
        fn align_offset_to(self, alignment: usize) -> usize;
    }

    impl AlignOffset for NonNull<libc::c_void> {
        fn align_offset_to(self, alignment: usize) -> usize {
            self.as_ptr().addr().wrapping_neg() & (alignment - 1)
        }
    }
}

#[cfg(loom)]
mod mapped {
    use super::Zeroed;

    pub(in super::super) struct Array<T: Zeroed>(Box<[T]>);

    impl<T: Zeroed> Array<T> {
        pub(in super::super) fn new(len: usize) -> std::io::Result<Self> {
            Ok(Self((0..len).map(|_| T::zero()).collect()))
        }

        pub(in super::super) fn sparse(len: usize) -> std::io::Result<Self> {
            Self::new(len)
        }

        pub(in super::super) fn resident(&self) -> usize {
            self.0.len() * size_of::<T>()
        }
    }

    impl<T: Zeroed> std::ops::Deref for Array<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.0
        }
    }
}

pub(super) use mapped::Array;

impl<T: Zeroed> std::fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Array").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Bytes of two words that equal `tag`, one bit each.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn equal_bytes(first: u64, second: u64, tag: u8) -> u32 {
    #[target_feature(enable = "sse2")]
    #[inline]
    fn compare(first: u64, second: u64, tag: u8) -> u32 {
        use core::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8,
        };
        let tags = _mm_set_epi64x(second as i64, first as i64);
        _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8))) as u32
    }
    // SAFETY: SSE2 is part of x86-64.
    unsafe { compare(first, second, tag) }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::connection::table::sync::{AtomicU64, Ordering};

    #[test]
    fn only_pages_that_were_written_have_memory() {
        let array = Array::<AtomicU64>::sparse(1 << 20).unwrap();
        assert_eq!(array.resident(), 0);
        array[5].store(1, Ordering::Relaxed);
        array[6].store(1, Ordering::Relaxed);
        let one = array.resident();
        assert!((1..1 << 20).contains(&one), "a page: {one}");
        array[1 << 19].store(1, Ordering::Relaxed);
        assert_eq!(array.resident(), 2 * one);
    }
}
