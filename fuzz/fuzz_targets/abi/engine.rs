//! An engine: made of any settings, and the proof of what it compiled.

use std::ptr::null_mut;

use portcullis_abi::apply::*;
use portcullis_abi::config::*;
use portcullis_abi::engine::*;
use portcullis_abi::status::*;

use crate::Session;

impl Session<'_> {
    pub(crate) fn new_engine(&mut self) {
        if self.engines.full() {
            return;
        }
        let input = &mut self.input;
        let tunnels: [_; 2] = std::array::from_fn(|_| portcullis_tunnel {
            kind: input.byte() % 5,
            all_networks: input.byte() % 3,
            port: input.number() as u16,
            vni: input.number() as u32,
            zone: u16::from(input.byte() % 4),
        });
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
            prove: input.byte() % 4,
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
            reject_denied: input.byte() & 1,
            virtual_clock: input.byte() & 1,
            reserved: [0; 2],
            half_open_in_all: input.number() as u32,
            tcp_syn_sent_timeout_ms: input.number() as u32,
            tcp_syn_received_timeout_ms: input.number() as u32,
            tcp_closing_timeout_ms: input.number() as u32,
            tcp_last_ack_timeout_ms: input.number() as u32,
            tcp_time_wait_timeout_ms: input.number() as u32,
            tcp_closed_timeout_ms: input.number() as u32,
            udp_unanswered_timeout_ms: input.number() as u32,
            sctp_timeout_ms: input.number() as u32,
            sctp_opening_timeout_ms: input.number() as u32,
            sctp_closing_timeout_ms: input.number() as u32,
            sctp_closed_timeout_ms: input.number() as u32,
            icmp_timeout_ms: input.number() as u32,
            other_timeout_ms: input.number() as u32,
            fragmented_packets: input.number() as u32,
            fragmented_packets_per_source: input.number() as u32,
            fragment_bytes: input.number() as u32,
            fragments_per_packet: input.number() as u32,
            fragment_timeout_ms: input.number() as u32,
            proof_threads: input.number() as u32,
            program_bytes: input.number(),
            program_cells: input.number(),
            tunnels: tunnels.as_ptr(),
            tunnel_count: usize::from(input.byte() % 3),
        };
        let mut engine = null_mut();
        // SAFETY: the config has the size and the tunnels that it says, and there is room for a handle.
        let status = unsafe { portcullis_engine_new(&config, &mut engine) };
        assert_eq!(status == 0, !engine.is_null());
        assert!(status == 0 || status == PORTCULLIS_BAD_VALUE, "{status}");
        if status == 0 {
            self.engines.add(engine);
        }
    }

    pub(crate) fn prove(&mut self) {
        let engine = self.engine();
        let status = portcullis_engine_set_time(engine.0, self.input.number());
        self.engines.check(engine, status);
        let mut regions = 0;
        // SAFETY: there is room.
        let status = unsafe { portcullis_engine_prove(engine.0, &mut regions) };
        assert_ne!(self.engines.check(engine, status), PORTCULLIS_PROOF, "compiled wrongly");
    }
}
