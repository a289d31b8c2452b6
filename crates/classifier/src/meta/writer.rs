//! Changing the rules, and the rebuild behind it. All of this runs under one lock that readers
//! never see, except the compilation itself, which runs under none.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::HashMap;

use super::base::{Base, Named};
use super::{Shared, State, named};
use crate::Error;
use crate::rule::{Rule, RuleSet};
use crate::tuple::{Filling, Generation, Priority, RuleHandle};

/// A log no longer than this is applied while writers wait.
const SHORT: usize = 256;

/// How long the old state is kept for readers that are still in it.
const RETIRE_TRIES: u32 = 100;
const RETIRE_PAUSE: Duration = Duration::from_millis(1);

/// What only writers know.
#[derive(Debug)]
pub(super) struct Writer {
    filling: Filling,
    /// Places of the rules of the base.
    places: HashMap<RuleHandle, u32>,
    next: u64,
    /// What changed since the running rebuild took its rules.
    log: Option<Vec<Change>>,
    /// Counts replacements: a rebuild of rules that were replaced meanwhile is thrown away.
    era: u64,
    failed: Option<Error>,
}

#[derive(Clone, Debug)]
enum Change {
    Insert(RuleHandle, Priority, Arc<Rule>),
    Delete(RuleHandle),
}

