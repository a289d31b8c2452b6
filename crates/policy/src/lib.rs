//! Policy documents in, one compiled and proved program out: Kubernetes NetworkPolicy,
//! ClusterNetworkPolicy and Calico's policies are read, resolved to identities, compiled, explained
//! and compared. It knows documents, clusters, identities and rules. It must never know packets,
//! ports of a NIC or the kernel.

pub mod diagnostic;
mod document;
pub mod flow;
pub mod judge;
pub mod model;
pub mod source;

pub use diagnostic::{Diagnostic, LoadError, Severity};
pub use document::{Loaded, load_cluster, load_policies, parse_cluster, parse_policies};
pub use flow::{Flow, Verdict};
pub use source::Source;
