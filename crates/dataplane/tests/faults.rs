//! Everything goes wrong, and no frame is lost and every packet counted; policies change, and no
//! packet sees half of one.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use portcullis_dataplane::frame::Umem;
use portcullis_dataplane::pipeline::{Config, Engine, Input, Judgement, Lane, Snapshot};
use portcullis_dataplane::port::fault::{FaultPort, Faults};
use portcullis_dataplane::port::memory::MemoryPort;
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::verdict::{Decision, Flow, Identify, Policy, RuleId, Verdict};
use portcullis_dataplane::worker::{self, Worker};
use portcullis_identity_table::IdentityId;

/// Rounds; one is some six operations of ports (receive, transmit, reclaim, flush).
const ROUNDS: usize = if cfg!(debug_assertions) { 40_000 } else { 200_000 };

#[test]
fn no_frame_is_ever_lost() {
    const FRAMES: usize = 300;
    let pool = Umem::heap(FRAMES as u32, 2048);
    let umem = Arc::clone(pool.umem());
    let (left, client) = MemoryPort::new(&umem).unwrap();
    let (right, server) = MemoryPort::new(&umem).unwrap();
    let mut faults = Faults::default();
    (faults.lose, faults.corrupt, faults.cut) = (20, 30, 20);
    (faults.refuse, faults.withhold, faults.fail) = (40, 40, 40);
    let left = FaultPort::new(left, Arc::clone(&umem), faults, 1);
    let right = FaultPort::new(right, Arc::clone(&umem), faults, 2);
    let mut policy = Table::allow(&[(1, 2, 17, 53)]);
    policy.0.insert((1, 2, 17, 54), Verdict::Reject);
    let mut config = Config::default();
    config.connections.capacity = 1000;
    let mut worker = Worker::new(worker::Config::default(), lane(config, policy)).unwrap();
    worker.add(Wire::new("w", Box::new(left), Box::new(right), pool)).unwrap();

    let mut out = 0u64;
    for round in 0..ROUNDS {
        let payload = [round as u8; 64];
        let len = if round % 50 == 0 { 5000 } else { round % 64 };
        let payload = if len > 64 { vec![round as u8; len] } else { payload[..len].to_vec() };
        let packet = udp(A, 1000 + (round % 200) as u16, B, 52 + (round % 4) as u16, &payload);
        client.send(&packet);
        server.send(&udp(B, 53, A, 1000 + (round % 300) as u16, &payload));
        worker.round();
        while server.receive().is_some() {
            out += 1;
        }
        while client.receive().is_some() {}
    }
    let counters = worker.lane().counters();
    assert!(out > 1000 && counters.dropped_total() > 1000 && counters.rejects_sent.get() > 100);
    let handled = counters.forwarded.get() + counters.dropped_total();
    assert_eq!(handled, counters.received.get(), "every packet is forwarded or counted as dropped");
    let wire = worker.remove("w").expect("it was there");
    let outstanding = wire.ports.iter().map(|port| port.outstanding()).sum::<usize>();
    assert_eq!(wire.pool.available() + outstanding, FRAMES);
}

/// Identities of one version of the world.
#[derive(Clone)]
struct World(u32);

impl Identify for World {
    fn identify_v4(&self, _: &[u32], out: &mut [IdentityId]) {
        out.fill(IdentityId::new(1000 + self.0));
    }

    fn identify_v6(&self, _: &[u128], out: &mut [IdentityId]) {
        out.fill(IdentityId::new(1000 + self.0));
    }
}

/// A policy that knows only the identities of its own version.
struct OfWorld(u32);

impl Policy for OfWorld {
    fn decide(&self, flows: &[Flow], out: &mut [Decision]) {
        for (flow, out) in flows.iter().zip(out) {
            let known = IdentityId::new(1000 + self.0);
            let verdict = if (flow.source, flow.destination) == (known, known) {
                Verdict::Allow
            } else {
                Verdict::Deny
            };
            *out = Decision { verdict, rule: RuleId::new(self.0), log: false };
        }
    }
}

/// Two workers judge new and known connections through a thousand changes of identities and policy:
/// a packet that saw the identities of one snapshot and the policy of another would be denied.
#[test]
fn a_thousand_policies_under_load() {
    let mut config = Config::default();
    config.event_capacity = 16;
    config.connections.capacity = 1 << 12;
    config.connections.on_full = portcullis_dataplane::connection::OnFull::EvictOldest;
    let engine = Arc::new(Engine::new(config).unwrap());
    let publish = |version| {
        let (identities, policy) = (Arc::new(World(version)), Arc::new(OfWorld(version)));
        engine.publish(Snapshot { identities, policy });
    };
    publish(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers = [0u16, 1].map(|worker| {
            let (engine, done) = (Arc::clone(&engine), &done);
            scope.spawn(move || {
                let mut lane = Lane::new(engine);
                let packets: Vec<_> = (0..2000u16)
                    .map(|n| udp(A, n % 3000 + worker * 1000, B, 53, &n.to_be_bytes()))
                    .collect();
                let (mut newest, mut judged) = (0, 0);
                while !done.load(Ordering::Relaxed) || judged == 0 {
                    for packets in packets.chunks(48) {
                        let inputs: Vec<_> = packets.iter().map(|p| Input::new(p)).collect();
                        let mut out = [Judgement::default(); 48];
                        lane.judge(at(judged / 1000), &inputs, &mut out);
                        for judgement in &out[..packets.len()] {
                            assert_eq!(judgement.reason, None);
                            assert_eq!(judgement.source.get(), 1000 + judgement.rule.get());
                            // Time does not go back, and a batch sees one policy.
                            assert!(judgement.rule.get() >= newest);
                            newest = judgement.rule.get();
                            judged += 1;
                        }
                    }
                }
                judged
            })
        });
        for version in 1..=1000 {
            publish(version);
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        assert!(workers.map(|worker| worker.join().unwrap()).iter().all(|judged| *judged > 0));
    });
}
