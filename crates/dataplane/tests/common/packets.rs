//! Packets made of bytes that a property test or a fuzzer chooses.

use portcullis_dataplane::packet::{Encapsulation, Tunnel, Tunnels, protocol};

/// Bytes that steer what happens; zeros when they run out.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    pub(super) fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(super) fn below(&mut self, limit: u8) -> u8 {
        self.next() % limit
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.next()) % of.len()]
    }
}

/// A packet between few hosts and ports, so that packets meet each other's connections.
pub(super) fn packet(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let shape = bytes.next();
    let (v6, tagged, fragment) = (shape & 1 != 0, shape & 6 == 6, shape & 0x38 == 0x38);
    let [source, destination] = [bytes.below(3), bytes.below(3)];
    let number = match bytes.below(8) {
        0..=3 => protocol::TCP,
        4 => protocol::UDP,
        5 => protocol::SCTP,
        6 => {
            if v6 {
                protocol::ICMPV6
            } else {
                protocol::ICMP
            }
        }
        _ => bytes.pick(&[47, 50, 253]),
    };
    let l4 = match number {
        protocol::TCP => tcp(bytes),
        protocol::ICMP | protocol::ICMPV6 => icmp(bytes, v6, source),
        protocol::SCTP => sctp(bytes),
        _ => {
            let ports = [bytes.below(2), bytes.below(2)];
            let mut l4 = vec![0, ports[0], 0, ports[1], 0, 20, 0, 0, 0, 0, 0, 0];
            l4.extend([bytes.below(3), 0, 0, 0, 0, 0, 0, 0]);
            l4
        }
    };
    let mut frame = vec![2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, source];
    if tagged {
        frame.extend([0x81, 0, 0, 7]);
    }
    let l3 = ip(v6, source, destination, number, &l4, fragment.then(|| bytes.next()));
    frame.extend(l3);
    for _ in 0..bytes.next().saturating_sub(200) % 4 {
        let at = usize::from(bytes.next()) % frame.len();
        frame[at] = bytes.next();
    }
    if bytes.below(32) == 31 {
        frame.truncate(usize::from(bytes.next()));
    }
    match bytes.below(32) {
        28.. => in_vxlan(bytes.below(4), &frame),
        26 | 27 => in_geneve(bytes.below(2), &frame),
        24 | 25 => in_ip(bytes.below(2) == 1, &frame),
        _ => frame,
    }
}

/// The frame in a tunnel: one of zone 0, of zone 1, of a zone without policy, of no zone.
fn in_vxlan(vni: u8, frame: &[u8]) -> Vec<u8> {
    let len = (8 + 8 + frame.len()) as u8;
    let mut l4 = vec![0, 9, 0x12, 0xb5, 0, len, 0, 0, 8, 0, 0, 0, 0, 0, vni, 0];
    l4.extend(frame);
    let mut out = vec![2; 12];
    out.extend(ip(false, 1, 2, protocol::UDP, &l4, None));
    out
}

/// The same in a tunnel of the other sort, with so many options of four bytes.
fn in_geneve(options: u8, frame: &[u8]) -> Vec<u8> {
    let len = (8 + 8 + 4 * usize::from(options) + frame.len()) as u8;
    let mut l4 = vec![0, 9, 0x17, 0xc1, 0, len, 0, 0, options, 0, 0x65, 0x58, 0, 0, 7, 0];
    l4.extend(vec![0; 4 * usize::from(options)]);
    l4.extend(frame);
    let mut out = vec![2; 12];
    out.extend(ip(false, 1, 2, protocol::UDP, &l4, None));
    out
}

/// The packet of `frame` in another IP packet.
fn in_ip(v6: bool, frame: &[u8]) -> Vec<u8> {
    let inner = frame.get(14..).unwrap_or_default();
    let number = if inner.first().is_some_and(|first| first >> 4 == 6) { 41 } else { 4 };
    let mut out = vec![2; 12];
    out.extend(ip(v6, 1, 2, number, inner, None));
    out
}

