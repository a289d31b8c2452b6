//! The part of the header space that a place in a tree stands for: some bits are given, the others
//! are free.

use crate::lanes::{LaneBox, WIDTH};

/// A set of headers: those whose bits under `given` read as in `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region<const B: usize> {
    pub(crate) given: [[u16; WIDTH]; B],
    pub(crate) value: [[u16; WIDTH]; B],
}

impl<const B: usize> Region<B> {
    /// Every header.
    pub(crate) const ALL: Self = Self { given: [[0; WIDTH]; B], value: [[0; WIDTH]; B] };

    /// The part in which the bits `mask` of the window at lane `offset` read as `index`.
    pub(crate) fn child(&self, offset: usize, mut mask: u64, index: usize) -> Self {
        let mut child = *self;
        let mut index = index;
        while mask != 0 {
            let bit = mask.trailing_zeros() as usize;
            child.fix(offset + bit / 16, bit % 16, index & 1 == 1);
            mask &= mask - 1;
            index >>= 1;
        }
        child
    }

    /// Gives bit `bit` of lane `lane`.
    pub(crate) fn fix(&mut self, lane: usize, bit: usize, one: bool) {
        self.given.as_flattened_mut()[lane] |= 1 << bit;
        let value = &mut self.value.as_flattened_mut()[lane];
        *value = *value & !(1 << bit) | u16::from(one) << bit;
    }

    /// Whether lane `lane` of the region and of the box have a number in common.
    pub(crate) fn lane_meets(&self, lane: usize, bounds: &LaneBox<B>) -> bool {
        let given = self.given.as_flattened()[lane];
        let value = self.value.as_flattened()[lane];
        lane_meets(given, value, bounds.low.as_flattened()[lane], bounds.high.as_flattened()[lane])
    }

    /// Whether `outer` holds all headers of the region that lie in `inner` (all, without it).
    /// May say no when it is yes.
    pub(crate) fn covers(&self, outer: &LaneBox<B>, inner: Option<&LaneBox<B>>) -> bool {
        (0..B * WIDTH).all(|lane| {
            let (given, value) = (self.given.as_flattened()[lane], self.value.as_flattened()[lane]);
            let (mut low, mut high) = (value, value | !given);
            if let Some(inner) = inner {
                low = low.max(inner.low.as_flattened()[lane]);
                high = high.min(inner.high.as_flattened()[lane]);
            }
            outer.low.as_flattened()[lane] <= low && high <= outer.high.as_flattened()[lane]
        })
    }
}

/// Whether a number in `low..=high` reads as `value` under `given`.
#[inline]
pub(crate) fn lane_meets(given: u16, value: u16, low: u16, high: u16) -> bool {
    first_at_least(given, value, low).is_some_and(|first| first <= high)
}

/// The lowest number from `low` on that reads as `value` under `given`.
#[inline]
pub(crate) fn first_at_least(given: u16, value: u16, low: u16) -> Option<u16> {
    let differs = (low ^ value) & given;
    if differs == 0 {
        return Some(low);
    }
    // The highest given bit that is wrong in `low` decides.
    let top = 15 - differs.leading_zeros();
    let below = (1u32 << top) - 1;
    let (low, given, value) = (u32::from(low), u32::from(given), u32::from(value));
    if value >> top & 1 == 1 {
        // Setting it makes the number larger: everything below is as low as it may be.
        let number = low & !(below << 1 | 1) | 1 << top | value & below;
        return u16::try_from(number).ok();
    }
    // It must be cleared, so a higher free bit that is 0 must become 1.
    let free = !given & !low & 0xffff & !(below << 1 | 1);
    if free == 0 {
        return None;
    }
    let raise = free.trailing_zeros();
    let below = (1u32 << raise) - 1;
    let number = low & !below | 1 << raise | value & given & below;
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_at_least_agrees_with_search() {
        let mut seed = 1u64;
        for _ in 0..400 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let [given, value, low, ..] =
                [seed >> 48, seed >> 32, seed >> 16, seed].map(|word| (word & 0xffff) as u16);
            let value = value & given;
            let slow = (low..=u16::MAX).find(|number| number & given == value);
            assert_eq!(first_at_least(given, value, low), slow, "{given:#x} {value:#x} {low:#x}");
        }
    }

    #[test]
    fn children_split_a_region() {
        let child = Region::<1>::ALL.child(1, 0x8000_0001, 0b10);
        assert_eq!(child.given, [[0, 1, 0x8000, 0, 0, 0, 0, 0]]);
        assert_eq!(child.value, [[0, 0, 0x8000, 0, 0, 0, 0, 0]]);
        let all = LaneBox { low: [[0; 8]], high: [[u16::MAX; 8]] };
        assert!(child.covers(&all, None));
    }
}
