//! Connections of one IP version: index, slots and free slots.

use super::bucket::Bucket;
use super::free::Free;
use super::memory::Array;
use super::packed::Packed;
use super::slot::{Carry, Locked, Slot};
use crate::connection::state::Connection;
use crate::prefetch::prefetch_at;

/// Connections to a bucket when the table is full. Then about one in 150 finds no room in its own; with
/// nine it would be one in 30, and each of them is another wait for memory.
const LOAD: usize = 7;

/// Connections that are inserted together.
pub(super) const TOGETHER: usize = 32;

/// How far from its bucket a connection may stand. At the load above, the chance that no place is
/// found within that is far below one in a million.
const REACH: usize = if cfg!(loom) { 2 } else { 31 };

/// Connections of one IP version. Slot 0 is nobody's, and no key equals what stands there.
#[derive(Debug)]
pub(super) struct Part<K: Packed> {
    buckets: Array<Bucket>,
    /// Buckets that hashes choose from; [`REACH`] more follow.
    homes: u64,
    keys: Array<K::Cell>,
    pub(super) slots: Array<Slot>,
    carries: Array<Carry>,
    free: Free,
}

/// What a hash says of a connection: the number of its bucket in the upper half, its tag in the lowest
/// 8 bits.
#[derive(Clone, Copy)]
pub(super) struct Spot(u64);

impl Spot {
    /// Of nothing.
    pub(super) const NOWHERE: Self = Self(0);

    /// The bucket.
    #[inline(always)]
    fn home(self) -> usize {
        (self.0 >> 32) as usize
    }

    /// Never 0, which means "empty".
    #[inline(always)]
    fn tag(self) -> u8 {
        self.0 as u8
    }

    /// 8 bits that differ between most connections.
    #[inline(always)]
    pub(super) fn low_bits(self) -> usize {
        (self.0 ^ self.0 >> 32) as u8 as usize
    }
}

/// The slot where a connection most likely is, if it is there at all.
#[derive(Clone, Copy)]
pub(super) struct Guess(u32);

impl Guess {
    /// The slot that never holds a connection.
    pub(super) const NOWHERE: Self = Self(0);
}

/// What a look-up without locks needs of a part, at hand: reading an atomic makes the compiler read
/// anew what stands behind a reference.
#[derive(Clone, Copy)]
pub(super) struct View<'a, K: Packed> {
    buckets: &'a [Bucket],
    homes: u64,
    keys: &'a [K::Cell],
}

impl<K: Packed> View<'_, K> {
    /// Where a connection with this hash belongs.
    #[inline(always)]
    pub(super) fn spot(&self, hash: u64) -> Spot {
        // The upper half of the hash times the number of buckets: no division.
        let home = (hash >> 32) * self.homes;
        let tag = hash as u8;
        Spot(home & !0xff | u64::from(tag + u8::from(tag == 0)))
    }

    /// Fetches a connection's bucket into the cache.
    #[inline(always)]
    pub(super) fn prefetch_bucket(&self, spot: Spot) {
        prefetch_at(self.buckets, spot.home());
    }

    /// Looks into a connection's bucket for the slot that a look-up will most likely end at.
    ///
    /// Without a branch: one that waits for the bucket and goes wrong would hold up all that follows.
    #[inline(always)]
    pub(super) fn guess(&self, spot: Spot) -> Guess {
        let bucket = &self.buckets[spot.home()];
        Guess(bucket.slot(bucket.find(spot.tag()).0.first()))
    }

    /// Fetches the key of a guess.
    #[inline(always)]
    pub(super) fn prefetch_key(&self, guess: Guess) {
        K::fetch(self.keys, guess.0 as usize);
    }

    /// Whether the guess is right, as far as a look without the lock can tell. A slot that is named
    /// by the index holds a connection; the key of one that holds a connection does not change.
    #[inline(always)]
    pub(super) fn confirms(&self, guess: Guess, key: &K) -> bool {
        self.keys.get(guess.0 as usize).is_some_and(|cell| key.is_in(cell))
    }
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