pub(super) fn tunnels() -> Tunnels {
    let mut tunnels = Tunnels::default();
    let encapsulation = Encapsulation::Vxlan;
    for (vni, zone) in [(0, 0), (1, 1), (2, 2)] {
        let tunnel = Tunnel::Network { encapsulation, port: 4789, vni };
        tunnels.open(tunnel, zone).expect("different networks");
    }
    let geneve = Tunnel::Port { encapsulation: Encapsulation::Geneve, port: 6081 };
    tunnels.open(geneve, 1).expect("another port");
    tunnels.open(Tunnel::Ip, 1).expect("the only one");
    tunnels
}

fn ip(v6: bool, source: u8, destination: u8, number: u8, l4: &[u8], piece: Option<u8>) -> Vec<u8> {
    let mut out = if v6 { vec![0x86, 0xdd] } else { vec![8, 0] };
    // Identification, offset in units of 8 bytes, more.
    let piece = piece.map(|byte| (byte & 3, byte >> 2 & 3, byte & 0x10 != 0));
    let len = l4.len() / 8 * 8;
    let l4 = if piece.is_some() { &l4[..len] } else { l4 };
    if v6 {
        let extra = if piece.is_some() { 8 } else { 0 };
        out.extend([0x60, 0, 0, 0, 0, (l4.len() + extra) as u8]);
        out.extend([if extra > 0 { 44 } else { number }, 255]);
        for host in [source, destination] {
            out.extend([0xfd; 15]);
            out.push(host);
        }
        if let Some((id, offset, more)) = piece {
            out.extend([number, 0, 0, offset << 3 | u8::from(more), 0, 0, 0, id]);
        }
    } else {
        let (id, offset, more) = piece.unwrap_or_default();
        out.extend([0x45, 0, 0, (20 + l4.len()) as u8, 0, id, u8::from(more) << 5, offset]);
        out.extend([64, number, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]);
    }
    out.extend(l4);
    out
}

fn tcp(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let ports = [bytes.below(2), bytes.below(2)];
    let flags = bytes.pick(&[0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0xff]);
    let mut out = vec![0, ports[0], 0, ports[1], 0, 0, 0, bytes.below(6), 0, 0, 0, bytes.below(6)];
    let scaled = flags & 2 != 0 && bytes.below(2) == 1;
    out.push(if scaled { 6 } else { 5 } << 4);
    out.extend([flags, bytes.pick(&[0, 0xff]), bytes.pick(&[0, 1, 0xff]), 0, 0, 0, 0]);
    if scaled {
        out.extend([3, 3, bytes.below(16), 0]);
    }
    out.extend(vec![0x55; bytes.below(3).into()]);
    out
}

/// One chunk or two, with tags that others may have offered.
fn sctp(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let ports = [bytes.below(2), bytes.below(2)];
    let mut out = vec![0, ports[0], 0, ports[1], 0, 0, 0, bytes.below(4), 0, 0, 0, 0];
    for _ in 0..1 + bytes.below(8) / 7 {
        let kind = bytes.pick(&[1, 1, 2, 2, 10, 11, 0, 0, 6, 7, 8, 14, 4]);
        out.extend([kind, bytes.below(8) / 7, 0, 8, 0, 0, 0, bytes.below(4)]);
    }
    out
}

fn icmp(bytes: &mut Bytes<'_>, v6: bool, source: u8) -> Vec<u8> {
    let kinds = if v6 { [128, 129, 1, 135, 134] } else { [8, 0, 3, 13, 9] };
    let kind = bytes.pick(&kinds);
    let mut out = vec![kind, bytes.below(2), 0, 0, 0, bytes.below(2), 0, 0];
    if matches!((v6, kind), (true, 1) | (false, 3)) {
        // Quotes something that somebody may have sent.
        let number = bytes.pick(&[protocol::TCP, protocol::UDP, protocol::SCTP]);
        // A UDP length, or the end of a number that somebody may have sent.
        let high = if number == protocol::UDP { 8 } else { 0 };
        let l4 = [0, bytes.below(2), 0, bytes.below(2), 0, high, 0, bytes.below(6)];
        let receiver = bytes.below(3);
        out.extend(&ip(v6, receiver, source, number, &l4, None)[2..]);
    }
    out
}
