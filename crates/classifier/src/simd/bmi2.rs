//! What AVX2 and AVX-512 code share: bit extraction and prefetching. What the `unsafe` here gains
//! over [`super::Scalar`]: one instruction in place of a loop over the bits of a mask.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, _pext_u64};

/// Proof that this processor has BMI1 and BMI2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bmi2(());

impl Bmi2 {
    pub(super) fn detect() -> Option<Self> {
        let there = std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2");
        there.then_some(Self(()))
    }

    /// The bits of `word` under `mask`, pushed together to the low end.
    #[inline(always)]
    pub(super) fn extract(self, word: u64, mask: u64) -> u64 {
        // SAFETY: `self` proves that the processor has BMI2.
        unsafe { _pext_u64(word, mask) }
    }
}

/// Asks for the cache line at `place`; wrong addresses do no harm.
#[inline(always)]
pub(super) fn prefetch<T>(place: *const T) {
    // SAFETY: every x86-64 processor has SSE, and a prefetch never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
}
