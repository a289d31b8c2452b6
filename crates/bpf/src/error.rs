//! What can go wrong between an interface name and a running program, and what to do about it.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why the program could not be loaded or attached. Every message names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No interface of that name in this network namespace.
    #[error(
        "interface {name}: no such interface in this network namespace; `ip link` lists those there are"
    )]
    UnknownInterface {
        /// The name as given.
        name: String,
    },

    /// The kernel refuses for want of a capability.
    #[error(
        "{what}: not permitted; run as root or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (and CAP_NET_RAW for the sockets)"
    )]
    NotPermitted {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Another XDP program is attached to the interface.
    #[error(
        "interface {interface}: another XDP program is attached; see it with `ip link show {interface}`, stop its owner or detach it with `ip link set {interface} xdp off`"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The driver cannot run XDP at this MTU.
    #[error(
        "interface {interface}: MTU {mtu} is too large for native XDP of this driver; lower it (`ip link set {interface} mtu 1500`) or use generic mode"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The driver has no native XDP, or not in this configuration.
    #[error(
        "interface {interface}: the driver refuses native XDP ({source}); use generic mode, or see `dmesg` for the driver's reason"
    )]
    NativeUnsupported {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Too few receive queues for XDP on this device (veth: fewer than its peer transmits on).
    #[error(
        "interface {interface}: too few queues for native XDP: it needs as many RX queues as its peer has TX queues (`ethtool -L {interface} rx N tx N`, or fewer on the peer), or use generic mode"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel does not know something that the program needs.
    #[error(
        "{what}: this kernel is too old ({source}); Linux 5.11 is needed, 6.6 for MTUs above 3,000 bytes and for the bypass"
    )]
    OldKernel {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Loading failed for a reason of its own.
    #[error("loading the XDP program: {source}{}", detail(.log))]
    Load {
        /// What libbpf or the verifier said, if anything.
        log: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The program cannot be made to outlive the process.
    #[error(
        "pinning at {}: {source}; the folder must lie in a BPF file system (`mount -t bpf bpf /sys/fs/bpf`)", .path.display()
    )]
    Pin {
        /// Where it was to be pinned.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A queue that the program was not loaded for.
    #[error("queue {queue}: the program was loaded for {queues} queues")]
    NoSuchQueue {
        /// The queue asked for.
        queue: u32,
        /// The number of queues there are.
        queues: u32,
    },

    /// A prefix longer than its address.
    #[error("prefix {prefix}/{len}: longer than the address")]
    Prefix {
        /// The address.
        prefix: IpAddr,
        /// The number of bits.
        len: u8,
    },

    /// The early-drop set holds no more.
    #[error(
        "the early-drop set holds {capacity} prefixes and is full; load the program with a larger capacity"
    )]
    EarlyDropFull {
        /// Prefixes that it can hold, of each address family.
        capacity: u32,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Any other failure of a system call.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::UnknownInterface { .. } | Self::NoSuchQueue { .. } | Self::Prefix { .. } => None,
            Self::NotPermitted { source, .. }
            | Self::Occupied { source, .. }
            | Self::MtuTooLarge { source, .. }
            | Self::NativeUnsupported { source, .. }
            | Self::TooFewQueues { source, .. }
            | Self::OldKernel { source, .. }
            | Self::Load { source, .. }
            | Self::Pin { source, .. }
            | Self::EarlyDropFull { source, .. }
            | Self::System { source, .. } => source.raw_os_error(),
        }
    }

    /// Sorts a failed call by its error number.
    pub(crate) fn system(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what, source },
            Some(libc::ENOSYS) => Self::OldKernel { what, source },
            _ => Self::System { what, source },
        }
    }
}

fn detail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("\n{log}") }
}
