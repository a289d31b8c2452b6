//! Case directories: a cluster, policies, flows and what must become of them. `invalid-*` hold
//! policies that must be refused.
//!
//! `PORTCULLIS_CASES=folder cargo test -p portcullis-policy --test conformance` runs every
//! case of another folder as well.

#[allow(dead_code)] // each test uses its own part
mod common;

use common::{Case, cases};
use portcullis_policy::judge::Judge;
use portcullis_policy::lint::Code;
use portcullis_policy::on_demand::with_evaluator;
use portcullis_policy::{Engine, lint, load_cluster, load_policies, stand_in};

#[test]
fn documents_are_accepted_or_refused() {
    let mut wrong = Vec::new();
    let cases = cases();
    for case in &cases {
        let policies = load_policies([case.join("policies.yaml")]);
        match policies {
            Ok(_) if case.is_invalid() => wrong.push(format!("{case}: accepted")),
            Err(error) if !case.is_invalid() => wrong.push(format!("{case}: {error}")),
            Err(error) => {
                let line = error.to_string();
                assert!(line.contains("policies.yaml:"), "{case}: no position in {line}");
            }
            Ok(_) => {}
        }
        if let Err(error) = load_cluster(case.join("cluster.yaml")) {
            wrong.push(format!("{case}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The slow twin decides every flow as the case says.
#[test]
fn the_judge_agrees() {
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| !case.is_invalid()) {
        let policies = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = load_cluster(case.join("cluster.yaml")).unwrap().value;
        let judge = Judge::new(&cluster, &policies);
        wrong.extend(case.disagreements(|flow| {
            let judgement = judge.judge(flow);
            let policy = judgement.policy(&policies).map(ToString::to_string);
            (judgement.verdict, policy.unwrap_or_else(|| "default".to_owned()))
        }));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), Case::first(&wrong));
}

/// The compiled program decides every flow as the case says, and is proved.
#[test]
fn the_program_agrees() {
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| !case.is_invalid()) {
        let policies = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = load_cluster(case.join("cluster.yaml")).unwrap().value;
        let mut engine = Engine::default();
        let _ = engine.apply(cluster, policies).unwrap_or_else(|error| panic!("{case}: {error}"));
        wrong.extend(engine.prove().err().map(|mismatch| format!("{case}: {mismatch}")));
        wrong.extend(case.disagreements(|flow| {
            let evaluation = engine.evaluate(flow);
            let policy = evaluation.policy.map(ToString::to_string);
            (evaluation.verdict, policy.unwrap_or_else(|| "default".to_owned()))
        }));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), Case::first(&wrong));
}

/// Deciding without compiling comes to the same.
#[test]
fn deciding_on_demand_agrees() {
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| !case.is_invalid()) {
        let policies = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = load_cluster(case.join("cluster.yaml")).unwrap().value;
        let found = with_evaluator(&cluster, &policies, |evaluator| {
            case.disagreements(|flow| {
                let (verdict, policy) = evaluator.decide(flow);
                (verdict, policy.map_or_else(|| "default".to_owned(), ToString::to_string))
            })
        });
        wrong.extend(found.unwrap());
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), Case::first(&wrong));
}

/// Policies alone are proved over a cluster made of their selectors, in which most policies select
/// somebody.
#[test]
fn a_cluster_made_of_selectors_has_somebody_for_most() {
    let (mut selected, mut all) = (0, 0);
    for case in cases().iter().filter(|case| !case.is_invalid()) {
        let policies = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = stand_in(&policies);
        let findings = lint(&policies, Some(&cluster)).unwrap();
        let nobody = findings.iter().filter(|finding| finding.code == Code::SelectsNothing);
        let count: usize = policies.tiers.iter().map(|tier| tier.policies.len()).sum();
        all += count;
        selected += count - nobody.count();
        let mut engine = Engine::default();
        let _ = engine.apply(cluster, policies).unwrap_or_else(|error| panic!("{case}: {error}"));
        engine.prove().unwrap_or_else(|mismatch| panic!("{case}: {mismatch}"));
    }
    assert!(selected * 10 > all * 9, "{selected} of {all}");
}
