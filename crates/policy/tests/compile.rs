//! The compiled program against the judge, who reads the model.

#[path = "common/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_identity_table::endpoint::Endpoint;
use portcullis_identity_table::{ClusterState, IdentityId};
use portcullis_policy::judge::{Decider, DirectionDecision, Exemption, Judge};
use portcullis_policy::model::*;
use portcullis_policy::{
    CompileError, Config, Decision, Engine, EngineError, OutcomeId, Program, Prove, Reason, RuleId,
    Update, Verdict,
};
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
        max_program_bytes in prop::sample::select(vec![6500, 8000, 1 << 20]),
    ) {
        // Limits that some of the steps exceed, and some not.
        let mut config = Config::default();
        config.prove = Prove::Everything;
        config.max_program_bytes = max_program_bytes;
        config.max_cells = 24;
        let mut engine = Engine::new(config);
        let mut cluster = ClusterState::default();
        let mut followers = Followers { table: BTreeMap::new(), program: engine.program().clone() };
        for step in steps {
            let update = match step {
                Step::Cluster(new) => {
                    cluster = new.clone();
                    engine.set_cluster(new)
                }
                Step::Policies(policies) => engine.set_policies(policies),
                Step::Policy(at, from) => {
                    // One tier comes from another set.
                    let mut policies = engine.policies().clone();
                    if policies.tiers.is_empty() || from.tiers.is_empty() {
                        continue;
                    }
                    let count = policies.tiers.len();
                    policies.tiers[at.index(count)] = from.tiers[0].clone();
                    engine.set_policies(policies)
                }
                Step::Upsert(endpoint) => {
                    let update = engine.upsert_endpoint(endpoint.clone());
                    if !matches!(update, Err(EngineError::Cluster(_))) {
                        cluster.endpoints.retain(|e| e.key() != endpoint.key());
                        cluster.endpoints.push(endpoint);
                    }
                    update
                }
                Step::Remove(at) => {
                    if cluster.endpoints.is_empty() {
                        continue;
                    }
                    let gone = cluster.endpoints.remove(at.index(cluster.endpoints.len()));
                    engine.remove_endpoint(&gone.key())
                }
            };
            match update {
                Ok(update) => {
                    followers.follow(update, &engine)?;
                    same_as_judge(&engine, &cluster)?;
                }
                Err(EngineError::Proof(mismatch)) => prop_assert!(false, "{}", mismatch),
                // Nothing was handed out: what is there decides as before.
                Err(_) => {}
            }
        }
    }
}

/// Who only ever sees updates: the address table and the program in the packet path.
struct Followers {
    table: BTreeMap<IpNet, IdentityId>,
    program: Arc<Program>,
}

impl Followers {
    fn follow(&mut self, update: Update, engine: &Engine) -> Result<(), TestCaseError> {
        if let Some(program) = update.program {
            self.program = program;
        }
        for (prefix, id) in update.table {
            match id {
                Some(id) => self.table.insert(prefix, id),
                None => self.table.remove(&prefix),
            };
        }
        let listed: BTreeMap<_, _> = engine.registry().table().collect();
        prop_assert_eq!(&self.table, &listed);
        prop_assert!(Arc::ptr_eq(&self.program, engine.program()));
        Ok(())
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

/// A policy whose rules name every second port at both ends.
fn complex() -> PolicySet {
    let ports = |first: u16| PortMatch {
        any_of: (0..100).map(|n| PortSpec::Range(first + 2 * n, first + 2 * n)).collect(),
        none_of: Vec::new(),
    };
    let traffic = Traffic {
        protocol: ProtocolMatch::Is(6),
        source_ports: ports(1),
        destination_ports: ports(1000),
        ..Traffic::default()
    };
    let rule = Rule {
        origin: Origin::default(),
        name: None,
        action: Action::Allow,
        source: Match::Any,
        destination: Match::Cidr("10.0.0.0/8".parse().unwrap()),
        traffic: vec![traffic],
    };
    let name = PolicyName { kind: Kind::NetworkPolicy, namespace: None, name: "p".into() };
    let policy = Policy {
        name,
        origin: Origin::default(),
        enforcement: Enforcement::Enforced,
        subject: Match::Any,
        ingress: Some(vec![rule]),
        egress: None,
    };
    let tier = Tier {
        name: "t".into(),
        default_action: TierDefault::Deny,
        policies: vec![policy],
        origin: None,
    };
    PolicySet { tiers: vec![tier], sets: Vec::new() }
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    let mut config = Config::default();
    config.max_cells = 1000;
    let mut engine = Engine::new(config);
    let mut followers = Followers { table: BTreeMap::new(), program: engine.program().clone() };
    let endpoint = Endpoint { addresses: vec![address(1)], ..Endpoint::new("x", "p") };
    followers.follow(engine.upsert_endpoint(endpoint.clone()).unwrap(), &engine).unwrap();
    let before = engine.program().clone();
    let error = engine.set_policies(complex()).unwrap_err();
    assert!(matches!(error, EngineError::Compile(CompileError::TooComplex { .. })), "{error}");
    assert!(error.to_string().contains("NetworkPolicy//p"), "{error}");
    assert!(Arc::ptr_eq(&before, engine.program()));
    assert_eq!(engine.policies(), &PolicySet::default());
    // What comes after works, and brings along what the refused change had moved.
    let other = Endpoint { addresses: vec![address(2)], ..endpoint };
    followers.follow(engine.upsert_endpoint(other.clone()).unwrap(), &engine).unwrap();
    let cluster = ClusterState { endpoints: vec![other], ..ClusterState::default() };
    same_as_judge(&engine, &cluster).unwrap();

    let mut config = Config::default();
    config.max_program_bytes = 1000;
    let error = Engine::new(config).set_policies(PolicySet::default()).unwrap_err();
    assert!(matches!(error, EngineError::Compile(CompileError::TooLarge { .. })), "{error}");
    assert!(Engine::default().set_policies(complex()).is_ok());
}
