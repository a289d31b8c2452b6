//! `portcullis run` with a mirror port, rates, zones and rejections, on real packets. Needs CAP_NET_ADMIN; says so
//! and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use lab::Namespace;
use support::tap::{self, Captured, Tap};
use support::{CLUSTER, POLICIES, Wire, privileged};

const PATIENCE: Duration = Duration::from_millis(300);
const ALLOWED: &str = "10.78.0.2:5432";
const DENIED: &str = "10.78.0.2:8080";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// Starts the command with a settings file.
fn run(wire: &Wire, settings: &str) -> support::Running {
    let path = wire.file("run.yaml");
    std::fs::write(&path, settings).unwrap();
    let mut run = wire.run(&["--config", &path]);
    run.wait_for("ready");
    run
}

/// A third interface of the firewall, with a monitor at its other end.
fn monitor(wire: &Wire) -> Namespace {
    let monitor = Namespace::new().unwrap();
    monitor.join("eth0", wire.middle(), "fw2", 2).unwrap();
    monitor
}

#[test]
fn copies_of_denied_packets_arrive_at_the_monitor_bit_by_bit() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let monitor = monitor(&wire);
    let mut run = run(&wire, "packets: {mirror: {to: fw2, verdicts: [deny]}}\n");
    let taps = [Tap::open(wire.ends()[0], "eth0"), Tap::open(&monitor, "eth0")];
    assert!(wire.reaches(at(ALLOWED), PATIENCE));
    assert!(!wire.reaches(at(DENIED), PATIENCE));
    let [sent, copies] = taps.map(Tap::close);
    let to_denied = |frame: &&Captured| {
        let tcp = frame.frame.get(23) == Some(&6) && frame.frame[12..14] == [8, 0];
        tcp && frame.frame[36..38] == 8080u16.to_be_bytes()
    };
    let syns: Vec<_> = sent.iter().filter(|frame| frame.sent).filter(to_denied).collect();
    let copied: Vec<_> = copies.iter().filter(|frame| !frame.sent).filter(to_denied).collect();
    assert!(!syns.is_empty() && syns.len() == copied.len(), "{} {}", syns.len(), copied.len());
    // What is dropped has no checksum completed: it is as the sender left it.
    assert!(syns.iter().zip(&copied).all(|(sent, copy)| sent.frame == copy.frame));
    let tcp = |frame: &Captured| frame.frame[12..14] == [8, 0] && frame.frame[23] == 6;
    let others = copies.iter().filter(|frame| !frame.sent && tcp(frame) && !to_denied(frame));
    assert_eq!(others.count(), 0, "what is allowed was not asked for");
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn a_mirror_port_that_cannot_be_is_refused() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let _monitor = monitor(&wire);
    let (cluster, policies) = wire.files();
    let refused = |to: &str, more: &[&str], words: &[&str]| {
        let path = wire.file("run.yaml");
        std::fs::write(&path, format!("packets: {{mirror: {{to: {to}}}}}\n")).unwrap();
        let files = ["--wire", "fw0:fw1", "--cluster", &cluster, "--policies", &policies];
        let (code, error) = wire.refused(&[&files[..], &["--config", &path], more].concat());
        assert_eq!(code, Some(2), "{error}");
        for word in words {
            assert!(error.contains(word), "{to}: {word:?} not in {error:?}");
        }
        assert!(!wire.has_program());
    };
    refused("fw1", &[], &["fw1", "where they go"]);
    refused("nope", &[], &["nope", "no such interface"]);
    refused("fw2", &["--workers", "3"], &["fw2", "3 queues to send from, and it has 2"]);
}

