//! A wire as a firewall holds it.

use parking_lot::Mutex;
use portcullis_dataplane::port::xdp::{self, EarlyDrop, Guard, LinkState, OpenInterface};

use super::{PortChange, PortInfo, Topology};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) name: String,
    pub(crate) ports: Vec<PortInfo>,
    /// Why the preferred mode was not to be had, if it was not.
    pub(crate) refused: Option<String>,
    pub(crate) guard: Guard,
    /// What each worker has of it: the worker's number, and the name there.
    pub(crate) pieces: Vec<(usize, Box<str>)>,
    /// It works on when one of its interfaces is gone.
    outlives_a_port: bool,
    /// What the interfaces were when somebody asked last.
    links: Mutex<Vec<LinkState>>,
}

impl Attached {
    /// One without pieces yet.
    pub(crate) fn new(
        wire: &Topology,
        interfaces: &[OpenInterface],
        refused: Option<xdp::Error>,
        guard: Guard,
    ) -> Self {
        let port = |interface: &OpenInterface| PortInfo {
            name: interface.name.clone(),
            wire: wire.name().to_owned(),
            mode: interface.mode,
            queues: interface.ports.len(),
            mtu: interface.mtu,
            memory: interface.memory.clone(),
        };
        Self {
            name: wire.name().to_owned(),
            ports: interfaces.iter().map(port).collect(),
            refused: refused.map(|error| error.to_string()),
            guard,
            pieces: Vec::new(),
            outlives_a_port: wire.outlives_a_port(),
            links: Mutex::new(vec![LinkState::Up; interfaces.len()]),
        }
    }

    /// The early-drop set of each of its interfaces, which may be the same.
    pub(crate) fn early_drops(&self) -> impl Iterator<Item = &EarlyDrop> {
        self.ports.iter().filter_map(|port| self.guard.early_drop(&port.name))
    }

    /// Whether it has this interface.
    pub(crate) fn uses(&self, interface: &str) -> bool {
        self.ports.iter().any(|port| port.name == interface)
    }

    /// Whether so much of it has vanished that it is of no use.
    pub(crate) fn is_dead(&self) -> bool {
        let states = self.guard.link_states().unwrap_or_default();
        let mut gone = states.iter().map(|(_, state)| *state == LinkState::Gone);
        if self.outlives_a_port { gone.all(|gone| gone) } else { gone.any(|gone| gone) }
    }

    /// Appends what changed since the last call.
    pub(crate) fn changes(&self, all: &mut Vec<PortChange>) -> std::io::Result<()> {
        let mut links = self.links.lock();
        for ((name, state), before) in self.guard.link_states()?.into_iter().zip(links.iter_mut()) {
            if state != *before {
                *before = state;
                all.push(PortChange { name: name.to_owned(), wire: self.name.clone(), state });
            }
        }
        Ok(())
    }
}
