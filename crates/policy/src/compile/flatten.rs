//! From the ordered rules between two classes to a port tree.
//!
//! What traffic a rule means becomes boxes: an interval set of one field times an interval set of
//! another. The outcome is constant between neighbouring ends of intervals, so one walk of the rules
//! for each such cell is the whole function.

use portcullis_identity_table::endpoint::NamedPort;

use super::resolve::RuleId;
use super::trees::{Field, Full, Outcome, Ref, SLOT_PROTOCOLS, SLOTS, TreeBuilder};
use crate::flow::{Verdict, protocol};
use crate::model::{Action, Icmp, IpVersion, PortMatch, PortSpec, TierDefault, Traffic};

/// The rules between two classes, in order, tier by tier; only tiers that apply.
#[derive(Debug, Default)]
pub(crate) struct Sequence<'a> {
    pub(crate) tiers: Vec<SequenceTier<'a>>,
    /// Named ports of the class at the source.
    pub(crate) source_ports: &'a [NamedPort],
    /// Named ports of the class at the destination.
    pub(crate) destination_ports: &'a [NamedPort],
}

#[derive(Debug)]
pub(crate) struct SequenceTier<'a> {
    pub(crate) default_action: TierDefault,
    /// The end of the tier by the first enforced policy that applies, if one does.
    pub(crate) enforced_end: Option<RuleId>,
    /// The end of the tier by the first policy that applies, staged or not.
    pub(crate) staged_end: RuleId,
    pub(crate) rules: Vec<SequenceRule<'a>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SequenceRule<'a> {
    pub(crate) id: RuleId,
    pub(crate) action: Action,
    pub(crate) staged: bool,
    pub(crate) traffic: &'a [Traffic],
}

/// Walks the tiers; `matches` tells of each rule, by tier and place in it, whether it matches.
pub(crate) fn decide(
    sequence: &Sequence<'_>,
    mut matches: impl FnMut(usize, usize) -> bool,
) -> Outcome {
    let mut walk = |staged: bool| {
        let mut log = false;
        'tiers: for (t, tier) in sequence.tiers.iter().enumerate() {
            let end = if staged { Some(tier.staged_end) } else { tier.enforced_end };
            let Some(end) = end else { continue };
            for (r, rule) in tier.rules.iter().enumerate() {
                if (rule.staged && !staged) || !matches(t, r) {
                    continue;
                }
                match rule.action {
                    Action::Allow => return (Verdict::Allow, rule.id, log),
                    Action::Deny => return (Verdict::Deny, rule.id, log),
                    Action::Pass => continue 'tiers,
                    Action::Log => log = true,
                }
            }
            if tier.default_action == TierDefault::Deny {
                return (Verdict::Deny, end, log);
            }
        }
        (Verdict::Allow, RuleId::NONE, log)
    };
    let (verdict, rule, log) = walk(false);
    let any_staged = sequence.tiers.iter().any(|tier| {
        tier.enforced_end != Some(tier.staged_end) || tier.rules.iter().any(|rule| rule.staged)
    });
    let staged = if any_staged {
        let (verdict, rule, _) = walk(true);
        (verdict, rule)
    } else {
        (verdict, rule)
    };
    Outcome { verdict, rule, log, staged }
}

/// Builds the tree of a sequence of rules.
pub(crate) fn tree(sequence: &Sequence<'_>, builder: &mut TreeBuilder) -> Result<Ref, Full> {
    let mut entries = |version| -> Result<[Ref; SLOTS], Full> {
        let mut entries = [Ref(0); SLOTS];
        for (slot, entry) in entries.iter_mut().enumerate() {
            *entry = slot_tree(sequence, version, slot, builder)?;
        }
        Ok(entries)
    };
    let v4 = entries(IpVersion::V4)?;
    let mut traffic = sequence.tiers.iter().flat_map(|t| &t.rules).flat_map(|rule| rule.traffic);
    let v6 = if traffic.any(|t| t.ip_version.is_some()) { entries(IpVersion::V6)? } else { v4 };
    builder.root(v4, v6)
}

/// Values of a field: ascending intervals that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values(Vec<(u16, u16)>);

impl Values {
    fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    fn one(value: u8) -> Self {
        // A type or code above 255 counts as 255, see `Header::icmp`.
        Self(vec![(value.into(), if value == u8::MAX { u16::MAX } else { value.into() })])
    }

