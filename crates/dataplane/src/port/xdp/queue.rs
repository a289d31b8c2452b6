//! One queue as a [`Port`]: moves frames between the user and the four rings, and checks everything
//! that comes back.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use portcullis_bpf::Heartbeat;

use super::ledger::{Ledger, PortId, Side};
use super::rings::{Descriptor, KernelRings, Rings};
use super::sys::{self, Statistics};
use crate::frame::{Batch, Frame, FramePool, HEADROOM, Umem};
use crate::port::Port;

/// Entries moved between a ring and the port at a time.
pub(super) const STEP: usize = 64;

/// What a queue counted by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Frames handed to the user.
    pub received: u64,
    /// Frames handed to the kernel for transmission.
    pub transmitted: u64,
    /// Descriptors from the kernel that named no chunk it held: ignored.
    pub bad_descriptors: u64,
    /// Received packets of more frames than a batch holds: dropped.
    pub oversized: u64,
    /// Frames given for transmission that no descriptor can express (empty, or too long once moved
    /// to where packets start): dropped.
    pub unsendable: u64,
}

/// One queue of one interface, over the kernel's rings or a test's.
#[derive(Debug)]
pub struct QueuePort<R> {
    rings: R,
    umem: Arc<Umem>,
    ledger: Arc<Ledger>,
    id: PortId,
    heartbeat: Option<Heartbeat>,
    /// Frames to keep in the fill ring.
    fill_target: usize,
    filled: usize,
    outstanding: usize,
    /// The frames so far of a packet whose last one has not come yet.
    partial: Vec<Frame>,
    /// The packet in progress cannot be delivered: its remaining frames are dropped.
    broken: bool,
    /// Frames that wait for a pool to go to.
    homeless: Vec<Frame>,
    counters: QueueCounters,
    chunks: Vec<u32>,
    packets: Vec<Descriptor>,
}

impl<R: Rings> QueuePort<R> {
    pub(super) fn new(
        rings: R,
        umem: Arc<Umem>,
        ledger: Arc<Ledger>,
        id: PortId,
        heartbeat: Option<Heartbeat>,
        fill_target: usize,
    ) -> Self {
        Self {
            rings,
            umem,
            ledger,
            id,
            heartbeat,
            fill_target,
            filled: 0,
            outstanding: 0,
            partial: Vec::new(),
            broken: false,
            homeless: Vec::new(),
            counters: QueueCounters::default(),
            chunks: Vec::with_capacity(STEP),
            packets: Vec::with_capacity(STEP),
        }
    }

    /// What went wrong on this queue, as the port saw it.
    pub fn queue_counters(&self) -> QueueCounters {
        self.counters
    }

    /// Frames in the kernel's hands: in the fill and RX rings, and in the TX and completion rings.
    pub fn held(&self) -> (usize, usize) {
        (self.filled, self.outstanding)
    }

    /// Every frame that this port has, in the kernel's hands or its own.
    #[cfg(test)]
    pub(super) fn accounted(&self) -> usize {
        self.filled + self.outstanding + self.partial.len() + self.homeless.len()
    }

    /// Keeps the fill ring supplied.
    #[inline]
    fn refill(&mut self, pool: &mut FramePool) {
        while self.filled < self.fill_target {
            self.chunks.clear();
            let want = STEP.min(self.fill_target - self.filled);
            for frame in std::iter::from_fn(|| pool.take()).take(want) {
                let chunk = frame.chunk();
                if !self.umem.owns(&frame) || !self.ledger.give(chunk, self.id, Side::Receive) {
                    // The pool is not of this UMEM: no frame of it can help.
                    self.homeless.push(frame);
                    break;
                }
                self.umem.release(frame);
                self.chunks.push(chunk);
            }
            let count = self.chunks.len();
            if !self.rings.fill(&self.chunks) {
                for n in 0..count {
                    self.recover(self.chunks[n], Side::Receive);
                }
                self.rehome(pool);
                return;
            }
            self.filled += count;
            if count < want {
                return;
            }
        }
    }

    /// Makes a frame of a chunk that a ring did not accept after all.
    fn recover(&mut self, chunk: u32, side: Side) {
        let addr = u64::from(chunk) * u64::from(self.umem.chunk_size());
        if self.ledger.take(chunk, self.id, side) {
            // SAFETY: the ledger says that this port had given the chunk up, and now no more.
            self.homeless.extend(unsafe { self.umem.adopt(addr, 0) });
        }
    }

    fn rehome(&mut self, pool: &mut FramePool) {
        if !self.homeless.is_empty() {
            self.homeless = self.homeless.drain(..).filter_map(|frame| pool.put(frame)).collect();
        }
    }

    /// The whole packets at the front of the batch that `room` entries take: their number of frames.
    fn sendable(&self, batch: &Batch, room: usize) -> usize {
        let mut whole = 0;
        for (n, frame) in batch.frames().iter().take(room).enumerate() {
            if !self.umem.owns(frame) {
                break;
            }
            if !frame.more {
                whole = n + 1;
            }
        }
        whole
    }
}

