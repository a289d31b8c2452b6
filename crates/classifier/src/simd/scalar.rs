//! Portable code, also the slow twin that the others are tested against.

use super::{GROUP, Group, Simd};
use crate::lanes::{Key, WIDTH};

/// The token of portable code: always to be had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    #[inline(always)]
    fn misses<const B: usize>(self, group: &Group<B>, key: &Key<B>) -> u32 {
        let mut misses = 0;
        for rule in 0..GROUP {
            let mut inside = true;
            for block in 0..B {
                let (low, span) = (&group.low[block][rule], &group.span[block][rule]);
                // Without short-circuit, so that the compiler compares the lanes side by side.
                for lane in 0..WIDTH {
                    inside &= key.0[block][lane].wrapping_sub(low[lane]) <= span[lane];
                }
            }
            misses |= u32::from(!inside) << (8 * rule);
        }
        misses
    }

    #[inline(always)]
    fn extract(self, word: u64, mut mask: u64) -> u64 {
        let (mut bits, mut at) = (0, 0);
        while mask != 0 {
            bits |= (word >> mask.trailing_zeros() & 1) << at;
            mask &= mask - 1;
            at += 1;
        }
        bits
    }

    #[inline(always)]
    fn above(self, numbers: &[u32; 64], bound: u32) -> u64 {
        let bits = numbers.iter().enumerate();
        bits.fold(0, |bits, (at, number)| bits | u64::from(*number > bound) << at)
    }

    #[inline(always)]
    fn prefetch<T>(self, _place: *const T) {}
}
