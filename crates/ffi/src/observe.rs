//! Looking closer: open connections, owners of addresses, durations of rounds.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::dataplane::counter::BOUNDS;
use portcullis_core::identity_table::endpoint::Endpoint;
use portcullis_core::report;

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw::{self, Growable};
use crate::status::PORTCULLIS_BAD_VALUE;
use crate::types::portcullis_address;

/// A connection that is open. It grows at the end: `portcullis_engine_connections` takes its size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_connection {
    /// Who opened it.
    pub source: portcullis_address,
    /// To whom.
    pub destination: portcullis_address,
    /// Port of the source, host byte order; 0 where the protocol has none.
    pub source_port: u16,
    /// Port of the destination.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The rule that allowed it, for `portcullis_engine_rule`; else `PORTCULLIS_NO_RULE`.
    pub rule: u32,
    /// Packets from the opener, and back.
    pub packets: [u64; 2],
    /// Bytes of IP packets from the opener, and back.
    pub bytes: [u64; 2],
}

// SAFETY: `repr(C)`, integers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_connection {
    const FIRST: usize = size_of::<Self>();
}

/// Lists the connections that are open now, in no order. O(connections): a million take tens of
/// milliseconds, in which judging is a little slower.
///
/// `connection_size`: `sizeof(portcullis_connection)`. `capacity`: room in `connections`; what is
/// beyond is left out. `count`: how many there are, which may be more by the next call.
///
/// # Safety
/// `connections` has room for `capacity` of that size, `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_connections(
    engine: *const portcullis_engine,
    connections: *mut portcullis_connection,
    connection_size: usize,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(connections, connection_size, capacity) }?;
        let mut found = 0;
        held.object.live_connections(|connection| {
            found += 1;
            room.put(portcullis_connection {
                source: connection.source.ip().into(),
                destination: connection.destination.ip().into(),
                source_port: connection.source.port(),
                destination_port: connection.destination.port(),
                protocol: connection.protocol,
                rule: connection.rule.get(),
                packets: connection.traffic.map(|traffic| traffic.packets),
                bytes: connection.traffic.map(|traffic| traffic.bytes),
            });
        });
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, found) };
        Ok(())
    })
}

/// The endpoint that owns an address now, as `namespace/name`; empty if none does. Buffer and sizes as
/// in `portcullis_engine_error`.
///
/// # Safety
/// `address` points to an address, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_owner(
    engine: *const portcullis_engine,
    address: *const portcullis_address,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let address = unsafe { raw::slice(address, 1) }?[0].read()?;
        let owner = held.object.owners(&[address]).pop().flatten();
        let name = |endpoint: &Endpoint| format!("{}/{}", endpoint.namespace, endpoint.name);
        let text = owner.as_deref().map(name).unwrap_or_default();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// The endpoints that there are now, by namespace and name, as a JSON array of objects with `namespace`,
/// `name`, `labels`, `service_account`, `node`, `host_network`, `ports` and `addresses`. O(endpoints). Buffer and sizes as in
/// `portcullis_engine_error`; there may be more by the next call.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_endpoints_json(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let mut endpoints = held.object.in_force().0.endpoints;
        endpoints.sort_unstable_by_key(Endpoint::key);
        let all: Vec<String> =
            endpoints.iter().map(|endpoint| report::endpoint(endpoint).to_string()).collect();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&format!("[{}]", all.join(",")), buffer, size, needed) }
    })
}

/// The addresses that an endpoint has now; `PORTCULLIS_BAD_VALUE` if there is none of this name.
///
/// `capacity`: room in `addresses`; what is beyond is left out. `count`: how many it has.
///
/// # Safety
/// The names are NUL-terminated, `addresses` has room for `capacity` addresses, `count` points to room
/// for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_addresses(
    engine: *const portcullis_engine,
    namespace_name: *const c_char,
    name: *const c_char,
    addresses: *mut portcullis_address,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let namespace = unsafe { raw::text(namespace_name) }?;
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        // SAFETY: by this function's contract.
        let room = unsafe { raw::slice_mut(addresses, capacity) }?;
        let found = held.object.addresses_of(namespace, name).ok_or(PORTCULLIS_BAD_VALUE)?;
        for (room, address) in room.iter_mut().zip(&found) {
            room.write((*address).into());
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, found.len()) };
        Ok(())
    })
}

/// How long the rounds of workers took since the start: the time that every packet of a round spends
/// in its worker.
///
/// `bounds[n]`: the longest that `counts[n]` counts, in microseconds, which counts what is longer than
/// `bounds[n - 1]`; the last takes what is longer than all, and its bound is the highest number.
/// `capacity`: room in both; either may be NULL if it is 0. `count`: how many there are; may be NULL.
/// `sum`: all rounds together, in nanoseconds; may be NULL.
///
/// # Safety
/// `bounds` and `counts` have room for `capacity` numbers, `count` and `sum` for one each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_rounds(
    engine: *const portcullis_engine,
    bounds: *mut u64,
    counts: *mut u64,
    capacity: usize,
    count: *mut usize,
    sum: *mut u64,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let bounds = unsafe { raw::slice_mut(bounds, capacity) }?;
        // SAFETY: by this function's contract.
        let counts = unsafe { raw::slice_mut(counts, capacity) }?;
        raw::apart(bounds, counts)?;
        let times = held.object.round_times();
        for (room, bound) in bounds.iter_mut().zip(BOUNDS.into_iter().chain([u64::MAX])) {
            room.write(bound);
        }
        for (room, count) in counts.iter_mut().zip(times.buckets) {
            room.write(count);
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, times.buckets.len()) };
        // SAFETY: by this function's contract.
        unsafe { raw::write(sum, u64::try_from(times.sum.as_nanos()).unwrap_or(u64::MAX)) };
        Ok(())
    })
}
