//! An engine: made of any settings, and the proof of what it compiled.

use std::ptr::null_mut;

use portcullis_abi::apply::*;
use portcullis_abi::engine::*;
use portcullis_abi::status::*;

use crate::Session;

impl Session<'_> {
    pub(crate) fn new_engine(&mut self) {
        if self.engines.full() {
            return;
        }
        let input = &mut self.input;
        let config = portcullis_engine_config {
            struct_size: size_of::<portcullis_engine_config>(),
            connections: match input.number() as usize {
                n @ 1..4096 => n,
                0 => 64,
                n => n | 1 << 40,
            },
            event_capacity: match input.number() as usize {
                n @ 1..4096 => n,
                0 => 64,
                n => n | 1 << 40,
            },
            on_policy_change: input.byte() % 5,
            drop_arp: input.byte() & 1,
            judge_neighbour_discovery: input.byte() & 1,
            pass_non_ip: input.byte() % 3,
            pick_up: input.byte() & 1,
            prove: input.byte() & 1,
            evict_when_full: input.byte() % 3,
            leave_checksums: input.byte() & 1,
            identity_connections: input.number() as u32,
            identity_half_open: input.number() as u32,
            identity_new_per_second: input.number() as u32,
            identity_new_burst: input.number() as u32,
            rejects_per_second: input.number() as u32,
            reject_burst: input.number() as u32,
            tcp_timeout_ms: input.number() as u32,
            udp_timeout_ms: input.number() as u32,
            retention_ms: input.number(),
            denied_burst: input.number() as u32,
        };
        let mut engine = null_mut();
        // SAFETY: the config has the size that it says, and there is room for a handle.
        let status = unsafe { portcullis_engine_new(&config, &mut engine) };
        assert_eq!(status == 0, !engine.is_null());
        assert!(status == 0 || status == PORTCULLIS_BAD_VALUE, "{status}");
        if status == 0 {
            self.engines.add(engine);
        }
    }

    pub(crate) fn prove(&mut self) {
        let engine = self.engine();
        let mut regions = 0;
        // SAFETY: there is room.
        let status = unsafe { portcullis_engine_prove(engine.0, &mut regions) };
        assert_ne!(self.engines.check(engine, status), PORTCULLIS_PROOF, "compiled wrongly");
    }
}
