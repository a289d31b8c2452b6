//! The resolved form: policies over sets of classes instead of expressions, rules with numbers.
//!
//! It knows nothing of how decisions are looked up: the compiler and the proof both start from it.

use std::sync::Arc;

use ahash::AHashMap;
use portcullis_identity_table::region::SourceId;

use super::classset::ClassSet;
use super::matches::{MatchId, Matches};
use super::sources::Sources;
use super::universe::Universe;
use crate::model::{
    Action, Direction, Enforcement, Match, Origin, Policy, PolicyName, PolicySet, PortSpec, Rule,
    TierDefault,
};

/// The number of a rule, or of the implicit end of a policy's tier, for counters and records.
///
/// A number stays with its rule as long as the policy is not changed, and is not given again before
/// the whole set is compiled anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No tier decided.
    pub const NONE: Self = Self(0);
}

/// What stands behind a [`RuleId`].
#[derive(Clone, Debug, PartialEq)]
pub struct RuleInfo {
    /// The policy.
    pub policy: Arc<PolicyInfo>,
    /// The direction it decides.
    pub direction: Direction,
    /// The rule's place in the policy; `None` for the end of the tier that the policy is in.
    pub index: Option<u32>,
    /// The rule's own name, where its kind has one.
    pub name: Option<Box<str>>,
    /// Where the rule was written; for the end of a tier, where the policy was.
    pub origin: Origin,
    /// What the rule does; `Deny` for the end of a tier.
    pub action: Action,
}

/// A policy as counters and records name it.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyInfo {
    /// Its name.
    pub name: PolicyName,
    /// The tier it is in.
    pub tier: Box<str>,
    /// Where it was written.
    pub origin: Origin,
    /// Enforced or staged.
    pub enforcement: Enforcement,
}

#[derive(Debug)]
pub(crate) struct ResolvedTier {
    pub(crate) default_action: TierDefault,
    pub(crate) policies: Vec<Arc<ResolvedPolicy>>,
}

#[derive(Debug)]
pub(crate) struct ResolvedPolicy {
    /// Not given again before the whole set is compiled anew.
    pub(crate) number: u32,
    policy: Policy,
    tier: Box<str>,
    /// The sets it names, by index and by number.
    sets: Vec<(u32, SourceId)>,
    /// Workloads it applies to.
    pub(crate) subject: MatchId,
    pub(crate) ingress: Option<ResolvedRules>,
    pub(crate) egress: Option<ResolvedRules>,
}

/// The rules of one direction.
#[derive(Debug)]
pub(crate) struct ResolvedRules {
    /// The end of the tier, if it denies.
    pub(crate) end: RuleId,
    pub(crate) rules: Vec<ResolvedRule>,
    /// Whether some rule asks more of the endpoint than that the policy applies to it.
    pub(crate) near_conditions: bool,
    /// Port names looked up at the endpoint itself.
    pub(crate) near_names: Vec<Box<str>>,
    /// Port names looked up at its peer.
    pub(crate) far_names: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolvedRule {
    pub(crate) id: RuleId,
    pub(crate) action: Action,
    /// The endpoint that the policy applies to.
    pub(crate) near: MatchId,
    /// Its peer.
    pub(crate) far: MatchId,
    /// Whether it looks up ports by name at the source, and at the destination.
    pub(crate) names: [bool; 2],
}

impl ResolvedPolicy {
    pub(crate) fn rules(&self, direction: Direction) -> Option<&ResolvedRules> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }

    /// The rule as written, for what it says of traffic.
    pub(crate) fn written(&self, direction: Direction, index: usize) -> &Rule {
        &self.policy.rules(direction).expect("resolved directions are written ones")[index]
    }

    pub(crate) fn is_staged(&self) -> bool {
        self.policy.enforcement == Enforcement::Staged
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) tiers: Vec<ResolvedTier>,
    pub(crate) rules: Arc<Vec<RuleInfo>>,
    pub(crate) matches: Matches,
    policies_numbered: u32,
}

impl Resolved {
    pub(crate) fn new() -> Self {
        Self {
            tiers: Vec::new(),
            rules: Arc::new(vec![no_tier()]),
            matches: Matches::new(),
            policies_numbered: 0,
        }
    }

    pub(crate) fn members(&self, id: MatchId) -> &ClassSet {
        self.matches.members(id)
    }

    /// Makes the policies those of `set`; policies that stay keep their numbers. O(changed
    /// policies), and a comparison of all.
    pub(crate) fn update(&mut self, set: &PolicySet, sources: &Sources, universe: &Universe) {
        let mut old: AHashMap<PolicyName, Vec<Arc<ResolvedPolicy>>> = AHashMap::new();
        for policy in self.tiers.drain(..).flat_map(|tier| tier.policies) {
            old.entry(policy.policy.name.clone()).or_default().push(policy);
        }
        let mut tiers = Vec::with_capacity(set.tiers.len());
        for tier in &set.tiers {
            let mut policies = Vec::with_capacity(tier.policies.len());
            for policy in &tier.policies {
                let same = |o: &Arc<ResolvedPolicy>| {
                    o.tier == tier.name
                        && o.policy == *policy
                        && o.sets.iter().all(|&(i, id)| sources.set(i) == Some(id))
                };
                let kept = old
                    .get_mut(&policy.name)
                    .and_then(|olds| olds.iter().position(same).map(|at| olds.swap_remove(at)));
                policies.push(match kept {
                    Some(kept) => kept,
                    None => Arc::new(self.resolve(policy.clone(), &tier.name, sources, universe)),
                });
            }
            tiers.push(ResolvedTier { default_action: tier.default_action, policies });
        }
        self.tiers = tiers;
        for gone in old.into_values().flatten() {
            self.drop_matches(&gone);
        }
    }

