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
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, meta};
///
/// let rules = RuleSet::new((0..100).map(|n| Rule::any(n).protocol(n as u8)).collect()).unwrap();
/// let choice = meta::Builder::new().build(&rules).unwrap().choice();
/// assert_eq!(choice.engine, meta::Engine::Tree);
/// assert!(choice.why.contains("100 rules"), "{}", choice.why);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The engine.
    pub engine: Engine,
    /// What was measured, in words.
    pub why: String,
}

/// Engines that [`Meta`](super::Meta) chooses from.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, meta};
///
/// let one = RuleSet::new(vec![Rule::any(0)]).unwrap();
/// assert_eq!(meta::Builder::new().build(&one).unwrap().choice().engine, meta::Engine::Linear);
/// ```
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

/// What [`Meta::verify`](super::Meta::verify) has shown of the compiled rules.
///
/// ```
/// use portcullis_classifier::meta::{self, Proof};
/// use portcullis_classifier::{PortRange, Rule, RuleSet};
///
/// let rule = |port| Rule::any(0).destination_ports(PortRange::exact(port));
/// let many = meta::Builder::new().build(&RuleSet::new((0..100).map(rule).collect()).unwrap());
/// assert_eq!(many.unwrap().verify(), Ok(Proof::Regions));
/// let few = meta::Builder::new().build(&RuleSet::new((0..3).map(rule).collect()).unwrap());
/// assert_eq!(few.unwrap().verify(), Ok(Proof::List), "three rules are not compiled");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Proof {
    /// A tree: every region of it answers as the list does.
    Regions,
    /// Hash tables: a lookup comes by every rule, and by nothing else.
    Entries,
    /// The list itself is searched, rule by rule: nothing is compiled, so there is nothing to prove.
    List,
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
    pub(super) choice: Choice,
}

impl Base {
    /// Compiles rules that are sorted by priority and handle.
    pub(super) fn new(named: Vec<Named>, config: &Config) -> Result<Self, Error> {
        let order = Order::new(&named);
        let rules = RuleSet::new(named.into_iter().map(|named| named.rule).collect())?;
        let (compiled, choice) = compile(&rules, config)?;
        Ok(Self { compiled, rules, order, choice })
    }

    /// The first rule that matches, for each header; none where that one is deleted. The compiled
    /// form need not hold what the deleted rule hides: the delta table does, see `standin`.
    pub(super) fn lookup_batch(
        &self,
        deleted: &Deleted,
        headers: &[Header],
        scratch: &mut tree::Scratch,
        ids: &mut [Option<RuleId>],
    ) {
        match &self.compiled {
            Compiled::Tree(tree) => tree.lookup_batch(headers, scratch, ids),
            _ => headers.iter().zip(&mut *ids).for_each(|(header, id)| *id = self.one(header)),
        }
        deleted.sift(ids);
    }

    /// The same for IPv4 5-tuples.
    pub(super) fn lookup_tuples(
        &self,
        deleted: &Deleted,
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
        deleted.sift(ids);
    }

    /// The first rule that matches; none when that one is deleted.
    pub(super) fn lookup(&self, deleted: &Deleted, header: &Header) -> Option<RuleId> {
        self.one(header).filter(|id| !deleted.holds(id.index()))
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
    pub(super) fn alive<'a>(&'a self, deleted: &'a Deleted) -> impl Iterator<Item = Named> + 'a {
        let alive = self.rules.iter().filter(|(id, _)| !deleted.holds(id.index()));
        alive.map(|(id, rule)| self.named(id, rule))
    }

    /// Rules that the rule at `place` may hide: later ones that a header can match as well.
    pub(super) fn hidden_by<'a>(
        &'a self,
        place: usize,
        deleted: &'a Deleted,
    ) -> impl Iterator<Item = Named> + 'a {
        let hiding = &self.rules.rules()[place];
        let later = self.rules.iter().skip(place + 1);
        let hidden = later.filter(|(id, rule)| hiding.can_meet(rule) && !deleted.holds(id.index()));
        hidden.map(|(id, rule)| self.named(id, rule))
    }

    fn named(&self, id: RuleId, rule: &Rule) -> Named {
        let (priority, found) = self.order.found(id);
        Named { priority, handle: found.rule, rule: rule.clone() }
    }

    pub(super) fn memory_usage(&self) -> usize {
        let engine = match &self.compiled {
            Compiled::Linear(linear) => linear.memory_usage(),
            Compiled::Tree(tree) => tree.memory_usage(),
            Compiled::Tuple(tuple) => tuple.memory_usage(),
        };
        engine + self.order.memory_usage()
    }

    /// Proves what there is to prove.
    pub(super) fn verify(&self) -> Result<Proof, tree::Mismatch> {
        let missing = |expected| tree::Mismatch { header: None, expected, found: None };
        match &self.compiled {
            Compiled::Tree(tree) if *tree.rules() == self.rules => {
                tree.verify().map(|()| Proof::Regions)
            }
            Compiled::Linear(linear) if *linear.rules() == self.rules => Ok(Proof::List),
            Compiled::Tuple(tuple) if tuple.is_of(&self.rules) => match tuple.verify() {
                Ok(()) => Ok(Proof::Entries),
                Err(rule) => Err(missing(
                    rule.and_then(|rule| u32::try_from(rule.as_u64()).ok()).and_then(RuleId::new),
                )),
            },
            _ => Err(missing(None)),
        }
    }

    /// Cache lines that a lookup touches at most.
    pub(super) fn worst_case_touches(&self) -> usize {
        match &self.compiled {
            Compiled::Linear(_) => self.rules.len() * (size_of::<Rule>().div_ceil(64) + 1),
            Compiled::Tree(tree) => tree.worst_case_touches(),
            Compiled::Tuple(tuple) => tuple.worst_case_touches(),
        }
    }
}

/// Which rules of a base have been deleted since it was compiled. Bits are set, never cleared.
#[derive(Debug)]
pub(super) struct Deleted {
    bits: Box<[AtomicU64]>,
    count: AtomicU32,
}

impl Deleted {
    /// None of `rules` rules.
    pub(super) fn none(rules: usize) -> Self {
        let bits = (0..rules.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { bits, count: AtomicU32::new(0) }
    }

    /// The same rules, apart from what is deleted from now on.
    pub(super) fn copy(&self) -> Self {
        let bits = self.bits.iter().map(|bits| AtomicU64::new(bits.load(Ordering::Acquire)));
        Self { bits: bits.collect(), count: AtomicU32::new(self.count.load(Ordering::Acquire)) }
    }

    /// Marks a rule. Lookups that start later do not find it; those that see the mark see everything
    /// that was written before.
    pub(super) fn mark(&self, place: usize) {
        let bit = 1 << (place % 64);
        if self.bits[place / 64].fetch_or(bit, Ordering::Release) & bit == 0 {
            self.count.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire) as usize
    }

    fn holds(&self, place: usize) -> bool {
        self.bits[place / 64].load(Ordering::Acquire) >> (place % 64) & 1 == 1
    }

    /// Takes the deleted out.
    fn sift(&self, ids: &mut [Option<RuleId>]) {
        if self.count() > 0 {
            for id in ids {
                *id = id.filter(|id| !self.holds(id.index()));
            }
        }
    }

    pub(super) fn memory_usage(&self) -> usize {
        size_of_val(&*self.bits)
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
