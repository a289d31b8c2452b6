//! Packets through a worker between two memory ports.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use portcullis_dataplane::clock::Virtual;
use portcullis_dataplane::frame::Umem;
use portcullis_dataplane::packet::{Packet, TcpFlags, Transport, Version, checksum, parse};
use portcullis_dataplane::pipeline::{Config, Lane};
use portcullis_dataplane::port::memory::{MemoryEnd, MemoryPort};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::verdict::Verdict;
use portcullis_dataplane::worker::{self, Worker};

const FRAMES: u32 = 512;

fn wire(lane: Lane) -> (Worker, MemoryEnd, MemoryEnd) {
    let pool = Umem::heap(FRAMES, 2048);
    let (left, client) = MemoryPort::new(pool.umem()).unwrap();
    let (right, server) = MemoryPort::new(pool.umem()).unwrap();
    let mut worker = Worker::new(worker::Config::default(), lane).unwrap();
    worker.add(Wire::new("w", Box::new(left), Box::new(right), pool)).unwrap();
    (worker, client, server)
}

#[test]
fn what_passes_is_unchanged_and_in_order() {
    let (mut worker, client, server) = wire(lane(Config::default(), Always(Verdict::Allow)));
    let sent: Vec<_> = (0..1000u16).map(|n| udp(A, n, B, 53, &n.to_be_bytes())).collect();
    for packet in &sent {
        client.send(packet);
    }
    while worker.round() > 0 {}
    let received: Vec<_> = std::iter::from_fn(|| server.receive()).collect();
    assert_eq!(received, sent);
    assert!(client.receive().is_none());
    let counters = worker.lane().counters();
    assert_eq!((counters.received.get(), counters.forwarded.get()), (1000, 1000));
}

#[test]
fn drops_are_counted_and_frames_return() {
    let (mut worker, client, server) = wire(lane(Config::default(), Always(Verdict::Deny)));
    for n in 0..2000u16 {
        client.send(&udp(A, n, B, 53, b"x"));
        server.send(&[0; 7]);
    }
    while worker.round() > 0 {}
    assert!(server.receive().is_none());
    let counters = worker.lane().counters();
    assert_eq!(counters.dropped(Reason::PolicyDenied).get(), 2000);
    assert_eq!(counters.dropped(Reason::TruncatedEthernet).get(), 2000);
    assert_eq!(counters.dropped_total(), 4000);
    let events = worker.lane().events();
    assert_eq!(events.len() as u64 + events.lost(), 2000);
}

#[test]
fn packets_of_several_buffers_share_one_verdict() {
    let (mut worker, client, server) =
        wire(lane(Config::default(), Table::allow(&[(1, 2, 17, 53)])));
    let long = udp(A, 1, B, 53, &vec![7; 8000]);
    let denied = udp(A, 1, B, 54, &vec![7; 8000]);
    for _ in 0..50 {
        client.send(&long);
        client.send(&denied);
    }
    while worker.round() > 0 {}
    let received: Vec<_> = std::iter::from_fn(|| server.receive()).collect();
    assert_eq!(received.len(), 50);
    assert!(received.iter().all(|packet| *packet == long));
}

#[test]
fn partial_checksums_leave_complete() {
    let (mut worker, client, server) = wire(lane(Config::default(), Always(Verdict::Allow)));
    let right = Tcp::new(A, B).build();
    let Ok(Packet::Ip(headers)) = parse(&right, right.len()) else { panic!("not IP") };
    let tuple = headers.tuple;
    let pseudo = checksum::fold(checksum::pseudo_header(
        tuple.source,
        tuple.destination,
        tuple.protocol,
        headers.l4_len,
    ));
    let mut partial = right.clone();
    partial[50..52].copy_from_slice(&pseudo.to_be_bytes());
    assert_ne!(partial, right);
    client.send(&partial);
    worker.round();
    assert_eq!(server.receive(), Some(right));
}

#[test]
fn a_sleeping_worker_wakes_for_packets_wires_and_the_end() {
    let (worker, client, server) = wire(lane(Config::default(), Always(Verdict::Allow)));
    let handle = worker.handle();
    let thread = std::thread::spawn(move || worker.run());
    std::thread::sleep(Duration::from_millis(50)); // asleep by now
    let packet = udp(A, 1, B, 2, b"wake");
    client.send(&packet);
    let begin = Instant::now();
    while server.receive().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(5));
        std::thread::yield_now();
    }
    let removed = handle.remove("w").expect("it was there");
    assert!(handle.remove("w").is_none());
    client.send(&packet);
    handle.add(removed);
    while server.receive().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(5));
        std::thread::yield_now();
    }
    handle.stop();
    let worker = thread.join().unwrap();
    assert_eq!(worker.lane().counters().forwarded.get(), 2);
}

