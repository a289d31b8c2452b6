//! Engines: made, freed, and what they answer when something went wrong.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use core::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use portcullis_core::dataplane::connection::{OnFull, OnPolicyChange, Rate};
use portcullis_core::policy::{self, Diagnostic};
use portcullis_core::{Engine, EngineConfig};

use crate::capture::Desk;
use crate::handle::{self, Object, Table};
use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};
use crate::types::flag;

/// Policies over a cluster, and connections. Calls on one engine may come from any threads at once;
/// several engines know nothing of each other. Before something is applied every IP packet is dropped.
pub struct portcullis_engine {
    _opaque: [u8; 0],
}

static ENGINES: Table<Managed> = Table::new();

/// An engine, and what its documents gave reason to say.
pub(crate) struct Managed {
    pub(crate) engine: Engine,
    /// Findings of the last documents that were applied, a line each.
    pub(crate) warnings: Mutex<String>,
    pub(crate) desk: Desk,
}

impl std::ops::Deref for Managed {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Object for Managed {
    type Opaque = portcullis_engine;
    const KIND: usize = 0x51;
    fn table() -> &'static Table<Self> {
        &ENGINES
    }
}

/// A policy change leaves live connections alone.
pub const PORTCULLIS_KEEP: u8 = 1;

/// Live connections are judged again at their next packet (the default).
pub const PORTCULLIS_REJUDGE: u8 = 2;

/// Live connections are forgotten.
pub const PORTCULLIS_CUT: u8 = 3;

/// Settings of an engine. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
/// every field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_engine_config {
    /// `sizeof(portcullis_engine_config)`.
    pub struct_size: usize,
    /// Most connections at a time: at most 2^31.
    pub connections: usize,
    /// Events that wait at most, for each worker and judge: at most 2^24.
    pub event_capacity: usize,
    /// `PORTCULLIS_KEEP`, `PORTCULLIS_REJUDGE` or `PORTCULLIS_CUT`.
    pub on_policy_change: u8,
    /// 1: ARP is dropped.
    pub drop_arp: u8,
    /// 1: IPv6 neighbour discovery is judged like everything else.
    pub judge_neighbour_discovery: u8,
    /// 1: frames that are neither IP nor ARP pass.
    pub pass_non_ip: u8,
    /// 1: connections that are older than the engine may be picked up if the policy allows them.
    pub pick_up: u8,
    /// 1: programs are proved equal to the policies before they are published.
    pub prove: u8,
    /// 1: if the table is full the oldest idle connection makes room for a new one, which is refused
    /// else.
    pub evict_when_full: u8,
    /// 1: checksums that a veth left unfinished are not completed.
    pub leave_checksums: u8,
    /// Connections of each identity at a time, at most; 0 is no limit.
    pub identity_connections: u32,
    /// Of each identity, TCP connections at a time whose handshake is not finished.
    pub identity_half_open: u32,
    /// New connections of each identity a second: at most 4 million.
    pub identity_new_per_second: u32,
    /// New connections of each identity that may be saved up; a second's worth unless set.
    pub identity_new_burst: u32,
    /// Answers to senders of rejected packets a second, of each worker and judge; 1000 unless set.
    pub rejects_per_second: u32,
    /// Answers that may be saved up; 200 unless set.
    pub reject_burst: u32,
    /// Milliseconds after which an idle TCP connection is forgotten; 2 h 4 min unless set.
    pub tcp_timeout_ms: u32,
    /// The same of UDP that goes both ways; 3 min unless set.
    pub udp_timeout_ms: u32,
    /// Milliseconds for which it is remembered who had which identity, so that events read late carry
    /// the names of their time; 5 min unless set.
    pub retention_ms: u64,
    /// Dropped packets a second that are told one by one, of each worker and of the same identities,
    /// reason, rule and protocol; those beyond are told together, so that a flood costs a few events a
    /// second. 0: all are told one by one.
    pub denied_burst: u32,
}

// SAFETY: `repr(C)`, the size first, integers only.
unsafe impl Growable for portcullis_engine_config {
    const FIRST: usize = core::mem::offset_of!(Self, evict_when_full);
}

/// Makes an engine with nothing in force.
///
/// `config`: NULL for all defaults. `out`: the engine; free it with `portcullis_engine_free`. Any
/// thread.
///
/// # Safety
/// `config` is NULL or begins with its size; `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_new(
    config: *const portcullis_engine_config,
    out: *mut *mut portcullis_engine,
) -> i32 {
    handle::without(|| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        let config = unsafe { raw::read_growable(config, portcullis_engine_config::DEFAULT) }?;
        let engine = Engine::new(config.read()?)?;
        let engine = ENGINES.insert(Managed {
            engine,
            warnings: Mutex::default(),
            desk: Desk::default(),
        })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, engine) };
        Ok(())
    })
}

