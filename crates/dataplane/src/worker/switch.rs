//! Where each packet of a switch leaves.

use std::sync::Arc;

use super::forward::{Unsent, put_back, transmit};
use crate::clock::Time;
use crate::connection::Tokens;
use crate::counter::Counters;
use crate::frame::{Batch, Frame, FramePool, Umem};
use crate::pipeline::BATCH;
use crate::port::Port;
use crate::reason::Reason;
use crate::switch::Addresses;

/// What one queue of a switch has beyond its ports.
#[derive(Debug)]
pub(super) struct Switching {
    addresses: Arc<Addresses>,
    /// Packets on their way out, by port.
    out: Box<[Batch]>,
    /// The packet in hand, which may have several pieces.
    packet: Batch,
    /// What each port may still send to all others.
    floods: Box<[Tokens]>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Port(usize),
    All,
    Nowhere(Reason),
}

impl Switching {
    pub(super) fn new(addresses: Arc<Addresses>, ports: usize) -> Self {
        Self {
            addresses,
            out: (0..ports).map(|_| Batch::new(BATCH)).collect(),
            packet: Batch::new(BATCH),
            floods: vec![Tokens::default(); ports].into(),
        }
    }

    /// Forgets addresses that have been silent for too long.
    pub(super) fn expire(&self, now: Time) {
        self.addresses.expire(now);
    }

    /// Sends the packets in `batch`, which came in at port `from` and may pass, to where they belong.
    /// Keeps order from port to port. What does not go on is counted as dropped, and so that the
    /// caller may count every packet as forwarded.
    pub(super) fn distribute(
        &mut self,
        from: usize,
        now: Time,
        batch: &mut Batch,
        (ports, pool): (&mut [Box<dyn Port>], &mut FramePool),
        counters: &Counters,
    ) -> Unsent {
        let mut unsent = Unsent::default();
        let umem = Arc::clone(pool.umem());
        let count = batch.len();
        for frame in batch.drain_front(count) {
            let last = !frame.more;
            // A batch holds no more than a batch.
            if let Some(frame) = self.packet.push(frame) {
                put_back(pool, frame);
            }
            if last {
                let way = self.way(from, now, &umem);
                unsent += self.send(way, from, ports, pool, counters);
            }
        }
        if !self.packet.is_empty() {
            // The rest of it is in no ring yet: a port that hands out halves of packets.
            unsent += self.give_up(Reason::TransmitFull, pool, counters);
        }
        for (port, out) in ports.iter_mut().zip(&mut self.out) {
            if !out.is_empty() {
                unsent += transmit(&mut **port, out, pool);
            }
        }
        unsent
    }

    /// Learns who sent the packet in hand, and says where it goes.
    fn way(&mut self, from: usize, now: Time, umem: &Umem) -> Way {
        let header = self.packet.frames().first().map_or(&[][..], |frame| umem.data(frame));
        let Some(addresses) = header.first_chunk::<12>() else {
            return Way::Nowhere(Reason::TruncatedEthernet);
        };
        let [to, sender] = addresses.as_chunks::<6>().0 else {
            return Way::Nowhere(Reason::TruncatedEthernet);
        };
        self.addresses.learn(*sender, from, now);
        let known = if to[0] & 1 == 0 { self.addresses.port(*to, now) } else { None };
        match known {
            Some(port) if port == from => Way::Nowhere(Reason::SamePort),
            Some(port) if port < self.out.len() => Way::Port(port),
            _ => {
                let rate = &self.addresses.config().floods;
                let allowed = self.floods[from].take(rate, now.as_millis() as u32);
                if allowed { Way::All } else { Way::Nowhere(Reason::FloodLimit) }
            }
        }
    }

    fn send(
        &mut self,
        way: Way,
        from: usize,
        ports: &mut [Box<dyn Port>],
        pool: &mut FramePool,
        counters: &Counters,
    ) -> Unsent {
        match way {
            Way::Nowhere(reason) => self.give_up(reason, pool, counters),
            Way::Port(port) => self.move_to(port, ports, pool),
            Way::All => {
                let mut unsent = Unsent::default();
                let mut others = (0..ports.len()).filter(|port| *port != from);
                let Some(first) = others.next() else {
                    return self.give_up(Reason::SamePort, pool, counters);
                };
                for port in others {
                    unsent += self.copy_to(port, ports, pool, counters);
                }
                unsent += self.move_to(first, ports, pool);
                unsent
            }
        }
    }

    /// Appends the packet in hand to what leaves at `port`.
    fn move_to(
        &mut self,
        port: usize,
        ports: &mut [Box<dyn Port>],
        pool: &mut FramePool,
    ) -> Unsent {
        let unsent = self.make_room(port, ports, pool);
        let count = self.packet.len();
        for frame in self.packet.drain_front(count) {
            if let Some(frame) = self.out[port].push(frame) {
                put_back(pool, frame);
            }
        }
        unsent
    }

    /// Appends a copy of it; all of it or, without free frames, nothing.
    fn copy_to(
        &mut self,
        port: usize,
        ports: &mut [Box<dyn Port>],
        pool: &mut FramePool,
        counters: &Counters,
    ) -> Unsent {
        let mut unsent = self.make_room(port, ports, pool);
        let bytes = self.bytes();
        counters.copied.add(1);
        counters.forwarded.add(1);
        counters.forwarded_bytes.add(bytes);
        if pool.available() < self.packet.len() {
            unsent += Unsent { packets: 1, bytes, ..Unsent::default() };
            return unsent;
        }
        let umem = Arc::clone(pool.umem());
        for frame in self.packet.frames() {
            let copy = pool.take_with(umem.data(frame));
            let refused = copy.and_then(|mut copy| {
                copy.more = frame.more;
                self.out[port].push(copy)
            });
            if let Some(frame) = refused {
                put_back(pool, frame);
            }
        }
        unsent
    }

    /// Sends what waits for `port` if the packet in hand does not fit beside it.
    fn make_room(
        &mut self,
        port: usize,
        ports: &mut [Box<dyn Port>],
        pool: &mut FramePool,
    ) -> Unsent {
        if self.out[port].room() >= self.packet.len() {
            return Unsent::default();
        }
        transmit(&mut *ports[port], &mut self.out[port], pool)
    }

    /// Drops the packet in hand.
    fn give_up(&mut self, reason: Reason, pool: &mut FramePool, counters: &Counters) -> Unsent {
        let bytes = self.bytes();
        let count = self.packet.len();
        for frame in self.packet.drain_front(count) {
            put_back(pool, frame);
        }
        counters.dropped(reason).add(1);
        counters.dropped_bytes(reason).add(bytes);
        Unsent { held: 1, held_bytes: bytes, ..Unsent::default() }
    }

    fn bytes(&self) -> u64 {
        self.packet.frames().iter().map(|frame| Frame::len(frame) as u64).sum()
    }
}
