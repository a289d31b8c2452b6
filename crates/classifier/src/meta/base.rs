//! The compiled part: an engine for the rules as they were at the last rebuild, and which of them
//! have been deleted since.

use super::Config;
use crate::header::{Header, TupleV4};
use crate::rule::{Rule, RuleId, RuleSet};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::tuple::{Match, Priority, RuleHandle};
use crate::{Error, linear, tree, tuple};

/// Up to this many rules, trying all is as fast as a tree.
const FEW: usize = 8;

/// Which engine the rules were compiled for, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The engine.
    pub engine: Engine,
    /// What was measured, in words.
    pub why: String,
}

/// Engines that [`Meta`](super::Meta) chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// [`linear`](mod@linear)
    Linear,
    /// [`tree`](mod@tree)
    Tree,
    /// [`tuple`](mod@tuple)(mod@tuple)
    Tuple,
}

#[derive(Debug)]
enum Compiled {
    Linear(linear::Linear),
    Tree(Box<tree::Tree>),
    Tuple(Box<tuple::Tuple>),
}

/// A rule with what it is called and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) priority: Priority,
    pub(super) handle: RuleHandle,
    pub(super) rule: Rule,
}

/// Priority and result of each rule.
#[derive(Debug)]
enum Order {
    /// Rules of one set: priorities of their places, handles counted from `first`.
    Plain { first: u64, actions: Box<[u32]> },
    /// Rules that came and went.
    Mixed(Box<[(Priority, Match)]>),
}

impl Order {
    fn new(named: &[Named]) -> Self {
        let first = named.first().map_or(0, |named| named.handle.as_u64());
        let plain = (0u32..).zip(named).all(|(place, named)| {
            named.handle.as_u64() == first + u64::from(place)
                && RuleId::new(place).map(Priority::of) == Some(named.priority)
        });
        if plain {
            return Self::Plain { first, actions: named.iter().map(|n| n.rule.action).collect() };
        }
        let found = |named: &Named| Match { rule: named.handle, action: named.rule.action };
        Self::Mixed(named.iter().map(|named| (named.priority, found(named))).collect())
    }

    #[inline]
    fn found(&self, id: RuleId) -> (Priority, Match) {
        match self {
            Self::Plain { first, actions } => {
                let rule = RuleHandle::new(first + u64::from(id.as_u32()));
                (Priority::of(id), Match { rule, action: actions[id.index()] })
            }
            Self::Mixed(order) => order[id.index()],
        }
    }

    fn memory_usage(&self) -> usize {
        match self {
            Self::Plain { actions, .. } => size_of_val(&**actions),
            Self::Mixed(order) => size_of_val(&**order),
        }
    }
}

/// An engine over rules in priority order.
#[derive(Debug)]
pub(super) struct Base {
    compiled: Compiled,
    pub(super) rules: RuleSet,
    order: Order,
    /// A bit for each rule.
    deleted: Box<[AtomicU64]>,
    deletions: AtomicU32,
    pub(super) choice: Choice,
}

