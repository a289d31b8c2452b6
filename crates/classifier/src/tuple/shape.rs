//! The shape of a rule: which bits of a header decide the bucket that the rule is in. Rules of
//! the same shape are found by one hash.

use std::hash::{BuildHasher, RandomState};

use crate::lanes::{LaneBox, WIDTH, places};

/// Bits of each lane that rules of this shape give exactly.
///
/// Prefix lengths are rounded down to whole bytes and other ranges count only when they are one
/// number, so that there are few shapes: 5 x 5 x 2 x 2 x 2 for IPv4 5-tuples at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape<const B: usize> {
    care: [[u16; WIDTH]; B],
}

impl<const B: usize> Shape<B> {
    pub(crate) fn of(bounds: &LaneBox<B>) -> Self {
        let places = const { places(B) };
        let Self { mut care } = Self::of_addresses(bounds);
        for lane in places.exact_lanes().into_iter().flatten() {
            if bounds.low.as_flattened()[lane] == bounds.high.as_flattened()[lane] {
                care.as_flattened_mut()[lane] = 0xffff;
            }
        }
        Self { care }
    }

    /// The shape of the addresses alone.
    pub(crate) fn of_addresses(bounds: &LaneBox<B>) -> Self {
        let places = const { places(B) };
        let (source, destination) = places.address_lanes();
        let mut care = [[0; WIDTH]; B];
        for lanes in [source, destination] {
            for &lane in lanes {
                let differs = bounds.low.as_flattened()[lane] ^ bounds.high.as_flattened()[lane];
                care.as_flattened_mut()[lane] = match differs {
                    0 => 0xffff,
                    1..=0xff => 0xff00,
                    _ => 0,
                };
            }
        }
        Self { care }
    }

    /// The hash of the bits that count.
    pub(crate) fn hash(&self, lanes: &[[u16; WIDTH]; B], hasher: &ahash::RandomState) -> u64 {
        let mut words = [[0u128; 2]; 2];
        for (block, (care, lanes)) in self.care.iter().zip(lanes).enumerate() {
            for (lane, (care, value)) in care.iter().zip(lanes).enumerate() {
                words[block / 2][block % 2] |= u128::from(care & value) << (16 * lane);
            }
        }
        if B <= 2 { hasher.hash_one(words[0]) } else { hasher.hash_one(words) }
    }
}

/// A hash with a key of its own: attackers choose headers and may choose rules.
pub(crate) fn keyed_at_random() -> ahash::RandomState {
    // But loom tries the same again and again, and wants it to be the same.
    let seed = if cfg!(loom) { 7 } else { RandomState::new().hash_one(0u8) };
    ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(13), 11)
}
