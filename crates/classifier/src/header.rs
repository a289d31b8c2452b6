//! What is looked up: the fields of a packet's headers, in host byte order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lanes::Key;

/// Source and destination of one packet, always of one family.
///
/// ```
/// use portcullis_classifier::Header;
///
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// assert_eq!(header.addresses.destination().to_string(), "10.0.0.2");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// Of an IPv4 packet.
    V4 {
        /// Where it comes from.
        source: Ipv4Addr,
        /// Where it goes.
        destination: Ipv4Addr,
    },
    /// Of an IPv6 packet.
    V6 {
        /// Where it comes from.
        source: Ipv6Addr,
        /// Where it goes.
        destination: Ipv6Addr,
    },
}

impl Addresses {
    /// The source, of either family.
    #[must_use]
    pub const fn source(self) -> IpAddr {
        match self {
            Self::V4 { source, .. } => IpAddr::V4(source),
            Self::V6 { source, .. } => IpAddr::V6(source),
        }
    }

    /// The destination, of either family.
    #[must_use]
    pub const fn destination(self) -> IpAddr {
        match self {
            Self::V4 { destination, .. } => IpAddr::V4(destination),
            Self::V6 { destination, .. } => IpAddr::V6(destination),
        }
    }
}

/// The fields of one packet that rules can ask about. Numbers are in host byte order.
///
/// Whoever makes one says what a missing field reads as: ports of a packet without ports are 0,
/// and so are flags, ICMP fields and classes; a missing VLAN tag is `None`.
///
/// ```
/// use portcullis_classifier::Header;
///
/// let dns = Header::v4([10, 0, 0, 1], [10, 0, 0, 53], 17, 33333, 53);
/// assert_eq!(dns.destination_port, 53);
/// let tagged = Header { vlan: Some(7), ..dns };
/// assert_ne!(dns, tagged);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Source and destination address.
    pub addresses: Addresses,
    /// Identity class of the source.
    pub source_class: u32,
    /// Identity class of the destination.
    pub destination_class: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// TCP flags; read only when the protocol is TCP.
    pub tcp_flags: u16,
    /// VLAN identifier of the outermost tag, 0 to 4095.
    pub vlan: Option<u16>,
    /// IP protocol number of the transport header.
    pub protocol: u8,
    /// ICMP type; read only when the protocol is ICMP or ICMPv6.
    pub icmp_type: u8,
    /// ICMP code; read only when the protocol is ICMP or ICMPv6.
    pub icmp_code: u8,
}

impl Header {
    /// A 5-tuple, everything else absent.
    #[must_use]
    pub const fn new(
        addresses: Addresses,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        Self {
            addresses,
            source_class: 0,
            destination_class: 0,
            source_port,
            destination_port,
            tcp_flags: 0,
            vlan: None,
            protocol,
            icmp_type: 0,
            icmp_code: 0,
        }
    }

    /// An IPv4 5-tuple, everything else absent.
    #[must_use]
    pub fn v4(
        source: impl Into<Ipv4Addr>,
        destination: impl Into<Ipv4Addr>,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        let addresses = Addresses::V4 { source: source.into(), destination: destination.into() };
        Self::new(addresses, protocol, source_port, destination_port)
    }

    /// An IPv6 5-tuple, everything else absent.
    #[must_use]
    pub fn v6(
        source: impl Into<Ipv6Addr>,
        destination: impl Into<Ipv6Addr>,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        let addresses = Addresses::V6 { source: source.into(), destination: destination.into() };
        Self::new(addresses, protocol, source_port, destination_port)
    }
}

/// An IPv4 5-tuple in 16 bytes: what [`Header`] holds for a packet without VLAN tag, TCP flags,
/// ICMP fields and classes, in the form that engines look up fastest.
///
/// ```
/// use portcullis_classifier::{Header, TupleV4};
///
/// let tuple = TupleV4::new([10, 0, 0, 1], [10, 0, 0, 53], 17, 33333, 53);
/// assert_eq!(tuple.header(), Header::v4([10, 0, 0, 1], [10, 0, 0, 53], 17, 33333, 53));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct TupleV4(pub(crate) Key<1>);

impl TupleV4 {
    /// Packs a 5-tuple; ports in host byte order.
    #[inline]
    #[must_use]
    pub fn new(
        source: impl Into<Ipv4Addr>,
        destination: impl Into<Ipv4Addr>,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        Self(Key::v4(source.into(), destination.into(), protocol, source_port, destination_port))
    }

    /// The header with these fields and nothing else.
    #[must_use]
    pub fn header(&self) -> Header {
        self.0.header()
    }

    /// The same tuples, seen as keys.
    #[inline]
    pub(crate) fn keys(tuples: &[Self]) -> &[Key<1>] {
        // SAFETY: a tuple is a transparent wrapper of a key.
        unsafe { std::slice::from_raw_parts(tuples.as_ptr().cast(), tuples.len()) }
    }

    /// The 5-tuple of an IPv4 header; what else it holds is lost.
    #[must_use]
    pub fn of(header: &Header) -> Option<Self> {
        let Addresses::V4 { source, destination } = header.addresses else { return None };
        let (from, to) = (header.source_port, header.destination_port);
        Some(Self::new(source, destination, header.protocol, from, to))
    }
}
