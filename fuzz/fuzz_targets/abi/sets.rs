//! Members of a network set.

use portcullis_abi::set::*;
use portcullis_abi::types::*;

use crate::Session;
use crate::input::{TEXTS, start};

impl Session<'_> {
    pub(crate) fn replace_set(&mut self) {
        let engine = self.engine();
        let input = &mut self.input;
        let name = match input.byte() {
            0 => input.text(),
            _ => Some(TEXTS[6].to_bytes_with_nul().to_vec()),
        };
        let mut prefixes = Vec::new();
        for _ in 0..input.byte() % 8 {
            let (address, length) = (input.address(), input.byte() % 40);
            prefixes.push(portcullis_prefix { address, length });
        }
        let mut forgotten = 7;
        // SAFETY: so many prefixes; the name ends with NUL or is NULL.
        let status = unsafe {
            match input.byte() % 8 {
                0 => portcullis_engine_forget_set(engine.0, start(&name), &mut forgotten),
                _ => portcullis_engine_replace_set(
                    engine.0,
                    start(&name),
                    prefixes.as_ptr(),
                    prefixes.len(),
                ),
            }
        };
        self.engines.check(engine, status);
    }
}
