//! Packets, policies and wires for tests.
#![allow(dead_code, unreachable_pub)] // every test file uses its own part

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use portcullis_dataplane::clock::Time;
use portcullis_dataplane::packet::protocol;
use portcullis_dataplane::pipeline::{Config, Engine, Input, Judgement, Lane, Snapshot};
use portcullis_dataplane::verdict::{Decision, Flow, Identify, Policy, RuleId, Verdict};
use portcullis_identity_table::IdentityId;

/// Client and server of most tests.
pub const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// The identity of an IPv4 address is its last byte, of an IPv6 address its last byte and 256.
#[derive(Clone)]
pub struct LastByte;

impl Identify for LastByte {
    fn identify_v4(&self, addresses: &[u32], out: &mut [IdentityId]) {
        for (address, out) in addresses.iter().zip(out) {
            *out = IdentityId::new(address & 0xff);
        }
    }

    fn identify_v6(&self, addresses: &[u128], out: &mut [IdentityId]) {
        for (address, out) in addresses.iter().zip(out) {
            *out = IdentityId::new(256 + (address & 0xff) as u32);
        }
    }
}

/// Allows flows by (source, destination, protocol, destination port or ICMP type).
#[derive(Default)]
pub struct Table(pub HashMap<(u32, u32, u8, u16), Verdict>);

impl Table {
    pub fn allow(flows: &[(u32, u32, u8, u16)]) -> Self {
        Self(flows.iter().map(|flow| (*flow, Verdict::Allow)).collect())
    }
}

impl Policy for Table {
    fn decide(&self, flows: &[Flow], out: &mut [Decision]) {
        for (flow, out) in flows.iter().zip(out) {
            let what = match flow.protocol {
                protocol::ICMP | protocol::ICMPV6 => flow.icmp_kind.into(),
                _ => flow.destination_port,
            };
            let key = (flow.source.get(), flow.destination.get(), flow.protocol, what);
            let verdict = self.0.get(&key).copied().unwrap_or(Verdict::Deny);
            *out = Decision { verdict, rule: RuleId::new(7), log: false };
        }
    }
}

/// One answer for everything.
pub struct Always(pub Verdict);

impl Policy for Always {
    fn decide(&self, _: &[Flow], out: &mut [Decision]) {
        out.fill(Decision { verdict: self.0, rule: RuleId::new(1), log: false });
    }
}

pub fn lane(config: Config, policy: impl Policy + 'static) -> Lane {
    let engine = Arc::new(Engine::new(config).unwrap());
    engine.publish(Snapshot { identities: Arc::new(LastByte), policy: Arc::new(policy) });
    Lane::new(engine)
}

pub fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

/// Judges one packet.
pub fn judge(lane: &mut Lane, millis: u64, packet: &[u8]) -> Judgement {
    let mut out = [Judgement::default()];
    lane.judge(at(millis), &[Input::new(packet)], &mut out);
    out[0]
}

pub fn passes(lane: &mut Lane, millis: u64, packet: &[u8]) -> bool {
    let judgement = judge(lane, millis, packet);
    assert_eq!(judgement.verdict == Verdict::Allow, judgement.reason.is_none());
    judgement.verdict == Verdict::Allow
}

fn ip(source: IpAddr, destination: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            link.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            link.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("mixed families"),
    }
}

pub fn udp(
    source: impl Into<IpAddr>,
    source_port: u16,
    destination: impl Into<IpAddr>,
    destination_port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    ip(source.into(), destination.into())
        .udp(source_port, destination_port)
        .write(&mut out, payload)
        .unwrap();
    out
}

/// A TCP segment; flags as letters: S, A, F, R, P.
#[derive(Clone)]
pub struct Tcp {
    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
    pub flags: &'static str,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub payload: usize,
}

impl Tcp {
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Self {
        Self {
            source: source.into(),
            source_port: 40000,
            destination: destination.into(),
            destination_port: 80,
            flags: "S",
            seq: 1000,
            ack: 0,
            window: 64240,
            payload: 0,
        }
    }

    pub fn back(&self) -> Self {
        Self {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
            ..self.clone()
        }
    }

    pub fn is(&self, flags: &'static str, seq: u32, ack: u32, payload: usize) -> Vec<u8> {
        Self { flags, seq, ack, payload, ..self.clone() }.build()
    }

    pub fn build(&self) -> Vec<u8> {
        let mut step = ip(self.source, self.destination).tcp(
            self.source_port,
            self.destination_port,
            self.seq,
            self.window,
        );
        for flag in self.flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(self.ack),
                'F' => step.fin(),
                'R' => step.rst(),
                _ => step.psh(),
            };
        }
        let mut out = Vec::new();
        step.write(&mut out, &vec![0x55; self.payload]).unwrap();
        out
    }
}

pub fn ping(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    id: u16,
    reply: bool,
) -> Vec<u8> {
    let (source, destination) = (source.into(), destination.into());
    let step = ip(source, destination);
    let mut out = Vec::new();
    match (source.is_ipv4(), reply) {
        (true, false) => step.icmpv4_echo_request(id, 1).write(&mut out, b"ping"),
        (true, true) => step.icmpv4_echo_reply(id, 1).write(&mut out, b"ping"),
        (false, false) => step.icmpv6_echo_request(id, 1).write(&mut out, b"ping"),
        (false, true) => step.icmpv6_echo_reply(id, 1).write(&mut out, b"ping"),
    }
    .unwrap();
    out
}

/// "Port unreachable" (or, in IPv6, the same) about `quoted`, a whole frame.
pub fn unreachable(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    quoted: &[u8],
) -> Vec<u8> {
    let (source, destination) = (source.into(), destination.into());
    let step = ip(source, destination);
    let mut out = Vec::new();
    match source {
        IpAddr::V4(_) => step.icmpv4_raw(3, 3, [0; 4]).write(&mut out, &quoted[14..]),
        IpAddr::V6(_) => step.icmpv6_raw(1, 4, [0; 4]).write(&mut out, &quoted[14..]),
    }
    .unwrap();
    out
}
