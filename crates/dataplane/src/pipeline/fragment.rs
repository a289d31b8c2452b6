//! Packets in pieces: later fragments share the fate of the first, in whatever order they come.
//!
//! Nothing is reassembled. For each packet in pieces the store remembers which bytes were seen and
//! what was decided for the first fragment, which alone holds the transport header. Fragments that
//! come before it are held, as copies, until it does. Memory and time are bounded by [`Config`].
//!
//! - A fragment that overlaps another of its packet is dropped, with everything of that packet that
//!   is still to come (RFC 5722, for IPv4 too: nobody sends such packets but to deceive). An exact
//!   repetition is dropped alone.
//! - Later fragments count in no connection.
//!
//! One lock for all workers: fragments are rare where path MTU discovery works, and a flood of them
//! is limited by the store's size. Here, and only here, the packet path allocates.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Time;
use crate::packet::{Fragment, Headers, Version};
use crate::reason::Reason;

/// Bounds of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Packets in pieces at a time.
    pub packets: usize,
    /// Of those, from one source address: so that one sender cannot use up the store.
    pub packets_per_source: usize,
    /// Bytes of fragments that wait for their first.
    pub held_bytes: usize,
    /// Fragments of one packet.
    pub fragments: usize,
    /// Milliseconds after the first fragment seen of a packet at which it is forgotten.
    pub timeout: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            packets: 4096,
            packets_per_source: 256,
            held_bytes: 1 << 20,
            fragments: 64,
            timeout: 15_000,
        }
    }
}

/// What becomes of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It passes; with a first fragment, so do these that were held.
    Pass(Vec<Box<[u8]>>),
    /// It is held until the first fragment comes.
    Held,
    /// It is dropped, with this many that were held.
    Dropped(Reason, usize),
}

/// Which packet a fragment belongs to (RFC 791 section 2.3, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: u128,
    destination: u128,
    id: u32,
    zone: u16,
    protocol: u8,
    version: Version,
}

impl Key {
    fn of(headers: &Headers, fragment: &Fragment) -> Self {
        let tuple = &headers.tuple;
        Self {
            source: tuple.source,
            destination: tuple.destination,
            id: fragment.id,
            zone: tuple.zone,
            protocol: tuple.protocol,
            version: tuple.version,
        }
    }
}

/// A packet in pieces.
#[derive(Debug, Default)]
struct Pieces {
    /// Bytes seen: ranges that do not overlap, in order of arrival.
    seen: Vec<(u32, u32)>,
    /// Length of the whole payload, once the last fragment was seen.
    whole: Option<u32>,
    /// What was decided for the first fragment: `None` until it came, and why it was dropped if so.
    first: Option<Result<(), Reason>>,
    held: Vec<Box<[u8]>>,
    age: Age,
}

/// When a packet was entered, and the number of its entry.
type Age = (Time, u64);

/// What a look at the ranges finds.
enum Place {
    New,
    Repeated,
    Wrong(Reason),
}

impl Pieces {
    /// Whether the fragment fits between those seen.
    fn place(&self, fragment: &Fragment, limit: usize) -> Place {
        let start = u32::from(fragment.offset);
        let end = start + u32::from(fragment.len);
        if self.seen.contains(&(start, end)) {
            return Place::Repeated;
        }
        let overlaps = self.seen.iter().any(|(from, to)| start < *to && *from < end);
        let beyond_last = self.whole.is_some_and(|whole| end > whole);
        let second_last =
            !fragment.more && (self.whole.is_some() || self.seen.iter().any(|(_, to)| *to > end));
        if overlaps || beyond_last || second_last {
            return Place::Wrong(Reason::FragmentOverlap);
        }
        if self.seen.len() >= limit {
            return Place::Wrong(Reason::FragmentLimit);
        }
        Place::New
    }

    fn note(&mut self, fragment: &Fragment) {
        let start = u32::from(fragment.offset);
        let end = start + u32::from(fragment.len);
        self.seen.push((start, end));
        if !fragment.more {
            self.whole = Some(end);
        }
    }

    /// Whether every byte was seen.
    fn complete(&self) -> bool {
        let seen: u32 = self.seen.iter().map(|(from, to)| to - from).sum();
        self.whole == Some(seen)
    }
}

/// All packets in pieces.
#[derive(Debug)]
pub(super) struct Fragments {
    config: Config,
    store: Mutex<Store>,
}

#[derive(Debug, Default)]
struct Store {
    packets: HashMap<Key, Pieces, ahash::RandomState>,
    per_source: HashMap<(u128, u16), usize, ahash::RandomState>,
    /// All have the same timeout: the oldest is the first to go.
    ages: BTreeMap<Age, Key>,
    entered: u64,
    held_bytes: usize,
}

impl Fragments {
    pub(super) fn new(config: Config) -> Self {
        Self { config, store: Mutex::default() }
    }

