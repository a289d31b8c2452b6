//! The endpoint's side of a proof, and its cases: what rules apply to which of its peers.

use ahash::{AHashMap, AHashSet};
use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::ClassId;

use super::rules::{NearRule, NearTier, named, names_of};
use super::{Case, Mismatch, describe};
use crate::compile::Compiler;
use crate::compile::grid::RowId;
use crate::compile::trees::Ref;
use crate::compile::universe::Universe;
use crate::model::Direction;
use crate::program::Program;

/// A class of endpoints, and what applies to it.
pub(super) struct Subject<'a> {
    pub(super) direction: Direction,
    pub(super) row: RowId,
    pub(super) class: ClassId,
    pub(super) tiers: Vec<NearTier<'a>>,
    /// The endpoint's ports that some rule asks for by name.
    pub(super) near_ports: Vec<NamedPort>,
    /// Names by which some rule asks for ports of its peer.
    far_names: Vec<Box<str>>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(
        direction: Direction,
        row: RowId,
        class: ClassId,
        tiers: Vec<NearTier<'a>>,
        universe: &Universe,
    ) -> Self {
        let rules = || tiers.iter().flat_map(|tier| &tier.rules);
        let (near, far) = match direction {
            Direction::Ingress => (1, 0),
            Direction::Egress => (0, 1),
        };
        let near_ports = named(universe.named_ports(class), &names_of(rules(), near));
        let far_names = names_of(rules(), far);
        Self { direction, row, class, tiers, near_ports, far_names }
    }

    /// Rules in order over all tiers.
    pub(super) fn rules(&self) -> impl Iterator<Item = &NearRule<'a>> {
        self.tiers.iter().flat_map(|tier| &tier.rules)
    }

    /// All that the answers depend on, beside the peer and the header.
    pub(super) fn key(&self) -> (RowId, Vec<u32>, Vec<NamedPort>) {
        let mut key = Vec::new();
        for tier in &self.tiers {
            key.extend([u32::MAX, tier.default_action as u32]);
            for (policy, end) in &tier.policies {
                key.extend([end.0, u32::from(policy.is_staged())]);
            }
            key.push(u32::MAX);
            key.extend(tier.rules.iter().map(|rule| rule.id.0));
        }
        (self.row, key, self.near_ports.clone())
    }

    pub(super) fn case(&self, peer: ClassId, compiler: &Compiler) -> Box<Case> {
        let words = |class| compiler.universe.class(class).map(|c| describe(c)).unwrap_or_default();
        Box::new(Case { direction: self.direction, subject: words(self.class), peer: words(peer) })
    }
}

/// The peers of an endpoint, those once that have the same tree, the same rules and the same ports.
pub(super) struct Cases {
    /// Peers looked at.
    pub(super) pairs: u64,
    pub(super) trees: Vec<Ref>,
    pub(super) peers: Vec<ClassId>,
    /// One bit a rule, `words` a case: whether the peer's side of the rule holds.
    bits: Vec<u64>,
    words: usize,
    /// By case, into `distinct_ports`.
    ports: Vec<u32>,
    pub(super) distinct_ports: Vec<Vec<NamedPort>>,
}

impl Cases {
    pub(super) fn of(
        subject: &Subject<'_>,
        program: &Program,
        compiler: &Compiler,
    ) -> Result<Self, Mismatch> {
        let Compiler { resolved, universe, .. } = compiler;
        let words = subject.rules().count().div_ceil(64).max(1);
        let count = universe.count() as usize;
        let mut holds = vec![0u64; words * count];
        for (r, rule) in subject.rules().enumerate() {
            for class in resolved.members(rule.far).members(universe.count()) {
                holds[class as usize * words + r / 64] |= 1 << (r % 64);
            }
        }
        let mut this = Self {
            pairs: 0,
            trees: Vec::new(),
            peers: Vec::new(),
            bits: Vec::new(),
            words,
            ports: Vec::new(),
            distinct_ports: Vec::new(),
        };
        let mut numbers: AHashMap<Vec<NamedPort>, u32> = AHashMap::new();
        let mut seen: AHashSet<(Ref, u32, &[u64])> = AHashSet::new();
        for class in (0..universe.count()).map(ClassId) {
            if universe.class(class).is_none() {
                continue;
            }
            this.pairs += 1;
            let Some(tree) = program.grid.tree(subject.row, class.0) else {
                return Err(Mismatch::Broken { case: subject.case(class, compiler) });
            };
            let ports = named(universe.named_ports(class), &subject.far_names);
            let ports = *numbers.entry(ports).or_insert_with_key(|ports| {
                this.distinct_ports.push(ports.clone());
                this.distinct_ports.len() as u32 - 1
            });
            let bits = &holds[class.0 as usize * words..][..words];
            if seen.insert((tree, ports, bits)) {
                this.trees.push(tree);
                this.peers.push(class);
                this.ports.push(ports);
                this.bits.extend_from_slice(bits);
            }
        }
        let inside = |tree: &Ref| super::atoms::is_inside(&program.trees, *tree);
        let mut distinct = this.distinct_trees();
        if let Some(tree) = distinct.find(|tree| !inside(tree)) {
            let at = this.trees.iter().position(|t| *t == tree).unwrap_or_default();
            return Err(Mismatch::Broken { case: subject.case(this.peers[at], compiler) });
        }
        drop(distinct);
        Ok(this)
    }

    pub(super) fn count(&self) -> usize {
        self.trees.len()
    }

    pub(super) fn bits(&self, case: usize) -> &[u64] {
        &self.bits[case * self.words..][..self.words]
    }

    pub(super) fn ports(&self, case: usize) -> usize {
        self.ports[case] as usize
    }

    pub(super) fn distinct_trees(&self) -> impl Iterator<Item = Ref> + use<> {
        let mut trees = self.trees.clone();
        trees.sort_unstable();
        trees.dedup();
        trees.into_iter()
    }
}
