//! Proof: the program says what the resolved form says, for every pair of identities and every
//! header.
//!
//! Nothing is sampled. The resolved form is walked rule by rule, without anything the compiler
//! derived from it. Pairs to which the same rules apply and that the program answers by the same
//! tree are one case; within a case, headers between two neighbouring ends of intervals (of any
//! rule, or of any node of the tree) are one region, since neither side can tell them apart. One
//! header of each region is asked of both.
//!
//! The resolved form itself is held to the model by property tests against [`crate::judge`].

#[cfg(test)]
mod mutants;
mod rules;

use std::fmt;

use ahash::AHashSet;
use portcullis_identity_table::IdentityId;
use portcullis_identity_table::identity::{Class, ClassId, Identity, Owner};
use portcullis_identity_table::registry::Registry;

use self::rules::{Cuts, NearRule, Ports, Rules, applying, case_key, named, names_of, near_tiers};
use crate::compile::Compiler;
use crate::compile::grid::RowId;
use crate::compile::trees::{Field, Outcome, Ref, SLOTS, Trees};
use crate::flow::{Header, Verdict};
use crate::model::{Direction, IpVersion};
use crate::program::{NO_ROW, Program, Record};

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Identities whose records are right.
    pub identities: u64,
    /// Pairs of what applies to an endpoint and a peer's class, both directions.
    pub pairs: u64,
    /// Distinct cases of rules and tree among them.
    pub cases: u64,
    /// Regions of headers compared over all cases.
    pub regions: u64,
}

/// Where program and resolved form differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// An identity's record is not what its class, node and pod make it.
    #[error("identity {identity}: its record is not what its class, node and pod make it")]
    Record {
        /// The identity.
        identity: IdentityId,
    },
    /// Policies have a say where none applies.
    #[error("the program lets policies have a say where none applies")]
    NoSay,
    /// A tree leads out of the program.
    #[error("{case}: the tree leads out of the program")]
    Broken {
        /// Which pair.
        case: Box<Case>,
    },
    /// A flow is decided differently.
    #[error("{case}, {header:?}: the program says {program:?}, the policies say {policies:?}")]
    Decision {
        /// Which pair.
        case: Box<Case>,
        /// The header.
        header: Header,
        /// What the program says.
        program: Box<Outcome>,
        /// What the policies say.
        policies: Box<Outcome>,
    },
}

/// A pair of classes, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The direction.
    pub direction: Direction,
    /// The endpoint that policies apply to.
    pub subject: String,
    /// Its peer.
    pub peer: String,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, preposition) = match self.direction {
            Direction::Ingress => ("ingress", "from"),
            Direction::Egress => ("egress", "to"),
        };
        write!(f, "{direction} of {} {preposition} {}", self.subject, self.peer)
    }
}

/// Checks a program against what it was compiled from.
pub(crate) fn prove(
    program: &Program,
    compiler: &Compiler,
    registry: &Registry,
) -> Result<Proof, Mismatch> {
    let mut prover = Prover {
        program,
        compiler,
        proof: Proof::default(),
        proved: AHashSet::new(),
        rows: AHashSet::new(),
    };
    prover.records(registry)?;
    let columns =
        (0..compiler.universe.count()).filter(|&c| compiler.universe.class(ClassId(c)).is_some());
    for column in columns {
        if program.grid.tree(RowId::NONE, column) != Some(Ref::NO_SAY) {
            return Err(Mismatch::NoSay);
        }
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let applying = applying(&compiler.resolved, direction, compiler.universe.count());
        // Several classes may share a row, if the same rules apply to them.
        let mut done = AHashSet::new();
        for identity in registry.identities() {
            let record = program.records[identity.id.get() as usize];
            let row = match direction {
                Direction::Ingress => record.ingress,
                Direction::Egress => record.egress,
            };
            if row != NO_ROW && done.insert((row, identity.class_id)) {
                let applying = &applying[identity.class_id.0 as usize];
                prover.row(direction, RowId(row), identity.class_id, applying)?;
            }
        }
    }
    Ok(prover.proof)
}

struct Prover<'a> {
    program: &'a Program,
    compiler: &'a Compiler,
    proof: Proof,
    /// Cases that are done, by the tree and all that the rules depend on.
    proved: AHashSet<(Ref, Vec<u32>)>,
    /// Rows that are done, with all that applies at the endpoint.
    rows: AHashSet<(RowId, Vec<u32>)>,
}

impl<'a> Prover<'a> {
    /// Every record, of identities that are there and of those that are not.
    fn records(&mut self, registry: &Registry) -> Result<(), Mismatch> {
        let reserved = [
            IdentityId::UNKNOWN,
            IdentityId::HOST,
            IdentityId::OWN_NODE,
            IdentityId::WORLD_V4,
            IdentityId::WORLD_V6,
        ];
        for (index, record) in self.program.records.iter().enumerate() {
            let id = IdentityId::new(index as u32);
            let right = match registry.identity(id) {
                Some(identity) => self.is_record_of(record, identity),
                None if reserved.contains(&id) => *record == Record::WORLD,
                None => *record == Record::ABSENT,
            };
            if !right {
                return Err(Mismatch::Record { identity: id });
            }
            self.proof.identities += 1;
        }
        let missing =
            registry.identities().find(|i| i.id.get() as usize >= self.program.records.len());
        missing.map_or(Ok(()), |identity| Err(Mismatch::Record { identity: identity.id }))
    }

