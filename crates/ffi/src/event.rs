//! Events: pulled into the caller's buffers, announced by a descriptor.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::{c_char, c_int};
use core::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_core::dataplane::event::Close;
use portcullis_core::dataplane::reason::Reason;
use portcullis_core::{FlowEvent, FlowKind, Party};

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw;
use crate::types::{
    PORTCULLIS_ALLOW, PORTCULLIS_DENY, PORTCULLIS_NO_REASON, PORTCULLIS_REJECT, portcullis_address,
};

/// A connection was opened.
pub const PORTCULLIS_EVENT_OPENED: u8 = 1;
/// A packet was dropped.
pub const PORTCULLIS_EVENT_DROPPED: u8 = 2;
/// A connection ended.
pub const PORTCULLIS_EVENT_ENDED: u8 = 3;
/// A connection was judged anew, and another rule allows it now, or it is another identity's.
pub const PORTCULLIS_EVENT_CHANGED: u8 = 4;
/// A packet that stands alone and opens nothing, such as an ICMP message that is no query, was allowed.
pub const PORTCULLIS_EVENT_PASSED: u8 = 5;

/// `close`: both ends had said FIN.
pub const PORTCULLIS_CLOSE_FIN: u8 = 1;
/// `close`: TCP reset.
pub const PORTCULLIS_CLOSE_RESET: u8 = 2;
/// `close`: silent for too long.
pub const PORTCULLIS_CLOSE_TIMEOUT: u8 = 3;
/// `close`: had to make room.
pub const PORTCULLIS_CLOSE_EVICTED: u8 = 4;
/// `close`: another connection between the same ends took its place.
pub const PORTCULLIS_CLOSE_REPLACED: u8 = 5;
/// `close`: the policy in force denies it.
pub const PORTCULLIS_CLOSE_POLICY: u8 = 6;

/// Something that happened to a flow. It grows at the end: `portcullis_engine_events` takes its size.
/// Texts are NUL-terminated UTF-8 in the caller's text buffer; NULL if there is nothing to say.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_event {
    /// When, in nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// `PORTCULLIS_EVENT_...`; numbers that the caller does not know may come in later versions.
    pub kind: u8,
    /// `PORTCULLIS_ALLOW`, `PORTCULLIS_DENY` or `PORTCULLIS_REJECT`.
    pub verdict: u8,
    /// Why it may not pass, or was cut; else `PORTCULLIS_NO_REASON`.
    pub reason: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// 1 if a rule asked for this record.
    pub logged: u8,
    /// 1 if some text did not fit into the buffer and is NULL.
    pub truncated: u8,
    /// Port of the source, host byte order; 0 where the protocol has none.
    pub source_port: u16,
    /// Port of the destination.
    pub destination_port: u16,
    /// Who opened the flow.
    pub source: portcullis_address,
    /// To whom.
    pub destination: portcullis_address,
    /// Identity of the source at that time.
    pub source_identity: u32,
    /// Identity of the destination at that time.
    pub destination_identity: u32,
    /// Of a connection that ended: how long it lasted, in nanoseconds.
    pub duration: u64,
    /// Of a connection that ended: packets from the opener, and back; else the first is how many
    /// packets this tells of: one, unless denied packets are told together (`denied_burst`).
    pub packets: [u64; 2],
    /// Bytes of these IP packets: from the opener, and back.
    pub bytes: [u64; 2],
    /// The policy that decided, as `Kind/namespace/name`, or `default`.
    pub policy: *const c_char,
    /// Where the rule that decided was written, as `file:line:column`.
    pub origin: *const c_char,
    /// The endpoint that owned the source address at that time, as `namespace/name`.
    pub source_name: *const c_char,
    /// The same of the destination.
    pub destination_name: *const c_char,
    /// The labels of the source at that time, as `key=value,key=value`.
    pub source_labels: *const c_char,
    /// The same of the destination.
    pub destination_labels: *const c_char,
    /// When the first packet of it was seen, or the connection began, as `time`.
    pub since: u64,
    /// When a packet of it was seen last, as `time`.
    pub last_seen: u64,
    /// The address space: 0 unless a tunnel has one of its own.
    pub zone: u16,
    /// ICMP or ICMPv6 type; 0 for other protocols.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code; 0 for other protocols, and of a query that ended.
    pub icmp_code: u8,
    /// TCP flags as in the header: of the packet, or all that the connection saw.
    pub tcp_flags: u8,
    /// Of a connection that ended: how, `PORTCULLIS_CLOSE_...`; else 0.
    pub close: u8,
    /// What staged policies say where they say otherwise: 1 it could pass, 2 it could not; else 0.
    pub staged: u8,
    /// Zero.
    pub reserved: u8,
    /// The staged policy that would decide.
    pub staged_policy: *const c_char,
    /// Where the staged rule that would decide was written, as `file:line:column`.
    pub staged_origin: *const c_char,
}

