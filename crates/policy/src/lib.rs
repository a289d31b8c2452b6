//! Policy documents in, one compiled and proved program out: Kubernetes NetworkPolicy,
//! ClusterNetworkPolicy and Calico's policies are read, resolved to identities, compiled, explained
//! and compared. It knows documents, clusters, identities and rules. It must never know packets,
//! ports of a NIC or the kernel.

pub mod flow;
pub mod judge;
pub mod model;

pub use flow::{Flow, Verdict};
