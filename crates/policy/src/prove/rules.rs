//! The rules between two classes, read from the resolved form.

use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::ClassId;

use crate::compile::matches::MatchId;
use crate::compile::resolve::{Resolved, ResolvedPolicy, RuleId};
use crate::compile::trees::Outcome;
use crate::flow::{Header, NamedPorts, Verdict};
use crate::model::{Action, Direction, PortMatch, PortSpec, TierDefault, Traffic};

/// A rule that applies to the endpoint, whoever its peer is.
pub(super) struct NearRule<'a> {
    pub(super) policy: &'a ResolvedPolicy,
    pub(super) id: RuleId,
    /// Its peers.
    pub(super) far: MatchId,
    pub(super) action: Action,
    pub(super) traffic: &'a [Traffic],
    /// Ports that it looks up by name, at the source and at the destination.
    pub(super) names: [Vec<Box<str>>; 2],
}

impl NearRule<'_> {
    pub(super) fn asks_names(&self) -> bool {
        self.names.iter().any(|names| !names.is_empty())
    }
}

/// The policies of a tier that apply to the endpoint, and their rules that do.
pub(super) struct NearTier<'a> {
    pub(super) default_action: TierDefault,
    pub(super) policies: Vec<(&'a ResolvedPolicy, RuleId)>,
    pub(super) rules: Vec<NearRule<'a>>,
}

/// The policies that apply to each class of endpoints, by class: tier and place within the tier.
pub(super) fn applying(
    resolved: &Resolved,
    direction: Direction,
    classes: u32,
) -> Vec<Vec<(u32, u32)>> {
    let mut applying = vec![Vec::new(); classes as usize];
    for (t, tier) in resolved.tiers.iter().enumerate() {
        for (p, policy) in tier.policies.iter().enumerate() {
            if policy.rules(direction).is_some() {
                for class in resolved.members(policy.subject).members(classes) {
                    applying[class as usize].push((t as u32, p as u32));
                }
            }
        }
    }
    applying
}

/// What applies to a class of endpoints, read from the resolved form.
pub(super) fn near_tiers<'a>(
    resolved: &'a Resolved,
    direction: Direction,
    subject: ClassId,
    applying: &[(u32, u32)],
) -> Vec<NearTier<'a>> {
    let mut tiers = Vec::new();
    for same_tier in applying.chunk_by(|a, b| a.0 == b.0) {
        let tier = &resolved.tiers[same_tier[0].0 as usize];
        let mut near =
            NearTier { default_action: tier.default_action, policies: vec![], rules: vec![] };
        for &(_, policy) in same_tier {
            let policy = &tier.policies[policy as usize];
            let Some(rules) = policy.rules(direction) else { continue };
            near.policies.push((policy, rules.end));
            for (index, rule) in rules.rules.iter().enumerate() {
                if resolved.members(rule.near).contains(subject) {
                    let written = policy.written(direction, index);
                    near.rules.push(NearRule {
                        policy,
                        id: rule.id,
                        far: rule.far,
                        action: written.action,
                        traffic: &written.traffic,
                        names: names_in(&written.traffic),
                    });
                }
            }
        }
        tiers.push(near);
    }
    tiers
}

/// The rules between two classes.
pub(super) struct Rules<'a> {
    pub(super) tiers: &'a [NearTier<'a>],
    /// Whether the peer's side of a rule holds, by the rule's place over all tiers.
    pub(super) holds: &'a dyn Fn(usize) -> bool,
    /// Named ports at the source and at the destination.
    pub(super) ports: [Ports<'a>; 2],
}

#[derive(Clone, Copy)]
pub(super) struct Ports<'a>(pub(super) &'a [NamedPort]);

impl NamedPorts for Ports<'_> {
    fn is(&self, name: &str, protocol: u8, port: u16) -> bool {
        self.0.iter().any(|p| *p.name == *name && p.protocol == protocol && p.port == port)
    }
}

impl Rules<'_> {
    pub(super) fn outcome(&self, header: &Header) -> Outcome {
        let (verdict, rule, log) = self.walk(header, false);
        let (staged_verdict, staged_rule, _) = self.walk(header, true);
        Outcome { verdict, rule, log, staged: (staged_verdict, staged_rule) }
    }

    /// The tiers in order, as [`crate::model`] says.
    fn walk(&self, header: &Header, with_staged: bool) -> (Verdict, RuleId, bool) {
        let mut log = false;
        let mut place = 0;
        for tier in self.tiers {
            let first_place = place;
            place += tier.rules.len();
            let counts = |policy: &ResolvedPolicy| with_staged || !policy.is_staged();
            let Some((_, end)) = tier.policies.iter().find(|(policy, _)| counts(policy)) else {
                continue;
            };
            let mut passed = false;
            for (r, rule) in tier.rules.iter().enumerate() {
                if !counts(rule.policy) || !(self.holds)(first_place + r) {
                    continue;
                }
                let [source, destination] = &self.ports;
                if !rule.traffic.iter().any(|t| t.matches(header, source, destination)) {
                    continue;
                }
                match rule.action {
                    Action::Allow => return (Verdict::Allow, rule.id, log),
                    Action::Deny => return (Verdict::Deny, rule.id, log),
                    Action::Log => log = true,
                    Action::Pass => {
                        passed = true;
                        break;
                    }
                }
            }
            if !passed && tier.default_action == TierDefault::Deny {
                return (Verdict::Deny, *end, log);
            }
        }
        (Verdict::Allow, RuleId::NONE, log)
    }
}

/// Port names that traffic looks up, at the source and at the destination.
fn names_in(traffic: &[Traffic]) -> [Vec<Box<str>>; 2] {
    let names = |ports: fn(&Traffic) -> &PortMatch| {
        let specs = traffic.iter().map(ports).flat_map(|p| p.any_of.iter().chain(&p.none_of));
        let names = specs.filter_map(|spec| match spec {
            PortSpec::Named(name) => Some(name.clone()),
            PortSpec::Range(..) => None,
        });
        names.collect()
    };
    [names(|t| &t.source_ports), names(|t| &t.destination_ports)]
}

/// Port names that some rule looks up at one end: 0 the source, 1 the destination.
pub(super) fn names_of<'r>(
    rules: impl IntoIterator<Item = &'r NearRule<'r>>,
    end: usize,
) -> Vec<Box<str>> {
    let mut names: Vec<_> = rules.into_iter().flat_map(|rule| rule.names[end].clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Those ports that have one of the names.
pub(super) fn named(ports: &[NamedPort], names: &[Box<str>]) -> Vec<NamedPort> {
    ports.iter().filter(|port| names.contains(&port.name)).cloned().collect()
}