// SAFETY: `repr(C)`, integers and raw pointers only. (Functions take its size beside it.)
unsafe impl raw::Growable for portcullis_event {
    const FIRST: usize = core::mem::offset_of!(Self, since);
}

/// Hands over what was recorded since the last call, at most `capacity` events, oldest first for each
/// worker. What did not fit inside the library meanwhile is counted (`events_lost` of
/// `portcullis_engine_totals`).
///
/// `event_size`: `sizeof(portcullis_event)`.
/// `text`, `text_size`: room for the texts, which the events point into; 256 bytes an event hold most.
/// `count`: how many events were written; 0 means that none waits. As long as some wait the descriptor of
/// `portcullis_engine_event_fd` stays readable.
///
/// Any thread; each event goes to one of several readers.
///
/// # Safety
/// `events` points to room for `capacity` events of that size, `text` to room for that many bytes,
/// `count` to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_events(
    engine: *const portcullis_engine,
    events: *mut portcullis_event,
    event_size: usize,
    capacity: usize,
    text: *mut c_char,
    text_size: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(events, event_size, capacity) }?;
        // SAFETY: by this function's contract.
        let texts = unsafe { raw::slice_mut(text, text_size) }?;
        raw::apart(room.rest(), texts)?;
        let mut texts = Texts { room: texts };
        let take = |event: FlowEvent| room.put(texts.describe(&event));
        let written = held.object.events_up_to(capacity, take);
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, written) };
        Ok(())
    })
}

/// A descriptor that becomes readable when events wait, for poll and epoll. `portcullis_engine_events`
/// makes it unreadable again once none waits. It belongs to the engine: do not read or close it, and
/// do not use it once the engine is freed.
///
/// # Safety
/// `out` points to room for an `int`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_event_fd(
    engine: *const portcullis_engine,
    out: *mut c_int,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, held.object.event_fd().as_raw_fd()) };
        Ok(())
    })
}

/// The stable name of a reason, such as `policy_denied`, as static NUL-terminated text; `none` for
/// `PORTCULLIS_NO_REASON`, `unknown` for numbers that mean nothing. Reasons count from 0 without gaps.
///
/// Never fails; any thread; the caller must not free the text.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_reason_name(reason: u8) -> *const c_char {
    static NAMES: std::sync::OnceLock<Vec<std::ffi::CString>> = std::sync::OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let names = Reason::ALL.iter().map(|reason| std::ffi::CString::new(reason.as_str()));
        names.map(Result::unwrap_or_default).collect()
    });
    match names.get(usize::from(reason)) {
        Some(name) => name.as_ptr(),
        None if reason == PORTCULLIS_NO_REASON => c"none".as_ptr(),
        None => c"unknown".as_ptr(),
    }
}

/// What is left of the caller's text buffer.
struct Texts<'a> {
    room: &'a mut [MaybeUninit<c_char>],
}

