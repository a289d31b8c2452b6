//! What is explained is what is decided: on every flow of every case.

#[allow(dead_code)] // each test uses its own part
mod common;

use common::{Case, cases};
use portcullis_policy::explain::{Explanation, Outcome, Walk, explain};
use portcullis_policy::judge::Judge;
use portcullis_policy::model::{Action, TierDefault};
use portcullis_policy::reach::{Way, Why, reach};
use portcullis_policy::{Verdict, load_cluster, load_policies};

/// The verdict that the steps of a walk lead to.
fn verdict(walk: &Walk) -> Verdict {
    match walk.tiers.last().map(|step| &step.outcome) {
        Some(Outcome::Rule(rule)) if rule.action == Action::Deny => Verdict::Deny,
        Some(Outcome::End(TierDefault::Deny)) => Verdict::Deny,
        _ => Verdict::Allow,
    }
}

fn policy(explanation: &Explanation) -> String {
    explanation.policy.as_ref().map_or_else(|| "default".to_owned(), ToString::to_string)
}

#[test]
fn explanations_are_decisions() {
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| !case.is_invalid()) {
        let policies = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = load_cluster(case.join("cluster.yaml")).unwrap().value;
        // The text of every explanation of a large case is much work and tells no more.
        let mut left = 200;
        wrong.extend(case.disagreements(|flow| {
            if left == 0 {
                let judge = Judge::new(&cluster, &policies);
                let judgement = judge.judge(flow);
                let policy = judgement.policy(&policies).map(ToString::to_string);
                return (judgement.verdict, policy.unwrap_or_else(|| "default".to_owned()));
            }
            left -= 1;
            let explanation = explain(&cluster, &policies, flow);
            let walks = [&explanation.egress, &explanation.ingress].into_iter().flatten();
            let mut led_to = Verdict::Allow;
            for walk in walks {
                assert_eq!(verdict(walk), walk.verdict, "{case}: {flow}\n{explanation}");
                led_to = led_to.max(walk.verdict);
            }
            assert_eq!(led_to, explanation.verdict, "{case}: {flow}\n{explanation}");
            let text = explanation.to_string();
            let word = if led_to == Verdict::Allow { "ALLOWED: " } else { "DENIED: " };
            assert!(text.starts_with(word), "{case}: {text}");
            (explanation.verdict, policy(&explanation))
        }));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), Case::first(&wrong));
}

/// Every row's example is allowed, and every allowed flow between pods is in a row.
#[test]
fn reach_is_what_is_allowed() {
    let mut rows = 0;
    for case in cases().iter().filter(|case| !case.is_invalid()).step_by(3) {
        let policies = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = load_cluster(case.join("cluster.yaml")).unwrap().value;
        let judge = Judge::new(&cluster, &policies);
        for endpoint in cluster.endpoints.iter().filter(|e| !e.host_network).take(6) {
            let to = reach(&cluster, &policies, endpoint, Way::To).unwrap();
            let from = reach(&cluster, &policies, endpoint, Way::From).unwrap();
            for row in to.rows.iter().chain(&from.rows) {
                let judgement = judge.judge(&row.example);
                assert_eq!(judgement.verdict, Verdict::Allow, "{case}: {}", row.example);
                assert_eq!(judgement.exempt.is_some(), matches!(row.why, Why::Exempt(_)), "{case}");
                rows += 1;
            }
            case.disagreements(|flow| {
                let judgement = judge.judge(flow);
                let pod = judge.end(flow.source).pod;
                if let Some(source) = pod
                    && endpoint.addresses.contains(&flow.destination)
                    && judgement.exempt.is_none()
                {
                    let listed = to.rows.iter().any(|row| {
                        row.families.contains(&flow.header.ip_version)
                            && row
                                .peers
                                .pods
                                .get(&source.namespace)
                                .is_some_and(|p| p.names.contains(&source.name))
                            && row.regions.iter().any(|region| region.contains(&flow.header))
                    });
                    assert_eq!(listed, judgement.verdict == Verdict::Allow, "{case}: {flow}\n{to}");
                }
                (judgement.verdict, String::new())
            });
        }
    }
    assert!(rows > 500, "{rows}");
}
