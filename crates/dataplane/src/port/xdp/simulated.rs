//! Rings over plain memory with a kernel that a test plays, honest or hostile; and what must hold of
//! a [`QueuePort`] whatever that kernel does.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::ledger::{Ledger, PortId};
use super::queue::{QueueCounters, QueuePort};
use super::rings::{Descriptor, Rings};
use crate::frame::{Batch, Frame, FramePool, HEADROOM, Umem};
use crate::port::Port;

const CHUNK: u32 = 2048;
const RING: usize = 32;

/// What both ends of the rings see.
#[derive(Debug, Default)]
struct Shared {
    fill: VecDeque<u32>,
    rx: VecDeque<Descriptor>,
    tx: VecDeque<Descriptor>,
    completion: VecDeque<u64>,
}

/// The user's end.
#[derive(Debug, Clone, Default)]
struct Simulated(Arc<Mutex<Shared>>);

impl Rings for Simulated {
    fn receive(&mut self, max: usize, take: impl FnMut(Descriptor)) {
        let mut shared = self.0.lock().unwrap();
        let count = max.min(shared.rx.len());
        shared.rx.drain(..count).for_each(take);
    }

    fn fill(&mut self, chunks: &[u32]) -> bool {
        let mut shared = self.0.lock().unwrap();
        let fits = shared.fill.len() + chunks.len() <= RING;
        if fits {
            shared.fill.extend(chunks);
        }
        fits
    }

    fn transmit(&mut self, packets: &[Descriptor]) -> bool {
        let mut shared = self.0.lock().unwrap();
        let fits = shared.tx.len() + packets.len() <= RING;
        if fits {
            shared.tx.extend(packets);
        }
        fits
    }

    fn complete(&mut self, max: usize, take: impl FnMut(u64)) {
        let mut shared = self.0.lock().unwrap();
        let count = max.min(shared.completion.len());
        shared.completion.drain(..count).for_each(take);
    }

    fn tx_room(&mut self) -> usize {
        RING - self.0.lock().unwrap().tx.len()
    }

    fn tx_waiting(&mut self) -> usize {
        self.0.lock().unwrap().tx.len()
    }

