//! Connection tracking: replies of allowed connections pass, and nothing that only looks like one.

pub mod key;
pub mod limit;
pub mod sctp;
pub mod simple;
pub mod snapshot;
pub mod state;
pub mod table;
pub mod tcp;
pub mod timeout;

pub use key::{Direction, Key, KeyV4, KeyV6, Probe, Role, Segment};
pub use limit::{Limits, Rate, Tokens};
pub use simple::SimpleTable;
pub use snapshot::{RestoreError, Restored, Windows};
pub use state::{Connection, Grant, Protocol, Traffic};
pub use table::Table;
pub use timeout::Timeouts;

use crate::reason::Reason;

/// What a policy change does to connections that an older policy allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPolicyChange {
    /// They live on until they end by themselves; those of another process, put back by
    /// [`Table::restore`], are judged once.
    Keep,
    /// Their next packet is judged by the new policy, as if the connection were opened now.
    #[default]
    Rejudge,
    /// They are forgotten: their next packet must open a new connection.
    Cut,
}

/// What happens to new connections when the table is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// They are refused: what exists is safe.
    #[default]
    DenyNew,
    /// The oldest idle connection makes room, one that was never answered or is over first.
    EvictOldest,
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
    /// What happens to new connections when the table is full.
    pub on_full: OnFull,
    /// Limits of each identity.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 1 << 18,
            timeouts: Timeouts::default(),
            on_policy_change: OnPolicyChange::default(),
            pick_up: false,
            on_full: OnFull::default(),
            limits: Limits::default(),
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
pub enum Settled {
    /// It opened a connection.
    Opened {
        /// Why.
        grant: Grant,
    },
    /// It belongs to an allowed connection.
    Member {
        /// Why that may be.
        grant: Grant,
    },
    /// It belongs to an allowed connection, which was judged anew and found allowed by another rule, or
    /// to be between other identities.
    Renewed {
        /// Why that may be now.
        grant: Grant,
    },
    /// It is dropped.
    Dropped(Reason),
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
