//! Identity numbers.

use core::fmt;

/// The number of an identity: the class of all addresses that no loaded policy can tell apart.
///
/// Numbers below [`IdentityId::FIRST_DYNAMIC`] are reserved and mean the same in every process.
/// Cost: a `u32`.
///
/// ```
/// use portcullis_identity_table::IdentityId;
/// assert_eq!(IdentityId::UNKNOWN.get(), 0);
/// assert!(IdentityId::new(300).is_dynamic());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct IdentityId(u32);

impl IdentityId {
    /// An address that nothing loaded speaks of. Matched only by what matches everything.
    pub const UNKNOWN: Self = Self(0);
    /// The host that the firewall runs on.
    pub const HOST: Self = Self(1);
    /// The node that the workload at the other end runs on.
    pub const OWN_NODE: Self = Self(2);
    /// Any IPv4 address outside the cluster that no loaded CIDR covers.
    pub const WORLD_V4: Self = Self(3);
    /// Any IPv6 address outside the cluster that no loaded CIDR covers.
    pub const WORLD_V6: Self = Self(4);
    /// All reserved identities that addresses may have.
    pub const RESERVED: [Self; 5] =
        [Self::UNKNOWN, Self::HOST, Self::OWN_NODE, Self::WORLD_V4, Self::WORLD_V6];
    /// The first number that is given to identities at run time.
    pub const FIRST_DYNAMIC: Self = Self(256);

    /// Wraps a raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the number was given at run time rather than reserved.
    pub const fn is_dynamic(self) -> bool {
        self.0 >= Self::FIRST_DYNAMIC.0
    }
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
