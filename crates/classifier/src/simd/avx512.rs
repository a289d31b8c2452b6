//! AVX-512 and BMI2. What the `unsafe` here gains over [`super::Avx2`]: four rules an instruction.

use std::arch::x86_64::{
    _mm_load_si128, _mm512_broadcast_i32x4, _mm512_cmpgt_epu16_mask, _mm512_cmpgt_epu32_mask,
    _mm512_load_si512, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_sub_epi16,
};

use super::bmi2::Bmi2;
use super::{Group, Simd};
use crate::lanes::Key;

/// Proof that this processor has AVX-512 F and BW, and BMI2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(Bmi2);

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let there = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw");
        Bmi2::detect().filter(|_| there).map(Self)
    }
}

impl Simd for Avx512 {
    #[inline(always)]
    fn misses<const B: usize>(self, group: &Group<B>, key: &Key<B>) -> u32 {
        // SAFETY: `self` proves that the processor has AVX-512 F and BW.
        unsafe { misses(group, key) }
    }

    #[inline(always)]
    fn extract(self, word: u64, mask: u64) -> u64 {
        self.0.extract(word, mask)
    }

    #[inline(always)]
    fn above(self, numbers: &[u32; 64], bound: u32) -> u64 {
        // SAFETY: `self` proves that the processor has AVX-512 F and BW.
        unsafe { above(numbers, bound) }
    }

    #[inline(always)]
    fn prefetch<T>(self, place: *const T) {
        super::bmi2::prefetch(place);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn misses<const B: usize>(group: &Group<B>, key: &Key<B>) -> u32 {
    let mut outside = 0;
    for block in 0..B {
        // SAFETY: a block of a key is 16 bytes, aligned to 16.
        let lanes = unsafe { _mm_load_si128((&raw const key.0[block]).cast()) };
        let lanes = _mm512_broadcast_i32x4(lanes);
        // SAFETY: four rules of a block are 64 bytes, and the group is aligned to 64.
        let low = unsafe { _mm512_load_si512((&raw const group.low[block]).cast()) };
        // SAFETY: as above.
        let span = unsafe { _mm512_load_si512((&raw const group.span[block]).cast()) };
        outside |= _mm512_cmpgt_epu16_mask(_mm512_sub_epi16(lanes, low), span);
    }
    outside
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn above(numbers: &[u32; 64], bound: u32) -> u64 {
    let bound = _mm512_set1_epi32(bound.cast_signed());
    let mut bits = 0;
    for (at, sixteen) in numbers.chunks_exact(16).enumerate() {
        // SAFETY: sixteen numbers are 64 bytes; any alignment will do.
        let sixteen = unsafe { _mm512_loadu_si512(sixteen.as_ptr().cast()) };
        bits |= u64::from(_mm512_cmpgt_epu32_mask(sixteen, bound)) << (16 * at);
    }
    bits
}
