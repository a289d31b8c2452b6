//! Packets within packets: VXLAN (RFC 7348), Geneve (RFC 8926), IP in IP (RFC 2003, RFC 2473,
//! RFC 4213).
//!
//! A packet of a configured tunnel is judged by what it carries: addresses, ports and connection
//! are those of the inner packet, in the zone that the tunnel is mapped to. One layer is opened; a
//! tunnel within a tunnel is judged as the packet it is. What comes in a tunnel that is not
//! configured is judged by its outer header, as any other packet.
//!
//! Nothing is opened in part: outer fragments, networks that are not configured and headers that do
//! not add up are drops.

use super::{Headers, Kind, Packet, be16, be32, ethernet, ip, parse_link, protocol};
use crate::reason::Reason;

/// Which tunnels are opened. At most [`Tunnels::LIMIT`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// UDP ports at which tunnels end, and what they carry. Few: looked through one by one.
    ports: Vec<(u16, Encapsulation)>,
    /// Networks by port and identifier, sorted.
    networks: Vec<((u16, u32), u16)>,
    /// The zone of all networks of a port that are not listed.
    others: Vec<(u16, u16)>,
    /// The zone of packets in IP.
    ip: Option<u16>,
}

/// What follows the UDP header of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encapsulation {
    /// VXLAN; IANA port 4789, Linux' old default 8472.
    Vxlan,
    /// Geneve; IANA port 6081.
    Geneve,
}

/// A tunnel, or all networks of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Tunnel {
    /// One network, by its identifier (VNI, 24 bits), at a UDP port.
    Network {
        /// What follows the UDP header.
        encapsulation: Encapsulation,
        /// UDP port at which the tunnel ends.
        port: u16,
        /// Its identifier: below 2^24.
        vni: u32,
    },
    /// All networks at a UDP port that are not named one by one.
    Port {
        /// What follows the UDP header.
        encapsulation: Encapsulation,
        /// UDP port at which the tunnel ends.
        port: u16,
    },
    /// IPv4 and IPv6 in either.
    Ip,
}

/// Why a tunnel was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// It is configured already.
    #[error("tunnel {0:?} is configured twice; leave one of them out")]
    Twice(Tunnel),
    /// The port carries something else already.
    #[error("UDP port {0} cannot carry VXLAN and Geneve; give one of them another port")]
    Port(u16),
    /// An identifier of more than 24 bits.
    #[error("VNI {0} has more than 24 bits; the largest is 16777215")]
    Vni(u32),
    /// Too many.
    #[error("more than {} tunnels; map all networks of a port at once", Tunnels::LIMIT)]
    Limit,
}

impl Tunnels {
    /// Most tunnels: a look-up is a binary search among them.
    pub const LIMIT: usize = 65_536;

    /// Opens `tunnel`, and judges what it carries in `zone`: 0 is the address space of packets
    /// outside of tunnels.
    ///
    /// # Errors
    /// The tunnel contradicts another, or cannot be.
    pub fn open(&mut self, tunnel: Tunnel, zone: u16) -> Result<(), TunnelError> {
        match tunnel {
            Tunnel::Network { vni, .. } if vni >= 1 << 24 => return Err(TunnelError::Vni(vni)),
            Tunnel::Network { encapsulation, port, vni } => {
                self.listen(port, encapsulation)?;
                if self.networks.len() >= Self::LIMIT {
                    return Err(TunnelError::Limit);
                }
                match self.networks.binary_search_by_key(&(port, vni), |(key, _)| *key) {
                    Ok(_) => return Err(TunnelError::Twice(tunnel)),
                    Err(at) => self.networks.insert(at, ((port, vni), zone)),
                }
            }
            Tunnel::Port { encapsulation, port } => {
                self.listen(port, encapsulation)?;
                if self.others.iter().any(|(known, _)| *known == port) {
                    return Err(TunnelError::Twice(tunnel));
                }
                self.others.push((port, zone));
            }
            Tunnel::Ip if self.ip.is_some() => return Err(TunnelError::Twice(tunnel)),
            Tunnel::Ip => self.ip = Some(zone),
        }
        Ok(())
    }

