//! Bare forwarding: the ports without the pipeline, which the filter is measured against.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use portcullis::dataplane::frame::{Batch, Frame, FramePool};
use portcullis::dataplane::packet::{Packet, checksum, parse};
use portcullis::dataplane::pipeline::BATCH;
use portcullis::dataplane::port::Port;
use portcullis::dataplane::port::xdp::{self, Obtained, Opened, XdpPort};

use crate::output::Refused;

/// Longest wait for packets, in milliseconds.
const WAIT: i32 = 100;
/// Looks without a packet before it waits: as a worker does.
const IDLE_ROUNDS: u32 = 64;

/// A running forwarder; stops when dropped.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) modes: Vec<Obtained>,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Flags {
    stop: AtomicBool,
    /// Complete checksums that senders on veths leave to hardware: TCP needs it, nothing else does.
    complete: AtomicBool,
}

impl Bare {
    /// Joins the first queues of two interfaces of the calling thread's namespace.
    pub(super) fn start(a: &str, b: &str) -> Result<Self, Refused> {
        let opened = xdp::open(&[a, b], &xdp::Config::default())?;
        let modes = opened.interfaces.iter().map(|interface| interface.mode).collect();
        let flags = Arc::<Flags>::default();
        let theirs = Arc::clone(&flags);
        let thread = std::thread::Builder::new().name("bare".into());
        let thread = thread.spawn(move || forward(opened, &theirs))?;
        Ok(Self { modes, flags, thread: Some(thread) })
    }

    pub(super) fn complete_checksums(&self, wanted: bool) {
        self.flags.complete.store(wanted, Ordering::Relaxed);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It looks at the flag every tenth of a second; it has nothing to say at its end.
            let _ = thread.join();
        }
    }
}

fn forward(opened: Opened, flags: &Flags) {
    let Opened { mut interfaces, mut pool, guard, .. } = opened;
    let ports: Vec<XdpPort> =
        interfaces.iter_mut().filter_map(|interface| interface.ports.drain(..).next()).collect();
    let Ok([mut a, mut b]) = <[XdpPort; 2]>::try_from(ports) else { return };
    let mut polled = [&a, &b].map(|port| libc::pollfd {
        fd: port.readiness().map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let mut batch = Batch::new(BATCH);
    let mut idle = 0;
    while !flags.stop.load(Ordering::Relaxed) {
        let complete = flags.complete.load(Ordering::Relaxed);
        let count = pass(&mut a, &mut b, &mut pool, &mut batch, complete)
            + pass(&mut b, &mut a, &mut pool, &mut batch, complete);
        for port in [&mut a, &mut b] {
            // An interface that is down may come up again.
            let _ = port.flush();
        }
        idle = if count > 0 { 0 } else { idle + 1 };
        if idle >= IDLE_ROUNDS {
            let wait = if a.outstanding() + b.outstanding() > 0 { 1 } else { WAIT };
            // SAFETY: the array lives through the call and its length is given.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, wait) };
        }
    }
    drop(guard);
}

fn pass(
    from: &mut XdpPort,
    to: &mut XdpPort,
    pool: &mut FramePool,
    batch: &mut Batch,
    complete: bool,
) -> usize {
    to.reclaim(pool);
    let count = from.receive(pool, batch);
    if complete {
        complete_checksums(pool, batch.frames_mut());
    }
    to.transmit(batch);
    if !batch.is_empty() {
        let _ = to.flush();
        to.reclaim(pool);
        to.transmit(batch);
        // What the TX ring still has no room for is lost, as on any full wire.
        for frame in batch.drain_front(BATCH) {
            pool.put(frame);
        }
    }
    count
}

fn complete_checksums(pool: &FramePool, frames: &mut [Frame]) {
    for frame in frames {
        let data = pool.umem().data_mut(frame);
        if let Ok(Packet::Ip(headers)) = parse(data, data.len()) {
            checksum::complete_partial_pieces(data, std::iter::empty(), &headers);
        }
    }
}
