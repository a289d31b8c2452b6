//! Policy documents in, one compiled and proved program out: Kubernetes NetworkPolicy,
//! ClusterNetworkPolicy and Calico's policies are read, resolved to identities, compiled, explained
//! and compared. It knows documents, clusters, identities and rules. It must never know packets,
//! ports of a NIC or the kernel.

pub mod ask;
mod atlas;
mod compile;
pub mod diagnostic;
pub mod diff;
mod document;
mod engine;
pub mod explain;
pub mod flow;
pub mod group;
pub mod judge;
pub mod lint;
pub mod model;
pub mod on_demand;
mod parallel;
pub mod program;
pub mod prove;
pub mod reach;
pub mod set_change;
pub mod source;
pub mod space;
mod stand_in;
mod view;
pub mod words;

pub use compile::resolve::{PolicyInfo, RuleId, RuleInfo};
pub use compile::trees::Outcome;
pub use compile::{CompileError, Config, Prove};
pub use diagnostic::{Diagnostic, LoadError, Severity};
pub use diff::diff;
pub use document::{Loaded, load_cluster, load_policies, parse_cluster, parse_policies};
pub use engine::{Engine, EngineError, Evaluation, Update};
pub use explain::explain;
pub use flow::{Flow, Verdict};
pub use lint::lint;
pub use program::{Decision, FlowKey, OutcomeId, Program, Reason};
pub use prove::{Mismatch, Proof};
pub use reach::reach;
pub use source::Source;
pub use stand_in::stand_in;

// Random clusters and policies are made for the tests in `tests/` too, from outside the crate.
#[cfg(test)]
extern crate self as portcullis_policy;
#[cfg(test)]
#[path = "../tests/common/random.rs"]
mod random;
