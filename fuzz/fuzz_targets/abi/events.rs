//! Events of judged packets.

use core::ffi::CStr;

use portcullis_abi::event::*;

use crate::Session;

impl Session<'_> {
    pub(crate) fn events(&mut self) {
        let engine = self.engine();
        let size = self.input.size(size_of::<portcullis_event>());
        let capacity = usize::from(self.input.byte() % 40);
        let mut events = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let mut text = self.input.room();
        let mut count = 99;
        // SAFETY: room for so many events and bytes; a size beyond 4096 is refused.
        let status = unsafe {
            portcullis_engine_events(
                engine.0,
                events.as_mut_ptr().cast(),
                size,
                if size > 4096 { 1 } else { capacity },
                text.as_mut_ptr().cast(),
                text.len(),
                &mut count,
            )
        };
        if self.engines.check(engine, status) != 0 {
            return;
        }
        assert!(count <= capacity);
        for at in 0..count {
            let event = events.as_ptr().cast::<u8>().wrapping_add(at * size);
            // SAFETY: an event was written there.
            let event = unsafe { event.cast::<portcullis_event>().read_unaligned() };
            for start in [event.policy, event.origin, event.source_name, event.destination_labels] {
                if !start.is_null() {
                    // SAFETY: it points to text with a NUL in the buffer.
                    assert!(unsafe { CStr::from_ptr(start) }.to_str().is_ok());
                }
            }
        }
    }

    pub(crate) fn event_fd(&mut self) {
        let engine = self.engine();
        let mut fd = -1;
        // SAFETY: there is room.
        let status = unsafe { portcullis_engine_event_fd(engine.0, &mut fd) };
        assert_eq!(self.engines.check(engine, status) == 0, fd >= 0);
    }
}
