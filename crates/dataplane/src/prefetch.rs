//! Asking the memory for what will be needed soon.

/// Asks the processor to fetch the cache line of `item`, which is needed soon.
#[inline(always)]
pub(crate) fn prefetch<T>(item: &T) {
    fetch(item);
}

/// The same for the beginning of `items[index]`. If there is none, no harm is done, and no branch asks.
#[inline(always)]
pub(crate) fn prefetch_at<T>(items: &[T], index: usize) {
    fetch(items.as_ptr().wrapping_add(index));
}

#[inline(always)]
fn fetch<T>(item: *const T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is allowed and changes nothing; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(item.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = item;
}
