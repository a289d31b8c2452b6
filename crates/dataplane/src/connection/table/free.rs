//! Free slots: stacks linked through the slots themselves, and slots that were never used.

use crossbeam_utils::CachePadded;

use super::slot::{Slot, link};
use super::sync::{AtomicU32, AtomicU64, Ordering};

/// Stacks, so that workers rarely meet at one.
const STACKS: usize = if cfg!(loom) { 1 } else { 16 };

/// The free slots of a table. A head is the number of the top slot (0, which is nobody's: empty) and a
/// count of changes, which keeps a slow `pop` from putting back an old head (the ABA problem).
#[derive(Debug)]
pub(super) struct Free {
    heads: [CachePadded<AtomicU64>; STACKS],
    fresh: AtomicU32,
}

impl Free {
    pub(super) fn new() -> Self {
        Self {
            heads: std::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))),
            fresh: AtomicU32::new(1),
        }
    }

    /// Slots that were ever used, and slot 0: all others are untouched memory.
    pub(super) fn used(&self) -> usize {
        self.fresh.load(Ordering::Relaxed) as usize
    }

    /// Takes a free slot, of those near `hint` if possible. O(1). `fetch` is told which slot the same
    /// stack will give next: whoever opens that connection should find its memory in the cache.
    pub(super) fn pop(&self, slots: &[Slot], hint: usize, fetch: impl Fn(u32)) -> Option<u32> {
        let first = hint % STACKS;
        if let Some(slot) = self.pop_from(slots, first, &fetch) {
            return Some(slot);
        }
        let limit = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let more = |fresh: u32| (fresh < limit).then(|| fresh + 1);
        if let Ok(fresh) = self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            return Some(fresh);
        }
        (1..STACKS).find_map(|n| self.pop_from(slots, (first + n) % STACKS, &fetch))
    }

    /// Takes as many free slots as `out` has room for, or as there are; answers how many. One atomic
    /// change for each stack that is asked, and one for those never used.
    pub(super) fn pop_many(&self, slots: &[Slot], hint: usize, out: &mut [u32]) -> usize {
        let mut taken = self.pop_chain(slots, hint % STACKS, out);
        let limit = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let wanted = |fresh: u32| (limit - fresh.min(limit)).min((out.len() - taken) as u32);
        let more = |fresh: u32| Some(fresh + wanted(fresh)).filter(|next| *next > fresh);
        if let Ok(fresh) = self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            for slot in fresh..fresh + wanted(fresh) {
                out[taken] = slot;
                taken += 1;
            }
        }
        for n in 1..STACKS {
            if taken == out.len() {
                break;
            }
            taken += self.pop_chain(slots, (hint + n) % STACKS, &mut out[taken..]);
        }
        taken
    }

    /// The same from one stack, in one atomic change.
    fn pop_chain(&self, slots: &[Slot], stack: usize, out: &mut [u32]) -> usize {
        let head = &self.heads[stack];
        let mut old = head.load(Ordering::Acquire);
        'again: loop {
            let (mut next, mut taken) = (old as u32, 0);
            while next != 0 && taken < out.len() {
                // A slot that another worker took meanwhile may say anything; then the head changed.
                let Some(slot) = slots.get(next as usize) else {
                    let now = head.load(Ordering::Acquire);
                    if now == old {
                        return 0;
                    }
                    old = now;
                    continue 'again;
                };
                out[taken] = next;
                taken += 1;
                next = link(slot).load(Ordering::Relaxed) as u32;
            }
            if taken == 0 {
                return 0;
            }
            let new = changed(old, next.into());
            match head.compare_exchange_weak(old, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return taken,
                Err(actual) => old = actual,
            }
        }
    }

    /// Gives a slot back. Nobody else may hold it.
    pub(super) fn push(&self, slots: &[Slot], slot: u32) {
        let head = &self.heads[slot as usize / 64 % STACKS];
        let mut old = head.load(Ordering::Relaxed);
        loop {
            link(&slots[slot as usize]).store(old & 0xffff_ffff, Ordering::Relaxed);
            let new = changed(old, slot.into());
            match head.compare_exchange_weak(old, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(actual) => old = actual,
            }
        }
    }

    fn pop_from(&self, slots: &[Slot], stack: usize, fetch: &impl Fn(u32)) -> Option<u32> {
        let head = &self.heads[stack];
        let mut old = head.load(Ordering::Acquire);
        loop {
            let slot = old as u32;
            if slot == 0 {
                return None;
            }
            // Another worker may have taken the slot and written into it: then the head changed.
            let next = link(&slots[slot as usize]).load(Ordering::Relaxed) & 0xffff_ffff;
            match head.compare_exchange_weak(
                old,
                changed(old, next),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    // Of slot 0 too, if it was the last: that does no harm.
                    fetch(next as u32);
                    return Some(slot);
                }
                Err(actual) => old = actual,
            }
        }
    }
}

/// A new head with a raised count of changes.
const fn changed(old: u64, top: u64) -> u64 {
    (old & !0xffff_ffff).wrapping_add(1 << 32) | top
}