    /// Whether no tunnel is opened.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.ip.is_none()
    }

    fn listen(&mut self, port: u16, encapsulation: Encapsulation) -> Result<(), TunnelError> {
        /// Ports are looked through for every UDP packet.
        const PORTS: usize = 16;
        match self.ports.iter().find(|(known, _)| *known == port) {
            Some((_, known)) if *known == encapsulation => Ok(()),
            Some(_) => Err(TunnelError::Port(port)),
            None if self.ports.len() >= PORTS => Err(TunnelError::Limit),
            None => {
                self.ports.push((port, encapsulation));
                Ok(())
            }
        }
    }

    /// Reads the headers of a frame, and those of the packet within if it comes in a tunnel that is
    /// opened. See [`super::parse`].
    ///
    /// # Errors
    /// The reason for which the packet must be dropped. Never panics, whatever `data` holds.
    pub fn parse(&self, data: &[u8], wire_len: usize) -> Result<Packet, Reason> {
        let mut headers = Headers::default();
        Ok(self.parse_into(data, wire_len, &mut headers)?.with(headers))
    }

    /// As [`Self::parse`], with the headers put where they are wanted.
    #[inline(always)]
    pub(crate) fn parse_into(
        &self,
        data: &[u8],
        wire_len: usize,
        headers: &mut Headers,
    ) -> Result<Kind, Reason> {
        let kind = super::parse_into(data, wire_len, headers)?;
        if self.is_empty() || kind != Kind::Ip || !self.carries(headers) {
            return Ok(kind);
        }
        self.parse_inner(data, wire_len, headers)
    }

    /// Whether a packet belongs to a tunnel.
    fn carries(&self, outer: &Headers) -> bool {
        match outer.tuple.protocol {
            protocol::UDP => self.encapsulation(outer.tuple.destination_port).is_some(),
            protocol::IPIP | protocol::IPV6 => self.ip.is_some(),
            _ => false,
        }
    }

    fn encapsulation(&self, port: u16) -> Option<Encapsulation> {
        self.ports.iter().find(|(known, _)| *known == port).map(|(_, kind)| *kind)
    }

    /// The zone of a network.
    fn zone(&self, port: u16, vni: u32) -> Result<u16, Reason> {
        if let Ok(at) = self.networks.binary_search_by_key(&(port, vni), |(key, _)| *key) {
            return Ok(self.networks[at].1);
        }
        let others = self.others.iter().find(|(known, _)| *known == port);
        others.map(|(_, zone)| *zone).ok_or(Reason::TunnelNetwork)
    }

    #[cold]
    fn parse_inner(
        &self,
        data: &[u8],
        wire_len: usize,
        headers: &mut Headers,
    ) -> Result<Kind, Reason> {
        let outer = *headers;
        if outer.fragment.is_some() {
            return Err(Reason::TunnelFragment);
        }
        let at = usize::from(outer.l4);
        let missing = ip::truncation(data, wire_len, Reason::TunnelHeader);
        // Where the outer packet ends, the inner one must have ended.
        let mut end = at + usize::from(outer.l4_len);
        let (inner, ether_type, zone) = match outer.tuple.protocol {
            protocol::IPIP => (at, ethernet::IPV4, self.ip.ok_or(Reason::TunnelHeader)?),
            protocol::IPV6 => (at, ethernet::IPV6, self.ip.ok_or(Reason::TunnelHeader)?),
            _ => {
                // The parser saw that the datagram is no longer than the packet.
                end = at + usize::from(be16(data, at + 4).ok_or(missing)?);
                let port = outer.tuple.destination_port;
                let kind = self.encapsulation(port).ok_or(Reason::TunnelHeader)?;
                let shim = Shim::read(kind, data, at + 8, missing)?;
                (at + 8 + shim.len, shim.ether_type, self.zone(port, shim.vni)?)
            }
        };
        if inner > end {
            return Err(Reason::TunnelHeader);
        }
        let end = end.min(wire_len);
        let data = &data[..data.len().min(end)];
        let (ether_type, l3) = match ether_type {
            ETHERNET => {
                let frame = data.get(inner..).ok_or(missing)?;
                let link = parse_link(frame).map_err(|reason| match reason {
                    Reason::TruncatedEthernet => missing,
                    other => other,
                })?;
                (link.ether_type, inner + link.l3)
            }
            other => (other, inner),
        };
        match ether_type {
            ethernet::IPV4 => ip::parse_v4(data, l3, end, headers)?,
            ethernet::IPV6 => ip::parse_v6(data, l3, end, headers)?,
            ethernet::ARP => return Ok(Kind::Arp),
            other => return Ok(Kind::Other(other)),
        }
        headers.tuple.zone = zone;
        headers.outer = outer.l3;
        Ok(Kind::Ip)
    }
}

