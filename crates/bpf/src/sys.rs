//! The unsafe corner: system calls that neither std nor libbpf-rs offers, and the memory shared with
//! the program.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use libbpf_rs::libbpf_sys;

/// `ETHTOOL_GCHANNELS` of linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `ETHTOOL_GDRVINFO` of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x3;

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo` of linux/ethtool.h: here only its first field matters.
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    driver: [u8; 32],
    _rest: [u8; 160],
}

pub(crate) fn interface_index(name: &CStr) -> Option<u32> {
    // SAFETY: `name` is a NUL-terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Whether an interface of this number is in this network namespace.
pub(crate) fn interface_exists(index: u32) -> bool {
    let mut name = [0; libc::IFNAMSIZ];
    // SAFETY: the buffer has the size that the call writes at most.
    !unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null()
}

pub(crate) fn interface_mtu(name: &CStr) -> io::Result<u32> {
    let mut request = interface_request(name);
    interface_ioctl(libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: a successful SIOCGIFMTU has filled this member of the union; every bit pattern is an
    // integer.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// Receive and transmit queues in use, combined ones counted on both sides.
pub(crate) fn interface_channels(name: &CStr) -> io::Result<(u32, u32)> {
    let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..Default::default() };
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut channels).cast();
    interface_ioctl(libc::SIOCETHTOOL, &mut request)?;
    Ok(((channels.rx + channels.combined).max(1), (channels.tx + channels.combined).max(1)))
}

/// The name of the driver, without the zeroes behind it.
pub(crate) fn interface_driver(name: &CStr) -> io::Result<Vec<u8>> {
    let mut info = EthtoolDriver { command: ETHTOOL_GDRVINFO, driver: [0; 32], _rest: [0; 160] };
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut info).cast();
    interface_ioctl(libc::SIOCETHTOOL, &mut request)?;
    Ok(info.driver.into_iter().take_while(|byte| *byte != 0).collect())
}

fn interface_request(name: &CStr) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = libc::IFNAMSIZ - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes().iter().take(room)) {
        *to = *from as libc::c_char;
    }
    request
}

fn interface_ioctl(call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was opened above and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the request is an ifreq, which is what both calls in use take; where it points to
    // data, that data lives in the caller's frame and has the layout that the call wants.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), call, ptr::from_mut(request)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Attaches an XDP program to an interface through a link; closing the answer detaches it.
pub(crate) fn link_xdp(program: BorrowedFd<'_>, index: u32, flags: u32) -> io::Result<OwnedFd> {
    link(program, index, libbpf_sys::BPF_XDP, flags)
}

/// Attaches a traffic control program to an interface's ingress, likewise. Linux 6.6.
pub(crate) fn link_tc(program: BorrowedFd<'_>, index: u32) -> io::Result<OwnedFd> {
    link(program, index, libbpf_sys::BPF_TCX_INGRESS, 0)
}

fn link(program: BorrowedFd<'_>, index: u32, to: u32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the options are plain data for which all zeroes is valid.
    let mut options: libbpf_sys::bpf_link_create_opts = unsafe { mem::zeroed() };
    options.sz = mem::size_of_val(&options) as _;
    options.flags = flags;
    // SAFETY: the program's descriptor is open and the options live through the call.
    let fd =
        unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), index as c_int, to, &options) };
    owned(fd)
}

/// Pins a BPF object, so that it outlives the process.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the descriptor is open and the path a NUL-terminated string.
    done(unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) })
}

/// Opens a pinned link.
pub(crate) fn pinned_link(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: the path is a NUL-terminated string.
    owned(unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) })
}

/// Puts another program in the place of the one that a link holds, at once.
pub(crate) fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open; no options.
    done(unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), ptr::null()) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The descriptor that a call of libbpf made, or its error.
fn owned(answer: c_int) -> io::Result<OwnedFd> {
    done(answer)?;
    // SAFETY: the call made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

fn done(answer: c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
}

/// The mode in which a program is attached to an interface: `XDP_ATTACHED_*` of linux/if_link.h.
pub(crate) fn attached_mode(index: u32) -> io::Result<u8> {
    // SAFETY: the options are plain data for which all zeroes is valid.
    let mut options: libbpf_sys::bpf_xdp_query_opts = unsafe { mem::zeroed() };
    options.sz = mem::size_of_val(&options) as _;
    // SAFETY: the options live through the call and their size is set.
    let answer = unsafe { libbpf_sys::bpf_xdp_query(index as c_int, 0, &mut options) };
    if answer < 0 {
        return Err(io::Error::from_raw_os_error(-answer));
    }
    Ok(options.attach_mode)
}

/// Runs a program once over `packet` as received on queue 0 of the loopback interface; answers its
/// return value and the packet it left.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    let mut left = vec![0; packet.len() + 512];
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: mem::size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        data_out: left.as_mut_ptr().cast(),
        data_size_out: left.len() as u32,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: both buffers live through the call and their sizes are set.
    let answer = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) };
    if answer < 0 {
        return Err(io::Error::from_raw_os_error(-answer));
    }
    left.truncate(options.data_size_out as usize);
    Ok((options.retval, left))
}

/// The kernel's answer behind a libbpf-rs error, which shows it in its text only: libbpf leaves the
/// number in errno as well.
pub(crate) fn os_error(error: &libbpf_rs::Error) -> io::Error {
    let last = io::Error::last_os_error();
    match last.raw_os_error() {
        Some(0) | None => io::Error::other(error.to_string()),
        Some(_) => last,
    }
}

/// The clock that the program compares heartbeats with (bpf_ktime_get_coarse_ns).
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the timespec lives through the call. This clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Memory of a BPF map, shared with the kernel.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: the memory is only reached as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn shared(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(base).map(|base| Self { base, len }).ok_or_else(io::Error::last_os_error)
    }

    /// The word at byte `offset`.
    ///
    /// # Panics
    /// If it does not lie within the mapping or is not aligned: an error of this crate.
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        // SAFETY: within the mapping, by the assertion.
        let word = unsafe { self.base.byte_add(offset) };
        // SAFETY: mappings are page-aligned and the offset is a multiple of eight; the memory is
        // mapped as long as `self` lives; the kernel writes whole words only.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `shared` with this length, and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr(), self.len) };
    }
}
