//! What the packet path needs to know of a packet, read in one pass over its headers.
//!
//! [`parse`] follows Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with a bounded chain of
//! extension headers, and TCP, UDP, SCTP, ICMP or ICMPv6. It trusts no length: what does not add up
//! becomes a [`Reason`]. It allocates nothing and reads each header once.

pub mod checksum;
pub mod ethernet;
pub mod ip;
pub mod sctp;
pub mod transport;
pub mod tunnel;

use crate::reason::Reason;
pub use ethernet::{LinkHeader, parse_link};
pub use ip::Fragment;
pub use sctp::{SctpChunks, SctpHeader};
pub use transport::{IcmpClass, TcpFlags, TcpHeader, Transport};
pub use tunnel::{Encapsulation, Tunnel, TunnelError, Tunnels};

/// IP version of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// IPv4.
    #[default]
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// IANA protocol numbers that the packet path knows by name.
pub mod protocol {
    #![allow(missing_docs)]
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT_HEADER: u8 = 59;
    pub const SCTP: u8 = 132;
}

/// Who sends to whom: addresses, protocol, ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address as a number; an IPv4 address is the number below 2^32.
    pub source: u128,
    /// Destination address, likewise.
    pub destination: u128,
    /// Source port, host byte order; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port, likewise.
    pub destination_port: u16,
    /// Which address space the addresses are of; 0 unless configured.
    pub zone: u16,
    /// IP protocol number (of the last header of IPv6).
    pub protocol: u8,
    /// IP version.
    pub version: Version,
}

impl Tuple {
    /// The source address.
    pub fn source_ip(&self) -> std::net::IpAddr {
        address(self.version, self.source)
    }

    /// The destination address.
    pub fn destination_ip(&self) -> std::net::IpAddr {
        address(self.version, self.destination)
    }

    /// The same flow seen from the other end.
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }
}

fn address(version: Version, number: u128) -> std::net::IpAddr {
    match version {
        Version::V4 => std::net::Ipv4Addr::from_bits(number as u32).into(),
        Version::V6 => std::net::Ipv6Addr::from_bits(number).into(),
    }
}

/// The headers of an IP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Addresses, protocol, ports.
    pub tuple: Tuple,
    /// What the transport header says.
    pub transport: Transport,
    /// Set if the packet is a piece of a larger one.
    pub fragment: Option<Fragment>,
    /// Bytes before the IP header.
    pub l3: u16,
    /// Bytes before the transport header.
    pub l4: u16,
    /// Bytes from the transport header to the end of the IP packet, as IP says.
    pub l4_len: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Bytes before the outer IP header, if the packet came in a tunnel; else 0.
    pub outer: u16,
}

impl Headers {
    /// Bytes of the IP packet, headers included.
    pub const fn ip_len(&self) -> u32 {
        (self.l4 - self.l3) as u32 + self.l4_len as u32
    }

    /// Whether this is IPv6 neighbour discovery (RFC 4861: types 133 to 137, code 0, hop limit 255,
    /// which no router forwards).
    pub const fn is_neighbour_discovery(&self) -> bool {
        match self.transport {
            Transport::Icmp { kind: 133..=137, code: 0, .. } => {
                matches!(self.tuple.version, Version::V6)
                    && self.hop_limit == 255
                    && self.fragment.is_none()
            }
            _ => false,
        }
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // lives on the stack, one a packet
pub enum Packet {
    /// An IP packet.
    Ip(Headers),
    /// ARP.
    Arp,
    /// Something else, by EtherType; below 0x0600: the length of an IEEE 802.3 frame.
    Other(u16),
}

/// Reads the headers of the frame that begins with `data` and is `wire_len` bytes long altogether
/// (more than `data` holds if it goes on in further buffers).
///
/// ```
/// use portcullis_dataplane::packet::{parse, Packet};
/// use portcullis_dataplane::reason::Reason;
/// let mut arp = [0u8; 42];
/// arp[12..14].copy_from_slice(&[0x08, 0x06]);
/// assert_eq!(parse(&arp, arp.len()), Ok(Packet::Arp));
/// assert_eq!(parse(&arp[..13], 13), Err(Reason::TruncatedEthernet));
/// ```
///
/// # Errors
/// The reason for which the packet must be dropped. Never panics, whatever `data` holds.
#[inline]
pub fn parse(data: &[u8], wire_len: usize) -> Result<Packet, Reason> {
    let mut headers = Headers::default();
    Ok(parse_into(data, wire_len, &mut headers)?.with(headers))
}

/// What a frame holds, the headers of an IP packet being elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ip,
    Arp,
    Other(u16),
}

impl Kind {
    /// With the headers.
    pub(crate) fn with(self, headers: Headers) -> Packet {
        match self {
            Self::Ip => Packet::Ip(headers),
            Self::Arp => Packet::Arp,
            Self::Other(ether_type) => Packet::Other(ether_type),
        }
    }
}

/// As [`parse`], with the headers put where they are wanted: a copy of them costs as much as half of
/// the parsing. They mean nothing unless the answer is [`Kind::Ip`].
#[inline(always)]
pub(crate) fn parse_into(
    data: &[u8],
    wire_len: usize,
    headers: &mut Headers,
) -> Result<Kind, Reason> {
    let link = parse_link(data)?;
    match link.ether_type {
        ethernet::IPV4 => ip::parse_v4(data, link.l3, wire_len, headers)?,
        ethernet::IPV6 => ip::parse_v6(data, link.l3, wire_len, headers)?,
        ethernet::ARP => return Ok(Kind::Arp),
        other => return Ok(Kind::Other(other)),
    }
    Ok(Kind::Ip)
}

/// Two bytes at `at`, big-endian.
#[inline]
pub(crate) fn be16(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Four bytes at `at`, big-endian.
#[inline]
pub(crate) fn be32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Sixteen bytes at `at`, big-endian.
#[inline]
pub(crate) fn be128(data: &[u8], at: usize) -> Option<u128> {
    let bytes: [u8; 16] = data.get(at..at.checked_add(16)?)?.try_into().ok()?;
    Some(u128::from_be_bytes(bytes))
}
