//! A recorder of flows.

use std::ptr::{null, null_mut};

use portcullis_abi::recorder::*;

use crate::Session;
use crate::input::start;

impl Session<'_> {
    pub(crate) fn new_recorder(&mut self) {
        if self.recorders.full() {
            return;
        }
        let engine = self.engine();
        let (keep, node, pattern) = (self.input.text(), self.input.text(), self.input.text());
        let policies = [
            portcullis_policy_keep { policies: c"*/*/p".as_ptr(), keep: c"none".as_ptr() },
            portcullis_policy_keep { policies: start(&pattern), keep: c"denied".as_ptr() },
        ];
        let config = portcullis_recorder_config {
            struct_size: size_of::<portcullis_recorder_config>(),
            keep: match self.input.byte() % 3 {
                0 => start(&keep),
                1 => null(),
                _ => c"1/3".as_ptr(),
            },
            update_ms: self.input.number() as u32,
            denied_ms: self.input.number() as u32,
            denied_kinds: self.input.number().min(5000) as u32,
            capacity: self.input.number() as u32,
            form: u32::from(self.input.byte() % 3),
            reserved: 0,
            node: if self.input.byte() & 1 == 0 { null() } else { start(&node) },
            policies: policies.as_ptr(),
            policy_count: usize::from(self.input.byte() % 3),
        };
        let mut recorder = null_mut();
        // SAFETY: the settings have the size that they say, and there is room for a handle.
        let status = unsafe { portcullis_recorder_new(engine.0, &config, &mut recorder) };
        assert_eq!(status == 0, !recorder.is_null());
        if self.engines.check(engine, status) == 0 {
            self.recorders.add(recorder);
        }
    }

    pub(crate) fn record(&mut self) {
        let recorder = self.recorders.pick(&mut self.input);
        if self.input.byte() % 4 == 0 {
            let status = portcullis_recorder_finish(recorder.0);
            self.recorders.check(recorder, status);
        }
        let mut room = self.input.room();
        let (mut written, mut lost) = (0, 0);
        // SAFETY: so much room.
        let status = unsafe {
            portcullis_recorder_read(
                recorder.0,
                room.as_mut_ptr().cast(),
                room.len(),
                &mut written,
                &mut lost,
            )
        };
        if self.recorders.check(recorder, status) == 0 && written > 0 {
            let text = std::str::from_utf8(&room[..written]).expect("text");
            assert!(text.ends_with('\n') && text.lines().all(|line| line.starts_with('{')));
        }
    }
}