impl Writer {
    pub(super) fn new(base: &Base, filling: Filling, next: u64) -> Self {
        let places = base.handles().collect();
        Self { filling, places, next, log: None, era: 0, failed: None }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Writer> {
    shared.writer.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn insert(
    shared: &Arc<Shared>,
    priority: Priority,
    rule: Rule,
) -> Result<RuleHandle, Error> {
    crate::rule::check(&rule).map_err(|why| Error::Rule { index: 0, why })?;
    let rule = Arc::new(rule);
    let mut writer = lock(shared);
    let state = shared.state.load_full();
    let handle = RuleHandle::new(writer.next);
    let limit = shared.config.tuple.max_rules;
    if writer.filling.len() >= limit {
        return Err(Error::DeltaFull { limit });
    }
    match writer.filling.insert(&state.delta, handle, priority, rule.clone()) {
        Err(Error::DeltaFull { .. }) => {
            let (delta, mut filling) = writer.filling.grown(&shared.config.tuple)?;
            filling.insert(&delta, handle, priority, rule.clone())?;
            writer.filling = filling;
            shared
                .state
                .store(Arc::new(State { base: state.base.clone(), delta: Arc::new(delta) }));
        }
        other => other?,
    }
    writer.next += 1;
    if let Some(log) = &mut writer.log {
        log.push(Change::Insert(handle, priority, rule));
    }
    rebuild_if_due(shared, &mut writer);
    Ok(handle)
}

pub(super) fn remove(shared: &Arc<Shared>, handle: RuleHandle) -> Result<(), Error> {
    let mut writer = lock(shared);
    let state = shared.state.load();
    if !writer.filling.remove(&state.delta, handle) {
        let place = writer.places.remove(&handle);
        let place = place.ok_or(Error::UnknownRule { handle: handle.as_u64() })?;
        state.base.delete(place as usize);
    }
    if let Some(log) = &mut writer.log {
        log.push(Change::Delete(handle));
    }
    rebuild_if_due(shared, &mut writer);
    Ok(())
}

pub(super) fn replace(shared: &Arc<Shared>, rules: &RuleSet) -> Result<RuleHandle, Error> {
    let first = {
        let mut writer = lock(shared);
        let first = writer.next;
        writer.next += rules.len() as u64;
        first
    };
    let base = Arc::new(Base::new(named(rules, first), &shared.config)?);
    let (delta, filling) = Filling::empty(&shared.config.tuple);
    let mut writer = lock(shared);
    let next = writer.next;
    let era = writer.era + 1;
    *writer = Writer { era, ..Writer::new(&base, filling, next) };
    shared.state.store(Arc::new(State { base, delta: Arc::new(delta) }));
    shared.settled.notify_all();
    Ok(RuleHandle::new(first))
}

pub(super) fn settle(shared: &Arc<Shared>) -> Result<(), Error> {
    let mut writer = lock(shared);
    loop {
        if writer.log.is_none() {
            let clean = writer.filling.len() == 0 && shared.state.load().base.deletions() == 0;
            if clean {
                return Ok(());
            }
            if let Some(error) = writer.failed.take() {
                return Err(error);
            }
            rebuild(shared, &mut writer);
        } else {
            writer = shared.settled.wait(writer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts a rebuild when enough has changed and none is running.
fn rebuild_if_due(shared: &Arc<Shared>, writer: &mut Writer) {
    let waiting = writer.filling.len();
    let deleted = shared.state.load().base.deletions();
    // After a failure, wait until the rules have changed a good deal before trying again.
    let patience = if writer.failed.is_some() { 16 } else { 1 };
    let due = waiting >= shared.config.rebuild_after * patience || deleted >= patience;
    if due && writer.log.is_none() {
        rebuild(shared, writer);
    }
}

/// Starts a rebuild in the background.
fn rebuild(shared: &Arc<Shared>, writer: &mut Writer) {
    let state = shared.state.load_full();
    let waiting: Vec<(RuleHandle, Priority, Arc<Rule>)> = writer
        .filling
        .rules()
        .map(|(handle, inserted)| (handle, inserted.priority, Arc::clone(&inserted.rule)))
        .collect();
    writer.log = Some(Vec::new());
    writer.failed = None;
    let era = writer.era;
    let for_thread = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("classifier-rebuild".to_owned());
    let spawned = thread.spawn(move || {
        // What is deleted from here on is in the log too, and deleting twice does no harm.
        let mut rules: Vec<Named> = state.base.alive().collect();
        rules.extend(waiting.into_iter().map(|(handle, priority, rule)| Named {
            priority,
            handle,
            rule: Rule::clone(&rule),
        }));
        drop(state);
        finish(&for_thread, rules, era);
    });
    if let Err(error) = spawned {
        writer.log = None;
        writer.failed = Some(Error::NoThread { why: error.to_string() });
        shared.settled.notify_all();
    }
}

/// The background thread: compiles, catches up with what changed meanwhile, publishes.
fn finish(shared: &Arc<Shared>, mut rules: Vec<Named>, era: u64) {
    rules.sort_by_key(|named| (named.priority, named.handle));
    let compiled = Base::new(rules, &shared.config).and_then(|base| Fresh::new(base, shared));
    let mut fresh = match compiled {
        Ok(fresh) => fresh,
        Err(error) => return give_up(shared, era, error),
    };
    loop {
        let mut writer = lock(shared);
        if writer.era != era {
            return;
        }
        let log = writer.log.as_mut().map(std::mem::take).unwrap_or_default();
        if log.len() > SHORT {
            drop(writer);
            if let Err(error) = fresh.catch_up(log, shared) {
                return give_up(shared, era, error);
            }
            continue;
        }
        if let Err(error) = fresh.catch_up(log, shared) {
            drop(writer);
            return give_up(shared, era, error);
        }
        let Fresh { base, delta, filling, places } = fresh;
        let unused = std::mem::replace(&mut writer.filling, filling);
        let forgotten = std::mem::replace(&mut writer.places, places);
        writer.log = None;
        let old =
            shared.state.swap(Arc::new(State { base: Arc::new(base), delta: Arc::new(delta) }));
        rebuild_if_due(shared, &mut writer);
        drop(writer);
        shared.settled.notify_all();
        drop((unused, forgotten));
        retire(old);
        return;
    }
}

/// Drops what nobody reads any more here rather than on a reader's time.
fn retire(old: Arc<State>) {
    for _ in 0..RETIRE_TRIES {
        if Arc::strong_count(&old) == 1 {
            break;
        }
        std::thread::sleep(RETIRE_PAUSE);
    }
}

fn give_up(shared: &Shared, era: u64, error: Error) {
    let mut writer = lock(shared);
    if writer.era == era {
        writer.log = None;
        writer.failed = Some(error);
    }
    shared.settled.notify_all();
}

/// A rebuilt state that nobody sees yet.
struct Fresh {
    base: Base,
    delta: Generation,
    filling: Filling,
    places: HashMap<RuleHandle, u32>,
}

impl Fresh {
    fn new(base: Base, shared: &Shared) -> Result<Self, Error> {
        let (delta, filling) = Filling::empty(&shared.config.tuple);
        let places = base.handles().collect();
        Ok(Self { base, delta, filling, places })
    }

    fn catch_up(&mut self, log: Vec<Change>, shared: &Shared) -> Result<(), Error> {
        for change in log {
            match change {
                Change::Insert(handle, priority, rule) => {
                    self.insert(handle, priority, rule, shared)?
                }
                Change::Delete(handle) => {
                    if !self.filling.remove(&self.delta, handle)
                        && let Some(place) = self.places.remove(&handle)
                    {
                        self.base.delete(place as usize);
                    }
                }
            }
        }
        Ok(())
    }

    fn insert(
        &mut self,
        handle: RuleHandle,
        priority: Priority,
        rule: Arc<Rule>,
        shared: &Shared,
    ) -> Result<(), Error> {
        match self.filling.insert(&self.delta, handle, priority, rule.clone()) {
            Err(Error::DeltaFull { .. }) => {
                (self.delta, self.filling) = self.filling.grown(&shared.config.tuple)?;
                self.filling.insert(&self.delta, handle, priority, rule)
            }
            other => other,
        }
    }
}
