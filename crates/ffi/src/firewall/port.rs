//! The interfaces of a firewall: what they are, what they counted, what becomes of them.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;

use super::{Running, portcullis_firewall};
use crate::handle;
use crate::raw::{self, Growable};
use crate::status::PORTCULLIS_BAD_VALUE;

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
    /// The name of its wire, NUL-terminated, cut if it is longer.
    pub wire: [c_char; 64],
    /// Bytes of packet memory of its wire.
    pub memory: u64,
    /// 1 if that lies in huge pages.
    pub huge_pages: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the kernel counted on one socket. It grows at the end: `portcullis_firewall_sockets` takes its
/// size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct portcullis_socket {
    /// Which interface, as `portcullis_firewall_port` counts them now.
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
    /// Descriptors in the fill ring that the kernel did not take: zero, or a mistake of this library.
    pub rx_invalid_descriptors: u64,
    /// The same in the TX ring.
    pub tx_invalid_descriptors: u64,
}

/// What the XDP program on one interface did with its packets. It grows at the end:
/// `portcullis_firewall_programs` takes its size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct portcullis_program {
    /// Which interface, as `portcullis_firewall_port` counts them now.
    pub port: u32,
    /// Zero.
    pub reserved: u32,
    /// Handed to the socket of their queue.
    pub to_socket: u64,
    /// Dropped, because their queue had no socket.
    pub miss_dropped: u64,
    /// Passed to the host's stack, because their queue had no socket.
    pub miss_passed: u64,
    /// Dropped, because their queue's worker had stalled.
    pub stale_dropped: u64,
    /// Passed to the host's stack, because their queue's worker had stalled.
    pub stale_passed: u64,
    /// Dropped, because of the early-drop set.
    pub early_dropped: u64,
}

/// Packets can flow.
pub const PORTCULLIS_PORT_UP: u32 = 1;
/// The interface was taken down, or its other end is.
pub const PORTCULLIS_PORT_DOWN: u32 = 2;
/// The interface is not there any more, or in another network namespace. It does not come back: one of
/// the same name is another one.
pub const PORTCULLIS_PORT_GONE: u32 = 3;

/// An interface is not what it was. It grows at the end: `portcullis_firewall_port_changes` takes its
/// size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_port_change {
    /// The interface, NUL-terminated.
    pub name: [c_char; 16],
    /// Which interface, as `portcullis_firewall_port` counts them now; the highest number if it was
    /// removed with its wire.
    pub port: u32,
    /// What it is now: `PORTCULLIS_PORT_...`; numbers that the caller does not know may come in later
    /// versions.
    pub state: u32,
    /// The name of its wire, NUL-terminated, cut if it is longer.
    pub wire: [c_char; 64],
}

// SAFETY: `repr(C)`, the size first, integers only.
unsafe impl Growable for portcullis_port {
    const FIRST: usize = core::mem::offset_of!(Self, wire);
}
// SAFETY: `repr(C)`, integers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_socket {
    const FIRST: usize = size_of::<Self>();
}
// SAFETY: `repr(C)`, integers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_program {
    const FIRST: usize = size_of::<Self>();
}
// SAFETY: `repr(C)`, integers only. (Functions take its size beside it.)
unsafe impl Growable for portcullis_port_change {
    const FIRST: usize = size_of::<Self>();
}

/// One of the interfaces in use, and the mode it really has.
///
/// `index`: from 0 on, wire by wire in the order in which they were added; `PORTCULLIS_BAD_VALUE`
/// beyond the last. Removing a wire moves those behind it.
///
/// # Safety
/// `out` points to a port whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_port(
    firewall: *const portcullis_firewall,
    index: usize,
    out: *mut portcullis_port,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        let port = held.object.port(index).ok_or(PORTCULLIS_BAD_VALUE)?;
        // SAFETY: by this function's contract.
        unsafe { raw::write_growable(out, port) }
    })
}

/// What the kernel counted on the socket of each queue, since it was opened: the queues of the first
/// interface, then those of the next. One system call a socket.
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
    handle::with::<Running>(firewall, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(sockets, socket_size, capacity) }?;
        let found = held.object.sockets()?;
        found.iter().for_each(|socket| room.put(*socket));
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, found.len()) };
        Ok(())
    })
}

/// What the XDP program on each interface did with its packets, since it was attached. A system call
/// an interface.
///
/// `program_size`: `sizeof(portcullis_program)`. `capacity`: room in `programs`; what is beyond is left
/// out. `count`: how many there are.
///
/// # Safety
/// `programs` has room for `capacity` of that size, `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_programs(
    firewall: *const portcullis_firewall,
    programs: *mut portcullis_program,
    program_size: usize,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(programs, program_size, capacity) }?;
        let found = held.object.programs()?;
        found.iter().for_each(|program| room.put(*program));
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, found.len()) };
        Ok(())
    })
}

/// Hands over which interfaces went down, came back or vanished since the last call (or the start), at
/// most `capacity`; the others wait for the next call. Only how it is now: nothing piles up if nobody
/// asks. Packets of an interface that comes back flow by themselves; a wire with an interface that
/// vanished is removed by this call, to be added again when the interface is back. No descriptor announces it: two
/// system calls an interface, so ask every second or so.
///
/// `change_size`: `sizeof(portcullis_port_change)`. `count`: how many were written; fewer than
/// `capacity` means that no more wait. Any thread; each change goes to one of several callers.
///
/// # Safety
/// `changes` has room for `capacity` of that size, `count` points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_port_changes(
    firewall: *const portcullis_firewall,
    changes: *mut portcullis_port_change,
    change_size: usize,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        raw::required(count)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::Rooms::new(changes, change_size, capacity) }?;
        let mut written = 0;
        held.object.port_changes(capacity, |change| {
            room.put(change);
            written += 1;
        })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(count, written) };
        Ok(())
    })
}
