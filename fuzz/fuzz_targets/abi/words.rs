//! Answers in text: errors, warnings, rules, explanations, who owns an address.

use core::ffi::{CStr, c_char};

use portcullis_abi::apply::*;
use portcullis_abi::engine::*;
use portcullis_abi::explain::*;
use portcullis_abi::observe::*;
use portcullis_abi::set::*;
use portcullis_abi::types::*;

use crate::Session;
use crate::input::start;

impl Session<'_> {
    pub(crate) fn words(&mut self) {
        let engine = self.engine();
        let mut buffer = self.input.room();
        let (start, size) = (buffer.as_mut_ptr().cast::<c_char>(), buffer.len());
        let mut needed = 0;
        let flow = self.input.flow();
        let rule = self.input.number() as u32;
        let what = self.input.byte() % 7;
        // SAFETY: so much room.
        let status = unsafe {
            match what {
                0 => portcullis_engine_error(engine.0, start, size, &mut needed),
                1 => portcullis_engine_warnings(engine.0, start, size, &mut needed),
                2 => portcullis_engine_sets(engine.0, start, size, &mut needed),
                6 => portcullis_engine_endpoints_json(engine.0, start, size, &mut needed),
                3 => portcullis_engine_rule(engine.0, rule, start, size, &mut needed),
                _ => portcullis_engine_explain(engine.0, &flow, start, size, &mut needed),
            }
        };
        if self.engines.check(engine, status) == 0 && size > 0 {
            let text = &buffer[..needed];
            assert!(CStr::from_bytes_with_nul(text).is_ok_and(|text| text.to_str().is_ok()));
        } else {
            assert!(buffer.iter().all(|byte| *byte == 0xa5), "written only on success");
        }
    }

    pub(crate) fn owners(&mut self) {
        let engine = self.engine();
        let mut buffer = self.input.room();
        let (start_of, size) = (buffer.as_mut_ptr().cast::<c_char>(), buffer.len());
        let (address, mut needed) = (self.input.address(), 0);
        // SAFETY: an address, and so much room.
        let status =
            unsafe { portcullis_engine_owner(engine.0, &address, start_of, size, &mut needed) };
        if self.engines.check(engine, status) == 0 && size > 0 {
            assert!(CStr::from_bytes_with_nul(&buffer[..needed]).is_ok());
        } else {
            assert!(buffer.iter().all(|byte| *byte == 0xa5), "written only on success");
        }
        let (namespace, name) = (self.input.text(), self.input.text());
        let mut room = vec![portcullis_address::default(); usize::from(self.input.byte() % 4)];
        let mut count = 0;
        // SAFETY: the names end with NUL or are NULL, and there is so much room.
        let status = unsafe {
            portcullis_engine_addresses(
                engine.0,
                start(&namespace),
                start(&name),
                room.as_mut_ptr(),
                room.len(),
                &mut count,
            )
        };
        if self.engines.check(engine, status) == 0 {
            let written = &room[..count.min(room.len())];
            assert!(written.iter().all(|address| matches!(address.family, 4 | 6)));
        }
    }
}
