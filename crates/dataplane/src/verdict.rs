//! What the packet path asks of a policy, and what it gets.

use portcullis_identity_table::IdentityId;

use crate::packet::Version;

/// The number of a rule in the loaded policy; its meaning is the policy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct RuleId(u32);

impl Default for RuleId {
    fn default() -> Self {
        Self::NONE
    }
}

impl RuleId {
    /// "No rule": the default decided.
    pub const NONE: Self = Self(u32::MAX);

    /// Wraps a raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A new connection, as a policy sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Identity of who opens the connection.
    pub source: IdentityId,
    /// Identity of whom it is opened to.
    pub destination: IdentityId,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port; 0 where the protocol has none.
    pub destination_port: u16,
    /// ICMP or ICMPv6 type; 0 for other protocols.
    pub icmp_kind: u8,
    /// ICMP or ICMPv6 code; 0 for other protocols.
    pub icmp_code: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// IP version.
    pub version: Version,
    /// Source and destination address are the same.
    pub same_address: bool,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Let it through.
    Allow = 0,
    /// Drop it silently.
    #[default]
    Deny = 1,
    /// Drop it and tell the sender.
    Reject = 2,
}

impl Verdict {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        }
    }
}

/// A policy's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// The rule that decided.
    pub rule: RuleId,
    /// A rule asked for the flow to be noted.
    pub log: bool,
}

/// A compiled policy. One call a batch; must not block or allocate.
pub trait Policy: Send + Sync {
    /// Decides `flows[n]` into `out[n]`. Both slices are equally long.
    fn decide(&self, flows: &[Flow], out: &mut [Decision]);
}

/// Addresses to identities, as one worker asks. One call a batch; must not block or allocate.
pub trait Identify: Send {
    /// Writes the identity of each IPv4 address (host byte order) into `out`, equally long.
    fn identify_v4(&self, addresses: &[u32], out: &mut [IdentityId]);

    /// Writes the identity of each IPv6 address into `out`, equally long.
    fn identify_v6(&self, addresses: &[u128], out: &mut [IdentityId]);
}

/// Where workers get their [`Identify`] from: each has its own, so that looking up shares nothing
/// writable. Whatever is `Identify`, `Clone` and `Sync` serves as it is.
pub trait Identities: Send + Sync {
    /// A handle for one worker. Asked for once a worker and snapshot; may allocate and lock.
    fn handle(&self) -> Box<dyn Identify>;

    /// A number that changes after every change of the answers. It is read before addresses are
    /// looked up, so that connections judged by older answers are judged again.
    fn generation(&self) -> u32 {
        0
    }
}

impl<T: Identify + Clone + Sync + 'static> Identities for T {
    fn handle(&self) -> Box<dyn Identify> {
        Box::new(self.clone())
    }
}
