//! The rules between an endpoint and a peer, walked for a block of headers at once, against a tree.

use std::sync::RwLock;

use ahash::AHashMap;
use portcullis_identity_table::endpoint::NamedPort;

use super::Mismatch;
use super::rules::{NearRule, Ports, Rules, named};
use super::subject::{Cases, Subject};
use crate::compile::Compiler;
use crate::compile::resolve::{ResolvedPolicy, RuleId};
use crate::compile::trees::{Outcome, Ref};
use crate::flow::{Header, Verdict};
use crate::model::{Action, Direction, TierDefault};
use crate::parallel::in_parallel;
use crate::program::Program;

/// Headers that are walked at once.
pub(super) const BLOCK: usize = 512;
const WORDS: usize = BLOCK / 64;

/// A bit for each header of a block.
type Bits = [u64; WORDS];

/// Named ports at source and destination.
type NamedEnds = [Vec<NamedPort>; 2];

/// Some headers, and what rules and trees say of them.
pub(super) struct Block<'b> {
    headers: &'b [Header],
    /// All headers there are.
    all: Bits,
    /// What rules mean that look up no port by name.
    conditions: AHashMap<RuleId, Bits>,
    /// What those mean that do, for the ports they ask for.
    named_conditions: RwLock<AHashMap<(RuleId, NamedEnds), Bits>>,
    trees: AHashMap<Ref, Answers>,
    /// The sides of outcomes that are compared, by their number.
    enforced: Vec<(Verdict, RuleId)>,
    staged: Vec<(Verdict, RuleId)>,
}

/// What a tree says.
struct Answers {
    /// Numbers of outcomes, by header.
    outcomes: Box<[u32]>,
    /// Where the outcome is logged.
    log: Bits,
    /// A leaf whose bits are not those of its outcome.
    wrong: Option<usize>,
}

/// Which side of outcomes a walk is compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Enforced policies alone.
    Enforced,
    /// Staged policies too.
    Staged,
    /// Either: there are no staged policies.
    Both,
}

