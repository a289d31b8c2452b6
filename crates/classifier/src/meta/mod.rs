//! The `meta` engine, the default: a compiled engine for the bulk of the rules and a `tuple` table
//! for what changed since. When enough has changed, a background thread compiles everything anew
//! and publishes the result with one pointer store.

mod base;
mod config;
mod deleted;
#[cfg(all(test, loom))]
mod loom_tests;
mod second;
mod writer;

pub use base::{Choice, Engine, Proof};
pub use config::Config;

use std::sync::{Arc, Condvar, Mutex};

use crate::Error;
use crate::header::{Header, TupleV4};
use crate::rule::{Rule, RuleId, RuleSet};
use crate::sync::Published;
use crate::tree::{self, Mismatch};
use crate::tuple::{Filling, Generation, Match, Priority, RuleHandle};
use base::{Base, Named};
use deleted::Deleted;
use writer::Writer;

/// Headers looked up between two looks at the result.
const CHUNK: usize = 64;

/// Builds a [`Meta`].
///
/// ```
/// use portcullis_classifier::{RuleSet, meta};
///
/// let config = meta::Config::default().rebuild_after(1_000);
/// let meta = meta::Builder::new().configure(config).build(&RuleSet::default()).unwrap();
/// assert_eq!(meta.choice().engine, meta::Engine::Linear, "no rules yet");
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

    /// Compiles the rules. Rule `i` gets handle `i` and [`Priority::of`] its place.
    ///
    /// # Errors
    /// [`Error::NoEngine`] when no engine takes the rules within its limits.
    pub fn build(&self, rules: &RuleSet) -> Result<Meta, Error> {
        let base = Arc::new(Base::new(named(rules, 0), &self.config)?);
        let (generation, filling) = Filling::empty(&self.config.tuple);
        let writer = Writer::new(&base, filling, rules.len() as u64);
        let state = State::new(base, generation);
        let shared = Shared {
            config: self.config,
            state: Published::from_pointee(state),
            writer: Mutex::new(writer),
            settled: Condvar::new(),
        };
        Ok(Meta { shared: Arc::new(shared) })
    }
}

fn named(rules: &RuleSet, first: u64) -> Vec<Named> {
    let name = |(id, rule): (RuleId, &Rule)| Named {
        priority: Priority::of(id),
        handle: RuleHandle::new(first + u64::from(id.as_u32())),
        rule: rule.clone(),
    };
    rules.iter().map(name).collect()
}

/// What readers see: always one of these, whole.
#[derive(Debug)]
struct State {
    base: Arc<Base>,
    delta: Generation,
    /// Belongs to this state alone: who sees that a rule is deleted must see what was inserted before,
    /// and that may be in a delta table that only this state has.
    deleted: Deleted,
}

impl State {
    /// A base of which nothing has been deleted.
    fn new(base: Arc<Base>, delta: Generation) -> Self {
        let deleted = Deleted::none(base.rules.len());
        Self { base, delta, deleted }
    }

    /// The same with another delta table.
    fn with_delta(&self, delta: Generation) -> Self {
        Self { base: self.base.clone(), delta, deleted: self.deleted.copy() }
    }

    /// The best rule that matches.
    fn lookup(&self, header: &Header) -> Option<Match> {
        let mut best = self.base.lookup(&self.deleted, header).map(|id| self.base.found(id));
        self.delta.lookup(header, &mut best);
        best.map(|(_, found)| found)
    }

    /// Deletes a rule, unless lookups cannot go on behind it.
    fn delete(&self, place: usize) -> bool {
        if self.base.can_delete() {
            self.deleted.mark(place);
        }
        self.base.can_delete()
    }
}

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Published<State>,
    writer: Mutex<Writer>,
    /// Told when a rebuild ends.
    settled: Condvar,
}

