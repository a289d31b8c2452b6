//! What is chosen when a program is loaded and attached, and what comes of it.

use std::fmt;
use std::time::Duration;

use crate::STALE_AFTER;

/// What happens to packets that no live userspace takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum FailureMode {
    /// They are dropped.
    #[default]
    Closed,
    /// They go to the host's network stack, as if there were no firewall.
    Open,
}

/// How to attach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Attach {
    /// In the driver; an error if it cannot.
    Native,
    /// In the driver if it can, else in the stack.
    #[default]
    PreferNative,
    /// In the stack: any driver, but slower.
    Generic,
}

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttachMode {
    /// In the driver, before the kernel makes a socket buffer.
    Native,
    /// In the network stack.
    Generic,
}

/// What is fixed when the program is loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What happens to packets that no live userspace takes.
    pub failure: FailureMode,
    /// Age at which a heartbeat counts as stale, at least 10 ms.
    pub stale_after: Duration,
    /// Largest number of prefixes in the early-drop set, per address family; 0 leaves the check out
    /// of the program. Ports with the same capacity share the set.
    pub early_drop_capacity: u32,
    /// In failure mode open, send what no live userspace takes out of the interface with this index,
    /// as a bridge beneath would: the other port of a wire. `None` leaves it to the host's stack.
    pub bypass_to: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failure: FailureMode::Closed,
            stale_after: STALE_AFTER,
            early_drop_capacity: 0,
            bypass_to: None,
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl fmt::Display for FailureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
        })
    }
}
