//! Several wires of one firewall, in network namespaces: added and removed while others carry
//! packets, interfaces that go down, come back or vanish. Needs CAP_NET_ADMIN; says so and skips
//! without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::Namespace;
use portcullis::dataplane::port::xdp::LinkState;
use portcullis::identity_table::endpoint::ClusterState;
use portcullis::policy::model::PolicySet;
use portcullis::{Config, Error, Firewall, Topology};
use support::Running;

const PORT: u16 = 7000;

/// A client and a server, joined by any number of wires through a middle, each with a network.
struct Node {
    client: Namespace,
    middle: Namespace,
    server: Namespace,
}

impl Node {
    fn build(wires: u8) -> Option<Self> {
        let namespace = || match Namespace::new() {
            Ok(namespace) => Some(namespace),
            Err(error) => {
                eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN ({error})");
                None
            }
        };
        let node = Self { client: namespace()?, middle: namespace()?, server: namespace()? };
        for wire in 0..wires {
            node.link(wire);
        }
        Some(node)
    }

    fn link(&self, wire: u8) {
        self.client.join(&format!("c{wire}"), &self.middle, &format!("a{wire}"), 1).unwrap();
        self.server.join(&format!("s{wire}"), &self.middle, &format!("b{wire}"), 1).unwrap();
        self.client.ip(&format!("addr add 10.80.{wire}.1/24 dev c{wire}")).unwrap();
        self.server.ip(&format!("addr add 10.80.{wire}.2/24 dev s{wire}")).unwrap();
    }

    fn start(&self, config: Config) -> Firewall {
        let start = || Firewall::start(config, ClusterState::default(), PolicySet::default());
        self.middle.run(start).unwrap().unwrap()
    }

    fn add(&self, firewall: &Firewall, wire: u8) -> Result<(), Error> {
        self.middle.run(|| firewall.add_wire(topology(wire))).unwrap()
    }

    /// Whether a datagram passes, tried for a while: neighbours have to be asked for first.
    fn passes(&self, wire: u8) -> bool {
        let socket = self.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        let server = self.server.run(|| UdpSocket::bind(format!("10.80.{wire}.2:{PORT}")));
        let server = server.unwrap().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            // Refused while the link is down.
            let _ = socket.send_to(b"?", format!("10.80.{wire}.2:{PORT}"));
            if server.recv(&mut [0; 8]).is_ok() {
                return true;
            }
        }
        false
    }
}

fn topology(wire: u8) -> Topology {
    Topology::wire(&format!("a{wire}"), &format!("b{wire}")).small()
}

fn wire(number: u8) -> String {
    format!("a{number}:b{number}")
}

#[test]
fn wires_come_and_go_without_disturbing_the_others() {
    let Some(node) = Node::build(5) else { return };
    let firewall = node.start(Config::idle().with(topology(0)));
    assert!(node.passes(0), "the first wire works");

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = node.server.run(|| UdpSocket::bind("10.80.0.2:9000")).unwrap().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let client = node.client.run(|| UdpSocket::bind("10.80.0.1:9000")).unwrap().unwrap();
        let stopped = &stop;
        let sender = scope.spawn(move || {
            let mut sent = 0u64;
            let begin = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                client.send_to(&sent.to_ne_bytes(), "10.80.0.2:9000").unwrap();
                sent += 1;
                // Five thousand a second.
                let due = Duration::from_micros(200 * sent);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
            sent
        });
        let receiver = scope.spawn(move || {
            let (mut received, mut bytes) = (0u64, [0; 8]);
            while server.recv(&mut bytes).is_ok() {
                assert_eq!(u64::from_ne_bytes(bytes), received, "in order, none missing");
                received += 1;
            }
            received
        });
        for _ in 0..4 {
            for number in 1..5 {
                node.add(&firewall, number).unwrap();
            }
            assert!(node.passes(3));
            for number in [2, 4, 1, 3] {
                firewall.remove_wire(&wire(number)).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let (sent, received) = (sender.join().unwrap(), receiver.join().unwrap());
        assert!(sent > 500, "{sent}");
        assert_eq!(sent, received, "sent and received");
    });
    assert_eq!(firewall.wire_names(), [wire(0)]);
    assert!(!node.passes(3), "a wire that was removed carries nothing");
}

