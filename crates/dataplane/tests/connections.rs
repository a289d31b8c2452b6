//! Connection tracking as packets see it.

mod common;

use std::net::{IpAddr, Ipv6Addr};

use common::*;
use portcullis_dataplane::connection::OnPolicyChange;
use portcullis_dataplane::pipeline::{
    Config, Input, Judgement, Lane, PacketRate, RateLimits, Snapshot, State, Unit,
};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::{RuleId, Verdict};
use std::sync::Arc;

fn web() -> Table {
    Table::allow(&[(1, 2, 6, 80), (1, 2, 17, 53), (1, 2, 1, 8), (257, 258, 58, 128)])
}

#[test]
fn replies_of_allowed_flows_pass_and_others_do_not() {
    let mut lane = lane(Config::default(), web());
    assert_eq!(judge(&mut lane, 0, &udp(B, 53, A, 5000, b"a")).reason, Some(Reason::PolicyDenied));
    let opened = judge(&mut lane, 0, &udp(A, 5000, B, 53, b"q"));
    assert_eq!((opened.verdict, opened.state), (Verdict::Allow, State::New));
    let reply = judge(&mut lane, 1, &udp(B, 53, A, 5000, b"a"));
    assert_eq!((reply.verdict, reply.state), (Verdict::Allow, State::Established));
    assert_eq!((reply.source, reply.destination), (opened.source, opened.destination));
    assert!(!passes(&mut lane, 1, &udp(B, 53, A, 5001, b"a")));
    assert!(!passes(&mut lane, 1, &udp(B, 54, A, 5000, b"a")));
}

#[test]
fn a_tcp_connection_from_syn_to_time_wait() {
    let mut lane = lane(Config::default(), web());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    for packet in [
        c.is("S", 1000, 0, 0),
        s.is("SA", 5000, 1001, 0),
        c.is("A", 1001, 5001, 0),
        c.is("PA", 1001, 5001, 100),
        s.is("A", 5001, 1101, 0),
        s.is("PA", 5001, 1101, 1400),
        c.is("A", 1101, 6401, 0),
        c.is("FA", 1101, 6401, 0),
        s.is("FA", 6401, 1102, 0),
        c.is("A", 1102, 6402, 0),
    ] {
        let judgement = judge(&mut lane, 1, &packet);
        assert_eq!(judgement.reason, None);
    }
    assert_eq!(lane.engine().connections(), 1);
    // The same ports again: a new connection, once its number lies beyond the old ones.
    assert_eq!(judge(&mut lane, 2, &c.is("S", 900, 0, 0)).reason, Some(Reason::TcpOutOfWindow));
    assert_eq!(judge(&mut lane, 2, &c.is("S", 90_000, 0, 0)).state, State::New);
    // From the other side it would be another flow, which the policy denies.
    let mut lane2 = common::lane(Config::default(), web());
    assert!(!passes(&mut lane2, 0, &s.is("S", 1, 0, 0)));
}

#[test]
fn segments_outside_the_window_are_dropped() {
    let mut lane = lane(Config::default(), web());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    assert!(passes(&mut lane, 0, &c.is("S", 1000, 0, 0)));
    // An answer to another SYN, data before the answer.
    assert!(!passes(&mut lane, 0, &s.is("SA", 5000, 1002, 0)));
    assert!(!passes(&mut lane, 0, &s.is("A", 5000, 1001, 0)));
    assert!(!passes(&mut lane, 0, &c.is("A", 1001, 0, 10)));
    assert!(passes(&mut lane, 0, &s.is("SA", 5000, 1001, 0)));
    assert!(passes(&mut lane, 0, &c.is("A", 1001, 5001, 0)));
    for forged in [
        s.is("A", 5001 + 100_000, 1001, 10),
        s.is("A", 5001, 1001 + 70_000, 10),
        s.is("A", 5001u32.wrapping_sub(100_000), 1001, 10),
        s.is("A", 5001, 1001u32.wrapping_sub(70_000), 0),
    ] {
        assert_eq!(judge(&mut lane, 1, &forged).reason, Some(Reason::TcpOutOfWindow));
    }
    for reset in [5001 + 100_000, 5000u32.wrapping_sub(70_000)] {
        let judgement = judge(&mut lane, 1, &s.is("R", reset, 0, 0));
        assert_eq!(judgement.reason, Some(Reason::TcpInvalidReset));
    }
    // A reset within the window is the receiver's to challenge: it does not close anything here.
    assert!(passes(&mut lane, 1, &s.is("R", 5400, 0, 0)));
    assert!(passes(&mut lane, 6_000, &c.is("PA", 1001, 5001, 10)));
    // A keepalive probe lies one before the window.
    assert!(passes(&mut lane, 60_000, &s.is("A", 5000, 1011, 0)));
    // The exact one closes.
    assert!(passes(&mut lane, 60_001, &s.is("R", 5001, 0, 0)));
    assert!(!passes(&mut lane, 70_000, &c.is("PA", 1011, 5001, 10)));
}

