//! Packets through hairpins and switches of memory ports; and wires that come and go.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use portcullis_dataplane::clock::Virtual;
use portcullis_dataplane::connection::Rate;
use portcullis_dataplane::frame::Umem;
use portcullis_dataplane::pipeline::Config;
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::memory::{MemoryEnd, MemoryPort};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::switch::{self, Addresses};
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::verdict::Verdict;
use portcullis_dataplane::worker::{self, Worker};

const FRAMES: u32 = 512;

struct Switch {
    worker: Worker,
    clock: Arc<Virtual>,
    ends: Vec<MemoryEnd>,
    addresses: Arc<Addresses>,
}

impl Switch {
    fn new(ports: usize, policy: Verdict) -> Self {
        let pool = Umem::heap(FRAMES, 2048);
        let (all, ends): (Vec<Box<dyn Port>>, Vec<_>) = (0..ports)
            .map(|_| {
                let (port, end) = MemoryPort::new(pool.umem()).unwrap();
                (Box::new(port) as Box<dyn Port>, end)
            })
            .unzip();
        let mut config = switch::Config::default();
        config.floods = Rate { per_second: 100, burst: 100 };
        let addresses = Arc::new(Addresses::new(ports, config));
        let clock = Arc::new(Virtual::default());
        let lane = lane(Config::default(), Always(policy));
        let mut worker = Worker::new(worker::Config::default(), lane)
            .unwrap()
            .with_clock(Arc::clone(&clock) as _);
        worker.add(Wire::switch("s", all, pool, Arc::clone(&addresses))).unwrap();
        Self { worker, clock, ends, addresses }
    }

    /// Sends a packet from a port; answers how many came out at each.
    fn send(&mut self, from: usize, packet: &[u8]) -> Vec<usize> {
        assert!(self.ends[from].send(packet));
        while self.worker.round() > 0 {}
        let count = |end: &MemoryEnd| {
            std::iter::from_fn(|| end.receive()).inspect(|got| assert_eq!(got, packet)).count()
        };
        self.ends.iter().map(count).collect()
    }

    fn dropped(&self, reason: Reason) -> u64 {
        self.worker.lane().counters().dropped(reason).get()
    }

    /// Every packet and every copy is forwarded or counted as dropped, and no frame is missing.
    fn settle(mut self) {
        let counters = self.worker.lane().counters();
        let handled = counters.forwarded.get() + counters.dropped_total();
        assert_eq!(handled, counters.received.get() + counters.copied.get());
        let wire = self.worker.remove("s").unwrap();
        let outstanding: usize = wire.ports.iter().map(|port| port.outstanding()).sum();
        assert_eq!(wire.pool.available() + outstanding, FRAMES as usize);
    }
}

fn host(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

/// A UDP packet between two link-layer addresses.
fn between(from: [u8; 6], to: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let mut packet = udp(A, 1, B, 2, payload);
    packet[..6].copy_from_slice(&to);
    packet[6..12].copy_from_slice(&from);
    packet
}

#[test]
fn a_switch_learns_who_is_where_and_never_sends_back() {
    let mut switch = Switch::new(4, Verdict::Allow);
    let nobody = [0, 0, 0, 0];
    assert_eq!(switch.send(0, &between(host(0), host(2), b"?")), [0, 1, 1, 1], "not yet known");
    assert_eq!(switch.send(2, &between(host(2), host(0), b"!")), [1, 0, 0, 0]);
    assert_eq!(switch.send(0, &between(host(0), host(2), b"now")), [0, 0, 1, 0]);
    assert_eq!(switch.send(2, &between(host(7), host(2), b"own")), nobody, "behind the same port");
    assert_eq!(switch.dropped(Reason::SamePort), 1);
    assert_eq!(switch.send(1, &between(host(1), [0xff; 6], b"all")), [1, 0, 1, 1]);
    // Packets of several buffers go to one or to all.
    let long = vec![7; 5000];
    assert_eq!(switch.send(0, &between(host(0), host(2), &long)), [0, 0, 1, 0]);
    assert_eq!(switch.send(0, &between(host(0), host(9), &long)), [0, 1, 1, 1]);
    // Who speaks from another's address does not get what is sent there.
    assert_eq!(switch.send(3, &between(host(2), host(0), b"stolen")), [1, 0, 0, 0]);
    assert_eq!(switch.send(0, &between(host(0), host(2), b"to the right one")), [0, 0, 1, 0]);
    // One that was silent may move, and one that is silent for long is forgotten.
    switch.clock.advance(Duration::from_secs(20));
    switch.send(3, &between(host(2), host(0), b"moved"));
    assert_eq!(switch.send(0, &between(host(0), host(2), b"there")), [0, 0, 0, 1]);
    switch.clock.advance(Duration::from_secs(400));
    assert_eq!(switch.send(0, &between(host(0), host(2), b"where?")), [0, 1, 1, 1]);
    switch.settle();
}

#[test]
fn what_a_policy_denies_leaves_a_switch_nowhere() {
    let mut switch = Switch::new(3, Verdict::Deny);
    assert_eq!(switch.send(0, &between(host(0), [0xff; 6], b"x")), [0, 0, 0]);
    assert_eq!(switch.dropped(Reason::PolicyDenied), 1);
    assert!(switch.addresses.is_empty(), "nor is its sender learned");
    switch.settle();
}

#[test]
fn floods_of_packets_and_of_addresses_are_bounded() {
    let mut switch = Switch::new(4, Verdict::Allow);
    switch.send(1, &between(host(1), host(0), b"known"));
    for n in 0..20_000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        switch.ends[0].send(&between([2, 9, a, b, c, d], [0xff; 6], b"flood"));
        if n % 100 == 0 {
            while switch.worker.round() > 0 {}
            switch.ends.iter().for_each(|end| while end.receive().is_some() {});
        }
    }
    while switch.worker.round() > 0 {}
    switch.ends.iter().for_each(|end| while end.receive().is_some() {});
    assert!(switch.dropped(Reason::FloodLimit) >= 19_000);
    assert!(switch.addresses.len() <= 1 + 1024);
    // The others are as well off as before: known, and with floods of their own.
    assert_eq!(switch.send(2, &between(host(2), host(1), b"one")), [0, 1, 0, 0]);
    assert_eq!(switch.send(3, &between(host(3), [0xff; 6], b"all")), [1, 1, 1, 0]);
    switch.settle();
}

