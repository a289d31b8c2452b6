//! The parser against etherparse, and against packets that end or lie anywhere.

mod common;

use common::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use portcullis_dataplane::packet::{
    IcmpClass, Packet, TcpFlags, Transport, Version, checksum, parse, protocol,
};
use portcullis_dataplane::reason::Reason;
use proptest::prelude::*;

/// A frame with anything that the parser follows.
#[derive(Clone, Debug)]
struct Shape {
    vlans: Vec<u16>,
    v6: bool,
    addresses: [u128; 2],
    /// IPv4: words of options. IPv6: (kind, units of 8 bytes) of extension headers.
    options: u8,
    extensions: Vec<(u8, u8)>,
    protocol: u8,
    ports: [u16; 2],
    tcp_options: u8,
    flags: u8,
    payload: Vec<u8>,
    padding: u8,
}

fn shape() -> impl Strategy<Value = Shape> {
    let protocols = prop_oneof![
        Just(protocol::TCP),
        Just(protocol::UDP),
        Just(protocol::SCTP),
        Just(protocol::ICMP),
        Just(protocol::ICMPV6),
        Just(protocol::GRE),
        Just(253u8)
    ];
    let extension = (prop_oneof![Just(43u8), Just(60), Just(135), Just(51)], 0..4u8);
    let flags = prop_oneof![Just(2u8), Just(0x12), Just(0x10), Just(0x18), Just(0x11), Just(4)];
    (
        (proptest::collection::vec(0..4096u16, 0..3), any::<bool>(), any::<[u128; 2]>(), 0..11u8),
        (proptest::collection::vec(extension, 0..5), protocols, any::<[u16; 2]>(), 0..11u8),
        (flags, proptest::collection::vec(any::<u8>(), 12..80), 0..20u8),
    )
        .prop_map(
            |(
                (vlans, v6, addresses, options),
                (extensions, protocol, ports, tcp_options),
                (flags, payload, padding),
            )| Shape {
                vlans,
                v6,
                addresses,
                options,
                extensions,
                protocol,
                ports,
                tcp_options,
                flags,
                payload,
                padding,
            },
        )
}

impl Shape {
    fn transport(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for port in self.ports {
            out.extend(port.to_be_bytes());
        }
        match self.protocol {
            protocol::TCP => {
                out.extend([1, 2, 3, 4, 5, 6, 7, 8]);
                out.push((5 + self.tcp_options) << 4);
                out.push(self.flags);
                out.extend([0x12, 0x34, 0, 0, 0, 0]);
                out.extend(vec![1; usize::from(self.tcp_options) * 4]);
            }
            protocol::UDP => {
                out.extend((8 + self.payload.len() as u16).to_be_bytes());
                out.extend([0, 0]);
            }
            protocol::SCTP => out.extend([0; 8]),
            // Type, code, checksum came from the ports.
            _ => out.extend([9, 9, 0, 0]),
        }
        out.extend(&self.payload);
        out
    }

    fn frame(&self) -> Vec<u8> {
        let mut out = vec![2; 12];
        for (n, vlan) in self.vlans.iter().enumerate() {
            out.extend(if n == 0 && self.vlans.len() == 2 { [0x88, 0xa8] } else { [0x81, 0] });
            out.extend(vlan.to_be_bytes());
        }
        let transport = self.transport();
        if self.v6 {
            out.extend([0x86, 0xdd]);
            let mut body = Vec::new();
            let kinds = self.extensions.iter().map(|e| e.0).chain([self.protocol]);
            for ((kind, units), next) in self.extensions.iter().zip(kinds.skip(1)) {
                let len = if *kind == 51 { (units + 1) * 2 } else { *units };
                let bytes = if *kind == 51 {
                    (usize::from(len) + 2) * 4
                } else {
                    (usize::from(len) + 1) * 8
                };
                let mut header = vec![0; bytes];
                header[0] = next;
                header[1] = len;
                header[2] = 4; // a routing header that is not type 0
                body.extend(header);
            }
            body.extend(&transport);
            out.extend([0x60, 0, 0, 0]);
            out.extend((body.len() as u16).to_be_bytes());
            out.push(self.extensions.first().map_or(self.protocol, |e| e.0));
            out.push(64);
            for address in self.addresses {
                out.extend(address.to_be_bytes());
            }
            out.extend(body);
        } else {
            out.extend([8, 0]);
            let header = 20 + usize::from(self.options.min(10)) * 4;
            out.push(0x40 | (header / 4) as u8);
            out.push(0);
            out.extend(((header + transport.len()) as u16).to_be_bytes());
            out.extend([0, 1, 0x40, 0, 64, self.protocol, 0, 0]);
            for address in self.addresses {
                out.extend((address as u32).to_be_bytes());
            }
            out.extend(vec![1; header - 20]);
            out.extend(transport);
        }
        out.extend(vec![0; self.padding.into()]);
        out
    }
}

