//! Counts, connections and measured rounds.

use portcullis_abi::apply::*;
use portcullis_abi::observe::*;
use portcullis_abi::totals::*;

use crate::Session;

impl Session<'_> {
    pub(crate) fn totals(&mut self) {
        let engine = self.engine();
        let mut totals = vec![0u64; 64];
        let size = self.input.size(size_of::<portcullis_totals>());
        // A size that is too large for the room would be a lie.
        totals[0] = if size > 512 && size <= 4096 { 512 } else { size as u64 };
        let mut counts = vec![0u64; usize::from(self.input.byte())];
        let mut count = 0;
        let applied = self.input.byte() % 3 == 0;
        // SAFETY: room for what is said.
        let status = unsafe {
            match applied {
                true => portcullis_engine_applied(engine.0, totals.as_mut_ptr().cast()),
                false => portcullis_engine_totals(engine.0, totals.as_mut_ptr().cast()),
            }
        };
        self.engines.check(engine, status);
        // SAFETY: room for what is said.
        let status = unsafe {
            portcullis_engine_drops(engine.0, counts.as_mut_ptr(), counts.len(), &mut count)
        };
        self.engines.check(engine, status);
        let size = self.input.size(size_of::<portcullis_rule_totals>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut rules = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let capacity = if size > 4096 { 1 } else { capacity };
        let start = rules.as_mut_ptr().cast();
        // SAFETY: room for so many rules; a size beyond 4096 is refused.
        let status =
            unsafe { portcullis_engine_rule_totals(engine.0, start, size, capacity, &mut count) };
        self.engines.check(engine, status);
    }

    pub(crate) fn connections(&mut self) {
        let engine = self.engine();
        let size = self.input.size(size_of::<portcullis_connection>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut room = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let (start, mut count) = (room.as_mut_ptr().cast(), 0);
        let capacity = if size > 4096 { 1 } else { capacity };
        // SAFETY: room for so many; a size beyond 4096 is refused.
        let status =
            unsafe { portcullis_engine_connections(engine.0, start, size, capacity, &mut count) };
        self.engines.check(engine, status);
        let mut bounds = vec![0; usize::from(self.input.byte() % 20)];
        let mut counts = bounds.clone();
        let (mut count, mut sum) = (0, 9);
        // SAFETY: room for so many numbers.
        let status = unsafe {
            portcullis_engine_rounds(
                engine.0,
                bounds.as_mut_ptr(),
                counts.as_mut_ptr(),
                bounds.len(),
                &mut count,
                &mut sum,
            )
        };
        if self.engines.check(engine, status) == 0 {
            let bounds = &bounds[..count.min(bounds.len())];
            assert!(sum == 0 && bounds.is_sorted() && counts.iter().all(|count| *count == 0));
        }
    }
}