/// A frame of what the RX ring handed out, if the ring could know it.
#[inline]
fn admit(umem: &Umem, ledger: &Ledger, port: PortId, descriptor: Descriptor) -> Option<Frame> {
    let chunk_size = u64::from(umem.chunk_size());
    let chunk = u32::try_from(descriptor.addr / chunk_size).ok()?;
    if !ledger.take(chunk, port, Side::Receive) {
        return None;
    }
    // SAFETY: the ledger says that the chunk was given up to the fill ring and has not come back
    // since; it lies within the UMEM, since the ledger knows it.
    let frame = unsafe { umem.adopt(descriptor.addr, descriptor.len) };
    // The chunk is the user's again even if the bounds are nonsense: an empty packet, which the
    // parser refuses.
    // SAFETY: as above; the first attempt made no frame.
    let mut frame = frame.or_else(|| unsafe { umem.adopt(u64::from(chunk) * chunk_size, 0) })?;
    frame.more = descriptor.more;
    Some(frame)
}

impl<R: Rings> Port for QueuePort<R> {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat();
        }
        self.rehome(pool);
        self.refill(pool);
        if batch.is_empty() && self.partial.len() >= batch.room() && !self.partial.is_empty() {
            self.counters.oversized += 1;
            self.broken = true;
            self.homeless.append(&mut self.partial);
        }
        let before = batch.len();
        loop {
            let max = STEP.min(batch.room().saturating_sub(self.partial.len()));
            if max == 0 {
                break;
            }
            let Self { rings, umem, ledger, partial, broken, homeless, counters, filled, .. } =
                self;
            let mut count = 0;
            rings.receive(max, |descriptor| {
                count += 1;
                let frame = admit(umem, ledger, self.id, descriptor);
                if frame.is_some() {
                    *filled = filled.saturating_sub(1);
                } else {
                    // A piece of a packet is missing: the rest of it is of no use.
                    counters.bad_descriptors += 1;
                    *broken = true;
                }
                let last = !descriptor.more;
                if *broken {
                    homeless.append(partial);
                    homeless.extend(frame);
                    *broken = !last;
                } else if last && partial.is_empty() {
                    homeless.extend(frame.and_then(|frame| batch.push(frame)));
                } else {
                    partial.extend(frame);
                    if last {
                        homeless.extend(partial.drain(..).filter_map(|frame| batch.push(frame)));
                    }
                }
            });
            if count < max {
                break;
            }
        }
        let received = batch.len() - before;
        self.counters.received += received as u64;
        received
    }

    fn transmit(&mut self, batch: &mut Batch) -> usize {
        let mut taken = 0;
        loop {
            let room = STEP.min(self.rings.tx_room());
            let whole = self.sendable(batch, room);
            if whole == 0 {
                return taken;
            }
            self.packets.clear();
            let Self { umem, ledger, homeless, counters, packets, .. } = self;
            // Index in `packets` where the packet in progress starts; none of it is sent if a piece
            // of it cannot be.
            let mut start = 0;
            let mut broken = false;
            for mut frame in batch.drain_front(whole) {
                let (chunk, more) = (frame.chunk(), frame.more);
                if broken
                    || frame.len() == 0
                    || !umem.move_to(&mut frame, HEADROOM)
                    || !ledger.give(chunk, self.id, Side::Transmit)
                {
                    if !broken {
                        counters.unsendable += 1;
                    }
                    broken = true;
                    frame.more = false;
                    homeless.push(frame);
                } else {
                    let (addr, len) = umem.release(frame);
                    packets.push(Descriptor { addr, len, more });
                }
                if !more {
                    if broken {
                        for piece in packets.drain(start..) {
                            let chunk = (piece.addr / u64::from(umem.chunk_size())) as u32;
                            if ledger.take(chunk, self.id, Side::Transmit) {
                                // SAFETY: released above and in no ring.
                                homeless.extend(unsafe { umem.adopt(piece.addr, 0) });
                            }
                        }
                        broken = false;
                    }
                    start = packets.len();
                }
            }
            let count = self.packets.len();
            if self.rings.transmit(&self.packets) {
                self.outstanding += count;
                self.counters.transmitted += count as u64;
            } else {
                for n in 0..count {
                    let chunk = self.packets[n].addr / u64::from(self.umem.chunk_size());
                    self.recover(chunk as u32, Side::Transmit);
                }
                return taken;
            }
            taken += whole;
        }
    }

    fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        self.rehome(pool);
        let mut reclaimed = 0;
        while self.outstanding > 0 {
            let mut count = 0;
            let Self { rings, umem, ledger, homeless, counters, outstanding, .. } = self;
            rings.complete(STEP, |addr| {
                count += 1;
                let chunk_size = u64::from(umem.chunk_size());
                let chunk = u32::try_from(addr / chunk_size).unwrap_or(u32::MAX);
                if !ledger.take(chunk, self.id, Side::Transmit) {
                    counters.bad_descriptors += 1;
                    return;
                }
                *outstanding -= 1;
                reclaimed += 1;
                // SAFETY: the ledger says that the chunk was given up to the TX ring and has not
                // come back since.
                let frame = unsafe { umem.adopt(u64::from(chunk) * chunk_size, 0) };
                homeless.extend(frame.and_then(|frame| pool.put(frame)));
            });
            if count < STEP {
                break;
            }
        }
        reclaimed
    }

    fn flush(&mut self) -> io::Result<()> {
        self.rings.wake(self.outstanding > 0)
    }

    fn retire(&mut self) {
        // Without it, later calls do not beat it again.
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.stop();
        }
    }

    fn outstanding(&self) -> usize {
        self.outstanding
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.rings.readiness()
    }
}

impl QueuePort<KernelRings> {
    /// The kernel's statistics of this socket. One system call.
    ///
    /// # Errors
    /// A failed system call.
    pub fn statistics(&self) -> io::Result<Statistics> {
        sys::statistics(self.rings.socket())
    }
}
