//! Judges: packets and flows in, judgements out, in batches.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use std::sync::Mutex;

use portcullis_core::dataplane::clock::Time;
use portcullis_core::dataplane::pipeline::{Input, Judgement};
use portcullis_core::policy::Flow;
use portcullis_core::{Judge, policy};

use crate::engine::portcullis_engine;
use crate::handle::{self, Held, Object, Table};
use crate::raw;
use crate::status::{Failure, PORTCULLIS_BUSY, PORTCULLIS_POISONED};
use crate::types::{portcullis_flow, portcullis_judgement, portcullis_packet};

/// Judges packets and flows for one thread: make one for each. All judges of an engine share its
/// connections and policies.
pub struct portcullis_judge {
    _opaque: [u8; 0],
}

pub(crate) struct Bench {
    judge: Mutex<Judge>,
    engine: std::sync::Arc<Held<portcullis_core::Engine>>,
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
    handle::with::<portcullis_core::Engine>(engine, |held| {
        raw::required(out)?;
        let engine = portcullis_core::Engine::table().find(engine)?;
        let judge = Mutex::new(held.object.judge());
        let judge = JUDGES.insert(Bench { judge, engine })?;
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
    handle::without(|| {
        let text = JUDGES.find(judge)?.error();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

/// Judges packets in order: `out[n]` is what becomes of `packets[n]`. Connections are tracked: an
/// answer passes because its question did.
///
/// `now`: the time in nanoseconds, which should not go back, for replays; 0 is the engine's own clock.
/// `out`: room for `count` judgements; written only if the call succeeds. After any other status no
/// packet of the batch may pass.
///
/// Hand over 32 packets or more at a time. One thread at a time (`PORTCULLIS_BUSY`). No allocation, no
/// lock that others hold for long, no system call.
///
/// # Safety
/// `packets` points to `count` packets whose `data` point to `len` bytes each; `out` to room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_judge_packets(
    judge: *const portcullis_judge,
    now: u64,
    packets: *const portcullis_packet,
    count: usize,
    out: *mut portcullis_judgement,
) -> i32 {
    handle::with::<Bench>(judge, |held| {
        let bench = &held.object;
        // SAFETY: by this function's contract.
        let packets = unsafe { raw::slice(packets, count) }?;
        // SAFETY: by this function's contract.
        let out = unsafe { raw::slice_mut(out, count) }?;
        // Nothing is judged, and nothing written, unless all can be.
        for packet in packets {
            // SAFETY: by this function's contract.
            unsafe { raw::slice(packet.data, packet.len) }?;
        }
        bench.with_judge(|judge| {
            let mut judgements = [Judgement::default(); CHUNK];
            for (packets, out) in packets.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
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
            }
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
/// `flows` points to `count` flows, `out` to room for as many judgements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_judge_flows(
    judge: *const portcullis_judge,
    flows: *const portcullis_flow,
    count: usize,
    out: *mut portcullis_judgement,
) -> i32 {
    handle::with::<Bench>(judge, |held| {
        let bench = &held.object;
        // SAFETY: by this function's contract.
        let flows = unsafe { raw::slice(flows, count) }?;
        // SAFETY: by this function's contract.
        let out = unsafe { raw::slice_mut(out, count) }?;
        for flow in flows {
            flow.read()?;
        }
        bench.with_judge(|judge| {
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
    fn with_judge(
        &self,
        call: impl FnOnce(&mut Judge) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.engine.is_poisoned() {
            return Err(PORTCULLIS_POISONED.into());
        }
        match self.judge.try_lock() {
            Ok(mut judge) => call(&mut judge),
            Err(std::sync::TryLockError::WouldBlock) => Err(PORTCULLIS_BUSY.into()),
            Err(std::sync::TryLockError::Poisoned(_)) => Err(PORTCULLIS_POISONED.into()),
        }
    }
}