#[test]
fn rates_of_rules_hold_and_misspelt_ones_are_told() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let both = "ports: [{port: 5432}, {port: 8080, protocol: UDP}]";
    wire.write_policies(&POLICIES.replace("ports: [{port: 5432}]", both));
    let path = wire.file("run.yaml");
    std::fs::write(
        &path,
        "packets:\n  rates:\n    rules:\n    - {policy: NetworkPolicy/default/only-client, \
         direction: ingress, packets-per-second: 100, burst: 50}\n    - {policy: \
         NetworkPolicy/default/only-cleint, packets-per-second: 1}\n",
    )
    .unwrap();
    let mut run = wire.run(&["--config", &path]);
    run.wait_for_all(["no rule loaded is NetworkPolicy/default/only-cleint", "control socket"]);
    // Two thousand packets a second there, and those that pass back: of all of them, 50 and 100 a second,
    // however long the machine takes for it.
    let began = Instant::now();
    let stream = wire.udp_stream(8080, Duration::from_micros(500));
    std::thread::sleep(Duration::from_secs(2));
    let (sent, lost) = stream.finish();
    let (echoed, most) = (sent - lost, 50.0 + 100.0 * began.elapsed().as_secs_f64());
    assert!(sent > 1000, "{sent}");
    assert!(
        echoed * 2 <= most as u64,
        "{echoed} echoes of {sent} packets: more than {most} passed"
    );
    assert!(echoed >= 10, "{echoed} echoes of {sent} packets: some pass at once");
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn whoever_is_denied_is_told_at_once_if_the_settings_say_so() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = run(&wire, "packets: {denied: reject}\n");
    assert!(wire.reaches(at(ALLOWED), PATIENCE));
    // The kernel believes a reset only if its numbers are right.
    let connect = || TcpStream::connect_timeout(&at(DENIED), Duration::from_secs(5));
    let refused = wire.ends()[0].run(connect).unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    assert_eq!(run.terminate(), Some(0));
}

/// Two tenants with the same addresses: what one may, the other may not.
#[test]
fn tenants_in_tunnels_have_policies_of_their_own() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let write = |name: &str, text: &str| std::fs::write(wire.file(name), text).unwrap();
    write("tenant.yaml", CLUSTER);
    write("tenant-policies.yaml", &POLICIES.replace("5432", "9090"));
    let mut run = run(
        &wire,
        "packets:\n  tunnels:\n  - {kind: vxlan, vni: 10}\n  - {kind: vxlan, vni: 11, zone: 1}\n\
         zones:\n- {number: 1, cluster: tenant.yaml, policies: [tenant-policies.yaml]}\n\
         flow-log: flows.jsonl\n",
    );
    let packet = |vni: u32, port: u16| {
        let (client, server) = ([10, 78, 0, 1], [10, 78, 0, 2]);
        let mut inner = Vec::new();
        let build = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(client, server, 64);
        build.tcp(40_000 + port, port, 1, 1000).syn().write(&mut inner, &[]).unwrap();
        let payload = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), &inner].concat();
        let mut outer = Vec::new();
        let build = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let build = build.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(5000, 4789);
        build.write(&mut outer, &payload).unwrap();
        outer
    };
    let arrived = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let [client, server] = wire.ends();
        let tap = Tap::open(server, "eth0");
        tap::send(client, "eth0", frames);
        let ours = |frame: &Captured| !frame.sent && frames.contains(&frame.frame);
        tap.close().into_iter().filter(ours).map(|frame| frame.frame).collect()
    };
    let all = [packet(10, 5432), packet(10, 9090), packet(11, 5432), packet(11, 9090)];
    assert_eq!(arrived(&all), [packet(10, 5432), packet(11, 9090)]);

    // The tenant's documents are followed too.
    let new = wire.file(".tenant");
    std::fs::write(&new, POLICIES).unwrap();
    std::fs::rename(new, wire.file("tenant-policies.yaml")).unwrap();
    run.wait_for("zone 1: applied generation 2");
    assert_eq!(arrived(&all), [packet(10, 5432), packet(11, 5432)]);
    assert_eq!(run.terminate(), Some(0));

    let log = std::fs::read_to_string(wire.file("flows.jsonl")).unwrap();
    let named = |line: &&str| line.contains("\"zone\":1") && line.contains("\"name\":\"client\"");
    assert!(log.lines().any(|line| named(&line)), "records name the tenant's pods: {log}");
}
