//! Regions of headers that neither some rules nor some trees tell apart, and a header of each.

use crate::compile::trees::{Field, Ref, SLOT_PROTOCOLS, SLOTS, Trees};
use crate::compile::universe::Universe;
use crate::flow::{Header, protocol};
use crate::model::{IpVersion, PortMatch, PortSpec, ProtocolMatch, Traffic};
use crate::prove::subject::Subject;

use super::walk::BLOCK;

/// See the [module](self).
pub(super) struct Atoms {
    headers: Vec<(IpVersion, usize, Product)>,
}

/// Regions of one IP version and slot: all that come of these first values.
struct Product {
    protocols: Vec<u8>,
    sources: Vec<u16>,
    destinations: Vec<u16>,
}

impl Product {
    fn count(&self) -> usize {
        self.protocols.len() * self.sources.len() * self.destinations.len()
    }

    fn header(&self, ip_version: IpVersion, at: usize) -> Header {
        let (rest, destination) = (at / self.destinations.len(), at % self.destinations.len());
        Header {
            ip_version,
            protocol: self.protocols[rest / self.sources.len()],
            source_port: self.sources[rest % self.sources.len()],
            destination_port: self.destinations[destination],
        }
    }
}

impl Atoms {
    /// Of all rules of some endpoints, and of some trees.
    pub(super) fn of(
        subjects: &[Subject<'_>],
        trees: &[Ref],
        all: &Trees,
        universe: &Universe,
    ) -> Self {
        let mut cuts: Vec<Cuts> = (0..SLOTS).map(|_| Cuts::default()).collect();
        let mut seen = ahash::AHashSet::new();
        for rule in subjects.iter().flat_map(Subject::rules) {
            if seen.insert(rule.id) {
                for (slot, cuts) in cuts.iter_mut().enumerate() {
                    rule.traffic.iter().for_each(|t| cuts.add_traffic(t, slot, universe));
                }
            }
        }
        let mut done = ahash::AHashSet::new();
        for &tree in trees {
            for (slot, cuts) in cuts.iter_mut().enumerate() {
                let entries =
                    [IpVersion::V4, IpVersion::V6].map(|version| all.entry(tree, version, slot));
                cuts.by_version |= entries[0] != entries[1];
                for entry in entries.into_iter().flatten() {
                    if done.insert((slot, entry)) {
                        cuts.add_node(all, entry);
                    }
                }
            }
        }
        let mut headers = Vec::new();
        for (slot, cuts) in cuts.iter().enumerate() {
            headers.push((IpVersion::V4, slot, cuts.product(slot)));
            // Where nothing asks for the version, either stands for both.
            if cuts.by_version {
                headers.push((IpVersion::V6, slot, cuts.product(slot)));
            }
        }
        Self { headers }
    }

    pub(super) fn count(&self) -> usize {
        self.headers.iter().map(|(_, _, product)| product.count()).sum()
    }

    /// All headers, at most [`BLOCK`] at a time.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Vec<Header>> {
        let mut all = self.headers.iter().flat_map(|(version, _, product)| {
            (0..product.count()).map(|at| product.header(*version, at))
        });
        std::iter::from_fn(move || {
            let block: Vec<Header> = all.by_ref().take(BLOCK).collect();
            (!block.is_empty()).then_some(block)
        })
    }
}

/// First values of the regions of each field, in one slot.
#[derive(Default)]
struct Cuts {
    source: Starts,
    destination: Starts,
    protocol: Starts,
    by_version: bool,
}

/// A bit for each value.
struct Starts(Box<[u64; 1024]>);

impl Default for Starts {
    fn default() -> Self {
        let mut starts = Self(Box::new([0; 1024]));
        starts.add(0);
        starts
    }
}

impl Starts {
    fn add(&mut self, value: u16) {
        self.0[usize::from(value) / 64] |= 1 << (value % 64);
    }

    fn add_range(&mut self, first: u16, last: u16) {
        self.add(first);
        if let Some(next) = last.checked_add(1) {
            self.add(next);
        }
    }

    fn add_ports(&mut self, ports: &PortMatch, universe: &Universe) {
        for spec in ports.any_of.iter().chain(&ports.none_of) {
            match spec {
                PortSpec::Range(first, last) => self.add_range(*first, *last),
                PortSpec::Named(name) => {
                    for port in universe.numbers_of(name) {
                        self.add_range(port, port);
                    }
                }
            }
        }
    }

    fn values(&self) -> Vec<u16> {
        (0..=u16::MAX).filter(|&v| self.0[usize::from(v) / 64] >> (v % 64) & 1 == 1).collect()
    }
}

impl Cuts {
    fn add_traffic(&mut self, traffic: &Traffic, slot: usize, universe: &Universe) {
        self.by_version |= traffic.ip_version.is_some();
        match SLOT_PROTOCOLS.get(slot) {
            None => {
                if let ProtocolMatch::Is(n) | ProtocolMatch::Not(n) = traffic.protocol {
                    self.protocol.add_range(n.into(), n.into());
                }
            }
            Some(&p) if !traffic.protocol.matches(p) => {}
            Some(&p) if protocol::is_icmp(p) => {
                // Numbers above 255 count as 255, on both sides.
                for icmp in traffic.icmp.iter().chain(&traffic.not_icmp) {
                    icmp.kind.iter().for_each(|&k| self.source.add_range(k.into(), k.into()));
                    icmp.code.iter().for_each(|&c| self.destination.add_range(c.into(), c.into()));
                }
            }
            Some(_) => {
                self.source.add_ports(&traffic.source_ports, universe);
                self.destination.add_ports(&traffic.destination_ports, universe);
            }
        }
    }

    /// All nodes at and below a place that [`is_inside`].
    fn add_node(&mut self, trees: &Trees, at: Ref) {
        if at.is_leaf() {
            return;
        }
        let Some(node) = trees.node(at) else { return };
        let starts = match node.field {
            Field::Source => &mut self.source,
            Field::Destination => &mut self.destination,
            Field::Protocol => &mut self.protocol,
        };
        node.starts.iter().for_each(|&start| starts.add(start));
        node.next.iter().for_each(|&next| self.add_node(trees, next));
    }

    fn product(&self, slot: usize) -> Product {
        let protocols = match SLOT_PROTOCOLS.get(slot) {
            Some(&protocol) => vec![protocol],
            None => {
                let starts = self.protocol.values();
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
        Product {
            protocols,
            sources: self.source.values(),
            destinations: self.destination.values(),
        }
    }
}

/// Whether all of a tree is there and of the form that lookups expect.
pub(super) fn is_inside(trees: &Trees, tree: Ref) -> bool {
    let entry = |version, slot| trees.entry(tree, version, slot);
    let mut slots = (0..SLOTS).flat_map(|s| [IpVersion::V4, IpVersion::V6].map(|v| entry(v, s)));
    slots.all(|entry| entry.is_some_and(|entry| is_node(trees, entry, 3)))
}

fn is_node(trees: &Trees, at: Ref, depth: u32) -> bool {
    if at.is_leaf() {
        return (1..trees.outcomes.len()).contains(&at.index());
    }
    let (Some(node), Some(depth)) = (trees.node(at), depth.checked_sub(1)) else { return false };
    // The walk looks for the last start at or before a value: they must ascend from 0.
    node.starts.first() == Some(&0)
        && node.starts.is_sorted_by(|a, b| a < b)
        && node.next.iter().all(|&next| is_node(trees, next, depth))
}
