//! Replaced beside other changes, in every order of steps, against the same changes with the lock
//! held throughout.

use proptest::prelude::*;

use portcullis_identity_table::endpoint::{ClusterState, Endpoint};
use portcullis_policy::{Flow, Source, parse_policies};

use super::*;
use crate::Engine;

const NAME: &str = "GlobalNetworkSet//feed";

/// Addresses within the feed are denied, those of the inner block from the feed too unless the pod
/// is a guest.
const POLICIES: &str = "
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: feed, labels: {kind: feed}}, spec: {nets: [10.9.0.0/16]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: threats},
 spec: {selector: \"app != 'guest'\", types: [Ingress],
  ingress: [{action: Deny, source: {selector: \"kind == 'feed'\"}}, {action: Deny, source: {nets: [10.0.0.4/30]}}, {action: Allow}]}}
";

/// Other changes of the engine, and what is staged.
#[derive(Clone, Debug)]
enum Change {
    Upsert(u8, u8, u8),
    Remove(u8),
    Apply,
    Stage,
    Unstage,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..4u8, 0..8u8, 0..3u8).prop_map(|(pod, at, app)| Change::Upsert(pod, at, app)),
        2 => (0..4u8).prop_map(Change::Remove),
        1 => Just(Change::Apply),
        1 => Just(Change::Stage),
        1 => Just(Change::Unstage),
    ]
}

fn address(at: u8) -> IpAddr {
    [10, 0, 0, at].into()
}

impl Change {
    fn make(&self, engine: &Engine) {
        let policies = || parse_policies(&[Source::new("p", POLICIES)]).unwrap().value;
        match *self {
            // An address that somebody else has is refused, on both sides.
            Self::Upsert(pod, at, app) => drop(engine.endpoints().upsert(Endpoint {
                labels: [("app", ["web", "guest", "db"][usize::from(app)])].into_iter().collect(),
                addresses: vec![address(at)],
                ..Endpoint::new("shop", &format!("pod-{pod}"))
            })),
            Self::Remove(pod) => {
                engine.endpoints().remove("shop", &format!("pod-{pod}")).unwrap();
            }
            Self::Apply => drop(engine.apply(engine.in_force().0, policies()).unwrap()),
            Self::Stage => engine.stage(policies()).unwrap(),
            Self::Unstage => drop(engine.unstage()),
        }
    }
}

fn any_prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let prefix = (0..16u8, 28..=32u8).prop_map(|(at, len)| IpNet::new(address(at), len).unwrap());
    let everything = Just(IpNet::new(address(0), 0).unwrap());
    prop::collection::vec(prop_oneof![9 => prefix, 1 => everything], 0..6)
}

/// Has the set replaced, with the changes made between its steps; whether it came to its end.
fn beside(engine: &Engine, whose: Whose, prefixes: &Arc<[IpNet]>, changes: [&[Change]; 2]) -> bool {
    let make = |at: usize| changes[at].iter().for_each(|change| change.make(engine));
    let shared = &*engine.0;
    let draft = with(shared, whose, |control, _| control.draft_feed(NAME, prefixes));
    make(0);
    let announced = match draft {
        Some(Ok(Step::Done(draft))) => {
            let change = draft.build();
            with(shared, whose, |c, now| c.announce_feed(now, change))
        }
        _ => None,
    };
    make(1);
    let Some(Ok(Step::Done(announced))) = announced else { return false };
    let built = announced.build().unwrap_or_else(|failed| panic!("{}", failed.1));
    let finished = with(shared, whose, |c, now| c.finish_feed(now, NAME, built));
    matches!(finished, Some(Ok(Step::Done(_))))
}

/// What the staged policies say of a flow.
fn staged(engine: &Engine, flow: &Flow) -> String {
    let control = engine.0.control.lock();
    let verdict = control.staged().map(|staged| staged.engine().evaluate(flow).verdict);
    format!("{flow:?} staged {verdict:?}")
}

/// What packets meet: the verdicts of everybody to everybody, and the staged ones.
fn everything(engine: &Engine) -> Vec<String> {
    let ends = || (0..9).map(address).chain(["10.9.1.1".parse().unwrap()]);
    let pairs = ends().flat_map(|a| ends().map(move |b| (a, b)));
    let flows: Vec<_> = pairs.map(|(a, b)| Flow::new(a, b, 6, (40000, 80))).collect();
    let mut judged = vec![Default::default(); flows.len()];
    engine.judge().flows(&flows, &mut judged);
    let in_words = |flow: &Flow| format!("{:?}", engine.evaluate(flow).verdict).to_lowercase();
    flows
        .iter()
        .zip(&judged)
        .map(|(flow, judged)| {
            assert_eq!(judged.verdict.as_str(), in_words(flow), "table and words: {flow:?}");
            format!("{:?} > {:?} {}", flow.source, flow.destination, judged.verdict.as_str())
        })
        .chain(flows.iter().map(|flow| staged(engine, flow)))
        .chain([format!("{:?} {:?}", engine.sets().list(), engine.staged())])
        .collect()
}

fn engine() -> Engine {
    let engine = Engine::new(Default::default()).unwrap();
    let policies = parse_policies(&[Source::new("p", POLICIES)]).unwrap().value;
    engine.apply(ClusterState::default(), policies).unwrap();
    engine
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 32 } else { 512 }))]
    #[test]
    fn beside_other_changes_as_with_the_lock_held(
        rounds in prop::collection::vec(
            (
                any::<bool>(),
                any_prefixes(),
                prop::array::uniform2(prop::collection::vec(any_change(), 0..4)),
            ),
            1..6,
        ),
    ) {
        let (engine, twin) = (engine(), engine());
        for (staged, prefixes, changes) in rounds {
            let whose = if staged { Whose::Staged } else { Whose::Live };
            let prefixes: Arc<[IpNet]> = prefixes.into();
            let done = beside(&engine, whose, &prefixes, changes.each_ref().map(|list| &list[..]));
            let mut changes = changes.iter().flatten();
            changes.clone().for_each(|change| change.make(&twin));
            if whose == Whose::Live {
                // Overtaken by whatever publishes a table of its own, and by nothing else.
                prop_assert_ne!(done, changes.any(|change| matches!(change, Change::Apply)));
            }
            if done {
                with(&twin.0, whose, |c, now| c.set_feed(now, NAME, &prefixes)).unwrap().unwrap();
            }
            let (left, right) = (everything(&engine), everything(&twin));
            let differ = left.iter().zip(&right).filter(|(a, b)| a != b);
            prop_assert_eq!(differ.collect::<Vec<_>>(), vec![]);
            engine.prove().unwrap();
        }
    }
}
