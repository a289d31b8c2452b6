//! Whole frames in and out of an interface, as a capture sees them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The EtherType of local experiments (IEEE 802): no stack touches such frames.
pub(crate) const EXPERIMENT: u16 = 0x88b5;

/// A socket for frames of [`EXPERIMENT`] on one interface of the calling thread's namespace.
pub(crate) struct RawSocket(OwnedFd);

impl RawSocket {
    pub(crate) fn new(interface: &str) -> Self {
        let protocol = i32::from(EXPERIMENT.to_be());
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: opened above, owned by nobody else.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let name = CString::new(interface).unwrap();
        // SAFETY: all zeroes is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = EXPERIMENT.to_be();
        // SAFETY: the name is NUL-terminated.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
        // SAFETY: the address lives through the call and its size is given.
        let answer = unsafe {
            libc::bind(
                fd,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(answer, 0, "{interface}: {}", io::Error::last_os_error());
        socket.option(libc::SO_RCVBUFFORCE, &(64i32 << 20));
        socket
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let timeout = libc::timeval {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_usec: timeout.subsec_micros().into(),
        };
        self.option(libc::SO_RCVTIMEO, &timeout);
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the frame lives through the call and its length is given.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame; `None` when none comes in time.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 16_384];
        // SAFETY: the buffer lives through the call and its length is given.
        let len =
            unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(usize::try_from(len).ok()?);
        Some(frame)
    }

    fn option<T>(&self, name: i32, value: &T) {
        let len = size_of::<T>() as libc::socklen_t;
        let value = std::ptr::from_ref(value).cast();
        let fd = self.0.as_raw_fd();
        // SAFETY: the value lives through the call and its size is given.
        let answer = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, value, len) };
        assert_eq!(answer, 0, "{}", io::Error::last_os_error());
    }
}
