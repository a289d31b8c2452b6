//! Firewalls: an engine on a wire between two interfaces.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use crate::engine::{Managed, portcullis_engine};
#[cfg(feature = "xdp")]
use crate::handle::Table;
use crate::handle::{self};
use crate::raw::{self, Growable};
#[cfg(feature = "xdp")]
use crate::status::PORTCULLIS_SYSTEM;
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

/// What the kernel counted on one socket. It grows at the end: `portcullis_firewall_sockets` takes its
/// size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct portcullis_socket {
    /// Which interface: 0 or 1, as for `portcullis_firewall_port`.
    pub port: u32,
    /// Which queue of it.
    pub queue: u32,
    /// Packets dropped for reasons of the socket: too long for a frame, or no frame.
    pub rx_dropped: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring was found empty.
    pub rx_fill_ring_empty: u64,
    /// Times the TX ring was found empty.
    pub tx_ring_empty: u64,
    /// Descriptors that the kernel did not take: zero, or a mistake of this library.
    pub invalid_descriptors: u64,
}

// SAFETY: `repr(C)`, integers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_socket {
    const FIRST: usize = size_of::<Self>();
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
/// `out`: the firewall; stop and free it with `portcullis_firewall_stop`. Starts threads named
/// `portcullis` that block every signal which can be blocked with sense, so that the program's
/// handlers never run on them.
///
/// # Safety
/// `config` begins with its size, its texts are NUL-terminated; `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_start(
    engine: *const portcullis_engine,
    config: *const portcullis_firewall_config,
    out: *mut *mut portcullis_firewall,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
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

/// The text of the last call on this firewall that failed with one; see `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_error(
    firewall: *const portcullis_firewall,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    error(firewall, |text| {
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(text, buffer, size, needed) }
    })
}

/// Why the preferred mode was not to be had; empty if it was. Buffer and sizes as in
/// `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_lesser_mode(
    firewall: *const portcullis_firewall,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    lesser_mode(firewall, |text| {
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(text, buffer, size, needed) }
    })
}

/// What the kernel counted on the socket of each queue, since it was opened: the queues of the first
/// interface, then those of the second. One system call a socket.
///
/// `socket_size`: `sizeof(portcullis_socket)`. `capacity`: room in `sockets`; what is beyond is left
/// out. `count`: how many there are.
///
/// # Safety
/// `sockets` has room for `capacity` sockets of that size, `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_sockets(
    firewall: *const portcullis_firewall,
    sockets: *mut portcullis_socket,
    socket_size: usize,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    self::sockets(firewall, |found| {
        raw::required(count)?;
        raw::check_size::<portcullis_socket>(socket_size)?;
        let bytes = socket_size.checked_mul(capacity).ok_or(PORTCULLIS_BAD_VALUE)?;
        // SAFETY: by this function's contract.
        let room = unsafe { raw::slice_mut(sockets.cast::<u8>(), bytes) }?;
        for (room, socket) in room.chunks_exact_mut(socket_size).zip(found) {
            // SAFETY: the room is of that size.
            unsafe { raw::write_sized(room.as_mut_ptr().cast(), socket_size, *socket) }?;
        }
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, found.len()) };
        Ok(())
    })
}

