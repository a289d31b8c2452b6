//! The connection table: shared by all workers, so that both directions of a connection meet
//! wherever the network card puts them.
//!
//! A look-up costs two cache lines, fetched for a whole batch at once: one bucket of the index
//! (module `bucket`), which no reader locks, and the connection itself (module `slot`), locked by
//! one bit while a packet is taken into account. Insertions and removals lock one bucket. Nothing
//! waits for longer than such a lock is held: some tens of nanoseconds.
//!
//! Hashes are keyed with random numbers (ahash), because attackers choose 5-tuples.
//!
//! # Limitations
//! - Within one batch, and between workers, "oldest idle connection" means the oldest of a sample.
//! - A connection's time of opening wraps after 49 days; times of records are wrong beyond that.

mod bucket;
mod free;
#[cfg(all(test, loom))]
mod interleavings;
mod memory;
mod part;
mod slot;
mod sweep;
mod sync;

use super::limit::Quotas;
use super::state::{Connection, Grant};
use super::tcp::Step;
use super::{Config, Direction, Ended, Key, OnFull, OnPolicyChange, Probe, Settled, Tracked};
use crate::clock::Time;
use crate::packet::Version;
use crate::reason::Reason;

use part::{Guess, Inserted, Part};
use slot::{KeyWords, Locked, Slot, SlotV4, SlotV6};
use sync::{AtomicU64, Ordering};

/// Probes that are looked up together.
const BATCH: usize = 64;

/// How often an insertion is tried again because another worker was faster.
const TRIES: usize = 4;

/// The connection table.
#[derive(Debug)]
pub struct Table {
    config: Config,
    hasher: ahash::RandomState,
    v4: Part<SlotV4>,
    v6: Part<SlotV6>,
    len: AtomicU64,
    half_open: AtomicU64,
    evicted: AtomicU64,
    quotas: Quotas,
    sweep: sweep::Cursor,
}

/// A probe as the table sees it.
#[derive(Clone, Copy, Default)]
struct Lookup {
    key: KeyWords,
    hash: u64,
}

/// Where to look for a probe's connection.
#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    guess: Guess,
}

impl Place {
    const NOWHERE: Self = Self { hash: 0, guess: Guess::NOWHERE };
}

/// What a look at a locked connection finds.
enum Found {
    Member(Grant),
    Lapsed(Direction),
    /// Over, or asked to give way: a new connection may take its place.
    Replaceable,
    Invalid(Reason),
}

impl Table {
    /// An empty table. Address space is taken at once, memory when it is first used: 7 bytes of index
    /// for each connection of the capacity, 88 bytes for each IPv4 and 128 for each IPv6 connection.
    ///
    /// # Errors
    /// The kernel has not enough memory to promise.
    pub fn new(config: Config) -> std::io::Result<Self> {
        let capacity = config.capacity.clamp(1, 1 << 31);
        Ok(Self {
            config: Config { capacity, ..config },
            hasher: ahash::RandomState::new(),
            v4: Part::new(capacity)?,
            v6: Part::new(capacity)?,
            len: AtomicU64::new(0),
            half_open: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            quotas: Quotas::new(config.limits),
            sweep: sweep::Cursor::default(),
        })
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most connections at a time.
    pub fn capacity(&self) -> usize {
        self.config.capacity
    }

    /// TCP connections and SCTP associations whose handshake is not finished.
    pub fn half_open(&self) -> usize {
        self.half_open.load(Ordering::Relaxed) as usize
    }

    /// Connections that had to go because the table was full, since it was made.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Bytes in use: the index, and connections that are or were in the table. Memory that was never
    /// touched is not counted.
    pub fn memory_usage(&self) -> usize {
        self.v4.memory_usage() + self.v6.memory_usage()
    }

    /// Looks up the connections of `probes` and takes the packets of known ones into account, in
    /// order. A packet of a connection that an earlier packet of the batch leaves to be judged is
    /// left to be judged too.
    ///
    /// Probes beyond the length of `out` are not looked at.
    pub fn track(&self, now: Time, generation: u32, probes: &[Probe], out: &mut [Tracked]) {
        let now = now.as_millis() as u32;
        // Connections that must be settled: one bit of 256 for each, so that a later packet of the
        // same one waits for its turn. Two that share a bit cost a detour, nothing else.
        let mut waiting = [0u64; 4];
        for (probes, out) in probes.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut places = [Place::NOWHERE; BATCH];
            self.prefetch(probes.iter().map(|probe| &probe.key), &mut places);
            for ((probe, place), out) in probes.iter().zip(&places).zip(out) {
                let bit = 1 << (place.hash & 63);
                let word = &mut waiting[(place.hash >> 6 & 3) as usize];
                let waits = *word & bit != 0;
                *out = match probe.key.version {
                    Version::V4 => self.track_one(&self.v4, now, generation, probe, place, waits),
                    Version::V6 => self.track_one(&self.v6, now, generation, probe, place, waits),
                };
                if matches!(out, Tracked::Judge { .. }) {
                    *word |= bit;
                }
            }
        }
    }

