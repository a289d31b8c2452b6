//! Firewalls: an engine on a wire between two interfaces.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use crate::engine::portcullis_engine;
#[cfg(feature = "xdp")]
use crate::handle::Table;
use crate::handle::{self};
use crate::raw::{self, Growable};
#[cfg(feature = "xdp")]
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};

/// A running firewall. Calls on it may come from any threads.
pub struct portcullis_firewall {
    _opaque: [u8; 0],
}

/// Zero-copy if both interfaces have it, else the next lesser mode (the default).
pub const PORTCULLIS_MODE_PREFER_ZEROCOPY: u8 = 0;
/// Zero-copy or an error.
pub const PORTCULLIS_MODE_REQUIRE_ZEROCOPY: u8 = 1;
/// Copy mode with the program in the driver, else generic.
pub const PORTCULLIS_MODE_PREFER_COPY: u8 = 2;
/// Copy mode with the program in the driver, or an error.
pub const PORTCULLIS_MODE_REQUIRE_COPY: u8 = 3;
/// Generic mode, which every driver has.
pub const PORTCULLIS_MODE_GENERIC: u8 = 4;

/// Packets that no live worker takes are dropped (the default).
pub const PORTCULLIS_FAIL_CLOSED: u8 = 0;
/// Packets that no live worker takes go to the host's network stack.
pub const PORTCULLIS_FAIL_OPEN: u8 = 1;

/// Settings of a firewall. Set all of it to zero, then `struct_size` to `sizeof`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_firewall_config {
    /// `sizeof(portcullis_firewall_config)`.
    pub struct_size: usize,
    /// One end of the wire: the name of an interface in the calling thread's network namespace.
    pub a: *const c_char,
    /// The other end.
    pub b: *const c_char,
    /// Worker threads; 0 is one. At most one for each queue of the interfaces.
    pub workers: u32,
    /// `PORTCULLIS_MODE_...`.
    pub mode: u8,
    /// `PORTCULLIS_FAIL_...`.
    pub fail: u8,
}

/// One interface in use. Set `struct_size` first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_port {
    /// `sizeof(portcullis_port)`.
    pub struct_size: usize,
    /// Its name, NUL-terminated.
    pub name: [c_char; 16],
    /// The mode that the kernel reports, for people, NUL-terminated.
    pub mode: [c_char; 64],
    /// Queues in use: all it has.
    pub queues: u32,
    /// MTU in bytes.
    pub mtu: u32,
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_firewall_config {
    const FIRST: usize = core::mem::offset_of!(Self, fail) + 1;
}
// SAFETY: as above.
unsafe impl Growable for portcullis_port {
    const FIRST: usize = size_of::<Self>();
}

/// Opens the interfaces in the calling thread's network namespace and starts forwarding by what is in
/// force on `engine`. Packets flow when this returns. If it fails nothing stays attached, and the
/// engine's error text says why.
///
/// `out`: the firewall; stop and free it with `portcullis_firewall_stop`. Starts threads, with all
/// signals of the process blocked as the calling thread has them.
///
/// # Safety
/// `config` begins with its size, its texts are NUL-terminated; `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_start(
    engine: *const portcullis_engine,
    config: *const portcullis_firewall_config,
    out: *mut *mut portcullis_firewall,
) -> i32 {
    handle::with::<portcullis_core::Engine>(engine, |held| {
        raw::required(out)?;
        raw::required(config)?;
        // SAFETY: by this function's contract.
        let config = unsafe { raw::read_growable(config, portcullis_firewall_config::EMPTY) }?;
        // SAFETY: by this function's contract.
        let a = unsafe { raw::text(config.a) }?;
        // SAFETY: by this function's contract.
        let b = unsafe { raw::text(config.b) }?;
        start(&held.object, &config, (a, b), out)
    })
}

/// Stops the workers, lets frames in transmission leave, takes the programs off the interfaces and
/// frees the firewall. NULL is fine; a firewall that was stopped already is `PORTCULLIS_BAD_HANDLE`.
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_firewall_stop(firewall: *mut portcullis_firewall) -> i32 {
    stop(firewall)
}

/// One of the interfaces in use, and the mode it really has.
///
/// `index`: 0 or 1; `PORTCULLIS_BAD_VALUE` beyond.
///
/// # Safety
/// `out` points to a port whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_port(
    firewall: *const portcullis_firewall,
    index: usize,
    out: *mut portcullis_port,
) -> i32 {
    port(firewall, index, |value| {
        // SAFETY: by this function's contract.
        unsafe { raw::write_growable(out, value) }
    })
}

