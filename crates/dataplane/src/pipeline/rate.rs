//! Token buckets for packets: of each rule that has one, and of each identity.
//!
//! A bucket is one number that all workers share, the time at which it will be full again (the
//! "virtual scheduling" form of the generic cell rate algorithm, ITU-T I.371): whoever takes a
//! token moves that time on. There is nothing to refill, so a bucket that nobody uses costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_identity_table::IdentityId;

use super::judgement::{Input, Judgement, State};
use crate::clock::Time;
use crate::reason::Reason;
use crate::verdict::{RuleId, Verdict};

/// How many packets may pass. See [`super::Engine::limit_rates`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimits {
    /// Of the connections that each identity opened, both ways: every identity has a bucket of its
    /// own. (Identities whose numbers differ by a multiple of 1,048,576 share one.)
    pub identity: Option<PacketRate>,
    /// Of the connections that a rule allowed, both ways; all connections of a rule share its
    /// bucket. A rule that is named twice has the last rate.
    pub rules: Vec<(RuleId, PacketRate)>,
}

/// A rate, and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketRate {
    /// What is counted.
    pub unit: Unit,
    /// Packets or bytes a second, on average; 0 lets nothing pass.
    pub per_second: u64,
    /// Packets or bytes that may pass at once after a silence. Bytes: at least those of the longest
    /// packet, or that never passes.
    pub burst: u64,
}

/// What a [`PacketRate`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Packets.
    Packets,
    /// Bytes of frames, Ethernet header included.
    Bytes,
}

/// Buckets of identities: 8 bytes each, of which memory is taken for those in use.
const IDENTITIES: usize = 1 << 20;

/// Parts of a nanosecond in which buckets count, so that rates of many gigabytes are exact enough.
/// The clock lasts for 36 years.
const PARTS: u64 = 16;

/// How often a token is tried for while other workers take some.
const TRIES: usize = 8;

/// The buckets of some [`RateLimits`].
#[derive(Debug)]
pub(super) struct Buckets {
    /// By number of the rule.
    rules: Vec<(RuleId, PacketRate, Bucket)>,
    identities: Option<(PacketRate, Box<[Bucket]>)>,
}

/// When it will be full again, in parts of a nanosecond.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Buckets {
    /// Full buckets; `None` if nothing is limited.
    pub(super) fn new(limits: RateLimits) -> Option<Self> {
        let RateLimits { identity, mut rules } = limits;
        // Of equal numbers the last stays first, and the others go.
        rules.reverse();
        rules.sort_by_key(|(rule, _)| *rule);
        rules.dedup_by_key(|(rule, _)| *rule);
        let rules: Vec<_> =
            rules.into_iter().map(|(rule, rate)| (rule, rate, Bucket::default())).collect();
        let buckets = || (0..IDENTITIES).map(|_| Bucket::default()).collect();
        let identities = identity.map(|rate| (rate, buckets()));
        (identities.is_some() || !rules.is_empty()).then_some(Self { rules, identities })
    }

    /// Refuses packets of a batch for which there is no token. A packet that its rule's bucket
    /// refuses takes none of its identity's.
    pub(super) fn limit(&self, now: Time, inputs: &[Input<'_>], out: &mut [Judgement]) {
        for (input, judgement) in inputs.iter().zip(out) {
            let nobodys = judgement.state == State::None && judgement.rule == RuleId::NONE;
            if judgement.verdict != Verdict::Allow || nobodys {
                continue;
            }
            let bytes = input.wire_len as u64;
            if !self.rule(now, judgement.rule, bytes)
                || !self.identity(now, judgement.source, bytes)
            {
                judgement.verdict = Verdict::Deny;
                judgement.reason = Some(Reason::RateLimit);
            }
        }
    }

    fn rule(&self, now: Time, rule: RuleId, bytes: u64) -> bool {
        match self.rules.binary_search_by_key(&rule, |(rule, ..)| *rule) {
            Ok(at) => self.rules[at].2.take(now, &self.rules[at].1, bytes),
            Err(_) => true,
        }
    }

    fn identity(&self, now: Time, identity: IdentityId, bytes: u64) -> bool {
        let Some((rate, buckets)) = &self.identities else { return true };
        buckets[identity.get() as usize % IDENTITIES].take(now, rate, bytes)
    }
}