    fn resolve(
        &mut self,
        policy: Policy,
        tier: &str,
        sources: &Sources,
        universe: &Universe,
    ) -> ResolvedPolicy {
        let info = Arc::new(PolicyInfo {
            name: policy.name.clone(),
            tier: tier.into(),
            origin: policy.origin.clone(),
            enforcement: policy.enforcement,
        });
        let mut sets = Vec::new();
        policy.for_each_match(&mut |expression| {
            if let Match::InSet(index) = expression
                && let Some(id) = sources.set(*index)
            {
                sets.push((*index, id));
            }
        });
        let subject = Match::All(vec![Match::Pod, policy.subject.clone()]);
        let subject = self.intern(&subject, sources, universe);
        let mut direction = |direction| {
            policy
                .rules(direction)
                .map(|rules| self.resolve_rules(rules, direction, &info, sources, universe))
        };
        let (ingress, egress) = (direction(Direction::Ingress), direction(Direction::Egress));
        self.policies_numbered += 1;
        let number = self.policies_numbered;
        ResolvedPolicy { number, policy, tier: tier.into(), sets, subject, ingress, egress }
    }

    fn resolve_rules(
        &mut self,
        rules: &[Rule],
        direction: Direction,
        policy: &Arc<PolicyInfo>,
        sources: &Sources,
        universe: &Universe,
    ) -> ResolvedRules {
        let end = self.number(RuleInfo {
            policy: policy.clone(),
            direction,
            index: None,
            name: None,
            origin: policy.origin.clone(),
            action: Action::Deny,
        });
        let mut resolved = ResolvedRules {
            end,
            rules: Vec::with_capacity(rules.len()),
            near_conditions: false,
            near_names: Vec::new(),
            far_names: Vec::new(),
        };
        for (index, rule) in rules.iter().enumerate() {
            let id = self.number(RuleInfo {
                policy: policy.clone(),
                direction,
                index: Some(index as u32),
                name: rule.name.clone(),
                origin: rule.origin.clone(),
                action: rule.action,
            });
            let source = self.intern(&rule.source, sources, universe);
            let destination = self.intern(&rule.destination, sources, universe);
            let (near, far) = match direction {
                Direction::Ingress => (destination, source),
                Direction::Egress => (source, destination),
            };
            for traffic in &rule.traffic {
                let names = |specs: &crate::model::PortMatch| -> Vec<Box<str>> {
                    let specs = specs.any_of.iter().chain(&specs.none_of);
                    specs
                        .filter_map(|spec| match spec {
                            PortSpec::Named(name) => Some(name.clone()),
                            PortSpec::Range(..) => None,
                        })
                        .collect()
                };
                let (source, destination) =
                    (names(&traffic.source_ports), names(&traffic.destination_ports));
                let (near, far) = match direction {
                    Direction::Ingress => (destination, source),
                    Direction::Egress => (source, destination),
                };
                resolved.near_names.extend(near);
                resolved.far_names.extend(far);
            }
            resolved.near_conditions |= near != MatchId::ANY;
            let names = rule.asks_names();
            resolved.rules.push(ResolvedRule { id, action: rule.action, near, far, names });
        }
        for names in [&mut resolved.near_names, &mut resolved.far_names] {
            names.sort_unstable();
            names.dedup();
        }
        resolved
    }

    fn intern(&mut self, expression: &Match, sources: &Sources, universe: &Universe) -> MatchId {
        self.matches.intern(sources.canonical(expression), universe)
    }

    fn drop_matches(&mut self, policy: &ResolvedPolicy) {
        let directions = [&policy.ingress, &policy.egress];
        let rules = directions.into_iter().flatten().flat_map(|rules| &rules.rules);
        let ids: Vec<_> = rules.flat_map(|r| [r.near, r.far]).chain([policy.subject]).collect();
        ids.into_iter().for_each(|id| self.matches.release(id));
    }

    fn number(&mut self, info: RuleInfo) -> RuleId {
        let rules = Arc::make_mut(&mut self.rules);
        rules.push(info);
        RuleId(u32::try_from(rules.len() - 1).expect("fewer than 2^32 rules"))
    }

    pub(crate) fn memory_usage(&self) -> usize {
        self.matches.memory_usage() + self.rules.capacity() * size_of::<RuleInfo>()
    }
}

/// What stands at [`RuleId::NONE`].
fn no_tier() -> RuleInfo {
    let name =
        PolicyName { kind: crate::model::Kind::NetworkPolicy, namespace: None, name: "".into() };
    let (tier, origin, enforcement) = ("".into(), Origin::default(), Enforcement::Enforced);
    RuleInfo {
        policy: Arc::new(PolicyInfo { name, tier, origin: origin.clone(), enforcement }),
        direction: Direction::Ingress,
        index: None,
        name: None,
        origin,
        action: Action::Allow,
    }
}
