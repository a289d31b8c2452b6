//! Replacing what a set holds while endpoints come and go.
//!
//! A set of a million prefixes takes tenths of a second to nest and to put into a table. That happens
//! with nobody waiting: changes hold the lock only to begin, to learn the identities to come, and to
//! put the new table in force. Addresses of endpoints that change meanwhile are noted, and brought up
//! to date in the new table before that. Packets see the set of before until then, and all of the new
//! one from then on.
//!
//! Whatever publishes a table of its own meanwhile makes this begin anew; after some attempts it goes
//! the slow way, holding the lock, so that it ends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portcullis_dataplane::clock::Time;
use portcullis_identity_table::region::Regions;
use portcullis_identity_table::{IdentityId, Prefix, Writer};
use portcullis_policy::EngineError;
use portcullis_policy::set_change::{SetChange, SetDraft};

use super::Control;
use crate::Error;
use crate::engine::{Applied, Shared};
use crate::glue::Table;

/// Attempts before the lock is held throughout.
const ATTEMPTS: usize = 4;
/// Longest wait for the table of before to be in use no more; never longer than the replacement took. A
/// judge that has nothing to judge may have it for long.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(1);

/// A table that is being built: one at a time.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Addresses that changed since the hosts were copied.
    pub(super) changed: BTreeSet<IpAddr>,
}

/// Of which policies the set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those in force.
    Live,
    /// Those staged beside them.
    Staged,
}

/// What the new table is made of.
struct Announced {
    change: SetChange,
    hosts: Vec<(IpAddr, IdentityId)>,
}

/// A table that holds the set, and the addresses that it moves.
struct Built {
    change: SetChange,
    table: (Arc<Table>, Writer),
    moved: Vec<IpAddr>,
}

/// What is better freed where nobody waits: held until then.
type Leftovers = (Writer, Arc<[IpNet]>, Arc<Regions>);

/// How a step ended.
enum Step<T> {
    Done(T),
    /// Somebody else published a table, or nothing is published that a table could be built beside.
    Overtaken,
}

/// Replaces the content of a set that the policies name. `None`: nothing is staged.
pub(crate) fn replace(
    shared: &Shared,
    whose: Whose,
    name: &str,
    prefixes: &Arc<[IpNet]>,
) -> Result<Option<Applied>, Error> {
    let begin = Instant::now();
    for _ in 0..ATTEMPTS {
        let draft = with(shared, whose, |control, _| control.draft_feed(name, prefixes));
        let Some(draft) = draft.transpose()? else { return Ok(None) };
        let Step::Done(draft) = draft else { break };
        let change = draft.build();
        let announced = with(shared, whose, |control, now| control.announce_feed(now, change));
        let Some(announced) = announced.transpose()? else { return Ok(None) };
        let Step::Done(announced) = announced else { continue };
        let built = match announced.build() {
            Ok(built) => built,
            Err(failed) => {
                let (change, error) = *failed;
                with(shared, whose, |control, now| control.abandon_feed(now, change));
                return Err(error);
            }
        };
        let finished = with(shared, whose, |control, now| control.finish_feed(now, name, built));
        let Some(finished) = finished.transpose()? else { return Ok(None) };
        if let Step::Done((applied, leftovers)) = finished {
            drop(leftovers);
            free_tables(shared, whose, begin.elapsed().min(PATIENCE));
            return Ok(Some(applied));
        }
    }
    let slowly = with(shared, whose, |control, now| {
        control.set_feed(now, name, prefixes)?;
        Ok(Applied::of(control))
    });
    slowly.transpose()
}

/// One step, with the lock of changes held; `None` if nothing is staged.
fn with<T>(shared: &Shared, whose: Whose, step: impl FnOnce(&mut Control, Time) -> T) -> Option<T> {
    let mut control = shared.control.lock();
    // Under the lock, so that the times of changes ascend.
    let now = shared.clock.now();
    match whose {
        Whose::Live => Some(step(&mut control, now)),
        Whose::Staged => control.staged.as_deref_mut().map(|staged| step(staged, now)),
    }
}

