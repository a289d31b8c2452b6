//! The Internet checksum (RFC 1071), whole, partial and incremental (RFC 1624).
//!
//! **Partial checksums.** A packet that leaves a container through a veth often carries, instead of
//! a checksum, the folded sum of its pseudo-header: the sender left the rest to hardware that never
//! comes. [`complete_partial`] recognises that and finishes the work. A packet whose checksum was
//! right cannot be made wrong by it: the value computed then equals the one that stood there.

use super::{Headers, Version, protocol};

/// One's complement sum of `data` as big-endian 16-bit words, on top of `sum`, not folded. An odd
/// last byte counts as the high byte of a word.
#[inline]
pub fn add(data: &[u8], sum: u64) -> u64 {
    // Eight bytes at a time into 32-bit halves: 2^32 additions fit before anything overflows.
    // Native byte order inside; the sum is swapped once at the end (RFC 1071 section 2 B).
    let mut total = 0u64;
    let chunks = data.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let mut tail = [0u8; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let word = u64::from_le_bytes(tail);
    total += (word & 0xffff_ffff) + (word >> 32);
    sum + u64::from(fold(total).swap_bytes())
}

/// Folds a sum into 16 bits.
#[inline]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Unfolded sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline]
pub const fn pseudo_header(source: u128, destination: u128, protocol: u8, l4_len: u16) -> u64 {
    halves(source) + halves(destination) + protocol as u64 + l4_len as u64
}

/// Sum of the 16-bit words of an address. Of an IPv4 address only the low two words are not zero.
#[inline]
const fn halves(address: u128) -> u64 {
    let (high, low) = ((address >> 64) as u64, address as u64);
    (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff)
}

/// The checksum of `data` with `sum` (such as a pseudo-header's) before it.
#[inline]
pub fn checksum(data: &[u8], sum: u64) -> u16 {
    !fold(add(data, sum))
}

/// The new checksum after a 16-bit word changed from `old` to `new` (RFC 1624 equation 3).
///
/// ```
/// use portcullis_dataplane::packet::checksum::{checksum, update};
/// let before = checksum(&[0x12, 0x34, 0x56, 0x78], 0);
/// assert_eq!(update(before, 0x5678, 0x9abc), checksum(&[0x12, 0x34, 0x9a, 0xbc], 0));
/// ```
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// Completes the checksum of a TCP or UDP packet whose field holds only the pseudo-header's sum.
/// Answers whether it did. `frame` must hold the whole packet that `headers` were parsed from;
/// nothing is touched otherwise, nor for fragments.
///
/// Cost: about 2 ns if there is nothing to do, else about one pass over the payload.
#[inline]
pub fn complete_partial(frame: &mut [u8], headers: &Headers) -> bool {
    complete_partial_pieces(frame, std::iter::empty(), headers)
}

/// As [`complete_partial`], for a packet that lies in several pieces: `first` holds the headers, and
/// `rest` what follows.
#[inline]
pub fn complete_partial_pieces<'a>(
    first: &mut [u8],
    rest: impl Iterator<Item = &'a [u8]>,
    headers: &Headers,
) -> bool {
    let field = match headers.tuple.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => return false,
    };
    if headers.fragment.is_some() {
        return false;
    }
    let tuple = &headers.tuple;
    let pseudo = pseudo_header(tuple.source, tuple.destination, tuple.protocol, headers.l4_len);
    let len = usize::from(headers.l4_len);
    let Some(segment) = first.get_mut(usize::from(headers.l4)..) else { return false };
    let mut summed = segment.len().min(len);
    let segment = &mut segment[..summed];
    let Some(place) = segment.get(field..field + 2) else { return false };
    if u16::from_be_bytes([place[0], place[1]]) != fold(pseudo) {
        return false;
    }
    // The field holds the pseudo-header's sum, so summing the segment as it stands includes it.
    let mut total = add(segment, 0);
    for piece in rest {
        let piece = &piece[..piece.len().min(len - summed)];
        let sum = fold(add(piece, 0));
        // After an odd number of bytes the halves of all words are exchanged.
        total += u64::from(if summed % 2 == 0 { sum } else { sum.swap_bytes() });
        summed += piece.len();
    }
    if summed < len {
        return false;
    }
    let mut sum = !fold(total);
    if sum == 0 && tuple.protocol == protocol::UDP {
        sum = 0xffff; // zero would mean "none" (RFC 768)
    }
    segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Whether the transport checksum of the packet in `frame` is right; `None` if it has none, is a
/// fragment or is not wholly there. SCTP is not looked at.
pub fn verify(frame: &[u8], headers: &Headers) -> Option<bool> {
    let tuple = &headers.tuple;
    let pseudo = match (tuple.protocol, tuple.version) {
        (protocol::TCP | protocol::UDP, _) | (protocol::ICMPV6, Version::V6) => {
            pseudo_header(tuple.source, tuple.destination, tuple.protocol, headers.l4_len)
        }
        (protocol::ICMP, Version::V4) => 0,
        _ => return None,
    };
    let start = usize::from(headers.l4);
    let segment = frame.get(start..start + usize::from(headers.l4_len))?;
    let unset = tuple.protocol == protocol::UDP && segment.get(6..8) == Some(&[0, 0]);
    if headers.fragment.is_some() || unset {
        return None;
    }
    Some(fold(add(segment, pseudo)) == 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, parse};

    /// UDP over IPv4 with the checksum left to do.
    fn partial(payload: &[u8]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, 2000);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        let headers = headers(&frame, frame.len());
        let tuple = headers.tuple;
        let sum = pseudo_header(tuple.source, tuple.destination, 17, headers.l4_len);
        frame[40..42].copy_from_slice(&fold(sum).to_be_bytes());
        frame
    }

    fn headers(frame: &[u8], wire_len: usize) -> Headers {
        match parse(frame, wire_len) {
            Ok(Packet::Ip(headers)) => headers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pieces_sum_to_what_the_whole_does_wherever_they_are_cut() {
        let payload: Vec<u8> = (0..61u8).map(|n| n.wrapping_mul(151)).collect();
        let frame = partial(&payload);
        let mut whole = frame.clone();
        assert!(complete_partial(&mut whole, &headers(&frame, frame.len())));
        assert_eq!(verify(&whole, &headers(&whole, whole.len())), Some(true));
        for one in 42..frame.len() {
            for two in one..frame.len() {
                let mut first = frame[..one].to_vec();
                let rest = [&frame[one..two], &frame[two..]];
                let headers = headers(&first, frame.len());
                assert!(complete_partial_pieces(&mut first, rest.into_iter(), &headers));
                assert_eq!(first, whole[..one], "cut at {one} and {two}");
            }
        }
    }

    #[test]
    fn a_packet_that_is_not_all_there_is_left_alone() {
        let frame = partial(&[7; 60]);
        let mut first = frame[..60].to_vec();
        let rest = &frame[60..frame.len() - 1];
        let headers = headers(&first, frame.len());
        assert!(!complete_partial_pieces(&mut first, [rest].into_iter(), &headers));
        assert_eq!(first, frame[..60]);
        // Nor is one that was complete.
        let mut whole = frame.clone();
        assert!(complete_partial(&mut whole, &headers));
        let once = whole.clone();
        assert!(!complete_partial(&mut whole, &headers));
        assert_eq!(whole, once);
    }
}
