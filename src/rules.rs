//! Numbers for rules that outlive the program they came from: an event may be read, and a
//! connection may end, long after the policies that allowed it were replaced.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use portcullis_dataplane::pipeline;
use portcullis_dataplane::verdict::RuleId;
use portcullis_policy::model::{Direction, Origin, PolicyName};
use portcullis_policy::{self as policy, Program, RuleInfo};

use crate::select::{Mirrored, Rates, RuleName, Selected};

/// What makes a rule the same rule in another program.
type Key = (PolicyName, Direction, Option<u32>, Origin);

/// All rules ever loaded, in any zone, by number. Grows with the number of different rules, not with
/// reloads.
#[derive(Debug)]
pub(crate) struct Book {
    known: HashMap<Key, RuleId>,
    infos: Vec<Arc<RuleInfo>>,
    selected: Selected,
}

/// The numbers of one zone's rules.
#[derive(Debug)]
pub(crate) struct Rules {
    book: Arc<Mutex<Book>>,
    /// The numbers of the last program, and the numbering they translate.
    numbers: Arc<[RuleId]>,
    numbering: Option<u64>,
}

impl Rules {
    pub(crate) fn new(book: Arc<Mutex<Book>>) -> Self {
        Self { book, numbers: Arc::default(), numbering: None }
    }

    /// For each rule of the program, by its number there, the number here. What is said of rules that
    /// are new is in force when this returns. O(rules that are new).
    pub(crate) fn follow(&mut self, program: &Program) -> Arc<[RuleId]> {
        let count = program.rule_count();
        // Programs of one numbering only add rules at the end.
        let kept = match self.numbering == Some(program.numbering()) {
            true => self.numbers.len().min(count),
            false => 0,
        };
        if kept < count || kept < self.numbers.len() {
            let old = Arc::clone(&self.numbers);
            let mut book = self.book.lock();
            let new = (kept..count).map(|n| match program.rule(policy::RuleId(n as u32)) {
                Some(info) => book.number(info),
                None => RuleId::NONE,
            });
            self.numbers = old[..kept].iter().copied().chain(new).collect();
            book.selected.settle();
        }
        self.numbering = Some(program.numbering());
        Arc::clone(&self.numbers)
    }

    /// The book that the numbers are from.
    pub(crate) fn book(&self) -> Arc<Mutex<Book>> {
        Arc::clone(&self.book)
    }

    /// The rule of this number; `None` for [`RuleId::NONE`].
    pub(crate) fn info(&self, number: RuleId) -> Option<Arc<RuleInfo>> {
        self.book.lock().infos.get(number.get() as usize).cloned()
    }
}

impl Book {
    pub(crate) fn new(plane: Arc<pipeline::Engine>) -> Self {
        let selected = Selected::new(plane);
        Self { known: HashMap::new(), infos: Vec::new(), selected }
    }

    pub(crate) fn limit_rates(&mut self, rates: Rates) {
        self.selected.limit_rates(rates, &self.infos);
    }

    pub(crate) fn mirror(&mut self, mirrored: Option<Mirrored>) {
        self.selected.mirror(mirrored, &self.infos);
    }

    pub(crate) fn unknown(&self) -> Vec<RuleName> {
        self.selected.unknown(&self.infos)
    }

    fn number(&mut self, info: &RuleInfo) -> RuleId {
        let key = (info.policy.name.clone(), info.direction, info.index, info.origin.clone());
        let Self { known, infos, selected } = self;
        *known.entry(key).or_insert_with(|| {
            let number = RuleId::new(infos.len() as u32);
            infos.push(Arc::new(info.clone()));
            selected.loaded(number, info);
            number
        })
    }
}