/// What etherparse says of a frame that both parsers take.
fn check_against_etherparse(frame: &[u8], headers: &portcullis_dataplane::packet::Headers) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("etherparse takes it too");
    let tuple = &headers.tuple;
    match sliced.net.expect("IP") {
        NetSlice::Ipv4(ip) => {
            assert_eq!(tuple.version, Version::V4);
            assert_eq!(tuple.source_ip(), ip.header().source_addr());
            assert_eq!(tuple.destination_ip(), ip.header().destination_addr());
            assert_eq!(usize::from(headers.l4_len), ip.payload().payload.len());
            assert_eq!(tuple.protocol, ip.payload().ip_number.0);
            assert_eq!(headers.hop_limit, ip.header().ttl());
        }
        // etherparse does not follow mobility, HIP and shim6 headers, nor some orders of headers.
        NetSlice::Ipv6(ip) if ip.payload().payload.len() != headers.l4_len.into() => {
            let stopped_at = ip.payload().ip_number.0;
            assert!(matches!(stopped_at, 43 | 51 | 60 | 135 | 139 | 140), "{stopped_at}");
            return;
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(tuple.version, Version::V6);
            assert_eq!(tuple.source_ip(), ip.header().source_addr());
            assert_eq!(tuple.destination_ip(), ip.header().destination_addr());
            assert_eq!(usize::from(headers.l4_len), ip.payload().payload.len());
            assert_eq!(tuple.protocol, ip.payload().ip_number.0);
            assert_eq!(headers.hop_limit, ip.header().hop_limit());
        }
        other => panic!("{other:?}"),
    }
    match (sliced.transport, headers.transport) {
        (Some(TransportSlice::Tcp(tcp)), Transport::Tcp(ours)) => {
            assert_eq!((ours.seq, ours.ack), (tcp.sequence_number(), tcp.acknowledgment_number()));
            assert_eq!(ours.window, tcp.window_size());
            assert_eq!(usize::from(ours.header_len), usize::from(tcp.data_offset()) * 4);
            assert_eq!(ours.flags.syn(), tcp.syn());
            assert_eq!(ours.flags.ack(), tcp.ack());
            assert_eq!(ours.flags.fin(), tcp.fin());
            assert_eq!(ours.flags.rst(), tcp.rst());
            assert_eq!(tuple.source_port, tcp.source_port());
            assert_eq!(tuple.destination_port, tcp.destination_port());
        }
        (Some(TransportSlice::Udp(udp)), Transport::Udp) => {
            assert_eq!(tuple.source_port, udp.source_port());
            assert_eq!(tuple.destination_port, udp.destination_port());
        }
        (Some(TransportSlice::Icmpv4(icmp)), Transport::Icmp { kind, code, .. }) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (Some(TransportSlice::Icmpv6(icmp)), Transport::Icmp { kind, code, .. }) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        // etherparse does not know SCTP, and looks for either ICMP in either IP.
        (None, Transport::Sctp { .. } | Transport::Other) => {}
        (Some(TransportSlice::Icmpv4(_)), Transport::Other) => {
            assert_eq!(tuple.version, Version::V6)
        }
        (Some(TransportSlice::Icmpv6(_)), Transport::Other) => {
            assert_eq!(tuple.version, Version::V4)
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn well_formed_packets_read_like_etherparse(shape in shape()) {
        let frame = shape.frame();
        match parse(&frame, frame.len()) {
            Ok(Packet::Ip(headers)) => check_against_etherparse(&frame, &headers),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// Whatever is cut off, the packet is refused, unless it was padding; and its first part alone
    /// is a packet that goes on elsewhere only if all headers are in it.
    #[test]
    fn a_packet_that_ends_anywhere_is_refused(shape in shape()) {
        let frame = shape.frame();
        let whole = frame.len() - usize::from(shape.padding);
        for len in 0..frame.len() {
            let cut = parse(&frame[..len], len);
            if len >= whole {
                prop_assert_eq!(cut, parse(&frame, frame.len()));
            } else {
                prop_assert!(cut.is_err(), "{} of {}: {:?}", len, whole, cut);
            }
            match parse(&frame[..len], frame.len()) {
                Ok(Packet::Ip(mut cut)) => {
                    let whole = parse(&frame, frame.len());
                    if let (Transport::Sctp(seen), Ok(Packet::Ip(whole))) = (&mut cut.transport, &whole)
                        && let Transport::Sctp(all) = whole.transport
                    {
                        // Of the chunks, those that are there are seen.
                        prop_assert_eq!(seen.chunks.0 & !all.chunks.0, 0);
                        *seen = all;
                    }
                    prop_assert_eq!(Ok(Packet::Ip(cut)), whole);
                }
                Ok(packet) => prop_assert_eq!(Ok(packet), parse(&frame, frame.len())),
                Err(reason) => prop_assert!(
                    matches!(reason, Reason::SplitHeaders | Reason::TruncatedEthernet), "{}", reason
                ),
            }
        }
    }

    /// Bytes changed at will: never a panic; what both parsers take, they read alike.
    #[test]
    fn lies_are_refused_or_read_like_etherparse(
        shape in shape(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut frame = shape.frame();
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        let Ok(Packet::Ip(headers)) = parse(&frame, frame.len()) else { return Ok(()) };
        prop_assert!(usize::from(headers.l4) + usize::from(headers.l4_len) <= frame.len());
        if headers.fragment.is_none() && SlicedPacket::from_ethernet(&frame).is_ok() {
            check_against_etherparse(&frame, &headers);
        }
    }

    #[test]
    fn noise_never_panics(data in proptest::collection::vec(any::<u8>(), 0..200), more in 0..9000usize) {
        let _ = parse(&data, data.len());
        let _ = parse(&data, data.len() + more);
    }

    #[test]
    fn checksums_agree_with_the_obvious_sum(data in proptest::collection::vec(any::<u8>(), 0..100), start: u16) {
        let mut sum = u32::from(start);
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        prop_assert_eq!(checksum::fold(checksum::add(&data, start.into())), sum as u16);
    }

    /// A right checksum stays, a partial one becomes right, a wrong one stays wrong.
    #[test]
    fn only_partial_checksums_change(payload in proptest::collection::vec(any::<u8>(), 0..300), v6: bool, tcp: bool, wrong: u16) {
        let right = match (v6, tcp) {
            (false, false) => udp(A, 1, B, 2, &payload),
            (false, true) => Tcp { payload: payload.len(), ..Tcp::new(A, B) }.build(),
            (true, false) => udp(A.to_ipv6_mapped(), 1, B.to_ipv6_mapped(), 2, &payload),
            (true, true) => Tcp { payload: payload.len(), ..Tcp::new(A.to_ipv6_mapped(), B.to_ipv6_mapped()) }.build(),
        };
        let Ok(Packet::Ip(headers)) = parse(&right, right.len()) else { panic!("not IP") };
        let mut frame = right.clone();
        checksum::complete_partial(&mut frame, &headers);
        prop_assert_eq!(&frame, &right);
        prop_assert_eq!(checksum::verify(&frame, &headers), Some(true));
        let field = usize::from(headers.l4) + if tcp { 16 } else { 6 };
        let tuple = headers.tuple;
        let pseudo = checksum::fold(checksum::pseudo_header(
            tuple.source, tuple.destination, tuple.protocol, headers.l4_len,
        ));
        frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        prop_assert!(checksum::complete_partial(&mut frame, &headers));
        prop_assert_eq!(&frame, &right);
        if wrong != pseudo && frame[field..field + 2] != wrong.to_be_bytes() && wrong != 0 {
            frame[field..field + 2].copy_from_slice(&wrong.to_be_bytes());
            prop_assert!(!checksum::complete_partial(&mut frame, &headers));
            prop_assert_eq!(checksum::verify(&frame, &headers), Some(false));
        }
    }
}

fn reason(frame: &[u8]) -> Reason {
    parse(frame, frame.len()).expect_err("refused")
}

/// An IPv6 frame with these bytes after the fixed header.
fn v6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = udp(A.to_ipv6_mapped(), 1, B.to_ipv6_mapped(), 2, &[]);
    frame.truncate(54);
    frame.extend(body);
    frame[18..20].copy_from_slice(&(body.len() as u16).to_be_bytes());
    frame[20] = next;
    frame
}

#[test]
fn chains_of_extension_headers_end() {
    let chain = |count: usize| {
        let mut body = Vec::new();
        for n in 0..count {
            body.extend([if n + 1 == count { 59 } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
        }
        v6(60, &body)
    };
    assert!(parse(&chain(8), chain(8).len()).is_ok());
    assert_eq!(reason(&chain(9)), Reason::ExtensionHeaders);
    assert_eq!(reason(&chain(500)), Reason::ExtensionHeaders);
    // Hop-by-hop options anywhere but first; a routing header of type 0.
    assert_eq!(
        reason(&v6(60, &[0, 0, 0, 0, 0, 0, 0, 0, 59, 0, 0, 0, 0, 0, 0, 0])),
        Reason::ExtensionHeaders
    );
    assert_eq!(reason(&v6(43, &[59, 0, 0, 0, 0, 0, 0, 0])), Reason::RoutingHeader);
    assert_eq!(reason(&v6(60, &[59, 1, 0, 0, 0, 0, 0, 0])), Reason::TruncatedExtension);
    // A third VLAN tag.
    let mut tagged = udp(A, 1, B, 2, b"");
    for _ in 0..3 {
        tagged.splice(12..12, [0x81, 0, 0, 1]);
    }
    assert_eq!(reason(&tagged), Reason::VlanDepth);
}

#[test]
fn fragments_that_lie_are_refused() {
    let base = udp(A, 1, B, 2, &[7; 24]);
    let fragment = |offset: u16, more: bool, len: u16| {
        let mut frame = base.clone();
        frame[16..18].copy_from_slice(&(20 + len).to_be_bytes());
        let bits = (offset / 8) | (u16::from(more) << 13);
        frame[20..22].copy_from_slice(&bits.to_be_bytes());
        frame
    };
    let ok = fragment(0, true, 16);
    let Ok(Packet::Ip(headers)) = parse(&ok, ok.len()) else { panic!("refused") };
    let piece = headers.fragment.expect("a fragment");
    assert_eq!((piece.offset, piece.len, piece.more), (0, 16, true));
    assert_eq!(reason(&fragment(0, true, 17)), Reason::FragmentLength);
    assert_eq!(reason(&fragment(8, true, 0)), Reason::FragmentLength);
    assert_eq!(reason(&fragment(65_528, false, 16)), Reason::FragmentLength);
    assert_eq!(reason(&fragment(0, true, 0)), Reason::FragmentLength);
    let mut tcp = fragment(8, false, 16);
    tcp[23] = protocol::TCP;
    assert_eq!(reason(&tcp), Reason::FragmentTiny);
    let mut tiny = fragment(0, true, 16);
    tiny[23] = protocol::TCP;
    assert_eq!(reason(&tiny), Reason::FragmentTiny);
    // An IPv6 fragment header that says "whole packet" does not make a fragment (RFC 6946).
    let udp_datagram = [0, 1, 0, 2, 0, 8, 0, 0];
    let mut body = vec![17, 0, 0, 0, 0, 0, 0, 9];
    body.extend(udp_datagram);
    let atomic = v6(44, &body);
    let Ok(Packet::Ip(headers)) = parse(&atomic, atomic.len()) else { panic!("refused") };
    assert_eq!((headers.fragment, headers.transport), (None, Transport::Udp));
}

#[test]
fn flags_and_types_are_told_apart() {
    for (flags, fine) in [
        (0u8, false),
        (TcpFlags::SYN | TcpFlags::FIN, false),
        (TcpFlags::SYN | TcpFlags::RST, false),
        (TcpFlags::FIN, false),
        (TcpFlags::RST | TcpFlags::FIN | TcpFlags::ACK, false),
        (TcpFlags::RST, true),
        (TcpFlags::FIN | TcpFlags::ACK, true),
        (TcpFlags::SYN, true),
        (0xff, false),
    ] {
        let mut frame = Tcp::new(A, B).build();
        frame[47] = flags;
        let result = parse(&frame, frame.len());
        assert_eq!(result.is_ok(), fine, "{flags:#x}");
        assert!(fine || result == Err(Reason::TcpFlags));
    }
    let frame = ping(A, B, 77, true);
    let Ok(Packet::Ip(headers)) = parse(&frame, frame.len()) else { panic!("refused") };
    let expected =
        Transport::Icmp { kind: 0, code: 0, id: 77, class: IcmpClass::Reply { request: 8 } };
    assert_eq!(headers.transport, expected);
}
