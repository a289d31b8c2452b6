//! Planted miscompilations: every one that changes an answer is caught.

use std::sync::Arc;

use portcullis_identity_table::{ClusterState, IdentityId};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::compile::grid::PAGE;
use crate::engine::Engine;
use crate::flow::Verdict;
use crate::model::{
    Action, Enforcement, IpVersion, PolicySet, PortSpec, ProtocolMatch, Rule, TierDefault,
};
use crate::program::{Decision, FlowKey, Program};
use crate::prove::Mismatch;
use crate::random;

/// A change of one number of a program.
#[derive(Clone, Copy, Debug)]
enum Mutation {
    /// A page, or the palette, of a row becomes another.
    Row,
    /// A place of a page becomes another place in the palette.
    Page,
    /// A tree of a palette becomes another tree.
    Palette,
    /// A reference or boundary of a node changes.
    Word,
    /// An entry of a root becomes another entry of a root.
    Root,
    /// A verdict is turned round.
    Verdict,
    /// A decision is put down to another rule.
    Rule,
    /// An identity gets another's row, class, node or pod.
    Record,
}

const MUTATIONS: [Mutation; 8] = [
    Mutation::Row,
    Mutation::Page,
    Mutation::Palette,
    Mutation::Word,
    Mutation::Root,
    Mutation::Verdict,
    Mutation::Rule,
    Mutation::Record,
];

/// Plants the mutation at a place; false if there is nothing to change.
fn mutate(program: &mut Program, mutation: Mutation, at: Index, with: Index) -> bool {
    fn other<T: Copy + PartialEq>(list: &mut [T], at: Index, with: Index) -> bool {
        if list.is_empty() {
            return false;
        }
        let (to, from) = (at.index(list.len()), with.index(list.len()));
        let changed = list[to] != list[from];
        list[to] = list[from];
        changed
    }
    let (trees, grid) = (Arc::make_mut(&mut program.trees), Arc::make_mut(&mut program.grid));
    match mutation {
        Mutation::Row => {
            let pages = (grid.pages.len() / PAGE) as u32;
            let rows = &mut grid.rows;
            if rows.is_empty() || pages < 2 {
                return false;
            }
            let to = at.index(rows.len());
            rows[to] = (rows[to] + 1 + with.index(pages as usize - 1) as u32) % pages;
            true
        }
        Mutation::Page => {
            // Small clusters use the first columns alone.
            let used: Vec<usize> =
                (0..grid.pages.len()).filter(|column| column % PAGE < 8).collect();
            if used.is_empty() {
                return false;
            }
            let place = &mut grid.pages[used[at.index(used.len())]];
            *place = (*place + 1 + with.index(2) as u16) % 3;
            true
        }
        Mutation::Palette => other(&mut grid.palettes, at, with),
        Mutation::Word if trees.words.is_empty() => false,
        Mutation::Word => {
            let to = at.index(trees.words.len());
            trees.words[to] = match with.index(3) {
                0 => trees.words[to].wrapping_add(1),
                1 => trees.words[to].wrapping_sub(1),
                _ => trees.words[with.index(trees.words.len())],
            };
            true
        }
        Mutation::Root if trees.roots.is_empty() => false,
        Mutation::Root => {
            let to = at.index(trees.roots.len());
            other(&mut trees.roots[to], at, with)
        }
        Mutation::Verdict | Mutation::Rule if trees.outcomes.is_empty() => false,
        Mutation::Verdict => {
            let to = at.index(trees.outcomes.len());
            let outcome = &mut trees.outcomes[to];
            outcome.verdict = match outcome.verdict {
                Verdict::Allow => Verdict::Deny,
                Verdict::Deny => Verdict::Allow,
            };
            true
        }
        Mutation::Rule => {
            let to = at.index(trees.outcomes.len());
            trees.outcomes[to].rule.0 += 1;
            true
        }
        Mutation::Record => {
            let first = IdentityId::FIRST_DYNAMIC.get() as usize;
            let Some(records) = program.records.get_mut(first..) else { return false };
            if records.is_empty() {
                return false;
            }
            let (to, from) = (at.index(records.len()), records[with.index(records.len())]);
            let record = &mut records[to];
            let before = *record;
            match at.index(5) {
                0 => record.ingress = from.ingress,
                1 => record.egress = from.egress,
                2 => record.class = from.class,
                3 => record.node = -record.node,
                _ => record.pod += 1,
            }
            *record != before
        }
    }
}

