//! The connection table: shared by all workers, so that both directions of a connection meet
//! wherever the network card puts them.
//!
//! A packet costs three cache lines, fetched for a whole batch at once: one bucket of the index
//! (module `bucket`), which no reader locks, the key (module `packed`), and the state of the
//! connection (module `slot`), locked by one bit while the packet is taken into account. Insertions and removals lock one bucket. Nothing
//! waits for longer than such a lock is held: some tens of nanoseconds.
//!
//! Hashes are keyed with random numbers (module `hash`), because attackers choose 5-tuples.
//!
//! # Limitations
//! - Within one batch, and between workers, "oldest idle connection" means the oldest of a sample.
//! - A connection's time of opening wraps after 49 days; times of records are wrong beyond that.

mod batch;
mod bucket;
mod free;
mod hash;
#[cfg(all(test, loom))]
mod interleavings;
mod memory;
mod packed;
mod part;
mod slot;
mod sweep;
mod sync;

use super::limit::Quotas;
use super::snapshot::UNJUDGED;
use super::state::{Connection, Grant};
use super::tcp::Step;
use super::{
    Config, Direction, Ended, KeyV4, KeyV6, OnFull, OnPolicyChange, Probe, Settled, Tracked,
};
use crate::clock::Time;
use crate::packet::Version;
use crate::reason::Reason;

use batch::{Contains, InsertAll, Place, Track};
use hash::Hasher;
use packed::Packed;
use part::{Inserted, Part, Spot};
use slot::Locked;
use sync::{AtomicU64, Ordering};

/// One half-open connection in the word of occupancy.
const HALF_OPEN: u64 = 1 << 32;

/// One connection in the word of occupancy.
const fn weight(half_open: bool) -> u64 {
    if half_open { 1 | HALF_OPEN } else { 1 }
}

/// How often an insertion is tried again because another worker was faster.
const TRIES: usize = 4;

/// The connection table.
#[derive(Debug)]
pub struct Table {
    config: Config,
    hasher: Hasher,
    v4: Part<KeyV4>,
    v6: Part<KeyV6>,
    /// Connections in the low half, half-open ones among them in the high half: both
    /// change in one step.
    occupancy: AtomicU64,
    evicted: AtomicU64,
    quotas: Quotas,
    sweep: sweep::Cursor,
}

/// A probe as the table sees it.
#[derive(Clone, Copy)]
struct Lookup<K: Packed> {
    key: K,
    spot: Spot,
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
    /// An empty table. Address space is taken at once, memory when it is first used: 9 bytes of index
    /// for each connection of the capacity, 80 bytes for each IPv4 and 104 for each IPv6 connection;
    /// 8 more, by the page, for those that have passed 4 GiB.
    ///
    /// # Errors
    /// The kernel has not enough memory to promise.
    pub fn new(config: Config) -> std::io::Result<Self> {
        let capacity = config.capacity.clamp(1, 1 << 31);
        Ok(Self {
            config: Config { capacity, ..config },
            hasher: Hasher::new(),
            v4: Part::new(capacity)?,
            v6: Part::new(capacity)?,
            occupancy: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            quotas: Quotas::new(config.limits),
            sweep: sweep::Cursor::default(),
        })
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.occupancy.load(Ordering::Relaxed) as u32 as usize
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
        (self.occupancy.load(Ordering::Relaxed) >> 32) as usize
    }

