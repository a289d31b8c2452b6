//! Rules: what a header must look like, and what to answer when it does.

mod condition;
mod prefix;
mod set;

pub use condition::{
    ClassMatch, IcmpMatch, PortRange, ProtocolMatch, ProtocolSet, TcpFlagsMatch, VlanMatch,
};
pub use prefix::{AddressMatch, Ipv4Prefix, Ipv6Prefix};
pub(crate) use set::check;
pub use set::{RuleSet, RuleSetConfig};

use std::num::NonZeroU32;

use crate::header::Header;

/// The ICMP protocol number for IPv4 (RFC 792).
pub(crate) const ICMP: u8 = 1;
/// TCP (RFC 9293).
pub(crate) const TCP: u8 = 6;
/// ICMPv6 (RFC 4443).
pub(crate) const ICMPV6: u8 = 58;

/// The name of a rule: its 0-based place in the [`RuleSet`] it came from. It survives compilation,
/// so that counters and explanations can speak of rules.
///
/// `Option<RuleId>` is four bytes.
///
/// ```
/// use portcullis_classifier::RuleId;
///
/// let id = RuleId::new(7).unwrap();
/// assert_eq!(id.index(), 7);
/// assert_eq!(size_of::<Option<RuleId>>(), 4);
/// assert!(RuleId::new(u32::MAX).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct RuleId(NonZeroU32);

impl RuleId {
    /// The id of place `index`, or `None` for `u32::MAX`, which is nobody's place.
    #[inline]
    #[must_use]
    pub const fn new(index: u32) -> Option<Self> {
        match NonZeroU32::new(index.wrapping_add(1)) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The 0-based place.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0.get() - 1) as usize
    }

    /// The 0-based place as the number that it is stored as.
    #[inline]
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0.get() - 1
    }
}

impl std::fmt::Debug for RuleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RuleId({})", self.as_u32())
    }
}

impl std::fmt::Display for RuleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.as_u32())
    }
}

/// One rule: a condition on each field of a header, and the caller's action.
///
/// All conditions must hold. A condition left alone holds for every header. Among the rules of a
/// [`RuleSet`], the first one that matches wins.
///
/// ```
/// use portcullis_classifier::{Header, PortRange, Rule};
///
/// let web = Rule::any(1)
///     .to_v4("10.0.0.0/8".parse().unwrap())
///     .protocol(6)
///     .destination_ports(PortRange::exact(443));
/// let header = Header::v4([192, 0, 2, 1], [10, 1, 2, 3], 6, 50000, 443);
/// assert!(web.matches(&header));
/// assert!(!web.matches(&Header { destination_port: 80, ..header }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Where the packet comes from.
    pub source: AddressMatch,
    /// Where it goes.
    pub destination: AddressMatch,
    /// Source port, in host byte order. A header without ports carries 0.
    pub source_ports: PortRange,
    /// Destination port, in host byte order. A header without ports carries 0.
    pub destination_ports: PortRange,
    /// IP protocol number.
    pub protocol: ProtocolMatch,
    /// TCP flags; anything but [`TcpFlagsMatch::ANY`] matches TCP headers only.
    pub tcp_flags: TcpFlagsMatch,
    /// ICMP type and code; `Some` matches ICMP and ICMPv6 headers only.
    pub icmp: Option<IcmpMatch>,
    /// VLAN tag.
    pub vlan: VlanMatch,
    /// Identity class of the source, whatever the caller means by it.
    pub source_class: ClassMatch,
    /// Identity class of the destination.
    pub destination_class: ClassMatch,
    /// What the caller wants to know when this rule wins. The classifier never looks at it.
    pub action: u32,
}

impl Rule {
    /// A rule that matches every header.
    #[must_use]
    pub const fn any(action: u32) -> Self {
        Self {
            source: AddressMatch::Any,
            destination: AddressMatch::Any,
            source_ports: PortRange::ANY,
            destination_ports: PortRange::ANY,
            protocol: ProtocolMatch::Any,
            tcp_flags: TcpFlagsMatch::ANY,
            icmp: None,
            vlan: VlanMatch::Any,
            source_class: ClassMatch::Any,
            destination_class: ClassMatch::Any,
            action,
        }
    }

    /// Restricts the source to an IPv4 prefix.
    #[must_use]
    pub fn from_v4(self, prefix: Ipv4Prefix) -> Self {
        Self { source: AddressMatch::V4(prefix), ..self }
    }

    /// Restricts the destination to an IPv4 prefix.
    #[must_use]
    pub fn to_v4(self, prefix: Ipv4Prefix) -> Self {
        Self { destination: AddressMatch::V4(prefix), ..self }
    }

    /// Restricts the source to an IPv6 prefix.
    #[must_use]
    pub fn from_v6(self, prefix: Ipv6Prefix) -> Self {
        Self { source: AddressMatch::V6(prefix), ..self }
    }

    /// Restricts the destination to an IPv6 prefix.
    #[must_use]
    pub fn to_v6(self, prefix: Ipv6Prefix) -> Self {
        Self { destination: AddressMatch::V6(prefix), ..self }
    }

    /// Restricts the source port.
    #[must_use]
    pub fn source_ports(self, ports: PortRange) -> Self {
        Self { source_ports: ports, ..self }
    }

    /// Restricts the destination port.
    #[must_use]
    pub fn destination_ports(self, ports: PortRange) -> Self {
        Self { destination_ports: ports, ..self }
    }

    /// Restricts the protocol to one number.
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        Self { protocol: ProtocolMatch::Exact(protocol), ..self }
    }

    /// Restricts the TCP flags.
    #[must_use]
    pub fn tcp_flags(self, flags: TcpFlagsMatch) -> Self {
        Self { tcp_flags: flags, ..self }
    }

    /// Restricts the ICMP type and code.
    #[must_use]
    pub fn icmp(self, icmp: IcmpMatch) -> Self {
        Self { icmp: Some(icmp), ..self }
    }

    /// Restricts the VLAN tag.
    #[must_use]
    pub fn vlan(self, vlan: VlanMatch) -> Self {
        Self { vlan, ..self }
    }

    /// Restricts the class of the source.
    #[must_use]
    pub fn source_class(self, class: ClassMatch) -> Self {
        Self { source_class: class, ..self }
    }

    /// Restricts the class of the destination.
    #[must_use]
    pub fn destination_class(self, class: ClassMatch) -> Self {
        Self { destination_class: class, ..self }
    }

    /// Whether this rule matches `header`. This is the definition that every engine is held to.
    #[must_use]
    pub fn matches(&self, header: &Header) -> bool {
        self.source.matches(header.addresses.source())
            && self.destination.matches(header.addresses.destination())
            && self.source_ports.contains(header.source_port)
            && self.destination_ports.contains(header.destination_port)
            && self.protocol.matches(header.protocol)
            && self.flags_match(header)
            && self.icmp_matches(header)
            && self.vlan.matches(header.vlan)
            && self.source_class.matches(header.source_class)
            && self.destination_class.matches(header.destination_class)
    }

    fn flags_match(&self, header: &Header) -> bool {
        self.tcp_flags == TcpFlagsMatch::ANY
            || (header.protocol == TCP && self.tcp_flags.matches(header.tcp_flags))
    }

    fn icmp_matches(&self, header: &Header) -> bool {
        let Some(icmp) = self.icmp else { return true };
        matches!(header.protocol, ICMP | ICMPV6) && icmp.matches(header.icmp_type, header.icmp_code)
    }
}
