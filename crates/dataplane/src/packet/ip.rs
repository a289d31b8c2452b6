//! IPv4 (RFC 791) and IPv6 with extension headers (RFC 8200).

use super::transport::{self, Transport};
use super::{Headers, Tuple, Version, be16, be32, be128};
use crate::reason::Reason;

/// Extension headers that are followed in one packet; RFC 8200 describes six.
pub const MAX_EXTENSIONS: usize = 8;

/// The longest IP packet without jumbograms.
const MAX_PACKET: u32 = 65_535;

/// Where a piece belongs in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fragment {
    /// Identification; 16 bits in IPv4.
    pub id: u32,
    /// First byte of the piece within the packet's payload; a multiple of 8.
    pub offset: u16,
    /// Bytes of payload in the piece.
    pub len: u16,
    /// More pieces follow.
    pub more: bool,
}

/// Reads an IPv4 packet that begins `l3` bytes into the frame, into `headers`.
///
/// # Errors
/// What does not add up.
#[inline]
pub(crate) fn parse_v4(
    data: &[u8],
    l3: usize,
    wire_len: usize,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let truncated = truncation(data, wire_len, Reason::TruncatedIp);
    let header = data.get(l3..l3 + 20).ok_or(truncated)?;
    if header[0] >> 4 != 4 {
        return Err(Reason::IpVersion);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < 20 || total_len < header_len {
        return Err(Reason::IpLength);
    }
    if total_len > wire_len - l3 {
        return Err(Reason::IpLength);
    }
    let l4 = l3 + header_len;
    if l4 > data.len() {
        return Err(truncated);
    }
    let l4_len = (total_len - header_len) as u16;
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let id = u16::from_be_bytes([header[4], header[5]]);
    let fragment = piece(u32::from(id), (flags & 0x1fff) << 3, flags & 0x2000 != 0, l4_len)?;
    *headers = Headers {
        tuple: Tuple {
            source: u32::from_be_bytes([header[12], header[13], header[14], header[15]]).into(),
            destination: u32::from_be_bytes([header[16], header[17], header[18], header[19]])
                .into(),
            protocol: header[9],
            version: Version::V4,
            ..Tuple::default()
        },
        transport: Transport::Other,
        fragment,
        l3: l3 as u16,
        l4: l4 as u16,
        l4_len,
        hop_limit: header[8],
        outer: 0,
    };
    transport::parse(data, wire_len, headers)
}

/// Reads an IPv6 packet that begins `l3` bytes into the frame, into `headers`.
///
/// # Errors
/// What does not add up.
#[inline]
pub(crate) fn parse_v6(
    data: &[u8],
    l3: usize,
    wire_len: usize,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let truncated = truncation(data, wire_len, Reason::TruncatedIp);
    let header = data.get(l3..l3 + 40).ok_or(truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::IpVersion);
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = l3 + 40 + payload_len;
    if end > wire_len {
        return Err(Reason::IpLength);
    }
    let (source, destination) =
        (be128(header, 8).ok_or(truncated)?, be128(header, 24).ok_or(truncated)?);
    let chain = Extensions::walk(data, l3 + 40, end, wire_len, header[6])?;
    *headers = Headers {
        tuple: Tuple {
            source,
            destination,
            protocol: chain.protocol,
            version: Version::V6,
            ..Tuple::default()
        },
        transport: Transport::Other,
        fragment: chain.fragment,
        l3: l3 as u16,
        l4: chain.l4 as u16,
        l4_len: (end - chain.l4) as u16,
        hop_limit: header[7],
        outer: 0,
    };
    transport::parse(data, wire_len, headers)
}

/// Network part of the IPv6 packet that an ICMPv6 error quotes from `at` on.
pub(super) fn quoted_v6(data: &[u8], at: usize) -> Option<Headers> {
    if data.get(at)? >> 4 != 6 {
        return None;
    }
    let chain = Extensions::walk(data, at + 40, data.len(), data.len(), *data.get(at + 6)?).ok()?;
    if chain.fragment.is_some_and(|f| f.offset > 0) {
        return None;
    }
    let mut headers = Headers { l4: u16::try_from(chain.l4).ok()?, ..Headers::default() };
    headers.tuple.source = be128(data, at + 8)?;
    headers.tuple.destination = be128(data, at + 24)?;
    headers.tuple.protocol = chain.protocol;
    Some(headers)
}

/// The end of a chain of IPv6 extension headers.
struct Extensions {
    protocol: u8,
    l4: usize,
    fragment: Option<Fragment>,
}

impl Extensions {
    /// Follows the chain from `at`; the packet ends at `end`.
    #[inline]
    fn walk(
        data: &[u8],
        mut at: usize,
        end: usize,
        wire_len: usize,
        mut next: u8,
    ) -> Result<Self, Reason> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION: u8 = 60;
        const MOBILITY: u8 = 135;
        const HIP: u8 = 139;
        const SHIM6: u8 = 140;
        let first = at;
        let mut fragment = None;
        for _ in 0..=MAX_EXTENSIONS {
            let len = match next {
                // Only as the very first header (RFC 8200 section 4.1).
                HOP_BY_HOP if at != first => return Err(Reason::ExtensionHeaders),
                HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 | AUTHENTICATION => {
                    let length = *within(data, at, end, wire_len, 2)?.get(1).unwrap_or(&0);
                    if next == AUTHENTICATION {
                        (usize::from(length) + 2) * 4
                    } else {
                        (usize::from(length) + 1) * 8
                    }
                }
                FRAGMENT => 8,
                _ => return Ok(Self { protocol: next, l4: at, fragment }),
            };
            let header = within(data, at, end, wire_len, len)?;
            if next == ROUTING && header[2] == 0 {
                return Err(Reason::RoutingHeader);
            }
            let following = header[0];
            at += len;
            if next == FRAGMENT {
                if fragment.is_some() {
                    return Err(Reason::ExtensionHeaders);
                }
                let bits = be16(header, 2).unwrap_or(0);
                let id = be32(header, 4).unwrap_or(0);
                fragment = piece(id, bits & 0xfff8, bits & 1 != 0, (end - at) as u16)?;
                if fragment.is_some_and(|f| f.offset > 0) {
                    // What follows is payload of the packet, not a header.
                    return Ok(Self { protocol: following, l4: at, fragment });
                }
            }
            next = following;
        }
        Err(Reason::ExtensionHeaders)
    }
}

/// `len` bytes at `at`, which must lie before `end` and in the first buffer.
#[inline]
fn within(
    data: &[u8],
    at: usize,
    end: usize,
    wire_len: usize,
    len: usize,
) -> Result<&[u8], Reason> {
    if at + len > end {
        return Err(Reason::TruncatedExtension);
    }
    data.get(at..at + len).ok_or(truncation(data, wire_len, Reason::TruncatedExtension))
}

/// A fragment's place, or `None` for a whole packet (IPv6 atomic fragments included, RFC 6946).
#[inline]
fn piece(id: u32, offset: u16, more: bool, len: u16) -> Result<Option<Fragment>, Reason> {
    if offset == 0 && !more {
        return Ok(None);
    }
    if u32::from(offset) + u32::from(len) > MAX_PACKET
        || len == 0
        || (more && !len.is_multiple_of(8))
    {
        return Err(Reason::FragmentLength);
    }
    Ok(Some(Fragment { id, offset, len, more }))
}

/// A header that is not in `data`: split over buffers if the frame goes on, else truncated.
#[inline]
pub(super) fn truncation(data: &[u8], wire_len: usize, truncated: Reason) -> Reason {
    if wire_len > data.len() { Reason::SplitHeaders } else { truncated }
}