    /// Whether connections with these keys are in the table, expired ones included; `found[n]` for
    /// `keys[n]`. Takes no lock and changes nothing.
    pub fn contains(&self, keys: &[Key], found: &mut [bool]) {
        for (keys, found) in keys.chunks(BATCH).zip(found.chunks_mut(BATCH)) {
            let mut places = [Place::NOWHERE; BATCH];
            self.prefetch(keys.iter(), &mut places);
            for ((key, Place { hash, guess }), found) in keys.iter().zip(&places).zip(found) {
                *found = match key.version {
                    Version::V4 => self.v4.contains(*guess, &SlotV4::pack_key(key), *hash),
                    Version::V6 => self.v6.contains(*guess, &SlotV6::pack_key(key), *hash),
                };
            }
        }
    }

    /// Fetches what looking up a batch of keys will touch, and leaves where that is.
    #[inline(always)]
    fn prefetch<'a>(
        &self,
        keys: impl Iterator<Item = &'a Key> + Clone,
        places: &mut [Place; BATCH],
    ) {
        for (key, place) in keys.clone().zip(&mut *places) {
            match key.version {
                Version::V4 => {
                    place.hash = self.hash::<SlotV4>(&SlotV4::pack_key(key));
                    self.v4.prefetch_bucket(place.hash);
                }
                Version::V6 => {
                    place.hash = self.hash::<SlotV6>(&SlotV6::pack_key(key));
                    self.v6.prefetch_bucket(place.hash);
                }
            }
        }
        for (key, place) in keys.zip(places) {
            place.guess = match key.version {
                Version::V4 => self.v4.guess(place.hash, self.config.attribute),
                Version::V6 => self.v6.guess(place.hash, self.config.attribute),
            };
        }
    }

    #[inline(always)]
    fn track_one<S: Slot>(
        &self,
        part: &Part<S>,
        now: u32,
        generation: u32,
        probe: &Probe,
        place: &Place,
        waits: bool,
    ) -> Tracked {
        let key = S::pack_key(&probe.key);
        let Some((_, mut locked)) = part.find_guessed(place.guess, &key, place.hash) else {
            return Tracked::Judge { opened: probe.direction };
        };
        if waits {
            return Tracked::Judge { opened: locked.opened() };
        }
        match self.step(&mut locked, now, generation, probe) {
            Found::Member(grant) => Tracked::Member { grant },
            Found::Lapsed(opened) => Tracked::Judge { opened },
            Found::Replaceable => Tracked::Judge { opened: probe.direction },
            Found::Invalid(reason) => Tracked::Invalid(reason),
        }
    }

    /// Settles a packet that [`Self::track`] left to be judged: `decision` is what the policy says
    /// of a flow opened in direction `opened`. A connection that this ends — replaced, evicted, or
    /// denied by the new policy — is put into `ended`.
    pub fn settle(
        &self,
        now: Time,
        generation: u32,
        probe: &Probe,
        opened: Direction,
        decision: Result<Grant, Reason>,
        ended: &mut Option<Ended>,
    ) -> Settled {
        let now = now.as_millis() as u32;
        let case = Case { now, generation, probe, opened, decision, lookup: self.look(&probe.key) };
        match probe.key.version {
            Version::V4 => self.settle_in(&self.v4, &case, ended),
            Version::V6 => self.settle_in(&self.v6, &case, ended),
        }
    }

    fn settle_in<S: Slot>(
        &self,
        part: &Part<S>,
        case: &Case<'_>,
        ended: &mut Option<Ended>,
    ) -> Settled {
        for _ in 0..TRIES {
            let settled = match part.find(&case.lookup.key, case.lookup.hash) {
                Some((index, locked)) => self.settle_known(part, case, index, locked, ended),
                None => self.settle_new(part, case, ended),
            };
            if let Some(settled) = settled {
                return settled;
            }
        }
        Settled::Dropped(Reason::Contention)
    }

    /// Settles a packet whose connection is in the table. `None`: it changed; look again.
    fn settle_known<S: Slot>(
        &self,
        part: &Part<S>,
        case: &Case<'_>,
        index: u32,
        mut locked: Locked<'_, S>,
        ended: &mut Option<Ended>,
    ) -> Option<Settled> {
        let Case { now, generation, probe, .. } = *case;
        match self.step(&mut locked, now, generation, probe) {
            Found::Member(grant) => Some(Settled::Member { grant }),
            Found::Invalid(reason) => Some(Settled::Dropped(reason)),
            Found::Lapsed(actual) if actual != case.opened => {
                Some(Settled::Again { opened: actual })
            }
            Found::Lapsed(_) => match case.decision {
                Ok(grant) => {
                    let other = locked.grant() != grant;
                    self.transfer(&locked, &grant);
                    locked.renew(generation, &grant);
                    match self.step(&mut locked, now, generation, probe) {
                        Found::Member(grant) if other => Some(Settled::Renewed { grant }),
                        Found::Member(grant) => Some(Settled::Member { grant }),
                        Found::Invalid(reason) => Some(Settled::Dropped(reason)),
                        // The packet asks for a new connection in the place of this one.
                        _ => Some(Settled::Again { opened: probe.direction }),
                    }
                }
                Err(reason) => {
                    let old = locked.generation();
                    drop(locked);
                    let same = |locked: &Locked<'_, S>| locked.generation() == old;
                    let connection = self.remove(part, &case.lookup, index, same)?;
                    *ended = Some(Ended { key: probe.key, connection });
                    Some(Settled::Dropped(reason))
                }
            },
            Found::Replaceable if case.opened != probe.direction => {
                Some(Settled::Again { opened: probe.direction })
            }
            Found::Replaceable => {
                let connection = match self.opening(case) {
                    Ok(connection) => connection,
                    Err(reason) => return Some(Settled::Dropped(reason)),
                };
                let grant = connection.grant;
                let over = locked.read();
                if !over.half_open() && self.too_many_half_open(connection.half_open()) {
                    return Some(Settled::Dropped(Reason::HalfOpenLimit));
                }
                self.quotas.end(over.grant.source, over.half_open());
                if let Err(reason) = self.quotas.open(grant.source, connection.half_open(), now) {
                    self.quotas.adopt(over.grant.source, over.half_open());
                    return Some(Settled::Dropped(reason));
                }
                self.opens(connection.half_open());
                self.closes(over.half_open());
                locked.write(&case.lookup.key, &connection);
                *ended = Some(Ended { key: probe.key, connection: over });
                Some(Settled::Opened { grant })
            }
        }
    }

    /// Settles a packet whose connection is not in the table. `None`: it is now; look again.
    fn settle_new<S: Slot>(
        &self,
        part: &Part<S>,
        case: &Case<'_>,
        ended: &mut Option<Ended>,
    ) -> Option<Settled> {
        if case.opened != case.probe.direction {
            return Some(Settled::Again { opened: case.probe.direction });
        }
        let connection = match self.opening(case) {
            Ok(connection) => connection,
            Err(reason) => return Some(Settled::Dropped(reason)),
        };
        let grant = connection.grant;
        let half_open = connection.half_open();
        if self.too_many_half_open(half_open) {
            return Some(Settled::Dropped(Reason::HalfOpenLimit));
        }
        if let Err(reason) = self.quotas.open(grant.source, half_open, case.now) {
            return Some(Settled::Dropped(reason));
        }
        self.opens(half_open);
        let inserted = if self.make_room(case.now, ended) {
            part.insert(&case.lookup.key, case.lookup.hash, &connection)
        } else {
            Inserted::Full
        };
        if matches!(inserted, Inserted::Done) {
            return Some(Settled::Opened { grant });
        }
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.closes(half_open);
        self.quotas.end(grant.source, half_open);
        match inserted {
            Inserted::Full => Some(Settled::Dropped(Reason::TableFull)),
            // The caller has to hear of the evicted one before another may end.
            _ if ended.is_some() => Some(Settled::Again { opened: case.opened }),
            _ => None,
        }
    }

    /// Whether a connection that is to be half-open is one too many over all identities.
    #[inline]
    fn too_many_half_open(&self, half_open: bool) -> bool {
        let limit = self.config.limits.half_open_in_all.filter(|_| half_open);
        limit.is_some_and(|limit| self.half_open.load(Ordering::Relaxed) >= u64::from(limit))
    }

    /// Counts one more connection; if that is too many, another may have to go. `false`: no room.
    fn make_room(&self, now: u32, ended: &mut Option<Ended>) -> bool {
        if self.len.fetch_add(1, Ordering::Relaxed) < self.config.capacity as u64 {
            return true;
        }
        match self.config.on_full {
            OnFull::DenyNew => false,
            OnFull::EvictOldest => {
                *ended = self.evict(now);
                self.evicted.fetch_add(ended.is_some().into(), Ordering::Relaxed);
                ended.is_some()
            }
        }
    }

    /// The connection that a packet would open, if it may.
    #[inline(always)]
    fn opening(&self, case: &Case<'_>) -> Result<Connection, Reason> {
        let Case { probe, now, generation, decision, .. } = *case;
        match decision {
            Ok(grant) => Connection::open(probe, now, generation, grant, self.config.pick_up),
            // What cannot open is invalid, whatever the policy says of it.
            Err(reason) => {
                let grant = Grant::default();
                Connection::open(probe, now, generation, grant, self.config.pick_up)?;
                Err(reason)
            }
        }
    }

    /// Takes a packet into account, unless the connection is over or must be judged.
    #[inline(always)]
    fn step<S: Slot>(
        &self,
        locked: &mut Locked<'_, S>,
        now: u32,
        generation: u32,
        probe: &Probe,
    ) -> Found {
        let before = locked.protocol();
        let timeout = before.timeout(probe.key.protocol, &self.config.timeouts);
        if super::state::idle(now, locked.seen()) >= timeout {
            return Found::Replaceable;
        }
        if locked.generation() != generation {
            match self.config.on_policy_change {
                OnPolicyChange::Keep => {}
                OnPolicyChange::Rejudge => return Found::Lapsed(locked.opened()),
                OnPolicyChange::Cut => return Found::Replaceable,
            }
        }
        let (step, after) = locked.step(probe, now);
        match step {
            Step::Pass => {
                if before.half_open() && !after.half_open() {
                    self.closes(true);
                    if self.quotas.active() {
                        self.quotas.finish(locked.grant().source);
                    }
                }
                let attribute = self.config.attribute;
                Found::Member(if attribute { locked.grant() } else { Grant::default() })
            }
            Step::Reopen => Found::Replaceable,
            Step::Invalid(reason) => Found::Invalid(reason),
        }
    }

    /// Puts a connection into the table that exists already, elsewhere or before; `false` if there is
    /// no room or the key is known.
    pub(super) fn adopt(&self, key: &Key, connection: &Connection) -> bool {
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.config.capacity as u64 {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.opens(connection.half_open());
        let lookup = self.look(key);
        let inserted = match key.version {
            Version::V4 => self.v4.insert(&lookup.key, lookup.hash, connection),
            Version::V6 => self.v6.insert(&lookup.key, lookup.hash, connection),
        };
        let done = matches!(inserted, Inserted::Done);
        if done {
            self.quotas.adopt(connection.grant.source, connection.half_open());
        } else {
            self.len.fetch_sub(1, Ordering::Relaxed);
            self.closes(connection.half_open());
        }
        done
    }

    /// A connection judged anew may be another identity's now.
    fn transfer<S: Slot>(&self, locked: &Locked<'_, S>, grant: &Grant) {
        let (old, half_open) = (locked.grant().source, locked.protocol().half_open());
        if self.quotas.active() && old != grant.source {
            self.quotas.end(old, half_open);
            self.quotas.adopt(grant.source, half_open);
        }
    }

    /// Takes a connection out.
    fn remove<S: Slot>(
        &self,
        part: &Part<S>,
        lookup: &Lookup,
        index: u32,
        condition: impl FnOnce(&Locked<'_, S>) -> bool,
    ) -> Option<Connection> {
        let connection = part.remove(&lookup.key, lookup.hash, index, condition)?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.closes(connection.half_open());
        self.quotas.end(connection.grant.source, connection.half_open());
        Some(connection)
    }

    /// A connection comes into the table, half-open or not. Counted before it can be seen there, so
    /// that whoever finishes its handshake finds it counted.
    #[inline]
    fn opens(&self, half_open: bool) {
        if half_open {
            self.half_open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A half-open connection is finished, or gone.
    #[inline]
    fn closes(&self, half_open: bool) {
        if half_open {
            self.half_open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn look(&self, key: &Key) -> Lookup {
        match key.version {
            Version::V4 => self.lookup::<SlotV4>(SlotV4::pack_key(key)),
            Version::V6 => self.lookup::<SlotV6>(SlotV6::pack_key(key)),
        }
    }

    fn lookup<S: Slot>(&self, key: KeyWords) -> Lookup {
        Lookup { key, hash: self.hash::<S>(&key) }
    }

    #[inline(always)]
    fn hash<S: Slot>(&self, key: &KeyWords) -> u64 {
        if S::KEY == 2 { self.hasher.hash_one((key[0], key[1])) } else { self.hasher.hash_one(key) }
    }
}

/// A packet to settle.
struct Case<'a> {
    now: u32,
    generation: u32,
    probe: &'a Probe,
    opened: Direction,
    decision: Result<Grant, Reason>,
    lookup: Lookup,
}