    /// A first fragment, for which `decision` was found.
    pub(super) fn first(
        &self,
        now: Time,
        headers: &Headers,
        fragment: &Fragment,
        decision: Result<(), Reason>,
    ) -> Fate {
        let mut store = self.lock();
        let key = Key::of(headers, fragment);
        let pieces = match store.enter(&self.config, now, key) {
            Ok(pieces) => pieces,
            Err(reason) => return Fate::Dropped(decision.err().unwrap_or(reason), 0),
        };
        match pieces.place(fragment, self.config.fragments) {
            Place::Repeated => return Fate::Dropped(Reason::FragmentOverlap, 0),
            Place::Wrong(reason) => return store.spoil(&key, reason),
            Place::New => pieces.note(fragment),
        }
        if let Some(Err(reason)) = pieces.first {
            return Fate::Dropped(reason, 0);
        }
        pieces.first = Some(decision);
        let (held, complete) = (std::mem::take(&mut pieces.held), pieces.complete());
        store.held_bytes -= held.iter().map(|packet| packet.len()).sum::<usize>();
        if complete {
            store.leave(&key);
        }
        match decision {
            Ok(()) => Fate::Pass(held),
            Err(reason) => Fate::Dropped(reason, held.len()),
        }
    }

    /// A later fragment, all of which is in `frame`, unless that is `None`.
    pub(super) fn later(
        &self,
        now: Time,
        headers: &Headers,
        fragment: &Fragment,
        frame: Option<&[u8]>,
    ) -> Fate {
        let mut store = self.lock();
        let key = Key::of(headers, fragment);
        let room = self.config.held_bytes.saturating_sub(store.held_bytes);
        let pieces = match store.enter(&self.config, now, key) {
            Ok(pieces) => pieces,
            Err(reason) => return Fate::Dropped(reason, 0),
        };
        match pieces.place(fragment, self.config.fragments) {
            Place::Repeated => return Fate::Dropped(Reason::FragmentOverlap, 0),
            Place::Wrong(reason) => return store.spoil(&key, reason),
            Place::New => {}
        }
        let fate = match (pieces.first, frame) {
            (Some(Ok(())), _) => Fate::Pass(Vec::new()),
            (Some(Err(reason)), _) => Fate::Dropped(reason, 0),
            (None, Some(frame)) if frame.len() <= room => {
                pieces.held.push(frame.into());
                Fate::Held
            }
            // Not noted as seen: sent again, it may find room.
            (None, _) => return Fate::Dropped(Reason::FragmentLimit, 0),
        };
        pieces.note(fragment);
        let complete = pieces.first.is_some() && pieces.complete();
        if let (Fate::Held, Some(frame)) = (&fate, frame) {
            store.held_bytes += frame.len();
        }
        if complete {
            store.leave(&key);
        }
        fate
    }

    /// Forgets packets whose time is over; answers how many fragments were still held for them.
    pub(super) fn expire(&self, now: Time) -> usize {
        let mut store = self.lock();
        let mut dropped = 0;
        while let Some(((since, _), key)) = store.ages.first_key_value() {
            if now.since(*since).as_millis() < u128::from(self.config.timeout) {
                break;
            }
            let key = *key;
            dropped += store.leave(&key);
        }
        dropped
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// The packet with this key, a new one if there is room.
    fn enter(&mut self, config: &Config, now: Time, key: Key) -> Result<&mut Pieces, Reason> {
        let mut age = None;
        if !self.packets.contains_key(&key) {
            let of_source = self.per_source.get(&(key.source, key.zone)).copied().unwrap_or(0);
            if self.packets.len() >= config.packets || of_source >= config.packets_per_source {
                return Err(Reason::FragmentLimit);
            }
            self.per_source.insert((key.source, key.zone), of_source + 1);
            self.entered += 1;
            self.ages.insert((now, self.entered), key);
            age = Some((now, self.entered));
        }
        let pieces = self.packets.entry(key).or_default();
        pieces.age = age.unwrap_or(pieces.age);
        Ok(pieces)
    }

    /// Nothing of this packet passes any more.
    fn spoil(&mut self, key: &Key, reason: Reason) -> Fate {
        let Some(pieces) = self.packets.get_mut(key) else { return Fate::Dropped(reason, 0) };
        let held = std::mem::take(&mut pieces.held);
        pieces.first = Some(Err(reason));
        self.held_bytes -= held.iter().map(|packet| packet.len()).sum::<usize>();
        Fate::Dropped(reason, held.len())
    }

    /// Forgets a packet; answers how many of its fragments were held.
    fn leave(&mut self, key: &Key) -> usize {
        let Some(pieces) = self.packets.remove(key) else { return 0 };
        self.ages.remove(&pieces.age);
        if let Some(of_source) = self.per_source.get_mut(&(key.source, key.zone)) {
            *of_source -= 1;
            if *of_source == 0 {
                self.per_source.remove(&(key.source, key.zone));
            }
        }
        self.held_bytes -= pieces.held.iter().map(|packet| packet.len()).sum::<usize>();
        pieces.held.len()
    }
}
