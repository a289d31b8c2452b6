//! The few operations that every instruction set does its own way: comparing a header with four
//! rules at once, picking scattered bits out of a word, and asking for a cache line early.
//!
//! Each set is a token that can only be had where the processor has the instructions, so holding
//! one is the proof that using it is sound.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use scalar::Scalar;

use crate::lanes::{Key, WIDTH};

/// Rules in a group.
pub(crate) const GROUP: usize = 4;

/// Four rules, lane by lane, each a lower bound and the distance to the upper one, so that a lane
/// lies within when `lane - low <= span` in wrapping arithmetic.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Group<const B: usize> {
    pub(crate) low: [[[u16; WIDTH]; GROUP]; B],
    pub(crate) span: [[[u16; WIDTH]; GROUP]; B],
}

/// An instruction set.
pub(crate) trait Simd: Copy {
    /// The rules of `group` whose box holds `key`: rule `n` is in bit `8 * n + 7`.
    fn compare<const B: usize>(self, group: &Group<B>, key: &Key<B>) -> u32;

    /// The bits of `word` under `mask`, pushed together to the low end.
    fn extract(self, word: u64, mask: u64) -> u64;

    /// Asks for the cache line at `place`; wrong addresses do no harm.
    fn prefetch<T>(self, place: *const T);

    /// Asks for the first two cache lines at `place`.
    #[inline(always)]
    fn prefetch_group<T>(self, place: *const T) {
        let place: *const u8 = place.cast();
        self.prefetch(place);
        self.prefetch(place.wrapping_add(64));
    }
}

/// Turns a mask of one bit a lane into one bit, the highest, for each byte of all ones.
#[inline(always)]
fn whole_bytes(mask: u32) -> u32 {
    (mask & 0x7f7f_7f7f).wrapping_add(0x0101_0101) & mask & 0x8080_8080
}

/// Instruction sets, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Instructions {
    /// Portable code; the compiler uses what the target always has (SSE2, NEON).
    Scalar,
    /// AVX2 and BMI2.
    Avx2,
    /// AVX-512 F and BW, and BMI2.
    Avx512,
}

impl Instructions {
    /// Those that this processor can run, best last. Never empty.
    ///
    /// ```
    /// use portcullis_classifier::Instructions;
    ///
    /// assert_eq!(Instructions::available()[0], Instructions::Scalar);
    /// ```
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            sets.extend(Avx2::detect().map(|_| Self::Avx2));
            sets.extend(Avx512::detect().map(|_| Self::Avx512));
        }
        sets
    }

    /// The best that this processor can run.
    #[must_use]
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self::Scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(seed: &mut u64) -> Group<2> {
        let mut next = || {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*seed >> 33).to_le_bytes()
        };
        let mut group = Group { low: [[[0; WIDTH]; GROUP]; 2], span: [[[0; WIDTH]; GROUP]; 2] };
        for lane in group.low.as_flattened_mut().as_flattened_mut() {
            let [a, b, ..] = next();
            *lane = u16::from_le_bytes([a, b & 1]);
        }
        for lane in group.span.as_flattened_mut().as_flattened_mut() {
            let [a, b, c, ..] = next();
            *lane = if c < 200 { u16::MAX } else { u16::from_le_bytes([a, b]) };
        }
        group
    }

    #[test]
    fn sets_agree() {
        let mut seed = 7;
        let mut hits = 0;
        for round in 0..20_000u64 {
            let group = group(&mut seed);
            let mut key = Key([[(round % 700).to_le_bytes()[0].into(); WIDTH]; 2]);
            key.0[1][3] = u16::MAX;
            let expected = Scalar.compare(&group, &key);
            hits += expected.count_ones();
            let (word, mask) = (seed ^ round << 40, seed.rotate_left(17) & (seed >> 9));
            let bits = Scalar.extract(word, mask);
            #[cfg(target_arch = "x86_64")]
            {
                if let Some(simd) = Avx2::detect() {
                    assert_eq!(simd.compare(&group, &key), expected);
                    assert_eq!(simd.extract(word, mask), bits);
                }
                if let Some(simd) = Avx512::detect() {
                    assert_eq!(simd.compare(&group, &key), expected);
                    assert_eq!(simd.extract(word, mask), bits);
                }
            }
            let _ = bits;
        }
        assert!(hits > 100, "the cases match sometimes: {hits}");
    }

    #[test]
    fn whole_bytes_are_exact() {
        for (mask, expected) in [
            (0, 0),
            (u32::MAX, 0x8080_8080),
            (0x00ff_fe7f, 0x0080_0000),
            (0xff00_01ff, 0x8000_0080),
        ] {
            assert_eq!(whole_bytes(mask), expected, "{mask:#x}");
        }
    }
}
