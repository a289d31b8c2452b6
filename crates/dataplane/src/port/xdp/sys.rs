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

/// What an interface is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkState {
    /// Packets can flow.
    Up,
    /// Taken down, or its other end is.
    Down,
    /// Not there any more, or in another network namespace. It does not come back: an interface made
    /// anew is another one, whatever its name.
    Gone,
}

impl LinkState {
    /// The stable name: `up`, `down` or `gone`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Gone => "gone",
        }
    }
}

/// A socket to ask after interfaces of the calling thread's network namespace.
pub(super) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers go in, a descriptor or an error comes out.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The state of the interface with this number in the namespace of a [`control_socket`]. Two system
/// calls.
pub(super) fn link_state(socket: BorrowedFd<'_>, index: u32) -> io::Result<LinkState> {
    // SAFETY: an all-zero ifreq is a value: names and unions of numbers.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = index as c_int;
    match interface_ioctl(socket, libc::SIOCGIFNAME, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(LinkState::Gone),
        result => result?,
    }
    // By name, which the call before has filled in.
    match interface_ioctl(socket, libc::SIOCGIFFLAGS, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(LinkState::Gone),
        result => result?,
    }
    // SAFETY: the call has written the flags.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let flowing = libc::IFF_UP | libc::IFF_RUNNING;
    Ok(if flags & flowing == flowing { LinkState::Up } else { LinkState::Down })
}

fn interface_ioctl(
    socket: BorrowedFd<'_>,
    call: libc::Ioctl,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: the descriptor is open, and both calls read and write one ifreq.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), call, ptr::from_mut(request)) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn ip(arguments: &str) -> bool {
        Command::new("ip").args(arguments.split(' ')).status().is_ok_and(|status| status.success())
    }

    #[test]
    fn links_go_down_come_back_and_vanish() {
        // In a namespace of its own, which ends with the thread; asked from outside of it.
        let inside = std::thread::spawn(|| {
            // SAFETY: moves this thread alone into a new network namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return None;
            }
            assert!(ip("link add t0 type veth peer name t1"));
            assert!(ip("link set t1 up") && ip("link set t0 up"));
            let socket = control_socket().unwrap();
            // SAFETY: a string that ends with NUL.
            let index = unsafe { libc::if_nametoindex(c"t0".as_ptr()) };
            let ask = || {
                let socket = socket.as_fd();
                std::thread::scope(|scope| {
                    scope.spawn(|| link_state(socket, index).unwrap()).join().unwrap()
                })
            };
            // The state of the other end travels by a work queue of the kernel's.
            let ask_until = |settled: &dyn Fn(LinkState) -> bool| {
                for _ in 0..500 {
                    if settled(ask()) {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                ask()
            };
            let mut seen = vec![ask_until(&|state| state == LinkState::Up)];
            for change in ["link set t1 down", "link set t1 up", "link set t0 down", "link del t0"]
            {
                assert!(ip(change));
                let before = seen.last().copied();
                seen.push(ask_until(&|state| Some(state) != before));
            }
            Some(seen)
        });
        let Some(seen) = inside.join().unwrap() else {
            return println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
        };
        use LinkState::{Down, Gone, Up};
        assert_eq!(seen, [Up, Down, Up, Down, Gone]);
    }
}
