//! Packets that policies deny are rejected if the settings say so: the answers that a program which
//! judges packets has to send, byte by byte, and the fragments that it has to send on.

use etherparse::{
    Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TcpSlice, TransportSlice,
    icmpv4, icmpv6,
};
use portcullis::dataplane::pipeline::{Input, Judgement};
use portcullis::dataplane::reason::Reason;
use portcullis::dataplane::verdict::Verdict;
use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis::policy::model::PolicySet;
use portcullis::policy::{Flow, Source, parse_policies};
use portcullis::{Engine, EngineConfig, Judge};

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}
";

const ALL_CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}}
";

const WEB: [u8; 4] = [10, 0, 0, 1];
const DB: [u8; 4] = [10, 0, 0, 2];
const WEB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn policies(text: &str) -> PolicySet {
    parse_policies(&[Source::new("policies.yaml", text)]).unwrap().value
}

fn cluster() -> ClusterState {
    let pod = |name: &str, app: &str, addresses: [&str; 2]| Endpoint {
        labels: [("app", app)].into_iter().collect(),
        addresses: addresses.map(|address| address.parse().unwrap()).to_vec(),
        ..Endpoint::new("shop", name)
    };
    let endpoints = vec![
        pod("web-0", "web", ["10.0.0.1", "fd00::1"]),
        pod("db-0", "db", ["10.0.0.2", "fd00::2"]),
    ];
    ClusterState { endpoints, ..ClusterState::default() }
}

fn engine(change: impl FnOnce(&mut EngineConfig)) -> Engine {
    let mut config = EngineConfig::default();
    config.reject_denied = true;
    change(&mut config);
    let engine = Engine::new(config).unwrap();
    engine.apply(cluster(), policies(CLOSED)).unwrap();
    engine
}

/// Judges one packet; its judgement, and the answer to it.
fn judge(judge: &mut Judge, frame: &[u8]) -> (Judgement, Option<Box<[u8]>>) {
    let mut out = [Judgement::default()];
    judge.packets(&[Input::new(frame)], &mut out);
    let mut answers: Vec<_> = judge.answers().collect();
    assert!(answers.len() <= 1 && answers.iter().all(|(packet, _)| *packet == 0));
    (out[0], answers.pop().map(|(_, answer)| answer))
}

