//! The table from addresses to identities: one writer, any number of readers.
//!
//! ```
//! use portcullis_identity_table::{IdentityId, Writer};
//! let mut writer = Writer::new();
//! let reader = writer.reader(); // one for each thread: clone it
//! writer.insert("10.244.0.0/16".parse()?, IdentityId::new(300))?;
//! writer.insert("10.244.1.7".parse()?, IdentityId::new(301))?;
//!
//! let guard = reader.pin(); // once a batch
//! assert_eq!(guard.lookup("10.244.1.7".parse()?).get(), 301);
//! let mut ids = [IdentityId::UNKNOWN; 2];
//! guard.lookup_v4_batch(&[0x0af4_0108, 0x0808_0808], &mut ids);
//! assert_eq!(ids, [IdentityId::new(300), IdentityId::UNKNOWN]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What readers see
//! A change is visible to every guard pinned after [`Writer::insert`] or [`Writer::remove`] returns,
//! and mostly to guards pinned before. Every answer under a guard was the right one at some moment
//! since the pin. A prefix that covers many addresses changes address by address, in
//! microseconds; [`Writer::load`] and [`Writer::replace_set`] change all at once, at the readers'
//! next [`Reader::pin`].
//!
//! # Performance
//! A lookup takes no lock and writes nothing; a pin writes one word that no other reader touches.
//! See `docs/performance/lpm.md` for nanoseconds and bytes. The writer never waits for readers: what
//! they may still hold is set aside and used again later.
//!
//! # Limitations
//! A reader that stays pinned keeps the memory of everything that changes meanwhile. A structure
//! grows to at most 4 GiB a family ([`TableError::Full`]), and grows by copying, which takes the
//! writer about a millisecond for each 10 MB but disturbs no reader.

use core::cell::Cell;
use core::marker::PhantomData;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use crate::lpm::jump::Seed;
use crate::lpm::reclaim::{Domain, Published, Slot, Stamp, Unlinked};
use crate::lpm::trie::Trie;
use crate::lpm::words::Words;
use crate::lpm::{walk4, walk6};
use crate::set::NamedSet;
use crate::sync::Arc;
use crate::{IdentityId, Prefix};

/// Unlinked runs after which the writer looks for some to use again.
const COLLECT_EVERY: usize = 64;
/// Words of the structures of an empty table, beyond the fixed ones; not resident until used.
const ROOM: usize = 1 << 20;

/// The one who may change the table. Not `Clone`: changes have one order. `Send`.
pub struct Writer {
    shared: Arc<Shared>,
    pub(crate) v4: Trie,
    pub(crate) v6: Trie,
    pub(crate) sets: BTreeMap<Box<str>, NamedSet>,
    /// Prefixes that were put in directly and are members of a set too.
    pub(crate) overriding: BTreeSet<Prefix>,
    unlinked: VecDeque<UnlinkedRun>,
    old: Vec<(Stamp, Unlinked<Snapshot>)>,
    since_collect: usize,
}

/// A handle for looking up; clone one for each thread. `Send`, not `Sync`.
pub struct Reader {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    pins: Cell<u32>,
}

/// The right to look up, until dropped. Pin once a batch and drop soon.
pub struct Guard<'a> {
    snapshot: &'a Snapshot,
    reader: &'a Reader,
    /// Bound to the reader's thread.
    not_send: PhantomData<*const ()>,
}

/// Why a change of the table was refused. Nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The structure for one family has reached its limit of 4 GiB.
    #[error("the {family} table has reached its limit of 4 GiB: remove prefixes first")]
    Full {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// The rows for a set give one prefix two identities.
    #[error("{prefix} is given two identities, {} and {}: keep one", .ids[0], .ids[1])]
    Conflict {
        /// The prefix.
        prefix: Prefix,
        /// The two identities.
        ids: [IdentityId; 2],
    },
}

struct Shared {
    domain: Domain,
    current: Published<Snapshot>,
    /// What a writer left behind while readers were pinned.
    left: Mutex<Vec<Unlinked<Snapshot>>>,
}

