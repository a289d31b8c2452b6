//! The packet path: ports, frames, the parser, connection tracking and the pipeline that turns a
//! batch of received frames into verdicts and transmitted frames. It knows packets, the kernel's
//! rings, identities as numbers and a compiled policy as a trait. It must never know YAML,
//! Kubernetes, selectors or how a policy was written.
//!
//! # Parts
//! - [`packet`]: [`packet::parse`] reads headers; [`packet::checksum`] finishes partial checksums.
//! - [`connection`]: who talks to whom already.
//! - [`verdict`]: the traits [`verdict::Policy`] and [`verdict::Identities`] that a program gives to the
//!   data plane, and the [`verdict::Flow`]s that they answer for.
//! - [`pipeline`]: an [`pipeline::Engine`] holds what workers share (publish a
//!   [`pipeline::Snapshot`] there); a [`pipeline::Lane`] judges batches of packets.
//! - [`port`], [`topology`], [`worker`]: a [`worker::Worker`] moves frames between the two
//!   [`port::Port`]s of each [`topology::Wire`].
//! - [`reason`], [`counter`], [`event`], [`capture`]: what happened.
//!
//! # A wire in memory
//! ```
//! use std::sync::Arc;
//! use portcullis_dataplane::frame::Umem;
//! use portcullis_dataplane::pipeline::{self, Engine, Lane, Snapshot};
//! use portcullis_dataplane::port::memory::MemoryPort;
//! use portcullis_dataplane::topology::Wire;
//! use portcullis_dataplane::verdict::{Decision, Flow, Identify, Policy, Verdict};
//! use portcullis_dataplane::worker::{self, Worker};
//! use portcullis_identity_table::IdentityId;
//!
//! #[derive(Clone)]
//! struct Everyone;
//! impl Identify for Everyone {
//!     fn identify_v4(&self, _: &[u32], out: &mut [IdentityId]) { out.fill(IdentityId::WORLD_V4) }
//!     fn identify_v6(&self, _: &[u128], out: &mut [IdentityId]) { out.fill(IdentityId::WORLD_V6) }
//! }
//! struct OnlyHttps;
//! impl Policy for OnlyHttps {
//!     fn decide(&self, flows: &[Flow], out: &mut [Decision]) {
//!         for (flow, out) in flows.iter().zip(out) {
//!             let allow = flow.protocol == 6 && flow.destination_port == 443;
//!             out.verdict = if allow { Verdict::Allow } else { Verdict::Deny };
//!         }
//!     }
//! }
//!
//! let engine = Arc::new(Engine::new(pipeline::Config::default())?);
//! engine.publish(Snapshot { identities: Arc::new(Everyone), policy: Arc::new(OnlyHttps) });
//! let pool = Umem::heap(256, 2048);
//! let (left, client) = MemoryPort::new(pool.umem())?;
//! let (right, server) = MemoryPort::new(pool.umem())?;
//! let mut worker = Worker::new(worker::Config::default(), Lane::new(engine))?;
//! worker.add(Wire::new("example", Box::new(left), Box::new(right), pool))?;
//!
//! let mut arp = [0u8; 42];
//! arp[12..14].copy_from_slice(&[0x08, 0x06]);
//! client.send(&arp);
//! worker.round(); // or `worker.run()` on a thread of its own
//! assert_eq!(server.receive().as_deref(), Some(&arp[..]));
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod capture;
pub mod clock;
pub mod connection;
pub mod counter;
pub mod event;
pub mod frame;
pub mod mirror;
pub mod packet;
pub mod pipeline;
pub mod port;
mod prefetch;
pub mod reason;
pub mod switch;
pub mod topology;
pub mod verdict;
pub mod worker;
