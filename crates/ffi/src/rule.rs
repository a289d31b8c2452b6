//! Rules that are named: whose packets are limited, and whose are copied to another interface.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use portcullis_core::dataplane::pipeline::{PacketRate, Unit};
use portcullis_core::policy::model::Direction;
use portcullis_core::{Mirrored, Rates, RuleName};

use crate::capture::verdicts;
use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};
use crate::types::flag;

/// Flows towards the endpoint that a policy selects.
pub const PORTCULLIS_INGRESS: u8 = 1;
/// Flows from it.
pub const PORTCULLIS_EGRESS: u8 = 2;

/// A rule, or all rules of a policy, as people name them. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_rule_name {
    /// The policy as events name it, such as `NetworkPolicy/shop/web`, NUL-terminated UTF-8.
    pub policy: *const c_char,
    /// `PORTCULLIS_INGRESS` or `PORTCULLIS_EGRESS`: its rules of one direction; 0: of both.
    pub direction: u8,
    /// 1: only the rule at `index`; 0: all, and the end of the policy's tier where that decides.
    pub one: u8,
    /// The place of the rule in its direction, from 0; 0 unless `one` is set.
    pub index: u32,
}

/// A rate counts packets.
pub const PORTCULLIS_PACKETS: u8 = 0;
/// A rate counts bytes of frames, Ethernet header included.
pub const PORTCULLIS_BYTES: u8 = 1;

/// How many packets or bytes may pass: a token bucket. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_rate {
    /// `PORTCULLIS_PACKETS` or `PORTCULLIS_BYTES`.
    pub unit: u8,
    /// So many a second, on average; 0 lets nothing pass.
    pub per_second: u64,
    /// So many at once after a silence; 0: as many as in a second. Bytes: at least those of the longest
    /// packet, or that never passes.
    pub burst: u64,
}

/// The rate of a rule. It grows at the end: `portcullis_engine_limit_rates` takes its size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_rule_rate {
    /// Whose it is. Each rule that the name means has a bucket of its own.
    pub rule: portcullis_rule_name,
    /// How many packets of the connections that it allowed may pass, both ways.
    pub rate: portcullis_rate,
}

/// Which packets are copied. Set all of it to zero, then `struct_size` to `sizeof`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_mirrored {
    /// `sizeof(portcullis_mirrored)`.
    pub struct_size: usize,
    /// Those that one of these rules decided; none: any rule, or no rule.
    pub rules: *const portcullis_rule_name,
    /// How many.
    pub rule_count: usize,
    /// Those with these verdicts: the sum of 1 for `PORTCULLIS_ALLOW`, 2 for `PORTCULLIS_DENY` and 4 for
    /// `PORTCULLIS_REJECT`; 0 is any.
    pub verdicts: u8,
}

// SAFETY: `repr(C)`, integers and raw pointers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_rule_rate {
    const FIRST: usize = size_of::<Self>();
}
// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_mirrored {
    const FIRST: usize = core::mem::offset_of!(Self, verdicts) + 1;
}

/// Limits how many packets pass, from now on, instead of what was limited before; packets beyond are
/// dropped (reason `rate_limit`). Names may be of rules that are loaded later
/// (`portcullis_engine_unknown_rules`). Buckets begin full, and are full again when rules are loaded that
/// have a limit and were never loaded before.
///
/// `identity`: of the connections that each identity opened, both ways; NULL: no limit. `rules`: of
/// several that mean one rule the last counts. `rule_size`: `sizeof(portcullis_rule_rate)`. Any thread.
///
/// # Safety
/// `identity` is NULL or points to a rate, `rules` has `count` of that size, whose texts are
/// NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_limit_rates(
    engine: *const portcullis_engine,
    identity: *const portcullis_rate,
    rules: *const portcullis_rule_rate,
    rule_size: usize,
    count: usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let mut rates = Rates::default();
        // SAFETY: by this function's contract.
        if let [rate] = unsafe { raw::slice(identity, usize::from(!identity.is_null())) }? {
            rates.identity = Some(rate.read()?);
        }
        let empty = portcullis_rule_rate::EMPTY;
        // SAFETY: by this function's contract.
        for limit in unsafe { raw::read_array(rules, rule_size, count, empty) }? {
            // SAFETY: by this function's contract.
            let name = unsafe { limit.rule.read() }?;
            rates.rules.push((name, limit.rate.read()?));
        }
        held.object.limit_rates(rates);
        Ok(())
    })
}