/// Frees tables of before here and not under the lock, once no worker is in them. Those that one is in
/// for longer than `patience` the next change frees.
fn free_tables(shared: &Shared, whose: Whose, patience: Duration) {
    let begin = Instant::now();
    loop {
        let unused = with(shared, whose, |control, _| control.unused_tables());
        let Some((unused, used)) = unused else { return };
        drop(unused);
        if used == 0 || begin.elapsed() >= patience {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

impl Announced {
    fn build(self) -> Result<Built, Box<(SetChange, Error)>> {
        let Self { change, hosts } = self;
        let addresses: Vec<IpAddr> = hosts.iter().map(|(address, _)| *address).collect();
        let moved = change.regions().moved(&addresses);
        let (table, mut writer) = Table::new();
        let hosts = hosts.into_iter().map(|(address, id)| (address.into(), id));
        let rows = change.regions().rows().chain(hosts);
        let rows: Result<Vec<_>, Error> =
            rows.map(|(net, id)| Ok((Prefix::try_from(net)?, id))).collect();
        match rows.and_then(|rows| Ok(writer.load(rows)?)) {
            Ok(()) => Ok(Built { change, table: (table, writer), moved }),
            Err(error) => Err(Box::new((change, error))),
        }
    }
}

impl Control {
    /// The slow way: replaces the set and builds the table while everybody waits.
    pub(crate) fn set_feed(
        &mut self,
        now: Time,
        name: &str,
        prefixes: &Arc<[IpNet]>,
    ) -> Result<(), Error> {
        let mut policies = self.engine.policies().clone();
        let Some(set) = policies.sets.iter_mut().find(|set| &*set.name == name) else {
            return Err(self.no_such_set(name));
        };
        set.prefixes = Arc::clone(prefixes);
        self.replace(now, |engine| engine.set_policies(policies))?;
        self.feeds.insert(name.into(), Arc::clone(prefixes));
        Ok(())
    }

    fn no_such_set(&self, name: &str) -> Error {
        let known = self.engine.policies().sets.iter().map(|set| set.name.to_string()).collect();
        Error::NoSuchSet { name: name.to_owned(), known }
    }

    fn draft_feed(&self, name: &str, prefixes: &Arc<[IpNet]>) -> Result<Step<SetDraft>, Error> {
        let draft = self.engine.draft_set(name, Arc::clone(prefixes));
        let draft = draft.ok_or_else(|| self.no_such_set(name))?;
        let in_step = self.published.is_some() && !self.apart;
        Ok(if in_step { Step::Done(draft) } else { Step::Overtaken })
    }

    /// Publishes a program that knows the identities to come, and copies the hosts.
    fn announce_feed(
        &mut self,
        now: Time,
        mut change: SetChange,
    ) -> Result<Step<Announced>, Error> {
        if self.apart {
            return Ok(Step::Overtaken);
        }
        let update = match self.engine.announce_set(&mut change) {
            Ok(update) => update,
            Err(error) => {
                self.abandon_feed(now, change);
                return match error {
                    EngineError::Overtaken => Ok(Step::Overtaken),
                    error => {
                        self.apart = true;
                        Err(error.into())
                    }
                };
            }
        };
        if let Err(error) = self.publish_change(now, &update) {
            self.abandon_feed(now, change);
            self.apart = true;
            return Err(error);
        }
        self.beside = Some(Beside::default());
        let hosts = self.registry().hosts().collect();
        Ok(Step::Done(Announced { change, hosts }))
    }

    /// Puts set and table in force.
    fn finish_feed(
        &mut self,
        now: Time,
        name: &str,
        built: Built,
    ) -> Result<Step<(Applied, Leftovers)>, Error> {
        let Built { change, table: (table, mut writer), moved } = built;
        let Some(Beside { mut changed }) = self.beside.take() else {
            self.abandon_feed(now, change);
            return Ok(Step::Overtaken);
        };
        changed.extend(moved);
        let done = match self.engine.finish_set(change, changed.iter().copied()) {
            Ok(done) => done,
            Err(EngineError::Overtaken) => return Ok(Step::Overtaken),
            Err(error) => {
                self.apart = true;
                return Err(error.into());
            }
        };
        changed.extend(done.update.table.iter().map(|(net, _)| net.addr()));
        let mut bring_up_to_date = || {
            for &address in &changed {
                let host = Prefix::try_from(IpNet::from(address))?;
                match self.engine.registry().host(address) {
                    Some(id) => writer.insert(host, id)?,
                    None => writer.remove(&host)?,
                };
            }
            Ok(())
        };
        let set = self.engine.policies().sets.iter().find(|set| &*set.name == name);
        let holds = set.map(|set| Arc::clone(&set.prefixes));
        if let Err(error) = bring_up_to_date() {
            // No room for a host: back to what was, which had room.
            let mut policies = self.engine.policies().clone();
            let set = policies.sets.iter_mut().find(|set| &*set.name == name);
            set.into_iter().for_each(|set| set.prefixes = Arc::clone(&done.prefixes));
            drop(self.engine.set_policies(policies));
            self.apart = true;
            return Err(error);
        }
        self.feeds.extend(holds.map(|prefixes| (name.into(), prefixes)));
        self.generation += 1;
        let old = self.publish_with(now, (table, writer));
        Ok(Step::Done((Applied::of(self), (old, done.prefixes, done.regions))))
    }

    fn abandon_feed(&mut self, now: Time, change: SetChange) {
        self.beside = None;
        let update = self.engine.abandon_set(change).map_err(Error::from);
        let published = update.and_then(|update| self.publish_change(now, &update));
        // Should it fail, the next change publishes everything.
        self.apart |= published.is_err();
    }

    /// Takes out tables of before that no worker has; tells how many others there are.
    fn unused_tables(&mut self) -> (Vec<Arc<Table>>, usize) {
        let tables = &mut self.retired.0;
        let in_use = |table: &Arc<Table>| Arc::strong_count(table) > 1 || table.in_use();
        let (used, unused) = std::mem::take(tables).into_iter().partition(in_use);
        *tables = used;
        (unused, tables.len())
    }
}

#[cfg(test)]
mod tests;
