//! The rules between two classes, read from the resolved form, and where what they say may change.

use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::ClassId;

use crate::compile::resolve::{MatchId, Resolved, ResolvedPolicy, RuleId};
use crate::compile::trees::{Outcome, SLOT_PROTOCOLS};
use crate::flow::{Header, NamedPorts, Verdict, protocol};
use crate::model::{
    Action, Direction, IpVersion, PortMatch, PortSpec, ProtocolMatch, TierDefault, Traffic,
};

/// A rule that applies to the endpoint, whoever its peer is.
pub(super) struct NearRule<'a> {
    policy: &'a ResolvedPolicy,
    index: usize,
}

/// The policies of a tier that apply to the endpoint, and their rules that do.
pub(super) struct NearTier<'a> {
    default_action: TierDefault,
    pub(super) policies: Vec<(&'a ResolvedPolicy, RuleId)>,
    pub(super) rules: Vec<NearRule<'a>>,
}

impl NearRule<'_> {
    pub(super) fn far(&self, direction: Direction) -> MatchId {
        self.policy.rules(direction).expect("it has rules").rules[self.index].far
    }

    fn traffic(&self, direction: Direction) -> &[Traffic] {
        &self.policy.written(direction, self.index).traffic
    }
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
                    near.rules.push(NearRule { policy, index });
                }
            }
        }
        tiers.push(near);
    }
    tiers
}

/// The rules between two classes.
pub(super) struct Rules<'a> {
    pub(super) direction: Direction,
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
                let mut traffic = rule.traffic(self.direction).iter();
                if !traffic.any(|t| t.matches(header, source, destination)) {
                    continue;
                }
                let resolved = &rule.policy.rules(self.direction).expect("it has rules").rules;
                let id = resolved[rule.index].id;
                match rule.policy.written(self.direction, rule.index).action {
                    Action::Allow => return (Verdict::Allow, id, log),
                    Action::Deny => return (Verdict::Deny, id, log),
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

    /// Where what the rules say may change, for one slot of a tree.
    pub(super) fn cuts(&self, slot: usize) -> Cuts {
        let mut cuts = Cuts::default();
        for (place, rule) in self.tiers.iter().flat_map(|tier| &tier.rules).enumerate() {
            let holds = (self.holds)(place);
            for traffic in rule.traffic(self.direction).iter().filter(|_| holds) {
                match SLOT_PROTOCOLS.get(slot) {
                    None => {
                        if let ProtocolMatch::Is(n) | ProtocolMatch::Not(n) = traffic.protocol {
                            cuts.protocol.add(n.into(), n.into());
                        }
                    }
                    Some(&p) if protocol::is_icmp(p) => {
                        for icmp in traffic.icmp.iter().chain(&traffic.not_icmp) {
                            // Numbers above 255 count as 255.
                            icmp.kind.iter().for_each(|&k| cuts.source.add(k.into(), k.into()));
                            icmp.code
                                .iter()
                                .for_each(|&c| cuts.destination.add(c.into(), c.into()));
                        }
                    }
                    Some(_) => {
                        cuts.source.add_ports(&traffic.source_ports, self.ports[0].0);
                        cuts.destination.add_ports(&traffic.destination_ports, self.ports[1].0);
                    }
                }
            }
        }
        cuts
    }
}

/// First values of the regions of each field.
#[derive(Default)]
pub(super) struct Cuts {
    pub(super) source: Starts,
    pub(super) destination: Starts,
    pub(super) protocol: Starts,
}

#[derive(Default)]
pub(super) struct Starts(pub(super) Vec<u16>);

impl Starts {
    fn add(&mut self, first: u16, last: u16) {
        self.0.push(first);
        self.0.extend(last.checked_add(1));
    }

    fn add_ports(&mut self, ports: &PortMatch, names: &[NamedPort]) {
        for spec in ports.any_of.iter().chain(&ports.none_of) {
            match spec {
                PortSpec::Range(first, last) => self.add(*first, *last),
                PortSpec::Named(name) => {
                    names.iter().filter(|p| p.name == *name).for_each(|p| self.add(p.port, p.port));
                }
            }
        }
    }

    fn all(&mut self) -> Vec<u16> {
        self.0.push(0);
        self.0.sort_unstable();
        self.0.dedup();
        std::mem::take(&mut self.0)
    }
}

impl Cuts {
    /// One header of each region.
    pub(super) fn headers(mut self, ip_version: IpVersion, slot: usize) -> Vec<Header> {
        let protocols: Vec<u8> = match SLOT_PROTOCOLS.get(slot) {
            Some(&protocol) => vec![protocol],
            None => {
                let starts = self.protocol.all();
                let ends = starts.iter().skip(1).copied().chain([256]);
                let regions = starts.iter().zip(ends);
                // The first protocol of each region that this slot is asked for.
                regions
                    .filter_map(|(&start, end)| {
                        let mut numbers = (start..end).filter_map(|n| u8::try_from(n).ok());
                        numbers.find(|n| !SLOT_PROTOCOLS.contains(n))
                    })
                    .collect()
            }
        };
        let (sources, destinations) = (self.source.all(), self.destination.all());
        let mut headers = Vec::with_capacity(sources.len() * destinations.len());
        for &protocol in &protocols {
            for &source_port in &sources {
                for &destination_port in &destinations {
                    headers.push(Header { ip_version, protocol, source_port, destination_port });
                }
            }
        }
        headers
    }
}

/// Port names that some rule looks up.
pub(super) fn names_of(rules: &[&NearRule<'_>], direction: Direction) -> Vec<Box<str>> {
    let traffic = rules.iter().flat_map(|rule| rule.traffic(direction));
    let specs = traffic.flat_map(|t| {
        [&t.source_ports, &t.destination_ports]
            .into_iter()
            .flat_map(|p| p.any_of.iter().chain(&p.none_of))
    });
    let names = specs.filter_map(|spec| match spec {
        PortSpec::Named(name) => Some(name.clone()),
        PortSpec::Range(..) => None,
    });
    names.collect()
}

pub(super) fn named(ports: &[NamedPort], names: &[Box<str>]) -> Vec<NamedPort> {
    ports.iter().filter(|port| names.contains(&port.name)).cloned().collect()
}

/// All that the answer of the rules depends on beside the header.
pub(super) fn case_key(
    direction: Direction,
    tiers: &[NearTier<'_>],
    bits: &[u64],
    near_ports: &[NamedPort],
    far_ports: &[NamedPort],
) -> Vec<u32> {
    let mut key = vec![direction as u32];
    let mut place = 0;
    for tier in tiers {
        key.push(u32::MAX);
        key.push(tier.default_action as u32);
        for (policy, end) in &tier.policies {
            key.extend([end.0, u32::from(policy.is_staged())]);
        }
        for rule in &tier.rules {
            if bits[place / 64] >> (place % 64) & 1 == 1 {
                key.push(
                    rule.policy.rules(direction).expect("it has rules").rules[rule.index].id.0,
                );
            }
            place += 1;
        }
    }
    for ports in [near_ports, far_ports] {
        key.push(u32::MAX);
        for port in ports {
            key.extend([u32::from(port.protocol), u32::from(port.port), port.name.len() as u32]);
            key.extend(port.name.bytes().map(u32::from));
        }
    }
    key
}