#[cfg(feature = "xdp")]
mod running {
    use portcullis_core::Firewall;
    use portcullis_core::dataplane::port::xdp::{FailureMode, Mode, ModePolicy};

    use super::*;
    use crate::handle::Object;

    static FIREWALLS: Table<Firewall> = Table::new();

    impl Object for Firewall {
        type Opaque = portcullis_firewall;
        const KIND: usize = 0x55;
        fn table() -> &'static Table<Self> {
            &FIREWALLS
        }
    }

    pub(super) fn start(
        engine: &portcullis_core::Engine,
        config: &portcullis_firewall_config,
        (a, b): (&str, &str),
        out: *mut *mut portcullis_firewall,
    ) -> Result<(), Failure> {
        let mode = match config.mode {
            PORTCULLIS_MODE_PREFER_ZEROCOPY => ModePolicy::Prefer(Mode::ZeroCopy),
            PORTCULLIS_MODE_REQUIRE_ZEROCOPY => ModePolicy::Require(Mode::ZeroCopy),
            PORTCULLIS_MODE_PREFER_COPY => ModePolicy::Prefer(Mode::Copy),
            PORTCULLIS_MODE_REQUIRE_COPY => ModePolicy::Require(Mode::Copy),
            PORTCULLIS_MODE_GENERIC => ModePolicy::Require(Mode::Generic),
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        let fail = match config.fail {
            PORTCULLIS_FAIL_CLOSED => FailureMode::Closed,
            PORTCULLIS_FAIL_OPEN => FailureMode::Open,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        let workers = (config.workers as usize).max(1);
        let wire = portcullis_core::Config::wire(a, b).workers(workers).mode(mode).failure(fail);
        let firewall = FIREWALLS.insert(Firewall::attach(engine.clone(), wire)?)?;
        // SAFETY: the caller checked that it is there, by the contract of `portcullis_firewall_start`.
        unsafe { raw::write(out, firewall) };
        Ok(())
    }

    pub(super) fn stop(firewall: *mut portcullis_firewall) -> i32 {
        handle::free::<Firewall>(firewall)
    }

    pub(super) fn port(
        firewall: *const portcullis_firewall,
        index: usize,
        write: impl FnOnce(portcullis_port) -> Result<(), Failure>,
    ) -> i32 {
        handle::with::<Firewall>(firewall, |held| {
            let port = held.object.ports().get(index).ok_or(PORTCULLIS_BAD_VALUE)?;
            write(portcullis_port {
                struct_size: 0,
                name: fixed(&port.name),
                mode: fixed(&port.mode.to_string()),
                queues: port.queues as u32,
                mtu: port.mtu,
            })
        })
    }

    /// Text in an array, cut so that a NUL ends it.
    fn fixed<const N: usize>(text: &str) -> [c_char; N] {
        let mut array = [0; N];
        for (room, byte) in array[..N - 1].iter_mut().zip(text.bytes()) {
            *room = byte as c_char;
        }
        array
    }
}

#[cfg(feature = "xdp")]
use running::{port, start, stop};

#[cfg(not(feature = "xdp"))]
mod without {
    use super::*;
    use crate::status::{Failure, PORTCULLIS_BAD_HANDLE, PORTCULLIS_NO_XDP, PORTCULLIS_OK};

    pub(super) fn start(
        _: &portcullis_core::Engine,
        _: &portcullis_firewall_config,
        _: (&str, &str),
        _: *mut *mut portcullis_firewall,
    ) -> Result<(), Failure> {
        Err(PORTCULLIS_NO_XDP.into())
    }

    pub(super) fn stop(firewall: *mut portcullis_firewall) -> i32 {
        if firewall.is_null() { PORTCULLIS_OK } else { PORTCULLIS_BAD_HANDLE }
    }

    pub(super) fn port(
        _: *const portcullis_firewall,
        _: usize,
        _: impl FnOnce(portcullis_port) -> Result<(), Failure>,
    ) -> i32 {
        PORTCULLIS_BAD_HANDLE
    }
}

#[cfg(not(feature = "xdp"))]
use without::{port, start, stop};

impl portcullis_firewall_config {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        a: core::ptr::null(),
        b: core::ptr::null(),
        workers: 0,
        mode: 0,
        fail: 0,
    };
}
