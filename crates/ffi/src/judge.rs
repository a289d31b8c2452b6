//! Judges: packets and flows in, judgements out, in batches.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use std::collections::VecDeque;
use std::sync::Mutex;

use portcullis_core::dataplane::clock::Time;
use portcullis_core::dataplane::pipeline::{Input, Judgement};
use portcullis_core::policy::Flow;
use portcullis_core::{Judge, policy};

use crate::engine::{Managed, portcullis_engine};
use crate::handle::{self, Held, Object, Table};
use crate::raw;
use crate::status::{Failure, PORTCULLIS_BUSY, PORTCULLIS_POISONED, PORTCULLIS_TOO_SMALL};
use crate::types::{portcullis_flow, portcullis_judgement, portcullis_packet};

/// Judges packets and flows for one thread: make one for each. All judges of an engine share its
/// connections and policies.
pub struct portcullis_judge {
    _opaque: [u8; 0],
}

pub(crate) struct Bench {
    seat: Mutex<Seat>,
    engine: std::sync::Arc<Held<Managed>>,
}

struct Seat {
    judge: Judge,
    /// Frames to send that come with the last call, beside its packets.
    frames: VecDeque<Frame>,
}

struct Frame {
    kind: u8,
    packet: usize,
    bytes: Box<[u8]>,
}

/// A fragment that was held and passes now that the first of its packet came: to be sent on, after the
/// packets of the call.
pub const PORTCULLIS_FRAME_RELEASED: u8 = 1;
/// An answer to a packet that was rejected: to be sent back to where the packet came from.
pub const PORTCULLIS_FRAME_ANSWER: u8 = 2;

/// A frame to send. It grows at the end: `portcullis_judge_frames` takes its size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_frame {
    /// The frame from its Ethernet header on, in the caller's buffer of bytes.
    pub data: *const u8,
    /// Bytes of `data`.
    pub len: usize,
    /// Of an answer: the number of the packet in the call that judged it.
    pub packet: usize,
    /// `PORTCULLIS_FRAME_RELEASED` or `PORTCULLIS_FRAME_ANSWER`.
    pub kind: u8,
}

// SAFETY: `repr(C)`, integers and raw pointers only. (Functions take its size beside it.)
unsafe impl raw::Growable for portcullis_frame {
    const FIRST: usize = core::mem::offset_of!(Self, kind) + 1;
}

static JUDGES: Table<Bench> = Table::new();

impl Object for Bench {
    type Opaque = portcullis_judge;
    const KIND: usize = 0x53;
    fn table() -> &'static Table<Self> {
        &JUDGES
    }
}

/// Packets converted at a time; on the stack.
const CHUNK: usize = 64;

/// Makes a judge of an engine, which lives on until the judge is freed too.
///
/// `out`: the judge; free it with `portcullis_judge_free`. Any thread.
///
/// # Safety
/// `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_judge_new(
    engine: *const portcullis_engine,
    out: *mut *mut portcullis_judge,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(out)?;
        let engine = Managed::table().find(engine)?;
        let seat = Mutex::new(Seat { judge: held.object.judge(), frames: VecDeque::new() });
        let judge = JUDGES.insert(Bench { seat, engine })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, judge) };
        Ok(())
    })
}

/// Frees a judge. NULL is fine; a judge that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_judge_free(judge: *mut portcullis_judge) -> i32 {
    handle::free::<Bench>(judge)
}

/// The text of the last call on this judge that failed with one; see `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_judge_error(
    judge: *const portcullis_judge,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    // SAFETY: by this function's contract.
    unsafe { handle::copy_error::<Bench>(judge, buffer, size, needed) }
}

/// Judges packets in order: `out[n]` is what becomes of `packets[n]`. Connections are tracked: an
/// answer passes because its question did.
///
/// `now`: the time in nanoseconds, which should not go back, for replays; 0 is the engine's own clock.
/// `out`: room for `count` judgements; written only if the call succeeds. After any other status no
/// packet of the batch may pass.
///
/// A call also looks for connections that have expired, a part of the table each time. Without packets
/// (`count` 0) make one some times a second, so that their ends are told.
///
/// Held fragments that pass now, and answers to packets that were rejected, are to be had from
/// `portcullis_judge_frames`.
///
/// Hand over 32 packets or more at a time. One thread at a time (`PORTCULLIS_BUSY`). No allocation (but
/// for those frames), no lock that others hold for long, no system call.
///
/// # Safety
/// `packets` points to `count` packets whose `data` point to `len` bytes each; `out` to room, which is
/// no part of the packets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_judge_packets(
    judge: *const portcullis_judge,
    now: u64,
    packets: *const portcullis_packet,
    count: usize,
    out: *mut portcullis_judgement,
) -> i32 {
    handle::with::<Bench>(judge, |held| {
        // SAFETY: by this function's contract.
        let packets = unsafe { raw::slice(packets, count) }?;
        // SAFETY: by this function's contract.
        let out = unsafe { raw::slice_mut(out, count) }?;
        raw::apart(packets, out)?;
        // Nothing is judged, and nothing written, unless all can be.
        for packet in packets {
            // SAFETY: by this function's contract.
            let data = unsafe { raw::slice(packet.data, packet.len) }?;
            raw::apart(data, out)?;
        }
        held.object.seat(|Seat { judge, frames }| {
            frames.clear();
            if packets.is_empty() {
                // Time passes all the same.
                match now {
                    0 => judge.packets(&[], &mut []),
                    now => judge.packets_at(Time::from_nanos(now), &[], &mut []),
                };
            }
            let mut judgements = [Judgement::default(); CHUNK];
            let chunks = packets.chunks(CHUNK).zip(out.chunks_mut(CHUNK));
            for (chunk, (packets, out)) in chunks.enumerate() {
                let mut inputs = [Input::default(); CHUNK];
                for (input, packet) in inputs.iter_mut().zip(packets) {
                    // SAFETY: by this function's contract.
                    let data = unsafe { raw::slice(packet.data, packet.len) }?;
                    let wire_len = packet.wire_len.max(packet.len);
                    *input = Input { data, wire_len };
                }
                let inputs = &inputs[..packets.len()];
                match now {
                    0 => judge.packets(inputs, &mut judgements),
                    now => judge.packets_at(Time::from_nanos(now), inputs, &mut judgements),
                };
                for (out, judgement) in out.iter_mut().zip(&judgements) {
                    out.write(judgement.into());
                }
                let kind = PORTCULLIS_FRAME_ANSWER;
                frames.extend(judge.answers().map(|(n, bytes)| Frame {
                    kind,
                    packet: chunk * CHUNK + n,
                    bytes,
                }));
                let kind = PORTCULLIS_FRAME_RELEASED;
                frames.extend(judge.released().map(|bytes| Frame { kind, packet: 0, bytes }));
            }
            Ok(())
        })
    })
}

