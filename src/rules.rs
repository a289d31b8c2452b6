//! Numbers for rules that outlive the program they came from: an event may be read, and a
//! connection may end, long after the policies that allowed it were replaced.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_dataplane::verdict::RuleId;
use portcullis_policy::model::{Direction, Origin, PolicyName};
use portcullis_policy::{self as policy, Program, RuleInfo};

/// What makes a rule the same rule in another program.
type Key = (PolicyName, Direction, Option<u32>, Origin);

/// All rules ever loaded, by number. Grows with the number of different rules, not with reloads.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    known: HashMap<Key, RuleId>,
    infos: Vec<RuleInfo>,
    numbers: Arc<[RuleId]>,
}

impl Rules {
    /// Learns the rules of a program. O(rules).
    pub(crate) fn follow(&mut self, program: &Program) {
        self.numbers = (0..program.rule_count())
            .map(|n| program.rule(policy::RuleId(n as u32)))
            .map(|info| info.map_or(RuleId::NONE, |info| self.number(info)))
            .collect();
    }

    /// For each rule of the last program, by its number there, the number here.
    pub(crate) fn numbers(&self) -> Arc<[RuleId]> {
        Arc::clone(&self.numbers)
    }

    /// The rule of this number; `None` for [`RuleId::NONE`].
    pub(crate) fn info(&self, number: RuleId) -> Option<&RuleInfo> {
        self.infos.get(number.get() as usize)
    }

    fn number(&mut self, info: &RuleInfo) -> RuleId {
        let key = (info.policy.name.clone(), info.direction, info.index, info.origin.clone());
        *self.known.entry(key).or_insert_with(|| {
            self.infos.push(info.clone());
            RuleId::new((self.infos.len() - 1) as u32)
        })
    }
}
