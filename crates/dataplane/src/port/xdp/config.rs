//! What a user may choose, and what was obtained.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use portcullis_bpf::{AttachMode, FailureMode, Programs, STALE_AFTER};

use super::Error;
use super::memory::{HugePages, Numa};
use crate::frame::HEADROOM;

/// Link-layer bytes that come on top of an MTU: Ethernet and two VLAN tags.
const LINK_HEADER: u32 = 22;

/// How packets travel between driver and user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The driver writes into the UMEM itself.
    ZeroCopy,
    /// The kernel copies between driver and UMEM; the program runs in the driver.
    Copy,
    /// As `Copy`, with the program in the network stack: works with every driver.
    Generic,
}

/// The mode asked for, and whether a lesser one will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModePolicy {
    /// This mode or an error.
    Require(Mode),
    /// This mode, else the next lesser one that works on all interfaces; [`Opened`](super::Opened)
    /// says which it was and why.
    Prefer(Mode),
}

/// The mode that an interface's sockets really have, as read back from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Obtained {
    /// Where the program runs.
    pub attach: AttachMode,
    /// Whether all sockets are zero-copy.
    pub zero_copy: bool,
}

/// Entries of the four rings of every socket: powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RingSizes {
    /// Received packets waiting for the worker: what comes while the scheduler lets it wait must
    /// fit. 4,096 hold 3 ms of a million packets a second.
    pub rx: u32,
    /// Packets waiting for the kernel to send them.
    pub tx: u32,
    /// Empty frames waiting for packets: as many as `rx` has entries, or they bound it.
    pub fill: u32,
    /// Sent frames waiting to be reclaimed.
    pub completion: u32,
}

/// Busy polling: the worker's own calls run the driver's receive work, instead of interrupts.
///
/// It lowers latency and keeps work on one CPU, at the price of a system call for every round of the
/// worker. To let the driver defer its interrupts meanwhile, set for the interface
/// `/sys/class/net/IF/napi_defer_hard_irqs` (such as 2) and `gro_flush_timeout` (such as 200000 ns).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BusyPoll {
    /// How long a call may look for packets (SO_BUSY_POLL), in microseconds.
    pub microseconds: u32,
    /// How many packets a call may receive (SO_BUSY_POLL_BUDGET), at most 64 without CAP_NET_ADMIN.
    pub budget: u16,
}

/// Settings of a group of ports that share a UMEM.
#[derive(Debug, Clone)]
pub struct Config {
    /// Zero-copy, copy or generic.
    pub mode: ModePolicy,
    /// What happens to packets when no live worker takes them. `Open` on a wire (two interfaces)
    /// that no kernel bridge connects makes the kernel itself pass them from one to the other
    /// (Linux 6.6).
    pub failure: FailureMode,
    /// A folder of a BPF file system where the programs are pinned, so that the failure mode holds
    /// also when the process is gone, and until a successor takes over. `None`: a process that ends
    /// leaves nothing behind.
    pub pins: Option<PathBuf>,
    /// Time without a heartbeat after which a queue's worker counts as stalled.
    pub stale_after: Duration,
    /// Ring sizes of each socket.
    pub rings: RingSizes,
    /// Bytes of a chunk, 2048 or 4096; `None` takes what holds a packet of the largest MTU.
    pub chunk_size: Option<u32>,
    /// Frames for each queue; `None` takes as many as its fill and TX rings hold.
    pub frames_per_queue: Option<u32>,
    /// Pages of the UMEM.
    pub huge_pages: HugePages,
    /// Where the UMEM lies on machines with several nodes.
    pub numa: Numa,
    /// Busy polling of all sockets; `None` leaves receiving to interrupts. Linux 5.11.
    pub busy_poll: Option<BusyPoll>,
    /// How long to wait for queues and interfaces that a predecessor is just letting go of.
    pub busy_wait: Duration,
    /// Receive packets for any link-layer address, as a wire must; ends with the ports.
    pub promiscuous: bool,
    /// Capacity of the early-drop set, which all interfaces with these [`programs`](Self::programs)
    /// share; 0 for none.
    pub early_drop_capacity: u32,
    /// The loaded programs. Clones of a `Config` name the same ones, so that wires that come later
    /// need not load theirs.
    pub programs: Programs,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: ModePolicy::Prefer(Mode::ZeroCopy),
            failure: FailureMode::Closed,
            pins: None,
            stale_after: STALE_AFTER,
            rings: RingSizes { rx: 4096, tx: 1024, fill: 4096, completion: 1024 },
            chunk_size: None,
            frames_per_queue: None,
            huge_pages: HugePages::default(),
            numa: Numa::default(),
            busy_poll: None,
            busy_wait: Duration::from_secs(2),
            promiscuous: true,
            early_drop_capacity: 0,
            programs: Programs::default(),
        }
    }
}

/// How the chunks are laid out for a group of interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) chunk_size: u32,
    /// Packets may take several frames.
    pub(super) multi_buffer: bool,
}