/// Windows are scaled by what the SYNs said, so that what fits a scaled window passes and what does not is
/// dropped; only if both ends offered it.
#[test]
fn windows_count_as_scaled_as_both_ends_said() {
    for (scales, room) in [
        ([Some(7), Some(7)], 1 << 23),
        ([Some(14), Some(2)], 1 << 18),
        ([Some(7), None], 1 << 16),
        ([None, Some(7)], 1 << 16),
    ] {
        let mut lane = lane(Config::default(), web());
        let c = Tcp { window: 65_535, ..Tcp::new(A, B) };
        let s = c.back();
        for packet in [
            scaled(c.is("S", 1000, 0, 0), scales[0]),
            scaled(s.is("SA", 5000, 1001, 0), scales[1]),
            c.is("A", 1001, 5001, 0),
        ] {
            assert!(passes(&mut lane, 0, &packet), "{scales:?}");
        }
        // The server offers its window anew, now scaled.
        assert!(passes(&mut lane, 0, &s.is("A", 5001, 1001, 0)));
        let inside = c.is("A", 1001 + room - 3000, 5001, 1000);
        assert!(passes(&mut lane, 0, &inside), "{scales:?}: a segment far inside the window");
        let outside = judge(&mut lane, 0, &c.is("A", 1001 + room + 3000, 5001, 1000));
        assert_eq!(outside.reason, Some(Reason::TcpOutOfWindow), "{scales:?}");
    }
}

/// Segments arrive in any order, some are lost and sent again, and acknowledgements stand still while
/// what is behind the hole is acknowledged selectively: all of it is one honest connection.
#[test]
fn losses_reordering_and_selective_acknowledgements_pass() {
    let mut lane = lane(Config::default(), web());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    for packet in [
        c.is("S", 1000, 0, 0),
        s.is("SA", 5000, 1001, 0),
        c.is("A", 1001, 5001, 0),
        // The segment at 1001 is lost; those behind it pass, in any order.
        c.is("A", 4001, 5001, 1000),
        c.is("A", 2001, 5001, 1000),
        c.is("A", 3001, 5001, 1000),
        // The hole is asked for, three times, with what is behind it acknowledged selectively.
        selective(&s, 5001, 1001, &[(4001, 5001)]),
        selective(&s, 5001, 1001, &[(2001, 3001), (4001, 5001)]),
        selective(&s, 5001, 1001, &[(2001, 5001)]),
        // It is sent again, and so is one that had arrived.
        c.is("A", 1001, 5001, 1000),
        c.is("A", 2001, 5001, 1000),
        // A duplicate is acknowledged selectively too (RFC 2883).
        selective(&s, 5001, 5001, &[(2001, 3001)]),
        // A keepalive lies before what is acknowledged; a probe of a closed window just behind.
        c.is("A", 5000, 5001, 0),
        Tcp { window: 0, ..s }.is("A", 5001, 5001, 0),
        c.is("A", 5001, 5001, 1),
        c.is("FA", 5002, 5001, 0),
    ] {
        assert_eq!(judge(&mut lane, 0, &packet).reason, None, "{packet:02x?}");
    }
}

