//! Who holds each chunk: the user, or a ring of a port. What the kernel hands back is checked here.

use std::sync::atomic::{AtomicU32, Ordering};

/// Tells a port of a UMEM from its others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortId(pub(super) u32);

/// The way into the kernel by which a chunk went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Into the fill ring; comes back by the RX ring.
    Receive,
    /// Into the TX ring; comes back by the completion ring.
    Transmit,
}

/// One word a chunk. Only the worker of the port named in it ever changes a word, so no ordering
/// between threads is asked of it; frames that move between workers bring their own.
#[derive(Debug)]
pub(super) struct Ledger {
    holders: Box<[AtomicU32]>,
}

/// The user holds the chunk, as a `Frame` or within a pool.
const USER: u32 = 0;

impl Ledger {
    pub(super) fn new(chunks: u32) -> Self {
        Self { holders: (0..chunks).map(|_| AtomicU32::new(USER)).collect() }
    }

    /// Notes that a port's ring now holds `chunk`; `false`, and nothing noted, unless the user did.
    #[inline]
    pub(super) fn give(&self, chunk: u32, port: PortId, side: Side) -> bool {
        self.change(chunk, USER, holder(port, side))
    }

    /// Notes that the user holds `chunk` again; `false`, and nothing noted, unless that port's ring
    /// held it.
    #[inline]
    pub(super) fn take(&self, chunk: u32, port: PortId, side: Side) -> bool {
        self.change(chunk, holder(port, side), USER)
    }

    #[inline]
    fn change(&self, chunk: u32, from: u32, to: u32) -> bool {
        let Some(word) = self.holders.get(chunk as usize) else { return false };
        let right = word.load(Ordering::Relaxed) == from;
        if right {
            word.store(to, Ordering::Relaxed);
        }
        right
    }
}

fn holder(port: PortId, side: Side) -> u32 {
    1 + port.0 * 2 + side as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_only_from_where_it_went_and_only_once() {
        let ledger = Ledger::new(4);
        let (one, other) = (PortId(0), PortId(1));
        assert!(ledger.give(2, one, Side::Receive));
        assert!(!ledger.give(2, one, Side::Transmit), "already given");
        assert!(!ledger.take(2, one, Side::Transmit), "wrong side");
        assert!(!ledger.take(2, other, Side::Receive), "wrong port");
        assert!(ledger.take(2, one, Side::Receive));
        assert!(!ledger.take(2, one, Side::Receive), "twice");
        assert!(!ledger.give(4, one, Side::Receive), "outside");
        assert!(!ledger.take(u32::MAX, one, Side::Receive), "outside");
    }
}
