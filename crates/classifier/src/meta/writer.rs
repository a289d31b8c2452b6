//! Changing the rules, and the rebuild behind it. All of this runs under one lock that readers
//! never see, except the compilation itself, which runs under none.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::{HashMap, HashSet};

use super::base::{Base, Named};
use super::{Shared, State, named};
use crate::Error;
use crate::rule::{Rule, RuleSet};
use crate::tuple::{Filling, Priority, RuleHandle};

/// A log no longer than this is applied while writers wait.
const SHORT: usize = 256;

/// Builds that were overtaken by deletions, after which writers wait for one.
const PATIENCE: u32 = 3;

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
    /// Rules that the next rebuild leaves out, because their deletion waits for it.
    leaving: HashSet<RuleHandle>,
    /// What changed since the running rebuild took its rules.
    log: Option<Vec<Change>>,
    /// Counts rebuilds that have ended.
    rebuilds: u64,
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
        Self {
            filling,
            places,
            next,
            leaving: HashSet::default(),
            log: None,
            rebuilds: 0,
            era: 0,
            failed: None,
        }
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
            shared.state.store(Arc::new(state.with_delta(delta)));
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
    while let Some(&place) = writer.places.get(&handle) {
        if shared.state.load().delete(place as usize) {
            writer.places.remove(&handle);
            return logged(shared, writer, Change::Delete(handle));
        }
        writer = left_out(shared, writer, handle)?;
        if !writer.places.contains_key(&handle) {
            return Ok(());
        }
    }
    let state = shared.state.load();
    if !writer.filling.remove(&state.delta, handle) {
        return Err(Error::UnknownRule { handle: handle.as_u64() });
    }
    logged(shared, writer, Change::Delete(handle))
}

fn logged(
    shared: &Arc<Shared>,
    mut writer: MutexGuard<'_, Writer>,
    change: Change,
) -> Result<(), Error> {
    if let Some(log) = &mut writer.log {
        log.push(change);
    }
    rebuild_if_due(shared, &mut writer);
    Ok(())
}

/// Waits for a rebuild, which leaves the rule out if it starts after this.
fn left_out<'a>(
    shared: &'a Arc<Shared>,
    mut writer: MutexGuard<'a, Writer>,
    handle: RuleHandle,
) -> Result<MutexGuard<'a, Writer>, Error> {
    writer.leaving.insert(handle);
    if writer.log.is_none() {
        rebuild(shared, &mut writer);
    }
    let era = writer.era;
    let started = writer.rebuilds;
    while writer.log.is_some() && writer.era == era && writer.rebuilds == started {
        writer = shared.settled.wait(writer).unwrap_or_else(PoisonError::into_inner);
    }
    if writer.places.contains_key(&handle)
        && let Some(error) = writer.failed.take()
    {
        writer.leaving.remove(&handle);
        return Err(error);
    }
    if !writer.places.contains_key(&handle) {
        writer.leaving.remove(&handle);
    }
    Ok(writer)
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
    let rebuilds = writer.rebuilds + 1;
    *writer = Writer { era, rebuilds, ..Writer::new(&base, filling, next) };
    shared.state.store(Arc::new(State::new(base, delta)));
    shared.settled.notify_all();
    Ok(RuleHandle::new(first))
}

