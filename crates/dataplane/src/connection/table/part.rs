//! Connections of one IP version: index, slots and free slots.

use super::bucket::Bucket;
use super::free::Free;
use super::memory::Array;
use super::slot::{Cold, KeyWords, Locked, Slot, glance, holds};
use crate::connection::state::Connection;
use crate::prefetch::prefetch;

/// Connections to a bucket when the table is full: three quarters of its places.
const LOAD: usize = 9;

/// How far from its bucket a connection may stand. At the load above, the chance that no place is
/// found within that is far below one in a million.
const REACH: usize = if cfg!(loom) { 2 } else { 31 };

/// Connections of one IP version.
#[derive(Debug)]
pub(super) struct Part<S: Slot> {
    buckets: Array<Bucket>,
    /// Buckets that hashes choose from; [`REACH`] more follow.
    homes: u64,
    pub(super) slots: Array<S>,
    cold: Array<Cold>,
    free: Free,
}

/// Where a connection may be: a slot, or one of the numbers that no slot has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Guess(u32);

impl Guess {
    /// There is none.
    pub(super) const NOWHERE: Self = Self(u32::MAX);
    /// In another bucket, if anywhere.
    const ELSEWHERE: Self = Self(u32::MAX - 1);
}

/// What became of an insertion.
pub(super) enum Inserted {
    /// It is in the table.
    Done,
    /// The key was there already: nothing changed.
    Exists,
    /// No room.
    Full,
}

impl<S: Slot> Part<S> {
    pub(super) fn new(capacity: usize) -> std::io::Result<Self> {
        let homes = capacity.div_ceil(LOAD).max(1);
        let cold = if S::COLD_ELSEWHERE { capacity } else { 0 };
        Ok(Self {
            buckets: Array::new(homes + REACH)?,
            homes: homes as u64,
            slots: Array::new(capacity)?,
            cold: Array::new(cold)?,
            free: Free::new(),
        })
    }

    /// Bytes in use: the index, and all slots that were ever used. Memory that was never touched
    /// does not exist yet.
    pub(super) fn memory_usage(&self) -> usize {
        let used = self.free.used();
        if used == 0 {
            return 0;
        }
        let cold = if S::COLD_ELSEWHERE { size_of::<Cold>() } else { 0 };
        size_of_val(&*self.buckets) + used * (size_of::<S>() + cold)
    }

    /// Slots that were ever used.
    pub(super) fn used(&self) -> usize {
        self.free.used()
    }

    /// Fetches the bucket of a hash into the cache.
    #[inline(always)]
    pub(super) fn prefetch_bucket(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// Looks into the bucket of a hash for the slot that a look-up will most likely end at, and
    /// fetches that.
    #[inline(always)]
    pub(super) fn guess(&self, hash: u64, with_cold: bool) -> Guess {
        let bucket = &self.buckets[self.home(hash)];
        let (mut matches, distance) = bucket.find(tag(hash));
        match matches.next() {
            Some(place) => {
                let index = bucket.slot(place);
                self.prefetch(index as usize, with_cold);
                Guess(index)
            }
            None if distance == 0 => Guess::NOWHERE,
            None => Guess::ELSEWHERE,
        }
    }

    /// Fetches a slot; its cold part too if asked, or if that lies beside it.
    #[inline(always)]
    fn prefetch(&self, index: usize, with_cold: bool) {
        let Some(slot) = self.slots.get(index) else { return };
        prefetch(slot);
        if size_of::<S>() > 64 {
            prefetch(&slot.words()[8]);
        }
        if with_cold && S::COLD_ELSEWHERE {
            // Three in eight cross a line.
            let cold = slot.cold(&self.cold, index);
            prefetch(cold.first());
            prefetch(cold.last());
        }
    }

    /// The connection with this key, locked, and its slot. A `guess` from the same hash; what came or
    /// went since then may be missed or found.
    #[inline(always)]
    pub(super) fn find_guessed(
        &self,
        guess: Guess,
        key: &KeyWords,
        hash: u64,
    ) -> Option<(u32, Locked<'_, S>)> {
        if guess == Guess::NOWHERE {
            return None;
        }
        self.check(guess.0, key).or_else(|| self.find(key, hash))
    }

    /// The connection with this key, locked, and its slot.
    pub(super) fn find(&self, key: &KeyWords, hash: u64) -> Option<(u32, Locked<'_, S>)> {
        let home = self.home(hash);
        let (mut matches, distance) = self.buckets[home].find(tag(hash));
        let found = matches.find_map(|place| self.check(self.buckets[home].slot(place), key));
        if found.is_some() || distance == 0 {
            return found;
        }
        self.find_elsewhere(home, distance, key, tag(hash))
    }

    #[cold]
    fn find_elsewhere(
        &self,
        home: usize,
        distance: usize,
        key: &KeyWords,
        tag: u8,
    ) -> Option<(u32, Locked<'_, S>)> {
        (1..=distance.min(REACH)).find_map(|away| {
            let bucket = &self.buckets[home + away];
            bucket.find(tag).0.find_map(|place| self.check(bucket.slot(place), key))
        })
    }

    /// Whether a connection with this key is there. Takes no lock; see [`Self::find_guessed`].
    #[inline(always)]
    pub(super) fn contains(&self, guess: Guess, key: &KeyWords, hash: u64) -> bool {
        guess != Guess::NOWHERE && (self.names(guess.0, key) || self.search(key, hash))
    }

    fn search(&self, key: &KeyWords, hash: u64) -> bool {
        let (home, tag) = (self.home(hash), tag(hash));
        let (_, distance) = self.buckets[home].find(tag);
        (0..=distance.min(REACH)).any(|away| {
            let bucket = &self.buckets[home + away];
            bucket.find(tag).0.any(|place| self.names(bucket.slot(place), key))
        })
    }

    /// Whether slot `index` holds `key`, as far as a look without the lock can tell.
    #[inline(always)]
    fn names(&self, index: u32, key: &KeyWords) -> bool {
        let slot = self.slots.get(index as usize);
        slot.is_some_and(|slot| holds(slot, key) && glance(slot).live)
    }

    /// Slot `index`, locked, if it holds `key`.
    #[inline(always)]
    fn check(&self, index: u32, key: &KeyWords) -> Option<(u32, Locked<'_, S>)> {
        let slot = self.slots.get(index as usize)?;
        if !holds(slot, key) {
            return None;
        }
        // Between the look and the lock the slot may have gone to another connection.
        let locked = self.lock(index);
        locked.is(key).then_some((index, locked))
    }

    /// Locks a slot.
    #[inline]
    pub(super) fn lock(&self, index: u32) -> Locked<'_, S> {
        let slot = &self.slots[index as usize];
        Locked::new(slot, slot.cold(&self.cold, index as usize))
    }

