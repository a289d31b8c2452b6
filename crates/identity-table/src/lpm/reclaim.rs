//! Publication and reclamation: readers pin, the one writer frees what no reader can still hold.
//!
//! Epochs, as in Fraser's thesis (Practical lock-freedom, 2004), made small for one writer: a pinned
//! reader shows the epoch it began in; what is unlinked is stamped with the epoch of that moment and
//! is free once the epoch has moved on and every pinned reader began later. A reader never waits and
//! never makes the writer wait; one that stays pinned only keeps memory from being used again.

use core::sync::atomic::compiler_fence;

use crate::sync::{Arc, AtomicPtr, AtomicU64, Mutex, MutexGuard, Ordering, fence};

/// The epoch in which something was unlinked.
pub(crate) type Stamp = u64;

/// What a reader shows when it is not pinned.
const IDLE: u64 = u64::MAX;

/// Where one reader shows its epoch; on a cache line of its own.
#[repr(align(128))]
pub(crate) struct Slot {
    began: AtomicU64,
}

/// The epoch and all readers.
pub(crate) struct Domain {
    epoch: AtomicU64,
    slots: Mutex<Vec<Arc<Slot>>>,
}

impl Domain {
    pub(crate) fn new() -> Self {
        Self { epoch: AtomicU64::new(0), slots: Mutex::new(Vec::new()) }
    }

    /// A slot for a new reader. Locks, for a moment, against other registrations and the writer's
    /// [`Domain::advance`].
    pub(crate) fn register(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot { began: AtomicU64::new(IDLE) });
        self.slots().push(Arc::clone(&slot));
        slot
    }

    pub(crate) fn unregister(&self, slot: &Arc<Slot>) {
        self.slots().retain(|known| !Arc::ptr_eq(known, slot));
    }

    /// Pins the reader of `slot`: what it loads from now on stays until [`Slot::unpin`].
    #[inline]
    pub(crate) fn pin(&self, slot: &Slot) {
        let epoch = self.epoch.load(Ordering::Acquire);
        // Either the writer's scan sees this reader, or this reader sees what the writer unlinked.
        if cfg!(all(target_arch = "x86_64", not(loom))) {
            // A locked exchange is a full fence too, at half of its price.
            slot.began.swap(epoch, Ordering::SeqCst);
            compiler_fence(Ordering::SeqCst);
        } else {
            // Release: the writer may see this pin instead of the unpin before, and must then know
            // that the reads under the pin before are over.
            slot.began.store(epoch, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    /// The stamp for what was unlinked before this call.
    pub(crate) fn stamp(&self) -> Stamp {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Moves the epoch on, and returns a bound: what has a stamp below it is free.
    pub(crate) fn advance(&self) -> Stamp {
        let next = self.epoch.load(Ordering::Relaxed) + 1;
        self.epoch.store(next, Ordering::Release);
        fence(Ordering::SeqCst);
        let began = |slot: &Arc<Slot>| slot.began.load(Ordering::Acquire);
        self.slots().iter().map(began).min().unwrap_or(IDLE).min(next)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Slot {
    #[inline]
    pub(crate) fn unpin(&self) {
        self.began.store(IDLE, Ordering::Release);
    }
}

/// A value that is replaced as a whole.
pub(crate) struct Published<T> {
    current: AtomicPtr<T>,
}

impl<T> Published<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { current: AtomicPtr::new(Box::into_raw(Box::new(value))) }
    }

    /// The current value.
    ///
    /// # Safety
    /// The caller must be pinned for as long as it uses the value, and what [`Published::replace`]
    /// returns must be kept until no reader that was pinned then still is.
    #[inline]
    pub(crate) unsafe fn load(&self) -> &T {
        // SAFETY: the pointer comes from a box that is kept as the caller promises.
        unsafe { &*self.current.load(Ordering::Acquire) }
    }

    /// Publishes a new value and returns the old one, which readers may still hold.
    pub(crate) fn replace(&self, value: T) -> Unlinked<T> {
        let new = Box::into_raw(Box::new(value));
        Unlinked(self.current.swap(new, Ordering::AcqRel))
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        drop(Unlinked(self.current.load(Ordering::Acquire)));
    }
}

/// A value taken out of [`Published`]; freed when dropped.
pub(crate) struct Unlinked<T>(*mut T);

impl<T> Drop for Unlinked<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from Box::into_raw and has this one owner.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

// SAFETY: it owns the value as a box does.
unsafe impl<T: Send> Send for Unlinked<T> {}
// SAFETY: nothing can be reached through a shared reference.
unsafe impl<T: Send> Sync for Unlinked<T> {}

/// `RUSTFLAGS="--cfg loom" cargo test --release -p portcullis-identity-table --lib loom`
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::lpm::words::Words;
    use loom::cell::UnsafeCell;

    const POISON: u32 = 99;

    /// Runs of words: the reader follows a word to another, as it follows an entry to a bucket.
    #[test]
    fn loom_a_run_is_not_used_again_while_a_reader_may_hold_it() {
        loom::model(|| {
            let domain = Arc::new(Domain::new());
            let words = Words::zeroed(4);
            words.store(1, 10);
            words.store(0, 1);
            let slot = domain.register();
            let reader = loom::thread::spawn({
                let (domain, words) = (Arc::clone(&domain), words.clone());
                move || {
                    domain.pin(&slot);
                    let at = words.load(0) as usize;
                    let seen = words.load(at);
                    assert_ne!(seen, POISON);
                    assert_eq!(words.load(at), seen);
                    slot.unpin();
                }
            });
            let (mut unlinked, mut free) = (vec![], vec![2, 3]);
            for value in [11, 12] {
                let (old, new) = (words.load(0), free.pop().unwrap());
                words.store(new as usize, value);
                words.store(0, new);
                unlinked.push((domain.stamp(), old));
                let bound = domain.advance();
                unlinked.retain(|(stamp, at)| {
                    if *stamp < bound {
                        words.store(*at as usize, POISON);
                        free.push(*at);
                    }
                    *stamp >= bound
                });
            }
            reader.join().unwrap();
            assert!(unlinked.iter().all(|(stamp, _)| *stamp < domain.advance()));
        });
    }

    /// Whole snapshots: the reader may look inside while the writer publishes another.
    #[test]
    fn loom_a_snapshot_is_not_freed_while_a_reader_may_hold_it() {
        loom::model(|| {
            let domain = Arc::new(Domain::new());
            let published = Arc::new(Published::new(UnsafeCell::new(1_u32)));
            let slot = domain.register();
            let reader = loom::thread::spawn({
                let (domain, published) = (Arc::clone(&domain), Arc::clone(&published));
                move || {
                    for _ in 0..2 {
                        domain.pin(&slot);
                        // SAFETY: pinned, and the writer below keeps what may be held.
                        let seen = unsafe { published.load() };
                        // SAFETY: loom checks that nobody writes meanwhile.
                        seen.with(|value| assert_ne!(unsafe { *value }, POISON));
                        slot.unpin();
                    }
                }
            });
            let old = published.replace(UnsafeCell::new(2));
            let stamp = domain.stamp();
            if stamp < domain.advance() {
                // SAFETY: the pointer is valid until `old` drops.
                let cell = unsafe { &*old.0 };
                // SAFETY: loom checks that nobody reads meanwhile.
                cell.with_mut(|value| unsafe { *value = POISON });
            }
            reader.join().unwrap();
        });
    }
}