impl<K: Packed> Part<K> {
    pub(super) fn new(capacity: usize) -> std::io::Result<Self> {
        let homes = capacity.div_ceil(LOAD).max(1);
        Ok(Self {
            buckets: Array::new(homes + REACH)?,
            homes: homes as u64,
            keys: Array::new(capacity + 1)?,
            slots: Array::new(capacity + 1)?,
            carries: Array::sparse(capacity + 1)?,
            free: Free::new(capacity)?,
        })
    }

    /// Bytes in use: the index, and all slots that were ever used, with a bit for each; of the carries,
    /// which few connections need, the pages that were. Memory that was never touched does not exist yet.
    pub(super) fn memory_usage(&self) -> usize {
        let used = self.free.used();
        if used == 1 {
            return 0;
        }
        let each = size_of::<K::Cell>() + size_of::<Slot>();
        size_of_val(&*self.buckets) + used * each + used / 8 + self.carries.resident()
    }

    /// Slots that were ever used, and slot 0.
    pub(super) fn used(&self) -> usize {
        self.free.used()
    }

    /// For look-ups without locks.
    #[inline(always)]
    pub(super) fn view(&self) -> View<'_, K> {
        View { buckets: &self.buckets, homes: self.homes, keys: &self.keys }
    }

    /// Fetches key and state of a slot.
    #[inline(always)]
    pub(super) fn prefetch(&self, guess: Guess) {
        self.view().prefetch_key(guess);
        prefetch_at(&self.slots, guess.0 as usize);
    }

    /// The connection with this key, locked, and its slot. A `guess` from the same hash; what came or
    /// went since then may be missed or found.
    #[inline(always)]
    pub(super) fn find_guessed(
        &self,
        guess: Guess,
        key: &K,
        spot: Spot,
    ) -> Option<(u32, Locked<'_>)> {
        self.check(guess.0, key).or_else(|| self.find(key, spot))
    }

    /// The connection with this key, locked, and its slot.
    pub(super) fn find(&self, key: &K, spot: Spot) -> Option<(u32, Locked<'_>)> {
        let home = spot.home();
        let (mut matches, distance) = self.buckets[home].find(spot.tag());
        let found = matches.find_map(|place| self.check(self.buckets[home].slot(place), key));
        if found.is_some() || distance == 0 {
            return found;
        }
        self.find_elsewhere(home, distance, key, spot.tag())
    }

    #[cold]
    fn find_elsewhere(
        &self,
        home: usize,
        distance: usize,
        key: &K,
        tag: u8,
    ) -> Option<(u32, Locked<'_>)> {
        (1..=distance.min(REACH)).find_map(|away| {
            let bucket = &self.buckets[home + away];
            bucket.find(tag).0.find_map(|place| self.check(bucket.slot(place), key))
        })
    }

    /// Whether a connection with this key is there. Takes no lock.
    pub(super) fn contains(&self, key: &K, spot: Spot) -> bool {
        let bucket = &self.buckets[spot.home()];
        let (mut matches, distance) = bucket.find(spot.tag());
        matches.any(|place| self.has(bucket.slot(place), key))
            || self.find_away(spot.home(), distance, spot.tag(), key)
    }

    /// Whether it is in one of the buckets that follow its own.
    fn find_away(&self, home: usize, distance: usize, tag: u8, key: &K) -> bool {
        (1..=distance.min(REACH)).any(|away| {
            let bucket = &self.buckets[home + away];
            bucket.find(tag).0.any(|place| self.has(bucket.slot(place), key))
        })
    }

    /// [`View::confirms`], for slot `index`.
    #[inline(always)]
    fn has(&self, index: u32, key: &K) -> bool {
        self.view().confirms(Guess(index), key)
    }

    /// Slot `index`, locked, if it holds `key`.
    #[inline(always)]
    fn check(&self, index: u32, key: &K) -> Option<(u32, Locked<'_>)> {
        if !self.has(index, key) {
            return None;
        }
        // Between the look and the lock the slot may have gone to another connection.
        let locked = self.lock(index)?;
        self.has(index, key).then_some((index, locked))
    }

    /// Locks a slot. `None`: it holds no connection.
    #[inline(always)]
    pub(super) fn lock(&self, index: u32) -> Option<Locked<'_>> {
        Locked::new(&self.slots[index as usize], &self.carries[index as usize])
    }

    /// The key of a slot, which the caller has locked.
    pub(super) fn key(&self, index: u32) -> K {
        K::get(&self.keys[index as usize])
    }

    /// Adds a connection. The caller holds no slot.
    pub(super) fn insert(&self, key: &K, spot: Spot, connection: &Connection) -> Inserted {
        let fetch = |next| self.prefetch(Guess(next));
        let Some(index) = self.free.take(spot.low_bits(), fetch) else {
            return Inserted::Full;
        };
        self.fill(index, key, connection);
        self.publish_or_free(key, spot, index)
    }

    /// Takes free slots, as many as `out` has room for or as there are; answers how many. Fetches the
    /// memory of those that will be next: whoever takes many has just had his own fetched so.
    #[inline(always)]
    pub(super) fn reserve(&self, out: &mut [u32]) -> usize {
        let (taken, next) = self.free.take_many(0, out);
        for next in next..next.saturating_add(TOGETHER as u32) {
            self.prefetch(Guess(next));
        }
        taken
    }

    /// Puts key and connection into a slot that nobody else has.
    #[inline(always)]
    pub(super) fn fill(&self, index: u32, key: &K, connection: &Connection) {
        key.put(&self.keys[index as usize]);
        Locked::fresh(&self.slots[index as usize], &self.carries[index as usize]).write(connection);
    }

    /// Names slot `index` in the index, or gives it back.
    #[inline(always)]
    pub(super) fn publish_or_free(&self, key: &K, spot: Spot, index: u32) -> Inserted {
        let inserted = self.publish(key, spot, index);
        if !matches!(inserted, Inserted::Done) {
            // Nobody else takes it out: it is in no bucket.
            if let Some(mut locked) = self.lock(index) {
                locked.clear();
            }
            self.free.give(index);
        }
        inserted
    }

    /// Names slot `index` in the index.
    fn publish(&self, key: &K, spot: Spot, index: u32) -> Inserted {
        let (home_at, tag) = (spot.home(), spot.tag());
        let mut home = self.buckets[home_at].lock();
        // All who insert this key hold this lock, so two cannot miss each other.
        let in_home = home.find(tag).any(|place| self.has(home.slot(place), key));
        if in_home || self.find_away(home_at, home.distance(), tag, key) {
            return Inserted::Exists;
        }
        if let Some(place) = home.vacant() {
            home.set(place, tag, index);
            return Inserted::Done;
        }
        for away in 1..=REACH {
            // Locks are taken upwards only, so nobody waits in a circle.
            let mut bucket = self.buckets[home_at + away].lock();
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
        key: &K,
        spot: Spot,
        index: u32,
        condition: impl FnOnce(&Locked<'_>) -> bool,
    ) -> Option<Connection> {
        let (home_at, tag) = (spot.home(), spot.tag());
        let mut home = self.buckets[home_at].lock();
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
                .and_then(|(mut bucket, place)| {
                    let connection = self.take(key, index, condition)?;
                    bucket.clear(place);
                    home.note_returned();
                    Some(connection)
                })?
        };
        drop(home);
        self.free.give(index);
        Some(connection)
    }

    /// Empties slot `index` if it holds `key` and `condition` holds. Buckets are locked.
    fn take(
        &self,
        key: &K,
        index: u32,
        condition: impl FnOnce(&Locked<'_>) -> bool,
    ) -> Option<Connection> {
        let mut locked = self.lock(index)?;
        if !self.has(index, key) || !condition(&locked) {
            return None;
        }
        locked.clear();
        Some(locked.read())
    }
}