/// What a thread keeps between batches.
///
/// ```
/// use portcullis_classifier::{Header, Rule, RuleSet, meta};
///
/// let rules = RuleSet::new(vec![Rule::any(3)]).unwrap();
/// let engine = meta::Builder::new().build(&rules).unwrap();
/// let mut scratch = meta::Scratch::default();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// for batch in [[header; 8], [header; 8]] {
///     let mut found = [None; 8];
///     engine.lookup_batch(&batch, &mut scratch, &mut found);
///     assert!(found.iter().all(Option::is_some));
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    tree: tree::Scratch,
}

/// Rules that come and go while other threads look them up. Cloning shares the rules.
///
/// Readers take no lock. A change is visible to every lookup that starts after the call returned,
/// and a lookup sees each change whole or not at all; a batch pins the compiled rules it started
/// with. Writers wait for each other.
///
/// ```
/// use portcullis_classifier::tuple::Priority;
/// use portcullis_classifier::{Header, Rule, RuleSet, meta};
///
/// let rules = RuleSet::new(vec![Rule::any(0)]).unwrap();
/// let meta = meta::Builder::new().build(&rules).unwrap();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// assert_eq!(meta.lookup(&header).unwrap().action, 0);
///
/// let first = meta.insert(Priority::new(0), Rule::any(1).protocol(6)).unwrap();
/// assert_eq!(meta.lookup(&header).unwrap().action, 1);
/// meta.remove(first).unwrap();
/// assert_eq!(meta.lookup(&header).unwrap().action, 0);
/// ```
#[derive(Clone, Debug)]
pub struct Meta {
    shared: Arc<Shared>,
}

impl Meta {
    /// The best rule that matches: lowest priority, then lowest handle.
    #[must_use]
    pub fn lookup(&self, header: &Header) -> Option<Match> {
        self.shared.state.load().lookup(header)
    }

    /// The best rule that matches, for each header.
    ///
    /// # Panics
    /// When `headers` and `found` differ in length.
    pub fn lookup_batch(
        &self,
        headers: &[Header],
        scratch: &mut Scratch,
        found: &mut [Option<Match>],
    ) {
        assert_eq!(headers.len(), found.len(), "one answer a header");
        let state = self.shared.state.load();
        let mut ids = [None; CHUNK];
        for (headers, found) in headers.chunks(CHUNK).zip(found.chunks_mut(CHUNK)) {
            let ids = &mut ids[..headers.len()];
            ids.fill(None);
            state.base.lookup_batch(&state.deleted, headers, &mut scratch.tree, ids);
            if state.delta.is_untouched() {
                state.base.matches(ids, found);
                continue;
            }
            for ((header, id), found) in headers.iter().zip(ids).zip(found) {
                let mut best = id.map(|id| state.base.found(id));
                state.delta.lookup(header, &mut best);
                *found = best.map(|(_, found)| found);
            }
        }
    }

    /// The best rule that matches, for each IPv4 5-tuple.
    ///
    /// # Panics
    /// When `tuples` and `found` differ in length.
    pub fn lookup_tuples(
        &self,
        tuples: &[TupleV4],
        scratch: &mut Scratch,
        found: &mut [Option<Match>],
    ) {
        assert_eq!(tuples.len(), found.len(), "one answer a tuple");
        let state = self.shared.state.load();
        let mut ids = [None; CHUNK];
        for (tuples, found) in tuples.chunks(CHUNK).zip(found.chunks_mut(CHUNK)) {
            let ids = &mut ids[..tuples.len()];
            state.base.lookup_tuples(&state.deleted, tuples, &mut scratch.tree, ids);
            if state.delta.is_untouched() {
                state.base.matches(ids, found);
                continue;
            }
            for ((tuple, id), found) in tuples.iter().zip(ids).zip(found) {
                let mut best = id.map(|id| state.base.found(id));
                state.delta.lookup(&tuple.header(), &mut best);
                *found = best.map(|(_, found)| found);
            }
        }
    }

    /// Which engine the rules were compiled for last, and why.
    #[must_use]
    pub fn choice(&self) -> Choice {
        self.shared.state.load().base.choice.clone()
    }

