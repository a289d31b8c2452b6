//! What keeps packets coming while ports are open: programs, and the means to ask after them.

use std::os::fd::{AsFd, OwnedFd};

use portcullis_bpf::{Counters, EarlyDrop, Interface, Program};

use super::Error;
use super::sys::{self, LinkState, Statistics};
use super::together::drop_together;

/// Holds what must live as long as packets are to flow: the programs on the interfaces. Dropping it
/// takes them off, so that packets go to the host's stack again, unless [`Config::pins`](super::Config::pins) says that
/// they stay. The kernel takes 10 to 30 milliseconds for that, so do not drop it on a worker's thread
/// that has other ports to serve.
///
/// A queue is free for others once both its port and the guard are gone. A process that dies takes
/// all of it along, however it dies, except for what is pinned.
#[derive(Debug, Default)]
pub struct Guard {
    pub(super) interfaces: Vec<Guarded>,
}

/// What one interface needs.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) interface: Interface,
    pub(super) program: Program,
    /// Duplicates of the ports' sockets, for their statistics.
    pub(super) sockets: Vec<OwnedFd>,
    /// Makes the interface promiscuous while it is open.
    pub(super) promiscuous: Option<OwnedFd>,
    /// Asks after the interface in the namespace in which it was opened.
    control: Option<OwnedFd>,
}

impl Guarded {
    pub(super) fn new(interface: &Interface, program: Program) -> Self {
        let interface = interface.clone();
        let control = sys::control_socket().ok();
        Self { interface, program, sockets: Vec::new(), promiscuous: None, control }
    }
}

impl Guard {
    /// Takes the programs off the interfaces for good, pinned or not.
    pub fn detach(&mut self) {
        for on in &mut self.interfaces {
            on.program.detach();
        }
    }

    /// Undoes an attempt that failed: what it pinned anew goes, what it took over stays.
    pub(super) fn undo(&mut self) {
        for on in &mut self.interfaces {
            on.program.undo();
        }
    }

    /// The interfaces that are gone (from the calling thread's network namespace), as with a pod that
    /// was deleted. Their ports receive and send nothing any more, also if interfaces of their names
    /// come again: drop ports and guard, and [`open`](super::open()) anew. One system call each.
    pub fn vanished(&self) -> impl Iterator<Item = &str> {
        let gone = |on: &&Guarded| !on.interface.exists();
        self.interfaces.iter().filter(gone).map(|on| on.interface.name())
    }

    /// What each interface is at the moment, in the network namespace in which it was opened. Two
    /// system calls each; any thread.
    ///
    /// # Errors
    /// A failed system call.
    pub fn link_states(&self) -> std::io::Result<Vec<(&str, LinkState)>> {
        let mut all = Vec::with_capacity(self.interfaces.len());
        for on in &self.interfaces {
            let control = on.control.as_ref().ok_or(std::io::ErrorKind::NotConnected)?;
            let state = sys::link_state(control.as_fd(), on.interface.index())?;
            all.push((on.interface.name(), state));
        }
        Ok(all)
    }

    /// The early-drop set of an interface's program ([`early_drop_capacity`](super::Config::early_drop_capacity)); `None` if there
    /// is no such interface.
    pub fn early_drop(&self, interface: &str) -> Option<&EarlyDrop> {
        let on = self.interfaces.iter().find(|on| on.interface.name() == interface)?;
        Some(on.program.early_drop())
    }

    /// What the program on each interface counted.
    ///
    /// # Errors
    /// A failed system call.
    pub fn program_counters(&self) -> Result<Vec<(&str, Counters)>, Error> {
        let mut all = Vec::with_capacity(self.interfaces.len());
        for on in &self.interfaces {
            all.push((on.interface.name(), on.program.counters()?));
        }
        Ok(all)
    }

    /// What the kernel counted on each socket: interface, queue, statistics.
    ///
    /// # Errors
    /// A failed system call.
    pub fn statistics(&self) -> std::io::Result<Vec<(&str, u32, Statistics)>> {
        let mut all = Vec::new();
        for on in &self.interfaces {
            for (queue, socket) in (0..).zip(&on.sockets) {
                all.push((on.interface.name(), queue, sys::statistics(socket.as_fd())?));
            }
        }
        Ok(all)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut slow = Vec::new();
        for on in self.interfaces.drain(..) {
            // Before its sockets: packets never meet a program without.
            drop(on.program);
            slow.extend(on.sockets.into_iter().chain(on.promiscuous));
        }
        drop_together(slow);
    }
}