    fn wake(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The kernel's end.
#[derive(Debug)]
struct Kernel {
    rings: Simulated,
    umem: Arc<Umem>,
}

impl Kernel {
    /// Receives a packet in pieces of the lengths given; `false` if the fill ring has too few chunks.
    fn deliver(&self, pieces: &[&[u8]]) -> bool {
        let mut shared = self.rings.0.lock().unwrap();
        if shared.fill.len() < pieces.len() {
            return false;
        }
        for (n, piece) in pieces.iter().enumerate() {
            let chunk = shared.fill.pop_front().unwrap();
            let addr = u64::from(chunk * CHUNK + HEADROOM);
            // SAFETY: the chunk came from the fill ring, so its frame was given up.
            let mut frame = unsafe { self.umem.adopt(addr, piece.len() as u32) }.unwrap();
            self.umem.data_mut(&mut frame).copy_from_slice(piece);
            let (addr, len) = self.umem.release(frame);
            shared.rx.push_back(Descriptor { addr, len, more: n + 1 < pieces.len() });
        }
        true
    }

    /// Sends what waits; answers the packets, pieces joined.
    fn send(&self) -> Vec<Vec<u8>> {
        let mut shared = self.rings.0.lock().unwrap();
        let mut packets = Vec::new();
        let mut packet = Vec::new();
        for descriptor in std::mem::take(&mut shared.tx) {
            assert_eq!(descriptor.addr % u64::from(CHUNK), u64::from(HEADROOM));
            // SAFETY: the descriptor came from the TX ring, so its frame was given up.
            let frame = unsafe { self.umem.adopt(descriptor.addr, descriptor.len) }.unwrap();
            packet.extend_from_slice(self.umem.data(&frame));
            shared.completion.push_back(self.umem.release(frame).0);
            if !descriptor.more {
                packets.push(std::mem::take(&mut packet));
            }
        }
        assert!(packet.is_empty(), "half a packet in the TX ring");
        packets
    }

    fn hand_out(&self, descriptor: Descriptor) {
        self.rings.0.lock().unwrap().rx.push_back(descriptor);
    }
}

/// Two ports in one UMEM with their kernels, and the pool.
fn wire(chunks: u32, fill: usize) -> ([QueuePort<Simulated>; 2], [Kernel; 2], FramePool) {
    let pool = Umem::heap(chunks, CHUNK);
    let ledger = Arc::new(Ledger::new(chunks));
    let rings = [Simulated::default(), Simulated::default()];
    let port = |n: usize| {
        let (umem, ledger) = (Arc::clone(pool.umem()), Arc::clone(&ledger));
        QueuePort::new(rings[n].clone(), umem, ledger, PortId(n as u32), None, fill)
    };
    let kernel = |n: usize| Kernel { rings: rings[n].clone(), umem: Arc::clone(pool.umem()) };
    ([port(0), port(1)], [kernel(0), kernel(1)], pool)
}

fn put_back(batch: &mut Batch, pool: &mut FramePool) {
    for frame in batch.drain_front(usize::MAX) {
        assert!(pool.put(frame).is_none());
    }
}

#[test]
fn packets_pass_unchanged_and_in_order() {
    let ([mut left, mut right], [from, to], mut pool) = wire(96, RING);
    let mut batch = Batch::new(16);
    left.receive(&mut pool, &mut batch);
    let mut sent = Vec::new();
    let mut arrived = Vec::new();
    for n in 0..10_000u32 {
        let packet: Vec<u8> = (0..60 + n % 1400).map(|byte| (byte * 7 + n) as u8).collect();
        let (head, tail) = packet.split_at(30);
        let delivered =
            if n % 3 == 0 { from.deliver(&[&packet]) } else { from.deliver(&[head, tail]) };
        if delivered {
            sent.push(packet);
        }
        if n % 5 == 0 {
            left.receive(&mut pool, &mut batch);
            right.transmit(&mut batch);
            arrived.extend(to.send());
            right.reclaim(&mut pool);
        }
    }
    while left.receive(&mut pool, &mut batch) > 0 || !batch.is_empty() {
        right.transmit(&mut batch);
        arrived.extend(to.send());
        right.reclaim(&mut pool);
    }
    assert!(sent.len() > 9_000, "{}", sent.len());
    assert!(sent == arrived, "{} sent, {} arrived", sent.len(), arrived.len());
    let received = left.queue_counters().received;
    assert_eq!(left.queue_counters(), QueueCounters { received, ..QueueCounters::default() });
    assert_eq!(right.queue_counters().transmitted, received);
    assert_eq!(pool.available() + left.held().0 + right.held().0, 96);
}

#[test]
fn descriptors_that_the_ring_cannot_know_make_no_frame() {
    let ([mut port, _], [kernel, _], mut pool) = wire(64, 8);
    let mut batch = Batch::new(16);
    port.receive(&mut pool, &mut batch);
    let in_fill = kernel.rings.0.lock().unwrap().fill.clone();
    let free = (0..64).find(|chunk| !in_fill.contains(chunk)).unwrap();
    for addr in [u64::from(free * CHUNK), u64::from(64 * CHUNK), u64::MAX, u64::MAX - 5000] {
        kernel.hand_out(Descriptor { addr, len: 60, more: false });
    }
    assert_eq!(port.receive(&mut pool, &mut batch), 0);
    assert_eq!(port.queue_counters().bad_descriptors, 4);

    // One chunk handed out twice.
    let addr = u64::from(in_fill[0] * CHUNK + HEADROOM);
    kernel.hand_out(Descriptor { addr, len: 60, more: false });
    kernel.hand_out(Descriptor { addr, len: 60, more: false });
    assert_eq!(port.receive(&mut pool, &mut batch), 1);
    assert_eq!(port.queue_counters().bad_descriptors, 5);

    // A length that leaves the chunk: the frame comes back, empty.
    let addr = u64::from(in_fill[1] * CHUNK + HEADROOM);
    kernel.hand_out(Descriptor { addr, len: CHUNK, more: false });
    assert_eq!(port.receive(&mut pool, &mut batch), 1);
    assert_eq!(batch.frames()[1].len(), 0);

    // Completions of what was never sent.
    kernel.rings.0.lock().unwrap().completion.extend([0, addr, u64::MAX]);
    assert_eq!(port.reclaim(&mut pool), 0);
}

#[test]
fn a_packet_with_a_piece_missing_is_dropped_whole() {
    let ([mut port, _], [kernel, _], mut pool) = wire(64, 16);
    let mut batch = Batch::new(16);
    port.receive(&mut pool, &mut batch);
    assert!(kernel.deliver(&[&[1; 100], &[2; 100], &[3; 100]]));
    kernel.rings.0.lock().unwrap().rx[1].addr = u64::MAX;
    assert!(kernel.deliver(&[&[4; 100]]));
    assert_eq!(port.receive(&mut pool, &mut batch), 1);
    assert_eq!(batch.frames().len(), 1);
    assert_eq!(pool.umem().data(&batch.frames()[0]), [4; 100]);
    assert_eq!(port.queue_counters().bad_descriptors, 1);
}

#[test]
fn a_packet_larger_than_a_batch_is_dropped_and_counted() {
    let ([mut port, _], [kernel, _], mut pool) = wire(64, 16);
    let mut batch = Batch::new(4);
    port.receive(&mut pool, &mut batch);
    assert!(kernel.deliver(&[&[1; 64][..]; 6]));
    assert!(kernel.deliver(&[&[2; 64]]));
    let received: usize = (0..8).map(|_| port.receive(&mut pool, &mut batch)).sum();
    assert_eq!(received, 1);
    assert_eq!(pool.umem().data(&batch.frames()[0]), [2; 64]);
    assert_eq!(port.queue_counters().oversized, 1);
    put_back(&mut batch, &mut pool);
    port.receive(&mut pool, &mut batch);
    assert_eq!(pool.available() + port.held().0, 64);
}

#[test]
fn what_no_descriptor_can_say_is_dropped_and_the_rest_is_sent() {
    let ([mut port, _], [kernel, _], mut pool) = wire(64, 0);
    let mut batch = Batch::new(16);
    let push = |batch: &mut Batch, frame: Frame| assert!(batch.push(frame).is_none());
    push(&mut batch, pool.take_with(&[1; 60]).unwrap());
    push(&mut batch, pool.take().unwrap());
    // Its second piece is empty: the first must not go alone.
    let mut first = pool.take_with(&[2; 60]).unwrap();
    first.more = true;
    push(&mut batch, first);
    push(&mut batch, pool.take().unwrap());
    // A packet that starts elsewhere in its chunk, as after a header was put in front.
    let mut moved = pool.take_with(&[3; 60]).unwrap();
    assert!(pool.umem().move_to(&mut moved, 100));
    push(&mut batch, moved);
    // One that cannot start where packets start.
    let mut long = pool.take().unwrap();
    assert!(pool.umem().set_bounds(&mut long, 0, CHUNK));
    push(&mut batch, long);
    push(&mut batch, pool.take_with(&[4; 60]).unwrap());

    assert_eq!(port.transmit(&mut batch), 7);
    assert_eq!(kernel.send(), [vec![1; 60], vec![3; 60], vec![4; 60]]);
    assert_eq!(port.queue_counters().unsendable, 3);
    assert_eq!(port.reclaim(&mut pool), 3);
    assert_eq!((pool.available(), port.outstanding()), (64, 0));
}

#[test]
fn a_frame_of_another_umem_stays_in_the_batch() {
    let ([mut port, _], [kernel, _], mut pool) = wire(64, 0);
    let mut other = Umem::heap(1, CHUNK);
    let mut batch = Batch::new(4);
    assert!(batch.push(pool.take_with(&[1; 60]).unwrap()).is_none());
    assert!(batch.push(other.take_with(&[2; 60]).unwrap()).is_none());
    assert_eq!(port.transmit(&mut batch), 1);
    assert_eq!((batch.len(), kernel.send()), (1, vec![vec![1; 60]]));
    // A pool of another UMEM gives the port nothing and loses nothing.
    other.put(batch.drain_front(1).next().unwrap());
    assert_eq!(port.receive(&mut other, &mut batch), 0);
    port.receive(&mut other, &mut batch);
    assert_eq!(port.held().0, 0);
}

/// A small generator of numbers (xorshift), so that runs repeat.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A million operations in any order, a hostile kernel among them: every chunk is always in exactly
/// one place, and at the end all of them come back.
#[test]
fn no_frame_is_ever_lost_or_doubled() {
    const CHUNKS: u32 = 128;
    let operations = if cfg!(miri) { 2_000 } else { 1_000_000 };
    let (mut ports, kernels, mut pool) = wire(CHUNKS, RING);
    let mut batch = Batch::new(24);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut forged = 0;
    for n in 0..operations {
        let side = random.below(2);
        match random.below(9) {
            0 | 1 => drop(ports[side].receive(&mut pool, &mut batch)),
            2 | 3 => drop(ports[side].transmit(&mut batch)),
            4 => drop(ports[side].reclaim(&mut pool)),
            5 => {
                let piece = [n as u8; 90];
                let pieces = [&piece[..]; 30];
                let count = if random.below(50) == 0 { 30 } else { 1 + random.below(3) };
                kernels[side].deliver(&pieces[..count]);
            }
            6 => drop(kernels[side].send()),
            7 => {
                let part = random.below(batch.len() + 1);
                for mut frame in batch.drain_front(part) {
                    frame.more = false;
                    assert!(pool.put(frame).is_none());
                }
            }
            _ if random.below(20) == 0 => {
                // Never a chunk that the kernel holds: it would be entitled to hand that one out.
                let addr = u64::from(CHUNKS) * u64::from(CHUNK) + random.below(1 << 20) as u64;
                kernels[side].hand_out(Descriptor { addr, len: 64, more: random.below(2) == 0 });
                forged += 1;
            }
            _ => {}
        }
        if n % 64 == 0 {
            account(&ports, &pool, &batch, CHUNKS);
        }
    }
    assert!(forged > 0);
    // Everything comes home.
    put_back(&mut batch, &mut pool);
    for _ in 0..100 {
        for (port, kernel) in ports.iter_mut().zip(&kernels) {
            port.receive(&mut pool, &mut batch);
            put_back(&mut batch, &mut pool);
            kernel.send();
            port.reclaim(&mut pool);
        }
    }
    let held: usize = ports.iter().map(|port| port.held().0 + port.held().1).sum();
    assert_eq!(pool.available() + held, CHUNKS as usize);
    assert_eq!(held, 2 * RING, "the fill rings are full and nothing else is held");
}

fn account(ports: &[QueuePort<Simulated>; 2], pool: &FramePool, batch: &Batch, chunks: u32) {
    let held: usize = ports.iter().map(QueuePort::accounted).sum();
    assert_eq!(pool.available() + batch.len() + held, chunks as usize);
}

/// A wire that comes and goes.
struct Coming {
    ports: [QueuePort<Simulated>; 2],
    kernels: [Kernel; 2],
    pool: FramePool,
    batch: Batch,
}

impl Coming {
    const CHUNKS: u32 = 96;

    fn new() -> Self {
        let (ports, kernels, pool) = wire(Self::CHUNKS, RING);
        Self { ports, kernels, pool, batch: Batch::new(24) }
    }

    fn step(&mut self, random: &mut Random, n: usize) {
        let side = random.below(2);
        match random.below(7) {
            0 | 1 => drop(self.ports[side].receive(&mut self.pool, &mut self.batch)),
            2 => drop(self.ports[side].transmit(&mut self.batch)),
            3 => drop(self.ports[side].reclaim(&mut self.pool)),
            4 => {
                let piece = [n as u8; 90];
                self.kernels[side].deliver(&[&piece[..]; 3][..1 + random.below(3)]);
            }
            5 => drop(self.kernels[side].send()),
            _ => {
                let part = random.below(self.batch.len() + 1);
                for mut frame in self.batch.drain_front(part) {
                    frame.more = false;
                    assert!(self.pool.put(frame).is_none());
                }
            }
        }
    }
}

/// A million operations on wires of which one is added or removed every few hundred: every chunk of
/// every wire is in exactly one place all the time, no wire's frames are another's, and the memory of
/// a wire that left is given back whatever was on its way in it.
#[test]
fn wires_that_come_and_go_account_for_all_frames_and_give_their_memory_back() {
    let operations = if cfg!(miri) { 2_000 } else { 1_000_000 };
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut wires: Vec<Coming> = (0..4).map(|_| Coming::new()).collect();
    let (mut came, mut went) = (0, 0);
    for n in 0..operations {
        match random.below(600) {
            0 if wires.len() < 12 => {
                wires.push(Coming::new());
                came += 1;
            }
            1 if wires.len() > 1 => {
                let place = random.below(wires.len());
                let gone = wires.swap_remove(place);
                account(&gone.ports, &gone.pool, &gone.batch, Coming::CHUNKS);
                let memory = Arc::downgrade(gone.pool.umem());
                drop(gone);
                assert!(memory.upgrade().is_none(), "somebody still holds its memory");
                went += 1;
            }
            _ => {
                let count = wires.len();
                let wire = &mut wires[random.below(count)];
                wire.step(&mut random, n);
                if n % 64 == 0 {
                    account(&wire.ports, &wire.pool, &wire.batch, Coming::CHUNKS);
                }
            }
        }
    }
    assert!(cfg!(miri) || (came > 500 && went > 500), "{came} came, {went} went");
    for wire in &mut wires {
        // A frame of one wire is nobody else's.
        let mut other = Umem::heap(1, CHUNK);
        let frame = other.take().unwrap();
        assert!(wire.pool.put(frame).is_some());
        account(&wire.ports, &wire.pool, &wire.batch, Coming::CHUNKS);
    }
}
