//! The `tuple` engine: rules in hash tables by shape (tuple space search, Srinivasan, Suri and
//! Varghese, 1999). Slower than a tree to look up in, but a rule goes in or out in well under a
//! microsecond while others look up. [`meta`](crate::meta) uses it for what changed since the last
//! rebuild.
//!
//! A lookup takes one hash and one chain for each shape of rule, whatever it finds: an attacker who
//! knows the rules gains nothing, and the number of shapes and the length of chains are bounded by
//! [`Config`] (tuple space explosion: Csikor et al., 2019).

mod generation;
mod shape;
mod table;
mod types;

pub(crate) use generation::{Filling, Generation};
pub(crate) use shape::{Shape, keyed_at_random};
pub use types::{Match, Priority, RuleHandle};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::Error;
use crate::header::{Header, TupleV4};
use crate::rule::{Rule, RuleSet};

/// Slots of a new table; few for loom, which follows each.
const FIRST_CAPACITY: usize = if cfg!(loom) { 4 } else { 256 };

/// Settings of the [`Tuple`] engine.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, tuple};
///
/// let config = tuple::Config::default().max_shapes(1);
/// let rules = RuleSet::new(vec![Rule::any(0), Rule::any(1).protocol(6)]).unwrap();
/// assert!(tuple::Builder::new().configure(config).build(&rules).is_err(), "two shapes");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub(crate) max_rules: usize,
    pub(crate) max_shapes: usize,
    pub(crate) max_chain: usize,
}

impl Default for Config {
    /// 262,144 rules, 256 shapes, 64 rules in a bucket.
    fn default() -> Self {
        Self { max_rules: 1 << 18, max_shapes: 256, max_chain: 64 }
    }
}

impl Config {
    /// Rules at most.
    #[must_use]
    pub fn max_rules(self, limit: usize) -> Self {
        Self { max_rules: limit, ..self }
    }

    /// Shapes of rules at most: a lookup takes a hash for each.
    #[must_use]
    pub fn max_shapes(self, limit: usize) -> Self {
        Self { max_shapes: limit, ..self }
    }

    /// Rules in a bucket at most: a lookup compares all of them.
    #[must_use]
    pub fn max_chain(self, limit: usize) -> Self {
        Self { max_chain: limit, ..self }
    }
}

/// Builds a [`Tuple`].
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, tuple};
///
/// let rules = RuleSet::new(vec![Rule::any(0).protocol(6), Rule::any(1).protocol(17)]).unwrap();
/// assert_eq!(tuple::Builder::new().build(&rules).unwrap().shapes(), 1);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// A builder with default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes settings.
    #[must_use]
    pub fn configure(self, config: Config) -> Self {
        Self { config }
    }

    /// Inserts the rules one by one; rule `i` gets handle `i` and [`Priority::of`] its place.
    ///
    /// # Errors
    /// As [`Tuple::insert`].
    pub fn build(&self, rules: &RuleSet) -> Result<Tuple, Error> {
        let capacity = rules.len().max(FIRST_CAPACITY);
        let Config { max_shapes, max_chain, .. } = self.config;
        let (generation, filling) = Filling::new(capacity, max_shapes, max_chain);
        let tuple = Tuple {
            config: self.config,
            current: ArcSwap::from_pointee(generation),
            writer: Mutex::new(Writer { filling, next: 0 }),
        };
        for (id, rule) in rules.iter() {
            tuple.insert(Priority::of(id), rule.clone())?;
        }
        Ok(tuple)
    }
}

/// What a thread keeps between batches. The tuple engine needs nothing.
///
/// ```
/// use portcullis_classifier::{Header, Rule, RuleSet, tuple};
///
/// let rules = RuleSet::new(vec![Rule::any(3)]).unwrap();
/// let engine = tuple::Builder::new().build(&rules).unwrap();
/// let mut scratch = tuple::Scratch::default();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// for batch in [[header; 8], [header; 8]] {
///     let mut found = [None; 8];
///     engine.lookup_batch(&batch, &mut scratch, &mut found);
///     assert!(found.iter().all(Option::is_some));
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scratch {}

/// Rules in hash tables: readers never wait, writers wait for each other only.
///
/// ```
/// use portcullis_classifier::tuple::{self, Priority};
/// use portcullis_classifier::{Header, Rule, RuleSet};
///
/// let table = tuple::Builder::new().build(&RuleSet::default()).unwrap();
/// let deny = table.insert(Priority::new(5), Rule::any(7).protocol(6)).unwrap();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// assert_eq!(table.lookup(&header).unwrap().action, 7);
/// table.remove(deny).unwrap();
/// assert!(table.lookup(&header).is_none());
/// ```
#[derive(Debug)]
pub struct Tuple {
    config: Config,
    current: ArcSwap<Generation>,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    filling: Filling,
    next: u64,
}

impl Tuple {
    /// The best rule that matches: lowest priority, then lowest handle.
    #[must_use]
    pub fn lookup(&self, header: &Header) -> Option<Match> {
        self.current.load().best(header)
    }