/// A SYN with the option by which windows are scaled.
fn scaled(packet: Vec<u8>, scale: Option<u8>) -> Vec<u8> {
    match scale {
        Some(scale) => with_options(packet, &[1, 3, 3, scale]),
        None => packet,
    }
}

/// An acknowledgement with these blocks beside it (RFC 2018).
fn selective(from: &Tcp, seq: u32, ack: u32, blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut options = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
    for (first, end) in blocks {
        options.extend(first.to_be_bytes());
        options.extend(end.to_be_bytes());
    }
    with_options(from.is("A", seq, ack, 0), &options)
}

/// A segment without data, with options behind its TCP header: lengths grow, checksums are left.
fn with_options(mut packet: Vec<u8>, options: &[u8]) -> Vec<u8> {
    let total = u16::from_be_bytes([packet[16], packet[17]]) + options.len() as u16;
    packet[16..18].copy_from_slice(&total.to_be_bytes());
    packet[46] += (options.len() as u8 / 4) << 4;
    packet.extend_from_slice(options);
    packet
}

#[test]
fn a_syn_from_the_wrong_end_of_an_open_connection_is_judged() {
    let mut lane = lane(Config::default(), web());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    assert!(passes(&mut lane, 0, &c.is("S", 1000, 0, 0)));
    assert!(passes(&mut lane, 0, &s.is("SA", 5000, 1001, 0)));
    assert!(passes(&mut lane, 0, &c.is("A", 1001, 5001, 0)));
    assert!(passes(&mut lane, 0, &c.is("S", 77, 0, 0)), "the receiver challenges it");
    let judgement = judge(&mut lane, 0, &s.is("S", 5001, 0, 0));
    assert_eq!(judgement.reason, Some(Reason::PolicyDenied));
    assert!(passes(&mut lane, 0, &s.is("A", 5001, 1001, 0)), "the connection lives on");
}

#[test]
fn simultaneous_open_works() {
    let mut lane = lane(Config::default(), web());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    for packet in [
        c.is("S", 1000, 0, 0),
        s.is("S", 5000, 0, 0),
        c.is("SA", 1000, 5001, 0),
        s.is("SA", 5000, 1001, 0),
        c.is("A", 1001, 5001, 0),
        s.is("A", 5001, 1001, 0),
        s.is("PA", 5001, 1001, 10),
    ] {
        assert_eq!(judge(&mut lane, 0, &packet).reason, None);
    }
}

#[test]
fn strict_or_lenient_about_connections_from_before() {
    let middle = Tcp::new(A, B).is("A", 123, 456, 100);
    let mut strict = lane(Config::default(), web());
    assert_eq!(judge(&mut strict, 0, &middle).reason, Some(Reason::TcpNotOpening));
    let mut config = Config::default();
    config.connections.pick_up = true;
    let mut lenient = lane(config, web());
    assert!(passes(&mut lenient, 0, &middle));
    assert!(passes(&mut lenient, 0, &Tcp::new(A, B).back().is("A", 456, 223, 1000)));
    // Not without the policy, and not by a reset or an answer.
    assert!(!passes(&mut lenient, 0, &Tcp::new(B, A).is("A", 1, 2, 3)));
    let mut other = Tcp::new(A, B);
    other.source_port = 41000;
    assert!(!passes(&mut lenient, 0, &other.is("R", 1, 0, 0)));
    assert!(!passes(&mut lenient, 0, &other.is("SA", 1, 1, 0)));
}

#[test]
fn a_ping_does_not_ride_on_the_answer_of_another() {
    let mut lane = lane(Config::default(), web());
    assert_eq!(
        judge(&mut lane, 0, &ping(A, B, 9, true)).reason,
        Some(Reason::IcmpUnsolicitedReply)
    );
    assert!(passes(&mut lane, 0, &ping(A, B, 9, false)));
    assert!(passes(&mut lane, 0, &ping(B, A, 9, true)));
    assert!(!passes(&mut lane, 0, &ping(B, A, 8, true)));
    // GHSA-c66w-hq56-4q97: same identifier, other direction.
    assert_eq!(judge(&mut lane, 0, &ping(B, A, 9, false)).reason, Some(Reason::PolicyDenied));
    let (a, b) = (Ipv6Addr::from_bits(1), Ipv6Addr::from_bits(2));
    assert!(passes(&mut lane, 0, &ping(a, b, 9, false)));
    assert!(passes(&mut lane, 0, &ping(b, a, 9, true)));
    assert!(!passes(&mut lane, 0, &ping(b, a, 9, false)));
}

