//! Letting go of what the kernel is slow to take back.

/// Drops all of them on up to 16 threads, and returns when all are gone. The kernel waits for all CPUs, some
/// ten milliseconds, when a socket of a kind that receives packets is closed, and can do so for many at once.
pub fn drop_together<T: Send>(mut all: Vec<T>) {
    const THREADS: usize = 16;
    let share = all.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        while all.len() > share {
            let part = all.split_off(all.len() - share);
            let thread = std::thread::Builder::new().name("portcullis".into());
            // Without a thread it is dropped here.
            let _ = thread.spawn_scoped(scope, move || drop(part));
        }
        drop(all);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_are_dropped_once_and_sixteen_at_a_time() {
        struct Counted<'a>(&'a AtomicUsize, &'a Barrier);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                // Nobody gets by alone.
                self.1.wait();
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        for (count, at_once) in [(0, 1), (1, 1), (4, 4), (16, 16), (32, 16), (160, 16)] {
            let (dropped, barrier) = (AtomicUsize::new(0), Barrier::new(at_once));
            drop_together((0..count).map(|_| Counted(&dropped, &barrier)).collect());
            assert_eq!(dropped.into_inner(), count);
        }
    }
}