/// Copies packets to the interface `mirror` of the firewall's settings, from now on, instead of what was
/// copied before. Names may be of rules that are loaded later (`portcullis_engine_unknown_rules`).
/// Without such an interface nothing is copied; packets of judges are not: their caller has them.
///
/// `mirrored`: NULL to copy none. Any thread.
///
/// # Safety
/// `mirrored` is NULL or begins with its size, `rules` has as many as it says, their texts are
/// NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_mirror(
    engine: *const portcullis_engine,
    mirrored: *const portcullis_mirrored,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        if mirrored.is_null() {
            held.object.mirror(None);
            return Ok(());
        }
        // SAFETY: by this function's contract.
        let wanted = unsafe { raw::read_growable(mirrored, portcullis_mirrored::EMPTY) }?;
        let mut mirrored = Mirrored { verdicts: verdicts(wanted.verdicts)?, ..Mirrored::default() };
        // SAFETY: by this function's contract.
        for name in unsafe { raw::slice(wanted.rules, wanted.rule_count) }? {
            // SAFETY: by this function's contract.
            mirrored.rules.push(unsafe { name.read() }?);
        }
        held.object.mirror(Some(mirrored));
        Ok(())
    })
}

/// The names given to `portcullis_engine_limit_rates` and `portcullis_engine_mirror` that no rule loaded
/// so far has, a line `policy [ingress|egress] [rule N]` for each: perhaps misspelt. Buffer and sizes as
/// in `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_unknown_rules(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let lines: Vec<_> = held.object.unknown_rules().iter().map(words).collect();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&lines.join("\n"), buffer, size, needed) }
    })
}

impl portcullis_rule_name {
    const EMPTY: Self = Self { policy: core::ptr::null(), direction: 0, one: 0, index: 0 };

    /// # Safety
    /// `policy` is NULL or NUL-terminated.
    unsafe fn read(&self) -> Result<RuleName, Failure> {
        // SAFETY: by this function's contract.
        let policy = unsafe { raw::text(self.policy) }?.to_owned();
        let direction = match self.direction {
            0 => None,
            direction => Some(read_direction(direction)?),
        };
        let index = match (flag(self.one)?, self.index) {
            (true, index) => Some(index),
            (false, 0) => None,
            (false, index) => {
                let text = format_args!("error: {policy}: index {index} without `one`");
                return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
            }
        };
        Ok(RuleName { policy, direction, index })
    }
}

pub(crate) fn read_direction(direction: u8) -> Result<Direction, Failure> {
    match direction {
        PORTCULLIS_INGRESS => Ok(Direction::Ingress),
        PORTCULLIS_EGRESS => Ok(Direction::Egress),
        _ => {
            let text = format_args!("error: direction {direction}: 1 is ingress, 2 is egress");
            Err(Failure::new(PORTCULLIS_BAD_VALUE, text))
        }
    }
}

impl portcullis_rate {
    fn read(&self) -> Result<PacketRate, Failure> {
        let Self { unit, per_second, burst } = *self;
        let unit = match unit {
            PORTCULLIS_PACKETS => Unit::Packets,
            PORTCULLIS_BYTES => Unit::Bytes,
            _ => {
                let text = format_args!("error: unit {unit} of a rate: 0 is packets, 1 is bytes");
                return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
            }
        };
        Ok(PacketRate { unit, per_second, burst: if burst == 0 { per_second } else { burst } })
    }
}

impl portcullis_rule_rate {
    const EMPTY: Self = Self {
        rule: portcullis_rule_name::EMPTY,
        rate: portcullis_rate { unit: 0, per_second: 0, burst: 0 },
    };
}

impl portcullis_mirrored {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        rules: core::ptr::null(),
        rule_count: 0,
        verdicts: 0,
    };
}

fn words(name: &RuleName) -> String {
    let direction = match name.direction {
        Some(Direction::Ingress) => " ingress",
        Some(Direction::Egress) => " egress",
        None => "",
    };
    let index = name.index.map_or(String::new(), |index| format!(" rule {index}"));
    format!("{}{direction}{index}", name.policy)
}
