//! Captures: copies of chosen packets, pulled into the caller's buffers.
//!
//! The engine has one reader for all captures. Whoever reads one sorts what came for the others too,
//! into an inbox for each, whose size is bounded.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::UNIX_EPOCH;

use portcullis_core::CapturedPacket;
use portcullis_core::dataplane::capture::{Filter, Session, Verdicts};
use portcullis_core::dataplane::reason::Reason;
use portcullis_core::dataplane::verdict::Verdict;

use crate::engine::{Managed, portcullis_engine};
use crate::handle::{self, Held, Object, Table, lock};
use crate::raw::{self, Growable};
use crate::status::{
    Failure, PORTCULLIS_BAD_VALUE, PORTCULLIS_POISONED, PORTCULLIS_SYSTEM, PORTCULLIS_TOO_SMALL,
};
use crate::types::{fixed, portcullis_address, portcullis_judgement};

/// A capture of packets that the workers of an engine's firewalls receive. Calls on it may come from
/// any threads.
pub struct portcullis_capture {
    _opaque: [u8; 0],
}

/// Which packets a capture wants; all conditions must hold. Set all of it to zero, then `struct_size`
/// to `sizeof`: then it is all of every packet.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_capture_filter {
    /// `sizeof(portcullis_capture_filter)`.
    pub struct_size: usize,
    /// Only packets dropped for one of these reasons.
    pub reasons: *const u8,
    /// How many; 0 is any, and packets that passed.
    pub reason_count: usize,
    /// Only IP packets from or to one of these addresses.
    pub addresses: *const portcullis_address,
    /// How many; 0 is any.
    pub address_count: usize,
    /// Bytes of each packet at most, from the Ethernet header on; 0 is as many as can be: 9216.
    pub snap: u32,
    /// Only packets with these verdicts: the sum of 1 for `PORTCULLIS_ALLOW`, 2 for
    /// `PORTCULLIS_DENY` and 4 for `PORTCULLIS_REJECT`; 0 is any.
    pub verdicts: u8,
}

/// A packet that was copied. It grows at the end: `portcullis_capture_packets` takes its size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_captured {
    /// When its batch was received, in nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// Its first bytes, from the Ethernet header on, in the caller's buffer of bytes.
    pub data: *const u8,
    /// Bytes of `data`.
    pub len: usize,
    /// Bytes of the whole frame.
    pub wire_len: usize,
    /// What became of it, and why.
    pub judgement: portcullis_judgement,
    /// The interface that received it, NUL-terminated.
    pub interface_name: [c_char; 16],
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_capture_filter {
    const FIRST: usize = core::mem::offset_of!(Self, verdicts) + 1;
}
// SAFETY: `repr(C)`, integers and raw pointers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_captured {
    const FIRST: usize = size_of::<Self>();
}

/// The captures of an engine.
#[derive(Default)]
pub(crate) struct Desk(Mutex<Vec<Weak<Inbox>>>);

struct Inbox {
    session: Session,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    packets: VecDeque<Copied>,
    bytes: usize,
    /// What there was no room for.
    lost: u64,
}

struct Copied {
    /// Without its bytes.
    head: portcullis_captured,
    bytes: Box<[u8]>,
}

// SAFETY: the only pointer, that to the bytes, is NULL as long as the packet is here.
unsafe impl Send for Copied {}

/// Bytes that wait for one capture at most, some for each packet's head included.
const INBOX_BYTES: usize = 4 << 20;
const HEAD_BYTES: usize = size_of::<Copied>();

/// A capture as a handle holds it.
pub(crate) struct Capture {
    inbox: Arc<Inbox>,
    engine: Arc<Held<Managed>>,
}

static CAPTURES: Table<Capture> = Table::new();

impl Object for Capture {
    type Opaque = portcullis_capture;
    const KIND: usize = 0x57;
    fn table() -> &'static Table<Self> {
        &CAPTURES
    }
}

