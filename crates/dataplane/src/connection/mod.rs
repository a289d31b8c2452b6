//! Connection tracking: replies of allowed connections pass, and nothing that only looks like one.

pub mod key;
pub mod simple;
pub mod state;
pub mod tcp;
pub mod timeout;

pub use key::{Direction, Key, Probe, Role, Segment};
pub use simple::SimpleTable;
pub use state::{Connection, Grant, Protocol, Traffic};
pub use timeout::Timeouts;

use crate::reason::Reason;

/// What a policy change does to connections that an older policy allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPolicyChange {
    /// They live on until they end by themselves.
    Keep,
    /// Their next packet is judged by the new policy, as if the connection were opened now.
    #[default]
    Rejudge,
    /// They are forgotten: their next packet must open a new connection.
    Cut,
}

/// Settings of a connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Most connections at a time.
    pub capacity: usize,
    /// Idle times.
    pub timeouts: Timeouts,
    /// What a policy change does to live connections.
    pub on_policy_change: OnPolicyChange,
    /// Whether a TCP segment or SCTP packet from the middle of an unknown connection may be picked
    /// up if the policy allows its flow: useful when the firewall starts under traffic. Windows of
    /// such connections are not checked.
    pub pick_up: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 1 << 18,
            timeouts: Timeouts::default(),
            on_policy_change: OnPolicyChange::default(),
            pick_up: false,
        }
    }
}

/// What the table says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// It belongs to an allowed connection and was taken into account.
    Member {
        /// Why the connection may be.
        grant: Grant,
    },
    /// The policy must judge a flow opened in this direction; then the table settles the packet.
    /// Either nothing is known of the connection, or an older policy allowed it, or an earlier
    /// packet of the same batch must be settled first.
    Judge {
        /// The direction in which the connection is or would be opened.
        opened: Direction,
    },
    /// It must not pass, whatever the policy says.
    Invalid(Reason),
}

/// What became of a packet that needed the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // lives on the stack, one a packet
pub enum Settled {
    /// It opened a connection.
    Opened {
        /// Why.
        grant: Grant,
        /// The ended connection whose place it took.
        replaced: Option<Connection>,
    },
    /// It belongs to an allowed connection.
    Member {
        /// Why that may be.
        grant: Grant,
    },
    /// It is dropped.
    Dropped(Reason),
    /// It is dropped, and the connection it belonged to is over: the policy denies it now.
    Ended {
        /// Why.
        reason: Reason,
        /// What it was.
        ended: Connection,
    },
    /// The connection changed meanwhile: ask the policy about a flow opened in this direction, then
    /// settle again.
    Again {
        /// The direction to judge.
        opened: Direction,
    },
}

/// A connection that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its key.
    pub key: Key,
    /// Its last state.
    pub connection: Connection,
}