    /// Bytes of heap that lookups use.
    #[must_use]
    pub fn memory_usage(&self) -> usize {
        let state = self.shared.state.load();
        state.base.memory_usage() + state.delta.memory_usage() + state.deleted.memory_usage()
    }

    /// Proves that the compiled part answers as its rules do, and says how: see
    /// [`tree::Tree::verify`] and [`tuple::Tuple::verify`](crate::tuple::Tuple::verify). What waits in
    /// the delta table is not looked at.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn verify(&self) -> Result<Proof, Mismatch> {
        self.shared.state.load().base.verify()
    }

    /// Cache lines (64 bytes) that a lookup touches in the worst case, whatever the header: those of
    /// the compiled rules, those of the delta table with the shapes of rules that are in it now, and,
    /// while a compiled rule is deleted and no rebuild has left it out, those of the search for what
    /// it hid.
    ///
    /// Whatever is inserted or deleted, the table's [`max_shapes`](crate::tuple::Config::max_shapes)
    /// and [`max_chain`](crate::tuple::Config::max_chain) and
    /// [`Config::deleted_touch_limit`] bound that.
    ///
    /// ```
    /// use portcullis_classifier::{Rule, RuleSet, meta, tuple};
    ///
    /// let rules = RuleSet::new((0..100).map(|n| Rule::any(n).protocol(n as u8)).collect()).unwrap();
    /// let meta = meta::Builder::new().build(&rules).unwrap();
    /// let compiled = meta.worst_case_touches();
    /// meta.insert(tuple::Priority::new(0), Rule::any(1)).unwrap();
    /// assert!(meta.worst_case_touches() > compiled);
    /// ```
    #[must_use]
    pub fn worst_case_touches(&self) -> usize {
        let state = self.shared.state.load();
        let delta = state.delta.touches(self.shared.config.tuple.max_chain);
        let (compiled, behind) = state.base.worst_case_touches();
        compiled + delta + if state.deleted.count() > 0 { behind } else { 0 }
    }

    /// Inserts a rule.
    ///
    /// # Errors
    /// [`Error::DeltaFull`], [`Error::DeltaShapes`] or [`Error::DeltaChain`] when the rebuild does
    /// not keep up; [`Error::Rule`] for a rule that no [`RuleSet`] would take. Nothing has changed
    /// then.
    pub fn insert(&self, priority: Priority, rule: Rule) -> Result<RuleHandle, Error> {
        writer::insert(&self.shared, priority, rule)
    }

    /// Deletes a rule; lookups that start after this returns do not find it.
    ///
    /// A rule that was compiled is marked, which takes under a microsecond whatever it hides. Until
    /// the rebuild that starts then has left it out, lookups that land on it go on in tables of all
    /// rules, within [`worst_case_touches`](Self::worst_case_touches). Where that would exceed
    /// [`Config::deleted_touch_limit`], this waits for the rebuild (up to 0.2 s for 100,000 rules).
    ///
    /// # Errors
    /// [`Error::UnknownRule`]; or, if it has to wait, why the rebuild failed. The rule is in force
    /// then.
    pub fn remove(&self, handle: RuleHandle) -> Result<(), Error> {
        writer::remove(&self.shared, handle)
    }

    /// Puts other rules in the place of all there are. Readers see the old or the new, whole; the
    /// caller's thread compiles. Rule `i` gets the returned handle plus `i`.
    ///
    /// # Errors
    /// As [`Builder::build`]; the old rules stay in force then.
    pub fn replace(&self, rules: &RuleSet) -> Result<RuleHandle, Error> {
        writer::replace(&self.shared, rules)
    }

    /// Waits until everything that changed so far is compiled, and says how the last rebuild
    /// ended.
    ///
    /// # Errors
    /// Why the rebuild failed; the rules are in force all the same, in the delta table.
    pub fn settle(&self) -> Result<(), Error> {
        writer::settle(&self.shared)
    }
}