#[test]
fn interfaces_go_down_come_back_and_vanish_wire_by_wire() {
    let Some(node) = Node::build(2) else { return };
    let firewall = node.start(Config::idle().with(topology(0)).with(topology(1)).workers(2));
    assert!(node.passes(0) && node.passes(1));
    // The kernel takes up to a second to say that an interface runs.
    let becomes = |name: &str, state: LinkState| {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            let changes = firewall.port_changes().unwrap();
            let it = changes.iter().find(|change| change.name == name && change.state == state);
            if let Some(it) = it {
                assert_eq!(it.wire, wire(1));
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    };
    std::thread::sleep(Duration::from_millis(1200));
    firewall.port_changes().unwrap();
    assert_eq!(firewall.port_changes().unwrap(), []);

    node.middle.ip("link set a1 down").unwrap();
    assert!(becomes("a1", LinkState::Down));
    assert!(node.passes(0), "the other wire is untouched");
    node.middle.ip("link set a1 up").unwrap();
    assert!(becomes("a1", LinkState::Up));
    assert!(node.passes(1), "it comes back by itself");

    node.middle.ip("link del a1").unwrap();
    assert!(becomes("a1", LinkState::Gone));
    assert_eq!(firewall.wire_names(), [wire(0)], "what is gone is removed");
    node.server.ip("link del s1").unwrap();
    node.link(1);
    node.add(&firewall, 1).unwrap();
    assert!(node.passes(1) && node.passes(0), "and can be added again");

    // Also when nobody asked what changed.
    node.middle.ip("link del a1").unwrap();
    node.server.ip("link del s1").unwrap();
    node.link(1);
    node.add(&firewall, 1).unwrap();
    assert!(node.passes(1));
    assert_eq!(firewall.wire_names(), [wire(0), wire(1)]);
}

#[test]
fn what_cannot_be_added_or_removed_says_why() {
    let Some(node) = Node::build(2) else { return };
    let firewall = node.start(Config::idle().with(topology(0)));
    let refused =
        |wire: Topology| node.middle.run(|| firewall.add_wire(wire)).unwrap().unwrap_err();
    let same = refused(topology(0));
    assert!(matches!(&same, Error::WireExists { name } if *name == wire(0)), "{same}");
    let taken = refused(Topology::wire("a1", "b0"));
    assert!(matches!(&taken, Error::InterfaceInUse { interface, .. } if interface == "b0"));
    assert_eq!(taken.to_string(), "error: interface b0: belongs to wire a0:b0; remove that first");
    let absent = refused(Topology::wire("a1", "nosuch"));
    assert!(matches!(&absent, Error::Port(_)), "{absent}");
    let unknown = firewall.remove_wire("a1:b1").unwrap_err();
    assert_eq!(unknown.to_string(), "error: no wire a1:b1; there are a0:b0");
    // Whatever was refused left nothing behind.
    node.add(&firewall, 1).unwrap();
    assert!(node.passes(0) && node.passes(1));
}

/// A folder with documents and settings for the command; removed with the value.
struct Files(std::path::PathBuf);

impl Files {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("portcullis-wires-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = Self(folder);
        files.write("cluster.yaml", support::CLUSTER);
        files.write("policies.yaml", support::POLICIES);
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    /// Replaces a file as an editor does.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(".new"), text).unwrap();
        std::fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    fn settings(&self, wires: &str) {
        let rest =
            "cluster: cluster.yaml\npolicies: [policies.yaml]\ncontrol: c.sock\nworkers: 2\n";
        self.write("settings.yaml", &format!("wires: {wires}\n{rest}"));
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn run_follows_the_wires_of_its_file_and_interfaces_that_come_and_go() {
    let Some(node) = Node::build(3) else { return };
    let files = Files::new();
    files.settings("[a0:b0, a1:b1]");
    let binary = env!("CARGO_BIN_EXE_portcullis");
    let spawn = || {
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(files.path("settings.yaml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let mut run = Running::follow(node.middle.run(spawn).unwrap().unwrap());
    let ready = run.wait_for("ready");
    for port in ["a0 ", "b0 ", "a1 ", "b1 "] {
        assert!(ready.contains(port), "{port} is missing: {ready}");
    }
    assert!(node.passes(0) && node.passes(1) && !node.passes(2));

    files.settings("[a0:b0, a2:b2]");
    run.wait_for("wire a1:b1: removed");
    run.wait_for("wire a2:b2: added: a2 native copy");
    assert!(node.passes(0) && node.passes(2) && !node.passes(1));

    let mut status = Command::new(binary);
    let status = status.arg("status").arg("--control").arg(files.path("c.sock")).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("wire a0:b0\n") && status.contains("wire a2:b2\n"), "{status}");
    assert!(!status.contains("a1:b1\n"), "{status}");

    files.settings("[a0:b0, a2:b2, broken]");
    run.wait_for("two interfaces");
    run.wait_for("the wires stay as they are");
    files.settings("[a0:b0, a2:b2]");

    node.middle.ip("link del a2").unwrap();
    run.wait_for("wire a2:b2: a2 is gone");
    run.wait_for("wire a2:b2 is missing");
    assert!(node.passes(0));
    node.server.ip("link del s2").unwrap();
    node.link(2);
    run.wait_for("wire a2:b2: added");
    assert!(node.passes(2) && node.passes(0));
    assert_eq!(run.terminate(), Some(0));
}
