//! Sleeping until something arrives.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::topology::Wire;

const WAKER: Token = Token(usize::MAX);
const PORT: Token = Token(0);

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
        Ok(Self { poll, events: Events::with_capacity(64), waker })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    pub(super) fn register(&self, wire: &Wire) -> std::io::Result<()> {
        for fd in descriptors(wire) {
            let fd = fd.as_raw_fd();
            self.poll.registry().register(&mut SourceFd(&fd), PORT, Interest::READABLE)?;
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

    /// Sleeps until a port becomes readable, the waker calls or `timeout` has passed.
    ///
    /// Readiness is edge-triggered: ports must have been emptied before.
    pub(super) fn sleep(&mut self, timeout: Duration) {
        // An interrupted or failed wait means that the ports are looked at once more.
        let _ = self.poll.poll(&mut self.events, Some(timeout));
    }
}

fn descriptors(wire: &Wire) -> impl Iterator<Item = BorrowedFd<'_>> {
    [wire.a.readiness(), wire.b.readiness()].into_iter().flatten()
}
