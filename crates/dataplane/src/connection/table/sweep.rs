//! Expiry without pauses, making room in a full table, and reading out all connections.

use super::Table;
use super::packed::Packed;
use super::part::Part;
use super::slot::{Locked, glance};
use super::sync::{AtomicU64, Ordering};
use crate::clock::Time;
use crate::connection::state::{Connection, idle};
use crate::connection::{Ended, Key};

/// Connections looked at to find an old one.
const SAMPLE: usize = 32;

/// Where the next sweep and the next search for an old connection begin.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    sweep: AtomicU64,
    evict: AtomicU64,
}

/// A connection to make room, and how gladly it is given up.
#[derive(Clone, Copy)]
struct Victim {
    v4: bool,
    index: u32,
    seen: u32,
    rank: (bool, u32),
}

impl Table {
    /// Slots that a complete sweep has to look at.
    pub fn sweep_size(&self) -> usize {
        self.v4.used() + self.v6.used()
    }

    /// Looks at the next `budget` slots, going round, and forgets connections that were silent for
    /// too long; answers how many. Workers share the round: each looks at its own piece.
    ///
    /// Cost: about 1 to 3 ns a slot, and some 100 ns for each connection that ends.
    pub fn expire(&self, now: Time, budget: usize, mut on_end: impl FnMut(Ended)) -> usize {
        let now = now.as_millis() as u32;
        let (v4, v6) = (self.v4.used(), self.v6.used());
        let budget = budget.min(v4 + v6);
        if budget == 0 {
            return 0;
        }
        let start = self.sweep.sweep.fetch_add(budget as u64, Ordering::Relaxed);
        let mut ended = 0;
        for n in 0..budget {
            let at = ((start + n as u64) % (v4 + v6) as u64) as usize;
            let gone = if at < v4 {
                self.expire_one(&self.v4, at, now)
            } else {
                self.expire_one(&self.v6, at - v4, now)
            };
            if let Some((key, connection)) = gone {
                on_end(Ended { key, connection });
                ended += 1;
            }
        }
        ended
    }

    #[inline]
    fn expire_one<K: Packed>(
        &self,
        part: &Part<K>,
        at: usize,
        now: u32,
    ) -> Option<(Key, Connection)> {
        let glance = glance(&part.slots[at]);
        // No timeout is shorter than this: most connections need no closer look.
        if !glance.live || idle(now, glance.seen) < self.config.timeouts.shortest() {
            return None;
        }
        self.take_if(part, at as u32, |key, locked| {
            let timeout = locked.protocol().timeout(key.protocol, &self.config.timeouts);
            idle(now, locked.seen()) >= timeout
        })
    }

    /// Takes out the connection in slot `at` if `condition` holds.
    fn take_if<K: Packed>(
        &self,
        part: &Part<K>,
        at: u32,
        condition: impl Fn(&Key, &Locked<'_>) -> bool,
    ) -> Option<(Key, Connection)> {
        let words = {
            let locked = part.lock(at)?;
            let words = part.key(at);
            if !condition(&words.unpack(), &locked) {
                return None;
            }
            words
        };
        let key = words.unpack();
        // Buckets are locked before slots, so the lock was given up meanwhile: look again.
        let connection =
            self.remove(part, &self.lookup(part, words), at, |locked| condition(&key, locked))?;
        Some((key, connection))
    }

    /// Makes room: takes out the oldest idle connection of a sample, one that never was answered or
    /// is over before any other.
    pub(super) fn evict(&self, now: u32) -> Option<Ended> {
        for _ in 0..4 {
            let (v4, v6) = (self.v4.used(), self.v6.used());
            let start = self.sweep.evict.fetch_add(SAMPLE as u64, Ordering::Relaxed);
            let mut best: Option<Victim> = None;
            for n in 0..SAMPLE.min(v4 + v6) {
                let at = ((start + n as u64) % (v4 + v6) as u64) as usize;
                let victim = if at < v4 {
                    Self::victim(&self.v4, at, now, true)
                } else {
                    Self::victim(&self.v6, at - v4, now, false)
                };
                if let Some(victim) = victim
                    && best.is_none_or(|best| victim.rank > best.rank)
                {
                    best = Some(victim);
                }
            }
            let Some(victim) = best else { continue };
            // Not if a packet came meanwhile.
            let (index, seen) = (victim.index, victim.seen);
            let taken = if victim.v4 {
                self.take_if(&self.v4, index, |_, locked| locked.seen() == seen)
            } else {
                self.take_if(&self.v6, index, |_, locked| locked.seen() == seen)
            };
            if let Some((key, connection)) = taken {
                return Some(Ended { key, connection });
            }
        }
        None
    }

    fn victim<K: Packed>(part: &Part<K>, at: usize, now: u32, v4: bool) -> Option<Victim> {
        if !glance(&part.slots[at]).live {
            return None;
        }
        let locked = part.lock(at as u32)?;
        let seen = locked.seen();
        let rank = (locked.protocol().expendable(), idle(now, seen));
        Some(Victim { v4, index: at as u32, seen, rank })
    }

    /// Calls `each` for every connection. Those that change meanwhile are seen before or after the
    /// change; none is locked while `each` runs.
    pub fn for_each(&self, mut each: impl FnMut(Key, Connection)) {
        fn walk<K: Packed>(part: &Part<K>, each: &mut impl FnMut(Key, Connection)) {
            for at in 0..part.used() {
                if !glance(&part.slots[at]).live {
                    continue;
                }
                if let Some(locked) = part.lock(at as u32) {
                    let (words, connection) = (part.key(at as u32), locked.read());
                    drop(locked);
                    each(words.unpack(), connection);
                }
            }
        }
        walk(&self.v4, &mut each);
        walk(&self.v6, &mut each);
    }
}
