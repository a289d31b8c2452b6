//! A 5-tuple packet classifier: an ordered list of rules goes in, a compiled, immutable value that
//! finds the first matching rule of a header comes out. It knows rules, headers and memory. It must
//! never know packets, identities, policy documents or the kernel: pure Rust, no C, no build script,
//! no I/O, so that any program on any platform can embed it.

pub mod classbench;
mod error;
mod header;
mod lanes;
pub mod linear;
pub mod meta;
pub mod query;
mod rule;
mod simd;
mod sync;
pub mod tree;
pub mod tuple;
pub mod workload;

pub use error::Error;
pub use header::{Addresses, Header, TupleV4};
pub use rule::{
    AddressMatch, ClassMatch, IcmpMatch, Ipv4Prefix, Ipv6Prefix, PortRange, ProtocolMatch,
    ProtocolSet, Rule, RuleId, RuleSet, RuleSetConfig, TcpFlagsMatch, VlanMatch,
};
pub use simd::Instructions;
