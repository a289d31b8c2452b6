//! Questions about all flows, rules in parts, what a recorder counted.

use core::ffi::CStr;
use std::ptr::null;

use portcullis_abi::analyse::*;
use portcullis_abi::explain::*;
use portcullis_abi::recorder::*;
use portcullis_abi::totals::*;

use crate::Session;
use crate::apply::texts;
use crate::input::start;

impl Session<'_> {
    pub(crate) fn analyse(&mut self) {
        let engine = self.engine();
        let documents = self.documents();
        let p = texts(&documents);
        let policies = if p.is_empty() { null() } else { p.as_ptr() };
        let (namespace, name) = (self.input.text(), self.input.text());
        let flow = self.input.flow();
        let mut buffer = self.input.room();
        let (room, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        let (mut needed, mut findings) = (0, 0);
        let (way, as_json) = (self.input.byte() % 4, self.input.byte() % 3);
        let what = self.input.byte() % 4;
        // SAFETY: so many texts, each with its bytes; names end with NUL or are NULL; so much room.
        let status = unsafe {
            match what {
                0 => portcullis_engine_explain_json(engine.0, &flow, room, size, &mut needed),
                1 => portcullis_engine_diff_json(
                    engine.0,
                    null(),
                    0,
                    policies,
                    p.len(),
                    room,
                    size,
                    &mut needed,
                ),
                2 => portcullis_engine_reach(
                    engine.0,
                    start(&namespace),
                    start(&name),
                    way,
                    as_json,
                    room,
                    size,
                    &mut needed,
                ),
                _ => portcullis_engine_lint(
                    engine.0,
                    policies,
                    p.len(),
                    as_json,
                    room,
                    size,
                    &mut needed,
                    &mut findings,
                ),
            }
        };
        if self.engines.check(engine, status) == 0 && size > 0 {
            let text = CStr::from_bytes_with_nul(&buffer[..needed]).expect("one NUL, at the end");
            let text = text.to_str().expect("UTF-8");
            if what < 2 || what == 2 && as_json == 1 {
                serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            }
        } else {
            assert!(buffer.iter().all(|byte| *byte == 0xa5), "written only on success");
        }
    }

    pub(crate) fn rule_info(&mut self) {
        let engine = self.engine();
        let mut buffer = self.input.room();
        let mut needed = 0;
        let mut info = portcullis_rule_info {
            struct_size: size_of::<portcullis_rule_info>(),
            policy: null(),
            tier: null(),
            name: null(),
            file: null(),
            line: 0,
            column: 0,
            index: 0,
            direction: 0,
            action: 0,
            tier_end: 0,
            staged: 0,
        };
        let rule = self.input.number() as u32;
        // SAFETY: so much room.
        let status = unsafe {
            portcullis_engine_rule_info(
                engine.0,
                rule,
                &mut info,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut needed,
            )
        };
        if self.engines.check(engine, status) == 0 {
            let here = buffer.as_ptr_range();
            for text in [info.policy, info.tier, info.file] {
                assert!(here.contains(&text.cast()));
                // SAFETY: it is in the buffer, and says that it ends there.
                assert!(unsafe { CStr::from_ptr(text) }.to_str().is_ok());
            }
        } else {
            assert!(info.policy.is_null(), "written only on success");
        }
        let mut counts = vec![0; usize::from(self.input.byte())];
        let mut count = 0;
        // SAFETY: room for what is said.
        let status = unsafe {
            portcullis_engine_dropped_bytes(engine.0, counts.as_mut_ptr(), counts.len(), &mut count)
        };
        self.engines.check(engine, status);
        let recorder = self.recorders.pick(&mut self.input);
        let mut recorded = vec![0u64; 64];
        recorded[0] = match self.input.size(size_of::<portcullis_recorded>()) {
            513..=4096 => 512,
            size => size as u64,
        };
        // SAFETY: room for what is said; a size beyond 4096 is refused.
        let status =
            unsafe { portcullis_recorder_recorded(recorder.0, recorded.as_mut_ptr().cast()) };
        self.recorders.check(recorder, status);
    }
}
