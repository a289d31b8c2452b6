//! Numbers: of everything, by reason, by rule.

#![allow(non_camel_case_types, reason = "the names are C's")]

use portcullis_core::dataplane::counter::Counted;
use portcullis_core::dataplane::reason::Reason;

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw::{self, Growable};
use crate::status::Failure;
use crate::types::PORTCULLIS_NO_RULE;

/// Numbers since the start, over all workers and judges. Set `struct_size` first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_totals {
    /// `sizeof(portcullis_totals)`.
    pub struct_size: usize,
    /// Packets received, or handed to a judge.
    pub received: u64,
    /// Bytes of these, from the Ethernet header on.
    pub received_bytes: u64,
    /// Packets forwarded, or allowed by a judge.
    pub forwarded: u64,
    /// Bytes of these.
    pub forwarded_bytes: u64,
    /// Packets dropped, for whatever reason (`portcullis_engine_drops` tells them apart).
    pub dropped: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections now.
    pub connections: u64,
    /// Events that wait to be read.
    pub events_waiting: u64,
    /// Events that did not fit and were not reported.
    pub events_lost: u64,
    /// Packets whose unfinished checksum was completed.
    pub checksums_completed: u64,
    /// Answers sent to senders of rejected packets.
    pub rejects_sent: u64,
    /// Of `connections`, TCP connections whose handshake is not finished.
    pub half_open: u64,
    /// Connections that there is room for.
    pub capacity: u64,
    /// Connections that had to go because there was no more room.
    pub evicted: u64,
    /// New connections and denied packets that staged policies judged too.
    pub staged: u64,
    /// Of these, denied now and allowed by the staged policies.
    pub staged_allows: u64,
    /// Of these, allowed now and denied by the staged policies.
    pub staged_denies: u64,
    /// Copies that switches made of packets for several interfaces: packets received and copied are
    /// forwarded or dropped.
    pub copied: u64,
    /// Copies sent to the mirror port.
    pub mirrored: u64,
    /// Copies left out because the mirror port could not keep up.
    pub mirror_lost: u64,
    /// `events_lost` by what happened: opened, dropped (packets), ended, changed, passed alone.
    pub events_lost_by_kind: [u64; 5],
}

/// What one rule let pass and refused since the start. It grows at the end:
/// `portcullis_engine_rule_totals` takes its size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct portcullis_rule_totals {
    /// The rule, for `portcullis_engine_rule`; `PORTCULLIS_NO_RULE` for packets of which none decided,
    /// `PORTCULLIS_OTHER_RULES` for rules that are counted together, because there are so many.
    pub rule: u32,
    /// Zero.
    pub reserved: u32,
    /// Packets let pass.
    pub passed: u64,
    /// Bytes of these.
    pub passed_bytes: u64,
    /// Packets not let pass.
    pub refused: u64,
    /// Bytes of these.
    pub refused_bytes: u64,
}

/// `rule` of what is counted for several rules together.
pub const PORTCULLIS_OTHER_RULES: u32 = 4294967294;

// SAFETY: `repr(C)`, integers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_rule_totals {
    const FIRST: usize = size_of::<Self>();
}

// SAFETY: `repr(C)`, the size first, integers only.
unsafe impl Growable for portcullis_totals {
    const FIRST: usize = core::mem::offset_of!(Self, checksums_completed);
}

/// What was counted since the start.
///
/// # Safety
/// `out` points to totals whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_totals(
    engine: *const portcullis_engine,
    out: *mut portcullis_totals,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let totals = held.object.totals();
        let value = portcullis_totals {
            struct_size: 0,
            received: totals.received,
            received_bytes: totals.received_bytes,
            forwarded: totals.forwarded,
            forwarded_bytes: totals.forwarded_bytes,
            dropped: totals.dropped,
            opened: totals.opened,
            ended: totals.ended,
            connections: totals.connections as u64,
            events_waiting: totals.events_waiting as u64,
            events_lost: totals.events_lost,
            checksums_completed: totals.checksums_completed,
            rejects_sent: totals.rejects_sent,
            half_open: totals.half_open as u64,
            capacity: totals.capacity as u64,
            evicted: totals.evicted,
            staged: totals.staged,
            staged_allows: totals.staged_allows,
            staged_denies: totals.staged_denies,
            copied: totals.copied,
            mirrored: totals.mirrored,
            mirror_lost: totals.mirror_lost,
            events_lost_by_kind: totals.events_lost_by_kind,
        };
        // SAFETY: by this function's contract.
        unsafe { raw::write_growable(out, value) }
    })
}

/// Packets dropped since the start, by reason: `counts[n]` is that of reason `n`
/// (`portcullis_reason_name`).
///
/// `capacity`: room in `counts`; reasons beyond are left out. `count`: how many reasons there are.
///
/// # Safety
/// `counts` has room for `capacity` numbers, `count` is NULL or points to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_drops(
    engine: *const portcullis_engine,
    counts: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        unsafe { write_by_reason(&held.object.totals().drops, counts, capacity, count) }
    })
}

/// Bytes of the packets dropped since the start, by reason, as `portcullis_engine_drops`.
///
/// # Safety
/// `counts` has room for `capacity` numbers, `count` is NULL or points to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_dropped_bytes(
    engine: *const portcullis_engine,
    counts: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        unsafe { write_by_reason(&held.object.totals().dropped_bytes, counts, capacity, count) }
    })
}

/// # Safety
/// As the functions that call it.
unsafe fn write_by_reason(
    of: &[(Reason, u64)],
    counts: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    let room = unsafe { raw::slice_mut(counts, capacity) }?;
    for (room, reason) in room.iter_mut().zip(Reason::ALL) {
        let found = of.iter().find(|(known, _)| known == reason);
        room.write(found.map_or(0, |(_, count)| *count));
    }
    // SAFETY: by this function's contract.
    unsafe { raw::write(count, Reason::ALL.len()) };
    Ok(())
}

/// What each rule did since the start, over all workers and judges: rules that decided of a packet at
/// least.
///
/// `rule_size`: `sizeof(portcullis_rule_totals)`. `capacity`: room in `rules`; what is beyond is left
/// out. `count`: how many there are, which may be more by the next call.
///
/// # Safety
/// `rules` has room for `capacity` of that size, `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_rule_totals(
    engine: *const portcullis_engine,
    rules: *mut portcullis_rule_totals,
    rule_size: usize,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(rules, rule_size, capacity) }?;
        let totals = held.object.rule_totals();
        for totals in &totals {
            room.put(portcullis_rule_totals {
                rule: match totals.counted {
                    Counted::Rule(number) => number.get(),
                    Counted::Others => PORTCULLIS_OTHER_RULES,
                    Counted::NoRule => PORTCULLIS_NO_RULE,
                },
                reserved: 0,
                passed: totals.sums.passed,
                passed_bytes: totals.sums.passed_bytes,
                refused: totals.sums.refused,
                refused_bytes: totals.sums.refused_bytes,
            });
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, totals.len()) };
        Ok(())
    })
}