#[test]
fn icmp_errors_pass_only_with_the_connection_they_quote() {
    let mut lane = lane(Config::default(), web());
    let question = udp(A, 5000, B, 53, b"question");
    let router = std::net::Ipv4Addr::new(10, 9, 9, 9);
    let error = unreachable(router, A, &question);
    assert_eq!(judge(&mut lane, 0, &error).reason, Some(Reason::IcmpErrorUnrelated));
    assert!(passes(&mut lane, 0, &question));
    assert!(passes(&mut lane, 0, &error));
    // To somebody else, about a packet that went the other way, about another connection.
    for wrong in [
        unreachable(router, B, &question),
        unreachable(router, A, &udp(B, 53, A, 5000, b"answer")),
        unreachable(router, A, &udp(A, 5001, B, 53, b"question")),
        unreachable(router, A, &question[..14 + 20]),
        unreachable(router, A, &error),
    ] {
        assert_eq!(judge(&mut lane, 0, &wrong).reason, Some(Reason::IcmpErrorUnrelated));
    }
    // About TCP, the quoted sequence number must have been sent.
    let c = Tcp::new(A, B);
    assert!(passes(&mut lane, 0, &c.is("S", 1000, 0, 0)));
    assert!(passes(&mut lane, 0, &unreachable(B, A, &c.is("S", 1000, 0, 0))));
    assert!(!passes(&mut lane, 0, &unreachable(B, A, &c.is("A", 900_000, 0, 0))));
}

#[test]
fn silence_ends_connections() {
    let mut lane = lane(Config::default(), web());
    assert!(passes(&mut lane, 0, &udp(A, 5000, B, 53, b"q")));
    assert!(passes(&mut lane, 29_999, &udp(B, 53, A, 5000, b"a")));
    assert!(passes(&mut lane, 200_000, &udp(B, 53, A, 5000, b"a")), "answered: 3 minutes");
    assert!(!passes(&mut lane, 380_000, &udp(B, 53, A, 5000, b"a")));
    assert_eq!(lane.engine().connections(), 1);
    assert_eq!(lane.expire(at(380_001), 100), 1);
    assert_eq!((lane.engine().connections(), lane.counters().ended.get()), (0, 1));
}

#[test]
fn a_policy_change_keeps_rejudges_or_cuts() {
    for (mode, reply_passes, request_passes) in [
        (OnPolicyChange::Keep, true, true),
        (OnPolicyChange::Rejudge, false, false),
        (OnPolicyChange::Cut, false, false),
    ] {
        let mut config = Config::default();
        config.connections.on_policy_change = mode;
        let mut lane = lane(config, web());
        assert!(passes(&mut lane, 0, &udp(A, 5000, B, 53, b"q")));
        let denial =
            Snapshot { identities: Arc::new(LastByte), policy: Arc::new(Always(Verdict::Deny)) };
        lane.engine().publish(denial);
        assert_eq!(passes(&mut lane, 1, &udp(B, 53, A, 5000, b"a")), reply_passes, "{mode:?}");
        assert_eq!(passes(&mut lane, 1, &udp(A, 5000, B, 53, b"q")), request_passes, "{mode:?}");
    }
    // Judged again in the direction in which it was opened, a reply goes on if the new policy
    // still allows the request; cut, it is a new flow that nobody allows.
    for (mode, reply_passes) in [(OnPolicyChange::Rejudge, true), (OnPolicyChange::Cut, false)] {
        let mut config = Config::default();
        config.connections.on_policy_change = mode;
        let mut lane = lane(config, web());
        assert!(passes(&mut lane, 0, &udp(A, 5000, B, 53, b"q")));
        let same = Snapshot { identities: Arc::new(LastByte), policy: Arc::new(web()) };
        lane.engine().publish(same);
        assert_eq!(passes(&mut lane, 1, &udp(B, 53, A, 5000, b"a")), reply_passes, "{mode:?}");
    }
}