/// What readers hold: the memory of both families. Its words change in place.
struct Snapshot {
    v4: Words,
    v6: Words,
    jump: Words,
    seed: Seed,
}

struct UnlinkedRun {
    stamp: Stamp,
    v6: bool,
    at: u32,
    len: u32,
}

impl Writer {
    /// An empty table.
    pub fn new() -> Self {
        let (v4, v6) = (Trie::new(false, ROOM), Trie::new(true, ROOM));
        let current = Published::new(snapshot(&v4, &v6));
        let shared = Arc::new(Shared { domain: Domain::new(), current, left: Mutex::default() });
        Self {
            shared,
            v4,
            v6,
            sets: BTreeMap::new(),
            overriding: BTreeSet::new(),
            unlinked: VecDeque::new(),
            old: Vec::new(),
            since_collect: 0,
        }
    }

    /// A handle for looking up.
    pub fn reader(&self) -> Reader {
        Reader::of(&self.shared)
    }

    /// Puts `prefix` in, or replaces its identity; returns the identity that stood there.
    ///
    /// Readers see it before this returns. Cost: a microsecond for a host's prefix; a short prefix
    /// touches each slot that it covers, up to 65,536.
    pub fn insert(
        &mut self,
        prefix: Prefix,
        id: IdentityId,
    ) -> Result<Option<IdentityId>, TableError> {
        self.has_room(&prefix)?;
        if self.get_in_sets(&prefix).is_some() {
            self.overriding.insert(prefix);
        }
        Ok(self.put(prefix, id))
    }

    /// Takes `prefix` out; returns the identity that stood there. What belongs to a named set only
    /// is not taken out this way; if a set has the prefix too, its identity comes back.
    ///
    /// Readers see it before this returns. Cost: as [`Writer::insert`].
    pub fn remove(&mut self, prefix: &Prefix) -> Result<Option<IdentityId>, TableError> {
        self.has_room(prefix)?;
        if let Some(below) = self.get_in_sets(prefix) {
            let direct = self.overriding.remove(prefix);
            return Ok(if direct { self.put(*prefix, below) } else { None });
        }
        let old = self.trie(prefix.is_v6()).remove(prefix.key(), prefix.len());
        self.finish(prefix.is_v6());
        Ok(old.map(IdentityId::new))
    }