fn tcp(port: u16, seq: u32, ack: Option<u32>, syn: bool, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(WEB_MAC, DB_MAC).ipv4(WEB, DB, 64);
    let mut builder = builder.tcp(40000, port, seq, 4096);
    if syn {
        builder = builder.syn();
    }
    if let Some(ack) = ack {
        builder = builder.ack(ack);
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// The reset in `answer`, from the database to the web, with right checksums.
fn reset(answer: &[u8]) -> etherparse::TcpHeader {
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!((header.source, header.destination), (DB, WEB));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((&answer[..6], &answer[6..12]), (&WEB_MAC[..], &DB_MAC[..]));
    let Some(TransportSlice::Tcp(segment)) = packet.transport else { panic!("no TCP") };
    checked(&segment, DB, WEB)
}

fn checked(segment: &TcpSlice<'_>, from: [u8; 4], to: [u8; 4]) -> etherparse::TcpHeader {
    let header = segment.to_header();
    assert_eq!(header.checksum, header.calc_checksum_ipv4_raw(from, to, &[]).unwrap());
    assert!(header.rst && !header.syn && !header.fin);
    assert_eq!((header.source_port, header.destination_port), (22, 40000));
    header
}

#[test]
fn a_denied_syn_is_answered_by_a_reset_that_acknowledges_it() {
    let engine = engine(|_| {});
    let mut own = engine.judge();
    let (judgement, answer) = judge(&mut own, &tcp(22, 0xffff_ffff, None, true, &[]));
    assert_eq!(judgement.verdict, Verdict::Reject);
    assert_eq!(judgement.reason, Some(Reason::PolicyRejected));
    // RFC 9293, 3.10.7.1: the sequence number is zero, and the SYN takes one of its own.
    let header = reset(&answer.unwrap());
    assert!(header.ack);
    assert_eq!((header.sequence_number, header.acknowledgment_number), (0, 0));
    // Data in it counts too (TCP Fast Open).
    let (_, answer) = judge(&mut own, &tcp(22, 1000, None, true, b"hello"));
    assert_eq!(reset(&answer.unwrap()).acknowledgment_number, 1006);
    // It is counted, and told as what it is.
    assert_eq!(engine.totals().rejects_sent, 2);
    let mut reasons = Vec::new();
    engine.events(|event| reasons.push(event.reason));
    assert_eq!(reasons, [Some(Reason::PolicyRejected); 2]);
    // Flows are answered alike.
    let flow = Flow::new(WEB.into(), DB.into(), 6, (40000, 22));
    let mut out = [Judgement::default()];
    own.flows(&[flow], &mut out);
    assert_eq!(out[0].verdict, Verdict::Reject);
}

#[test]
fn a_connection_that_a_change_cuts_is_reset_where_it_stands() {
    let engine = engine(|_| {});
    let mut own = engine.judge();
    let (opened, none) = judge(&mut own, &tcp(5432, 1000, None, true, &[]));
    assert_eq!((opened.verdict, none), (Verdict::Allow, None));
    engine.apply(cluster(), policies(ALL_CLOSED)).unwrap();
    let (cut, answer) = judge(&mut own, &tcp(5432, 1001, Some(7001), false, b"data"));
    assert_eq!(cut.verdict, Verdict::Reject);
    // With ACK: the reset has the number that the sender waits for, and no ACK.
    let answer = answer.unwrap();
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(TransportSlice::Tcp(segment)) = packet.transport else { panic!("no TCP") };
    let header = segment.to_header();
    assert!(header.rst && !header.ack);
    assert_eq!(header.sequence_number, 7001);
}

#[test]
fn denied_datagrams_are_answered_by_icmp_that_quotes_them() {
    let engine = engine(|_| {});
    let mut own = engine.judge();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(WEB_MAC, DB_MAC).ipv4(WEB, DB, 64).udp(40000, 53);
    builder.write(&mut frame, &[0x5a; 32]).unwrap();
    let (judgement, answer) = judge(&mut own, &frame);
    assert_eq!(judgement.verdict, Verdict::Reject);
    let answer = answer.unwrap();
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("no ICMP") };
    let code = icmpv4::DestUnreachableHeader::FilterProhibited;
    assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(code));
    assert_eq!(icmp.payload(), &frame[14..]);
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));

    let [a, b] = ["fd00::1", "fd00::2"].map(|a| a.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(WEB_MAC, DB_MAC).ipv6(a, b, 64).udp(40000, 53);
    builder.write(&mut frame, &[0x5a; 32]).unwrap();
    let (judgement, answer) = judge(&mut own, &frame);
    assert_eq!(judgement.verdict, Verdict::Reject);
    let answer = answer.unwrap();
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
    assert_eq!((ip.header().source(), ip.header().destination()), (b, a));
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
    let code = icmpv6::DestUnreachableCode::Prohibited;
    assert_eq!(icmp.icmp_type(), Icmpv6Type::DestinationUnreachable(code));
    assert_eq!(icmp.payload(), &frame[14..]);
    let sum = icmp.icmp_type().calc_checksum(b, a, icmp.payload()).unwrap();
    assert_eq!(icmp.checksum(), sum);
}

#[test]
fn resets_are_not_answered_and_answers_are_few() {
    let engine = engine(|config| {
        config.pipeline.reject_rate.per_second = 1;
        config.pipeline.reject_rate.burst = 2;
    });
    let mut own = engine.judge();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(WEB_MAC, DB_MAC).ipv4(WEB, DB, 64);
    builder.tcp(40000, 22, 5, 0).rst().write(&mut frame, &[]).unwrap();
    assert_eq!(judge(&mut own, &frame).1, None);
    let syn = tcp(22, 1, None, true, &[]);
    let answers: Vec<bool> = (0..4).map(|_| judge(&mut own, &syn).1.is_some()).collect();
    assert_eq!(answers, [true, true, false, false]);
    // What malformed, or without policy, is dropped silently.
    let (judgement, answer) = judge(&mut own, &syn[..40]);
    assert_eq!((judgement.verdict, answer), (Verdict::Deny, None));
}

#[test]
fn unless_asked_nobody_is_told() {
    let engine = engine(|config| config.reject_denied = false);
    let mut own = engine.judge();
    let (judgement, answer) = judge(&mut own, &tcp(22, 1, None, true, &[]));
    assert_eq!((judgement.verdict, answer), (Verdict::Deny, None));
    assert_eq!(judgement.reason, Some(Reason::PolicyDenied));
}
