//! The packet path: ports, frames, the parser, connection tracking and the pipeline that turns a
//! batch of received frames into verdicts and transmitted frames. It knows packets, the kernel's
//! rings, identities as numbers and a compiled policy as a trait. It must never know YAML,
//! Kubernetes, selectors or how a policy was written.

pub mod frame;
pub mod pipeline;
pub mod port;
