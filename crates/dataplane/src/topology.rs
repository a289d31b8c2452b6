//! How ports belong together.

use std::sync::Arc;

use crate::frame::{Batch, FramePool};
use crate::port::Port;
use crate::switch::Addresses;

/// Ports between which frames move, with the frames that they receive into.
///
/// One object is one queue of each of its interfaces: interfaces with four queues make four of them,
/// which may belong to different workers.
pub struct Wire {
    /// Name for messages, and to remove it by.
    pub name: Box<str>,
    /// Names of the interfaces of its ports, for captures.
    pub interfaces: Box<[Box<str>]>,
    /// Its ports: two, one of a hairpin, or those of a switch.
    pub ports: Box<[Box<dyn Port>]>,
    /// The frames that it receives into, of the UMEM of all its ports. Wires do not share them: one
    /// that is flooded cannot starve another, and what a wire holds goes when it goes.
    pub pool: FramePool,
    pub(crate) kind: Kind,
}

/// Where a frame leaves.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// At the other port.
    Wire,
    /// At the port where it came in.
    Hairpin,
    /// Where its destination is.
    Switch(Arc<Addresses>),
}

impl Wire {
    /// A cable: what comes in at one port leaves, if allowed, at the other. Both ports are of one UMEM,
    /// and the frames of it.
    pub fn new(
        name: impl Into<Box<str>>,
        a: Box<dyn Port>,
        b: Box<dyn Port>,
        pool: FramePool,
    ) -> Self {
        Self::of(Kind::Wire, name.into(), [a, b].into(), pool)
    }

    /// One port: what comes in there leaves there, if allowed, unchanged.
    pub fn hairpin(name: impl Into<Box<str>>, port: Box<dyn Port>, pool: FramePool) -> Self {
        Self::of(Kind::Hairpin, name.into(), [port].into(), pool)
    }

    /// Many ports: what comes in at one leaves, if allowed, at the port behind which its destination's
    /// link-layer address has spoken, and at all others if that is not known or means a group. Never
    /// where it came in. `addresses` is shared by the objects of one switch's queues.
    ///
    /// Ports beyond [`PORTS`](crate::switch::PORTS) are left out.
    pub fn switch(
        name: impl Into<Box<str>>,
        mut ports: Vec<Box<dyn Port>>,
        pool: FramePool,
        addresses: Arc<Addresses>,
    ) -> Self {
        ports.truncate(crate::switch::PORTS);
        Self::of(Kind::Switch(addresses), name.into(), ports.into(), pool)
    }

    fn of(kind: Kind, name: Box<str>, ports: Box<[Box<dyn Port>]>, pool: FramePool) -> Self {
        let interface = |port: usize| match port {
            0 => format!("{name} a").into(),
            1 => format!("{name} b").into(),
            port => format!("{name} {port}").into(),
        };
        let interfaces = (0..ports.len()).map(interface).collect();
        Self { name, interfaces, ports, pool, kind }
    }

    /// Says what interfaces its ports are of; names beyond its ports are left out.
    pub fn with_interfaces(mut self, names: &[&str]) -> Self {
        for (interface, name) in self.interfaces.iter_mut().zip(names) {
            *interface = (*name).into();
        }
        self
    }

    /// Gives the kernel frames to receive into and shows it that somebody lives, so that packets flow
    /// from here on, whenever a worker gets to run.
    pub(crate) fn prime(&mut self) {
        // Without room nothing is received yet.
        let mut none = Batch::new(0);
        for port in &mut self.ports {
            port.receive(&mut self.pool, &mut none);
            // One that is down may come up.
            let _ = port.flush();
        }
    }

    /// Waits a short while for frames in transmission to come back. Yields the thread meanwhile: not
    /// for a worker's thread that has other wires to serve.
    pub fn drain(&mut self) {
        for _ in 0..DRAIN_ROUNDS {
            for port in &mut self.ports {
                // A port that is gone has sent what it will ever send.
                let _ = port.flush();
                port.reclaim(&mut self.pool);
            }
            if !self.outstanding() {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Whether frames are still being transmitted.
    pub(crate) fn outstanding(&self) -> bool {
        self.ports.iter().any(|port| port.outstanding() > 0)
    }
}

/// Rounds that a leaving wire waits for its frames.
const DRAIN_ROUNDS: usize = 1000;

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("name", &self.name).finish_non_exhaustive()
    }
}
