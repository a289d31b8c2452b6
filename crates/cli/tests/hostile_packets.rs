//! Packets that nobody honest sends, through the command and two real interfaces: what arrives is exactly
//! what an engine of its own, beside, says may pass, and the command goes on. Needs CAP_NET_ADMIN; says so
//! and skips without. (Far more of them, against a slow model: `cargo fuzz run pipeline`.)

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use etherparse::PacketBuilder;
use portcullis::dataplane::pipeline::{Input, Judgement};
use portcullis::dataplane::verdict::Verdict;
use portcullis::policy::{Source, parse_cluster, parse_policies};
use portcullis::{Engine, EngineConfig};
use support::tap::{self, Tap};
use support::{CLUSTER, POLICIES, Wire, privileged};

const PACKETS: u32 = 20_000;

/// A generator of numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// An honest packet of a flow of its own, one way or another.
fn honest(n: u32, random: &mut Random) -> Vec<u8> {
    let link = || PacketBuilder::ethernet2([2; 6], [4; 6]);
    let at6 = |last: u16| std::net::Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, last).octets();
    let v4 = || link().ipv4([10, 78, 0, 1], [10, 78, 0, 2], 64);
    let v6 = || link().ipv6(at6(1), at6(2), 64);
    let from = 1024 + (n % 60_000) as u16;
    let to = [5432, 8080][random.below(2)];
    let data: Vec<u8> = (0..random.below(60)).map(|at| at as u8 ^ n as u8).collect();
    let mut frame = Vec::new();
    match random.below(8) {
        0 | 1 => v4().tcp(from, to, n, 1000).syn().write(&mut frame, &data),
        2 => v6().tcp(from, to, n, 1000).syn().write(&mut frame, &data),
        3 => v4().udp(from, to).write(&mut frame, &data),
        4 => v6().udp(from, to).write(&mut frame, &data),
        5 => v4().icmpv4_echo_request(from, n as u16).write(&mut frame, &data),
        6 => v6().icmpv6_echo_request(from, n as u16).write(&mut frame, &data),
        _ => v4().tcp(from, to, n, 1000).syn().write(&mut frame, &data),
    }
    .unwrap();
    match random.below(8) {
        // Tags.
        0 => drop(frame.splice(12..12, [0x81, 0, 0, 7])),
        1 => drop(frame.splice(12..12, [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8])),
        // Extension headers: destination options, routing, hop by hop.
        2 if frame[12..14] == [0x86, 0xdd] => {
            let first = std::mem::replace(&mut frame[20], 60);
            let more =
                [43, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, first, 0, 1, 4, 0, 0, 0, 0];
            frame.splice(54..54, more);
            let len = u16::from_be_bytes([frame[18], frame[19]]) + 24;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
        }
        // The first piece of a larger packet.
        3 if frame[12..14] == [8, 0] => {
            frame[18..20].copy_from_slice(&(n as u16).to_be_bytes());
            frame[20] |= 0x20;
        }
        _ => {}
    }
    frame
}

/// What somebody makes of it.
fn hostile(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    // From its first byte behind the addresses and the type on.
    let somewhere = |frame: &[u8], random: &mut Random| 14 + random.below(frame.len() - 14);
    match random.below(10) {
        0 => {}
        1 | 2 => frame.truncate(14 + random.below(frame.len() - 13)),
        3 | 4 => {
            let at = somewhere(&frame, random);
            frame[at] ^= 1 << random.below(8);
        }
        5 => {
            for _ in 0..1 + random.below(8) {
                let at = somewhere(&frame, random);
                frame[at] = random.next() as u8;
            }
        }
        // Lengths: of the header, of the packet, of what it carries.
        6 => {
            let at = [14, 16, 17, 18, 19, 38, 39, 46, 58][random.below(9)];
            if let Some(byte) = frame.get_mut(at) {
                *byte = [0, 1, 4, 5, 0x0f, 0x40, 0x45, 0x4f, 0x60, 0xff][random.below(10)];
            }
        }
        // Trailing bytes that the lengths do not speak of.
        7 => frame.extend((0..random.below(40)).map(|at| at as u8)),
        // Pieces that cannot be: anywhere, of any length, with any flags.
        8 if frame[12..14] == [8, 0] => {
            frame[20] = random.next() as u8;
            frame[21] = random.next() as u8;
        }
        // Chains of extension headers without end.
        8 if frame[12..14] == [0x86, 0xdd] => {
            frame.truncate(54);
            frame[20] = 60;
            for _ in 0..random.below(60) {
                frame.extend([60, 0, 1, 4, 0, 0, 0, 0]);
            }
            let len = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
        }
        _ => {
            let len = frame.len();
            frame.truncate(14);
            frame.extend((14..len).map(|_| random.next() as u8));
        }
    }
    frame
}

#[test]
fn what_arrives_is_what_may_pass_however_packets_are_made() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    // However long the machine takes, no piece waits too long.
    let settings = wire.file("run.yaml");
    std::fs::write(&settings, "packets: {tracking: {fragments: {seconds: 3600}}}\n").unwrap();
    let mut run = wire.run(&["--config", &settings]);
    run.wait_for("ready");
    let [client, server] = wire.ends();

    // The same documents, no interfaces.
    let mut config = EngineConfig::default();
    config.pipeline.fragments.timeout = 3_600_000;
    let engine = Engine::new(config).unwrap();
    let cluster = parse_cluster(&[Source::new("cluster.yaml", CLUSTER)]).unwrap().value;
    let policies = parse_policies(&[Source::new("policies.yaml", POLICIES)]).unwrap().value;
    engine.apply(cluster, policies).unwrap();
    let mut judge = engine.judge();

    let mut random = Random(0x5eed);
    let frames: Vec<Vec<u8>> =
        (0..PACKETS).map(|n| hostile(honest(n, &mut random), &mut random)).collect();
    let mut expected = BTreeMap::<Vec<u8>, i32>::new();
    let mut reasons = BTreeMap::<&str, u32>::new();
    for frame in &frames {
        let mut out = [Judgement::default()];
        judge.packets(&[Input::new(frame)], &mut out);
        if out[0].verdict == Verdict::Allow {
            *expected.entry(frame.clone()).or_default() += 1;
        }
        *reasons.entry(out[0].reason.map_or("allowed", |reason| reason.as_str())).or_default() += 1;
    }
    println!("{reasons:?}");
    assert!(reasons.len() > 12 && reasons["allowed"] > 1000, "of all sorts: {reasons:?}");

    let tap = Tap::open(server, "eth0");
    tap::pour(client, "eth0", &frames);
    for captured in tap.close().into_iter().filter(|captured| !captured.sent) {
        // Hosts say things of their own accord.
        if frames.contains(&captured.frame) {
            *expected.entry(captured.frame).or_default() -= 1;
        }
    }
    for (frame, count) in expected {
        let what = if count > 0 { "did not arrive" } else { "may not pass" };
        assert_eq!(count, 0, "{what}: {frame:02x?}");
    }
    assert!(wire.reaches("10.78.0.2:5432".parse().unwrap(), Duration::from_secs(2)), "it goes on");
    assert_eq!(run.terminate(), Some(0));
}
