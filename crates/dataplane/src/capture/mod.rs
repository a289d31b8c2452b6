//! Copies of chosen packets, with what was decided about them, for whoever debugs.
//!
//! A [`Tap`] belongs to an engine. While nobody captures, a worker spends one branch a batch on it.
//! While somebody does, it compares each packet with the [`Filter`]s of all [`Session`]s and copies
//! those that fit into a ring of its own ([`Writer`]); what does not fit into the ring is counted and
//! not copied. Nothing waits, nothing is allocated. A reader ([`Tap::read`]) takes the copies out.
//!
//! # Limitations
//! - A packet carries the time of its batch, read once for up to 64 packets.
//! - Of a frame in several buffers (MTU above 3,500) the first is copied at most; its whole length
//!   is known all the same.
//! - Packets are seen as they were received: before their checksums are completed, and not at all if
//!   they are the firewall's own (answers to rejected packets).

mod filter;
mod ring;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Time;
use crate::packet::Headers;
use crate::pipeline::{Input, Judgement};

pub use filter::{Filter, Verdicts};
pub use ring::Captured;
use ring::{Head, Reader, Ring};

/// Captures at a time.
pub const SESSIONS: usize = 8;

/// Bytes that wait in each worker's ring at most.
pub const RING_BYTES: usize = 4 << 20;

/// Longest part of a packet that is copied, in bytes.
pub const SNAPLEN: usize = 9216;

/// Names of interfaces that are told apart.
const INTERFACES: usize = 1 << 16;

/// Where an engine's packets can be watched.
#[derive(Debug, Default)]
pub struct Tap {
    armed: AtomicBool,
    /// What workers compare packets with.
    sessions: ArcSwap<Sessions>,
    readers: Mutex<Vec<Reader>>,
    interfaces: Mutex<Vec<Arc<str>>>,
}

/// The open sessions by place, and how often that changed: a place is used again.
#[derive(Clone, Debug, Default)]
struct Sessions {
    places: [Option<Arc<Shared>>; SESSIONS],
    epoch: u32,
}

/// Which sessions asked for a packet: see [`Session::asked`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Askers {
    /// Bit n: the session at place n.
    places: u8,
    /// Of the sessions that were open then.
    epoch: u32,
}

/// The number of an interface's name, as [`Tap::interface`] gave it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceId(u32);

/// One capture; ends when dropped.
#[derive(Debug)]
pub struct Session {
    tap: Arc<Tap>,
    place: usize,
    /// The epoch that began with it.
    since: u32,
    shared: Arc<Shared>,
}

/// What workers know of a session.
#[derive(Debug)]
struct Shared {
    filter: ArcSwap<Filter>,
    /// Packets that may still be copied before [`Session::allow`] is called again.
    budget: AtomicI64,
    over_budget: AtomicU64,
    lost: AtomicU64,
}

