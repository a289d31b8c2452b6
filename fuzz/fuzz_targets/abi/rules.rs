//! Rates and mirrors by name of the rule.

use std::ptr::null;

use portcullis_abi::rule::*;

use crate::Session;
use crate::input::{Input, start};

impl Session<'_> {
    pub(crate) fn limit(&mut self) {
        let engine = self.engine();
        let texts: [_; 2] = std::array::from_fn(|_| policy(&mut self.input));
        let rate = |input: &mut Input<'_>| portcullis_rate {
            unit: input.byte() % 3,
            per_second: input.number(),
            burst: input.number(),
        };
        let identity = rate(&mut self.input);
        let limits = texts.each_ref().map(|text| portcullis_rule_rate {
            rule: rule(&mut self.input, text),
            rate: rate(&mut self.input),
        });
        let size = self.input.size(size_of::<portcullis_rule_rate>());
        // Of another size there is one at most.
        let right = size == size_of::<portcullis_rule_rate>();
        let count = usize::from(self.input.byte() % 3).min(if right { 2 } else { 0 });
        let mut buffer = self.input.room();
        let mut needed = 0;
        // SAFETY: so many limits of that size, whose texts end with NUL or are NULL.
        let status = unsafe {
            portcullis_engine_limit_rates(
                engine.0,
                if self.input.byte() & 1 == 0 { null() } else { &identity },
                limits.as_ptr(),
                size,
                count,
            )
        };
        self.engines.check(engine, status);
        // SAFETY: so much room.
        let status = unsafe {
            portcullis_engine_unknown_rules(
                engine.0,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut needed,
            )
        };
        self.engines.check(engine, status);
    }

    pub(crate) fn mirror(&mut self) {
        let engine = self.engine();
        let text = policy(&mut self.input);
        let rule = rule(&mut self.input, &text);
        let mirrored = portcullis_mirrored {
            struct_size: size_of::<portcullis_mirrored>(),
            rules: &rule,
            rule_count: usize::from(self.input.byte() % 2),
            verdicts: self.input.byte() % 9,
        };
        let mirrored = if self.input.byte() == 0 { null() } else { &raw const mirrored };
        // SAFETY: NULL, or of the size that it says, with so many rules.
        let status = unsafe { portcullis_engine_mirror(engine.0, mirrored) };
        self.engines.check(engine, status);
    }
}

fn policy(input: &mut Input<'_>) -> Option<Vec<u8>> {
    match input.byte() {
        0 => input.text(),
        n if n % 2 == 0 => Some(b"NetworkPolicy/default/p\0".to_vec()),
        _ => Some(b"GlobalNetworkPolicy//g\0".to_vec()),
    }
}

fn rule(input: &mut Input<'_>, policy: &Option<Vec<u8>>) -> portcullis_rule_name {
    portcullis_rule_name {
        policy: start(policy),
        direction: input.byte() % 4,
        one: input.byte() % 3,
        index: u32::from(input.byte() % 2),
    }
}
