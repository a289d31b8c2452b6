//! What each rule let pass and refused, by one worker.

use super::Counter;
use crate::verdict::RuleId;

/// Rules that are counted one by one. Rules are numbered in the order in which they were first
/// loaded; those with higher numbers are counted together.
pub const RULES: usize = 4096;

/// Packets and bytes by deciding rule.
#[derive(Debug)]
pub struct RuleCounters(Box<[RuleCounter]>);

/// Of one rule.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct RuleCounter {
    /// Packets that it let pass.
    pub passed: Counter,
    /// Bytes of these.
    pub passed_bytes: Counter,
    /// Packets of which it decided, and which did not pass.
    pub refused: Counter,
    /// Bytes of these.
    pub refused_bytes: Counter,
}

/// Whose packets a [`RuleCounter`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// Those of one rule.
    Rule(RuleId),
    /// Those of all rules numbered [`RULES`] and above.
    Others,
    /// Those of which no rule decided.
    NoRule,
}

impl Default for RuleCounters {
    fn default() -> Self {
        Self((0..RULES + 2).map(|_| RuleCounter::default()).collect())
    }
}

impl RuleCounters {
    /// The counter of a rule.
    #[inline]
    pub fn of(&self, rule: RuleId) -> &RuleCounter {
        &self.0[place(rule)]
    }

    /// Those that counted anything.
    pub fn used(&self) -> impl Iterator<Item = (Counted, &RuleCounter)> {
        let used = |count: &&RuleCounter| count.passed.get() + count.refused.get() > 0;
        let named = |(n, count)| {
            let counted = match n {
                RULES => Counted::Others,
                n if n > RULES => Counted::NoRule,
                n => Counted::Rule(RuleId::new(n as u32)),
            };
            (counted, count)
        };
        self.0.iter().enumerate().map(named).filter(move |(_, count)| used(count))
    }
}

#[inline]
fn place(rule: RuleId) -> usize {
    match rule {
        RuleId::NONE => RULES + 1,
        rule => (rule.get() as usize).min(RULES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_beyond_the_bound_share_one_counter() {
        let counters = RuleCounters::default();
        for number in [0, RULES as u32 - 1, RULES as u32, u32::MAX - 1] {
            counters.of(RuleId::new(number)).passed.add(1);
        }
        counters.of(RuleId::NONE).refused.add(1);
        let used: Vec<_> =
            counters.used().map(|(of, c)| (of, c.passed.get(), c.refused.get())).collect();
        let rule = |n| Counted::Rule(RuleId::new(n));
        assert_eq!(
            used,
            [
                (rule(0), 1, 0),
                (rule(RULES as u32 - 1), 1, 0),
                (Counted::Others, 2, 0),
                (Counted::NoRule, 0, 1),
            ]
        );
    }
}
