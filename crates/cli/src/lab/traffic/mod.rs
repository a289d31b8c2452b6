//! Traffic at full rate between two hosts of the lab: packets that the kernel makes from a template
//! and puts on an interface without a socket, and a sink that counts and drops them before the
//! network stack of the other host sees them.
//!
//! Both are a few dozen BPF instructions, put together when they are needed, so that addresses and
//! counts are constants in them and no compiler is asked for.

mod assembler;
mod bpf;
mod generator;
mod sink;

pub(crate) use generator::{Generator, Load, Sent};
pub(crate) use sink::Sink;

/// First destination port of generated packets; a stream has this or one of the next ports.
pub(crate) const PORT: u16 = 9000;

/// Streams that the sink counts apart, by destination port.
pub(crate) const STREAMS: u16 = 8;