/// A lane with so many connections that were opened at time 0.
fn full_lane(connections: u32) -> Lane {
    let mut lane = lane(Config::default(), Always(Verdict::Allow));
    for n in 0..connections {
        let [_, _, high, low] = n.to_be_bytes();
        assert!(passes(&mut lane, 0, &udp([10, 1, high, low], 5000, B, 53, b"x")));
    }
    lane
}

/// However many connections end at once, a round takes a small share of them, so packets do not wait.
#[test]
fn connections_end_in_small_shares_between_rounds() {
    const MOST: usize = 2048;
    const ALL: usize = 50_000;
    let clock = Arc::new(Virtual::default());
    let (worker, client, server) = wire(full_lane(ALL as u32));
    let mut worker = worker.with_clock(clock.clone());
    let engine = Arc::clone(worker.lane().engine());
    clock.advance(Duration::from_secs(3600));
    let packet = udp(A, 1, A, 2, b"meanwhile");
    let mut left = ALL;
    for round in 0.. {
        client.send(&packet);
        worker.round();
        assert_eq!(server.receive().as_ref(), Some(&packet), "served in the same round");
        let now = engine.connections() - 1; // that of the packet
        assert!(left - now <= MOST, "{} in one round", left - now);
        left = now;
        if left == 0 {
            break;
        }
        assert!(round <= ALL / MOST + 1, "{left} after {round} rounds");
    }
}

/// A worker that sleeps for long does not sleep before all that are due have ended.
#[test]
fn connections_end_before_a_worker_sleeps() {
    let pool = Umem::heap(FRAMES, 2048);
    let (left, _client) = MemoryPort::new(pool.umem()).unwrap();
    let (right, _server) = MemoryPort::new(pool.umem()).unwrap();
    let mut config = worker::Config::default();
    config.tick = Duration::from_secs(3600);
    let clock = Arc::new(Virtual::default());
    let worker = Worker::new(config, full_lane(20_000)).unwrap();
    let mut worker = worker.with_clock(clock.clone());
    worker.add(Wire::new("w", Box::new(left), Box::new(right), pool)).unwrap();
    let (engine, handle) = (Arc::clone(worker.lane().engine()), worker.handle());
    clock.advance(Duration::from_secs(3600));
    let thread = std::thread::spawn(move || worker.run());
    let begin = Instant::now();
    while engine.connections() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "{} left", engine.connections());
        std::thread::sleep(Duration::from_millis(1));
    }
    handle.stop();
    thread.join().unwrap();
}

#[test]
fn an_interface_that_goes_down_and_comes_back() {
    let (mut worker, client, server) = wire(lane(Config::default(), Always(Verdict::Allow)));
    server.set_down(true);
    client.send(&udp(A, 1, B, 2, b"lost"));
    worker.round();
    server.set_down(false);
    client.send(&udp(A, 1, B, 2, b"back"));
    worker.round();
    assert_eq!(server.receive(), Some(udp(A, 1, B, 2, b"back")));
    assert!(Arc::strong_count(worker.lane().engine()) >= 1);
}

/// Checks an answer's outside: link and IP addresses exchanged, checksums right.
fn check_answer(rejected: &[u8], answer: &[u8]) -> portcullis_dataplane::packet::Headers {
    assert_eq!((&answer[..6], &answer[6..12]), (&rejected[6..12], &rejected[..6]));
    let Ok(Packet::Ip(asked)) = parse(rejected, rejected.len()) else { panic!("not IP") };
    let Ok(Packet::Ip(headers)) = parse(answer, answer.len()) else { panic!("not IP") };
    assert_eq!(headers.tuple.source, asked.tuple.destination);
    assert_eq!(headers.tuple.destination, asked.tuple.source);
    assert_eq!(checksum::verify(answer, &headers), Some(true));
    if headers.tuple.version == Version::V4 {
        assert_eq!(checksum::fold(checksum::add(&answer[14..34], 0)), 0xffff);
    }
    headers
}