impl Texts<'_> {
    fn describe(&mut self, event: &FlowEvent) -> portcullis_event {
        let (mut duration, mut packets, mut bytes) = (0, [event.packets, 0], [event.bytes, 0]);
        let mut close = 0;
        let kind = match event.kind {
            FlowKind::Opened => PORTCULLIS_EVENT_OPENED,
            FlowKind::Passed => PORTCULLIS_EVENT_PASSED,
            FlowKind::Changed => PORTCULLIS_EVENT_CHANGED,
            FlowKind::Dropped => PORTCULLIS_EVENT_DROPPED,
            FlowKind::Ended { duration: lasted, traffic, close: how } => {
                close = close_of(how);
                duration = u64::try_from(lasted.as_nanos()).unwrap_or(u64::MAX);
                packets = traffic.map(|traffic| traffic.packets);
                bytes = traffic.map(|traffic| traffic.bytes);
                PORTCULLIS_EVENT_ENDED
            }
            _ => 0,
        };
        let mut truncated = false;
        let mut put = |text: Option<String>| {
            let Some(text) = text else { return core::ptr::null() };
            self.put(&text).unwrap_or_else(|| {
                truncated = true;
                core::ptr::null()
            })
        };
        let name = |party: &Party| party.name().map(|(space, name)| format!("{space}/{name}"));
        let labels = |party: &Party| {
            let pairs = party.labels()?.iter().map(|(key, value)| format!("{key}={value}"));
            Some(pairs.collect::<Vec<_>>().join(","))
        };
        let policy = put(Some(event.policy.clone()));
        let origin = put(event.rule.as_ref().map(|rule| rule.origin.to_string()));
        let source_name = put(name(&event.from));
        let destination_name = put(name(&event.to));
        let source_labels = put(labels(&event.from));
        let destination_labels = put(labels(&event.to));
        let staged_rule = event.staged.as_ref().and_then(|staged| staged.rule.as_ref());
        let staged_policy = put(staged_rule.map(|rule| rule.policy.name.to_string()));
        let staged_origin = put(staged_rule.map(|rule| rule.origin.to_string()));
        let [icmp_type, icmp_code] = event.icmp.unwrap_or_default();
        portcullis_event {
            time: nanoseconds(event.time),
            kind,
            verdict: match event.reason {
                Some(Reason::PolicyRejected) => PORTCULLIS_REJECT,
                _ if event.allowed => PORTCULLIS_ALLOW,
                _ => PORTCULLIS_DENY,
            },
            reason: event.reason.map_or(PORTCULLIS_NO_REASON, |reason| reason as u8),
            protocol: event.protocol,
            logged: event.log.into(),
            truncated: truncated.into(),
            source_port: event.source.port(),
            destination_port: event.destination.port(),
            source: event.source.ip().into(),
            destination: event.destination.ip().into(),
            source_identity: event.from.id.get(),
            destination_identity: event.to.id.get(),
            duration,
            packets,
            bytes,
            policy,
            origin,
            source_name,
            destination_name,
            source_labels,
            destination_labels,
            since: nanoseconds(event.since),
            last_seen: nanoseconds(event.last_seen),
            zone: event.zone,
            icmp_type,
            icmp_code,
            tcp_flags: event.tcp_flags.unwrap_or_default(),
            close,
            staged: match &event.staged {
                None => 0,
                Some(staged) if staged.allowed => 1,
                Some(_) => 2,
            },
            reserved: 0,
            staged_policy,
            staged_origin,
        }
    }

    /// Appends text and its NUL; `None` if there is no room.
    fn put(&mut self, text: &str) -> Option<*const c_char> {
        let room = std::mem::take(&mut self.room);
        if room.len() <= text.len() {
            self.room = room;
            return None;
        }
        let (here, rest) = room.split_at_mut(text.len() + 1);
        self.room = rest;
        let start = here.as_ptr().cast();
        for (room, byte) in here.iter_mut().zip(text.bytes()) {
            // A NUL inside would hide what follows.
            room.write(if byte == 0 { b' ' } else { byte } as c_char);
        }
        if let Some(last) = here.last_mut() {
            last.write(0);
        }
        Some(start)
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

const fn close_of(close: Close) -> u8 {
    match close {
        Close::Fin => PORTCULLIS_CLOSE_FIN,
        Close::Reset => PORTCULLIS_CLOSE_RESET,
        Close::Timeout => PORTCULLIS_CLOSE_TIMEOUT,
        Close::Evicted => PORTCULLIS_CLOSE_EVICTED,
        Close::Replaced => PORTCULLIS_CLOSE_REPLACED,
        Close::Policy => PORTCULLIS_CLOSE_POLICY,
        _ => 0,
    }
}
