//! The sign of life that userspace owes the program: a time stamp a queue, in memory that both see.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Error;
use crate::sys::{self, Mapping};

/// How old a heartbeat may be before the failure mode takes over, unless set otherwise.
pub const STALE_AFTER: Duration = Duration::from_millis(500);

/// Bytes between the beats of two queues: `struct beat` of the program.
const STRIDE: usize = 64;

/// The beats of all queues of one program.
#[derive(Debug)]
pub(crate) struct Beats {
    mapping: Mapping,
    queues: u32,
}

/// The heartbeat of one queue. Whoever serves the queue beats it at least every quarter of the time
/// after which it counts as stale.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    beats: Arc<Beats>,
    queue: u32,
}

impl Beats {
    pub(crate) fn map(fd: BorrowedFd<'_>, queues: u32) -> Result<Self, Error> {
        let mapping = Mapping::shared(fd, queues as usize * STRIDE)
            .map_err(|source| Error::system("mapping the heartbeats", source))?;
        Ok(Self { mapping, queues })
    }
}

impl Heartbeat {
    pub(crate) fn new(beats: &Arc<Beats>, queue: u32) -> Result<Self, Error> {
        if queue >= beats.queues {
            return Err(Error::NoSuchQueue { queue, queues: beats.queues });
        }
        Ok(Self { beats: Arc::clone(beats), queue })
    }

    /// Writes the time now. No system call; about 10 ns.
    #[inline]
    pub fn beat(&self) {
        self.slot().store(sys::monotonic_ns(), Ordering::Relaxed);
    }

    /// Declares userspace gone, at once: what arrives on the queue meets the failure mode until the
    /// next beat.
    pub fn stop(&self) {
        self.slot().store(0, Ordering::Relaxed);
    }

    fn slot(&self) -> &AtomicU64 {
        self.beats.mapping.atomic_u64(self.queue as usize * STRIDE)
    }
}
