//! Hashes of keys, and work compiled for the machine that does it.
//!
//! Keyed with random numbers, because attackers choose 5-tuples. Where the processor has AES
//! instructions, three rounds of AES with secret keys: after two, every byte of the key of a
//! connection has changed every byte of the state. Elsewhere ahash.

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
pub(super) use aes::Hasher;
#[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
pub(super) type Hasher = Portable;

/// A way to hash. Words are passed one by one, in registers: two that are written to memory and read
/// back as one would have to wait for each other.
pub(super) trait Hashing {
    /// The hash of two words.
    fn two(&self, a: u64, b: u64) -> u64;

    /// The hash of five words.
    fn five(&self, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64;
}

/// Work on many keys, to be done with whatever hashes here.
pub(super) trait Work {
    /// What it results in.
    type Output;

    /// Does it. To be inlined always: then it is compiled for the processor, too.
    fn run(self, hashing: &impl Hashing) -> Self::Output;
}

/// The hash for any machine.
#[derive(Debug)]
pub(super) struct Portable(ahash::RandomState);

impl Portable {
    /// With new random numbers.
    pub(super) fn new() -> Self {
        Self(ahash::RandomState::new())
    }

    /// Does `work`.
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    #[inline(always)]
    pub(super) fn work<W: Work>(&self, work: W) -> W::Output {
        work.run(self)
    }
}

#[inline(always)]
fn pair(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

impl Hashing for Portable {
    #[inline(always)]
    fn two(&self, a: u64, b: u64) -> u64 {
        // One number of 128 bits takes fewer steps than two of 64.
        self.0.hash_one(pair(a, b))
    }

    #[inline(always)]
    fn five(&self, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
        self.0.hash_one((pair(a, b), pair(c, d), e))
    }
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod aes {
    #![allow(unsafe_code)]

    use core::arch::x86_64::{
        __m128i, _mm_aesenc_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_xor_si128,
    };

    use super::{Hashing, Portable, Work};

    /// How a table hashes.
    #[derive(Debug)]
    pub(in super::super) enum Hasher {
        Aes(Aes),
        Portable(Portable),
    }

    impl Hasher {
        /// With new random numbers.
        pub(in super::super) fn new() -> Self {
            let portable = Portable::new();
            match Aes::new(&portable) {
                Some(aes) => Self::Aes(aes),
                None => Self::Portable(portable),
            }
        }

        /// Does `work`, compiled for this machine.
        #[inline(always)]
        pub(in super::super) fn work<W: Work>(&self, work: W) -> W::Output {
            match self {
                // SAFETY: whoever has an `Aes` has found the features.
                Self::Aes(aes) => unsafe { with_features(aes, work) },
                Self::Portable(portable) => work.run(portable),
            }
        }
    }

    impl Hashing for Hasher {
        #[inline(always)]
        fn two(&self, a: u64, b: u64) -> u64 {
            match self {
                Self::Aes(aes) => aes.two(a, b),
                Self::Portable(portable) => portable.two(a, b),
            }
        }

        #[inline(always)]
        fn five(&self, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
            match self {
                Self::Aes(aes) => aes.five(a, b, c, d, e),
                Self::Portable(portable) => portable.five(a, b, c, d, e),
            }
        }
    }

    /// Keys of three rounds. There is none without the features of [`with_features`].
    #[derive(Clone, Copy)]
    pub(in super::super) struct Aes([__m128i; 4]);

    impl std::fmt::Debug for Aes {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            // The keys are secret: who knows them chooses connections that collide.
            f.debug_struct("Aes").finish_non_exhaustive()
        }
    }

    impl Aes {
        fn new(random: &Portable) -> Option<Self> {
            let there = std::arch::is_x86_feature_detected!("aes")
                && std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("bmi1")
                && std::arch::is_x86_feature_detected!("bmi2");
            let word = |n: u64| random.two(n, 0) as i64;
            there.then(|| Self([0, 1, 2, 3].map(|n| key(word(2 * n), word(2 * n + 1)))))
        }
    }

    fn key(low: i64, high: i64) -> __m128i {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_set_epi64x(high, low) }
    }

    #[target_feature(enable = "aes,avx2,bmi1,bmi2")]
    fn with_features<W: Work>(aes: &Aes, work: W) -> W::Output {
        // A copy: otherwise the keys would be read again after every store.
        work.run(&{ *aes })
    }

    impl Hashing for Aes {
        #[inline(always)]
        fn two(&self, a: u64, b: u64) -> u64 {
            // SAFETY: whoever has an `Aes` has found the features.
            unsafe { two(self, a, b) }
        }

        #[inline(always)]
        fn five(&self, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
            // SAFETY: whoever has an `Aes` has found the features.
            unsafe { five(self, a, b, c, d, e) }
        }
    }

    #[target_feature(enable = "aes,avx2,bmi1,bmi2")]
    #[inline]
    fn two(&Aes([first, second, third, fourth]): &Aes, a: u64, b: u64) -> u64 {
        let state = _mm_xor_si128(first, pair(a, b));
        let state = _mm_aesenc_si128(state, second);
        let state = _mm_aesenc_si128(state, third);
        _mm_cvtsi128_si64(_mm_aesenc_si128(state, fourth)) as u64
    }

    /// Between two pairs are two rounds, so that no difference of the first one can be taken back by
    /// one of the second (other than by guessing 30 bits).
    #[target_feature(enable = "aes,avx2,bmi1,bmi2")]
    #[inline]
    fn five(aes: &Aes, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
        let &Aes([first, second, third, fourth]) = aes;
        let mut state = first;
        for pair in [pair(a, b), pair(c, d), pair(e, 0)] {
            state = _mm_aesenc_si128(_mm_xor_si128(state, pair), second);
            state = _mm_aesenc_si128(state, third);
        }
        _mm_cvtsi128_si64(_mm_aesenc_si128(state, fourth)) as u64
    }

    #[target_feature(enable = "aes,avx2,bmi1,bmi2")]
    #[inline]
    fn pair(low: u64, high: u64) -> __m128i {
        _mm_set_epi64x(high as i64, low as i64)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The hash of five words, of which the last two may be nothing.
    struct One([u64; 5]);

    impl Work for One {
        type Output = [u64; 2];

        #[inline(always)]
        fn run(self, hashing: &impl Hashing) -> [u64; 2] {
            let [a, b, c, d, e] = self.0;
            [hashing.two(a, b), hashing.five(a, b, c, d, e)]
        }
    }

    /// Every bit of the words changes every bit of the hash in about half of the cases.
    fn spreads(bits: usize, hash: impl Fn([u64; 5]) -> u64) {
        for bit in 0..bits {
            let mut changed = [0; 64];
            for n in 0..64 {
                // As alike as the keys of connections are.
                let words = [0x0a00_0001_0a00_0002 + n; 5];
                let mut other = words;
                other[bit / 64] ^= 1 << (bit % 64);
                let difference = hash(words) ^ hash(other);
                for (n, changed) in changed.iter_mut().enumerate() {
                    *changed += (difference >> n & 1) as u32;
                }
            }
            // Of 64 throws of a coin, less than 8 heads come once in 10^10.
            assert!(changed.iter().all(|c| (8..=56).contains(c)), "bit {bit}: {changed:?}");
        }
    }

    #[test]
    fn every_bit_of_a_key_changes_half_of_the_hash() {
        fn both(hashing: &impl Hashing) {
            spreads(128, |words| One(words).run(hashing)[0]);
            spreads(320, |words| One(words).run(hashing)[1]);
        }
        both(&Hasher::new());
        both(&Portable::new());
    }

    #[test]
    fn work_on_many_keys_hashes_like_work_on_one() {
        let hasher = Hasher::new();
        for n in 0..1000 {
            let words = [n, 1, 2 * n, 7, n ^ 5];
            assert_eq!(hasher.work(One(words)), One(words).run(&hasher));
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?}", Hasher::new());
        assert!(!shown.contains(|c: char| c.is_ascii_digit()), "{shown}");
    }

    #[test]
    fn tables_hash_differently() {
        let (one, other) = (Hasher::new(), Hasher::new());
        assert!((0..64).all(|n| one.two(n, 0) != other.two(n, 0)));
    }
}
