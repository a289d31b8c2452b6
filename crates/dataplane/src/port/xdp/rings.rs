//! The four rings of one socket, as the port uses them; and the kernel's, through xsk-rs.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue};

use super::config::{Config, Layout};
use super::sys;
use super::umem::SharedUmem;

/// `XDP_PKT_CONTD` of linux/if_xdp.h: the packet goes on in the next descriptor.
const CONTINUED: u32 = 1;

/// A packet, or a piece of one, in the UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Byte offset of the packet from the start of the UMEM.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// The packet goes on in the next descriptor.
    pub more: bool,
}

/// One end of the four rings. A test stands in for the kernel by implementing it over plain memory.
pub trait Rings: Send {
    /// Takes up to `max` received descriptors off the RX ring, handing each to `take`.
    fn receive(&mut self, max: usize, take: impl FnMut(Descriptor));
    /// Puts empty chunks into the fill ring: all of them or none. Answers whether.
    fn fill(&mut self, chunks: &[u32]) -> bool;
    /// Puts packets, each at the start of its chunk's data, into the TX ring: all of them or none.
    /// Answers whether.
    fn transmit(&mut self, packets: &[Descriptor]) -> bool;
    /// Takes up to `max` addresses off the completion ring, handing each to `take`.
    fn complete(&mut self, max: usize, take: impl FnMut(u64));
    /// Free entries of the TX ring.
    fn tx_room(&mut self) -> usize;
    /// Entries of the TX ring that the kernel has not taken yet.
    fn tx_waiting(&mut self) -> usize;
    /// Makes the kernel look at its rings where it has to be told; at most one call for each
    /// direction. `outstanding`: whether sent frames have not come back yet.
    ///
    /// # Errors
    /// The interface is down or gone.
    fn wake(&mut self, outstanding: bool) -> io::Result<()>;
    /// The descriptor to wait on.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;
}

/// The rings of an AF_XDP socket.
pub struct KernelRings {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: xsk_rs::Umem,
    descriptors: Arc<[FrameDesc]>,
    chunk_size: u64,
    tx_size: u32,
    /// As read back from the kernel.
    pub(super) zero_copy: bool,
    /// The calls below are what runs the driver's receive work.
    busy_poll: bool,
    /// Descriptors on their way between a ring and the port.
    scratch: Vec<FrameDesc>,
}

impl KernelRings {
    pub(super) fn new(
        (tx, rx): (TxQueue, RxQueue),
        (fill, completion): (FillQueue, CompQueue),
        umem: &SharedUmem,
        layout: &Layout,
        config: &Config,
    ) -> Self {
        Self {
            rx,
            tx,
            fill,
            completion,
            umem: umem.xsk.clone(),
            descriptors: Arc::clone(&umem.descriptors),
            chunk_size: layout.chunk_size.into(),
            tx_size: config.rings.tx,
            zero_copy: false,
            busy_poll: config.busy_poll.is_some(),
            scratch: Vec::with_capacity(super::queue::STEP),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as any of its queues lives, and `self` owns them.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}

impl Rings for KernelRings {
    #[inline]
    fn receive(&mut self, max: usize, mut take: impl FnMut(Descriptor)) {
        self.scratch.resize(max, FrameDesc::default());
        // SAFETY: the descriptors are only read as numbers, and checked by the caller.
        let count = unsafe { self.rx.consume(&mut self.scratch) };
        for descriptor in &self.scratch[..count] {
            take(Descriptor {
                addr: descriptor.addr() as u64,
                len: descriptor.lengths().data() as u32,
                more: descriptor.has_more_frames(),
            });
        }
    }

    #[inline]
    fn fill(&mut self, chunks: &[u32]) -> bool {
        self.scratch.clear();
        self.scratch.extend(chunks.iter().map(|chunk| self.descriptors[*chunk as usize]));
        // SAFETY: the port gave the chunks up (in its ledger) before it called, so nobody reaches
        // them until the kernel hands them back; the descriptors are of this ring's UMEM.
        chunks.is_empty() || unsafe { self.fill.produce(&self.scratch) } == chunks.len()
    }

    #[inline]
    fn transmit(&mut self, packets: &[Descriptor]) -> bool {
        self.scratch.clear();
        for packet in packets {
            let mut descriptor = self.descriptors[(packet.addr / self.chunk_size) as usize];
            debug_assert_eq!(descriptor.addr() as u64, packet.addr);
            // SAFETY: the port owns the chunk until the ring has it, which is below.
            unsafe { self.umem.data_mut(&mut descriptor) }.cursor().set_pos(packet.len as usize);
            descriptor.set_options(if packet.more { CONTINUED } else { 0 });
            self.scratch.push(descriptor);
        }
        // SAFETY: as in `fill`.
        packets.is_empty() || unsafe { self.tx.produce(&self.scratch) } == packets.len()
    }

    #[inline]
    fn complete(&mut self, max: usize, mut take: impl FnMut(u64)) {
        self.scratch.resize(max, FrameDesc::default());
        // SAFETY: the descriptors are only read as numbers, and checked by the caller.
        let count = unsafe { self.completion.consume(&mut self.scratch) };
        for descriptor in &self.scratch[..count] {
            take(descriptor.addr() as u64);
        }
    }

    #[inline]
    fn tx_room(&mut self) -> usize {
        self.tx.nb_free_exact() as usize
    }

    #[inline]
    fn tx_waiting(&mut self) -> usize {
        self.tx_size.saturating_sub(self.tx.nb_free_exact()) as usize
    }

    #[inline]
    fn wake(&mut self, outstanding: bool) -> io::Result<()> {
        if self.busy_poll || self.fill.needs_wakeup() {
            sys::kick_rx(self.socket())?;
        }
        // In copy mode sent frames come back by themselves; a zero-copy driver may have to be told to
        // look for them.
        let waiting = self.tx_waiting() > 0 || (self.zero_copy && outstanding);
        if waiting && self.tx.needs_wakeup() {
            sys::kick_tx(self.socket())?;
        }
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }
}

impl fmt::Debug for KernelRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelRings").field("socket", &self.socket()).finish_non_exhaustive()
    }
}
