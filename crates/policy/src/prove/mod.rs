//! Proof: the program says what the resolved form says, for every pair of identities and every
//! header.
//!
//! Nothing is sampled. The resolved form is walked rule by rule, without anything the compiler
//! derived from it: no code that compiles is used here, only what was written (`Traffic::matches`)
//! and what lookups read. Headers between two neighbouring ends of intervals (of any rule, or of any
//! node of a tree) are one region, since neither side can tell them apart; one header stands for
//! each (module `atoms`). What a rule means is then a set of regions, and the rules between an endpoint and
//! a peer are walked for all regions at once (module `walk`), on several threads.
//!
//! Endpoints are taken in groups that share regions; a group whose regions or pairs are too many is
//! halved, so memory is bounded.
//!
//! The resolved form itself is held to the model by property tests against [`crate::judge`], and this
//! proof to a slow twin that walks header by header.

mod atoms;
#[cfg(test)]
mod mutants;
mod rules;
#[cfg(test)]
mod slow;
mod subject;
mod walk;

use std::fmt;

use ahash::AHashSet;
use portcullis_identity_table::IdentityId;
use portcullis_identity_table::identity::{Class, ClassId, Identity, Owner};
use portcullis_identity_table::registry::Registry;

use self::atoms::Atoms;
use self::rules::{applying, near_tiers};
use self::subject::{Cases, Subject};
use self::walk::Block;
use crate::compile::Compiler;
use crate::compile::grid::RowId;
use crate::compile::trees::{Outcome, Ref};
use crate::flow::Header;
use crate::model::Direction;
use crate::parallel::in_parallel;
use crate::program::{NO_ROW, Program, Record};

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Identities whose records are right.
    pub identities: u64,
    /// Pairs of what applies to an endpoint and a peer's class, both directions.
    pub pairs: u64,
    /// Cases among them: peers of an endpoint to which other rules apply, or that have another tree.
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

/// Regions of headers that a group of endpoints may share.
const MOST_ATOMS: usize = 4096;
/// Pairs of endpoints and peers of a group.
const MOST_PAIRS: usize = 8 << 20;

/// Checks a program against what it was compiled from.
pub(crate) fn prove(
    program: &Program,
    compiler: &Compiler,
    registry: &Registry,
) -> Result<Proof, Mismatch> {
    let mut prover = Prover { program, compiler, proof: Proof::default() };
    prover.records(registry)?;
    let columns =
        (0..compiler.universe.count()).filter(|&c| compiler.universe.class(ClassId(c)).is_some());
    for column in columns {
        if program.grid.tree(RowId::NONE, column) != Some(Ref::NO_SAY) {
            return Err(Mismatch::NoSay);
        }
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let subjects = prover.subjects(direction, registry);
        prover.group(&subjects)?;
    }
    Ok(prover.proof)
}

#[cfg(test)]
pub(crate) use self::slow::prove_rows as slowly;

struct Prover<'a> {
    program: &'a Program,
    compiler: &'a Compiler,
    proof: Proof,
}

impl<'a> Prover<'a> {
    /// Every record, of identities that are there and of those that are not.
    fn records(&mut self, registry: &Registry) -> Result<(), Mismatch> {
        for (index, record) in self.program.records.iter().enumerate() {
            let id = IdentityId::new(index as u32);
            let right = match registry.identity(id) {
                Some(identity) => self.is_record_of(record, identity),
                None if IdentityId::RESERVED.contains(&id) => *record == Record::WORLD,
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

    /// What has rows: classes of endpoints, those once that nothing tells apart.
    fn subjects(&self, direction: Direction, registry: &Registry) -> Vec<Subject<'a>> {
        let Compiler { resolved, universe, .. } = self.compiler;
        let applying = applying(resolved, direction, universe.count());
        let mut seen_classes = AHashSet::new();
        let mut seen = AHashSet::new();
        let mut subjects = Vec::new();
        for identity in registry.identities() {
            let record = self.program.records[identity.id.get() as usize];
            let row = match direction {
                Direction::Ingress => record.ingress,
                Direction::Egress => record.egress,
            };
            let class = identity.class_id;
            if row == NO_ROW || !seen_classes.insert((row, class)) {
                continue;
            }
            let tiers = near_tiers(resolved, direction, class, &applying[class.0 as usize]);
            let subject = Subject::new(direction, RowId(row), class, tiers, universe);
            if seen.insert(subject.key()) {
                subjects.push(subject);
            }
        }
        subjects
    }

    /// Some endpoints against every class of peers.
    fn group(&mut self, subjects: &[Subject<'a>]) -> Result<(), Mismatch> {
        let Self { program, compiler, .. } = *self;
        let classes = compiler.universe.count() as usize;
        let halve = |prover: &mut Self| {
            let (one, other) = subjects.split_at(subjects.len() / 2);
            prover.group(one).and_then(|()| prover.group(other))
        };
        if subjects.is_empty() {
            return Ok(());
        }
        if subjects.len() > 1 && subjects.len().saturating_mul(classes) > MOST_PAIRS {
            return halve(self);
        }
        let threads = compiler.config.proof_threads;
        let cases = in_parallel(threads, subjects, |s| Cases::of(s, program, compiler))?;
        let mut trees: Vec<Ref> = cases.iter().flat_map(|cases| cases.distinct_trees()).collect();
        trees.sort_unstable();
        trees.dedup();
        let atoms = Atoms::of(subjects, &trees, &program.trees, &compiler.universe);
        if subjects.len() > 1 && atoms.count() > MOST_ATOMS {
            return halve(self);
        }
        let pairs: Vec<_> = subjects.iter().zip(&cases).collect();
        for headers in atoms.blocks() {
            let block = Block::new(&headers, subjects, &trees, program, threads);
            in_parallel(threads, &pairs, |(subject, cases)| {
                block.check(subject, cases, program, compiler)
            })?;
        }
        for cases in &cases {
            self.proof.pairs += cases.pairs;
            self.proof.cases += cases.count() as u64;
            self.proof.regions += cases.count() as u64 * atoms.count() as u64;
        }
        Ok(())
    }
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
