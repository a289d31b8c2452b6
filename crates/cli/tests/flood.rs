//! Floods harm who floods: while one workload opens connections that it never finishes, as fast as it
//! can, others are served, and what was open stays open. Needs CAP_NET_ADMIN; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use portcullis::dataplane::reason::Reason;
use support::tap::Flood;
use support::{CLUSTER, Running, Wire, privileged};

const SERVER: &str = "10.78.0.2:5432";

/// SYNs of a flood, at least: many times the table.
const ENOUGH: u64 = 20_000;

/// A workload that the policy allows as much as the client, and that is another.
const ATTACKER: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: attacker, labels: {app: client, mood: bad}}
status: {phase: Running, podIPs: [{ip: 10.78.0.66}, {ip: 'fd78::66'}]}
";

/// SYNs from the attacker, each from another port, half of them of either family.
fn syns() -> Vec<Vec<u8>> {
    let syn = |port: u16| {
        let build = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let build = if port.is_multiple_of(2) {
            build.ipv4([10, 78, 0, 66], [10, 78, 0, 2], 64)
        } else {
            let at = |last: u16| Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, last).octets();
            let (from, to) = (at(0x66), at(2));
            build.ipv6(from, to, 64)
        };
        let mut frame = Vec::new();
        build.tcp(port, 5432, 1, 1000).syn().write(&mut frame, &[]).unwrap();
        frame
    };
    (1024..=u16::MAX).map(syn).collect()
}

/// Starts the command with these settings.
fn start(wire: &Wire, settings: &str) -> Running {
    std::fs::write(wire.file("cluster.yaml"), CLUSTER.to_owned() + ATTACKER).unwrap();
    let path = wire.file("run.yaml");
    let control = wire.file("control.sock");
    std::fs::write(&path, format!("control: {control}\n{settings}")).unwrap();
    let mut run = wire.run(&["--config", &path]);
    run.wait_for("control socket");
    run
}

fn echoes(stream: &mut TcpStream, patience: Duration) -> bool {
    let mut answer = [0; 4];
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok()
}

fn status(wire: &Wire) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["status", "--json", "--control", &wire.file("control.sock")]);
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Packets dropped for a reason, as the status says.
fn dropped(status: &serde_json::Value, reason: Reason) -> u64 {
    let drops = status["drops"].as_array().unwrap();
    let drop = drops.iter().find(|drop| drop["reason"] == reason.as_str());
    drop.map_or(0, |drop| drop["packets"].as_u64().unwrap())
}

#[test]
fn a_flood_of_syns_harms_neither_what_is_open_nor_other_identities() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let server: SocketAddr = SERVER.parse().unwrap();
    let limits = "packets: {connections: 4096, limits: {half-open: 100, connections: 1000}}\n";
    let mut run = start(&wire, limits);
    let patience = Duration::from_secs(2);
    let mut open = wire.connect(server, patience);
    assert!(echoes(&mut open, patience));

    let flood = Flood::start(wire.ends()[0], "eth0", syns());
    let (mut echoed, mut opened) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) || flood.sent() < ENOUGH {
        assert!(began.elapsed() < Duration::from_secs(60), "{} sent", flood.sent());
        assert!(echoes(&mut open, patience), "what was open stays open: {echoed} echoes before");
        echoed += 1;
        if echoed % 10 == 0 {
            assert!(wire.reaches(server, patience), "another identity is served: {opened} before");
            opened += 1;
        }
    }
    let (sent, took) = (flood.sent(), began.elapsed());
    let found = status(&wire);
    flood.stop();
    let refused = dropped(&found, Reason::HalfOpenLimit);
    let half_open = found["connections"]["half_open"].as_u64().unwrap();
    println!(
        "{sent} SYNs in {took:?}, {refused} refused; meanwhile {echoed} echoes over what was open, \
         {opened} new connections of another identity; {half_open} half-open"
    );
    assert!(refused > ENOUGH / 2, "{sent} sent, {refused} refused");
    assert!(
        (50..=101).contains(&half_open),
        "{half_open}: the attacker's 100, perhaps one of ours"
    );
    assert!(opened > 0 && echoed > 10);
    assert_eq!(dropped(&found, Reason::TableFull), 0);
    assert!(wire.reaches("[fd78::2]:5432".parse().unwrap(), patience));
    assert_eq!(run.terminate(), Some(0));
}

/// The same without limits: the table fills, so new connections of others do suffer, which the test
/// above would see; what is open is safe all the same.
#[test]
fn without_limits_a_flood_fills_the_table_and_spares_what_is_open() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let server: SocketAddr = SERVER.parse().unwrap();
    let mut run = start(&wire, "packets: {connections: 1000}\n");
    let patience = Duration::from_secs(2);
    let mut open = wire.connect(server, patience);
    assert!(echoes(&mut open, patience));
    let flood = Flood::start(wire.ends()[0], "eth0", syns());
    let end = Instant::now() + Duration::from_secs(10);
    while dropped(&status(&wire), Reason::TableFull) == 0 {
        assert!(Instant::now() < end, "the table does not fill");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!wire.reaches(server, Duration::from_millis(300)), "no room");
    for _ in 0..10 {
        assert!(echoes(&mut open, patience), "what was open stays open");
    }
    flood.stop();
    let found = status(&wire);
    assert!(found["connections"]["now"].as_u64().unwrap() <= 1000, "{found}");
    assert_eq!(run.terminate(), Some(0));
}
