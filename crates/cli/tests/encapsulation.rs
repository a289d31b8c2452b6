//! Packets in VLANs and tunnels, end to end: judged by the addresses and ports that they carry, forwarded
//! bit by bit as they came. Needs CAP_NET_ADMIN; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, VlanId};
use support::tap::{self, Captured, Tap};
use support::{Running, Wire, privileged};

const ALLOWED: u16 = 5432;
const DENIED: u16 = 8080;

type Ends = (IpAddr, IpAddr);

/// The pods, which the policy is about.
fn pods(v6: bool) -> Ends {
    let at = |n| match v6 {
        false => IpAddr::from(Ipv4Addr::new(10, 78, 0, n)),
        true => IpAddr::from(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, n.into())),
    };
    (at(1), at(2))
}

/// The ends of tunnels, which no policy knows.
fn nodes(v6: bool) -> Ends {
    match v6 {
        false => (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into()),
        true => ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()),
    }
}

fn ip(
    link: PacketBuilderStep<etherparse::Ethernet2Header>,
    (from, to): Ends,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    }
}

fn ethernet() -> PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2; 6], [4; 6])
}

/// A TCP segment between the pods: a SYN of the client's, or an answer.
#[derive(Clone, Copy)]
struct Segment {
    v6: bool,
    client: u16,
    server: u16,
    answer: bool,
}

impl Segment {
    /// As an Ethernet frame.
    fn frame(self) -> Vec<u8> {
        let (client, server) = pods(self.v6);
        let ends = if self.answer { (server, client) } else { (client, server) };
        let build = ip(ethernet(), ends);
        let mut frame = Vec::new();
        if self.answer {
            let build = build.tcp(self.server, self.client, 500, 1000);
            build.syn().ack(2).write(&mut frame, &[]).unwrap();
        } else {
            build.tcp(self.client, self.server, 1, 1000).syn().write(&mut frame, &[]).unwrap();
        }
        frame
    }

    /// Without the Ethernet header.
    fn packet(self) -> Vec<u8> {
        self.frame()[14..].to_vec()
    }
}

/// A frame with VLAN tags put between its addresses and its type.
fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

fn udp(v6: bool, port: u16, payload: &[u8], back: bool) -> Vec<u8> {
    let (a, b) = nodes(v6);
    let mut frame = Vec::new();
    let build = ip(ethernet(), if back { (b, a) } else { (a, b) });
    build.udp(50_000, port).write(&mut frame, payload).unwrap();
    frame
}

fn vxlan(v6: bool, segment: Segment) -> Vec<u8> {
    let header = [8, 0, 0, 0, 0, 0, 42, 0];
    udp(v6, 4789, &[&header[..], &segment.frame()].concat(), segment.answer)
}

/// With options of so many words, which are not critical.
fn geneve(v6: bool, words: u8, segment: Segment) -> Vec<u8> {
    let mut header = vec![words, 0, 0x65, 0x58, 0, 0, 42, 0];
    if words > 0 {
        header.extend([1, 2, 3, words - 1]);
        header.extend(vec![9; usize::from(words - 1) * 4]);
    }
    udp(v6, 6081, &[&header[..], &segment.frame()].concat(), segment.answer)
}

fn in_ip(v6: bool, segment: Segment) -> Vec<u8> {
    let (a, b) = nodes(v6);
    let protocol = if segment.v6 { IpNumber::IPV6 } else { IpNumber::IPV4 };
    let mut frame = Vec::new();
    let build = ip(ethernet(), if segment.answer { (b, a) } else { (a, b) });
    build.write(&mut frame, protocol, &segment.packet()).unwrap();
    frame
}

type Wrap = fn(Segment) -> Vec<u8>;

/// How a packet between the pods may come. Each has ports of its own, so that no two share a connection.
const WAYS: &[(&str, Wrap)] = &[
    ("plain", |segment| segment.frame()),
    ("VLAN", |segment| tagged(&segment.frame(), &[[0x81, 0, 0, 7]])),
    ("priority only", |segment| tagged(&segment.frame(), &[[0x81, 0, 0xe0, 0]])),
    ("QinQ", |segment| tagged(&segment.frame(), &[[0x88, 0xa8, 0, 7], [0x81, 0, 0, 8]])),
    ("VLAN in VLAN", |segment| tagged(&segment.frame(), &[[0x81, 0, 0, 7], [0x81, 0, 0, 8]])),
    ("VXLAN over IPv4", |segment| vxlan(false, segment)),
    ("VXLAN over IPv6", |segment| vxlan(true, segment)),
    ("VXLAN in a VLAN", |segment| tagged(&vxlan(false, segment), &[[0x81, 0, 0, 7]])),
    ("Geneve over IPv4", |segment| geneve(false, 0, segment)),
    ("Geneve over IPv6", |segment| geneve(true, 0, segment)),
    ("Geneve with options", |segment| geneve(false, 3, segment)),
    ("IP in IPv4", |segment| in_ip(false, segment)),
    ("IP in IPv6", |segment| in_ip(true, segment)),
    ("IP in IP in QinQ", |segment| {
        tagged(&in_ip(false, segment), &[[0x88, 0xa8, 0, 7], [0x81, 0, 0, 8]])
    }),
];

