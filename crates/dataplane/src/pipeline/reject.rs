//! Telling the sender that its packet was rejected: a TCP reset (RFC 9293 section 3.10.7.1), or ICMP
//! "administratively prohibited" (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
//!
//! The answer carries the address that the sender talked to as its source: a wire has none of its
//! own. Nothing is answered that must not be (RFC 1122 section 3.2.2, RFC 4443 section 2.4):
//! resets, ICMP errors, later fragments, and packets from or to more than one host.

use crate::packet::{
    Headers, IcmpClass, TcpFlags, TcpHeader, Transport, Version, checksum, ethernet, protocol,
};

/// Longest answer: an IPv6 packet that fits any link (RFC 8200 section 5), with two VLAN tags.
pub const LONGEST: usize = ethernet::HEADER + 8 + 1280;

/// Longest ICMP error of IPv4 (RFC 1812 section 4.3.2.3).
const LONGEST_V4: usize = 576;

/// Writes the answer to the rejected packet in `frame` into `out`; answers its length in bytes.
/// `None` if there must be no answer. `frame` holds at least the headers that were parsed.
pub fn answer(frame: &[u8], headers: &Headers, out: &mut [u8; LONGEST]) -> Option<usize> {
    let l3 = usize::from(headers.l3);
    // The way back through a tunnel is its ends' to know: the sender is not told.
    if headers.tunnelled()
        || !between_two_hosts(frame, headers)
        || headers.fragment.is_some_and(|f| f.offset > 0)
    {
        return None;
    }
    // The link header goes back: addresses exchanged, VLAN tags as they were.
    out[..6].copy_from_slice(frame.get(6..12)?);
    out[6..12].copy_from_slice(frame.get(..6)?);
    out[12..l3].copy_from_slice(frame.get(12..l3)?);
    let body = &mut out[l3..];
    let len = match headers.transport {
        Transport::Tcp(tcp) if tcp.flags.rst() => return None,
        Transport::Tcp(tcp) => reset(headers, &tcp, body)?,
        Transport::Icmp { class: IcmpClass::Error, .. } => return None,
        _ => prohibited(frame.get(l3..)?, headers, body)?,
    };
    Some(l3 + len)
}

/// A reset in answer to `tcp`; length of the IP packet.
fn reset(headers: &Headers, tcp: &TcpHeader, out: &mut [u8]) -> Option<usize> {
    let l4 = ip_header(headers, protocol::TCP, 20, out)?;
    let payload = headers.l4_len.checked_sub(tcp.header_len.into())?;
    let (seq, ack, flags) = if tcp.flags.ack() {
        (tcp.ack, 0, TcpFlags::RST)
    } else {
        let consumed = u32::from(payload) + u32::from(tcp.flags.syn()) + u32::from(tcp.flags.fin());
        (0, tcp.seq.wrapping_add(consumed), TcpFlags::RST | TcpFlags::ACK)
    };
    let segment = out.get_mut(l4..l4 + 20)?;
    segment.fill(0);
    segment[..2].copy_from_slice(&headers.tuple.destination_port.to_be_bytes());
    segment[2..4].copy_from_slice(&headers.tuple.source_port.to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    let tuple = &headers.tuple;
    let pseudo = checksum::pseudo_header(tuple.source, tuple.destination, protocol::TCP, 20);
    let sum = checksum::checksum(segment, pseudo);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(l4 + 20)
}

/// "Administratively prohibited", quoting as much of `packet` as fits; length of the IP packet.
fn prohibited(packet: &[u8], headers: &Headers, out: &mut [u8]) -> Option<usize> {
    let (number, kind, code, header, longest) = match headers.tuple.version {
        Version::V4 => (protocol::ICMP, 3, 13, 20, LONGEST_V4),
        Version::V6 => (protocol::ICMPV6, 1, 1, 40, 1280),
    };
    let quoted = packet.len().min(headers.ip_len() as usize).min(longest - header - 8);
    let l4 = ip_header(headers, number, 8 + quoted, out)?;
    let message = out.get_mut(l4..l4 + 8 + quoted)?;
    message[..8].fill(0);
    message[0] = kind;
    message[1] = code;
    message[8..].copy_from_slice(packet.get(..quoted)?);
    let tuple = &headers.tuple;
    let pseudo = match tuple.version {
        Version::V4 => 0,
        Version::V6 => {
            let len = message.len() as u16;
            checksum::pseudo_header(tuple.source, tuple.destination, protocol::ICMPV6, len)
        }
    };
    let sum = checksum::checksum(message, pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(l4 + 8 + quoted)
}

/// An IP header from the destination of the rejected packet to its source; its length.
fn ip_header(headers: &Headers, number: u8, payload: usize, out: &mut [u8]) -> Option<usize> {
    const HOPS: u8 = 64;
    let tuple = &headers.tuple;
    match tuple.version {
        Version::V4 => {
            let header = out.get_mut(..20)?;
            header.fill(0);
            header[0] = 0x45;
            header[2..4].copy_from_slice(&u16::try_from(20 + payload).ok()?.to_be_bytes());
            header[6] = 0x40; // must not be fragmented
            header[8] = HOPS;
            header[9] = number;
            header[12..16].copy_from_slice(&(tuple.destination as u32).to_be_bytes());
            header[16..20].copy_from_slice(&(tuple.source as u32).to_be_bytes());
            let sum = checksum::checksum(header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            Some(20)
        }
        Version::V6 => {
            let header = out.get_mut(..40)?;
            header.fill(0);
            header[0] = 0x60;
            header[4..6].copy_from_slice(&u16::try_from(payload).ok()?.to_be_bytes());
            header[6] = number;
            header[7] = HOPS;
            header[8..24].copy_from_slice(&tuple.destination.to_be_bytes());
            header[24..40].copy_from_slice(&tuple.source.to_be_bytes());
            Some(40)
        }
    }
}

/// Whether link and IP addresses name one sender and one receiver.
fn between_two_hosts(frame: &[u8], headers: &Headers) -> bool {
    let group = |at: usize| frame.get(at).is_none_or(|first| first & 1 != 0);
    let one = |address: u128| match headers.tuple.version {
        Version::V4 => {
            let first = (address >> 24) as u8;
            // 0/8 is nobody, 127/8 is oneself, 224/3 holds groups, reserved and broadcast.
            first != 0 && first != 127 && first < 224
        }
        Version::V6 => address > 1 && address >> 120 != 0xff,
    };
    !group(0) && !group(6) && one(headers.tuple.source) && one(headers.tuple.destination)
}