/// Begins a capture; nothing is copied before `portcullis_capture_allow`. At most 8 at a time on an
/// engine (`PORTCULLIS_SYSTEM`). Packets of judges are not captured: their caller has them.
///
/// `filter`: NULL for all of every packet. `out`: the capture; end it with `portcullis_capture_free`.
/// Any thread.
///
/// # Safety
/// `filter` is NULL or begins with its size, its arrays have as many values as their counts say;
/// `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_capture_new(
    engine: *const portcullis_engine,
    filter: *const portcullis_capture_filter,
    out: *mut *mut portcullis_capture,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        let filter = unsafe { read_filter(filter) }?;
        let engine = Managed::table().find(engine)?;
        let session = held.object.capture(filter).ok_or_else(|| {
            let text = "error: 8 captures are open, and no more are possible";
            Failure::new(PORTCULLIS_SYSTEM, text)
        })?;
        let inbox = Arc::new(Inbox { session, waiting: Mutex::default() });
        lock(&held.object.desk.0).push(Arc::downgrade(&inbox));
        let capture = CAPTURES.insert(Capture { inbox, engine })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, capture) };
        Ok(())
    })
}

/// Ends a capture and frees it. NULL is fine; a capture that was freed already is
/// `PORTCULLIS_BAD_HANDLE`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_capture_free(capture: *mut portcullis_capture) -> i32 {
    handle::free::<Capture>(capture)
}

/// The text of the last call on this capture that failed with one; see `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_capture_error(
    capture: *const portcullis_capture,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    // SAFETY: by this function's contract.
    unsafe { handle::copy_error::<Capture>(capture, buffer, size, needed) }
}

/// Changes what is captured from now on. NULL is all of every packet.
///
/// # Safety
/// As `portcullis_capture_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_capture_set_filter(
    capture: *const portcullis_capture,
    filter: *const portcullis_capture_filter,
) -> i32 {
    handle::with::<Capture>(capture, |held| {
        // SAFETY: by this function's contract.
        let filter = unsafe { read_filter(filter) }?;
        held.object.inbox.session.set_filter(filter);
        Ok(())
    })
}

/// Lets workers copy up to `packets` from now on; what was allowed before and not used is gone. Called
/// in regular steps it bounds the rate.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_capture_allow(
    capture: *const portcullis_capture,
    packets: u32,
) -> i32 {
    handle::with::<Capture>(capture, |held| {
        held.object.inbox.session.allow(packets);
        Ok(())
    })
}

/// Hands over packets that were copied, each once and at most `capacity`; those of one worker in their
/// order.
///
/// `packet_size`: `sizeof(portcullis_captured)`.
/// `bytes`, `bytes_size`: room for their bytes, which the packets point into. Those that do not fit
/// wait for another call; `PORTCULLIS_TOO_SMALL` if not even the first fits.
/// `count`: how many were written. `waiting`: how many still wait; may be NULL.
///
/// A worker's ring holds 4 MiB, and so does what waits for a capture: read often. Any thread.
///
/// # Safety
/// `packets` points to room for `capacity` packets of that size, `bytes` to room for so many bytes,
/// `count` to room for a number; they share no memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_capture_packets(
    capture: *const portcullis_capture,
    packets: *mut portcullis_captured,
    packet_size: usize,
    capacity: usize,
    bytes: *mut u8,
    bytes_size: usize,
    count: *mut usize,
    waiting: *mut usize,
) -> i32 {
    handle::with::<Capture>(capture, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(packets, packet_size, capacity) }?;
        // SAFETY: by this function's contract.
        let mut bytes = unsafe { raw::slice_mut(bytes, bytes_size) }?;
        raw::apart(room.rest(), bytes)?;
        if held.object.engine.is_poisoned() {
            return Err(PORTCULLIS_POISONED.into());
        }
        held.object.engine.object.sort_captured();
        let mut queue = lock(&held.object.inbox.waiting);
        let mut written = 0;
        while room.has_room() {
            let Some(len) = queue.packets.front().map(|packet| packet.bytes.len()) else { break };
            if len > bytes.len() {
                if written == 0 {
                    return Err(PORTCULLIS_TOO_SMALL.into());
                }
                break;
            }
            let Some(Copied { mut head, bytes: copied }) = queue.packets.pop_front() else { break };
            queue.bytes -= len + HEAD_BYTES;
            let (here, rest) = bytes.split_at_mut(len);
            bytes = rest;
            head.data = here.as_ptr().cast();
            for (room, byte) in here.iter_mut().zip(&copied) {
                room.write(*byte);
            }
            room.put(head);
            written += 1;
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(waiting, queue.packets.len()) };
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, written) };
        Ok(())
    })
}

