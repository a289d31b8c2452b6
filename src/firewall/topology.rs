//! Which interfaces belong together, and how.

use portcullis_dataplane::frame::FramePool;
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::xdp::{self, OpenInterface, RingSizes};
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

    /// Opens its interfaces in the calling thread's network namespace.
    pub(super) fn open(&self, config: &xdp::Config) -> Result<xdp::Opened, Error> {
        let names: Vec<&str> = self.interfaces.iter().map(String::as_str).collect();
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
        let names: Vec<&str> = self.interfaces.iter().map(String::as_str).collect();
        let mut ports: Vec<_> = interfaces.into_iter().map(|i| i.ports.into_iter()).collect();
        let wires = (0..queues).map(|queue| {
            let name = format!("{} queue {queue}", self.name);
            let mut next =
                ports.iter_mut().filter_map(|ports| Some(Box::new(ports.next()?) as Box<dyn Port>));
            let pool = pool.split(share);
            let wire = match (self.shape, next.next(), next.next()) {
                (Shape::Wire, Some(a), Some(b)) => Wire::new(name, a, b, pool),
                (Shape::Hairpin, Some(port), None) => Wire::hairpin(name, port, pool),
                _ => unreachable!("a shape has its number of interfaces, each with all queues"),
            };
            wire.with_interfaces(&names)
        });
        Ok(wires.collect())
    }
}
