//! A running firewall: here no handle of one is ever good.

use std::ptr::{null, without_provenance_mut};

use portcullis_abi::firewall::port::*;
use portcullis_abi::firewall::wire::*;
use portcullis_abi::firewall::*;
use portcullis_abi::status::*;

use crate::Session;
use crate::input::start;

impl Session<'_> {
    pub(crate) fn firewall(&mut self) {
        let firewall = without_provenance_mut(self.input.number() as usize);
        let mut buffer = [0; 8];
        let mut needed = 0;
        let status = portcullis_firewall_stop(firewall);
        assert_eq!(status == 0, firewall.is_null());
        let status = portcullis_firewall_halt(firewall);
        assert!(status == PORTCULLIS_NULL || status == PORTCULLIS_BAD_HANDLE);
        // SAFETY: there is room.
        let status = unsafe {
            portcullis_firewall_lesser_mode(firewall, buffer.as_mut_ptr(), 8, &mut needed)
        };
        assert!(status == PORTCULLIS_NULL || status == PORTCULLIS_BAD_HANDLE);
        let mut room = [0u64; 32];
        let (room, mut count) = (room.as_mut_ptr(), 0);
        let size = self.input.size(64);
        let text = self.input.text();
        let wire = portcullis_wire {
            struct_size: size_of::<portcullis_wire>(),
            a: start(&text),
            b: null(),
            name: start(&text),
            small_rings: self.input.byte(),
            others: null(),
            other_count: 0,
            learn_age_ms: self.input.number() as u32,
            learn_addresses: self.input.number() as u32,
            floods_per_second: self.input.number() as u32,
            floods_burst: self.input.number() as u32,
        };
        // SAFETY: the texts end with NUL or are NULL.
        let (status, other) = unsafe {
            (
                portcullis_firewall_add_wire(firewall, &wire),
                portcullis_firewall_remove_wire(firewall, wire.name),
            )
        };
        assert_eq!(status, other);
        // SAFETY: no handle of a firewall is ever good, so that nothing is written.
        let status = unsafe {
            match size % 4 {
                0 => portcullis_firewall_sockets(firewall, room.cast(), size, 1, &mut count),
                1 => portcullis_firewall_programs(firewall, room.cast(), size, 1, &mut count),
                _ => portcullis_firewall_port_changes(firewall, room.cast(), size, 1, &mut count),
            }
        };
        assert!(status == PORTCULLIS_NULL || status == PORTCULLIS_BAD_HANDLE);
    }
}