#[cfg(feature = "xdp")]
mod running {
    use nix::sys::signal::{SigSet, SigmaskHow};
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
        let firewall = {
            let _blocked = Blocked::new();
            Firewall::attach(engine.clone(), wire)?
        };
        let firewall = FIREWALLS.insert(firewall)?;
        // SAFETY: the caller checked that it is there, by the contract of `portcullis_firewall_start`.
        unsafe { raw::write(out, firewall) };
        Ok(())
    }

    /// Signals are blocked in this thread, and in those that it starts, while this lives; but for
    /// those that tell a thread of its own mistake.
    struct Blocked(Option<SigSet>);

    impl Blocked {
        fn new() -> Self {
            use nix::sys::signal::Signal::*;
            let mut signals = SigSet::all();
            for mistake in [SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS] {
                signals.remove(mistake);
            }
            Self(signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
        }
    }

    impl Drop for Blocked {
        fn drop(&mut self) {
            if let Some(before) = self.0 {
                // It was a mask before; there is nobody to tell if it is none now.
                let _ = before.thread_set_mask();
            }
        }
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
            let ports = held.object.ports();
            let port = ports.get(index).ok_or(PORTCULLIS_BAD_VALUE)?;
            write(portcullis_port {
                struct_size: 0,
                name: fixed(&port.name),
                mode: fixed(&port.mode.to_string()),
                queues: port.queues as u32,
                mtu: port.mtu,
            })
        })
    }

    pub(super) fn error(
        firewall: *const portcullis_firewall,
        write: impl FnOnce(&str) -> Result<(), Failure>,
    ) -> i32 {
        handle::without(|| write(&FIREWALLS.find(firewall)?.error()))
    }

    pub(super) fn lesser_mode(
        firewall: *const portcullis_firewall,
        write: impl FnOnce(&str) -> Result<(), Failure>,
    ) -> i32 {
        handle::with::<Firewall>(firewall, |held| {
            write(&held.object.lesser_mode().unwrap_or_default())
        })
    }

    pub(super) fn sockets(
        firewall: *const portcullis_firewall,
        write: impl FnOnce(&[portcullis_socket]) -> Result<(), Failure>,
    ) -> i32 {
        handle::with::<Firewall>(firewall, |held| {
            let ports = held.object.ports();
            let found = held.object.socket_statistics().map_err(|error| {
                Failure::new(PORTCULLIS_SYSTEM, format_args!("error: cannot ask a socket: {error}"))
            })?;
            let mut sockets: Vec<_> = found
                .iter()
                .map(|(name, queue, numbers)| portcullis_socket {
                    port: ports.iter().position(|port| port.name == *name).unwrap_or(0) as u32,
                    queue: *queue,
                    rx_dropped: numbers.rx_dropped,
                    rx_ring_full: numbers.rx_ring_full,
                    rx_fill_ring_empty: numbers.rx_fill_ring_empty_descs,
                    tx_ring_empty: numbers.tx_ring_empty_descs,
                    invalid_descriptors: numbers.rx_invalid_descs + numbers.tx_invalid_descs,
                })
                .collect();
            sockets.sort_by_key(|socket| (socket.port, socket.queue));
            write(&sockets)
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
use running::{error, lesser_mode, port, sockets, start, stop};

#[cfg(not(feature = "xdp"))]
mod without {
    use super::*;
    use crate::status::{PORTCULLIS_BAD_HANDLE, PORTCULLIS_NO_XDP, PORTCULLIS_NULL, PORTCULLIS_OK};

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

    pub(super) fn error(
        firewall: *const portcullis_firewall,
        _: impl FnOnce(&str) -> Result<(), Failure>,
    ) -> i32 {
        if firewall.is_null() { PORTCULLIS_NULL } else { PORTCULLIS_BAD_HANDLE }
    }

    pub(super) fn lesser_mode(
        firewall: *const portcullis_firewall,
        _: impl FnOnce(&str) -> Result<(), Failure>,
    ) -> i32 {
        if firewall.is_null() { PORTCULLIS_NULL } else { PORTCULLIS_BAD_HANDLE }
    }

    pub(super) fn sockets(
        firewall: *const portcullis_firewall,
        _: impl FnOnce(&[portcullis_socket]) -> Result<(), Failure>,
    ) -> i32 {
        if firewall.is_null() { PORTCULLIS_NULL } else { PORTCULLIS_BAD_HANDLE }
    }

    pub(super) fn port(
        firewall: *const portcullis_firewall,
        _: usize,
        _: impl FnOnce(portcullis_port) -> Result<(), Failure>,
    ) -> i32 {
        if firewall.is_null() { PORTCULLIS_NULL } else { PORTCULLIS_BAD_HANDLE }
    }
}

#[cfg(not(feature = "xdp"))]
use without::{error, lesser_mode, port, sockets, start, stop};

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