/// Hands over the frames to send that came with the last `portcullis_judge_packets`: fragments that
/// were held and pass now, and answers to packets that were rejected. Each once, at most `capacity`;
/// what is not fetched before packets are judged again is dropped.
///
/// `frame_size`: `sizeof(portcullis_frame)`.
/// `bytes`, `bytes_size`: room for their bytes, which the frames point into. Those that do not fit wait
/// for another call; `PORTCULLIS_TOO_SMALL` if not even the first fits.
/// `count`: how many frames were written. `waiting`: how many still wait; may be NULL. So a call with
/// no room at all tells whether there are any.
///
/// One thread at a time (`PORTCULLIS_BUSY`).
///
/// # Safety
/// `frames` points to room for `capacity` frames of that size, `bytes` to room for so many bytes,
/// `count` to room for a number; they share no memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_judge_frames(
    judge: *const portcullis_judge,
    frames: *mut portcullis_frame,
    frame_size: usize,
    capacity: usize,
    bytes: *mut u8,
    bytes_size: usize,
    count: *mut usize,
    waiting: *mut usize,
) -> i32 {
    handle::with::<Bench>(judge, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(frames, frame_size, capacity) }?;
        // SAFETY: by this function's contract.
        let mut bytes = unsafe { raw::slice_mut(bytes, bytes_size) }?;
        raw::apart(room.rest(), bytes)?;
        held.object.seat(|Seat { frames, .. }| {
            let mut written = 0;
            while room.has_room() {
                let Some(len) = frames.front().map(|frame| frame.bytes.len()) else { break };
                if len > bytes.len() {
                    if written == 0 {
                        return Err(PORTCULLIS_TOO_SMALL.into());
                    }
                    break;
                }
                let Some(frame) = frames.pop_front() else { break };
                let (here, rest) = bytes.split_at_mut(len);
                bytes = rest;
                let data = here.as_ptr().cast();
                for (room, byte) in here.iter_mut().zip(&frame.bytes) {
                    room.write(*byte);
                }
                let Frame { kind, packet, .. } = frame;
                room.put(portcullis_frame { data, len, packet, kind });
                written += 1;
            }
            // SAFETY: by this function's contract.
            unsafe { raw::write(waiting, frames.len()) };
            // SAFETY: by this function's contract.
            unsafe { raw::write(count, written) };
            Ok(())
        })
    })
}

/// Decides flows by the policy alone: no connections, no records, no counting. `out[n]` is the answer
/// for `flows[n]`. A flow whose addresses are of different families is denied.
///
/// `out`: room for `count` judgements; written only if the call succeeds. One thread at a time.
///
/// # Safety
/// `flows` points to `count` flows, `out` to room for as many judgements, which is no part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_judge_flows(
    judge: *const portcullis_judge,
    flows: *const portcullis_flow,
    count: usize,
    out: *mut portcullis_judgement,
) -> i32 {
    handle::with::<Bench>(judge, |held| {
        // SAFETY: by this function's contract.
        let flows = unsafe { raw::slice(flows, count) }?;
        // SAFETY: by this function's contract.
        let out = unsafe { raw::slice_mut(out, count) }?;
        raw::apart(flows, out)?;
        for flow in flows {
            flow.read()?;
        }
        held.object.seat(|Seat { judge, .. }| {
            let any = policy::Flow::new([0; 4].into(), [0; 4].into(), 0, (0, 0));
            for (flows, out) in flows.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
                let mut asked: [Flow; CHUNK] = [any; CHUNK];
                let mut judgements = [Judgement::default(); CHUNK];
                for (asked, flow) in asked.iter_mut().zip(flows) {
                    *asked = flow.read()?;
                }
                judge.flows(&asked[..flows.len()], &mut judgements);
                for (out, judgement) in out.iter_mut().zip(&judgements) {
                    out.write(judgement.into());
                }
            }
            Ok(())
        })
    })
}

impl Bench {
    fn seat(&self, call: impl FnOnce(&mut Seat) -> Result<(), Failure>) -> Result<(), Failure> {
        if self.engine.is_poisoned() {
            return Err(PORTCULLIS_POISONED.into());
        }
        match self.seat.try_lock() {
            Ok(mut seat) => call(&mut seat),
            Err(std::sync::TryLockError::WouldBlock) => Err(PORTCULLIS_BUSY.into()),
            Err(std::sync::TryLockError::Poisoned(_)) => Err(PORTCULLIS_POISONED.into()),
        }
    }
}
