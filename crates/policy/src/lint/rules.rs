//! Policies and rules that do nothing in this cluster.

use super::fates::{Fate, fates};
use super::{Code, Finding, Level, Scene, directions};
use crate::model::{Action, Direction, Enforcement, Policy, Rule};
use crate::view::RuleKey;

pub(super) fn check(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let policies = scene.policies.tiers.iter().enumerate().flat_map(|(t, tier)| {
        tier.policies.iter().enumerate().map(move |(p, policy)| ((t, p), policy))
    });
    for (at, policy) in policies {
        if policy.enforcement == Enforcement::Enforced && !scene.view.selects(at) {
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
                if !scene.view.selects((tier_index, policy_index)) {
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