/// Whether the proof fails; its slow twin agrees, if not about the place.
fn is_caught(engine: &Engine, mutant: &Program) -> Result<bool, TestCaseError> {
    let proof = engine.prove_program(mutant);
    // The twin leaves records alone.
    if !matches!(proof, Err(Mismatch::Record { .. } | Mismatch::NoSay)) {
        prop_assert_eq!(proof.is_ok(), engine.prove_slowly(mutant).is_ok(), "{:?}", proof);
    }
    Ok(proof.is_err())
}

fn answers(program: &Program, keys: &[FlowKey]) -> Vec<(Decision, [Option<crate::Outcome>; 2])> {
    keys.iter()
        .map(|key| {
            let mut decision = program.decide_one(key);
            let outcomes =
                [decision.egress, decision.ingress].map(|id| id.map(|id| *program.outcome(id)));
            // The numbers of outcomes are the program's own affair.
            (decision.egress, decision.ingress) = (None, None);
            (decision, outcomes)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 20_000 }))]

    #[test]
    fn a_mutant_is_caught_or_changes_nothing(
        cluster in random::any_cluster(),
        policies in random::any_policies(),
        mutation in prop::sample::select(&MUTATIONS[..]),
        at in any::<Index>(),
        with in any::<Index>(),
    ) {
        let mut engine = Engine::default();
        let _ = engine.apply(cluster, policies).unwrap();
        let mut mutant = Program::clone(engine.program());
        if !mutate(&mut mutant, mutation, at, with) {
            return Ok(());
        }
        if is_caught(&engine, &mutant)? {
            return Ok(());
        }
        let keys: Vec<_> = random::flows().map(|flow| engine.key(&flow)).collect();
        prop_assert_eq!(answers(&mutant, &keys), answers(engine.program(), &keys));
    }
}

/// A mistake of a compiler: it reads something else than what is written.
#[derive(Clone, Copy, Debug)]
enum Misreading {
    /// An action becomes another.
    Action,
    /// A range of ports ends one port sooner or later, or begins so.
    Port,
    /// Another protocol, or IP version.
    Protocol,
    /// An ICMP type or code is not looked at.
    Icmp,
    /// One traffic of a rule is left out.
    Traffic,
    /// Two rules of a policy change places.
    Order,
    /// The end of a tier does something else.
    TierDefault,
    /// A staged policy is enforced, or the other way round.
    Staged,
    /// Source and destination of a rule are mixed up.
    Ends,
}

const MISREADINGS: [Misreading; 9] = [
    Misreading::Action,
    Misreading::Port,
    Misreading::Protocol,
    Misreading::Icmp,
    Misreading::Traffic,
    Misreading::Order,
    Misreading::TierDefault,
    Misreading::Staged,
    Misreading::Ends,
];