    /// The best rule that matches, for each header.
    ///
    /// # Panics
    /// When `headers` and `found` differ in length.
    pub fn lookup_batch(
        &self,
        headers: &[Header],
        _scratch: &mut Scratch,
        found: &mut [Option<Match>],
    ) {
        assert_eq!(headers.len(), found.len(), "one answer a header");
        let current = self.current.load();
        for (header, found) in headers.iter().zip(found) {
            *found = current.best(header);
        }
    }

    /// The best rule that matches, for each IPv4 5-tuple.
    ///
    /// # Panics
    /// When `tuples` and `found` differ in length.
    pub fn lookup_tuples(
        &self,
        tuples: &[TupleV4],
        _scratch: &mut Scratch,
        found: &mut [Option<Match>],
    ) {
        assert_eq!(tuples.len(), found.len(), "one answer a tuple");
        let current = self.current.load();
        for (tuple, found) in tuples.iter().zip(found) {
            *found = current.best(&tuple.header());
        }
    }

    /// Inserts a rule; lookups that start after this returns see it.
    ///
    /// # Errors
    /// [`Error::DeltaFull`], [`Error::DeltaShapes`] or [`Error::DeltaChain`] at a limit; nothing
    /// has changed then. [`Error::Rule`] for a rule that no [`RuleSet`] would take.
    pub fn insert(&self, priority: Priority, rule: Rule) -> Result<RuleHandle, Error> {
        crate::rule::check(&rule).map_err(|why| Error::Rule { index: 0, why })?;
        let rule = Arc::new(rule);
        let mut writer = self.writer();
        if writer.filling.len() >= self.config.max_rules {
            return Err(Error::DeltaFull { limit: self.config.max_rules });
        }
        let handle = RuleHandle::new(writer.next);
        let current = self.current.load();
        match writer.filling.insert(&current, handle, priority, rule.clone()) {
            Err(Error::DeltaFull { .. }) => {
                let (generation, mut filling) = writer.filling.grown(&self.config)?;
                filling.insert(&generation, handle, priority, rule)?;
                writer.filling = filling;
                self.current.store(Arc::new(generation));
            }
            other => other?,
        }
        writer.next += 1;
        Ok(handle)
    }

    /// Deletes a rule; lookups that start after this returns do not see it.
    ///
    /// # Errors
    /// [`Error::UnknownRule`].
    pub fn remove(&self, handle: RuleHandle) -> Result<(), Error> {
        let mut writer = self.writer();
        let current = self.current.load();
        if writer.filling.remove(&current, handle) {
            Ok(())
        } else {
            Err(Error::UnknownRule { handle: handle.as_u64() })
        }
    }

    /// Proves that lookups come by each rule, and by nothing else: looks at all entries. Writers wait
    /// meanwhile.
    ///
    /// # Errors
    /// The rule that a lookup would miss, or `None` when there is an entry without a rule.
    ///
    /// ```
    /// use portcullis_classifier::{Rule, RuleSet, tuple};
    ///
    /// let rules = RuleSet::new(vec![Rule::any(1).protocol(6), Rule::any(0)]).unwrap();
    /// assert_eq!(tuple::Builder::new().build(&rules).unwrap().verify(), Ok(()));
    /// ```
    pub fn verify(&self) -> Result<(), Option<RuleHandle>> {
        self.writer().filling.verify(&self.current.load())
    }

    /// Cache lines (64 bytes) that a lookup touches at most, with the shapes that there are now.
    pub(crate) fn worst_case_touches(&self) -> usize {
        self.current.load().touches(self.config.max_chain)
    }

    /// Whether the rule `i` is the one of handle `i`, for all, and there are no others.
    pub(crate) fn is_of(&self, rules: &RuleSet) -> bool {
        let writer = self.writer();
        writer.filling.len() == rules.len()
            && writer.filling.rules().all(|(handle, inserted)| {
                let place = usize::try_from(handle.as_u64()).ok();
                place.and_then(|place| rules.rules().get(place)) == Some(&*inserted.rule)
            })
    }

    /// Rules in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writer().filling.len()
    }

    /// Whether the table holds no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shapes of rules in the table: a lookup takes a hash for each.
    #[must_use]
    pub fn shapes(&self) -> usize {
        self.current.load().shapes()
    }

    /// Bytes of heap that lookups use.
    #[must_use]
    pub fn memory_usage(&self) -> usize {
        self.current.load().memory_usage()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // The writer's state is only replaced whole, so it is sound even after a panic elsewhere.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filling {
    /// New tables with the rules of these and room for as many again.
    pub(crate) fn grown(&self, config: &Config) -> Result<(Generation, Self), Error> {
        let capacity = (self.len() * 3).max(FIRST_CAPACITY).next_power_of_two();
        let (generation, mut filling) = Self::new(capacity, config.max_shapes, config.max_chain);
        let mut rules: Vec<_> = self.rules().collect();
        rules.sort_unstable_by_key(|(handle, _)| *handle);
        for (handle, inserted) in rules {
            filling.insert(&generation, handle, inserted.priority, inserted.rule.clone())?;
        }
        Ok((generation, filling))
    }

    /// Empty tables that take no memory until the first rule comes.
    pub(crate) fn empty(config: &Config) -> (Generation, Self) {
        Self::new(0, config.max_shapes, config.max_chain)
    }
}
