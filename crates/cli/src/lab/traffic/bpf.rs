//! The unsafe corner: loading, attaching and running BPF programs made here.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_rs::libbpf_sys as sys;

/// `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const NATIVE: u32 = 1 << 2;

/// An array of 64-bit numbers shared with programs.
#[derive(Debug)]
pub(super) struct Numbers(OwnedFd);

/// A loaded XDP program.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

/// A program on an interface; dropping it takes it off.
#[derive(Debug)]
pub(super) struct Link {
    _link: OwnedFd,
}

impl Numbers {
    pub(super) fn new(count: u32) -> io::Result<Self> {
        // SAFETY: the name is a NUL-terminated string, and no options are passed.
        let fd = unsafe {
            sys::bpf_map_create(sys::BPF_MAP_TYPE_ARRAY, NAME.as_ptr(), 4, 8, count, ptr::null())
        };
        owned(fd).map(Self)
    }

    /// The descriptor by which a program names the map.
    pub(super) fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }

    pub(super) fn read(&self, index: u32) -> io::Result<u64> {
        let mut value = 0u64;
        // SAFETY: key and value have the sizes with which the map was made, and live through the
        // call.
        let answer = unsafe {
            sys::bpf_map_lookup_elem(
                self.0.as_raw_fd(),
                ptr::from_ref(&index).cast(),
                ptr::from_mut(&mut value).cast(),
            )
        };
        checked(answer).map(|()| value)
    }

    pub(super) fn write(&self, index: u32, value: u64) -> io::Result<()> {
        // SAFETY: as in `read`.
        let answer = unsafe {
            sys::bpf_map_update_elem(
                self.0.as_raw_fd(),
                ptr::from_ref(&index).cast(),
                ptr::from_ref(&value).cast(),
                0,
            )
        };
        checked(answer)
    }
}

impl Program {
    pub(super) fn load(code: &[u64]) -> io::Result<Self> {
        // SAFETY: a bpf_insn is eight bytes, and the verifier judges what they say; name and
        // licence are NUL-terminated; no options are passed.
        let fd = unsafe {
            sys::bpf_prog_load(
                sys::BPF_PROG_TYPE_XDP,
                NAME.as_ptr(),
                c"Dual MIT/GPL".as_ptr(),
                code.as_ptr().cast(),
                code.len() as sys::size_t,
                ptr::null_mut(),
            )
        };
        owned(fd).map(Self)
    }

    /// Attaches the program to an interface of the calling thread's network namespace.
    pub(super) fn attach(&self, interface: u32) -> io::Result<Link> {
        // SAFETY: the options are plain data for which all zeroes is valid.
        let mut options: sys::bpf_link_create_opts = unsafe { std::mem::zeroed() };
        options.sz = std::mem::size_of_val(&options) as _;
        options.flags = NATIVE;
        // SAFETY: the descriptor is open and the options live through the call.
        let fd = unsafe {
            sys::bpf_link_create(self.0.as_raw_fd(), interface as i32, sys::BPF_XDP, &options)
        };
        owned(fd).map(|link| Link { _link: link })
    }

    /// Runs the program on `count` copies of `packet`, in batches of up to 64, and carries out what
    /// it answers. Answers the nanoseconds that a packet took on average, without those of getting
    /// going and of clearing up (which takes some milliseconds, mostly asleep).
    pub(super) fn run(&self, packet: &[u8], count: u32) -> io::Result<u32> {
        let mut options = sys::bpf_test_run_opts {
            sz: std::mem::size_of::<sys::bpf_test_run_opts>() as _,
            data_in: packet.as_ptr().cast(),
            data_size_in: packet.len() as u32,
            repeat: count.min(i32::MAX as u32) as i32,
            flags: sys::BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: count.clamp(1, 64),
            ..Default::default()
        };
        // SAFETY: the packet lives through the call and its length is given.
        checked(unsafe { sys::bpf_prog_test_run_opts(self.0.as_raw_fd(), &mut options) })?;
        Ok(options.duration)
    }
}

const NAME: &CStr = c"lab_traffic";

fn owned(fd: i32) -> io::Result<OwnedFd> {
    checked(fd)?;
    // SAFETY: the call that answered made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn checked(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
}
