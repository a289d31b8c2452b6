//! The socket calls that xsk-rs does not offer.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::BusyPoll;

/// Options of level SOL_XDP, from linux/if_xdp.h.
const XDP_STATISTICS: c_int = 7;
const XDP_OPTIONS: c_int = 8;
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// Options of level SOL_SOCKET, from asm-generic/socket.h.
const SO_PREFER_BUSY_POLL: c_int = 69;
const SO_BUSY_POLL_BUDGET: c_int = 70;

/// What the kernel counted on one socket (XDP_STATISTICS), since it was made.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets dropped for reasons of the socket: too long for a frame, or no frame.
    pub rx_dropped: u64,
    /// Fill ring entries that name no chunk.
    pub rx_invalid_descs: u64,
    /// TX ring entries that name no packet.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring was found empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the TX ring was found empty.
    pub tx_ring_empty_descs: u64,
}

/// Reads the socket's statistics. One system call.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<Statistics> {
    let mut statistics = Statistics::default();
    option(socket, XDP_STATISTICS, &mut statistics)?;
    Ok(statistics)
}

/// Whether the socket is bound in zero-copy mode.
pub(super) fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut options = 0u32;
    option(socket, XDP_OPTIONS, &mut options)?;
    Ok(options & XDP_OPTIONS_ZEROCOPY != 0)
}

/// Lets one send call of copy mode handle up to `packets` (32 unless set). Linux 6.17; older kernels
/// answer an error and keep 32.
pub(super) fn set_tx_budget(socket: BorrowedFd<'_>, packets: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &packets)
}

/// Makes the socket's calls run the driver's receive work.
pub(super) fn set_busy_poll(socket: BorrowedFd<'_>, busy_poll: BusyPoll) -> io::Result<()> {
    let value = |number: u32| c_int::try_from(number).unwrap_or(c_int::MAX);
    for (name, value) in [
        (SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, value(busy_poll.microseconds)),
        (SO_BUSY_POLL_BUDGET, value(busy_poll.budget.into())),
    ] {
        set_option(socket, libc::SOL_SOCKET, name, &value)?;
    }
    Ok(())
}

/// Makes an interface receive packets for any link-layer address as long as the answer lives: the
/// kernel counts such memberships, so other users of the interface are not disturbed, and ends this
/// one with the process.
pub(super) fn promiscuous(interface: u32) -> io::Result<OwnedFd> {
    // Protocol 0: the socket itself receives nothing.
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: opened above, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let membership = libc::packet_mreq {
        mr_ifindex: interface as c_int,
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    Ok(socket)
}

/// Keeps the socket out of programs that the process starts, which libxdp does not: they would hold
/// the queue.
pub(super) fn close_on_exec(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let answer = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel look at the TX ring.
///
/// # Errors
/// The interface is down or gone. That the kernel is busy or short of memory is none: the ring
/// stays as it is and the next kick goes on.
#[inline]
pub(super) fn kick_tx(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an empty message: no memory is passed.
    let answer = unsafe {
        libc::sendto(socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0)
    };
    checked(answer)
}

/// Makes the kernel look at the fill ring.
///
/// # Errors
/// As [`kick_tx`].
#[inline]
pub(super) fn kick_rx(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an empty buffer: no memory is passed.
    let answer = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    checked(answer)
}

fn checked(answer: isize) -> io::Result<()> {
    if answer >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}

fn option<T: Copy>(socket: BorrowedFd<'_>, name: c_int, value: &mut T) -> io::Result<()> {
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, and the callers' types are plain integers, for
    // which every bit pattern is valid.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            name,
            ptr::from_mut(value).cast(),
            &mut len,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    let len = mem::size_of::<T>() as libc::socklen_t;
    let value = ptr::from_ref(value).cast();
    // SAFETY: the kernel reads at most `len` bytes of the value, which lives through the call.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
