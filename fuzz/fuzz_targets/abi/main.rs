//! The C ABI, called in any order with any arguments that its documentation allows: pointers are NULL
//! or have behind them exactly what they are said to have, all else is arbitrary. No call may panic, a
//! handle is known from when it was made until it was freed, and the sanitizer watches the memory.
//! Each module has the calls of one part of the header; [`Session::call`] draws one of them.
#![no_main]

use portcullis_abi::capture::{portcullis_capture, portcullis_capture_free};
use portcullis_abi::engine::{portcullis_engine, portcullis_engine_free};
use portcullis_abi::judge::{portcullis_judge, portcullis_judge_free};
use portcullis_abi::policies::{portcullis_policies, portcullis_policies_free};
use portcullis_abi::recorder::{portcullis_recorder, portcullis_recorder_free};

use handles::{Handles, Picked};
use input::Input;

mod analyse;
mod apply;
mod capture;
mod connections;
mod endpoints;
mod engine;
mod events;
mod firewall;
mod handles;
mod input;
mod judge;
mod numbers;
mod policies;
mod recorder;
mod rules;
mod sets;
mod words;
mod zones;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut session = Session {
        input: Input(data),
        engines: Handles::new(),
        judges: Handles::new(),
        captures: Handles::new(),
        recorders: Handles::new(),
        policies: Handles::new(),
    };
    for _ in 0..64 {
        if session.input.0.is_empty() {
            break;
        }
        session.call();
    }
    session.end();
});

struct Session<'a> {
    input: Input<'a>,
    engines: Handles<portcullis_engine>,
    judges: Handles<portcullis_judge>,
    captures: Handles<portcullis_capture>,
    recorders: Handles<portcullis_recorder>,
    policies: Handles<portcullis_policies>,
}

impl Session<'_> {
    /// One call; the commoner ones are drawn more often.
    fn call(&mut self) {
        let input = &mut self.input;
        match input.byte() % 49 {
            0 => self.new_engine(),
            1 => self.engines.free(input, portcullis_engine_free),
            2 => self.new_judge(),
            3 => self.judges.free(input, portcullis_judge_free),
            4..=6 => self.apply(),
            7 | 8 => self.upsert(),
            9 => self.remove(),
            10 | 11 => self.replace_set(),
            12 | 13 => self.packets(),
            14 => self.flows(),
            15 => self.frames(),
            16 | 17 => self.events(),
            18 => self.totals(),
            19..=21 => self.words(),
            22 => self.firewall(),
            23 => self.new_capture(),
            24 => self.captures.free(input, portcullis_capture_free),
            25 | 26 => self.capture(),
            27 => self.connections(),
            28 => self.owners(),
            29 => self.new_recorder(),
            30 => self.recorders.free(input, portcullis_recorder_free),
            31 | 32 => self.record(),
            33 => self.prove(),
            34 => self.new_policies(),
            35 => self.policies.free(input, portcullis_policies_free),
            36..=38 => self.add_policy(),
            39 | 40 => self.put_in_force(),
            41 => self.zone(),
            42 => self.limit(),
            43 => self.mirror(),
            44 => self.restart(),
            45 | 46 => self.analyse(),
            47 => self.rule_info(),
            _ => self.event_fd(),
        }
    }

    fn engine(&mut self) -> Picked<portcullis_engine> {
        self.engines.pick(&mut self.input)
    }

    fn end(self) {
        self.policies.end(portcullis_policies_free);
        self.recorders.end(portcullis_recorder_free);
        self.captures.end(portcullis_capture_free);
        self.judges.end(portcullis_judge_free);
        self.engines.end(portcullis_engine_free);
    }
}
