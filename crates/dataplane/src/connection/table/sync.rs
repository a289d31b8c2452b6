//! The atomics of the table: the machine's, or loom's, which tries every interleaving.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Takes the lock that is the bit `lock` of `word`; answers the word as it was. Whoever holds it gives
/// it back after some tens of nanoseconds, unless he lost the processor.
#[inline(always)]
pub(super) fn acquire(word: &AtomicU64, lock: u64) -> u64 {
    let old = word.load(Ordering::Relaxed) & !lock;
    match word.compare_exchange(old, old | lock, Ordering::Acquire, Ordering::Relaxed) {
        Ok(old) => old,
        Err(_) => wait(word, lock),
    }
}

#[cold]
fn wait(word: &AtomicU64, lock: u64) -> u64 {
    let mut tries = 0;
    loop {
        let old = word.load(Ordering::Relaxed);
        let new = old | lock;
        if old & lock == 0
            && word.compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return old;
        }
        tries += 1;
        pause(tries);
    }
}

#[cfg(loom)]
fn pause(_tries: u32) {
    loom::thread::yield_now();
}

#[cfg(not(loom))]
fn pause(tries: u32) {
    if tries < 100 { std::hint::spin_loop() } else { std::thread::yield_now() }
}