impl Tap {
    /// Begins a capture of what `filter` lets through; nothing is copied before [`Session::allow`].
    /// `None`: [`SESSIONS`] are open already.
    pub fn open(self: &Arc<Self>, filter: Filter) -> Option<Session> {
        let shared = Arc::new(Shared {
            filter: ArcSwap::from_pointee(filter),
            budget: AtomicI64::new(0),
            over_budget: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        // The readers' lock lets one change the sessions at a time.
        let mut readers = lock(&self.readers);
        let mut sessions = self.sessions.load().as_ref().clone();
        let place = sessions.places.iter().position(Option::is_none)?;
        if sessions.places.iter().all(Option::is_none) {
            // What waits is nobody's any more.
            readers.iter_mut().for_each(Reader::discard);
        }
        sessions.places[place] = Some(Arc::clone(&shared));
        sessions.epoch = sessions.epoch.wrapping_add(1);
        let since = sessions.epoch;
        self.sessions.store(Arc::new(sessions));
        self.armed.store(true, Ordering::Release);
        Some(Session { tap: Arc::clone(self), place, since, shared })
    }

    /// Takes waiting copies out of all rings and hands each over with the sessions that asked for
    /// it; answers how many. Those of one worker come in their order.
    pub fn read(&self, mut take: impl FnMut(&Captured<'_>)) -> usize {
        let mut readers = lock(&self.readers);
        let count = readers.iter_mut().map(|reader| reader.read(&mut take)).sum();
        readers.retain(|reader| !reader.is_over());
        count
    }

    /// A number for the name of an interface; the same for the same name. Takes a lock: for set-up.
    pub fn interface(&self, name: &str) -> InterfaceId {
        let mut names = lock(&self.interfaces);
        let known = names.iter().position(|known| &**known == name);
        let number = known.unwrap_or_else(|| {
            if names.len() < INTERFACES {
                names.push(name.into());
            }
            names.len() - 1
        });
        InterfaceId(number as u32)
    }

    /// The name of an interface.
    pub fn interface_name(&self, interface: InterfaceId) -> Arc<str> {
        lock(&self.interfaces).get(interface.0 as usize).cloned().unwrap_or_default()
    }

    /// Bytes that the rings hold at most.
    pub fn memory_usage(&self) -> usize {
        lock(&self.readers).len() * RING_BYTES
    }

    fn close(&self, place: usize) {
        let _readers = lock(&self.readers);
        let mut sessions = self.sessions.load().as_ref().clone();
        sessions.places[place] = None;
        self.armed.store(sessions.places.iter().any(Option::is_some), Ordering::Release);
        self.sessions.store(Arc::new(sessions));
    }
}

impl Session {
    /// Whether it asked for a packet, and not another session that had its place before.
    pub fn asked(&self, askers: &Askers) -> bool {
        askers.places >> self.place & 1 == 1 && askers.epoch.wrapping_sub(self.since) < u32::MAX / 2
    }

    /// Changes what is captured: when the watched endpoint has other addresses now.
    pub fn set_filter(&self, filter: Filter) {
        self.shared.filter.store(Arc::new(filter));
    }

    /// Lets workers copy up to `packets` from now on; what was allowed before and not used is gone.
    /// Called in regular steps it bounds the rate.
    pub fn allow(&self, packets: u32) {
        self.shared.budget.store(packets.into(), Ordering::Relaxed);
    }

    /// Packets that fitted the filter and were not copied because no more were allowed.
    pub fn over_budget(&self) -> u64 {
        self.shared.over_budget.load(Ordering::Relaxed)
    }

    /// Packets that were to be copied and did not fit into a worker's ring: exact.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tap.close(self.place);
    }
}

/// One worker's way into the tap.
pub struct Writer {
    tap: Arc<Tap>,
    ring: Ring,
}

impl Writer {
    /// A writer with a ring of its own. Its memory is touched when it is first used.
    pub fn new(tap: Arc<Tap>) -> Self {
        let (ring, reader) = ring::new(RING_BYTES);
        let mut readers = lock(&tap.readers);
        readers.retain(|reader| !reader.is_over());
        readers.push(reader);
        drop(readers);
        Self { tap, ring }
    }

    /// Whether somebody captures. One relaxed load.
    #[inline]
    pub fn armed(&self) -> bool {
        self.tap.armed.load(Ordering::Relaxed)
    }

    /// Copies those packets that a session asks for. The slices are equally long.
    #[cold]
    pub fn batch<'a>(
        &mut self,
        now: Time,
        interface: InterfaceId,
        packets: impl Iterator<Item = (&'a Input<'a>, Option<&'a Headers>, &'a Judgement)>,
    ) {
        let sessions = self.tap.sessions.load();
        // Once a batch: a filter changes between batches only.
        let filters: [_; SESSIONS] =
            std::array::from_fn(|n| sessions.places[n].as_ref().map(|shared| shared.filter.load()));
        for (input, headers, judgement) in packets {
            let addresses = headers.map(|headers| {
                let tuple = &headers.tuple;
                [tuple.source_ip(), tuple.destination_ip()]
            });
            let (mut wanted, mut length) = (0u8, 0);
            for (place, (shared, filter)) in sessions.places.iter().zip(&filters).enumerate() {
                let (Some(shared), Some(filter)) = (shared, filter) else { continue };
                if filter.wants(judgement, addresses.as_ref()) && shared.spend() {
                    wanted |= 1 << place;
                    length = length.max(filter.snaplen());
                }
            }
            if wanted == 0 {
                continue;
            }
            let data = &input.data[..input.data.len().min(length)];
            let askers = Askers { places: wanted, epoch: sessions.epoch };
            let head = Head::new(now, interface.0, askers, input.wire_len, judgement);
            if !self.ring.push(&head, data) {
                let losers =
                    sessions.places.iter().enumerate().filter(|(n, _)| wanted >> n & 1 == 1);
                for shared in losers.filter_map(|(_, shared)| shared.as_ref()) {
                    shared.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Shared {
    /// Takes one packet from the budget.
    fn spend(&self) -> bool {
        let granted = self.budget.load(Ordering::Relaxed) > 0
            && self.budget.fetch_sub(1, Ordering::Relaxed) > 0;
        if !granted {
            self.over_budget.fetch_add(1, Ordering::Relaxed);
        }
        granted
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether one of the two is in a sorted list.
fn either(addresses: &[IpAddr], ends: &[IpAddr; 2]) -> bool {
    ends.iter().any(|end| addresses.binary_search(end).is_ok())
}
