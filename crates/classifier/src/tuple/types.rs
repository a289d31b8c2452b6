//! How rules that come and go are named and ordered.

use std::num::NonZeroU64;

use crate::rule::RuleId;

/// The order of rules that come and go: the lowest wins; between equals, the rule that was
/// inserted first.
///
/// ```
/// use portcullis_classifier::RuleId;
/// use portcullis_classifier::tuple::Priority;
///
/// let [first, second] = [0, 1].map(|index| Priority::of(RuleId::new(index).unwrap()));
/// let between = Priority::between(first, second).unwrap();
/// assert!(first < between && between < second);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Priority(u64);

impl Priority {
    /// A priority by its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The priority that a rule of a rule set has: its place times 2^32 and half a step, so that
    /// there is room before, between and behind.
    #[must_use]
    pub fn of(id: RuleId) -> Self {
        Self(u64::from(id.as_u32()) << 32 | 1 << 31)
    }

    /// A priority between two, if there is one.
    #[must_use]
    pub const fn between(low: Self, high: Self) -> Option<Self> {
        if high.0 <= low.0 || high.0 - low.0 < 2 {
            return None;
        }
        Some(Self(low.0 + (high.0 - low.0) / 2))
    }

    /// The number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// The name of a rule that may come and go: a number that one classifier never uses twice.
///
/// ```
/// use portcullis_classifier::tuple::{Match, RuleHandle};
///
/// assert_eq!(RuleHandle::new(7).as_u64(), 7);
/// assert_eq!(size_of::<Option<Match>>(), 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct RuleHandle(NonZeroU64);

impl RuleHandle {
    /// A handle by its number, which is below `u64::MAX`; that one counts as the one before.
    #[inline]
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(number))
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0.get() - 1
    }
}

/// What a lookup found.
///
/// ```
/// use portcullis_classifier::{Header, Rule, RuleSet, meta, tuple::{Match, RuleHandle}};
///
/// let rules = RuleSet::new(vec![Rule::any(7)]).unwrap();
/// let meta = meta::Builder::new().build(&rules).unwrap();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// assert_eq!(meta.lookup(&header), Some(Match { rule: RuleHandle::new(0), action: 7 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match {
    /// Which rule.
    pub rule: RuleHandle,
    /// The rule's action.
    pub action: u32,
}