#[test]
fn a_hairpin_sends_back_what_may_pass() {
    for (policy, back) in [(Verdict::Allow, 1000), (Verdict::Deny, 0)] {
        let pool = Umem::heap(FRAMES, 2048);
        let (port, end) = MemoryPort::new(pool.umem()).unwrap();
        let lane = lane(Config::default(), Always(policy));
        let mut worker = Worker::new(worker::Config::default(), lane).unwrap();
        worker.add(Wire::hairpin("h", Box::new(port), pool)).unwrap();
        let sent: Vec<_> = (0..1000u16).map(|n| udp(A, n, B, 53, &n.to_be_bytes())).collect();
        sent.iter().for_each(|packet| assert!(end.send(packet)));
        while worker.round() > 0 {}
        let received: Vec<_> = std::iter::from_fn(|| end.receive()).collect();
        assert_eq!(received, sent[..back], "unchanged and in order");
        assert_eq!(worker.lane().counters().forwarded.get(), back as u64);
        let wire = worker.remove("h").unwrap();
        let outstanding: usize = wire.ports.iter().map(|port| port.outstanding()).sum();
        assert_eq!(wire.pool.available() + outstanding, FRAMES as usize);
    }
}

/// Wires are added and removed under traffic, thousands of times: the one that stays loses nothing,
/// and each that leaves has all of its frames.
#[test]
fn wires_that_come_and_go_take_all_their_frames_along() {
    let lane = lane(Config::default(), Always(Verdict::Allow));
    let mut worker = Worker::new(worker::Config::default(), lane).unwrap();
    let wire = |name: &str| {
        let pool = Umem::heap(64, 2048);
        let (a, left) = MemoryPort::new(pool.umem()).unwrap();
        let (b, right) = MemoryPort::new(pool.umem()).unwrap();
        (Wire::new(name, Box::new(a), Box::new(b), pool), left, right)
    };
    let (stays, client, server) = wire("stays");
    worker.add(stays).unwrap();
    let handle = worker.handle();
    let thread = std::thread::spawn(move || worker.run());
    let packet = udp(A, 1, B, 2, b"x");
    let (begin, mut sent, mut received) = (Instant::now(), 0u64, 0u64);
    for round in 0..2000 {
        let name = format!("{}", round % 7);
        let (comes, left, right) = wire(&name);
        handle.add(comes);
        for _ in 0..5 {
            left.send(&packet);
            right.send(&packet);
            assert!(client.send(&packet));
            sent += 1;
        }
        let gone = handle.remove(&name).expect("it was there");
        let outstanding: usize = gone.ports.iter().map(|port| port.outstanding()).sum();
        assert_eq!(gone.pool.available() + outstanding, 64);
        received += std::iter::from_fn(|| server.receive()).count() as u64;
    }
    while received < sent {
        assert!(begin.elapsed() < Duration::from_secs(60), "{received} of {sent}");
        received += std::iter::from_fn(|| server.receive()).count() as u64;
    }
    handle.stop();
    let worker = thread.join().unwrap();
    assert_eq!(worker.lane().counters().dropped_total(), 0);
}
