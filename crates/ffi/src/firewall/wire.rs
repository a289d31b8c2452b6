//! Wires that come and go, and what the kernel drops before them.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use super::{Running, portcullis_firewall};
use crate::handle;
use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};
use crate::types::{flag, portcullis_prefix};

/// Interfaces that belong together. Set all of it to zero, then `struct_size` to `sizeof`. Texts are
/// NUL-terminated.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_wire {
    /// `sizeof(portcullis_wire)`.
    pub struct_size: usize,
    /// An interface of the calling thread's network namespace.
    pub a: *const c_char,
    /// The other end: what comes in at one leaves, if allowed, at the other. NULL: what comes in at
    /// `a` leaves there, if allowed (a hairpin).
    pub b: *const c_char,
    /// What it is called; NULL is `a:b`, or `a`.
    pub name: *const c_char,
    /// 1: rings of 128 packets and 256 frames a queue, as becomes a link to one pod.
    pub small_rings: u8,
    /// Further interfaces, up to 64 in all: then all of them are a switch, which must have a `name`. What
    /// comes in at one leaves, if allowed, at the one behind which its destination spoke last, and at
    /// all others if that is not known or means a group.
    pub others: *const *const c_char,
    /// How many.
    pub other_count: usize,
    /// Of a switch: milliseconds for which an address is remembered that says nothing; 300 s unless set.
    pub learn_age_ms: u32,
    /// Of a switch: addresses behind each interface that are remembered; 1024 unless set, at most a
    /// million.
    pub learn_addresses: u32,
    /// Of a switch: packets a second from each interface that go to all others, because they are for
    /// groups, for everybody or for addresses that are not known; more are dropped. 1000 unless set, and
    /// none if it is the highest number.
    pub floods_per_second: u32,
    /// Of a switch: how many of these at once after a silence; as many as in a second unless set.
    pub floods_burst: u32,
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_wire {
    const FIRST: usize = core::mem::offset_of!(Self, others);
}

/// What [`portcullis_wire`] says.
#[cfg_attr(not(feature = "xdp"), allow(dead_code, reason = "nobody asks"))]
pub(super) struct Wanted<'a> {
    pub(super) a: &'a str,
    pub(super) b: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) small: bool,
    pub(super) others: Vec<&'a str>,
    pub(super) learning: Learning,
}

/// How a switch learns and floods; 0 is the default of each.
#[cfg_attr(not(feature = "xdp"), allow(dead_code, reason = "nobody asks"))]
pub(super) struct Learning {
    pub(super) age_ms: u32,
    pub(super) addresses: u32,
    pub(super) floods: Option<(u32, u32)>,
}

const MOST_ADDRESSES: u32 = 1 << 20;
const MOST_A_SECOND: u32 = 4_000_001;

/// Opens the interfaces of a wire in the calling thread's network namespace and gives them to the
/// workers. Packets flow through it when this returns; those of other wires do not wait. Some
/// milliseconds. A wire of the same name, or with one of these interfaces, is replaced if it is of no
/// use any more because interfaces of it have vanished; else it is `PORTCULLIS_INTERFACE`. If it fails nothing has changed, and the
/// firewall's error text says why. Any thread; one wire after the other.
///
/// # Safety
/// `wire` begins with its size, its texts are NUL-terminated, `others` has as many as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_add_wire(
    firewall: *const portcullis_firewall,
    wire: *const portcullis_wire,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        raw::required(wire)?;
        // SAFETY: by this function's contract.
        let wire = unsafe { raw::read_growable(wire, portcullis_wire::EMPTY) }?;
        // SAFETY: by this function's contract.
        let a = unsafe { raw::text(wire.a) }?;
        // SAFETY: by this function's contract.
        let b = unsafe { raw::optional_text(wire.b) }?;
        // SAFETY: by this function's contract.
        let name = unsafe { raw::optional_text(wire.name) }?;
        let small = flag(wire.small_rings)?;
        let mut others = Vec::new();
        // SAFETY: by this function's contract.
        for other in unsafe { raw::slice(wire.others, wire.other_count) }? {
            // SAFETY: by this function's contract.
            others.push(unsafe { raw::text(*other) }?);
        }
        if !others.is_empty() && (b.is_none() || name.is_none()) {
            let text = "error: a switch needs `a`, `b` and a name";
            return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
        }
        let learning = wire.learning(!others.is_empty())?;
        held.object.add_wire(&Wanted { a, b, name, small, others, learning })
    })
}

/// Takes a wire out, by its name: waits a short while for frames in transmission, takes the programs
/// off its interfaces and gives back all memory. Its connections stay until they time out. Some
/// milliseconds; other wires do not wait. `PORTCULLIS_NO_SUCH_WIRE` if there is none. Any thread.
///
/// # Safety
/// `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_remove_wire(
    firewall: *const portcullis_firewall,
    name: *const c_char,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        // SAFETY: by this function's contract.
        let name = unsafe { raw::text(name) }?;
        held.object.remove_wire(name)
    })
}

/// The names of the wires, a line each, in the order in which they were added. Buffer and sizes as in
/// `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_wires(
    firewall: *const portcullis_firewall,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&held.object.wires(), buffer, size, needed) }
    })
}

/// Makes the kernel drop packets from exactly these prefixes, on all interfaces and in either
/// direction, before any worker sees them: no policy, no record, only a count (`early_dropped` of
/// `portcullis_firewall_programs`). For floods, and for feeds that no policy excepts; what policies are
/// to see belongs into a set. Wires that are added later drop them too.
///
/// Needs `early_drop_capacity` of the firewall's settings; `PORTCULLIS_INTERFACE`, and nothing is
/// changed, if they are more. A system call for each prefix that is there or comes, on each interface.
/// Any thread.
///
/// # Safety
/// `prefixes` has `count` prefixes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_replace_early_drop(
    firewall: *const portcullis_firewall,
    prefixes: *const portcullis_prefix,
    count: usize,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        // SAFETY: by this function's contract.
        let prefixes = unsafe { raw::slice(prefixes, count) }?;
        let prefixes: Vec<_> =
            prefixes.iter().map(portcullis_prefix::read).collect::<Result<_, _>>()?;
        held.object.replace_early_drop(&prefixes)
    })
}

impl portcullis_wire {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        a: core::ptr::null(),
        b: core::ptr::null(),
        name: core::ptr::null(),
        small_rings: 0,
        others: core::ptr::null(),
        other_count: 0,
        learn_age_ms: 0,
        learn_addresses: 0,
        floods_per_second: 0,
        floods_burst: 0,
    };

    fn learning(&self, is_switch: bool) -> Result<Learning, Failure> {
        let Self { learn_age_ms, learn_addresses, floods_per_second, floods_burst, .. } = *self;
        let set = [learn_age_ms, learn_addresses, floods_per_second, floods_burst];
        if !is_switch && set != [0; 4] {
            let text = "error: only a switch learns and floods: name `others`";
            return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
        }
        if learn_addresses > MOST_ADDRESSES {
            let text = format_args!("error: learn_addresses {learn_addresses}: at most a million");
            return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
        }
        let floods = match (floods_per_second, floods_burst) {
            (0, 0) => None,
            (0, _) => {
                let text = "error: floods_burst without floods_per_second";
                return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
            }
            (u32::MAX, _) => Some((0, 0)),
            (many @ MOST_A_SECOND.., _) => {
                let text = format_args!("error: floods_per_second {many}: at most 4 million");
                return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
            }
            (many, 0) => Some((many, many)),
            (many, burst) => Some((many, burst)),
        };
        Ok(Learning { age_ms: learn_age_ms, addresses: learn_addresses, floods })
    }
}