#[test]
fn rejected_packets_are_answered() {
    let (mut worker, client, server) = wire(lane(Config::default(), Always(Verdict::Reject)));
    let mut ask = |packet: &[u8]| {
        client.send(packet);
        worker.round();
        assert!(server.receive().is_none());
        client.receive()
    };
    let [a, b] = [A, B].map(std::net::IpAddr::from);
    let [a6, b6] = [A, B].map(|address| address.to_ipv6_mapped().into());
    for (source, destination) in [(a, b), (a6, b6)] {
        // A SYN is reset with its own number acknowledged.
        let syn = Tcp::new(source, destination).is("S", 1000, 0, 0);
        let headers = check_answer(&syn, &ask(&syn).unwrap());
        let Transport::Tcp(tcp) = headers.transport else { panic!("not TCP") };
        assert_eq!((tcp.seq, tcp.ack, tcp.flags.0), (0, 1001, TcpFlags::RST | TcpFlags::ACK));
        assert_eq!((headers.tuple.source_port, headers.tuple.destination_port), (80, 40000));
        assert!(ask(&Tcp::new(source, destination).is("R", 1, 0, 0)).is_none());
        // UDP and pings get ICMP with the packet quoted, as long as it may be.
        for packet in [
            udp(source, 1, destination, 2, b"short"),
            udp(source, 1, destination, 2, &[7; 1400]),
            ping(source, destination, 5, false),
        ] {
            let answer = ask(&packet).unwrap();
            let headers = check_answer(&packet, &answer);
            let Transport::Icmp { kind, code, .. } = headers.transport else { panic!("not ICMP") };
            let v4 = source.is_ipv4();
            assert_eq!((kind, code), if v4 { (3, 13) } else { (1, 1) });
            let quoted = &answer[usize::from(headers.l4) + 8..];
            assert!(quoted.len() >= 28 && packet[14..].starts_with(quoted));
            assert!(answer.len() - 14 <= if v4 { 576 } else { 1280 });
        }
        // Never about an error, to a group, or from nobody.
        let error = unreachable(source, destination, &udp(destination, 1, source, 2, b""));
        assert!(ask(&error).is_none());
        let mut group = udp(source, 1, destination, 2, b"");
        group[0] |= 1;
        assert!(ask(&group).is_none());
    }
    assert!(ask(&udp(std::net::Ipv4Addr::new(224, 0, 0, 1), 1, B, 2, b"")).is_none());
    // VLAN tags stay.
    let mut tagged = udp(A, 1, B, 2, b"");
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(ask(&tagged).unwrap()[12..16], tagged[12..16]);
}

#[test]
fn answers_to_rejected_packets_are_bounded() {
    let (worker, client, server) = wire(lane(Config::default(), Always(Verdict::Reject)));
    let clock = Arc::new(Virtual::default());
    let mut worker = worker.with_clock(clock.clone());
    let packet = udp(A, 1, B, 2, b"");
    let mut answers = |count: usize| {
        let mut answered = 0;
        for _ in 0..count {
            client.send(&packet);
            worker.round();
            assert!(server.receive().is_none());
            answered += usize::from(client.receive().is_some());
        }
        answered
    };
    // By default 200 at once, and 1,000 a second.
    assert_eq!(answers(2000), 200);
    assert_eq!(answers(2000), 0);
    clock.advance(Duration::from_millis(100));
    assert_eq!(answers(2000), 100);
    clock.advance(Duration::from_secs(3600));
    assert_eq!(answers(2000), 200);
}

#[test]
fn sleeping_wires_wake_one_by_one_while_another_is_busy() {
    const WIRES: usize = 40;
    let (mut worker, client, server) = wire(lane(Config::default(), Always(Verdict::Allow)));
    let mut ends = Vec::new();
    for n in 0..WIRES {
        let pool = Umem::heap(64, 2048);
        let (left, client) = MemoryPort::new(pool.umem()).unwrap();
        let (right, server) = MemoryPort::new(pool.umem()).unwrap();
        worker.add(Wire::new(format!("{n}"), Box::new(left), Box::new(right), pool)).unwrap();
        ends.push((client, server));
    }
    let handle = worker.handle();
    let thread = std::thread::spawn(move || worker.run());
    std::thread::sleep(Duration::from_millis(20)); // all asleep by now
    let packet = udp(A, 1, B, 2, b"x");
    let begin = Instant::now();
    let mut sent = 0;
    for round in 0..5 {
        for (n, (left, right)) in ends.iter().enumerate() {
            // The first wire stays busy all the time; the others speak in turn, from either side.
            client.send(&packet);
            let (from, to) = if round % 2 == 0 { (left, right) } else { (right, left) };
            from.send(&packet);
            sent += 2;
            while to.receive().is_none() {
                assert!(begin.elapsed() < Duration::from_secs(10), "wire {n} did not wake");
                client.send(&packet);
                sent += 1;
                std::thread::yield_now();
            }
        }
    }
    for n in 0..WIRES {
        assert!(handle.remove(&n.to_string()).is_some());
    }
    while std::iter::from_fn(|| server.receive()).count() > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    handle.stop();
    let worker = thread.join().unwrap();
    assert_eq!(worker.lane().counters().forwarded.get(), sent - client.lost());
}
