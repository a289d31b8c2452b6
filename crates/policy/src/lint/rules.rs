//! Policies and rules that do nothing in this cluster.

use std::collections::BTreeMap;

use ahash::AHashSet;

use super::{Code, Finding, Level, Scene, directions};
use crate::model::{Action, Direction, Enforcement, IpVersion, Policy, PortSpec, Rule};
use crate::space;
use crate::view::{RuleKey, is_workload, named_ports};

pub(super) fn check(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    for policy in scene.policies.tiers.iter().flat_map(|tier| &tier.policies) {
        if policy.enforcement == Enforcement::Enforced && !selects(scene, policy) {
            findings.push(Finding {
                level: Level::Warning,
                code: Code::SelectsNothing,
                origin: Some(policy.origin.clone()),
                message: format!("{} selects no pod of this cluster", policy.name),
            });
        }
    }
    for (direction, name) in directions() {
        let fates = fates(scene, direction);
        for (tier_index, tier) in scene.policies.tiers.iter().enumerate() {
            for (policy_index, policy) in tier.policies.iter().enumerate() {
                if policy.enforcement == Enforcement::Staged || !selects(scene, policy) {
                    continue;
                }
                let rules = policy.rules(direction).unwrap_or_default();
                for (index, rule) in rules.iter().enumerate() {
                    if rule.action == Action::Log {
                        continue;
                    }
                    let key = RuleKey { tier: tier_index, policy: policy_index, rule: index };
                    let fate = fates.get(&key).copied().unwrap_or_default();
                    findings.extend(judge(scene, policy, rule, key, fate, (direction, name)));
                }
            }
        }
    }
}

fn selects(scene: &Scene<'_>, policy: &Policy) -> bool {
    scene.atlas.classes.iter().any(|class| {
        let class = scene.view.class(class.ids[0]);
        class.is_some_and(|class| is_workload(class) && scene.view.holds(&policy.subject, class))
    })
}

/// What became of a rule over all pairs of classes and all headers.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Both ends match somebody.
    has_pair: bool,
    /// And some traffic between them matches.
    matches: bool,
    /// It has a say somewhere.
    effective: bool,
    /// A rule that keeps it from having a say.
    shadowed_by: Option<RuleKey>,
}

/// The fates of all rules of a direction. Once a rule has had a say it is not looked at again, so
/// that most pairs of classes cost next to nothing.
fn fates(scene: &Scene<'_>, direction: Direction) -> BTreeMap<RuleKey, Fate> {
    let mut fates: BTreeMap<RuleKey, Fate> = BTreeMap::new();
    let mut seen = AHashSet::default();
    for subject in &scene.atlas.classes {
        let mut pending = scene.view.rules_applying(direction, subject.ids[0]);
        for peer in &scene.atlas.classes {
            pending.retain(|key| !fates.get(key).is_some_and(|fate| fate.effective));
            if pending.is_empty() {
                break;
            }
            if subject.is_v4() != peer.is_v4() {
                continue;
            }
            let (source, destination) = match direction {
                Direction::Ingress => (peer.ids[0], subject.ids[0]),
                Direction::Egress => (subject.ids[0], peer.ids[0]),
            };
            let mut asked = false;
            for key in &pending {
                if scene.view.joins(direction, *key, source, destination) {
                    fates.entry(*key).or_default().has_pair = true;
                    asked = true;
                }
            }
            let Some(walk) = scene.view.walk(direction, source, destination).filter(|_| asked)
            else {
                continue;
            };
            let names = [source, destination].map(|id| named_ports(scene.view.class(id)));
            let by_name = walk.rules().any(asks_names);
            let told = if by_name { names.map(<[_]>::to_vec) } else { [Vec::new(), Vec::new()] };
            if !seen.insert((walk.signature(), told, subject.is_v4())) {
                continue;
            }
            let version = if subject.is_v4() { IpVersion::V4 } else { IpVersion::V6 };
            for region in space::regions(walk.rules(), names) {
                walk.matching(&region.example(version), names, |rule, by| {
                    let fate = fates.entry(rule).or_default();
                    fate.matches = true;
                    match by {
                        None => fate.effective = true,
                        Some(by) => {
                            fate.shadowed_by.get_or_insert(by);
                        }
                    }
                });
            }
        }
    }
    fates
}

/// Whether the rule names ports by name.
fn asks_names(rule: &Rule) -> bool {
    rule.traffic.iter().any(|traffic| {
        [&traffic.source_ports, &traffic.destination_ports].into_iter().any(|ports| {
            let mut specs = ports.any_of.iter().chain(&ports.none_of);
            specs.any(|spec| matches!(spec, PortSpec::Named(_)))
        })
    })
}

fn judge(
    scene: &Scene<'_>,
    policy: &Policy,
    rule: &Rule,
    key: RuleKey,
    fate: Fate,
    (direction, name): (Direction, &str),
) -> Option<Finding> {
    let number = key.rule + 1;
    let finding = |level, code, message| {
        Some(Finding { level, code, origin: Some(rule.origin.clone()), message })
    };
    if fate.effective {
        return None;
    }
    if !fate.has_pair {
        let message = format!(
            "{name} rule {number} of {} matches nobody of this cluster: {}",
            policy.name,
            match direction {
                Direction::Ingress => crate::words::who(&rule.source, scene.policies),
                Direction::Egress => crate::words::who(&rule.destination, scene.policies),
            }
        );
        return finding(Level::Warning, Code::MatchesNobody, message);
    }
    if !fate.matches {
        let message = format!(
            "{name} rule {number} of {} matches no traffic between its parties: {}",
            policy.name,
            crate::words::traffic(&rule.traffic)
        );
        return finding(Level::Warning, Code::MatchesNobody, message);
    }
    let by = fate.shadowed_by?;
    let other = scene.view.policy((by.tier, by.policy))?;
    if by.rule == RuleKey::END {
        let tier = &scene.policies.tiers.get(by.tier)?.name;
        let message = format!(
            "{name} rule {number} of {} never has a say: tier {tier} comes first and denies, since \
             {} at {} applies",
            policy.name, other.name, other.origin
        );
        return finding(Level::Warning, Code::Shadowed, message);
    }
    let before = other.rules(direction)?.get(by.rule)?;
    let place = format!("rule {} of {} at {}", by.rule + 1, other.name, before.origin);
    if before.action != rule.action {
        let message =
            format!("{name} rule {number} of {} never has a say: {place} comes first", policy.name);
        return finding(Level::Warning, Code::Shadowed, message);
    }
    // That policies of one namespace overlap is how they are meant to be used.
    (by.policy == key.policy && by.tier == key.tier)
        .then(|| {
            let message =
                format!("{name} rule {number} of {} adds nothing to {place}", policy.name);
            finding(Level::Note, Code::Redundant, message)
        })
        .flatten()
}