/// Protocol type of Geneve for Ethernet frames (RFC 8926 section 3.4).
const ETHERNET: u16 = 0x6558;

/// What stands between the UDP header and the inner packet.
struct Shim {
    len: usize,
    ether_type: u16,
    vni: u32,
}

impl Shim {
    fn read(kind: Encapsulation, data: &[u8], at: usize, missing: Reason) -> Result<Self, Reason> {
        let first = be32(data, at).ok_or(missing)?;
        let vni = be32(data, at + 4).ok_or(missing)? >> 8;
        match kind {
            // The flag that says there is an identifier, and no other: VXLAN-GPE and the group
            // policy extension give the header another meaning.
            Encapsulation::Vxlan if first >> 24 != 0x08 => Err(Reason::TunnelHeader),
            Encapsulation::Vxlan => Ok(Self { len: 8, ether_type: ETHERNET, vni }),
            // Version 0. Control packets carry no inner packet that could be judged.
            Encapsulation::Geneve if first >> 30 != 0 || first & 1 << 23 != 0 => {
                Err(Reason::TunnelHeader)
            }
            Encapsulation::Geneve => {
                let options = (first >> 24 & 0x3f) as usize * 4;
                let ether_type = be16(data, at + 2).ok_or(missing)?;
                Ok(Self { len: 8 + options, ether_type, vni })
            }
        }
    }
}