impl Config {
    /// Checks the settings against each other and lays out chunks for packets of up to `mtu`.
    pub(super) fn layout(&self, mtu: u32) -> Result<Layout, Error> {
        let RingSizes { rx, tx, fill, completion } = self.rings;
        for (ring, size) in [("rx", rx), ("tx", tx), ("fill", fill), ("completion", completion)] {
            if !size.is_power_of_two() || !(16..=1 << 15).contains(&size) {
                return Err(Error::Config(format!(
                    "ring size {ring} {size}: must be a power of two from 16 to 32768"
                )));
            }
        }
        let packet = mtu.saturating_add(LINK_HEADER);
        let holds = |chunk: u32| packet <= chunk - HEADROOM;
        let chunk_size = match self.chunk_size {
            None if holds(2048) => 2048,
            None => 4096,
            Some(size @ (2048 | 4096)) => size,
            Some(size) => {
                return Err(Error::Config(format!("chunk size {size}: must be 2048 or 4096")));
            }
        };
        Ok(Layout { chunk_size, multi_buffer: !holds(chunk_size) })
    }

    /// Frames for each queue.
    fn frames(&self) -> u32 {
        self.frames_per_queue.unwrap_or(self.rings.fill + self.rings.tx)
    }

    /// Frames that a queue keeps in its fill ring: the others are for what is on its way, without
    /// which other queues would have none.
    pub(super) fn fill_target(&self) -> u32 {
        let frames = self.frames();
        self.rings.fill.min(frames - self.rings.tx.min(frames / 2))
    }

    /// Number of chunks for `queues` queues in all.
    pub(super) fn chunks(&self, queues: u32) -> Result<u32, Error> {
        let each = self.frames();
        if each < 64 {
            return Err(Error::Config(format!("{each} frames a queue: at least 64 are needed")));
        }
        queues
            .checked_mul(each)
            .filter(|chunks| *chunks <= 1 << 22)
            .ok_or_else(|| Error::Config(format!("{queues} queues of {each} frames: too many")))
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zerocopy",
            Self::Copy => "copy",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for ModePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Require(mode) => write!(f, "require-{}", mode.name()),
            Self::Prefer(mode) => write!(f, "prefer-{}", mode.name()),
        }
    }
}

impl fmt::Display for Obtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.attach, if self.zero_copy { "zerocopy" } else { "copy" })
    }
}

/// Text that names no [`ModePolicy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "mode {0:?}: expected require- or prefer- and zerocopy, copy or generic, such as prefer-zerocopy"
)]
pub struct ParseModeError(String);

impl FromStr for ModePolicy {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseModeError(text.to_owned());
        let (policy, mode) = text.split_once('-').ok_or_else(wrong)?;
        let mode = [Mode::ZeroCopy, Mode::Copy, Mode::Generic]
            .into_iter()
            .find(|known| known.name() == mode)
            .ok_or_else(wrong)?;
        match policy {
            "require" => Ok(Self::Require(mode)),
            "prefer" => Ok(Self::Prefer(mode)),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_a_packet_or_packets_are_split() {
        let layout = |mtu, chunk_size| Config { chunk_size, ..Config::default() }.layout(mtu);
        let expect = |chunk_size, multi_buffer| Layout { chunk_size, multi_buffer };
        assert_eq!(layout(1500, None).unwrap(), expect(2048, false));
        assert_eq!(layout(1770, None).unwrap(), expect(2048, false));
        assert_eq!(layout(1771, None).unwrap(), expect(4096, false));
        assert_eq!(layout(3818, None).unwrap(), expect(4096, false));
        assert_eq!(layout(9000, None).unwrap(), expect(4096, true));
        assert_eq!(layout(3000, Some(2048)).unwrap(), expect(2048, true));
        assert!(matches!(layout(1500, Some(1024)), Err(Error::Config(_))));
        assert_eq!(layout(u32::MAX, None).unwrap(), expect(4096, true));
    }

    #[test]
    fn nonsense_sizes_are_refused() {
        for size in [0, 8, 100, 1 << 16] {
            let rings = RingSizes { tx: size, ..Config::default().rings };
            let error = Config { rings, ..Config::default() }.layout(1500).unwrap_err();
            assert!(error.to_string().contains("tx"), "{error}");
        }
        assert!(Config::default().chunks(u32::MAX).is_err());
        assert!(Config { frames_per_queue: Some(1), ..Config::default() }.chunks(1).is_err());
        assert_eq!(Config::default().chunks(8).unwrap(), 8 * (4096 + 1024));
    }

    #[test]
    fn no_queue_takes_all_frames() {
        let fill =
            |frames_per_queue, rings| Config { frames_per_queue, rings, ..Config::default() };
        let fill = |frames, rings| fill(frames, rings).fill_target();
        let rings = Config::default().rings;
        assert_eq!(fill(None, rings), rings.fill);
        assert_eq!(fill(Some(1 << 20), rings), rings.fill);
        assert_eq!(fill(Some(2048), rings), 1024);
        assert_eq!(fill(Some(64), rings), 32);
        let small = RingSizes { rx: 128, tx: 128, fill: 128, completion: 128 };
        assert_eq!(fill(Some(256), small), 128);
    }

    #[test]
    fn policies_are_named_as_they_are_printed() {
        for policy in ["require", "prefer"] {
            for mode in ["zerocopy", "copy", "generic"] {
                let text = format!("{policy}-{mode}");
                assert_eq!(text.parse::<ModePolicy>().unwrap().to_string(), text);
            }
        }
        for text in ["", "zerocopy", "prefer", "prefer-", "require-native", "Prefer-copy"] {
            assert!(text.parse::<ModePolicy>().is_err(), "{text}");
        }
    }
}