impl Base {
    /// Compiles rules that are sorted by priority and handle.
    pub(super) fn new(named: Vec<Named>, config: &Config) -> Result<Self, Error> {
        let order = Order::new(&named);
        let rules = RuleSet::new(named.into_iter().map(|named| named.rule).collect())?;
        let (compiled, choice) = compile(&rules, config)?;
        let words = rules.len().div_ceil(64);
        let deleted = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { compiled, rules, order, deleted, deletions: AtomicU32::new(0), choice })
    }

    /// The first rule that matches and is not deleted, for each header.
    pub(super) fn lookup_batch(
        &self,
        headers: &[Header],
        scratch: &mut tree::Scratch,
        ids: &mut [Option<RuleId>],
    ) {
        match &self.compiled {
            Compiled::Tree(tree) => tree.lookup_batch(headers, scratch, ids),
            _ => headers.iter().zip(&mut *ids).for_each(|(header, id)| *id = self.one(header)),
        }
        if self.deletions.load(Ordering::Acquire) > 0 {
            for (header, id) in headers.iter().zip(ids) {
                *id = id.and_then(|id| self.alive_from(id, header));
            }
        }
    }

    /// The same for IPv4 5-tuples.
    pub(super) fn lookup_tuples(
        &self,
        tuples: &[TupleV4],
        scratch: &mut tree::Scratch,
        ids: &mut [Option<RuleId>],
    ) {
        match &self.compiled {
            Compiled::Tree(tree) => tree.lookup_tuples(tuples, scratch, ids),
            _ => {
                tuples.iter().zip(&mut *ids).for_each(|(tuple, id)| *id = self.one(&tuple.header()))
            }
        }
        if self.deletions.load(Ordering::Acquire) > 0 {
            for (tuple, id) in tuples.iter().zip(ids) {
                *id = id.and_then(|id| self.alive_from(id, &tuple.header()));
            }
        }
    }

    /// The first rule that matches and is not deleted.
    pub(super) fn lookup(&self, header: &Header) -> Option<RuleId> {
        let id = self.one(header)?;
        if self.deletions.load(Ordering::Acquire) == 0 {
            Some(id)
        } else {
            self.alive_from(id, header)
        }
    }

    fn one(&self, header: &Header) -> Option<RuleId> {
        match &self.compiled {
            Compiled::Linear(linear) => linear.lookup(header),
            Compiled::Tree(tree) => tree.lookup(header),
            Compiled::Tuple(tuple) => {
                let place = tuple.lookup(header)?.rule.as_u64();
                u32::try_from(place).ok().and_then(RuleId::new)
            }
        }
    }

    /// The result of a rule.
    #[inline]
    pub(super) fn found(&self, id: RuleId) -> (Priority, Match) {
        self.order.found(id)
    }

    /// The results of ids, without priorities.
    #[inline]
    pub(super) fn matches(&self, ids: &[Option<RuleId>], found: &mut [Option<Match>]) {
        for (id, found) in ids.iter().zip(found) {
            *found = id.map(|id| self.order.found(id).1);
        }
    }

    /// Handles and places.
    pub(super) fn handles(&self) -> impl Iterator<Item = (RuleHandle, u32)> {
        self.rules.iter().map(|(id, _)| (self.order.found(id).1.rule, id.as_u32()))
    }

    /// Rules that are not deleted.
    pub(super) fn alive(&self) -> impl Iterator<Item = Named> {
        self.rules.iter().filter(|(id, _)| !self.is_deleted(id.index())).map(|(id, rule)| {
            let (priority, found) = self.order.found(id);
            Named { priority, handle: found.rule, rule: rule.clone() }
        })
    }

    /// Marks a rule. Lookups that start later do not find it.
    pub(super) fn delete(&self, place: usize) {
        let bit = 1 << (place % 64);
        let word = &self.deleted[place / 64];
        if word.fetch_or(bit, Ordering::Release) & bit == 0 {
            self.deletions.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn deletions(&self) -> usize {
        self.deletions.load(Ordering::Acquire) as usize
    }

    pub(super) fn memory_usage(&self) -> usize {
        let engine = match &self.compiled {
            Compiled::Linear(linear) => linear.memory_usage(),
            Compiled::Tree(tree) => tree.memory_usage(),
            Compiled::Tuple(tuple) => tuple.memory_usage(),
        };
        engine + self.order.memory_usage() + size_of_val(&*self.deleted)
    }

    pub(super) fn verify(&self) -> Result<(), tree::Mismatch> {
        match &self.compiled {
            Compiled::Tree(tree) => tree.verify(),
            _ => Ok(()),
        }
    }

    fn is_deleted(&self, place: usize) -> bool {
        self.deleted[place / 64].load(Ordering::Acquire) >> (place % 64) & 1 == 1
    }

    /// `found`, or the next rule that matches if it is deleted. The compiled form holds no rules
    /// that the deleted one hides, so the rest of the list is tried one by one; that is why a
    /// deletion starts a rebuild at once.
    fn alive_from(&self, found: RuleId, header: &Header) -> Option<RuleId> {
        if !self.is_deleted(found.index()) {
            return Some(found);
        }
        let rest = &self.rules.rules()[found.index() + 1..];
        let next = rest
            .iter()
            .zip(found.index() + 1..)
            .find(|(rule, place)| rule.matches(header) && !self.is_deleted(*place));
        next.and_then(|(_, place)| u32::try_from(place).ok()).and_then(RuleId::new)
    }
}

/// Compiles for the engine that suits the rules.
fn compile(rules: &RuleSet, config: &Config) -> Result<(Compiled, Choice), Error> {
    let count = rules.len();
    if count <= FEW {
        let linear = linear::Builder::new().build(rules)?;
        let why = format!("{count} rules: trying all is as fast as a tree");
        return Ok((Compiled::Linear(linear), Choice { engine: Engine::Linear, why }));
    }
    let refused = match tree::Builder::new().configure(config.tree).build(rules) {
        Ok(tree) => {
            let (bytes, touches) = (tree.memory_usage(), tree.worst_case_touches());
            let why = format!(
                "{count} rules compile to {bytes} bytes, at most {touches} cache lines a lookup"
            );
            return Ok((Compiled::Tree(Box::new(tree)), Choice { engine: Engine::Tree, why }));
        }
        Err(error) => error,
    };
    let also_refused = match tuple::Builder::new().configure(config.tuple).build(rules) {
        Ok(tuple) => {
            let why =
                format!("{count} rules of {} shapes; no tree, because {refused}", tuple.shapes());
            return Ok((Compiled::Tuple(Box::new(tuple)), Choice { engine: Engine::Tuple, why }));
        }
        Err(error) => error,
    };
    if count <= config.linear_limit {
        let linear = linear::Builder::new().build(rules)?;
        let why =
            format!("{count} rules; no tree, because {refused}; no table, because {also_refused}");
        return Ok((Compiled::Linear(linear), Choice { engine: Engine::Linear, why }));
    }
    Err(Error::NoEngine {
        count,
        tree: Box::new(refused),
        tuple: Box::new(also_refused),
        linear_limit: config.linear_limit,
    })
}
