//! Which interfaces belong together, and how.

use std::sync::Arc;

use portcullis_dataplane::frame::FramePool;
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::xdp::{self, OpenInterface, RingSizes};
use portcullis_dataplane::switch::{self, Addresses};
use portcullis_dataplane::topology::Wire;

use crate::Error;

/// Interfaces that belong together: for [`Config::with`](super::Config::with) and
/// [`Firewall::add_wire`](super::Firewall::add_wire).
///
/// ```
/// use portcullis::Topology;
///
/// let pod = Topology::wire("veth7", "veth7p").small();
/// assert_eq!(pod.name(), "veth7:veth7p");
/// assert_eq!(Topology::hairpin("eth3").named("relay").name(), "relay");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    name: String,
    interfaces: Vec<String>,
    shape: Shape,
    small: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Wire,
    Hairpin,
    Switch(switch::Config),
}

/// Rings of a link to one pod, and frames for each of its queues.
const SMALL: (u32, u32) = (128, 256);

impl Topology {
    /// A cable: what comes in at one interface leaves, if allowed, at the other. Its name is `a:b`.
    pub fn wire(a: &str, b: &str) -> Self {
        Self::of(Shape::Wire, format!("{a}:{b}"), vec![a.to_owned(), b.to_owned()])
    }

    /// One interface: what comes in there leaves there, if allowed, unchanged. A switch port in
    /// reflective-relay mode, or macvlans in VEPA mode, send all of their traffic to such a place. Its
    /// name is the interface's.
    pub fn hairpin(interface: &str) -> Self {
        Self::of(Shape::Hairpin, interface.to_owned(), vec![interface.to_owned()])
    }

    /// Many interfaces (2 to 64), by whose link-layer addresses packets find their way: what comes in at one
    /// leaves, if allowed, at the one behind which its destination spoke last, and at all others if
    /// that is not known or means a group; never where it came in. What an attacker can do to the
    /// others is bounded: see [`switch`](portcullis_dataplane::switch).
    ///
    /// All of its interfaces have rings of one size and equally many queues. One that vanishes leaves
    /// the others working; the switch is removed once all have. There is no spanning tree: do not join
    /// two ports by another way.
    pub fn switch(name: &str, interfaces: &[&str]) -> Self {
        let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
        Self::of(Shape::Switch(switch::Config::default()), name.to_owned(), interfaces)
    }

    /// Everything about how a switch learns and floods; nothing for other topologies.
    pub fn learning(mut self, change: impl FnOnce(&mut switch::Config)) -> Self {
        if let Shape::Switch(config) = &mut self.shape {
            change(config);
        }
        self
    }

    fn of(shape: Shape, name: String, interfaces: Vec<String>) -> Self {
        Self { name, interfaces, shape, small: false }
    }

    /// Another name, to remove it by.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Rings of 128 packets and 256 frames a queue, for a link to one pod: half a MiB of packet memory
    /// a queue (1 MiB for a wire of one queue; twice that above an MTU of 1,770), whatever
    /// [`Config::ports`](super::Config::ports) says. A host's uplink wants more.
    pub fn small(mut self) -> Self {
        self.small = true;
        self
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its interfaces.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Whether it works on when one of its interfaces is gone.
    pub(super) fn outlives_a_port(&self) -> bool {
        matches!(self.shape, Shape::Switch(_))
    }

    /// Opens its interfaces in the calling thread's network namespace.
    pub(super) fn open(&self, config: &xdp::Config) -> Result<xdp::Opened, Error> {
        let names: Vec<&str> = self.interfaces.iter().map(String::as_str).collect();
        if matches!(self.shape, Shape::Switch(_)) && !(2..=switch::PORTS).contains(&names.len()) {
            return Err(Error::SwitchPorts { name: self.name.clone(), ports: names.len() });
        }
        if !self.small {
            return Ok(xdp::open(&names, config)?);
        }
        let (ring, frames) = SMALL;
        let rings = RingSizes { rx: ring, tx: ring, fill: ring, completion: ring };
        let config = xdp::Config { rings, frames_per_queue: Some(frames), ..config.clone() };
        Ok(xdp::open(&names, &config)?)
    }

    /// One data-plane wire for each queue, each with its share of the frames.
    pub(super) fn join(
        &self,
        interfaces: Vec<OpenInterface>,
        mut pool: FramePool,
    ) -> Result<Vec<Wire>, Error> {
        let queues = interfaces.first().map_or(0, |interface| interface.ports.len());
        let unequal = |other: &&OpenInterface| other.ports.len() != queues;
        if let (Some(a), Some(b)) = (interfaces.first(), interfaces.iter().find(unequal)) {
            return Err(Error::Queues {
                a_queues: queues,
                a: a.name.clone(),
                b_queues: b.ports.len(),
                b: b.name.clone(),
            });
        }
        let share = pool.available() / queues.max(1);
        let addresses = match self.shape {
            Shape::Switch(config) => Some(Arc::new(Addresses::new(interfaces.len(), config))),
            Shape::Wire | Shape::Hairpin => None,
        };
        let names: Vec<&str> = self.interfaces.iter().map(String::as_str).collect();
        let mut ports: Vec<_> = interfaces.into_iter().map(|i| i.ports.into_iter()).collect();
        let wires = (0..queues).map(|queue| {
            let name = format!("{} queue {queue}", self.name);
            let next =
                ports.iter_mut().filter_map(|ports| Some(Box::new(ports.next()?) as Box<dyn Port>));
            let mut all: Vec<_> = next.collect();
            let pool = pool.split(share);
            let wire = match (&addresses, all.pop(), all.pop()) {
                (Some(addresses), Some(last), Some(other)) => {
                    all.extend([other, last]);
                    Wire::switch(name, all, pool, Arc::clone(addresses))
                }
                (None, Some(b), Some(a)) => Wire::new(name, a, b, pool),
                (None, Some(port), None) => Wire::hairpin(name, port, pool),
                _ => unreachable!("each shape has its number of interfaces"),
            };
            wire.with_interfaces(&names)
        });
        Ok(wires.collect())
    }
}
