//! What can go wrong between interface names and bound sockets, and what to do about it.

use std::io;

use super::{Mode, Obtained};

/// Why a group of ports could not be opened. Every message names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings that cannot be.
    #[error("{0}")]
    Config(String),

    /// The interface, or the program on it.
    #[error(transparent)]
    Program(#[from] portcullis_bpf::Error),

    /// Fewer transmit than receive queues: some queue would have no way out.
    #[error(
        "interface {interface}: {rx} RX but only {tx} TX queues in use; make them equal: `ethtool -L {interface} rx {tx} tx {tx}` (or combined {tx})"
    )]
    UnequalQueues {
        /// The interface.
        interface: String,
        /// Its receive queues.
        rx: u32,
        /// Its transmit queues.
        tx: u32,
    },

    /// Another AF_XDP socket is bound to the queue.
    #[error(
        "interface {interface}, queue {queue}: in use by another AF_XDP socket; stop the program that holds it"
    )]
    QueueInUse {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The driver cannot do zero-copy on this queue.
    #[error(
        "interface {interface}, queue {queue}: the driver refuses zero-copy ({source}); modes prefer-zerocopy and copy do without"
    )]
    ZeroCopyRefused {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel reports another mode than the one required.
    #[error("interface {interface}: {} was required, but the kernel gave {obtained}", mode_name(.required))]
    ModeNotObtained {
        /// The interface.
        interface: String,
        /// The mode required.
        required: Mode,
        /// What the kernel reports.
        obtained: Obtained,
    },

    /// The UMEM would exceed the limit of locked memory.
    #[error(
        "a UMEM of {bytes} bytes exceeds the limit of locked memory; raise it (`ulimit -l`, LimitMEMLOCK=), grant CAP_IPC_LOCK, or use fewer frames"
    )]
    MemoryLimit {
        /// Size of the UMEM in bytes.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The memory for the UMEM is not to be had.
    #[error("a UMEM of {bytes} bytes: {source}{}", huge_page_hint(*.huge_pages))]
    Memory {
        /// Size of the UMEM in bytes.
        bytes: u64,
        /// Whether huge pages were asked for.
        huge_pages: bool,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel refuses for want of a capability.
    #[error("{what}: not permitted; run as root or grant CAP_NET_RAW and CAP_NET_ADMIN")]
    NotPermitted {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel has no AF_XDP, or lacks a part of it.
    #[error("{what}: this kernel cannot ({source}); {needs}")]
    OldKernel {
        /// What was attempted.
        what: String,
        /// What would do.
        needs: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel refuses busy polling.
    #[error(
        "interface {interface}, queue {queue}: busy polling: {source}; it needs Linux 5.11, and CAP_NET_ADMIN for budgets above 64"
    )]
    BusyPoll {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Any other failure to bind a socket.
    #[error("interface {interface}, queue {queue}: binding an AF_XDP socket: {source}")]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// Sorts a failure to create or register the UMEM.
    pub(super) fn umem(bytes: u64, huge_pages: bool, source: io::Error) -> Self {
        let what = || format!("registering a UMEM of {bytes} bytes");
        match source.raw_os_error() {
            Some(libc::ENOBUFS) => Self::MemoryLimit { bytes, source },
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what: what(), source },
            Some(libc::EAFNOSUPPORT | libc::ENOSYS) => Self::OldKernel {
                what: what(),
                needs: "Linux 5.11 with CONFIG_XDP_SOCKETS is needed",
                source,
            },
            _ => Self::Memory { bytes, huge_pages, source },
        }
    }

    /// Sorts a failure to bind a socket.
    pub(super) fn bind(
        interface: &str,
        queue: u32,
        zero_copy: bool,
        multi_buffer: bool,
        source: io::Error,
    ) -> Self {
        let name = interface.to_owned();
        let what = || format!("interface {interface}, queue {queue}: binding an AF_XDP socket");
        match source.raw_os_error() {
            Some(libc::EBUSY) => Self::QueueInUse { interface: name, queue, source },
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what: what(), source },
            Some(libc::EOPNOTSUPP | libc::EINVAL) if zero_copy => {
                Self::ZeroCopyRefused { interface: name, queue, source }
            }
            Some(libc::EINVAL) if multi_buffer => Self::OldKernel {
                what: what(),
                needs: "MTUs above 3,800 bytes need Linux 6.6",
                source,
            },
            Some(libc::ENODEV) => Self::Program(portcullis_bpf::Error::UnknownInterface { name }),
            _ => Self::Socket { interface: name, queue, source },
        }
    }

    /// Whether a lesser mode may work where this one did not.
    pub(super) fn is_about_mode(&self) -> bool {
        matches!(
            self,
            Self::ZeroCopyRefused { .. }
                | Self::ModeNotObtained { .. }
                | Self::Program(portcullis_bpf::Error::NativeUnsupported { .. })
        )
    }

    /// Whether the thing may be free in a moment.
    pub(super) fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::QueueInUse { .. } | Self::Program(portcullis_bpf::Error::Occupied { .. })
        )
    }
}

fn mode_name(mode: &Mode) -> &'static str {
    match mode {
        Mode::ZeroCopy => "zero-copy",
        Mode::Copy => "native copy mode",
        Mode::Generic => "generic mode",
    }
}

fn huge_page_hint(huge_pages: bool) -> &'static str {
    if huge_pages { "; reserve huge pages with `sysctl vm.nr_hugepages=N`" } else { "" }
}