/// Packets that the filter wanted and that are not to be had.
///
/// `lost`: those that did not fit into a worker's ring or among those that wait: exact.
/// `over_budget`: those beyond what `portcullis_capture_allow` allowed. Either may be NULL.
///
/// # Safety
/// `lost` and `over_budget` are NULL or point to room for a number each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_capture_lost(
    capture: *const portcullis_capture,
    lost: *mut u64,
    over_budget: *mut u64,
) -> i32 {
    handle::with::<Capture>(capture, |held| {
        let inbox = &held.object.inbox;
        let here = lock(&inbox.waiting).lost;
        // SAFETY: by this function's contract.
        unsafe { raw::write(lost, inbox.session.lost() + here) };
        // SAFETY: by this function's contract.
        unsafe { raw::write(over_budget, inbox.session.over_budget()) };
        Ok(())
    })
}

impl Managed {
    /// Sorts what was captured into the inboxes.
    fn sort_captured(&self) {
        // One at a time, so that an inbox has its packets in their order.
        let mut desk = lock(&self.desk.0);
        let inboxes: Vec<_> = desk.iter().filter_map(Weak::upgrade).collect();
        self.engine.captured(|packet| {
            for inbox in inboxes.iter().filter(|inbox| inbox.session.asked(&packet.askers)) {
                lock(&inbox.waiting).put(packet);
            }
        });
        desk.retain(|inbox| inbox.strong_count() > 0);
    }
}

impl Waiting {
    fn put(&mut self, packet: &CapturedPacket<'_>) {
        let size = packet.data.len() + HEAD_BYTES;
        if self.bytes + size > INBOX_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes += size;
        let time = packet.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let head = portcullis_captured {
            time: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            data: core::ptr::null(),
            len: packet.data.len(),
            wire_len: packet.wire_len,
            judgement: (&packet.judgement).into(),
            interface_name: fixed(&packet.interface),
        };
        self.packets.push_back(Copied { head, bytes: packet.data.into() });
    }
}

impl portcullis_capture_filter {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        reasons: core::ptr::null(),
        reason_count: 0,
        addresses: core::ptr::null(),
        address_count: 0,
        snap: 0,
        verdicts: 0,
    };
}

/// The verdicts of a sum of `1 << PORTCULLIS_...`.
pub(crate) fn verdicts(bits: u8) -> Result<Vec<Verdict>, Failure> {
    if bits >= 8 {
        return Err(PORTCULLIS_BAD_VALUE.into());
    }
    let all = [Verdict::Allow, Verdict::Deny, Verdict::Reject];
    Ok(all.into_iter().filter(|verdict| bits >> *verdict as u8 & 1 == 1).collect())
}

/// # Safety
/// As the functions that call it.
unsafe fn read_filter(filter: *const portcullis_capture_filter) -> Result<Filter, Failure> {
    // SAFETY: by this function's contract.
    let wanted = unsafe { raw::read_growable(filter, portcullis_capture_filter::EMPTY) }?;
    let mut filter = Filter::default();
    if wanted.verdicts != 0 {
        filter = filter.verdicts(Verdicts::of(&verdicts(wanted.verdicts)?));
    }
    // SAFETY: by this function's contract.
    let reasons = unsafe { raw::slice(wanted.reasons, wanted.reason_count) }?;
    let known = |number: &u8| Reason::ALL.get(usize::from(*number)).copied();
    let reasons: Option<Vec<Reason>> = reasons.iter().map(known).collect();
    filter = filter.reasons(&reasons.ok_or(PORTCULLIS_BAD_VALUE)?);
    // SAFETY: by this function's contract.
    let addresses = unsafe { raw::slice(wanted.addresses, wanted.address_count) }?;
    if !addresses.is_empty() {
        let addresses = addresses.iter().map(portcullis_address::read);
        filter = filter.addresses(addresses.collect::<Result<_, _>>()?);
    }
    Ok(if wanted.snap > 0 { filter.snap(wanted.snap as usize) } else { filter })
}
