//! Settings of a recorder.

use std::time::Duration;

use super::choice::{Keep, PolicyKeep};

/// How flows are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How often a connection that lasts is recorded again. A second at least; `None`: never.
    pub update: Option<Duration>,
    /// How long denials are summed up before they are recorded.
    pub denied: Duration,
    /// Different denials that are kept apart within that time, about 600 bytes each: by both
    /// identities, rule, reason, protocol and zone. What is beyond is summed up together, by reason.
    pub denied_kinds: usize,
    /// What is recorded.
    pub keep: Keep,
    /// What is recorded of flows that some policies decided; the first that fits counts, and `keep`
    /// if none does.
    pub policies: Vec<PolicyKeep>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            update: Some(Duration::from_secs(60)),
            denied: Duration::from_secs(1),
            denied_kinds: 4096,
            keep: Keep::All,
            policies: Vec::new(),
        }
    }
}

/// What is wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a [`Keep`].
    #[error("{0:?}: expected none, denied, all, or 1/N for a sample")]
    Keep(String),
    /// Not a pattern of policies.
    #[error("policy {0:?}: expected Kind/namespace/name, each of which may be *, or default")]
    Pattern(String),
}