    /// Adds a connection. The caller holds no slot.
    pub(super) fn insert(&self, key: &KeyWords, hash: u64, connection: &Connection) -> Inserted {
        let fetch = |next| self.prefetch(next, true);
        let Some(index) = self.free.pop(&self.slots, hash, fetch) else { return Inserted::Full };
        self.lock(index).write(key, connection);
        let inserted = self.publish(key, hash, index);
        if !matches!(inserted, Inserted::Done) {
            self.lock(index).clear();
            self.free.push(&self.slots, index);
        }
        inserted
    }

    /// Names slot `index` in the index.
    fn publish(&self, key: &KeyWords, hash: u64, index: u32) -> Inserted {
        let (home_at, tag) = (self.home(hash), tag(hash));
        let home = self.buckets[home_at].lock();
        // All who insert this key hold this lock, so two cannot miss each other.
        for away in 0..=home.distance().min(REACH) {
            let bucket = &self.buckets[home_at + away];
            let (mut matches, _) = bucket.find(tag);
            if matches.any(|place| {
                self.slots.get(bucket.slot(place) as usize).is_some_and(|slot| holds(slot, key))
            }) {
                return Inserted::Exists;
            }
        }
        if let Some(place) = home.vacant() {
            home.set(place, tag, index);
            return Inserted::Done;
        }
        for away in 1..=REACH {
            // Locks are taken upwards only, so nobody waits in a circle.
            let bucket = self.buckets[home_at + away].lock();
            if let Some(place) = bucket.vacant() {
                bucket.set(place, tag, index);
                home.note_elsewhere(away);
                return Inserted::Done;
            }
        }
        Inserted::Full
    }

    /// Takes out the connection in slot `index` if it (still) has this key and `condition` holds for
    /// it; answers what it was. The caller holds no slot.
    pub(super) fn remove(
        &self,
        key: &KeyWords,
        hash: u64,
        index: u32,
        condition: impl FnOnce(&Locked<'_, S>) -> bool,
    ) -> Option<Connection> {
        let (home_at, tag) = (self.home(hash), tag(hash));
        let home = self.buckets[home_at].lock();
        let in_home = home.find(tag).find(|place| home.slot(*place) == index);
        let connection = if let Some(place) = in_home {
            let connection = self.take(key, index, condition)?;
            home.clear(place);
            connection
        } else {
            (1..=home.distance().min(REACH))
                .find_map(|away| {
                    let bucket = self.buckets[home_at + away].lock();
                    let place = bucket.find(tag).find(|place| bucket.slot(*place) == index)?;
                    Some((bucket, place))
                })
                .and_then(|(bucket, place)| {
                    let connection = self.take(key, index, condition)?;
                    bucket.clear(place);
                    home.note_returned();
                    Some(connection)
                })?
        };
        drop(home);
        self.free.push(&self.slots, index);
        Some(connection)
    }

    /// Empties slot `index` if it holds `key` and `condition` holds. Buckets are locked.
    fn take(
        &self,
        key: &KeyWords,
        index: u32,
        condition: impl FnOnce(&Locked<'_, S>) -> bool,
    ) -> Option<Connection> {
        let mut locked = self.lock(index);
        if !locked.is(key) || !condition(&locked) {
            return None;
        }
        locked.clear();
        Some(locked.read())
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        // The upper half of the hash times the number of buckets: no division.
        (((hash >> 32) * self.homes) >> 32) as usize
    }
}

/// The tag of a hash: its low byte, but never 0, which means "empty".
#[inline(always)]
const fn tag(hash: u64) -> u8 {
    let tag = hash as u8;
    if tag == 0 { 255 } else { tag }
}
