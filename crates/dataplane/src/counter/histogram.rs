//! How long something took, in a few buckets.

use std::time::Duration;

use super::Counter;

/// Upper bounds of the buckets, in microseconds; a last bucket takes what is longer.
pub const BOUNDS: [u64; 14] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000];

/// Durations by bucket. One writer, any readers.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    nanos: Counter,
}

impl Histogram {
    /// Counts one duration. For the one writer.
    #[inline]
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| nanos <= bound * 1000);
        self.buckets[bucket.unwrap_or(BOUNDS.len())].add(1);
        self.nanos.add(nanos);
    }

    /// How many durations each bucket has: those up to the bound of the same place in [`BOUNDS`] and
    /// above the one before, and the longer ones last.
    pub fn buckets(&self) -> [u64; BOUNDS.len() + 1] {
        std::array::from_fn(|n| self.buckets[n].get())
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let histogram = Histogram::default();
        for nanos in [0, 1_000, 1_001, 2_000, 100_000_000, 100_000_001] {
            histogram.record(Duration::from_nanos(nanos));
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets[0], buckets[1]), (2, 2));
        assert_eq!((buckets[13], buckets[14]), (1, 1));
        assert_eq!(histogram.sum(), Duration::from_nanos(200_004_002));
    }
}
