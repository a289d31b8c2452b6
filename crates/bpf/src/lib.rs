//! The XDP program and its loader: the program parses just enough of a packet to steer it to the
//! AF_XDP socket of its queue, and acts as the failure mode says when there is none. It knows the
//! kernel, interfaces and maps. It must never know policies, identities or connections.
//!
//! The program is C (`src/portcullis.bpf.c`), compiled by `build-object`; the object is committed
//! and embedded, so using this crate needs no BPF compiler. A [`Program`] is what one [`Interface`]
//! has of it; those of a firewall come from one set of [`Programs`], and share what they can:
//!
//! ```no_run
//! use portcullis_bpf::{Attach, Interface, Programs, Settings};
//!
//! let interface = Interface::by_name("eth0")?;
//! let programs = Programs::default();
//! let mut program = programs.load(&interface, &Settings::default())?;
//! let mode = program.attach(&interface, Attach::PreferNative, None)?;
//! println!("{} runs the program in {mode} mode", interface.name());
//! // For each queue: program.set_socket(queue, &socket)?, then beat before every batch.
//! let heartbeat = program.heartbeat(0)?;
//! heartbeat.beat();
//! # Ok::<(), portcullis_bpf::Error>(())
//! ```
//!
//! The program is held by a link that lives as long as the `Program`: when the process ends, however
//! it ends, the kernel detaches and frees everything, unless the link was pinned on request.

mod counters;
mod early_drop;
mod error;
mod heartbeat;
mod instance;
mod interface;
mod link;
mod namespace;
mod object;
mod program;
mod programs;
mod settings;
mod sys;

pub use counters::{Count, Counters, Kind, Verdict};
pub use early_drop::{EarlyDrop, Replaced};
pub use error::Error;
pub use heartbeat::{Heartbeat, STALE_AFTER};
pub use interface::Interface;
pub use program::Program;
pub use programs::Programs;
pub use settings::{Attach, AttachMode, FailureMode, Settings};