impl<'b> Block<'b> {
    pub(super) fn new(
        headers: &'b [Header],
        subjects: &[Subject<'_>],
        trees: &[Ref],
        program: &Program,
        threads: usize,
    ) -> Self {
        let mut all = [0; WORDS];
        (0..headers.len()).for_each(|at| set(&mut all, at));
        let mut rules: AHashMap<RuleId, &NearRule<'_>> = AHashMap::new();
        for rule in subjects.iter().flat_map(Subject::rules).filter(|rule| !rule.asks_names()) {
            rules.insert(rule.id, rule);
        }
        let rules: Vec<_> = rules.into_values().collect();
        let conditions = in_parallel(threads, &rules, |rule| {
            Ok::<_, Mismatch>((rule.id, condition(rule, headers, &NamedEnds::default())))
        });
        let answers = in_parallel(threads, trees, |&tree| {
            Ok::<_, Mismatch>((tree, Answers::of(tree, headers, program)))
        });
        let outcomes = program.trees.outcomes.iter();
        Self {
            headers,
            all,
            conditions: conditions.unwrap_or_default().into_iter().collect(),
            named_conditions: RwLock::default(),
            trees: answers.unwrap_or_default().into_iter().collect(),
            enforced: outcomes.clone().map(|o| (o.verdict, o.rule)).collect(),
            staged: outcomes.map(|o| o.staged).collect(),
        }
    }

    /// All cases of one endpoint.
    pub(super) fn check(
        &self,
        subject: &Subject<'_>,
        cases: &Cases,
        program: &Program,
        compiler: &Compiler,
    ) -> Result<(), Mismatch> {
        let rules: Vec<&NearRule<'_>> = subject.rules().collect();
        let mut staged = subject.tiers.iter().flat_map(|tier| &tier.policies);
        let sides: &[Side] = if staged.any(|(policy, _)| policy.is_staged()) {
            &[Side::Enforced, Side::Staged]
        } else {
            &[Side::Both]
        };
        // What rules mean whoever the peer is, and what they mean for each distinct list of its ports.
        let far = usize::from(subject.direction == Direction::Egress);
        let whoever = rules
            .iter()
            .map(|rule| rule.names[far].is_empty().then(|| self.condition(rule, subject, &[])));
        let whoever: Vec<Option<Bits>> = whoever.collect();
        let mut conditions: Vec<Option<Vec<Bits>>> = vec![None; cases.distinct_ports.len()];
        let mut last: Option<(Ref, &Answers)> = None;
        for case in 0..cases.count() {
            let tree = cases.trees[case];
            let answers = match last {
                Some((known, answers)) if known == tree => answers,
                _ => &self.trees[&tree],
            };
            last = Some((tree, answers));
            let far_ports = &cases.distinct_ports[cases.ports(case)];
            let conditions = conditions[cases.ports(case)].get_or_insert_with(|| {
                let condition = |(rule, known): (&&NearRule<'_>, &Option<Bits>)| {
                    known.unwrap_or_else(|| self.condition(rule, subject, far_ports))
                };
                rules.iter().zip(&whoever).map(condition).collect()
            });
            let wrong = answers.wrong.or_else(|| {
                let mut sides = sides.iter();
                sides.find_map(|&side| {
                    self.walk(subject, &rules, cases.bits(case), conditions, answers, side)
                })
            });
            if let Some(at) = wrong {
                let bits = cases.bits(case);
                let holds = |r: usize| bits[r / 64] >> (r % 64) & 1 == 1;
                let ends = ends(subject, far_ports);
                let policies = Rules { tiers: &subject.tiers, holds: &holds, ports: ends }
                    .outcome(&self.headers[at]);
                let outcome = program.trees.outcomes[answers.outcomes[at] as usize];
                return Err(Mismatch::Decision {
                    case: subject.case(cases.peers[case], compiler),
                    header: self.headers[at],
                    program: Box::new(outcome),
                    policies: Box::new(policies),
                });
            }
        }
        Ok(())
    }

    fn condition(
        &self,
        rule: &NearRule<'_>,
        subject: &Subject<'_>,
        far_ports: &[NamedPort],
    ) -> Bits {
        if let Some(known) = self.conditions.get(&rule.id) {
            return *known;
        }
        let [source, destination] = ends(subject, far_ports);
        let ports = [named(source.0, &rule.names[0]), named(destination.0, &rule.names[1])];
        let key = (rule.id, ports);
        let known = self.named_conditions.read().ok().and_then(|all| all.get(&key).copied());
        known.unwrap_or_else(|| {
            let bits = condition(rule, self.headers, &key.1);
            if let Ok(mut all) = self.named_conditions.write() {
                all.insert(key, bits);
            }
            bits
        })
    }

    /// The tiers in order, as [`crate::model`] says, for all headers of the block. The first header of
    /// which the tree says something else.
    fn walk(
        &self,
        subject: &Subject<'_>,
        rules: &[&NearRule<'_>],
        holds: &[u64],
        conditions: &[Bits],
        answers: &Answers,
        side: Side,
    ) -> Option<usize> {
        let counts = |policy: &ResolvedPolicy| side != Side::Enforced || !policy.is_staged();
        // Headers that nothing decided yet; those that a Log rule matched; those that it did before
        // they were decided.
        let (mut undecided, mut seen, mut logged) = (self.all, [0; WORDS], [0; WORDS]);
        let mut place = 0;
        for tier in &subject.tiers {
            let first = place;
            place += tier.rules.len();
            let Some((_, end)) = tier.policies.iter().find(|(policy, _)| counts(policy)) else {
                continue;
            };
            // Headers that no rule has passed on.
            let mut here = undecided;
            for r in ones(holds, first..place) {
                let rule = rules[r];
                if !counts(rule.policy) {
                    continue;
                }
                let hit = and(&here, &conditions[r]);
                if hit == [0; WORDS] {
                    continue;
                }
                match rule.action {
                    Action::Log => or(&mut seen, &hit),
                    Action::Pass => remove(&mut here, &hit),
                    Action::Allow | Action::Deny => {
                        let deny = rule.action == Action::Deny;
                        let verdict = if deny { Verdict::Deny } else { Verdict::Allow };
                        if let Some(at) = self.differs(&hit, (verdict, rule.id), answers, side) {
                            return Some(at);
                        }
                        or(&mut logged, &and(&hit, &seen));
                        remove(&mut here, &hit);
                        remove(&mut undecided, &hit);
                    }
                }
            }
            if tier.default_action == TierDefault::Deny {
                if let Some(at) = self.differs(&here, (Verdict::Deny, *end), answers, side) {
                    return Some(at);
                }
                or(&mut logged, &and(&here, &seen));
                remove(&mut undecided, &here);
            }
        }
        if let Some(at) = self.differs(&undecided, (Verdict::Allow, RuleId::NONE), answers, side) {
            return Some(at);
        }
        or(&mut logged, &and(&undecided, &seen));
        if side == Side::Staged {
            return None;
        }
        (0..WORDS).find_map(|word| {
            let wrong = logged[word] ^ answers.log[word];
            (wrong != 0).then(|| word * 64 + wrong.trailing_zeros() as usize)
        })
    }

    /// The first of some headers that the tree decides otherwise.
    fn differs(
        &self,
        some: &Bits,
        want: (Verdict, RuleId),
        answers: &Answers,
        side: Side,
    ) -> Option<usize> {
        for (word, &bits) in some.iter().enumerate() {
            let mut left = bits;
            while left != 0 {
                let at = word * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                let outcome = answers.outcomes[at] as usize;
                let enforced = side == Side::Staged || self.enforced[outcome] == want;
                let staged = side == Side::Enforced || self.staged[outcome] == want;
                if !enforced || !staged {
                    return Some(at);
                }
            }
        }
        None
    }
}

impl Answers {
    /// Asks lookups.
    fn of(tree: Ref, headers: &[Header], program: &Program) -> Self {
        let trees = &program.trees;
        let (mut log, mut wrong) = ([0; WORDS], None);
        let outcomes = headers.iter().enumerate().map(|(at, header)| {
            let leaf = trees.walk(tree, header);
            let Outcome { verdict, rule, log: logged, staged } = *trees.outcome(leaf);
            if logged {
                set(&mut log, at);
            }
            // The bits of a leaf are read more often than its outcome.
            let right = leaf.is_deny() == (verdict == Verdict::Deny)
                && leaf.is_log() == logged
                && leaf.is_staged() == (staged != (verdict, rule));
            if !right {
                wrong.get_or_insert(at);
            }
            leaf.index() as u32
        });
        let outcomes = outcomes.collect();
        Self { outcomes, log, wrong }
    }
}

/// The named ports at source and destination.
fn ends<'p>(subject: &'p Subject<'_>, far_ports: &'p [NamedPort]) -> [Ports<'p>; 2] {
    match subject.direction {
        Direction::Ingress => [Ports(far_ports), Ports(&subject.near_ports)],
        Direction::Egress => [Ports(&subject.near_ports), Ports(far_ports)],
    }
}

/// The headers that a rule means.
fn condition(rule: &NearRule<'_>, headers: &[Header], [source, destination]: &NamedEnds) -> Bits {
    let (source, destination) = (Ports(source), Ports(destination));
    let mut bits = [0; WORDS];
    for (at, header) in headers.iter().enumerate() {
        if rule.traffic.iter().any(|t| t.matches(header, &source, &destination)) {
            set(&mut bits, at);
        }
    }
    bits
}

/// Places within a range at which bits are set.
fn ones(bits: &[u64], range: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        while at < range.end {
            let left = bits[at / 64] >> (at % 64);
            if left == 0 {
                at = (at / 64 + 1) * 64;
                continue;
            }
            at += left.trailing_zeros() as usize + 1;
            return (at <= range.end).then_some(at - 1);
        }
        None
    })
}

fn set(bits: &mut Bits, at: usize) {
    bits[at / 64] |= 1 << (at % 64);
}

fn and(a: &Bits, b: &Bits) -> Bits {
    std::array::from_fn(|word| a[word] & b[word])
}

fn or(bits: &mut Bits, more: &Bits) {
    bits.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
}

fn remove(bits: &mut Bits, gone: &Bits) {
    bits.iter_mut().zip(gone).for_each(|(word, gone)| *word &= !gone);
}
