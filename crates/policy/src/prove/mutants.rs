//! Planted miscompilations: every one that changes an answer is caught.

use std::sync::Arc;

use portcullis_identity_table::IdentityId;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::compile::grid::PAGE;
use crate::engine::Engine;
use crate::flow::Verdict;
use crate::program::{Decision, FlowKey, Program};
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
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 100 } else { 20_000 }))]

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
        if !mutate(&mut mutant, mutation, at, with) || engine.prove_program(&mutant).is_err() {
            return Ok(());
        }
        let keys: Vec<_> = random::flows().map(|flow| engine.key(&flow)).collect();
        prop_assert_eq!(answers(&mutant, &keys), answers(engine.program(), &keys));
    }
}

/// The property above would hold if nothing were ever caught and nothing ever changed an answer.
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
}
