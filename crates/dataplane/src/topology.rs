//! How ports belong together.

use crate::frame::FramePool;
use crate::port::Port;

/// Two ports that are one cable: what comes in at one leaves, if allowed, at the other.
///
/// One wire object is one pair of queues; an interface with four queues on either side makes four of
/// them, which may belong to different workers.
pub struct Wire {
    /// Name for messages.
    pub name: Box<str>,
    /// Names of the interfaces of its sides, for captures.
    pub interfaces: [Box<str>; 2],
    /// One side.
    pub a: Box<dyn Port>,
    /// The other side.
    pub b: Box<dyn Port>,
    /// The frames that it receives into, of the UMEM of both ports. Wires do not share them: one
    /// that is flooded cannot starve another, and what a wire holds goes when it goes.
    pub pool: FramePool,
}

impl Wire {
    /// A wire between two ports of one UMEM, with frames of it.
    pub fn new(
        name: impl Into<Box<str>>,
        a: Box<dyn Port>,
        b: Box<dyn Port>,
        pool: FramePool,
    ) -> Self {
        let name = name.into();
        let interfaces = ["a", "b"].map(|side| format!("{name} {side}").into());
        Self { name, interfaces, a, b, pool }
    }

    /// Says what interfaces its sides are.
    pub fn with_interfaces(mut self, a: &str, b: &str) -> Self {
        self.interfaces = [a.into(), b.into()];
        self
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("name", &self.name).finish_non_exhaustive()
    }
}
