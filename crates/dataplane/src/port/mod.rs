//! Ports: where frames come from and go to.
//!
//! A [`Port`] is one receive and one transmit queue of one interface, owned by one worker. AF_XDP
//! sockets, memory, pcap files and a fault-injecting wrapper all look like this, so the pipeline is
//! the same everywhere.

pub mod fault;
pub mod memory;
pub mod pcap;
#[cfg(feature = "xdp")]
pub mod xdp;

use std::os::fd::BorrowedFd;

use crate::frame::{Batch, FramePool};

/// One queue of one interface. All calls are non-blocking and bounded by the batch's capacity.
pub trait Port: Send {
    /// Appends received frames to `batch` until it is full or nothing is waiting; answers how many
    /// came. Also keeps the receive side supplied with free frames from `pool`.
    ///
    /// Call it at least every 100 ms, also when nothing comes: by it an AF_XDP port proves to the
    /// kernel that its worker lives. One that is silent for longer may be taken for dead, and then
    /// the failure mode decides over its packets.
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize;

    /// Takes frames from the front of `batch` for transmission, as many as fit; answers how many.
    /// The rest stays in the batch: the caller retries or drops (and counts) them.
    fn transmit(&mut self, batch: &mut Batch) -> usize;

    /// Brings frames whose transmission is complete back into `pool`; answers how many.
    fn reclaim(&mut self, pool: &mut FramePool) -> usize;

    /// Tells the other side that there is work, if it has to be told (at most one syscall a
    /// direction). Must be called again while [`Port::outstanding`] is not zero.
    ///
    /// # Errors
    /// The interface is gone or down; the port may come back.
    fn flush(&mut self) -> std::io::Result<()>;

    /// Asks that no more packets be sent here: whoever steers them (the program in the kernel) does
    /// what the failure mode says from now on. What has come already is still received. Not undone.
    fn retire(&mut self) {}

    /// Frames handed to `transmit` that have not come back by `reclaim`.
    fn outstanding(&self) -> usize;

    /// A descriptor that becomes readable when packets wait; `None` if the port never blocks.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;
}