impl Bucket {
    /// Takes what a packet of this many bytes costs; `false` if there is not enough.
    fn take(&self, now: Time, rate: &PacketRate, bytes: u64) -> bool {
        let cost = match rate.unit {
            Unit::Packets => 1,
            Unit::Bytes => bytes,
        };
        let time = |units: u64| {
            let parts = u128::from(units) * u128::from(1_000_000_000 * PARTS);
            parts.checked_div(rate.per_second.into()).map(u64::try_from)
        };
        let (Some(cost), Some(burst)) = (time(cost), time(rate.burst)) else { return false };
        let Ok(cost) = cost else { return false };
        let burst = burst.unwrap_or(u64::MAX);
        let now = now.as_nanos().saturating_mul(PARTS);
        let mut full = self.0.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let Some(after) = full.max(now).checked_add(cost) else { return false };
            if after - now > burst {
                return false;
            }
            let exchanged =
                self.0.compare_exchange(full, after, Ordering::Relaxed, Ordering::Relaxed);
            match exchanged {
                Ok(_) => return true,
                Err(other) => full = other,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packets(per_second: u64, burst: u64) -> PacketRate {
        PacketRate { unit: Unit::Packets, per_second, burst }
    }

    /// The same with tokens that come back bit by bit, in exact numbers.
    struct Plain {
        /// Billionths of tokens.
        tokens: u128,
        at: u64,
    }

    impl Plain {
        fn take(&mut self, now: u64, rate: &PacketRate, cost: u64) -> bool {
            const WHOLE: u128 = 1_000_000_000;
            let back = u128::from(now - self.at) * u128::from(rate.per_second);
            self.at = now;
            self.tokens = (self.tokens + back).min(u128::from(rate.burst) * WHOLE);
            let enough = self.tokens >= u128::from(cost) * WHOLE;
            if enough {
                self.tokens -= u128::from(cost) * WHOLE;
            }
            enough
        }
    }

    proptest! {
        #[test]
        fn as_with_tokens(
            // Rates that divide a part of a nanosecond, so that both are exact.
            exponents in (0..10u32, 0..6u32),
            burst in 1..5000u64,
            by_bytes: bool,
            steps in proptest::collection::vec((0..40_000_000u64, 1..1500u64), 1..200),
        ) {
            let per_second = 2u64.pow(exponents.0) * 5u64.pow(exponents.1);
            let unit = if by_bytes { Unit::Bytes } else { Unit::Packets };
            let rate = PacketRate { unit, per_second, burst };
            let bucket = Bucket::default();
            let mut plain = Plain { tokens: u128::from(burst) * 1_000_000_000, at: 0 };
            let mut now = 0;
            for (passed, bytes) in steps {
                now += passed;
                let cost = if by_bytes { bytes } else { 1 };
                let expected = plain.take(now, &rate, cost);
                prop_assert_eq!(bucket.take(Time::from_nanos(now), &rate, bytes), expected);
            }
        }
    }

    #[test]
    fn nothing_passes_at_no_rate_and_extremes_do_not_overflow() {
        let largest = PacketRate { unit: Unit::Bytes, per_second: u64::MAX, burst: u64::MAX };
        let rates = [(packets(0, 10), false), (packets(1, 0), false), (largest, true)];
        for (rate, passes) in rates {
            for now in [0, u64::MAX] {
                let bucket = Bucket::default();
                assert_eq!(bucket.take(Time::from_nanos(now), &rate, 1), passes, "{rate:?}");
            }
        }
        let slowest = PacketRate { unit: Unit::Bytes, per_second: 1, burst: u64::MAX };
        assert!(!Bucket::default().take(Time::from_nanos(0), &slowest, u64::MAX));
    }

    #[test]
    fn workers_together_get_what_the_bucket_has() {
        let rate = packets(1000, 500);
        let bucket = Bucket::default();
        let taken: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let times = (0..100_000u64).map(|n| Time::from_nanos(n * 10_000));
                        times.filter(|now| bucket.take(*now, &rate, 0)).count()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        // A second passes for each worker; their clocks differ as they are scheduled.
        assert!((1490..=1500).contains(&taken), "{taken}");
    }

    #[test]
    fn the_last_rate_of_a_rule_counts() {
        let (one, other) = (RuleId::new(1), RuleId::new(2));
        let mut limits = RateLimits::default();
        assert!(Buckets::new(limits.clone()).is_none());
        limits.rules = vec![(other, packets(1, 1)), (one, packets(1, 5)), (one, packets(1, 2))];
        let buckets = Buckets::new(limits).unwrap();
        let taken = |rule| (0..10).filter(|_| buckets.rule(Time::from_nanos(0), rule, 0)).count();
        assert_eq!((taken(one), taken(other), taken(RuleId::new(3))), (2, 1, 10));
    }
}
