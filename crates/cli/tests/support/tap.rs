//! Every frame that an interface sends and receives, as the kernel shows it to a capture.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Namespace;

/// A frame that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    /// All of it, VLAN tags included.
    pub(crate) frame: Vec<u8>,
    /// The interface sent it; else it received it.
    pub(crate) sent: bool,
    /// Its transport checksum was left to hardware.
    pub(crate) unfinished: bool,
}

/// A capture on a thread of its own.
pub(crate) struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Captured>, u32)>,
}

impl Tap {
    /// Captures everything on `interface` of a namespace from now on.
    pub(crate) fn open(namespace: &Namespace, interface: &str) -> Self {
        let index = namespace.run(|| crate::lab::interface::index(interface)).unwrap().unwrap();
        let socket = namespace.run(|| socket(index, libc::ETH_P_ALL)).unwrap().unwrap();
        let stop = Arc::<AtomicBool>::default();
        let done = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut frames = Vec::new();
            loop {
                match receive(&socket) {
                    Ok(frame) => frames.push(frame),
                    Err(_) if done.load(Ordering::Relaxed) => return (frames, missed(&socket)),
                    Err(_) => {}
                }
            }
        });
        Self { stop, thread }
    }

    /// What was captured until nothing more came for a moment. Nothing may have been missed.
    pub(crate) fn close(self) -> Vec<Captured> {
        std::thread::sleep(Duration::from_millis(300));
        self.stop.store(true, Ordering::Relaxed);
        let (frames, missed) = self.thread.join().unwrap();
        assert_eq!(missed, 0, "the capture itself missed frames");
        frames
    }
}

/// Receives frames of one protocol; of none with 0.
fn socket(index: u32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed. Protocol 0: nothing comes before it is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: opened above, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(256i32 << 20))?;
    option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
    let patience = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives through the call and its size is given.
    let answer = unsafe { libc::bind(fd, std::ptr::from_ref(&address).cast(), len) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value lives through the call and its size is given.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The next frame, with the VLAN tag that the kernel takes out put back.
fn receive(socket: &OwnedFd) -> io::Result<Captured> {
    let mut frame = vec![0u8; 70_000];
    let mut control = [0u64; 16];
    // SAFETY: all zeroes is a valid address.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
    // SAFETY: all zeroes is a valid header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = std::ptr::from_mut(&mut from).cast();
    header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: all buffers live through the call and their sizes are given.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, 0) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    frame.truncate(len);
    let mut captured =
        Captured { frame, sent: from.sll_pkttype == libc::PACKET_OUTGOING, unfinished: false };
    // SAFETY: the header was filled in by the call.
    let message = unsafe { libc::CMSG_FIRSTHDR(&header) };
    if !message.is_null() {
        // SAFETY: the one message asked for is this one.
        let data = unsafe { libc::CMSG_DATA(message) };
        // SAFETY: it carries a tpacket_auxdata, perhaps not aligned.
        let aux = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
        captured.unfinished = aux.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
        if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
            let tag = [aux.tp_vlan_tpid.to_be_bytes(), aux.tp_vlan_tci.to_be_bytes()].concat();
            captured.frame.splice(12..12, tag);
        }
    }
    Ok(captured)
}

/// Frames for which there was no room.
fn missed(socket: &OwnedFd) -> u32 {
    let mut statistics = [0u32; 2];
    let mut len = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the kernel writes two numbers.
    unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &mut len,
        )
    };
    statistics[1]
}

/// Sends whole frames out of an interface, with pauses: the kernel deals the frames of such a socket
/// to the interface's queues as it likes, and between queues there is no order.
pub(crate) fn send(namespace: &Namespace, interface: &str, frames: &[Vec<u8>]) {
    let index = namespace.run(|| crate::lab::interface::index(interface)).unwrap().unwrap();
    let socket = namespace.run(|| socket(index, 0)).unwrap().unwrap();
    for frame in frames {
        // SAFETY: the frame lives through the call and its length is given.
        let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends many frames, with pauses that let a build with checks on a busy machine follow.
pub(crate) fn pour(namespace: &Namespace, interface: &str, frames: &[Vec<u8>]) {
    let index = namespace.run(|| crate::lab::interface::index(interface)).unwrap().unwrap();
    let socket = namespace.run(|| socket(index, 0)).unwrap().unwrap();
    for frames in frames.chunks(32) {
        for frame in frames {
            // SAFETY: the frame lives through the call and its length is given.
            let sent =
                unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Frames sent over and over from a thread of its own, some 30,000 a second: far more than any
/// workload opens connections, and no more than a build with checks can judge on a busy machine.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    /// Begins.
    pub(crate) fn start(namespace: &Namespace, interface: &str, frames: Vec<Vec<u8>>) -> Self {
        let index = namespace.run(|| crate::lab::interface::index(interface)).unwrap().unwrap();
        let socket = namespace.run(|| socket(index, 0)).unwrap().unwrap();
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (done, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            for frames in frames.chunks(32).cycle() {
                for frame in frames {
                    let (data, len) = (frame.as_ptr().cast(), frame.len());
                    // SAFETY: the frame lives through the call and its length is given.
                    let answer = unsafe { libc::send(socket.as_raw_fd(), data, len, 0) };
                    counter.fetch_add(u64::from(answer > 0), Ordering::Relaxed);
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, sent, thread }
    }

    /// How many were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