impl Headers {
    /// Whether the packet came in a tunnel that was opened.
    pub const fn tunnelled(&self) -> bool {
        self.outer != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn inner(port: u16) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 1, 0, 1], [10, 1, 0, 2], 60)
            .tcp(40_000, port, 7, 1000)
            .syn();
        let mut frame = Vec::new();
        builder.write(&mut frame, b"inner payload").expect("a Vec takes it");
        frame
    }

    fn in_udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([6; 6], [8; 6])
            .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(55_555, port);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("a Vec takes it");
        frame
    }

    fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
        let mut payload = vec![8, 0, 0, 0];
        payload.extend((vni << 8).to_be_bytes());
        payload.extend(inner);
        in_udp(4789, &payload)
    }

    fn geneve(vni: u32, options: u8, ether_type: u16, inner: &[u8]) -> Vec<u8> {
        let mut payload = vec![options, 0];
        payload.extend(ether_type.to_be_bytes());
        payload.extend((vni << 8).to_be_bytes());
        payload.extend(vec![0xee; usize::from(options) * 4]);
        payload.extend(inner);
        in_udp(6081, &payload)
    }

    fn in_ip(inner: &[u8], number: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        let builder = PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        frame.extend([8, 0]);
        builder.write(&mut frame, number.into(), inner).expect("a Vec takes it");
        frame
    }

    fn tunnels() -> Tunnels {
        let mut tunnels = Tunnels::default();
        let network = |encapsulation, port, vni| Tunnel::Network { encapsulation, port, vni };
        tunnels.open(network(Encapsulation::Vxlan, 4789, 42), 7).unwrap();
        tunnels.open(network(Encapsulation::Vxlan, 4789, 43), 8).unwrap();
        let geneve = Tunnel::Port { encapsulation: Encapsulation::Geneve, port: 6081 };
        tunnels.open(geneve, 9).unwrap();
        tunnels.open(Tunnel::Ip, 3).unwrap();
        tunnels
    }

    fn judged(frame: &[u8]) -> Result<(u16, u16, u16), Reason> {
        match tunnels().parse(frame, frame.len())? {
            Packet::Ip(headers) => {
                let plain = headers.tuple;
                assert_eq!(plain.source_ip().to_string(), "10.1.0.1");
                assert_eq!(frame[usize::from(headers.l3)], 0x45);
                assert!(headers.tunnelled());
                Ok((headers.tuple.destination_port, headers.tuple.zone, headers.l4_len))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_inner_packet_is_judged_in_its_zone() {
        let frame = inner(443);
        assert_eq!(judged(&vxlan(42, &frame)), Ok((443, 7, 33)));
        assert_eq!(judged(&vxlan(43, &frame)), Ok((443, 8, 33)));
        assert_eq!(judged(&geneve(42, 0, ETHERNET, &frame)), Ok((443, 9, 33)));
        assert_eq!(judged(&geneve(42, 63, ETHERNET, &frame)), Ok((443, 9, 33)));
        assert_eq!(judged(&geneve(42, 2, ethernet::IPV4, &frame[14..])), Ok((443, 9, 33)));
        assert_eq!(judged(&in_ip(&frame[14..], protocol::IPIP)), Ok((443, 3, 33)));
    }

    #[test]
    fn what_is_not_configured_is_judged_by_its_outer_header_or_dropped() {
        let frame = inner(443);
        assert_eq!(judged(&vxlan(44, &frame)), Err(Reason::TunnelNetwork));
        let outside = vxlan(42, &frame);
        let plain = Tunnels::default().parse(&outside, outside.len());
        assert_eq!(plain, super::super::parse(&outside, outside.len()));
        assert!(matches!(plain, Ok(Packet::Ip(headers)) if headers.tuple.destination_port == 4789));
    }

    #[test]
    fn headers_that_do_not_add_up_are_drops() {
        let frame = inner(443);
        let mut extended = vxlan(42, &frame);
        extended[42] |= 0x80; // group policy
        assert_eq!(judged(&extended), Err(Reason::TunnelHeader));
        let mut control = geneve(42, 0, ETHERNET, &frame);
        control[43] |= 0x80;
        assert_eq!(judged(&control), Err(Reason::TunnelHeader));
        // Options that reach beyond the packet.
        assert_eq!(judged(&geneve(1, 0, ETHERNET, &[])), Err(Reason::TunnelHeader));
        // An inner packet longer than the outer one.
        let mut long = vxlan(42, &frame);
        let total = 50 + 14 + 2;
        long[total] = 0xff;
        assert_eq!(judged(&long), Err(Reason::IpLength));
        // A piece of the outer packet.
        let mut piece = vxlan(42, &frame);
        piece[20] |= 0x20;
        let len = piece.len() - 34;
        piece.truncate(34 + len / 8 * 8);
        let ip_len = (piece.len() - 14) as u16;
        piece[16..18].copy_from_slice(&ip_len.to_be_bytes());
        assert_eq!(judged(&piece), Err(Reason::TunnelFragment));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut tunnels = tunnels();
        let twice = Tunnel::Network { encapsulation: Encapsulation::Vxlan, port: 4789, vni: 42 };
        assert_eq!(tunnels.open(twice, 1), Err(TunnelError::Twice(twice)));
        let other = Tunnel::Port { encapsulation: Encapsulation::Geneve, port: 4789 };
        assert_eq!(tunnels.open(other, 1), Err(TunnelError::Port(4789)));
        let large = Tunnel::Network { encapsulation: Encapsulation::Vxlan, port: 1, vni: 1 << 24 };
        assert_eq!(tunnels.open(large, 1), Err(TunnelError::Vni(1 << 24)));
        assert_eq!(tunnels.open(Tunnel::Ip, 1), Err(TunnelError::Twice(Tunnel::Ip)));
    }

    proptest! {
        /// The inner packet is read just as it is outside of the tunnel, or there is a reason.
        #[test]
        fn any_bytes_in_a_tunnel(
            inner in proptest::collection::vec(any::<u8>(), 0..120),
            like_ip: bool,
            cut in 0..200usize,
        ) {
            let mut inner = inner;
            if like_ip && inner.len() > 40 {
                inner[12..15].copy_from_slice(&[8, 0, 0x45]);
                let len = (inner.len() - 14) as u16;
                inner[16..18].copy_from_slice(&len.to_be_bytes());
            }
            let frame = vxlan(42, &inner);
            let within = tunnels().parse(&frame, frame.len());
            match (within, super::super::parse(&inner, inner.len())) {
                (Ok(Packet::Ip(within)), Ok(Packet::Ip(alone))) => {
                    prop_assert_eq!(within.tuple, super::super::Tuple { zone: 7, ..alone.tuple });
                    prop_assert_eq!(within.transport, alone.transport);
                    prop_assert_eq!(within.fragment, alone.fragment);
                    prop_assert_eq!((within.l3, within.l4), (alone.l3 + 50, alone.l4 + 50));
                    prop_assert_eq!(within.l4_len, alone.l4_len);
                }
                (Ok(within), Ok(alone)) => prop_assert_eq!(within, alone),
                (Err(Reason::TunnelHeader), Err(Reason::TruncatedEthernet)) => {}
                (Err(within), Err(alone)) => prop_assert_eq!(within, alone),
                (within, alone) => prop_assert!(false, "{within:?} but alone {alone:?}"),
            }
            let cut = cut.min(frame.len());
            let _ = tunnels().parse(&frame[..cut], cut);
            let _ = tunnels().parse(&frame[..cut], frame.len());
        }
    }
}
