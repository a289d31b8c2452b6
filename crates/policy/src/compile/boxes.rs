//! What traffic a rule means, as boxes: an interval set of one field times an interval set of another,
//! for each IP version and slot of a tree.

use portcullis_identity_table::endpoint::NamedPort;

use super::trees::SLOT_PROTOCOLS;
use crate::flow::protocol;
use crate::model::{Icmp, IpVersion, PortMatch, PortSpec, Traffic};

/// Values of a field: ascending intervals that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Values(pub(crate) Vec<(u16, u16)>);

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

    #[cfg(test)]
    pub(crate) fn contains(&self, value: u16) -> bool {
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
pub(crate) struct Box2 {
    pub(crate) outer: Values,
    pub(crate) inner: Values,
}

/// The boxes of one traffic for a version and slot.
/// `ports` are the named ports at the source and at the destination.
pub(crate) fn boxes(
    traffic: &Traffic,
    ports: [&[NamedPort]; 2],
    version: IpVersion,
    slot: usize,
) -> Vec<Box2> {
    if traffic.ip_version.is_some_and(|v| v != version) {
        return Vec::new();
    }
    let found = match SLOT_PROTOCOLS.get(slot) {
        None => other_protocols(traffic),
        Some(&p) if !traffic.protocol.matches(p) => Vec::new(),
        Some(&p) if protocol::is_icmp(p) => icmp(traffic),
        Some(&p) => by_ports(traffic, ports, p),
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

fn by_ports(
    traffic: &Traffic,
    [source, destination]: [&[NamedPort]; 2],
    protocol: u8,
) -> Vec<Box2> {
    if traffic.icmp.is_some() {
        return Vec::new();
    }
    let outer = port_values(&traffic.destination_ports, destination, protocol);
    let inner = port_values(&traffic.source_ports, source, protocol);
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