pub(super) fn settle(shared: &Arc<Shared>) -> Result<(), Error> {
    let mut writer = lock(shared);
    loop {
        if writer.log.is_none() {
            let clean = writer.filling.len() == 0 && shared.state.load().deleted.count() == 0;
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
    let deleted = shared.state.load().deleted.count();
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
    let waiting: Vec<Named> = in_delta(&writer.filling).collect();
    writer.log = Some(Vec::new());
    writer.failed = None;
    let era = writer.era;
    let leaving = writer.leaving.clone();
    let for_thread = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("classifier-rebuild".to_owned());
    let spawned = thread.spawn(move || {
        // What is deleted from here on is in the log too, and deleting twice does no harm.
        let alive = state.base.alive_named(&state.deleted);
        let mut rules: Vec<Named> =
            alive.filter(|named| !leaving.contains(&named.handle)).collect();
        rules.extend(waiting);
        drop(state);
        finish(&for_thread, rules, era);
    });
    if let Err(error) = spawned {
        writer.log = None;
        writer.failed = Some(Error::NoThread { why: error.to_string() });
        shared.settled.notify_all();
    }
}

/// The rules of a delta table, in no order.
fn in_delta(filling: &Filling) -> impl Iterator<Item = Named> {
    filling.rules().map(|(handle, inserted)| Named {
        priority: inserted.priority,
        handle,
        rule: Rule::clone(&inserted.rule),
    })
}

/// The background thread: compiles, catches up with what changed meanwhile, publishes.
fn finish(shared: &Arc<Shared>, rules: Vec<Named>, era: u64) {
    if let Err(error) = Fresh::new(rules, shared).and_then(|fresh| publish(shared, fresh, era)) {
        give_up(shared, era, error);
    }
}

fn publish(shared: &Arc<Shared>, mut fresh: Fresh, era: u64) -> Result<(), Error> {
    for patience in (0..=PATIENCE).rev() {
        let mut writer = loop {
            let mut writer = lock(shared);
            if writer.era != era {
                return Ok(());
            }
            let log = writer.log.as_mut().map(std::mem::take).unwrap_or_default();
            if log.len() <= SHORT {
                fresh.catch_up(log, shared)?;
                break writer;
            }
            drop(writer);
            fresh.catch_up(log, shared)?;
        };
        if !fresh.leaving.is_empty() {
            // Rules that were deleted meanwhile and have been compiled all the same: once more, and
            // in the end while writers wait.
            let waiting = (patience == 0).then_some(writer);
            fresh = fresh.without_leaving(shared)?;
            match waiting {
                None => continue,
                Some(held) => writer = held,
            }
        }
        let Fresh { state, filling, places, .. } = fresh;
        let unused = std::mem::replace(&mut writer.filling, filling);
        let forgotten = std::mem::replace(&mut writer.places, places);
        writer.log = None;
        writer.rebuilds += 1;
        let old = shared.state.swap(Arc::new(state));
        rebuild_if_due(shared, &mut writer);
        drop(writer);
        shared.settled.notify_all();
        drop((unused, forgotten));
        retire(old);
        return Ok(());
    }
    Ok(())
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
        writer.rebuilds += 1;
        writer.failed = Some(error);
    }
    shared.settled.notify_all();
}

/// A rebuilt state that nobody sees yet.
struct Fresh {
    state: State,
    filling: Filling,
    places: HashMap<RuleHandle, u32>,
    /// Compiled rules that are deleted, and cannot be but by compiling once more.
    leaving: HashSet<RuleHandle>,
}

impl Fresh {
    fn new(mut rules: Vec<Named>, shared: &Shared) -> Result<Self, Error> {
        rules.sort_by_key(|named| (named.priority, named.handle));
        let base = Base::new(rules, &shared.config)?;
        let (delta, filling) = Filling::empty(&shared.config.tuple);
        let places = base.handles().collect();
        let state = State::new(Arc::new(base), delta);
        Ok(Self { state, filling, places, leaving: HashSet::default() })
    }

    /// The same rules, compiled without those that leave.
    fn without_leaving(self, shared: &Shared) -> Result<Self, Error> {
        let stays = |named: &Named| !self.leaving.contains(&named.handle);
        let alive = self.state.base.alive_named(&self.state.deleted);
        let mut rules: Vec<Named> = alive.filter(stays).collect();
        rules.extend(in_delta(&self.filling));
        Self::new(rules, shared)
    }

    fn catch_up(&mut self, log: Vec<Change>, shared: &Shared) -> Result<(), Error> {
        for change in log {
            match change {
                Change::Insert(handle, priority, rule) => {
                    self.insert(handle, priority, rule, shared)?
                }
                Change::Delete(handle) => self.delete(handle),
            }
        }
        Ok(())
    }

    fn delete(&mut self, handle: RuleHandle) {
        match self.places.remove(&handle) {
            Some(place) if self.state.delete(place as usize) => {}
            Some(_) => drop(self.leaving.insert(handle)),
            None => drop(self.filling.remove(&self.state.delta, handle)),
        }
    }

    fn insert(
        &mut self,
        handle: RuleHandle,
        priority: Priority,
        rule: Arc<Rule>,
        shared: &Shared,
    ) -> Result<(), Error> {
        match self.filling.insert(&self.state.delta, handle, priority, rule.clone()) {
            Err(Error::DeltaFull { .. }) => {
                let (delta, filling) = self.filling.grown(&shared.config.tuple)?;
                self.state = self.state.with_delta(delta);
                self.filling = filling;
                self.filling.insert(&self.state.delta, handle, priority, rule)
            }
            other => other,
        }
    }
}
