//! The atomics of the table: the machine's, or loom's, which tries every interleaving.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Takes the lock that is the bit `lock` of `word`, as long as all bits of `needed` are set there;
/// answers the word as it was. Whoever holds the lock gives it back after some tens of nanoseconds,
/// unless he lost the processor.
#[inline(always)]
pub(super) fn acquire_if(word: &AtomicU64, lock: u64, needed: u64) -> Option<u64> {
    let old = word.load(Ordering::Relaxed) & !lock;
    if old & needed != needed {
        return None;
    }
    match word.compare_exchange(old, old | lock, Ordering::Acquire, Ordering::Relaxed) {
        Ok(old) => Some(old),
        Err(_) => wait(word, lock, needed),
    }
}

#[cold]
fn wait(word: &AtomicU64, lock: u64, needed: u64) -> Option<u64> {
    let mut tries = 0;
    loop {
        let old = word.load(Ordering::Relaxed);
        if old & needed != needed {
            return None;
        }
        let new = old | lock;
        if old & lock == 0
            && word.compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return Some(old);
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
