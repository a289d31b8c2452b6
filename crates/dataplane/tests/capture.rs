//! Captures on a worker between two memory ports, and what rules and rounds count meanwhile.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use portcullis_dataplane::capture::{Filter, RING_BYTES, SESSIONS, Session, Tap, Verdicts};
use portcullis_dataplane::counter::Counted;
use portcullis_dataplane::frame::Umem;
use portcullis_dataplane::pipeline::Config;
use portcullis_dataplane::port::memory::{MemoryEnd, MemoryPort};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::verdict::{RuleId, Verdict};
use portcullis_dataplane::worker::{self, Worker};

/// Only port 53 is allowed.
fn wire() -> (Worker, MemoryEnd, MemoryEnd) {
    let lane = lane(Config::default(), Table::allow(&[(1, 2, 17, 53)]));
    let pool = Umem::heap(512, 2048);
    let (left, client) = MemoryPort::new(pool.umem()).unwrap();
    let (right, server) = MemoryPort::new(pool.umem()).unwrap();
    let mut worker = Worker::new(worker::Config::default(), lane).unwrap();
    let wire = Wire::new("w", Box::new(left), Box::new(right), pool);
    worker.add(wire.with_interfaces(&["eth1", "eth2"])).unwrap();
    (worker, client, server)
}

fn tap(worker: &Worker) -> Arc<Tap> {
    Arc::clone(worker.lane().engine().tap())
}

fn open(tap: &Arc<Tap>, filter: Filter) -> Session {
    let session = tap.open(filter).expect("a free place");
    session.allow(u32::MAX);
    session
}

fn drive(worker: &mut Worker) {
    while worker.round() > 0 {}
}

/// Bytes, reason and interface of everything that waits for a session.
fn captured(tap: &Tap, session: &Session) -> Vec<(Vec<u8>, Option<Reason>, String)> {
    let mut all = Vec::new();
    tap.read(|packet| {
        if session.asked(&packet.askers) {
            let interface = tap.interface_name(packet.interface).to_string();
            all.push((packet.data.to_vec(), packet.judgement.reason, interface));
        }
    });
    all
}

#[test]
fn each_session_gets_what_it_asked_for() {
    let (mut worker, client, server) = wire();
    let tap = tap(&worker);
    let allowed = udp(A, 1000, B, 53, b"question");
    let denied = udp(A, 1000, B, 54, b"not this");
    let answer = udp(B, 53, A, 1000, b"answer");
    client.send(&allowed);
    drive(&mut worker);
    assert_eq!(tap.read(|_| ()), 0, "nobody captures");

    let all = open(&tap, Filter::default().snap(60));
    client.send(&allowed);
    client.send(&denied);
    drive(&mut worker);
    server.send(&answer);
    drive(&mut worker);
    let seen = captured(&tap, &all);
    assert_eq!(
        seen,
        [
            (allowed[..allowed.len().min(60)].to_vec(), None, "eth1".to_owned()),
            (
                denied[..denied.len().min(60)].to_vec(),
                Some(Reason::PolicyDenied),
                "eth1".to_owned()
            ),
            (answer[..answer.len().min(60)].to_vec(), None, "eth2".to_owned()),
        ]
    );

    let drops = open(&tap, Filter::default().verdicts(Verdicts::of(&[Verdict::Deny])));
    let nobody = open(&tap, Filter::default().addresses(vec!["10.9.9.9".parse().unwrap()]));
    client.send(&allowed);
    client.send(&denied);
    drive(&mut worker);
    let mut asked = Vec::new();
    tap.read(|packet| asked.push([&all, &drops, &nobody].map(|s| s.asked(&packet.askers))));
    assert_eq!(asked, [[true, false, false], [true, true, false]]);
    nobody.set_filter(Filter::default().addresses(vec![A.into()]));
    // What waits for one that ended is not for the next that has its place.
    client.send(&allowed);
    drive(&mut worker);
    drop(all);
    let heir = open(&tap, Filter::default());
    assert_eq!(captured(&tap, &heir).len(), 0);
    drop(heir);
    drop(drops);
    client.send(&denied);
    drive(&mut worker);
    assert_eq!(captured(&tap, &nobody).len(), 1, "a changed filter holds from the next batch on");
    drop(nobody);
    client.send(&denied);
    drive(&mut worker);
    assert_eq!(tap.read(|_| ()), 0, "and all is quiet again");
}

#[test]
fn rate_ring_and_places_are_bounded_and_every_loss_is_counted() {
    let (mut worker, client, _server) = wire();
    let tap = tap(&worker);
    let session = open(&tap, Filter::default());
    session.allow(10);
    let packet = udp(A, 1000, B, 54, &[7; 1400]);
    for _ in 0..100 {
        client.send(&packet);
    }
    drive(&mut worker);
    assert_eq!((captured(&tap, &session).len(), session.over_budget()), (10, 90));

    // More than a ring holds, and nobody reads.
    session.allow(u32::MAX);
    let many = RING_BYTES / packet.len() + 1000;
    for _ in 0..many {
        client.send(&packet);
        drive(&mut worker);
    }
    let lost = session.lost() as usize;
    assert!(lost > 0);
    assert_eq!(captured(&tap, &session).len() + lost, many);

    let more: Vec<_> = (1..SESSIONS).map(|_| tap.open(Filter::default()).unwrap()).collect();
    assert!(tap.open(Filter::default()).is_none(), "no place is left");
    drop(more);
    assert!(tap.open(Filter::default()).is_some());
}

#[test]
fn sessions_come_and_go_under_traffic() {
    let (mut worker, client, _server) = wire();
    let tap = tap(&worker);
    let stop = AtomicBool::new(false);
    let packet = udp(A, 1000, B, 54, &[7; 100]);
    let mut all = true;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                client.send(&packet);
                worker.round();
            }
        });
        for _ in 0..200 {
            let session = open(&tap, Filter::default());
            // A batch begun before may still be copied for the one before.
            let (mut seen, end) = (0, Instant::now() + Duration::from_secs(10));
            while seen == 0 && Instant::now() < end {
                tap.read(|captured| {
                    seen += u32::from(session.asked(&captured.askers) && captured.data == packet);
                });
                std::thread::sleep(Duration::from_micros(50));
            }
            all &= seen > 0;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(all, "every session got packets");
}

#[test]
fn rules_count_what_they_let_pass_and_refuse() {
    let (mut worker, client, _server) = wire();
    let (allowed, denied) = (udp(A, 1, B, 53, b"12"), udp(A, 1, B, 54, b"123"));
    for _ in 0..3 {
        client.send(&allowed);
        client.send(&denied);
        client.send(&denied);
    }
    client.send(&[0; 7]);
    drive(&mut worker);
    let counters = worker.lane().counters();
    let used: Vec<_> = counters.rules.used().map(|(of, _)| of).collect();
    assert_eq!(used, [Counted::Rule(RuleId::new(7)), Counted::NoRule]);
    let rule = counters.rules.of(RuleId::new(7));
    let (passed, refused) = (3 * allowed.len() as u64, 6 * denied.len() as u64);
    assert_eq!((rule.passed.get(), rule.passed_bytes.get()), (3, passed));
    assert_eq!((rule.refused.get(), rule.refused_bytes.get()), (6, refused));
    assert_eq!(counters.dropped_bytes(Reason::PolicyDenied).get(), refused);
    assert_eq!(counters.dropped_bytes(Reason::TruncatedEthernet).get(), 7);
}
