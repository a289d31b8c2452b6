//! The slow twin of the proof, for the tests: each pair of classes, each region of its own rules and
//! tree, header by header.

use ahash::AHashSet;
use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::ClassId;
use portcullis_identity_table::registry::Registry;

use super::rules::{NearTier, Ports, Rules, applying, near_tiers};
use super::{Case, Mismatch, describe};
use crate::compile::Compiler;
use crate::compile::grid::RowId;
use crate::compile::trees::{Field, Ref, SLOT_PROTOCOLS, SLOTS, Trees};
use crate::flow::{Header, Verdict, protocol};
use crate::model::{Direction, IpVersion, PortMatch, PortSpec, ProtocolMatch};
use crate::program::{NO_ROW, Program};

/// What a proof checks of rows; records are left to it.
pub(crate) fn prove_rows(
    program: &Program,
    compiler: &Compiler,
    registry: &Registry,
) -> Result<(), Mismatch> {
    for direction in [Direction::Ingress, Direction::Egress] {
        let applying = applying(&compiler.resolved, direction, compiler.universe.count());
        let mut done = AHashSet::new();
        for identity in registry.identities() {
            let record = program.records[identity.id.get() as usize];
            let row = match direction {
                Direction::Ingress => record.ingress,
                Direction::Egress => record.egress,
            };
            let class = identity.class_id;
            if row != NO_ROW && done.insert((row, class)) {
                let tiers =
                    near_tiers(&compiler.resolved, direction, class, &applying[class.0 as usize]);
                Prover { program, compiler }.row(direction, RowId(row), class, &tiers)?;
            }
        }
    }
    Ok(())
}

struct Prover<'a> {
    program: &'a Program,
    compiler: &'a Compiler,
}

impl Prover<'_> {
    fn row(
        &self,
        direction: Direction,
        row: RowId,
        subject: ClassId,
        tiers: &[NearTier<'_>],
    ) -> Result<(), Mismatch> {
        let Compiler { resolved, universe, .. } = self.compiler;
        let rules: Vec<_> = tiers.iter().flat_map(|tier| &tier.rules).collect();
        let near_ports = universe.named_ports(subject);
        for class in (0..universe.count()).map(ClassId) {
            let Some(peer) = universe.class(class) else { continue };
            let case = || {
                let subject = universe.class(subject).map(|c| describe(c)).unwrap_or_default();
                Box::new(Case { direction, subject, peer: describe(peer) })
            };
            let Some(tree) = self.program.grid.tree(row, class.0) else {
                return Err(Mismatch::Broken { case: case() });
            };
            let far_ports = universe.named_ports(class);
            let ports = match direction {
                Direction::Ingress => [Ports(far_ports), Ports(near_ports)],
                Direction::Egress => [Ports(near_ports), Ports(far_ports)],
            };
            let holds = |r: usize| resolved.members(rules[r].far).contains(class);
            self.case(tree, &Rules { tiers, holds: &holds, ports }, &case)?;
        }
        Ok(())
    }

    /// One set of rules against one tree, over all headers.
    fn case(
        &self,
        tree: Ref,
        rules: &Rules<'_>,
        case: &dyn Fn() -> Box<Case>,
    ) -> Result<(), Mismatch> {
        let trees = &self.program.trees;
        for ip_version in [IpVersion::V4, IpVersion::V6] {
            for slot in 0..SLOTS {
                let mut cuts = cuts(rules, slot);
                let inside = trees
                    .entry(tree, ip_version, slot)
                    .is_some_and(|entry| collect_starts(trees, entry, &mut cuts, 3));
                if !inside {
                    return Err(Mismatch::Broken { case: case() });
                }
                for header in cuts.headers(ip_version, slot) {
                    let leaf = trees.walk(tree, &header);
                    let policies = rules.outcome(&header);
                    let program = *trees.outcome(leaf);
                    // The bits of a leaf are read more often than its outcome.
                    let bits = leaf.is_deny() == (program.verdict == Verdict::Deny)
                        && leaf.is_log() == program.log
                        && leaf.is_staged() == (program.staged != (program.verdict, program.rule));
                    if program != policies || !bits {
                        let (program, policies) = (Box::new(program), Box::new(policies));
                        return Err(Mismatch::Decision { case: case(), header, program, policies });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Adds the starts of all nodes below `at`; false if it leads out of the program or too deep.
fn collect_starts(trees: &Trees, at: Ref, cuts: &mut Cuts, depth: u32) -> bool {
    if at.is_leaf() {
        return (1..trees.outcomes.len()).contains(&at.index());
    }
    let (Some(node), Some(depth)) = (trees.node(at), depth.checked_sub(1)) else { return false };
    let starts = match node.field {
        Field::Source => &mut cuts.source,
        Field::Destination => &mut cuts.destination,
        Field::Protocol => &mut cuts.protocol,
    };
    // The walk looks for the last start at or before a value: they must ascend from 0.
    if node.starts.first() != Some(&0) || !node.starts.is_sorted_by(|a, b| a < b) {
        return false;
    }
    starts.0.extend(node.starts.iter());
    node.next.iter().all(|&next| collect_starts(trees, next, cuts, depth))
}

/// Where what the rules say may change, for one slot of a tree.
fn cuts(rules: &Rules<'_>, slot: usize) -> Cuts {
    let mut cuts = Cuts::default();
    for (place, rule) in rules.tiers.iter().flat_map(|tier| &tier.rules).enumerate() {
        let holds = (rules.holds)(place);
        for traffic in rule.traffic.iter().filter(|_| holds) {
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
                        icmp.code.iter().for_each(|&c| cuts.destination.add(c.into(), c.into()));
                    }
                }
                Some(_) => {
                    cuts.source.add_ports(&traffic.source_ports, rules.ports[0].0);
                    cuts.destination.add_ports(&traffic.destination_ports, rules.ports[1].0);
                }
            }
        }
    }
    cuts
}

/// First values of the regions of each field.
#[derive(Default)]
struct Cuts {
    source: Starts,
    destination: Starts,
    protocol: Starts,
}

#[derive(Default)]
struct Starts(Vec<u16>);

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
    fn headers(mut self, ip_version: IpVersion, slot: usize) -> Vec<Header> {
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
