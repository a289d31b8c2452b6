//! Sleeping until something arrives.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::topology::Wire;

const WAKER: Token = Token(usize::MAX);

/// Wires reported by one look; the rest is by the next.
const EVENTS: usize = 256;

/// Waits on the descriptors of all ports.
#[derive(Debug)]
pub(super) struct Sleeper {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
}

impl Sleeper {
    pub(super) fn new() -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Self { poll, events: Events::with_capacity(EVENTS), waker })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// From now on `slot` is reported when a port of `wire` becomes readable.
    pub(super) fn register(&self, wire: &Wire, slot: usize) -> std::io::Result<()> {
        for fd in descriptors(wire) {
            let fd = fd.as_raw_fd();
            self.poll.registry().register(&mut SourceFd(&fd), Token(slot), Interest::READABLE)?;
        }
        Ok(())
    }

    pub(super) fn deregister(&self, wire: &Wire) {
        for fd in descriptors(wire) {
            let fd = fd.as_raw_fd();
            // Closed or never registered: nothing to undo then.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
    }

    /// Sleeps until a port becomes readable, the waker calls or `timeout` has passed; hands the
    /// slots of wires with readable ports to `readable`. Answers whether anything but time woke it.
    ///
    /// Readiness is edge-triggered: a slot is reported once for what arrived since the last report,
    /// so its ports must be emptied afterwards.
    pub(super) fn sleep(&mut self, timeout: Duration, mut readable: impl FnMut(usize)) -> bool {
        // An interrupted or failed wait means that the ports are looked at once more.
        let _ = self.poll.poll(&mut self.events, Some(timeout));
        let mut woken = false;
        for event in &self.events {
            woken = true;
            if event.token() != WAKER {
                readable(event.token().0);
            }
        }
        woken
    }
}

fn descriptors(wire: &Wire) -> impl Iterator<Item = BorrowedFd<'_>> {
    wire.ports.iter().filter_map(|port| port.readiness())
}
