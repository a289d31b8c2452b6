//! Which compiled rules have been deleted since they were compiled.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Which rules of a base have been deleted since it was compiled. Bits are set, never cleared.
#[derive(Debug)]
pub(super) struct Deleted {
    bits: Box<[AtomicU64]>,
    count: AtomicU32,
}

impl Deleted {
    /// None of `rules` rules.
    pub(super) fn none(rules: usize) -> Self {
        let bits = (0..rules.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { bits, count: AtomicU32::new(0) }
    }

    /// The same rules, apart from what is deleted from now on.
    pub(super) fn copy(&self) -> Self {
        let bits = self.bits.iter().map(|bits| AtomicU64::new(bits.load(Ordering::Acquire)));
        Self { bits: bits.collect(), count: AtomicU32::new(self.count.load(Ordering::Acquire)) }
    }

    /// Marks a rule. Lookups that start later do not find it; those that see the mark see
    /// everything that was written before.
    pub(super) fn mark(&self, place: usize) {
        let bit = 1 << (place % 64);
        if self.bits[place / 64].fetch_or(bit, Ordering::Release) & bit == 0 {
            self.count.fetch_add(1, Ordering::Release);
        }
    }

    /// How many are marked.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire) as usize
    }

    /// Whether a rule is marked.
    #[inline]
    pub(super) fn holds(&self, place: usize) -> bool {
        self.bits[place / 64].load(Ordering::Acquire) >> (place % 64) & 1 == 1
    }

    pub(super) fn memory_usage(&self) -> usize {
        size_of_val(&*self.bits)
    }
}