    /// The identity that stands at exactly `prefix`.
    pub fn get(&self, prefix: &Prefix) -> Option<IdentityId> {
        let trie = if prefix.is_v6() { &self.v6 } else { &self.v4 };
        trie.get(prefix.key(), prefix.len()).map(IdentityId::new)
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use: what readers walk, what the writer keeps beside it (the members of named sets
    /// among it), and what is free inside.
    pub fn memory_usage(&self) -> usize {
        let sets: usize = self.sets.values().map(NamedSet::bytes).sum();
        self.v4.bytes() + self.v6.bytes() + sets
    }

    fn trie(&mut self, v6: bool) -> &mut Trie {
        if v6 { &mut self.v6 } else { &mut self.v4 }
    }

    fn put(&mut self, prefix: Prefix, id: IdentityId) -> Option<IdentityId> {
        let old = self.trie(prefix.is_v6()).insert(prefix.key(), prefix.len(), id.get());
        self.finish(prefix.is_v6());
        old.map(IdentityId::new)
    }

    fn has_room(&mut self, prefix: &Prefix) -> Result<(), TableError> {
        let room = self.trie(prefix.is_v6()).has_room(prefix.key(), prefix.len());
        if room { Ok(()) } else { Err(full(prefix.is_v6())) }
    }

    /// Puts new structures in the place of the old ones.
    pub(crate) fn swap(&mut self, v4: Trie, v6: Trie) {
        (self.v4, self.v6) = (v4, v6);
        // What was unlinked in the old structures goes with them.
        self.unlinked.clear();
        self.publish();
        self.collect();
    }

    /// Ends a change: publishes memory that moved, stamps what was unlinked, and now and then finds
    /// what may be used again.
    fn finish(&mut self, v6: bool) {
        if !self.is_published() {
            self.publish();
        }
        let stamp = self.shared.domain.stamp();
        let trie = if v6 { &mut self.v6 } else { &mut self.v4 };
        self.since_collect += trie.retired.len();
        let run = |(at, len)| UnlinkedRun { stamp, v6, at: at as u32, len: len as u32 };
        self.unlinked.extend(trie.retired.drain(..).map(run));
        if self.since_collect >= COLLECT_EVERY {
            self.collect();
        }
    }

    fn is_published(&self) -> bool {
        // SAFETY: the writer alone frees snapshots, and does not meanwhile.
        let current = unsafe { self.shared.current.load() };
        current.v4.is(&self.v4.words)
            && current.v6.is(&self.v6.words)
            && current.jump.is(&self.v6.jump.table)
    }

    fn publish(&mut self) {
        let old = self.shared.current.replace(snapshot(&self.v4, &self.v6));
        self.old.push((self.shared.domain.stamp(), old));
    }

    fn collect(&mut self) {
        self.since_collect = 0;
        let free = self.shared.domain.advance();
        self.old.retain(|(stamp, _)| *stamp >= free);
        let count = self.unlinked.partition_point(|run| run.stamp < free);
        for run in self.unlinked.drain(..count) {
            let trie = if run.v6 { &mut self.v6 } else { &mut self.v4 };
            trie.alloc.give(run.at as usize, run.len as usize);
        }
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Readers live on and may hold these.
        let mut left = self.shared.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        left.extend(self.old.drain(..).map(|(_, old)| old));
    }
}

impl core::fmt::Debug for Writer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Writer").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Reader {
    fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), slot: shared.domain.register(), pins: Cell::new(0) }
    }

    /// Pins the table for a batch of lookups: a store, or a store and a fence (some 5 ns) where the
    /// system has no `membarrier(2)`. Guards may nest.
    #[inline]
    pub fn pin(&self) -> Guard<'_> {
        if self.pins.get() == 0 {
            self.shared.domain.pin(&self.slot);
        }
        self.pins.set(self.pins.get() + 1);
        // SAFETY: pinned until the guard drops; the writer keeps old snapshots for pinned readers.
        let snapshot = unsafe { self.shared.current.load() };
        Guard { snapshot, reader: self, not_send: PhantomData }
    }
}

impl Clone for Reader {
    fn clone(&self) -> Self {
        Self::of(&self.shared)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.domain.unregister(&self.slot);
    }
}

impl core::fmt::Debug for Reader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        let pins = self.reader.pins.get() - 1;
        self.reader.pins.set(pins);
        if pins == 0 {
            self.reader.slot.unpin();
        }
    }
}

impl core::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Guard<'_> {
    /// The identity of the longest prefix that contains `address`, or [`IdentityId::UNKNOWN`].
    /// An IPv4-mapped IPv6 address is looked up as the IPv6 address it is.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> IdentityId {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address.into()),
            IpAddr::V6(address) => self.lookup_v6(address.into()),
        }
    }

    /// As [`Guard::lookup`], of an IPv4 address in host byte order.
    #[inline]
    pub fn lookup_v4(&self, address: u32) -> IdentityId {
        // SAFETY: the snapshot is published, and pinned while this guard lives.
        unsafe { walk4::lookup(&self.snapshot.v4, address) }
    }

    /// As [`Guard::lookup`], of an IPv6 address in host byte order.
    #[inline]
    pub fn lookup_v6(&self, address: u128) -> IdentityId {
        // SAFETY: the snapshot is published, and pinned while this guard lives.
        unsafe { walk6::lookup(self.view6(), address) }
    }

    /// Looks up each of `addresses` into the same place of `out`; stops at the shorter of both.
    /// Fastest from 32 addresses on: their cache misses overlap.
    pub fn lookup_v4_batch(&self, addresses: &[u32], out: &mut [IdentityId]) {
        let len = addresses.len().min(out.len());
        // SAFETY: the snapshot is published, and pinned while this guard lives.
        unsafe { walk4::lookup_batch(&self.snapshot.v4, &addresses[..len], &mut out[..len]) };
    }

    /// Looks up each of `addresses` into the same place of `out`; stops at the shorter of both.
    /// Fastest from 32 addresses on: their cache misses overlap.
    pub fn lookup_v6_batch(&self, addresses: &[u128], out: &mut [IdentityId]) {
        let len = addresses.len().min(out.len());
        // SAFETY: the snapshot is published, and pinned while this guard lives.
        unsafe { walk6::lookup_batch(self.view6(), &addresses[..len], &mut out[..len]) };
    }

    #[inline]
    fn view6(&self) -> walk6::View<'_> {
        let Snapshot { v6, jump, seed, .. } = self.snapshot;
        walk6::View { words: v6, jump, seed: *seed }
    }
}