    fn is_record_of(&self, record: &Record, identity: &Identity) -> bool {
        let workload = matches!(identity.class.owner, Owner::Workload(_));
        let is_node = matches!(identity.class.owner, Owner::Node { .. });
        let node = identity.node.as_ref().map_or(0, |(number, _)| i64::from(number.0.get()));
        let pod = identity.pod.as_ref().map_or(0, |(number, _)| number.0.get());
        record.class == identity.class_id.0
            && i64::from(record.node) == if is_node { -node } else { node }
            && record.pod == pod
            && [record.ingress, record.egress].iter().all(|&row| self.is_row(row) == workload)
    }

    fn is_row(&self, row: u32) -> bool {
        let grid = &self.program.grid;
        row != NO_ROW && (row as usize + 1) * grid.stride <= grid.rows.len()
    }

    /// One row, as the answer for one class of endpoints, against every class of peers.
    fn row(
        &mut self,
        direction: Direction,
        row: RowId,
        subject: ClassId,
        applying: &[(u32, u32)],
    ) -> Result<(), Mismatch> {
        let (resolved, universe) = (&self.compiler.resolved, &self.compiler.universe);
        let tiers = near_tiers(resolved, direction, subject, applying);
        let rules: Vec<&NearRule<'_>> = tiers.iter().flat_map(|tier| &tier.rules).collect();
        let names = names_of(&rules, direction);
        let near_ports = named(universe.named_ports(subject), &names);
        let words = rules.len().div_ceil(64).max(1);
        let near_key = case_key(direction, &tiers, &vec![u64::MAX; words], &near_ports, &[]);
        if !self.rows.insert((row, near_key)) {
            return Ok(());
        }
        // For each peer one bit a rule: whether its side of the rule holds.
        let count = universe.count() as usize;
        let mut holds = vec![0u64; words * count];
        for (r, rule) in rules.iter().enumerate() {
            let members = resolved.members(rule.far(direction));
            for class in members.members(universe.count()) {
                holds[class as usize * words + r / 64] |= 1 << (r % 64);
            }
        }
        let mut seen: AHashSet<(Ref, &[u64])> = AHashSet::new();
        for class in 0..universe.count() {
            let Some(peer) = universe.class(ClassId(class)) else { continue };
            self.proof.pairs += 1;
            let case = || {
                let subject = universe.class(subject).map(|c| describe(c)).unwrap_or_default();
                Box::new(Case { direction, subject, peer: describe(peer) })
            };
            let Some(tree) = self.program.grid.tree(row, class) else {
                return Err(Mismatch::Broken { case: case() });
            };
            let bits = &holds[class as usize * words..][..words];
            let far_ports = named(universe.named_ports(ClassId(class)), &names);
            if far_ports.is_empty() && !seen.insert((tree, bits)) {
                continue;
            }
            let key = case_key(direction, &tiers, bits, &near_ports, &far_ports);
            if !self.proved.insert((tree, key)) {
                continue;
            }
            self.proof.cases += 1;
            let ports = match direction {
                Direction::Ingress => [Ports(&far_ports), Ports(&near_ports)],
                Direction::Egress => [Ports(&near_ports), Ports(&far_ports)],
            };
            let bit = |r: usize| bits[r / 64] >> (r % 64) & 1 == 1;
            let rules = Rules { direction, tiers: &tiers, holds: &bit, ports };
            self.case(tree, &rules, &case)?;
        }
        Ok(())
    }

    /// One set of rules against one tree, over all headers.
    fn case(
        &mut self,
        tree: Ref,
        rules: &Rules<'_>,
        case: &dyn Fn() -> Box<Case>,
    ) -> Result<(), Mismatch> {
        let trees = &self.program.trees;
        for ip_version in [IpVersion::V4, IpVersion::V6] {
            for slot in 0..SLOTS {
                let mut cuts = rules.cuts(slot);
                let inside = trees
                    .entry(tree, ip_version, slot)
                    .is_some_and(|entry| collect_starts(trees, entry, &mut cuts, 3));
                if !inside {
                    return Err(Mismatch::Broken { case: case() });
                }
                for header in cuts.headers(ip_version, slot) {
                    self.proof.regions += 1;
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

fn describe(class: &Class) -> String {
    match &class.owner {
        Owner::Workload(w) => {
            let labels: Vec<_> = w.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("pods of {} with [{}]", w.namespace.name, labels.join(", "))
        }
        Owner::Node { name, .. } => format!("node {name}"),
        Owner::World if class.cover.is_empty() => "the world".into(),
        Owner::World => format!("the world within prefixes {:?}", class.cover),
    }
}
