//! AF_XDP: ports whose rings are shared with the kernel.
//!
//! [`open`] takes interfaces and gives one [`XdpPort`] for each of their queues, all in one UMEM, so
//! that a frame received on any of them is transmitted on any other without a copy:
//!
//! ```no_run
//! use portcullis_dataplane::frame::Batch;
//! use portcullis_dataplane::port::Port;
//! use portcullis_dataplane::port::xdp::{self, Config};
//!
//! let mut wire = xdp::open(&["fw0", "fw1"], &Config::default())?;
//! for interface in &wire.interfaces {
//!     println!("{}: {} on {} queues", interface.name, interface.mode, interface.ports.len());
//! }
//! // Bare forwarding of queue 0, one way:
//! let mut batch = Batch::new(64);
//! loop {
//!     let [left, right] = &mut wire.interfaces[..] else { unreachable!() };
//!     left.ports[0].receive(&mut wire.pool, &mut batch);
//!     right.ports[0].transmit(&mut batch);
//!     right.ports[0].flush()?;
//!     right.ports[0].reclaim(&mut wire.pool);
//!     # break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Open further wires with clones of one [`Config`]: they share the loaded program
//! ([`Config::programs`]), which is what makes the kernel wait, and nothing else.
//!
//! # What keeps frames safe
//! What the kernel hands out through a ring is input. A ledger says for each chunk whether the user
//! or which ring of which port holds it, and every descriptor that comes back is checked against it,
//! in release builds too: a chunk that is not the ring's to give, or that lies outside of the UMEM,
//! makes no frame and is counted.
//!
//! # What keeps packets flowing
//! Every [`Port::receive`](super::Port::receive) beats the queue's heartbeat. A worker that does not
//! call it for [`Config::stale_after`] counts as stalled, and the program in the kernel does what
//! the failure mode says. So an idle worker must call it too, at least four times in that span.

mod bind;
mod config;
mod error;
mod guard;
mod ledger;
mod memory;
mod open;
mod output;
mod queue;
mod rings;
#[cfg(test)]
mod simulated;
mod sys;
mod together;
mod umem;

pub use config::{BusyPoll, Config, Mode, ModePolicy, Obtained, ParseModeError, RingSizes};
pub use error::Error;
pub use guard::Guard;
pub use memory::{HugePages, Memory, Numa};
pub use open::{OpenInterface, Opened, open};
pub use output::{Output, open_output};
pub use portcullis_bpf::{
    AttachMode, Counters as ProgramCounters, EarlyDrop, FailureMode, Programs, Replaced,
    Verdict as ProgramVerdict,
};
pub use queue::{QueueCounters, QueuePort};
pub use sys::{LinkState, Statistics};
pub use together::drop_together;

/// An AF_XDP port.
pub type XdpPort = QueuePort<rings::KernelRings>;
