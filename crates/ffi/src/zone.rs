//! Zones: address spaces of their own, to which tunnels lead.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::{c_char, c_int};
use core::num::NonZeroU16;

use portcullis_core::{Evaluation, Zone, policy};

use crate::apply::{check_applied, parse, portcullis_applied, sources, write_applied};
use crate::endpoint::{
    portcullis_endpoint, portcullis_endpoint_name, read_endpoint_names, read_endpoints,
};
use crate::engine::{Managed, portcullis_engine};
use crate::explain::words;
use crate::handle;
use crate::raw;
use crate::status::{Failure, PORTCULLIS_BAD_VALUE, PORTCULLIS_NO_SUCH_ZONE};
use crate::types::{PORTCULLIS_ALLOW, PORTCULLIS_DENY, portcullis_flow, portcullis_text};

/// As `portcullis_engine_apply`, for one zone: an address space of its own to which tunnels lead
/// (`tunnels` of the engine's settings). Its cluster and policies are its own; connections, workers,
/// events and counters are the engine's. Packets of a zone to which nothing was applied are denied, and
/// so is everything until the engine itself has something in force. Limits and rates of identities count
/// equal numbers of different zones together.
///
/// `zone`: its number, from 1 on; `PORTCULLIS_BAD_VALUE` for 0, as in all functions of zones: 0 is the
/// engine itself.
///
/// # Safety
/// The arrays have as many texts as their counts say, each as described there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_zone_apply(
    engine: *const portcullis_engine,
    zone: u16,
    cluster: *const portcullis_text,
    cluster_count: usize,
    policies: *const portcullis_text,
    policy_count: usize,
    applied: *mut portcullis_applied,
) -> i32 {
    with(engine, zone, |managed, zone| {
        // SAFETY: by this function's contract.
        let cluster = unsafe { sources(cluster, cluster_count) }?;
        // SAFETY: by this function's contract.
        let policies = unsafe { sources(policies, policy_count) }?;
        let (cluster, policies) = parse(&cluster, &policies)?;
        // SAFETY: by this function's contract.
        unsafe { check_applied(applied) }?;
        let done = zone.apply(cluster.value, policies.value)?;
        managed.warn([&cluster.warnings, &policies.warnings]);
        // SAFETY: by this function's contract.
        unsafe { write_applied(applied, done) }
    })
}

/// Takes cluster and policies of a zone away: its packets are denied from now on.
///
/// `removed`: 1 if there was something, else 0; may be NULL.
///
/// # Safety
/// `removed` is NULL or points to room for an `int`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_zone_remove(
    engine: *const portcullis_engine,
    zone: u16,
    removed: *mut c_int,
) -> i32 {
    with(engine, zone, |_, zone| {
        let was = zone.remove();
        // SAFETY: by this function's contract.
        unsafe { raw::write(removed, was.into()) };
        Ok(())
    })
}

/// As `portcullis_engine_upsert_endpoints`, for one zone; `PORTCULLIS_NO_SUCH_ZONE` if nothing was applied
/// to it yet.
///
/// # Safety
/// `endpoints` has `count` endpoints of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_zone_upsert_endpoints(
    engine: *const portcullis_engine,
    zone: u16,
    endpoints: *const portcullis_endpoint,
    endpoint_size: usize,
    count: usize,
    done: *mut usize,
) -> i32 {
    with(engine, zone, |_, zone| {
        // SAFETY: by this function's contract.
        let endpoints = unsafe { read_endpoints(endpoints, endpoint_size, count) }?;
        for (n, endpoint) in endpoints.into_iter().enumerate() {
            let result = zone.upsert_endpoint(endpoint);
            // SAFETY: by this function's contract.
            unsafe { raw::write(done, n + usize::from(matches!(result, Ok(true)))) };
            if !result? {
                return Err(PORTCULLIS_NO_SUCH_ZONE.into());
            }
        }
        Ok(())
    })
}

/// As `portcullis_engine_remove_endpoints`, for one zone; none are there if nothing was applied to it.
///
/// # Safety
/// `names` has `count` names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_zone_remove_endpoints(
    engine: *const portcullis_engine,
    zone: u16,
    names: *const portcullis_endpoint_name,
    count: usize,
    removed: *mut usize,
) -> i32 {
    with(engine, zone, |_, zone| {
        let mut gone = 0;
        // SAFETY: by this function's contract.
        for (namespace, name) in unsafe { read_endpoint_names(names, count) }? {
            gone += usize::from(zone.remove_endpoint(namespace, name)?);
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(removed, gone) };
        Ok(())
    })
}

/// What is in force in a zone; `PORTCULLIS_NO_SUCH_ZONE` if nothing is.
///
/// # Safety
/// `out` points to an `applied` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_zone_applied(
    engine: *const portcullis_engine,
    zone: u16,
    out: *mut portcullis_applied,
) -> i32 {
    with(engine, zone, |_, zone| {
        raw::required(out)?;
        let applied = zone.applied().ok_or(PORTCULLIS_NO_SUCH_ZONE)?;
        // SAFETY: by this function's contract.
        unsafe { write_applied(out, applied) }
    })
}

/// Decides one flow between addresses of a zone, for people and tests; `PORTCULLIS_NO_SUCH_ZONE` if
/// nothing is in force.
///
/// `verdict`: `PORTCULLIS_ALLOW` or `PORTCULLIS_DENY`. `buffer`: the rule that decided, as
/// `portcullis_engine_rule` says it, empty if none did; sizes as in `portcullis_engine_error`.
///
/// # Safety
/// `flow` points to a flow, `verdict` to room for a number, `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_zone_evaluate(
    engine: *const portcullis_engine,
    zone: u16,
    flow: *const portcullis_flow,
    verdict: *mut u8,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    with(engine, zone, |_, zone| {
        raw::required(verdict)?;
        // SAFETY: by this function's contract.
        let flow = unsafe { raw::slice(flow, 1) }?[0].read_one_family()?;
        let Evaluation { verdict: found, rule, .. } =
            zone.evaluate(&flow).ok_or(PORTCULLIS_NO_SUCH_ZONE)?;
        let text = rule.as_deref().map(words).unwrap_or_default();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }?;
        let found = match found {
            policy::Verdict::Allow => PORTCULLIS_ALLOW,
            policy::Verdict::Deny => PORTCULLIS_DENY,
        };
        // SAFETY: by this function's contract.
        unsafe { raw::write(verdict, found) };
        Ok(())
    })
}

/// The numbers of the zones that have something in force, ascending.
///
/// `capacity`: room in `zones`; what is beyond is left out. `count`: how many there are.
///
/// # Safety
/// `zones` has room for `capacity` numbers, `count` points to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_zones(
    engine: *const portcullis_engine,
    zones: *mut u16,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let room = unsafe { raw::slice_mut(zones, capacity) }?;
        let found = held.object.zones();
        for (room, zone) in room.iter_mut().zip(&found) {
            room.write(*zone);
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, found.len()) };
        Ok(())
    })
}

fn with(
    engine: *const portcullis_engine,
    zone: u16,
    call: impl FnOnce(&Managed, Zone<'_>) -> Result<(), Failure>,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let zone = NonZeroU16::new(zone).ok_or_else(|| {
            Failure::new(PORTCULLIS_BAD_VALUE, "error: zone 0 is the engine itself")
        })?;
        call(&held.object, held.object.zone(zone))
    })
}
