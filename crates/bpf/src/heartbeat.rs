//! The sign of life that userspace owes the program: a time stamp a queue, in memory that both see.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Error;
use crate::instance::Slots;
use crate::sys::{self, Mapping};

/// How old a heartbeat may be before the failure mode takes over, unless set otherwise.
pub const STALE_AFTER: Duration = Duration::from_millis(500);

/// Bytes between the beats of two queues: `struct beat` of the program.
const STRIDE: usize = 64;
/// Where in it stands that the program runs on one CPU at a time.
const EXCLUSIVE: usize = 8;

/// The beats of all slots of one loaded program.
#[derive(Debug)]
pub(crate) struct Beats(Mapping);

/// The heartbeat of one queue. Whoever serves the queue beats it at least every quarter of the time
/// after which it counts as stale.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    slots: Arc<Slots>,
    slot: u32,
}

impl Beats {
    pub(crate) fn map(fd: BorrowedFd<'_>, slots: u32) -> Result<Self, Error> {
        Mapping::shared(fd, slots as usize * STRIDE)
            .map(Self)
            .map_err(|source| Error::system("mapping the heartbeats", source))
    }

    /// Declares the userspace of a slot gone.
    pub(crate) fn stop(&self, slot: u32) {
        self.of(slot).store(0, Ordering::Relaxed);
    }

    /// Makes a slot as it was in the beginning.
    pub(crate) fn reset(&self, slot: u32) {
        self.stop(slot);
        self.exclusive(slot).store(0, Ordering::Relaxed);
    }

    /// Declares that no two CPUs run the program for the queue of this slot at once.
    pub(crate) fn set_exclusive(&self, slot: u32) {
        self.exclusive(slot).store(1, Ordering::Relaxed);
    }

    fn exclusive(&self, slot: u32) -> &AtomicU64 {
        self.0.atomic_u64(slot as usize * STRIDE + EXCLUSIVE)
    }

    fn of(&self, slot: u32) -> &AtomicU64 {
        self.0.atomic_u64(slot as usize * STRIDE)
    }
}

impl Heartbeat {
    pub(crate) fn new(slots: &Arc<Slots>, queue: u32) -> Result<Self, Error> {
        Ok(Self { slot: slots.of(queue)?, slots: Arc::clone(slots) })
    }

    /// Writes the time now. No system call; about 10 ns.
    #[inline]
    pub fn beat(&self) {
        self.slots.instance().beats().of(self.slot).store(sys::monotonic_ns(), Ordering::Relaxed);
    }

    /// Declares userspace gone, at once: what arrives on the queue meets the failure mode until the
    /// next beat.
    pub fn stop(&self) {
        self.slots.instance().beats().stop(self.slot);
    }
}