/// Which of these frames, sent by one end, arrive at the other.
fn arrived(wire: &Wire, from: usize, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let ends = wire.ends();
    let tap = Tap::open(ends[1 - from], "eth0");
    tap::send(ends[from], "eth0", frames);
    let ours = |frame: &Captured| !frame.sent && frames.contains(&frame.frame);
    tap.close().into_iter().filter(ours).map(|frame| frame.frame).collect()
}

fn start(wire: &Wire, tunnels: &str) -> Running {
    let path = wire.file("run.yaml");
    std::fs::write(&path, tunnels).unwrap();
    let mut run = wire.run(&["--config", &path]);
    run.wait_for("ready");
    run
}

/// Segments of connections of their own: one for each way and family, to this port of the server.
fn segments(server: u16, answer: bool) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    for (n, (name, wrap)) in WAYS.iter().enumerate() {
        for v6 in [false, true] {
            let client = 30_000 + 2 * n as u16 + u16::from(v6);
            all.push((*name, wrap(Segment { v6, client, server, answer })));
        }
    }
    all
}

fn frames(segments: &[(&'static str, Vec<u8>)]) -> Vec<Vec<u8>> {
    segments.iter().map(|(_, frame)| frame.clone()).collect()
}

#[test]
fn what_is_carried_decides_and_nothing_of_it_is_changed() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let tunnels = "packets: {tunnels: [{kind: vxlan}, {kind: geneve}, {kind: ip}]}\n";
    let mut run = start(&wire, tunnels);
    let (open, closed) = (segments(ALLOWED, false), segments(DENIED, false));
    // An answer that nothing was asked for, before and after something was.
    let (answer, unasked) = (segments(ALLOWED, true), segments(DENIED, true));
    assert_eq!(arrived(&wire, 1, &frames(&answer)), [[0u8; 0]; 0], "nobody asked yet");

    // Each among others that are denied.
    let both: Vec<Vec<u8>> = open
        .iter()
        .zip(&closed)
        .flat_map(|(open, closed)| [closed.1.clone(), open.1.clone()])
        .collect();
    same(&open, &arrived(&wire, 0, &both));
    let both: Vec<Vec<u8>> =
        answer.iter().zip(&unasked).flat_map(|(a, b)| [b.1.clone(), a.1.clone()]).collect();
    same(&answer, &arrived(&wire, 1, &both));
    assert_eq!(run.terminate(), Some(0));
}

/// Exactly these, bit by bit and in order.
fn same(expected: &[(&'static str, Vec<u8>)], arrived: &[Vec<u8>]) {
    for (name, frame) in expected {
        assert!(arrived.contains(frame), "{name}: {frame:02x?} is missing");
    }
    assert_eq!(arrived, frames(expected), "and no others");
}

/// Where no tunnel is configured, its packets are those of its ends; nothing looks into them, and the
/// pods' policy does not speak of the ends.
#[test]
fn tunnels_that_are_not_configured_are_not_opened() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = start(&wire, "packets: {tunnels: [{kind: vxlan, vni: 43}]}\n");
    let closed = segments(DENIED, false);
    let arrived = arrived(&wire, 0, &frames(&closed));
    for (name, frame) in &closed {
        // Networks that are not named at a port that is, are refused.
        let judged =
            ["plain", "VLAN", "priority", "QinQ", "VXLAN"].iter().any(|w| name.starts_with(w));
        assert_eq!(arrived.contains(frame), !judged, "{name}");
    }
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn vlan_identifiers_are_left_alone() {
    // What the ways above put on the wire is what the builder of tags makes.
    let vlan = |id| VlanId::try_new(id).unwrap();
    let mut frame = Vec::new();
    let build = ethernet().double_vlan(vlan(7), vlan(8));
    build
        .ipv4([10, 78, 0, 1], [10, 78, 0, 2], 64)
        .tcp(9, 5432, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    let segment = Segment { v6: false, client: 9, server: 5432, answer: false };
    let (_, qinq) = WAYS.iter().find(|(name, _)| *name == "QinQ").unwrap();
    assert_eq!(qinq(segment), frame);
}
