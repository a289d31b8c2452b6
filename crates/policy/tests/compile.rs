//! The compiled program against the judge, who reads the model.

#[path = "common/random.rs"]
mod random;

use portcullis_identity_table::ClusterState;
use portcullis_identity_table::endpoint::Endpoint;
use portcullis_policy::judge::{Decider, DirectionDecision, Exemption, Judge};
use portcullis_policy::model::*;
use portcullis_policy::{Decision, Engine, OutcomeId, Reason, RuleId, Verdict};
use proptest::prelude::*;
use random::*;

/// The program's answer for one direction says what the judge says.
fn same_direction(
    engine: &Engine,
    got: Option<OutcomeId>,
    want: Option<DirectionDecision>,
    staged: Option<DirectionDecision>,
) -> Result<(), TestCaseError> {
    let (Some(got), Some(want), Some(staged)) = (got, want, staged) else {
        prop_assert_eq!(got.is_some(), want.is_some());
        return Ok(());
    };
    let got = *engine.program().outcome(got);
    prop_assert_eq!(got.verdict, want.verdict);
    prop_assert_eq!(got.log, want.log);
    same_decider(engine, got.rule, want.decider)?;
    prop_assert_eq!(got.staged.0, staged.verdict);
    same_decider(engine, got.staged.1, staged.decider)
}

fn same_decider(engine: &Engine, got: RuleId, want: Decider) -> Result<(), TestCaseError> {
    let got = engine.program().rule(got);
    let policies = engine.policies();
    let named = got.map(|info| (&info.policy.name, &*info.policy.tier, info.index));
    let index = match want {
        Decider::Rule { rule, .. } => Some(rule as u32),
        _ => None,
    };
    let expected = match want {
        Decider::NoTier => None,
        Decider::Rule { tier, policy, .. } | Decider::TierDefault { tier, policy } => {
            let tier = &policies.tiers[tier];
            Some((&tier.policies[policy].name, &*tier.name, index))
        }
    };
    prop_assert_eq!(named, expected);
    Ok(())
}

fn same_as_judge(engine: &Engine, cluster: &ClusterState) -> Result<(), TestCaseError> {
    let proof = engine.prove();
    prop_assert!(proof.is_ok(), "{}", proof.unwrap_err());
    let judge = Judge::new(cluster, engine.policies());
    let flows: Vec<_> = flows().collect();
    let keys: Vec<_> = flows.iter().map(|flow| engine.key(flow)).collect();
    let mut decisions = vec![Decision::NOT_READY; keys.len()];
    engine.program().decide(&keys, &mut decisions);
    for (flow, got) in flows.iter().zip(decisions) {
        let want = judge.judge(flow);
        let staged = judge.judge_staged(flow);
        prop_assert_eq!(got.verdict, want.verdict, "{:?}: {:?} but {:?}", flow, got, want);
        let reason = match want.exempt {
            None => Reason::Policy,
            Some(Exemption::SamePod) => Reason::SamePod,
            Some(Exemption::OwnNode) => Reason::OwnNode,
        };
        prop_assert_eq!(got.reason, reason, "{:?}", flow);
        same_direction(engine, got.egress, want.egress, staged.egress)?;
        same_direction(engine, got.ingress, want.ingress, staged.ingress)?;
        let named = engine.program().deciding_rule(&got).map(|(_, info)| &info.policy.name);
        prop_assert_eq!(named, want.policy(engine.policies()));
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Cluster(ClusterState),
    Policies(PolicySet),
    Policy(prop::sample::Index, PolicySet),
    Upsert(Endpoint),
    Remove(prop::sample::Index),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => any_cluster().prop_map(Step::Cluster),
        1 => any_policies().prop_map(Step::Policies),
        2 => (any::<prop::sample::Index>(), any_policies()).prop_map(|(i, p)| Step::Policy(i, p)),
        3 => any_endpoint().prop_map(Step::Upsert),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 40 } else { 2000 }))]

    #[test]
    fn the_program_decides_as_the_judge(cluster in any_cluster(), policies in any_policies()) {
        let mut engine = Engine::default();
        let _ = engine.apply(cluster.clone(), policies).unwrap();
        same_as_judge(&engine, &cluster)?;
    }

    #[test]
    fn changes_end_where_starting_anew_would(
        steps in prop::collection::vec(any_step(), 1..8),
    ) {
        let mut engine = Engine::default();
        let mut cluster = ClusterState::default();
        for step in steps {
            match step {
                Step::Cluster(new) => {
                    let _ = engine.set_cluster(new.clone()).unwrap();
                    cluster = new;
                }
                Step::Policies(policies) => {
                    let _ = engine.set_policies(policies).unwrap();
                }
                Step::Policy(at, from) => {
                    // One tier comes from another set.
                    let mut policies = engine.policies().clone();
                    if policies.tiers.is_empty() || from.tiers.is_empty() {
                        continue;
                    }
                    let count = policies.tiers.len();
                    policies.tiers[at.index(count)] = from.tiers[0].clone();
                    let _ = engine.set_policies(policies).unwrap();
                }
                Step::Upsert(endpoint) => {
                    if engine.upsert_endpoint(endpoint.clone()).is_ok() {
                        cluster.endpoints.retain(|e| e.key() != endpoint.key());
                        cluster.endpoints.push(endpoint);
                    }
                }
                Step::Remove(at) => {
                    if cluster.endpoints.is_empty() {
                        continue;
                    }
                    let gone = cluster.endpoints.remove(at.index(cluster.endpoints.len()));
                    let _ = engine.remove_endpoint(&gone.key()).unwrap();
                }
            }
            same_as_judge(&engine, &cluster)?;
        }
    }
}

#[test]
fn an_identity_newer_than_the_program_is_denied() {
    let mut engine = Engine::default();
    let program = engine.program().clone();
    let endpoint = Endpoint { addresses: vec![address(1)], ..Endpoint::new("x", "p") };
    let update = engine.upsert_endpoint(endpoint).unwrap();
    let flow = portcullis_policy::Flow::new(address(2), address(1), 6, (1, 80));
    let old = program.decide_one(&engine.key(&flow));
    assert_eq!((old.verdict, old.reason), (Verdict::Deny, Reason::NotReady));
    let new = update.program.expect("a new identity").decide_one(&engine.key(&flow));
    assert_eq!((new.verdict, new.reason), (Verdict::Allow, Reason::Policy));
}
