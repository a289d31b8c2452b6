//! Looking up.

use core::cell::Cell;
use core::marker::PhantomData;
use core::net::IpAddr;

use super::{Shared, Snapshot};
use crate::IdentityId;
use crate::lpm::reclaim::Slot;
use crate::lpm::{walk4, walk6};
use crate::sync::Arc;

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

impl Reader {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
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
