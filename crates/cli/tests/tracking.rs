//! What the settings file says of connections at their edges, end to end. Needs CAP_NET_ADMIN; says so and
//! skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use support::{POLICIES, Running, Wire, privileged};

const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(3);

fn start(wire: &Wire, packets: &str) -> Running {
    let path = wire.file("run.yaml");
    std::fs::write(&path, format!("packets: {packets}\n")).unwrap();
    let mut run = wire.run(&["--config", &path]);
    run.wait_for("ready");
    run
}

fn connect(wire: &Wire) -> TcpStream {
    let mut stream = wire.connect("10.78.0.2:5432".parse().unwrap(), LONG);
    assert!(echoes(&mut stream, LONG), "a connection that is allowed");
    stream
}

fn echoes(stream: &mut TcpStream, patience: Duration) -> bool {
    let mut answer = [0; 4];
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok()
}

#[test]
fn senders_of_denied_packets_are_told_if_asked() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let [client, _] = wire.ends();
    let tcp = |server: &str, patience| {
        let server: SocketAddr = server.parse().unwrap();
        client.run(|| TcpStream::connect_timeout(&server, patience)).unwrap().map(drop)
    };
    // What comes back of a datagram: nothing in time, or an error.
    let udp = |server: &str, patience| {
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        // The second also tells of an error that the first met.
        socket.send(b"x").and_then(|_| socket.recv(&mut [0; 8])).map(drop)
    };
    let silent = |error: ErrorKind| matches!(error, ErrorKind::TimedOut | ErrorKind::WouldBlock);
    let mut run = start(&wire, "{denied: reject}");
    for server in ["10.78.0.2:8080", "[fd78::2]:8080"] {
        assert_eq!(tcp(server, LONG).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{server}");
        let error = udp(server, LONG).unwrap_err();
        assert!(!silent(error.kind()), "{server}: {error}");
    }
    assert!(wire.reaches("10.78.0.2:5432".parse().unwrap(), LONG));
    assert_eq!(run.terminate(), Some(0));

    let mut run = start(&wire, "{}");
    for server in ["10.78.0.2:8080", "[fd78::2]:8080"] {
        // A host that lost its neighbour just now has an error of its own, but not each time.
        let silence = |ask: &dyn Fn() -> ErrorKind| (0..5).any(|_| silent(ask()));
        assert!(silence(&|| tcp(server, SHORT).unwrap_err().kind()), "{server}");
        assert!(silence(&|| udp(server, SHORT).unwrap_err().kind()), "{server}");
    }
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn connections_from_before_are_picked_up_if_allowed() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = start(&wire, "{}");
    let mut stream = connect(&wire);
    assert_eq!(run.terminate(), Some(0));
    let mut run = start(&wire, "{tracking: {pick-up: true}}");
    assert!(echoes(&mut stream, LONG), "nobody saw it begin");
    assert_eq!(run.terminate(), Some(0));

    wire.write_policies(&POLICIES.replace("5432", "5433"));
    let mut run = start(&wire, "{tracking: {pick-up: true}}");
    assert!(!echoes(&mut stream, SHORT), "not what the policy denies");
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn a_policy_change_keeps_judges_or_cuts_connections() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let more = POLICIES.replace("ports: [{port: 5432}]", "ports: [{port: 5432}, {port: 1}]");
    let less = POLICIES.replace("5432", "5433");
    for (how, allowed, denied) in
        [("keep", true, true), ("rejudge", true, false), ("cut", false, false)]
    {
        for (policies, lives) in [(&more, allowed), (&less, denied)] {
            wire.write_policies(POLICIES);
            let mut run = start(&wire, &format!("{{tracking: {{on-policy-change: {how}}}}}"));
            let mut stream = connect(&wire);
            wire.write_policies(policies);
            run.wait_for("applied generation 2");
            assert_eq!(echoes(&mut stream, if lives { LONG } else { SHORT }), lives, "{how}");
            assert_eq!(run.terminate(), Some(0));
        }
    }
}

#[test]
fn a_full_table_denies_or_makes_room() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    for (how, rest) in [("deny-new", 0), ("evict-oldest", 10)] {
        let mut run = start(&wire, &format!("{{connections: 20, tracking: {{on-full: {how}}}}}"));
        let streams: Vec<TcpStream> = (0..20).map(|_| connect(&wire)).collect();
        let server = "10.78.0.2:5432".parse().unwrap();
        let patience = if rest == 0 { Duration::from_millis(100) } else { LONG };
        let reached = (0..10).filter(|_| wire.reaches(server, patience)).count();
        assert_eq!(reached, rest, "{how}");
        drop(streams);
        assert_eq!(run.terminate(), Some(0));
    }
}

#[test]
fn silence_ends_connections_when_the_settings_say() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    // Nobody may speak to the client first, so what it gets are answers.
    let to_client = "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-answers}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Ingress]}
";
    wire.write_policies(&(POLICIES.replace("5432", "5432, protocol: UDP") + to_client));
    let [client, server] = wire.ends();
    for (seconds, late) in [(1, false), (30, true)] {
        let packets = format!("{{tracking: {{timeouts: {{udp-unanswered: {seconds}}}}}}}");
        let mut run = start(&wire, &packets);
        let there = server.run(|| UdpSocket::bind("10.78.0.2:5432")).unwrap().unwrap();
        let here = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        there.set_read_timeout(Some(LONG)).unwrap();
        here.connect("10.78.0.2:5432").unwrap();
        here.send(b"question").unwrap();
        let (_, from) = there.recv_from(&mut [0; 16]).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        there.send_to(b"answer", from).unwrap();
        here.set_read_timeout(Some(if late { LONG } else { SHORT })).unwrap();
        assert_eq!(here.recv(&mut [0; 16]).is_ok(), late, "after {seconds} s");
        assert_eq!(run.terminate(), Some(0));
    }
}