fn snapshot(v4: &Trie, v6: &Trie) -> Snapshot {
    Snapshot {
        v4: v4.words.clone(),
        v6: v6.words.clone(),
        jump: v6.jump.table.clone(),
        seed: v6.jump.seed,
    }
}

pub(crate) const fn full(v6: bool) -> TableError {
    TableError::Full { family: if v6 { "IPv6" } else { "IPv4" } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::ReferenceTable;
    use proptest::prelude::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut writer = Writer::new();
        let reader = writer.reader();
        for (prefix, id) in [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("::/0", 4)] {
            writer.insert(prefix.parse().unwrap(), IdentityId::new(id)).unwrap();
        }
        let id = |text: &str| reader.pin().lookup(text.parse().unwrap()).get();
        assert_eq!([id("10.1.2.3"), id("10.2.0.0"), id("9.9.9.9"), id("::1")], [3, 2, 1, 4]);
        writer.remove(&"10.1.0.0/16".parse().unwrap()).unwrap();
        assert_eq!(id("10.1.2.3"), 2);
    }

    #[test]
    fn a_full_table_refuses_and_changes_nothing() {
        use crate::lpm::{entry::MAX_WORDS, trie::HEADROOM};
        let mut writer = Writer::new();
        let reader = writer.reader();
        let (known, new): (Prefix, Prefix) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        writer.insert(known, IdentityId::new(1)).unwrap();
        // Words handed out and never touched stand for prefixes.
        let room = MAX_WORDS - HEADROOM - writer.v4.alloc.top();
        writer.v4.alloc.take(room + 2);
        let full = TableError::Full { family: "IPv4" };
        assert_eq!(writer.insert(new, IdentityId::new(2)), Err(full.clone()));
        assert_eq!(writer.remove(&known), Err(full));
        assert_eq!((writer.get(&new), writer.get(&known)), (None, Some(IdentityId::new(1))));
        assert_eq!(reader.pin().lookup(new.address()), IdentityId::UNKNOWN);
        assert_eq!(reader.pin().lookup(known.address()), IdentityId::new(1));
        // The other family has its own room, and building anew leaves what was lost behind.
        writer.insert("fd00::1".parse().unwrap(), IdentityId::new(3)).unwrap();
        writer.load([(new, IdentityId::new(2))]).unwrap();
        assert_eq!(reader.pin().lookup(new.address()), IdentityId::new(2));
        assert_eq!(writer.remove(&known), Ok(Some(IdentityId::new(1))));
    }

    /// Few distinct bits, so that prefixes nest, meet and equal each other.
    fn prefixes() -> impl Strategy<Value = Prefix> {
        (any::<u64>(), any::<u8>(), 0..8_u8).prop_map(|(picks, len, kind)| {
            let byte = |i: u32| match picks >> (4 * i) & 15 {
                12 => 1,
                13 => 0x80,
                14 => 0xff,
                15 => (picks >> 7) as u8,
                _ => 0,
            };
            let host = (picks >> 32) as u8;
            let (address, len) = match kind {
                0 | 1 => (IpAddr::from([byte(0), byte(1), byte(2), byte(3)]), len % 33),
                2 => {
                    (IpAddr::from(core::array::from_fn::<u8, 16, _>(|i| byte(i as u32))), len % 129)
                }
                // Crowded nets, whose pages unfold, fold and grow wide.
                3 | 4 => (IpAddr::from([10, 0, (picks & 3) as u8, host]), 24 + len % 9),
                5 => (IpAddr::from([10, 0, len, host & 0x8f]), 30 + host % 3),
                _ => {
                    let bits = 0xfd10 << 112 | u128::from(byte(0)) << 8 | u128::from(host);
                    (IpAddr::V6(bits.into()), 112 + len % 17)
                }
            };
            Prefix::truncated(address, len).unwrap()
        })
    }

    fn ids() -> impl Strategy<Value = u32> {
        prop_oneof![8 => 0..50_u32, 1 => Just(u32::MAX), 1 => (1_u32 << 31) - 4..(1 << 31) + 3]
    }

    /// Addresses at and beside the ends of the prefix.
    fn edges(prefix: &Prefix) -> Vec<IpAddr> {
        let host = if prefix.is_v6() { 128 } else { 32 };
        let last = prefix.key() | !crate::prefix::mask(prefix.len());
        let one = 1_u128 << (128 - host);
        let cut = crate::prefix::mask(host);
        [prefix.key(), last, prefix.key().wrapping_sub(one), last.wrapping_add(one)]
            .map(|key| Prefix::from_key(prefix.is_v6(), key & cut, host).address())
            .into()
    }

    fn check(reader: &Reader, twin: &ReferenceTable, addresses: &[IpAddr]) {
        let guard = reader.pin();
        let (mut v4, mut v6, mut want4, mut want6) = (vec![], vec![], vec![], vec![]);
        for address in addresses {
            let want = twin.lookup(*address);
            assert_eq!(guard.lookup(*address), want, "{address}");
            match address {
                IpAddr::V4(a) => (v4.push(u32::from(*a)), want4.push(want)),
                IpAddr::V6(a) => (v6.push(u128::from(*a)), want6.push(want)),
            };
        }
        let mut out = vec![IdentityId::new(7); v4.len()];
        guard.lookup_v4_batch(&v4, &mut out);
        assert_eq!(out, want4);
        let mut out = vec![IdentityId::new(7); v6.len()];
        guard.lookup_v6_batch(&v6, &mut out);
        assert_eq!(out, want6);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn equals_its_slow_twin(
            changes in proptest::collection::vec((prefixes(), proptest::option::weighted(0.7, ids())), 1..300),
        ) {
            let mut writer = Writer::new();
            let reader = writer.reader();
            let mut twin = ReferenceTable::default();
            let addresses: Vec<IpAddr> = changes.iter().flat_map(|(p, _)| edges(p)).collect();
            for (i, (prefix, id)) in changes.iter().enumerate() {
                let (old, want) = match id {
                    Some(id) => {
                        let id = IdentityId::new(*id);
                        (writer.insert(*prefix, id), twin.insert(*prefix, id))
                    }
                    None => (writer.remove(prefix), twin.remove(prefix)),
                };
                prop_assert_eq!(old, Ok(want));
                prop_assert_eq!(writer.get(prefix), twin.get(prefix));
                if i % 16 == 0 {
                    check(&reader, &twin, &addresses);
                }
            }
            check(&reader, &twin, &addresses);
            let mut loaded = Writer::new();
            loaded.load(twin.iter()).unwrap();
            check(&loaded.reader(), &twin, &addresses);
            let all: Vec<Prefix> = twin.iter().map(|(prefix, _)| prefix).collect();
            prop_assert_eq!(writer.len(), all.len());
            for prefix in all {
                prop_assert_eq!(writer.remove(&prefix), Ok(twin.remove(&prefix)));
            }
            prop_assert!(writer.is_empty());
            check(&reader, &twin, &addresses);
        }
    }
}