#[test]
fn a_full_table_denies_new_connections() {
    let mut config = Config::default();
    config.connections.capacity = 1;
    let mut lane = lane(config, web());
    assert!(passes(&mut lane, 0, &udp(A, 5000, B, 53, b"q")));
    assert_eq!(judge(&mut lane, 0, &udp(A, 5001, B, 53, b"q")).reason, Some(Reason::TableFull));
    assert!(passes(&mut lane, 0, &udp(B, 53, A, 5000, b"a")));
}

#[test]
fn the_order_within_a_batch_counts() {
    let mut lane = lane(Config::default(), web());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    let packets = [
        s.is("SA", 5000, 1001, 0),
        c.is("S", 1000, 0, 0),
        s.is("SA", 5000, 1001, 0),
        c.is("A", 1001, 5001, 0),
        c.is("PA", 1001, 5001, 5),
    ];
    let inputs: Vec<_> = packets.iter().map(|packet| Input::new(packet)).collect();
    let mut out = [Judgement::default(); 5];
    assert_eq!(lane.judge(at(0), &inputs, &mut out), 5);
    assert_eq!(out.map(|j| j.verdict == Verdict::Allow), [false, true, true, true, true]);
}

#[test]
fn without_a_policy_nothing_passes_but_neighbours() {
    let engine = Arc::new(portcullis_dataplane::pipeline::Engine::new(Config::default()).unwrap());
    let mut lane = portcullis_dataplane::pipeline::Lane::new(engine);
    assert_eq!(judge(&mut lane, 0, &udp(A, 1, B, 2, b"")).reason, Some(Reason::NoPolicy));
    let mut arp = udp(A, 1, B, 2, b"");
    arp[12..14].copy_from_slice(&[8, 6]);
    assert!(passes(&mut lane, 0, &arp));
    let (a, b): (IpAddr, IpAddr) = (Ipv6Addr::from_bits(1).into(), Ipv6Addr::from_bits(2).into());
    let mut solicitation = unreachable(a, b, &[0; 40]);
    solicitation[54] = 135;
    solicitation[55] = 0;
    assert!(!passes(&mut lane, 0, &solicitation), "a router may have forwarded it");
    solicitation[21] = 255;
    assert!(passes(&mut lane, 0, &solicitation));
}

#[test]
fn packets_beyond_the_rate_of_a_rule_or_an_identity_are_dropped() {
    let rate = |per_second, burst| PacketRate { unit: Unit::Packets, per_second, burst };
    let mut lane = lane(Config::default(), Always(Verdict::Allow));
    let engine = Arc::clone(lane.engine());
    let send = |lane: &mut Lane, from: u8, count: usize| {
        let packet = udp([10, 0, 0, from], 40_000, [10, 0, 0, 99], 53, b"x");
        let judged = (0..count).map(|_| judge(lane, 0, &packet));
        judged.filter(|judgement| judgement.reason == Some(Reason::RateLimit)).count()
    };

    let mut limits = RateLimits::default();
    limits.identity = Some(rate(1, 3));
    engine.limit_rates(limits);
    assert_eq!(send(&mut lane, 1, 10), 7);
    assert_eq!(send(&mut lane, 2, 3), 0, "another identity has its own");
    assert_eq!(send(&mut lane, 2, 1), 1);

    // All of these are allowed by one rule. New buckets are full.
    let mut limits = RateLimits::default();
    limits.rules = vec![(RuleId::new(1), rate(1, 4))];
    engine.limit_rates(limits);
    assert_eq!(send(&mut lane, 3, 3) + send(&mut lane, 4, 3), 2);
    assert_eq!(lane.counters().dropped(Reason::RateLimit).get(), 10);

    engine.limit_rates(RateLimits::default());
    assert_eq!(send(&mut lane, 1, 10), 0);
}
