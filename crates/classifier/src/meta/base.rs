//! The compiled part: an engine for the rules as they were at the last rebuild, and how lookups go on
//! that land on one that has been deleted since.

use super::Config;
use super::deleted::Deleted;
use super::second::Second;
use crate::header::{Header, TupleV4};
use crate::rule::{Rule, RuleId, RuleSet};
use crate::tuple::{Match, Priority, RuleHandle};
use crate::{Error, linear, tree, tuple};

/// Up to this many rules, trying all is as fast as a tree.
const FEW: usize = if cfg!(loom) { 2 } else { 8 };

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
    behind: Behind,
    pub(super) choice: Choice,
}

/// Where lookups go on that land on a deleted rule.
#[derive(Debug)]
enum Behind {
    /// In the list, which is what they search anyhow.
    List,
    /// In tables of all rules.
    Second(Box<Second>),
    /// Nowhere: it would take too long. No rule may be marked.
    Nowhere,
}

impl Base {
    /// Compiles rules that are sorted by priority and handle.
    pub(super) fn new(named: Vec<Named>, config: &Config) -> Result<Self, Error> {
        let order = Order::new(&named);
        let rules = RuleSet::new(named.into_iter().map(|named| named.rule).collect())?;
        let (compiled, mut choice) = compile(&rules, config)?;
        let behind = match compiled {
            Compiled::Linear(_) => Behind::List,
            _ => match Second::new(&rules, config.deleted_touch_limit) {
                Ok(second) => Behind::Second(Box::new(second)),
                Err(touches) => {
                    choice.why += &format!(
                        "; deleting one of them waits for a rebuild, because lookups would touch \
                         {touches} lines more until then"
                    );
                    Behind::Nowhere
                }
            },
        };
        Ok(Self { compiled, rules, order, behind, choice })
    }

    /// Whether lookups can go on behind a rule that is marked as deleted.
    pub(super) fn can_delete(&self) -> bool {
        !matches!(self.behind, Behind::Nowhere)
    }

    /// The first rule that matches, for each header.
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
        if deleted.count() > 0 {
            let found = headers.iter().zip(ids);
            found.for_each(|(header, id)| *id = self.alive_or_behind(deleted, *id, || *header));
        }
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
        if deleted.count() > 0 {
            let found = tuples.iter().zip(ids);
            found.for_each(|(tuple, id)| {
                *id = self.alive_or_behind(deleted, *id, || tuple.header())
            });
        }
    }

    /// The first rule that matches.
    pub(super) fn lookup(&self, deleted: &Deleted, header: &Header) -> Option<RuleId> {
        self.alive_or_behind(deleted, self.one(header), || *header)
    }

    /// The first compiled rule, deleted or not.
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

    /// What was found, or what is behind it when that is deleted.
    #[inline]
    fn alive_or_behind(
        &self,
        deleted: &Deleted,
        id: Option<RuleId>,
        header: impl FnOnce() -> Header,
    ) -> Option<RuleId> {
        let found = id?;
        if deleted.holds(found.index()) { self.behind(deleted, &header()) } else { id }
    }

    #[cold]
    fn behind(&self, deleted: &Deleted, header: &Header) -> Option<RuleId> {
        match &self.behind {
            Behind::Second(second) => second.lookup(&self.rules, deleted, header),
            Behind::List => {
                let mut alive = self.alive(deleted);
                alive.find(|(_, rule)| rule.matches(header)).map(|(id, _)| id)
            }
            Behind::Nowhere => None,
        }
    }

    /// Rules that are not deleted.
    fn alive(&self, deleted: &Deleted) -> impl Iterator<Item = (RuleId, &Rule)> {
        self.rules.iter().filter(|(id, _)| !deleted.holds(id.index()))
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

    /// Rules that are not deleted, with what they are called.
    pub(super) fn alive_named(&self, deleted: &Deleted) -> impl Iterator<Item = Named> {
        self.alive(deleted).map(|(id, rule)| {
            let (priority, found) = self.order.found(id);
            Named { priority, handle: found.rule, rule: rule.clone() }
        })
    }

    pub(super) fn memory_usage(&self) -> usize {
        let engine = match &self.compiled {
            Compiled::Linear(linear) => linear.memory_usage(),
            Compiled::Tree(tree) => tree.memory_usage(),
            Compiled::Tuple(tuple) => tuple.memory_usage(),
        };
        let second = match &self.behind {
            Behind::Second(second) => second.memory_usage(),
            _ => 0,
        };
        engine + self.order.memory_usage() + second
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

    /// Cache lines that a lookup touches at most: as long as no rule is deleted, and besides, with
    /// the mark of what was found, while one is.
    pub(super) fn worst_case_touches(&self) -> (usize, usize) {
        let compiled = match &self.compiled {
            Compiled::Linear(_) => self.rules.len() * (size_of::<Rule>().div_ceil(64) + 1),
            Compiled::Tree(tree) => tree.worst_case_touches(),
            Compiled::Tuple(tuple) => tuple.worst_case_touches(),
        };
        let behind = match &self.behind {
            Behind::Second(second) => second.touches() + 1,
            Behind::List => compiled + self.rules.len().div_ceil(512) + 1,
            Behind::Nowhere => 0,
        };
        (compiled, behind)
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
