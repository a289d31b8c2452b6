//! What shows in the documents alone: rules that allow everything, peers that fell apart.

use super::{Code, Finding, Level, directions};
use crate::model::{Action, Direction, Match, Policy, PolicySet, Rule, Traffic};

pub(super) fn check(policies: &PolicySet, findings: &mut Vec<Finding>) {
    for policy in policies.tiers.iter().flat_map(|tier| &tier.policies) {
        for (direction, name) in directions() {
            let rules = policy.rules(direction).unwrap_or_default();
            for (index, rule) in rules.iter().enumerate() {
                if rule.action == Action::Allow && is_everything(rule) {
                    findings.push(allow_all(policy, name, rules.len(), index, rule));
                }
                let peer = match direction {
                    Direction::Ingress => &rule.source,
                    Direction::Egress => &rule.destination,
                };
                findings.extend(split_peer(policy, peer, rule));
            }
        }
    }
}

/// Whether the rule matches every flow.
fn is_everything(rule: &Rule) -> bool {
    rule.source == Match::Any
        && rule.destination == Match::Any
        && rule.traffic.contains(&Traffic::default())
}

fn allow_all(policy: &Policy, direction: &str, rules: usize, index: usize, rule: &Rule) -> Finding {
    let (level, message) = if rules > 1 {
        let others = rules - 1;
        (
            Level::Warning,
            format!(
                "rule {} of {} allows all {direction}, so its {others} other {direction} {} \
                 nothing: was a `from`, `to` or `ports` forgotten?",
                index + 1,
                policy.name,
                if others == 1 { "rule does" } else { "rules do" },
            ),
        )
    } else {
        (Level::Note, format!("{} allows all {direction}", policy.name))
    };
    Finding { level, code: Code::AllowAll, origin: Some(rule.origin.clone()), message }
}

/// `- namespaceSelector` and `- podSelector` as two items are an "or"; people mostly mean the "and".
fn split_peer(policy: &Policy, peer: &Match, rule: &Rule) -> Option<Finding> {
    let Match::OneOf(parts) = peer else { return None };
    let [first, second] = &parts[..] else { return None };
    let whole_namespaces = |part: &Match| matches!(part, Match::NamespaceLabels(_));
    let own_pods = |part: &Match| match part {
        Match::All(parts) => matches!(&parts[..], [Match::Namespace(_), Match::PodLabels(_)]),
        _ => false,
    };
    let split = (whole_namespaces(first) && own_pods(second))
        || (own_pods(first) && whole_namespaces(second));
    split.then(|| Finding {
        level: Level::Note,
        code: Code::SplitPeer,
        origin: Some(rule.origin.clone()),
        message: format!(
            "a rule of {} names whole namespaces and, as another peer, pods of its own namespace; \
             if pods of those namespaces were meant, put both selectors into one item",
            policy.name
        ),
    })
}