    fn of(mut intervals: Vec<(u16, u16)>) -> Self {
        intervals.retain(|(first, last)| first <= last);
        intervals.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn complement(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut next = Some(0);
        for &(first, last) in &self.0 {
            if let Some(start) = next
                && start < first
            {
                gaps.push((start, first - 1));
            }
            next = last.checked_add(1);
        }
        gaps.extend(next.map(|start| (start, u16::MAX)));
        Self(gaps)
    }

    fn intersection(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        for &(a, b) in &self.0 {
            for &(c, d) in &other.0 {
                if a.max(c) <= b.min(d) {
                    both.push((a.max(c), b.min(d)));
                }
            }
        }
        Self::of(both)
    }

    fn contains(&self, value: u16) -> bool {
        self.0
            .partition_point(|&(first, _)| first <= value)
            .checked_sub(1)
            .is_some_and(|i| value <= self.0[i].1)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A part of what a rule matches: both fields within their values.
struct Box2 {
    outer: Values,
    inner: Values,
}

/// The rules of a sequence for one IP version and protocol: boxes by tier and place.
type Boxes = Vec<Vec<Vec<Box2>>>;

fn slot_tree(
    sequence: &Sequence<'_>,
    version: IpVersion,
    slot: usize,
    builder: &mut TreeBuilder,
) -> Result<Ref, Full> {
    let (outer, inner) = match SLOT_PROTOCOLS.get(slot) {
        None => (Field::Protocol, Field::Source),
        Some(&p) if protocol::is_icmp(p) => (Field::Source, Field::Destination),
        Some(_) => (Field::Destination, Field::Source),
    };
    let boxes: Boxes = sequence
        .tiers
        .iter()
        .map(|tier| {
            tier.rules
                .iter()
                .map(|rule| {
                    rule.traffic.iter().flat_map(|t| boxes(t, sequence, version, slot)).collect()
                })
                .collect()
        })
        .collect();
    let all = || boxes.iter().flatten().flatten();
    let mut intervals = Vec::new();
    for start in starts(all().map(|b| &b.outer)) {
        let here = |b: &&Box2| b.outer.contains(start);
        let mut cells = Vec::new();
        for inner_start in starts(all().filter(here).map(|b| &b.inner)) {
            let outcome = decide(sequence, |t, r| {
                boxes[t][r].iter().any(|b| b.outer.contains(start) && b.inner.contains(inner_start))
            });
            cells.push((inner_start, builder.leaf(outcome)?));
        }
        intervals.push((start, builder.node(inner, &cells)?));
    }
    builder.node(outer, &intervals)
}

/// Where the outcome may change: 0, and wherever some values begin or have just ended.
fn starts<'a>(values: impl Iterator<Item = &'a Values>) -> Vec<u16> {
    let mut starts = vec![0];
    for &(first, last) in values.flat_map(|v| &v.0) {
        starts.push(first);
        starts.extend(last.checked_add(1));
    }
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// The boxes of one traffic for a version and slot.
fn boxes(traffic: &Traffic, sequence: &Sequence<'_>, version: IpVersion, slot: usize) -> Vec<Box2> {
    if traffic.ip_version.is_some_and(|v| v != version) {
        return Vec::new();
    }
    let found = match SLOT_PROTOCOLS.get(slot) {
        None => other_protocols(traffic),
        Some(&p) if !traffic.protocol.matches(p) => Vec::new(),
        Some(&p) if protocol::is_icmp(p) => icmp(traffic),
        Some(&p) => ports(traffic, sequence, p),
    };
    found.into_iter().filter(|b| !b.outer.is_empty() && !b.inner.is_empty()).collect()
}

fn other_protocols(traffic: &Traffic) -> Vec<Box2> {
    let portless =
        traffic.source_ports.any_of.is_empty() && traffic.destination_ports.any_of.is_empty();
    if !portless || traffic.icmp.is_some() {
        return Vec::new();
    }
    let numbers = (0..=u8::MAX).filter(|&p| traffic.protocol.matches(p));
    let outer = Values::of(numbers.map(|p| (p.into(), p.into())).collect());
    vec![Box2 { outer, inner: Values::all() }]
}

fn icmp(traffic: &Traffic) -> Vec<Box2> {
    if !traffic.source_ports.any_of.is_empty() || !traffic.destination_ports.any_of.is_empty() {
        return Vec::new();
    }
    let sides = |icmp: Icmp| {
        let values = |n: Option<u8>| n.map_or_else(Values::all, Values::one);
        (values(icmp.kind), values(icmp.code))
    };
    let (kinds, codes) = traffic.icmp.map_or_else(|| (Values::all(), Values::all()), sides);
    let Some(not) = traffic.not_icmp else {
        return vec![Box2 { outer: kinds, inner: codes }];
    };
    let (not_kinds, not_codes) = sides(not);
    vec![
        Box2 { outer: kinds.intersection(&not_kinds.complement()), inner: codes.clone() },
        Box2 {
            outer: kinds.intersection(&not_kinds),
            inner: codes.intersection(&not_codes.complement()),
        },
    ]
}

fn ports(traffic: &Traffic, sequence: &Sequence<'_>, protocol: u8) -> Vec<Box2> {
    if traffic.icmp.is_some() {
        return Vec::new();
    }
    let outer = port_values(&traffic.destination_ports, sequence.destination_ports, protocol);
    let inner = port_values(&traffic.source_ports, sequence.source_ports, protocol);
    vec![Box2 { outer, inner }]
}

fn port_values(ports: &PortMatch, names: &[NamedPort], protocol: u8) -> Values {
    let values = |specs: &[PortSpec]| {
        let mut intervals = Vec::new();
        for spec in specs {
            match spec {
                PortSpec::Range(first, last) => intervals.push((*first, *last)),
                PortSpec::Named(name) => intervals.extend(
                    names
                        .iter()
                        .filter(|p| p.name == *name && p.protocol == protocol)
                        .map(|p| (p.port, p.port)),
                ),
            }
        }
        Values::of(intervals)
    };
    let any = if ports.any_of.is_empty() { Values::all() } else { values(&ports.any_of) };
    if ports.none_of.is_empty() {
        any
    } else {
        any.intersection(&values(&ports.none_of).complement())
    }
}
