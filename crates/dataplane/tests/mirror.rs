//! Copies of packets to another port: the right ones, whole, never at the packet's cost.

mod common;

use common::*;
use portcullis_dataplane::frame::Umem;
use portcullis_dataplane::mirror::{Filter, Mirror};
use portcullis_dataplane::pipeline::{Config, Lane};
use portcullis_dataplane::port::memory::{MemoryEnd, MemoryPort};
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::verdict::{Decision, Flow, Policy, RuleId, Verdict};
use portcullis_dataplane::worker::{self, Worker};

/// Allows everything; the rule is the destination port.
struct ByPort;

impl Policy for ByPort {
    fn decide(&self, flows: &[Flow], out: &mut [Decision]) {
        for (flow, out) in flows.iter().zip(out) {
            let rule = RuleId::new(flow.destination_port.into());
            *out = Decision { verdict: Verdict::Allow, rule, log: false };
        }
    }
}

/// A wire and a mirror port with so many frames.
fn wire(lane: Lane, frames: u32) -> (Worker, [MemoryEnd; 3]) {
    let pool = Umem::heap(512, 2048);
    let (left, client) = MemoryPort::new(pool.umem()).unwrap();
    let (right, server) = MemoryPort::new(pool.umem()).unwrap();
    let mut worker = Worker::new(worker::Config::default(), lane).unwrap();
    worker.add(Wire::new("w", Box::new(left), Box::new(right), pool)).unwrap();
    let pool = Umem::heap(frames, 2048);
    let (port, monitor) = MemoryPort::new(pool.umem()).unwrap();
    assert!(worker.mirror_to(Mirror::new(Box::new(port), pool, 9000)).is_none());
    (worker, [client, server, monitor])
}

fn all(end: &MemoryEnd) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| end.receive()).collect()
}

fn verdicts(verdicts: &[Verdict]) -> Option<Filter> {
    let mut filter = Filter::default();
    filter.verdicts = verdicts.to_vec();
    Some(filter)
}

#[test]
fn what_is_asked_for_is_copied_whole_and_in_order() {
    let policy = Table::allow(&[(1, 2, 17, 53)]);
    let (mut worker, [client, server, monitor]) = wire(lane(Config::default(), policy), 256);
    let (allowed, denied): (Vec<_>, Vec<_>) = (0..100u16)
        .map(|n| {
            // Some in several buffers.
            let payload = vec![n as u8; usize::from(n) * 60];
            (udp(A, n, B, 53, &payload), udp(A, n, B, 54, &payload))
        })
        .unzip();
    let mut mixed = Vec::new();
    for (one, other) in allowed.iter().zip(&denied) {
        mixed.extend([one.clone(), other.clone()]);
    }
    let cases: [(Option<Filter>, &[Vec<u8>]); 5] = [
        (None, &[]),
        (verdicts(&[]), &mixed),
        (verdicts(&[Verdict::Allow]), &allowed),
        (verdicts(&[Verdict::Deny]), &denied),
        (verdicts(&[Verdict::Reject]), &[]),
    ];
    for (filter, expected) in cases {
        worker.lane().engine().mirror(filter.clone());
        for packet in &mixed {
            client.send(packet);
            worker.round();
        }
        assert!(all(&server) == allowed, "{filter:?}: what passes is the same");
        assert!(all(&monitor) == expected, "{filter:?}");
        assert!(all(&client).is_empty());
    }
    let counters = worker.lane().counters();
    assert_eq!((counters.mirrored.get(), counters.mirror_lost.get()), (400, 0));
}

#[test]
fn rules_name_the_packets_of_their_connections() {
    let (mut worker, [client, server, monitor]) = wire(lane(Config::default(), ByPort), 256);
    let ask = |port| udp(A, 4000, B, port, b"ask");
    let mut filter = Filter::default();
    filter.rules = Some([54, 77, 54].map(RuleId::new).to_vec());
    worker.lane().engine().mirror(Some(filter));
    let mut expected = Vec::new();
    for port in [53, 54] {
        let answer = udp(B, port, A, 4000, b"answer");
        client.send(&ask(port));
        worker.round();
        server.send(&answer);
        worker.round();
        if port == 54 {
            expected.extend([ask(port), answer]);
        }
    }
    assert_eq!(all(&monitor), expected);
}

#[test]
fn a_monitor_that_cannot_keep_up_costs_copies_only_and_is_counted() {
    let (mut worker, [client, server, monitor]) =
        wire(lane(Config::default(), Always(Verdict::Allow)), 8);
    worker.lane().engine().mirror(verdicts(&[]));
    let packet = |n: u16| udp(A, n, B, 53, &[n as u8; 20]);
    // More at once than there are frames.
    for n in 0..64 {
        client.send(&packet(n));
    }
    while worker.round() > 0 {}
    assert_eq!(all(&server), (0..64).map(packet).collect::<Vec<_>>());
    let copies = all(&monitor);
    let counters = worker.lane().counters().clone();
    assert_eq!(counters.mirrored.get(), copies.len() as u64);
    assert_eq!(counters.mirrored.get() + counters.mirror_lost.get(), 64);
    assert_eq!(copies, (0..8).map(packet).collect::<Vec<_>>());
    // A packet larger than all frames together, and one larger than the mirror's frames.
    client.send(&udp(A, 1, B, 53, &[0; 8_990]));
    client.send(&udp(A, 1, B, 53, &[0; 20_000]));
    while worker.round() > 0 {}
    assert_eq!(all(&server).len(), 2);
    assert!(all(&monitor).is_empty());
    assert_eq!(counters.mirrored.get() + counters.mirror_lost.get(), 66);
    // Down, it is a full queue; back up, copies flow again: no frame was lost.
    monitor.set_down(true);
    for n in 0..100 {
        client.send(&packet(n));
        worker.round();
    }
    monitor.set_down(false);
    assert_eq!(all(&server).len(), 100);
    for n in 0..8 {
        client.send(&packet(n));
    }
    while worker.round() > 0 {}
    assert_eq!(all(&monitor), (0..8).map(packet).collect::<Vec<_>>());
}
