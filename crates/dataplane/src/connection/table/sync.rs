//! The atomics of the table: the machine's, or loom's, which tries every interleaving.

#[cfg(loom)]
pub(super) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Waits for a lock that is held for some tens of nanoseconds, unless its holder lost the processor.
#[derive(Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    #[cold]
    pub(super) fn wait(&mut self) {
        #[cfg(loom)]
        {
            self.0 += 1;
            loom::thread::yield_now();
            spin_loop();
        }
        #[cfg(not(loom))]
        {
            self.0 += 1;
            if self.0 < 100 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}
