//! Policies and cluster states, by text: applied, compared, staged.

use std::ptr::{null, null_mut};

use portcullis_abi::apply::*;
use portcullis_abi::stage::*;
use portcullis_abi::types::*;

use crate::Session;
use crate::input::{Input, start};

impl Session<'_> {
    pub(crate) fn apply(&mut self) {
        let engine = self.engine();
        let (cluster, policies) = (self.documents(), self.documents());
        let (c, p) = (texts(&cluster), texts(&policies));
        let mut applied = portcullis_applied {
            struct_size: size_of::<portcullis_applied>(),
            generation: 0,
            policies: 0,
            endpoints: 0,
            identities: 0,
        };
        let mut buffer = self.input.room();
        let (mut needed, mut changes) = (0, 0);
        let what = self.input.byte() % 11;
        let (c_start, c_count) = (c.as_ptr(), c.len());
        // SAFETY: so many texts, each with its bytes; room for what is written.
        let status = unsafe {
            match what {
                8 => portcullis_engine_stage(engine.0, p.as_ptr(), p.len()),
                9 => portcullis_engine_unstage(engine.0)
                    .max(portcullis_engine_staged(engine.0, &mut needed)),
                10 => portcullis_engine_set_policies(engine.0, p.as_ptr(), p.len(), &mut applied),
                0 => portcullis_engine_set_cluster(engine.0, c_start, c_count, &mut applied),
                1 => portcullis_engine_diff(
                    engine.0,
                    if c.is_empty() { null() } else { c_start },
                    c_count,
                    p.as_ptr(),
                    p.len(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    &mut needed,
                    &mut changes,
                ),
                _ => portcullis_engine_apply(
                    engine.0,
                    c_start,
                    c_count,
                    p.as_ptr(),
                    p.len(),
                    if what == 2 { null_mut() } else { &mut applied },
                ),
            }
        };
        self.engines.check(engine, status);
    }

    pub(crate) fn documents(&mut self) -> Vec<Document> {
        let count = self.input.byte() % 5;
        let one = |input: &mut Input<'_>| {
            let name = if input.byte() == 0 { None } else { Some(b"file\0".to_vec()) };
            let mut data = input.text().unwrap_or_default();
            data.pop();
            data.shrink_to_fit();
            (name, data)
        };
        (0..count).map(|_| one(&mut self.input)).collect()
    }
}

/// A name with its NUL, or none; and text without one.
pub(crate) type Document = (Option<Vec<u8>>, Vec<u8>);

pub(crate) fn texts(named: &[Document]) -> Vec<portcullis_text> {
    let one = |(name, data): &Document| portcullis_text {
        name: start(name),
        data: data.as_ptr(),
        len: data.len(),
    };
    named.iter().map(one).collect()
}
