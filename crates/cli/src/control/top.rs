//! What flows, for `portcullis top`.

use serde::{Deserialize, Serialize};

use super::status::Status;

/// A moment; rates are the client's business.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Top {
    /// Seconds since the start, for rates.
    pub(crate) at: f64,
    pub(crate) status: Status,
    /// Pairs of workloads with the most packets, and those denied most.
    pub(crate) pairs: Vec<Pair>,
    /// Pairs that were forgotten because there were too many: their numbers are missing above.
    pub(crate) forgotten: u64,
}

/// Two workloads and what one wanted of the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pair {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// Addresses of the last flow, for explanations.
    pub(crate) flow: String,
    /// `tcp/5432`, `icmp`.
    pub(crate) service: String,
    /// Denied flows and allowed ones are different pairs.
    pub(crate) denied: bool,
    pub(crate) reason: Option<String>,
    /// The policy that decided last, and where its rule stands.
    pub(crate) policy: String,
    pub(crate) rule: Option<String>,
    /// Connections opened, or attempts denied.
    pub(crate) flows: u64,
    /// Connections open now.
    pub(crate) open: u64,
    /// Of connections that ended and those that are open.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Seconds since the start.
    pub(crate) last_seen: f64,
}
