//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792) and ICMPv6 (RFC 4443).

use super::ip::truncation;
use super::{Headers, SctpHeader, Version, be16, be32, protocol};
use crate::reason::Reason;

/// What the transport header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(TcpHeader),
    /// UDP.
    Udp,
    /// SCTP.
    Sctp(SctpHeader),
    /// ICMP or ICMPv6.
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
        /// Identifier of a query or reply, else 0.
        id: u16,
        /// What it is in relation to connections.
        class: IcmpClass,
    },
    /// A protocol without ports, or a later fragment, which has no transport header.
    #[default]
    Other,
}

/// How an ICMP message relates to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpClass {
    /// A request, which opens a connection.
    Request,
    /// The answer to the request of this type.
    Reply {
        /// Type of the request.
        request: u8,
    },
    /// An error, which quotes the packet that it is about.
    Error,
    /// Anything else: judged on its own.
    Other,
}

/// The fields of a TCP header that connection tracking reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHeader {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window as sent, unscaled.
    pub window: u16,
    /// Flags.
    pub flags: TcpFlags,
    /// Header length in bytes: 20 to 60.
    pub header_len: u8,
    /// Window scale option (RFC 7323) of a SYN segment; `None` on others.
    pub scale: Option<u8>,
}

/// TCP flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    #![allow(missing_docs)]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;

    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether a sane stack may send this: one purpose at a time, and some purpose at all.
    const fn plausible(self) -> bool {
        let purposes = self.syn() as u8 + self.rst() as u8 + self.fin() as u8;
        purposes <= 1 && (self.ack() || self.syn() || self.rst())
    }
}

/// Fills in ports and transport of `headers`, whose network part is known.
#[inline]
pub(super) fn parse(data: &[u8], wire_len: usize, headers: &mut Headers) -> Result<(), Reason> {
    if let Some(fragment) = headers.fragment
        && fragment.offset > 0
    {
        // RFC 3128: a piece at offset 8 could overwrite TCP flags that were judged.
        if fragment.offset < 16 && headers.tuple.protocol == protocol::TCP {
            return Err(Reason::FragmentTiny);
        }
        return Ok(());
    }
    let result = parse_header(data, wire_len, headers);
    match result {
        // The whole header must stand in the first piece (RFC 1858, RFC 7112).
        Err(Reason::TruncatedTransport) if headers.fragment.is_some() => Err(Reason::FragmentTiny),
        result => result,
    }
}

#[inline]
fn parse_header(data: &[u8], wire_len: usize, headers: &mut Headers) -> Result<(), Reason> {
    let at = usize::from(headers.l4);
    let l4_len = usize::from(headers.l4_len);
    let missing = truncation(data, wire_len, Reason::TruncatedTransport);
    let need = |len: usize| {
        if len > l4_len {
            return Err(Reason::TruncatedTransport);
        }
        data.get(at..at + len).ok_or(missing)
    };
    match (headers.tuple.protocol, headers.tuple.version) {
        (protocol::TCP, _) => {
            let header = need(20)?;
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < 20 || header_len > l4_len {
                return Err(Reason::TransportLength);
            }
            let flags = TcpFlags(header[13]);
            if !flags.plausible() {
                return Err(Reason::TcpFlags);
            }
            let scale = if flags.syn() { window_scale(need(header_len)?) } else { None };
            headers.transport = Transport::Tcp(TcpHeader {
                seq: be32(header, 4).ok_or(missing)?,
                ack: be32(header, 8).ok_or(missing)?,
                window: be16(header, 14).ok_or(missing)?,
                flags,
                header_len: header_len as u8,
                scale,
            });
            ports(header, &mut headers.tuple);
        }
        (protocol::UDP, _) => {
            let header = need(8)?;
            let len = usize::from(be16(header, 4).ok_or(missing)?);
            if len < 8 || (headers.fragment.is_none() && len > l4_len) {
                return Err(Reason::TransportLength);
            }
            headers.transport = Transport::Udp;
            ports(header, &mut headers.tuple);
        }
        (protocol::SCTP, _) => {
            // The first chunk's beginning too, with an initiate tag; those behind a buffer's end are
            // not seen.
            let header = need(l4_len.clamp(12, 20))?;
            ports(header, &mut headers.tuple);
            let end = data.len().min(at + l4_len);
            let packet = data.get(at..end).unwrap_or_default();
            headers.transport = Transport::Sctp(SctpHeader::read(packet));
        }
        (protocol::ICMP, Version::V4) | (protocol::ICMPV6, Version::V6) => {
            let header = need(8)?;
            let class = icmp_class(headers.tuple.version, header[0]);
            let id = match class {
                IcmpClass::Request | IcmpClass::Reply { .. } => be16(header, 4).ok_or(missing)?,
                IcmpClass::Error | IcmpClass::Other => 0,
            };
            headers.transport = Transport::Icmp { kind: header[0], code: header[1], id, class };
        }
        _ => headers.transport = Transport::Other,
    }
    Ok(())
}

