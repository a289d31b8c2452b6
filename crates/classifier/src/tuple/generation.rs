//! Tables of both address families, filled together.

use std::sync::Arc;

use ahash::{HashMap, HashMapExt};

use super::table::{Found, Limits, Table};
use super::{Match, Priority, RuleHandle};
use crate::Error;
use crate::header::{Addresses, Header};
use crate::lanes::{Entry, Key, WHOLE, entries};
use crate::rule::Rule;

/// Tables that are looked up in; shared by readers and the writer.
#[derive(Debug)]
pub(crate) struct Generation {
    v4: Table<2>,
    v6: Table<4>,
}

impl Generation {
    /// The best rule that matches.
    pub(super) fn best(&self, header: &Header) -> Option<Match> {
        let mut found = None;
        self.lookup(header, &mut found);
        found.map(|(_, found)| found)
    }

    /// Improves `found` by what matches `header`.
    pub(crate) fn lookup(&self, header: &Header, found: &mut Found) {
        match header.addresses {
            Addresses::V4 { .. } if self.v4.shapes() > 0 => {
                if let Some(key) = Key::new(header) {
                    self.v4.lookup(&key, found);
                }
            }
            Addresses::V6 { .. } if self.v6.shapes() > 0 => {
                if let Some(key) = Key::new(header) {
                    self.v6.lookup(&key, found);
                }
            }
            _ => {}
        }
    }

    /// Whether nothing was ever inserted.
    pub(crate) fn is_untouched(&self) -> bool {
        self.v4.shapes() == 0 && self.v6.shapes() == 0
    }

    /// Shapes in use: the number of hashes that a lookup takes.
    pub(crate) fn shapes(&self) -> usize {
        self.v4.shapes().max(self.v6.shapes())
    }

    /// Cache lines that a lookup touches at most.
    pub(crate) fn touches(&self, chain: usize) -> usize {
        self.v4.touches(chain).max(self.v6.touches(chain))
    }

    pub(crate) fn memory_usage(&self) -> usize {
        self.v4.memory_usage() + self.v6.memory_usage()
    }
}

/// What only the writer knows of a generation.
#[derive(Debug)]
pub(crate) struct Filling {
    limits: Limits,
    used: [usize; 2],
    /// Rules that are in, with their slots.
    alive: HashMap<RuleHandle, Inserted>,
}

/// A rule in the tables.
#[derive(Clone, Debug)]
pub(crate) struct Inserted {
    pub(crate) rule: Arc<Rule>,
    pub(crate) priority: Priority,
    slots: [Vec<u32>; 2],
}

impl Filling {
    /// Empty tables with room for `capacity` entries a family, and what their writer needs.
    pub(crate) fn new(capacity: usize, shapes: usize, chain: usize) -> (Generation, Self) {
        let limits = Limits { shapes, chain };
        let generation =
            Generation { v4: Table::new(capacity, limits), v6: Table::new(capacity, limits) };
        (generation, Self { limits, used: [0; 2], alive: HashMap::new() })
    }

    /// Rules that are in.
    pub(crate) fn len(&self) -> usize {
        self.alive.len()
    }

    /// The rules that are in, in no order.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (RuleHandle, &Inserted)> {
        self.alive.iter().map(|(handle, inserted)| (*handle, inserted))
    }

    /// Checks that lookups in `generation` come by each of these rules and by nothing else.
    ///
    /// # Errors
    /// The rule that is missing, or `None` when there is one too many.
    pub(crate) fn verify(&self, generation: &Generation) -> Result<(), Option<RuleHandle>> {
        let mut linked = [0, 0];
        for (handle, Inserted { rule, priority, .. }) in self.rules() {
            let mut v4: Vec<Entry<2>> = Vec::new();
            let mut v6: Vec<Entry<4>> = Vec::new();
            entries(0, rule, WHOLE, &mut v4);
            entries(0, rule, WHOLE, &mut v6);
            let found = Match { rule: handle, action: rule.action };
            if !v4.iter().all(|entry| generation.v4.leads_to(entry, *priority, found))
                || !v6.iter().all(|entry| generation.v6.leads_to(entry, *priority, found))
            {
                return Err(Some(handle));
            }
            linked = [linked[0] + v4.len(), linked[1] + v6.len()];
        }
        if linked == [generation.v4.linked(), generation.v6.linked()] { Ok(()) } else { Err(None) }
    }

    /// Inserts a rule. On an error the tables are as they were, apart from used-up slots;
    /// [`Error::DeltaFull`] says that a new generation is needed.
    pub(crate) fn insert(
        &mut self,
        generation: &Generation,
        handle: RuleHandle,
        priority: Priority,
        rule: Arc<Rule>,
    ) -> Result<(), Error> {
        let mut v4: Vec<Entry<2>> = Vec::new();
        let mut v6: Vec<Entry<4>> = Vec::new();
        entries(0, &rule, WHOLE, &mut v4);
        entries(0, &rule, WHOLE, &mut v6);
        let found = Match { rule: handle, action: rule.action };
        let mut slots = [Vec::new(), Vec::new()];
        let done = self
            .link(&generation.v4, 0, &v4, priority, found, &mut slots[0])
            .and_then(|()| self.link(&generation.v6, 1, &v6, priority, found, &mut slots[1]));
        let inserted = Inserted { rule, priority, slots };
        if done.is_err() {
            unlink(generation, &inserted);
            return done;
        }
        self.alive.insert(handle, inserted);
        Ok(())
    }

    /// Deletes a rule; whether it was in.
    pub(crate) fn remove(&mut self, generation: &Generation, handle: RuleHandle) -> bool {
        let Some(inserted) = self.alive.remove(&handle) else { return false };
        unlink(generation, &inserted);
        true
    }

    fn link<const B: usize>(
        &mut self,
        table: &Table<B>,
        family: usize,
        entries: &[Entry<B>],
        priority: Priority,
        found: Match,
        slots: &mut Vec<u32>,
    ) -> Result<(), Error> {
        for entry in entries {
            let slot = self.used[family];
            if slot >= table.capacity() {
                return Err(Error::DeltaFull { limit: table.capacity() });
            }
            table.insert(slot, entry, priority, found, self.limits)?;
            self.used[family] += 1;
            slots.push(u32::try_from(slot).unwrap_or(u32::MAX));
        }
        Ok(())
    }
}

fn unlink(generation: &Generation, inserted: &Inserted) {
    let [v4, v6] = &inserted.slots;
    v4.iter().for_each(|&slot| generation.v4.remove(slot as usize));
    v6.iter().for_each(|&slot| generation.v6.remove(slot as usize));
}
