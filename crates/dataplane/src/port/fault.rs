//! A port that misbehaves at will: for tests of what stands behind it.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::Port;
use crate::frame::{Batch, Frame, FramePool, Umem};

/// How often things go wrong: chances in 256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// A received frame is lost.
    pub lose: u8,
    /// A byte of a received frame is changed.
    pub corrupt: u8,
    /// A received frame is cut.
    pub cut: u8,
    /// The transmit queue takes nothing for once.
    pub refuse: u8,
    /// Sent frames do not come back for once.
    pub withhold: u8,
    /// `flush` fails.
    pub fail: u8,
}

/// A port with [`Faults`], the same ones for the same seed.
pub struct FaultPort<P> {
    port: P,
    umem: Arc<Umem>,
    faults: Faults,
    state: u64,
}

impl<P: Port> FaultPort<P> {
    /// Wraps a port whose frames belong to `umem`.
    pub fn new(port: P, umem: Arc<Umem>, faults: Faults, seed: u64) -> Self {
        Self { port, umem, faults, state: seed | 1 }
    }

    /// The port as it is.
    pub fn into_inner(self) -> P {
        self.port
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u32) -> u32 {
        // xorshift64 (Marsaglia 2003).
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (((self.state >> 32) * u64::from(limit)) >> 32) as u32
    }

    fn happens(&mut self, chance: u8) -> bool {
        self.below(256) < chance.into()
    }

    /// Spoils a received frame. Pieces of a larger packet are only changed: without one of them, its
    /// end would look like another packet.
    fn spoil(&mut self, frame: &mut Frame) {
        let len = frame.len() as u32;
        if len > 0 && self.happens(self.faults.corrupt) {
            let (at, value) = (self.below(len) as usize, self.below(256) as u8);
            self.umem.data_mut(frame)[at] = value;
        }
        if len > 0 && !frame.more && self.happens(self.faults.cut) {
            let (offset, len) = (frame.offset(), self.below(len));
            self.umem.set_bounds(frame, offset, len);
        }
    }
}

impl<P: Port> Port for FaultPort<P> {
    // Allocates: a test's port may.
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        let mut fresh = Batch::new(batch.room());
        let count = self.port.receive(pool, &mut fresh);
        let mut passed = 0;
        let mut inside = false;
        for mut frame in fresh.drain_front(count) {
            self.spoil(&mut frame);
            let whole = !inside && !frame.more;
            inside = frame.more;
            if whole && self.happens(self.faults.lose) {
                let _ = pool.put(frame);
            } else {
                batch.push(frame);
                passed += 1;
            }
        }
        passed
    }

    fn transmit(&mut self, batch: &mut Batch) -> usize {
        if self.happens(self.faults.refuse) { 0 } else { self.port.transmit(batch) }
    }

    fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        if self.happens(self.faults.withhold) { 0 } else { self.port.reclaim(pool) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.happens(self.faults.fail) {
            return Err(ErrorKind::NetworkDown.into());
        }
        self.port.flush()
    }

    fn retire(&mut self) {
        self.port.retire();
    }

    fn outstanding(&self) -> usize {
        self.port.outstanding()
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.port.readiness()
    }
}
