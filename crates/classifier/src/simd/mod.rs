//! The few operations that every instruction set does its own way: comparing a header with four
//! rules at once, picking scattered bits out of a word, and asking for a cache line early.
//!
//! Each set is a token that can only be had where the processor has the instructions, so holding
//! one is the proof that using it is sound.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bmi2;
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
    /// Which rules of `group` do not match `key`, a byte each: 0 says that the box holds the key.
    fn misses<const B: usize>(self, group: &Group<B>, key: &Key<B>) -> u32;

    /// The bits of `word` under `mask`, pushed together to the low end.
    fn extract(self, word: u64, mask: u64) -> u64;

    /// A bit for each number above `bound`.
    fn above(self, numbers: &[u32; 64], bound: u32) -> u64;

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

/// The number of the first byte that is 0; 4 when none is.
#[inline(always)]
pub(crate) fn first_zero_byte(bytes: u32) -> u32 {
    // Bits above the lowest may be wrong, because the subtraction borrows.
    let zeros = bytes.wrapping_sub(0x0101_0101) & !bytes & 0x8080_8080;
    zeros.trailing_zeros() >> 3
}

/// Instruction sets, best last.
///
/// ```
/// use portcullis_classifier::{Instructions, Rule, RuleSet, tree};
///
/// let config = tree::Config::default().instructions(Instructions::Scalar);
/// let rules = RuleSet::new(vec![Rule::any(0)]).unwrap();
/// let tree = tree::Builder::new().configure(config).build(&rules).unwrap();
/// assert_eq!(tree.instructions(), Instructions::Scalar);
/// ```
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

    fn matches(misses: u32) -> [bool; 4] {
        misses.to_le_bytes().map(|byte| byte == 0)
    }

    #[test]
    fn sets_agree() {
        let mut seed = 7;
        let mut hits = 0;
        for round in 0..20_000u64 {
            let group = group(&mut seed);
            let mut key = Key([[(round % 700).to_le_bytes()[0].into(); WIDTH]; 2]);
            key.0[1][3] = u16::MAX;
            let expected = matches(Scalar.misses(&group, &key));
            hits += expected.iter().filter(|hit| **hit).count();
            let (word, mask) = (seed ^ round << 40, seed.rotate_left(17) & (seed >> 9));
            let bits = Scalar.extract(word, mask);
            let numbers: [u32; 64] =
                std::array::from_fn(|n| (seed >> (n % 33)) as u32 ^ (n as u32) << 26);
            let bound = (seed >> 7) as u32;
            let above = Scalar.above(&numbers, bound);
            assert_eq!(above & 1 == 1, numbers[0] > bound);
            #[cfg(target_arch = "x86_64")]
            {
                if let Some(simd) = Avx2::detect() {
                    assert_eq!(simd.above(&numbers, bound), above);
                    assert_eq!(matches(simd.misses(&group, &key)), expected);
                    assert_eq!(simd.extract(word, mask), bits);
                }
                if let Some(simd) = Avx512::detect() {
                    assert_eq!(simd.above(&numbers, bound), above);
                    assert_eq!(matches(simd.misses(&group, &key)), expected);
                    assert_eq!(simd.extract(word, mask), bits);
                }
            }
            let _ = (bits, above);
        }
        assert!(hits > 100, "the cases match sometimes: {hits}");
    }

    #[test]
    fn first_zero_byte_agrees_with_search() {
        let bytes = [0u8, 1, 0x7f, 0x80, 0xff];
        for a in bytes {
            for b in bytes {
                for c in bytes {
                    for d in bytes {
                        let all = [a, b, c, d];
                        let slow = all.iter().position(|byte| *byte == 0).unwrap_or(4);
                        assert_eq!(first_zero_byte(u32::from_le_bytes(all)) as usize, slow);
                    }
                }
            }
        }
    }
}