/// Frees an engine. Its judges and firewalls keep what they need until they are freed too. NULL is
/// fine; an engine that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_engine_free(engine: *mut portcullis_engine) -> i32 {
    handle::free::<Managed>(engine)
}

/// The text of the last call on this engine that failed with one, NUL-terminated UTF-8. Works on a
/// poisoned engine too.
///
/// `buffer`, `size`: where to; a size of 0 asks for `needed` only. `needed`: bytes needed, the NUL
/// included; may be NULL. `PORTCULLIS_TOO_SMALL` if the text does not fit: nothing is written to the
/// buffer then.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_error(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::without(|| {
        let text = ENGINES.find(engine)?.error();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

impl Managed {
    pub(crate) fn warn<'a>(&self, warnings: impl IntoIterator<Item = &'a Vec<Diagnostic>>) {
        let lines = warnings.into_iter().flatten().map(ToString::to_string);
        *handle::lock(&self.warnings) = lines.collect::<Vec<_>>().join("\n");
    }
}

const MOST_CONNECTIONS: usize = 1 << 31;

const MOST_EVENTS: usize = 1 << 24;
const MOST_A_SECOND: u32 = 4_000_000;

impl portcullis_engine_config {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        connections: 0,
        event_capacity: 0,
        on_policy_change: 0,
        drop_arp: 0,
        judge_neighbour_discovery: 0,
        pass_non_ip: 0,
        pick_up: 0,
        prove: 0,
        evict_when_full: 0,
        leave_checksums: 0,
        identity_connections: 0,
        identity_half_open: 0,
        identity_new_per_second: 0,
        identity_new_burst: 0,
        rejects_per_second: 0,
        reject_burst: 0,
        tcp_timeout_ms: 0,
        udp_timeout_ms: 0,
        retention_ms: 0,
        denied_burst: 0,
    };

    fn read(&self) -> Result<EngineConfig, Failure> {
        let mut config = EngineConfig::default();
        let pipeline = &mut config.pipeline;
        if self.connections > 0 {
            if self.connections > MOST_CONNECTIONS {
                return Err(PORTCULLIS_BAD_VALUE.into());
            }
            pipeline.connections.capacity = self.connections;
        }
        if self.event_capacity > 0 {
            if self.event_capacity > MOST_EVENTS {
                return Err(PORTCULLIS_BAD_VALUE.into());
            }
            pipeline.event_capacity = self.event_capacity;
        }
        pipeline.connections.on_policy_change = match self.on_policy_change {
            0 | PORTCULLIS_REJUDGE => OnPolicyChange::Rejudge,
            PORTCULLIS_KEEP => OnPolicyChange::Keep,
            PORTCULLIS_CUT => OnPolicyChange::Cut,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        pipeline.pass_arp = !flag(self.drop_arp)?;
        pipeline.pass_neighbour_discovery = !flag(self.judge_neighbour_discovery)?;
        pipeline.pass_non_ip = flag(self.pass_non_ip)?;
        pipeline.connections.pick_up = flag(self.pick_up)?;
        pipeline.denied_burst = NonZeroU32::new(self.denied_burst);
        pipeline.complete_checksums = !flag(self.leave_checksums)?;
        if flag(self.evict_when_full)? {
            pipeline.connections.on_full = OnFull::EvictOldest;
        }
        let set = |value: u32| (value > 0).then_some(value);
        let limits = &mut pipeline.connections.limits;
        limits.connections = set(self.identity_connections);
        limits.half_open = set(self.identity_half_open);
        limits.rate = set(self.identity_new_per_second).map(|per_second| Rate {
            per_second,
            burst: set(self.identity_new_burst).unwrap_or(per_second),
        });
        if self.identity_new_per_second > MOST_A_SECOND || self.rejects_per_second > MOST_A_SECOND {
            return Err(PORTCULLIS_BAD_VALUE.into());
        }
        let rejects = &mut pipeline.reject_rate;
        rejects.per_second = set(self.rejects_per_second).unwrap_or(rejects.per_second);
        rejects.burst = set(self.reject_burst).unwrap_or(rejects.burst);
        let timeouts = &mut pipeline.connections.timeouts;
        timeouts.tcp_established = set(self.tcp_timeout_ms).unwrap_or(timeouts.tcp_established);
        timeouts.udp = set(self.udp_timeout_ms).unwrap_or(timeouts.udp);
        if self.retention_ms > 0 {
            config.retention = Duration::from_millis(self.retention_ms);
        }
        if flag(self.prove)? {
            config.policy.prove = policy::Prove::Everything;
        }
        Ok(config)
    }
}
