//! Publication and reclamation: readers pin, the one writer frees what no reader can still hold.
//!
//! Epochs, as in Fraser's thesis (Practical lock-freedom, 2004), made small for one writer: a pinned
//! reader shows the epoch it began in; what is unlinked is stamped with the epoch of that moment and
//! is free once the epoch has moved on and every pinned reader began later. A reader never waits and
//! never makes the writer wait; one that stays pinned only keeps memory from being used again.
//!
//! Between a reader's showing its epoch and its first load there must be a full fence. Where the
//! system lets the writer have one executed in every thread ([`barrier`]), pinning is a plain store;
//! elsewhere each pin has a fence of its own. Should the system stop doing so (a filter of system
//! calls that came later), readers are told to use fences again, and nothing is free until each of
//! them has been seen to know.

use core::sync::atomic::compiler_fence;

use super::barrier;
use crate::sync::{Arc, AtomicPtr, AtomicU64, Mutex, MutexGuard, Ordering, fence};

/// The epoch in which something was unlinked.
pub(crate) type Stamp = u64;

/// The lowest bit of an epoch: pins have a fence of their own. What a reader shows has it too.
const FENCED: u64 = 1;
/// Epochs are this far apart.
const STEP: u64 = 2;
/// What a reader shows when it is not pinned, beside [`FENCED`].
const IDLE: u64 = u64::MAX - FENCED;

/// Where one reader shows its epoch; on a cache line of its own.
#[repr(align(128))]
pub(crate) struct Slot {
    began: AtomicU64,
}

/// The epoch and all readers.
pub(crate) struct Domain {
    epoch: AtomicU64,
    /// A full fence in every thread, or false.
    everywhere: fn() -> bool,
    slots: Mutex<Vec<Arc<Slot>>>,
}

impl Domain {
    pub(crate) fn new() -> Self {
        Self::with(if barrier::available() { barrier::everywhere } else { || false })
    }

    /// Without fences in pins for as long as `everywhere` does what it says.
    fn with(everywhere: fn() -> bool) -> Self {
        let epoch = if everywhere() { 0 } else { FENCED };
        Self { epoch: AtomicU64::new(epoch), everywhere, slots: Mutex::new(Vec::new()) }
    }

    /// A slot for a new reader. Locks, for a moment, against other registrations and the writer's
    /// [`Domain::advance`].
    pub(crate) fn register(&self) -> Arc<Slot> {
        let mut slots = self.slots();
        let fenced = self.epoch.load(Ordering::Acquire) & FENCED;
        let slot = Arc::new(Slot { began: AtomicU64::new(IDLE | fenced) });
        slots.push(Arc::clone(&slot));
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
        if epoch & FENCED == 0 {
            // The writer has the fence executed here, before or after this store. Release: the
            // writer may see this pin instead of the unpin before, and must then know that the
            // reads under the pin before are over.
            slot.began.store(epoch, Ordering::Release);
            compiler_fence(Ordering::SeqCst);
        } else if cfg!(all(target_arch = "x86_64", not(loom))) {
            // A locked exchange is a full fence too, at half of its price.
            slot.began.swap(epoch, Ordering::SeqCst);
            compiler_fence(Ordering::SeqCst);
        } else {
            slot.began.store(epoch, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    /// The stamp for what was unlinked before this call.
    pub(crate) fn stamp(&self) -> Stamp {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Moves the epoch on, and returns a bound: what has a stamp below it is free. A system call
    /// where pins have no fences.
    pub(crate) fn advance(&self) -> Stamp {
        let mut next = self.epoch.load(Ordering::Relaxed) + STEP;
        self.epoch.store(next, Ordering::Release);
        if next & FENCED == 0 && !(self.everywhere)() {
            next |= FENCED;
            self.epoch.store(next, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        let fenced = next & FENCED;
        let bound = |bound: Stamp, slot: &Arc<Slot>| {
            let began = slot.began.load(Ordering::Acquire);
            // A reader that still pins without fences may not have been seen.
            if began & FENCED == fenced { bound.min(began) } else { 0 }
        };
        self.slots().iter().fold(next, bound)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Slot {
    #[inline]
    pub(crate) fn unpin(&self) {
        let fenced = self.began.load(Ordering::Relaxed) & FENCED;
        self.began.store(IDLE | fenced, Ordering::Release);
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicBool;

    #[test]
    fn a_pinned_reader_keeps_what_was_unlinked_since() {
        for domain in [Domain::new(), Domain::with(|| false), Domain::with(|| true)] {
            let (reader, other) = (domain.register(), domain.register());
            domain.pin(&reader);
            let stamp = domain.stamp();
            assert!(domain.advance() <= stamp);
            domain.pin(&other);
            reader.unpin();
            assert!(stamp < domain.advance(), "the other began later");
            let later = domain.stamp();
            assert!(domain.advance() <= later);
            other.unpin();
            assert!(later < domain.advance());
        }
    }

    #[test]
    fn nothing_is_free_after_a_refused_barrier_until_every_reader_fences() {
        static REFUSED: AtomicBool = AtomicBool::new(false);
        let domain = Domain::with(|| !REFUSED.load(Ordering::Relaxed));
        let (busy, idle) = (domain.register(), domain.register());
        for reader in [&busy, &idle] {
            domain.pin(reader);
            reader.unpin();
        }
        let before = domain.stamp();
        assert!(before < domain.advance());

        REFUSED.store(true, Ordering::Relaxed);
        let stamp = domain.stamp();
        assert_eq!(domain.advance(), 0);
        let newcomer = domain.register();
        domain.pin(&busy);
        assert_eq!(domain.advance(), 0, "the idle one does not know yet");
        busy.unpin();
        domain.pin(&idle);
        idle.unpin();
        assert!(stamp < domain.advance(), "a newcomer knows from the start");
        REFUSED.store(false, Ordering::Relaxed);
        domain.pin(&newcomer);
        let stamp = domain.stamp();
        assert!(domain.advance() <= stamp, "fences stay");
    }
}

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
