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
    infos: Vec<Arc<RuleInfo>>,
    /// The numbers of the last program, and the numbering they translate.
    numbers: Arc<[RuleId]>,
    numbering: Option<u64>,
}

impl Rules {
    /// For each rule of the program, by its number there, the number here. O(rules that are new).
    pub(crate) fn follow(&mut self, program: &Program) -> Arc<[RuleId]> {
        let count = program.rule_count();
        // Programs of one numbering only add rules at the end.
        let kept = match self.numbering == Some(program.numbering()) {
            true => self.numbers.len().min(count),
            false => 0,
        };
        if kept < count || kept < self.numbers.len() {
            let old = Arc::clone(&self.numbers);
            let new = (kept..count).map(|n| match program.rule(policy::RuleId(n as u32)) {
                Some(info) => self.number(info),
                None => RuleId::NONE,
            });
            self.numbers = old[..kept].iter().copied().chain(new).collect();
        }
        self.numbering = Some(program.numbering());
        Arc::clone(&self.numbers)
    }

    /// Says that the next program is another engine's: its numbers mean something else.
    pub(crate) fn forget_program(&mut self) {
        (self.numbers, self.numbering) = (Arc::default(), None);
    }

    /// The rule of this number; `None` for [`RuleId::NONE`].
    pub(crate) fn info(&self, number: RuleId) -> Option<&Arc<RuleInfo>> {
        self.infos.get(number.get() as usize)
    }

    fn number(&mut self, info: &RuleInfo) -> RuleId {
        let key = (info.policy.name.clone(), info.direction, info.index, info.origin.clone());
        *self.known.entry(key).or_insert_with(|| {
            self.infos.push(Arc::new(info.clone()));
            RuleId::new((self.infos.len() - 1) as u32)
        })
    }
}