    /// Connections that had to go because the table was full, since it was made.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Bytes in use: the index, and connections that are or were in the table. Memory that was never
    /// touched is not counted. For the control plane: two system calls, and a byte for every 512 connections of
    /// the capacity while they last.
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
        self.hasher.work(Track { table: self, now, generation, probes, out });
    }

    /// Whether connections with these keys are in the table, expired ones included; `found[n]` for
    /// `keys[n]`. Takes no lock and changes nothing; what comes or goes meanwhile may be missed or
    /// found.
    ///
    /// Cost: two cache lines a key. Up to 32 keys are fetched at once; of more, 64 at once while those before
    /// are looked at, so that many keys in one call hardly wait for memory that is far away.
    pub fn contains_v4(&self, keys: &[KeyV4], found: &mut [bool]) {
        self.hasher.work(Contains { part: &self.v4, keys, found });
    }

    /// As [`Self::contains_v4`], for IPv6.
    pub fn contains_v6(&self, keys: &[KeyV6], found: &mut [bool]) {
        self.hasher.work(Contains { part: &self.v6, keys, found });
    }

    #[inline(always)]
    fn track_one<K: Packed>(
        &self,
        part: &Part<K>,
        now: u32,
        generation: u32,
        probe: &Probe,
        place: &Place,
        waits: bool,
    ) -> Tracked {
        let key = K::pack(&probe.key);
        let Some((_, mut locked)) = part.find_guessed(place.guess, &key, place.spot) else {
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
        let case = Case { now, generation, probe, opened, decision };
        match probe.key.version {
            Version::V4 => self.settle_in(&self.v4, &case, ended),
            Version::V6 => self.settle_in(&self.v6, &case, ended),
        }
    }

    fn settle_in<K: Packed>(
        &self,
        part: &Part<K>,
        case: &Case<'_>,
        ended: &mut Option<Ended>,
    ) -> Settled {
        let lookup = self.lookup(part, K::pack(&case.probe.key));
        for _ in 0..TRIES {
            let settled = match part.find(&lookup.key, lookup.spot) {
                Some((index, locked)) => {
                    self.settle_known(part, case, &lookup, index, locked, ended)
                }
                None => self.settle_new(part, case, &lookup, ended),
            };
            if let Some(settled) = settled {
                return settled;
            }
        }
        Settled::Dropped(Reason::Contention)
    }

    /// Settles a packet whose connection is in the table. `None`: it changed; look again.
    fn settle_known<K: Packed>(
        &self,
        part: &Part<K>,
        case: &Case<'_>,
        lookup: &Lookup<K>,
        index: u32,
        mut locked: Locked<'_>,
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
                    let same = |locked: &Locked<'_>| locked.generation() == old;
                    let connection = self.remove(part, lookup, index, same)?;
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
                locked.write(&connection);
                *ended = Some(Ended { key: probe.key, connection: over });
                Some(Settled::Opened { grant })
            }
        }
    }

    /// Settles a packet whose connection is not in the table. `None`: it is now; look again.
    fn settle_new<K: Packed>(
        &self,
        part: &Part<K>,
        case: &Case<'_>,
        lookup: &Lookup<K>,
        ended: &mut Option<Ended>,
    ) -> Option<Settled> {
        if case.opened != case.probe.direction {
            return Some(Settled::Again { opened: case.probe.direction });
        }
        // Borrowed, not moved: copying what was just written in pieces would wait for these.
        let opening = self.opening(case);
        let connection = match &opening {
            Ok(connection) => connection,
            Err(reason) => return Some(Settled::Dropped(*reason)),
        };
        let grant = connection.grant;
        let half_open = connection.half_open();
        if self.too_many_half_open(half_open) {
            return Some(Settled::Dropped(Reason::HalfOpenLimit));
        }
        if let Err(reason) = self.quotas.open(grant.source, half_open, case.now) {
            return Some(Settled::Dropped(reason));
        }
        let inserted = if self.make_room(case.now, half_open, ended) {
            part.insert(&lookup.key, lookup.spot, connection)
        } else {
            Inserted::Full
        };
        if matches!(inserted, Inserted::Done) {
            return Some(Settled::Opened { grant });
        }
        self.occupancy.fetch_sub(weight(half_open), Ordering::Relaxed);
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
        limit.is_some_and(|limit| self.half_open() >= limit as usize)
    }

    /// Counts one more connection, before it can be seen in the table, so that whoever finishes its
    /// handshake finds it counted; if that is too many, another may have to go. `false`: no room.
    fn make_room(&self, now: u32, half_open: bool, ended: &mut Option<Ended>) -> bool {
        if self.count(half_open) {
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
    fn step(&self, locked: &mut Locked<'_>, now: u32, generation: u32, probe: &Probe) -> Found {
        let before = locked.protocol();
        let timeout = before.timeout(probe.key.protocol, &self.config.timeouts);
        if super::state::idle(now, locked.seen()) >= timeout {
            return Found::Replaceable;
        }
        if locked.generation() != generation {
            match self.config.on_policy_change {
                // What no policy of this process has judged yet, a restored connection, is not kept.
                OnPolicyChange::Keep if locked.generation() != UNJUDGED => {}
                OnPolicyChange::Cut => return Found::Replaceable,
                _ => return Found::Lapsed(locked.opened()),
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
                Found::Member(locked.grant())
            }
            Step::Reopen => Found::Replaceable,
            Step::Invalid(reason) => Found::Invalid(reason),
        }
    }

    /// Puts connections into the table that exist already, elsewhere or before; answers how many found
    /// room. One whose key is known already is left out, and the earlier ones of equal keys stay.
    ///
    /// Cost: one atomic change of what all workers share for 32 of them, and one each in the index.
    pub fn insert_all(&self, connections: &[Ended]) -> usize {
        self.hasher.work(InsertAll { table: self, connections })
    }

    /// A connection judged anew may be another identity's now.
    fn transfer(&self, locked: &Locked<'_>, grant: &Grant) {
        let (old, half_open) = (locked.grant().source, locked.protocol().half_open());
        if self.quotas.active() && old != grant.source {
            self.quotas.end(old, half_open);
            self.quotas.adopt(grant.source, half_open);
        }
    }

    /// Takes a connection out.
    fn remove<K: Packed>(
        &self,
        part: &Part<K>,
        lookup: &Lookup<K>,
        index: u32,
        condition: impl FnOnce(&Locked<'_>) -> bool,
    ) -> Option<Connection> {
        let connection = part.remove(&lookup.key, lookup.spot, index, condition)?;
        self.occupancy.fetch_sub(weight(connection.half_open()), Ordering::Relaxed);
        self.quotas.end(connection.grant.source, connection.half_open());
        Some(connection)
    }

    /// Counts one more connection; whether there is room for it.
    #[inline]
    fn count(&self, half_open: bool) -> bool {
        let before = self.occupancy.fetch_add(weight(half_open), Ordering::Relaxed);
        (before as u32 as usize) < self.config.capacity
    }

    /// A connection that was there becomes half-open, or takes the place of one that was not.
    #[inline]
    fn opens(&self, half_open: bool) {
        if half_open {
            self.occupancy.fetch_add(HALF_OPEN, Ordering::Relaxed);
        }
    }

    /// A half-open connection is finished, or another takes its place.
    #[inline]
    fn closes(&self, half_open: bool) {
        if half_open {
            self.occupancy.fetch_sub(HALF_OPEN, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn lookup<K: Packed>(&self, part: &Part<K>, key: K) -> Lookup<K> {
        Lookup { key, spot: part.view().spot(key.hash(&self.hasher)) }
    }
}

/// A packet to settle.
struct Case<'a> {
    now: u32,
    generation: u32,
    probe: &'a Probe,
    opened: Direction,
    decision: Result<Grant, Reason>,
}
