//! Policies and rules that do nothing in this cluster.

use std::collections::BTreeMap;

use ahash::{AHashMap, AHashSet};
use portcullis_identity_table::identity::ClassId;

use super::{Code, Finding, Level, Scene, directions};
use crate::model::{
    Action, Direction, Enforcement, IpVersion, Policy, PortSpec, Rule, TierDefault,
};
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

/// The fates of all rules of a direction.
///
/// A rule is looked at until it has had a say. Whether it has one between two classes depends on the
/// rules before it that some header matches together with it; pairs of classes that agree in those are
/// looked at once.
fn fates(scene: &Scene<'_>, direction: Direction) -> BTreeMap<RuleKey, Fate> {
    let mut fates: BTreeMap<RuleKey, Fate> = BTreeMap::new();
    let mut seen = AHashSet::default();
    let mut meetings =
        Meetings { scene, direction, known: AHashMap::default(), numbers: AHashMap::default() };
    for subject in &scene.atlas.classes {
        let applying = scene.view.rules_applying(direction, subject.ids[0]);
        let undecided = applying.iter().filter(|key| !is_effective(&fates, key));
        let mut pending: Vec<(RuleKey, Shadows)> = undecided
            .map(|key| (*key, meetings.shadows(*key, &applying, subject.ids[0])))
            .collect();
        for peer in &scene.atlas.classes {
            pending.retain(|(key, _)| !is_effective(&fates, key));
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
            let joins = |key: &RuleKey| scene.view.joins(direction, *key, source, destination);
            let mut open = Vec::new();
            for (key, shadows) in pending.iter().filter(|(key, _)| joins(key)) {
                match shadows.over(joins) {
                    None => open.push(*key),
                    Some(by) => {
                        let fate = fates.entry(*key).or_default();
                        (fate.has_pair, fate.matches) = (true, true);
                        fate.shadowed_by.get_or_insert(by);
                    }
                }
            }
            if open.is_empty() {
                continue;
            }
            let Some(walk) = scene.view.walk(direction, source, destination) else { continue };
            let names = [source, destination].map(|id| named_ports(scene.view.class(id)));
            for key in open {
                let Some(walk) = walk.until(key, |other| meetings.meets(key, other)) else {
                    continue;
                };
                let by_name = walk.rules().any(asks_names);
                let told =
                    if by_name { names.map(<[_]>::to_vec) } else { [Vec::new(), Vec::new()] };
                // Numbers instead of keys: there may be millions of signatures.
                let signature: Box<[u32]> =
                    walk.signature().map(|key| meetings.number(key)).collect();
                if !seen.insert((signature, told, subject.is_v4())) {
                    continue;
                }
                let fate = fates.entry(key).or_default();
                fate.has_pair = true;
                let version = if subject.is_v4() { IpVersion::V4 } else { IpVersion::V6 };
                for region in space::regions(walk.rules(), names) {
                    match walk.last_rule(&region.example(version), names) {
                        None => {}
                        Some(None) => {
                            fate.effective = true;
                            break;
                        }
                        Some(Some(by)) => {
                            fate.matches = true;
                            fate.shadowed_by.get_or_insert(by);
                        }
                    }
                }
            }
        }
    }
    fates
}

fn is_effective(fates: &BTreeMap<RuleKey, Fate>, key: &RuleKey) -> bool {
    fates.get(key).is_some_and(|fate| fate.effective)
}

/// What keeps a rule from having a say whatever the header, found without looking at headers.
struct Shadows {
    /// Rules before it in its tier that match all that it matches, where their ends match.
    covers: Vec<RuleKey>,
    /// Ends of tiers before its own that deny, each with the rules that may pass around it.
    denials: Vec<(RuleKey, Vec<RuleKey>)>,
}

impl Shadows {
    /// What keeps the rule from having a say between two ends, by the rules that match there.
    fn over(&self, joins: impl Fn(&RuleKey) -> bool) -> Option<RuleKey> {
        let denial = self.denials.iter().find(|(_, passes)| !passes.iter().any(&joins));
        let cover = self.covers.iter().find(|key| joins(key));
        cover.copied().or(denial.map(|(end, _)| *end))
    }
}

/// Which rules of a direction some header may match together.
struct Meetings<'s> {
    scene: &'s Scene<'s>,
    direction: Direction,
    known: AHashMap<(RuleKey, RuleKey), bool>,
    numbers: AHashMap<RuleKey, u32>,
}

impl Meetings<'_> {
    fn written(&self, key: RuleKey) -> Option<&Rule> {
        let policy = self.scene.view.policy((key.tier, key.policy))?;
        policy.rules(self.direction)?.get(key.rule)
    }

    /// A small number for a rule.
    fn number(&mut self, key: RuleKey) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(key).or_insert(next)
    }

    fn meets(&mut self, one: RuleKey, other: RuleKey) -> bool {
        if let Some(known) = self.known.get(&(one, other)) {
            return *known;
        }
        let meets = match (self.written(one), self.written(other)) {
            (Some(one), Some(other)) => {
                let mut pairs =
                    one.traffic.iter().flat_map(|a| other.traffic.iter().map(move |b| (a, b)));
                pairs.any(|(a, b)| space::may_meet(a, b))
            }
            _ => true,
        };
        self.known.insert((one, other), meets);
        meets
    }

    /// What may shadow a rule for a subject, to which these rules apply in this order.
    fn shadows(&mut self, key: RuleKey, applying: &[RuleKey], subject: ClassId) -> Shadows {
        let before = applying.iter().take_while(|other| **other != key);
        let covers = |other: &&RuleKey| match (self.written(**other), self.written(key)) {
            (Some(wide), Some(narrow)) => {
                narrow.traffic.iter().all(|b| wide.traffic.iter().any(|a| space::covers(a, b)))
            }
            _ => false,
        };
        let covers =
            before.filter(|other| other.tier == key.tier).filter(covers).copied().collect();
        let mut denials: Vec<(RuleKey, Vec<RuleKey>)> = Vec::new();
        for &(tier, policy) in self.scene.view.applying(self.direction, subject) {
            let denies = self.scene.policies.tiers[tier].default_action == TierDefault::Deny;
            if tier >= key.tier || !denies || denials.iter().any(|(end, _)| end.tier == tier) {
                continue;
            }
            let mut passes = Vec::new();
            for other in applying.iter().filter(|other| other.tier == tier) {
                let passing = self.written(*other).is_none_or(|r| r.action == Action::Pass);
                if passing && self.meets(key, *other) {
                    passes.push(*other);
                }
            }
            denials.push((RuleKey { tier, policy, rule: RuleKey::END }, passes));
        }
        Shadows { covers, denials }
    }
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