/// Changes one thing; false if there is nothing to change.
fn misread(set: &mut PolicySet, misreading: Misreading, at: Index, with: Index) -> bool {
    fn one<T>(mut list: Vec<&mut T>, at: Index, change: impl FnOnce(&mut T)) -> bool {
        let found = !list.is_empty();
        if found {
            change(list.swap_remove(at.index(list.len())));
        }
        found
    }
    if matches!(misreading, Misreading::TierDefault) {
        return one(set.tiers.iter_mut().collect(), at, |tier| {
            tier.default_action = match tier.default_action {
                TierDefault::Deny => TierDefault::Pass,
                TierDefault::Pass => TierDefault::Deny,
            };
        });
    }
    let policies = set.tiers.iter_mut().flat_map(|tier| &mut tier.policies);
    if matches!(misreading, Misreading::Staged) {
        return one(policies.collect(), at, |policy| {
            policy.enforcement = match policy.enforcement {
                Enforcement::Enforced => Enforcement::Staged,
                Enforcement::Staged => Enforcement::Enforced,
            };
        });
    }
    let lists = policies.flat_map(|p| [&mut p.ingress, &mut p.egress]).flatten();
    if matches!(misreading, Misreading::Order) {
        let lists = lists.filter(|rules| rules.len() > 1).collect();
        return one(lists, at, |rules: &mut Vec<Rule>| {
            let first = with.index(rules.len() - 1);
            rules.swap(first, first + 1);
        });
    }
    let rules = lists.flatten();
    match misreading {
        Misreading::Action => {
            return one(rules.collect(), at, |rule| {
                let actions = [Action::Allow, Action::Deny, Action::Pass, Action::Log];
                let others: Vec<_> = actions.into_iter().filter(|a| *a != rule.action).collect();
                rule.action = *with.get(&others);
            });
        }
        Misreading::Ends => {
            return one(rules.collect(), at, |rule| {
                std::mem::swap(&mut rule.source, &mut rule.destination);
            });
        }
        Misreading::Traffic => {
            let rules = rules.filter(|rule| rule.traffic.len() > 1).collect();
            return one(rules, at, |rule: &mut Rule| {
                rule.traffic.remove(with.index(rule.traffic.len()));
            });
        }
        _ => {}
    }
    let traffic = rules.flat_map(|rule| &mut rule.traffic);
    match misreading {
        Misreading::Protocol => one(traffic.collect(), at, |t| {
            if with.index(3) == 0 {
                t.ip_version = match t.ip_version {
                    Some(_) => None,
                    None => Some(IpVersion::V4),
                };
            } else {
                t.protocol = match t.protocol {
                    ProtocolMatch::Any => ProtocolMatch::Is(6),
                    ProtocolMatch::Is(n) => ProtocolMatch::Not(n),
                    ProtocolMatch::Not(_) => ProtocolMatch::Any,
                };
            }
        }),
        Misreading::Icmp => {
            let icmp = traffic.flat_map(|t| [&mut t.icmp, &mut t.not_icmp]).flatten();
            one(icmp.collect(), at, |icmp| {
                if with.index(2) == 0 { icmp.kind = None } else { icmp.code = None }
            })
        }
        _ => {
            let ports = traffic.flat_map(|t| [&mut t.source_ports, &mut t.destination_ports]);
            let specs = ports.flat_map(|ports| ports.any_of.iter_mut().chain(&mut ports.none_of));
            let ranges = specs.filter_map(|spec| match spec {
                PortSpec::Range(first, last) => Some((first, last)),
                PortSpec::Named(_) => None,
            });
            let ends = ranges.map(|(first, last)| if with.index(2) == 0 { first } else { last });
            one(ends.collect(), at, |end: &mut u16| {
                *end = if *end > 0 && at.index(2) == 0 { *end - 1 } else { end.saturating_add(1) };
            })
        }
    }
}

/// What a compiler that misreads would make of these policies, and what is then right; none if the
/// mistake does not show in policies alone.
fn miscompiled(
    cluster: ClusterState,
    policies: PolicySet,
    misreading: Misreading,
    at: Index,
    with: Index,
) -> Option<(Engine, Program)> {
    let mut misread_policies = policies.clone();
    if !misread(&mut misread_policies, misreading, at, with) {
        return None;
    }
    let (mut right, mut wrong) = (Engine::default(), Engine::default());
    let _ = right.apply(cluster.clone(), policies).unwrap();
    let _ = wrong.apply(cluster, misread_policies).unwrap();
    let same_identities = right.registry().table().eq(wrong.registry().table());
    let mutant = Program::clone(wrong.program());
    same_identities.then_some((right, mutant))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 20_000 }))]

    #[test]
    fn a_misreading_is_caught_or_changes_nothing(
        cluster in random::any_cluster(),
        policies in random::any_policies(),
        misreading in prop::sample::select(&MISREADINGS[..]),
        at in any::<Index>(),
        with in any::<Index>(),
    ) {
        let made = miscompiled(cluster, policies, misreading, at, with);
        let Some((engine, mutant)) = made else { return Ok(()) };
        if !is_caught(&engine, &mutant)? {
            let keys: Vec<_> = random::flows().map(|flow| engine.key(&flow)).collect();
            prop_assert_eq!(answers(&mutant, &keys), answers(engine.program(), &keys));
        }
    }
}

/// The properties above would hold if nothing were ever caught and nothing ever changed an answer.
#[test]
fn every_kind_of_mutant_is_caught() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut generate = || {
        let strategy = (random::any_cluster(), random::any_policies(), any::<(Index, Index)>());
        strategy.new_tree(&mut runner).unwrap().current()
    };
    for mutation in MUTATIONS {
        let caught = (0..300).filter(|_| {
            let (cluster, policies, (at, with)) = generate();
            let mut engine = Engine::default();
            let _ = engine.apply(cluster, policies).unwrap();
            let mut mutant = Program::clone(engine.program());
            mutate(&mut mutant, mutation, at, with) && engine.prove_program(&mutant).is_err()
        });
        assert!(caught.count() > 10, "{mutation:?}");
    }
    for misreading in MISREADINGS {
        let caught = (0..300).filter(|_| {
            let (cluster, policies, (at, with)) = generate();
            miscompiled(cluster, policies, misreading, at, with)
                .is_some_and(|(engine, mutant)| engine.prove_program(&mutant).is_err())
        });
        assert!(caught.count() > 3, "{misreading:?}");
    }
}
