//! A capture: its filter, and the packets that it copied.

use std::ptr::{null, null_mut};

use portcullis_abi::capture::*;

use crate::Session;

impl Session<'_> {
    pub(crate) fn new_capture(&mut self) {
        let engine = self.engine();
        let input = &mut self.input;
        let reasons = input.bytes(3);
        let addresses = [input.address(), input.address()];
        let filter = portcullis_capture_filter {
            struct_size: size_of::<portcullis_capture_filter>(),
            reasons: if reasons.is_empty() { null() } else { reasons.as_ptr() },
            reason_count: reasons.len(),
            addresses: addresses.as_ptr(),
            address_count: usize::from(input.byte() % 3),
            snap: input.number() as u32,
            verdicts: input.byte() % 10,
        };
        let filter: *const _ = if input.byte() == 0 { null() } else { &filter };
        let old = self.captures.pick(input);
        // SAFETY: NULL, or a filter of the size that it says, with so many values.
        let status = unsafe { portcullis_capture_set_filter(old.0, filter) };
        self.captures.check(old, status);
        let mut capture = null_mut();
        // SAFETY: as above, and there is room for a handle.
        let status = unsafe { portcullis_capture_new(engine.0, filter, &mut capture) };
        assert_eq!(status == 0, !capture.is_null());
        if self.engines.check(engine, status) == 0 {
            self.captures.add(capture);
        }
    }

    pub(crate) fn capture(&mut self) {
        let capture = self.captures.pick(&mut self.input);
        let status = portcullis_capture_allow(capture.0, self.input.number() as u32);
        self.captures.check(capture, status);
        let (mut lost, mut over) = (0, 0);
        // SAFETY: there is room.
        let status = unsafe { portcullis_capture_lost(capture.0, &mut lost, &mut over) };
        self.captures.check(capture, status);
        let size = self.input.size(size_of::<portcullis_captured>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut packets = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let mut bytes = self.input.room();
        let (mut count, mut waiting) = (99, 0);
        // SAFETY: room for so many packets and bytes; a size beyond 4096 is refused.
        let status = unsafe {
            portcullis_capture_packets(
                capture.0,
                packets.as_mut_ptr().cast(),
                size,
                if size > 4096 { 1 } else { capacity },
                bytes.as_mut_ptr(),
                bytes.len(),
                &mut count,
                &mut waiting,
            )
        };
        if self.captures.check(capture, status) == 0 {
            // There is no worker that copies.
            assert!(count == 0 && waiting == 0 && lost == 0);
        }
    }
}
