//! A port without a kernel: for tests, examples and benchmarks.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Port;
use crate::frame::{Batch, Frame, FramePool, HEADROOM, Umem};

/// Packets that wait in either direction; what exceeds it is lost, as on a real interface.
pub const QUEUE: usize = 4096;

/// A port whose other end is a [`MemoryEnd`] in the same process.
#[derive(Debug)]
pub struct MemoryPort {
    umem: Arc<Umem>,
    shared: Arc<Mutex<Shared>>,
    readable: UnixStream,
    sent: VecDeque<Frame>,
}

/// The far end of a [`MemoryPort`]: what a peer on the cable would be.
#[derive(Clone, Debug)]
pub struct MemoryEnd {
    shared: Arc<Mutex<Shared>>,
    wake: Arc<UnixStream>,
}

#[derive(Debug, Default)]
struct Shared {
    to_port: VecDeque<Vec<u8>>,
    from_port: VecDeque<Vec<u8>>,
    lost: u64,
    down: bool,
}

impl MemoryPort {
    /// A port that takes and gives frames of `umem`, and its far end.
    ///
    /// # Errors
    /// No more file descriptors.
    pub fn new(umem: &Arc<Umem>) -> std::io::Result<(Self, MemoryEnd)> {
        let (readable, wake) = UnixStream::pair()?;
        readable.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let shared = Arc::<Mutex<Shared>>::default();
        let end = MemoryEnd { shared: Arc::clone(&shared), wake: Arc::new(wake) };
        let port = Self { umem: Arc::clone(umem), shared, readable, sent: VecDeque::new() };
        Ok((port, end))
    }
}

impl MemoryEnd {
    /// Sends a packet towards the port; `false` if the queue is full and the packet is lost.
    pub fn send(&self, packet: &[u8]) -> bool {
        let mut shared = lock(&self.shared);
        if shared.to_port.len() >= QUEUE || shared.down {
            shared.lost += 1;
            return false;
        }
        shared.to_port.push_back(packet.to_vec());
        drop(shared);
        // A full pipe is a wake-up already under way.
        let _ = (&*self.wake).write(&[0]);
        true
    }

    /// The oldest packet that the port transmitted.
    pub fn receive(&self) -> Option<Vec<u8>> {
        lock(&self.shared).from_port.pop_front()
    }

    /// Packets that were lost because a queue was full or the interface down.
    pub fn lost(&self) -> u64 {
        lock(&self.shared).lost
    }

    /// Takes the interface down or up again.
    pub fn set_down(&self, down: bool) {
        lock(&self.shared).down = down;
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        let mut shared = lock(&self.shared);
        let room = (self.umem.chunk_size() - HEADROOM) as usize;
        let mut received = 0;
        while let Some(packet) = shared.to_port.front() {
            let pieces = packet.len().div_ceil(room).max(1);
            if pieces > batch.room() || pieces > pool.available() {
                break;
            }
            for (n, piece) in (1..).zip(packet.chunks(room)) {
                if let Some(mut frame) = pool.take_with(piece) {
                    frame.more = n < pieces;
                    batch.push(frame);
                    received += 1;
                }
            }
            shared.to_port.pop_front();
        }
        if shared.to_port.is_empty() {
            let mut bytes = [0; 256];
            while matches!((&self.readable).read(&mut bytes), Ok(n) if n > 0) {}
        }
        received
    }

    fn transmit(&mut self, batch: &mut Batch) -> usize {
        let mut shared = lock(&self.shared);
        let count = batch.len();
        let mut packet = Vec::new();
        for frame in batch.drain_front(count) {
            packet.extend_from_slice(self.umem.data(&frame));
            if !frame.more {
                if shared.from_port.len() >= QUEUE || shared.down {
                    shared.lost += 1;
                    packet.clear();
                } else {
                    shared.from_port.push_back(std::mem::take(&mut packet));
                }
            }
            self.sent.push_back(frame);
        }
        count
    }

    fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        let count = self.sent.len();
        for mut frame in self.sent.drain(..) {
            frame.more = false;
            // A frame of another UMEM cannot be here: its data would have been empty.
            let _ = pool.put(frame);
        }
        count
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if lock(&self.shared).down {
            return Err(ErrorKind::NetworkDown.into());
        }
        Ok(())
    }

    fn outstanding(&self) -> usize {
        self.sent.len()
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readable.as_fd())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
