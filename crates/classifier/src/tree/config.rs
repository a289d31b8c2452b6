//! Settings of the `tree` engine.

use std::time::Duration;

use crate::simd::Instructions;

/// Settings of the [`Tree`](super::Tree) engine. Every knob has a default.
///
/// ```
/// use portcullis_classifier::{tree, Rule, RuleSet};
///
/// let config = tree::Config::default().size_limit(64);
/// let rules = RuleSet::new((0..100).map(|port| {
///     Rule::any(0).destination_ports(portcullis_classifier::PortRange::exact(port))
/// }).collect()).unwrap();
/// assert!(tree::Builder::new().configure(config).build(&rules).is_err(), "64 bytes are too few");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub(super) size_limit: usize,
    pub(super) time_limit: Duration,
    pub(super) touch_limit: usize,
    pub(super) instructions: Option<Instructions>,
}

impl Default for Config {
    /// 64 MiB, 10 seconds, 256 cache lines a lookup, the best instructions there are.
    fn default() -> Self {
        Self {
            size_limit: 64 << 20,
            time_limit: Duration::from_secs(10),
            touch_limit: 256,
            instructions: None,
        }
    }
}

impl Config {
    /// Bytes that the compiled form may take, for each address family. A build that would exceed them stops there.
    #[must_use]
    pub fn size_limit(self, bytes: usize) -> Self {
        Self { size_limit: bytes, ..self }
    }

    /// How long a build may take, in wall-clock time.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        Self { time_limit: limit, ..self }
    }

    /// Cache lines (64 bytes) that a lookup may touch in the worst case. Rules that cannot be
    /// compiled to that are refused.
    #[must_use]
    pub fn touch_limit(self, lines: usize) -> Self {
        Self { touch_limit: lines, ..self }
    }

    /// Walks with these instructions. Those that the processor lacks fall back to the best it has.
    #[must_use]
    pub fn instructions(self, instructions: Instructions) -> Self {
        Self { instructions: Some(instructions), ..self }
    }
}

/// What the builder tries several values of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Rules that a leaf should hold at most.
    pub(super) leaf_rules: usize,
    /// Table entries a rule.
    pub(super) space: f64,
    /// Index bits of a table at most.
    pub(super) most_bits: usize,
    /// A further bit must leave at most this part of the work.
    pub(super) least_gain: f64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { leaf_rules: 4, space: 4.0, most_bits: 16, least_gain: 0.98 }
    }
}