#[inline]
fn ports(header: &[u8], tuple: &mut super::Tuple) {
    tuple.source_port = be16(header, 0).unwrap_or(0);
    tuple.destination_port = be16(header, 2).unwrap_or(0);
}

/// The window scale option of a SYN's header, at most 14 (RFC 7323 section 2.3).
fn window_scale(header: &[u8]) -> Option<u8> {
    let mut options = header.get(20..)?;
    loop {
        match *options {
            [0, ..] | [] | [_] => return None,
            [1, ref rest @ ..] => options = rest,
            [3, 3, shift, ..] => return Some(shift.min(14)),
            [_, len, ..] => options = options.get(usize::from(len.max(2))..)?,
        }
    }
}

const fn icmp_class(version: Version, kind: u8) -> IcmpClass {
    match (version, kind) {
        (Version::V4, 8 | 13 | 15 | 17) | (Version::V6, 128 | 139) => IcmpClass::Request,
        (Version::V4, 0) => IcmpClass::Reply { request: 8 },
        (Version::V4, 14 | 16 | 18) | (Version::V6, 129 | 140) => {
            IcmpClass::Reply { request: kind - 1 }
        }
        (Version::V4, 3 | 4 | 5 | 11 | 12) | (Version::V6, 0..=127) => IcmpClass::Error,
        _ => IcmpClass::Other,
    }
}

/// The flow that an ICMP error quotes: the packet which could not be delivered, as its sender sent
/// it. `icmp_at` is where the ICMP header begins. Quotes hold at least the IP header and 8 bytes
/// (RFC 792), so lengths within the quote are not checked against what is there.
///
/// `None` if the quote is too short, malformed, a later fragment or itself an ICMP error (RFC 1122
/// section 3.2.2: no errors about errors).
pub fn quoted(data: &[u8], icmp_at: usize, version: Version) -> Option<Headers> {
    let at = icmp_at + 8;
    let first = *data.get(at)?;
    let (mut headers, l4) = match version {
        Version::V4 => {
            if first >> 4 != 4 || be16(data, at + 6)? & 0x1fff != 0 {
                return None;
            }
            let mut headers = Headers::default();
            headers.tuple.source = be32(data, at + 12)?.into();
            headers.tuple.destination = be32(data, at + 16)?.into();
            headers.tuple.protocol = *data.get(at + 9)?;
            (headers, at + usize::from((first & 0x0f).max(5)) * 4)
        }
        Version::V6 => {
            let mut headers = super::ip::quoted_v6(data, at)?;
            let l4 = usize::from(headers.l4);
            headers.tuple.version = Version::V6;
            (headers, l4)
        }
    };
    match (headers.tuple.protocol, version) {
        (protocol::TCP, _) => {
            headers.transport =
                Transport::Tcp(TcpHeader { seq: be32(data, l4 + 4)?, ..TcpHeader::default() });
        }
        (protocol::UDP, _) => headers.transport = Transport::Udp,
        (protocol::SCTP, _) => {
            let tag = be32(data, l4 + 4)?;
            headers.transport = Transport::Sctp(SctpHeader { tag, ..SctpHeader::default() });
        }
        (protocol::ICMP, Version::V4) | (protocol::ICMPV6, Version::V6) => {
            let class = icmp_class(version, *data.get(l4)?);
            if matches!(class, IcmpClass::Error | IcmpClass::Other) {
                return None;
            }
            let (kind, code) = (*data.get(l4)?, *data.get(l4 + 1)?);
            headers.transport = Transport::Icmp { kind, code, id: be16(data, l4 + 4)?, class };
            return Some(headers);
        }
        _ => return Some(headers),
    }
    headers.tuple.source_port = be16(data, l4)?;
    headers.tuple.destination_port = be16(data, l4 + 2)?;
    Some(headers)
}
