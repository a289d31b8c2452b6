//! Several wires of one firewall, in network namespaces: added and removed while others carry
//! packets, interfaces that go down, come back or vanish. Needs CAP_NET_ADMIN; says so and skips
//! without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::Namespace;
use portcullis::dataplane::port::xdp::{LinkState, ProgramVerdict};
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
fn a_wire_that_is_let_go_of_can_be_added_at_once_and_so_can_others() {
    let Some(node) = Node::build(3) else { return };
    let firewall = node.start(Config::idle().with(topology(0)).with(topology(1)));
    for _ in 0..8 {
        std::thread::scope(|scope| {
            scope.spawn(|| firewall.remove_wire(&wire(1)).unwrap());
            scope.spawn(|| node.add(&firewall, 2).unwrap());
            let begin = Instant::now();
            loop {
                match node.add(&firewall, 1) {
                    Ok(()) => break,
                    // Its removal has not begun.
                    Err(Error::WireExists { .. }) => assert!(begin.elapsed().as_secs() < 5),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        assert!((0..3).all(|number| node.passes(number)));
        firewall.remove_wire(&wire(2)).unwrap();
    }
    let mut names = firewall.wire_names();
    names.sort();
    assert_eq!(names, [wire(0), wire(1)]);
}

#[test]
fn a_full_node_of_wires_runs_one_program_and_counts_apart() {
    const WIRES: usize = 250;
    let Some(node) = Node::build(0) else { return };
    for (end, host, port) in [(&node.client, 'c', 'a'), (&node.server, 's', 'b')] {
        // Nothing but what the test sends.
        let quiet = || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        end.run(quiet).unwrap().unwrap();
        let path = node.middle.path();
        let link = |n| {
            format!(
                "link add {host}{n} up type veth peer name {port}{n} netns {path}\n\
                 addr add 10.81.{n}.{} dev {host}{n}\n",
                if host == 'c' { "1/24" } else { "2/24" }
            )
        };
        end.ip_batch(&(0..WIRES).map(link).collect::<String>()).unwrap();
        let up = (0..WIRES).map(|n| format!("link set {port}{n} up\n")).collect::<String>();
        node.middle.ip_batch(&up).unwrap();
    }
    let firewall = node.start(Config::idle());
    let of_first = |ports: usize| -> BTreeSet<String> {
        let list = || Command::new("ip").args(["-o", "link"]).output();
        let said = String::from_utf8(node.middle.run(list).unwrap().unwrap().stdout).unwrap();
        let ids = said.lines().filter_map(|line| line.split("prog/xdp id ").nth(1));
        let ids: Vec<_> = ids.map(|id| id.split_whitespace().next().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), ports, "{said}");
        ids.into_iter().collect()
    };
    for n in 0..WIRES {
        let topology = Topology::wire(&format!("a{n}"), &format!("b{n}")).small();
        node.middle.run(|| firewall.add_wire(topology)).unwrap().unwrap();
        if [1, 32, 33, 64, 65, WIRES].contains(&(n + 1)) {
            assert_eq!(of_first(2 * (n + 1)).len(), 1, "after {} wires", n + 1);
        }
    }
    let client = node.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    node.client.ip_batch(&neighbours()).unwrap();
    let before = received(&firewall);
    for n in 0..WIRES {
        for _ in 0..n % 5 + 1 {
            client.send_to(b"?", format!("10.81.{n}.2:{PORT}")).unwrap();
        }
    }
    let begin = Instant::now();
    loop {
        let after = received(&firewall);
        let wrong = (0..WIRES).find(|n| after[2 * n] - before[2 * n] != (n % 5 + 1) as u64);
        match wrong {
            None => break,
            Some(n) if begin.elapsed() > Duration::from_secs(5) => {
                panic!("wire {n}: {} and {}", before[2 * n], after[2 * n]);
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }

    let names: Vec<_> = (0..WIRES).map(|n| format!("a{n}:b{n}")).collect();
    let odd: Vec<_> = names.iter().skip(1).step_by(2).map(String::as_str).collect();
    let removed = firewall.remove_wires(&[&odd[..], &["no:wire", "a1:b1"]].concat());
    assert_eq!(removed, odd);
    assert_eq!(firewall.wire_names(), names.iter().step_by(2).cloned().collect::<Vec<_>>());
    assert_eq!(of_first(WIRES).len(), 1);
    assert!(firewall.remove_wires(&odd).is_empty());
    // Those that stay count on; one that comes back begins anew.
    let after = received(&firewall);
    node.middle.run(|| firewall.add_wire(topology(1))).unwrap().unwrap();
    client.send_to(b"?", format!("10.81.1.2:{PORT}")).unwrap();
    let begin = Instant::now();
    while received(&firewall).last_chunk::<2>() != Some(&[1, 0]) {
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", received(&firewall));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(received(&firewall)[..WIRES], after);
}

/// The other ends of 250 wires, who need not be asked then.
fn neighbours() -> String {
    let entry = |n| format!("neigh replace 10.81.{n}.2 lladdr 02:00:00:00:00:02 dev c{n}\n");
    (0..250).map(entry).collect()
}

/// Packets that the programs handed to sockets, interface by interface.
fn received(firewall: &Firewall) -> Vec<u64> {
    let all = firewall.program_counters().unwrap();
    all.iter().map(|(_, of)| of.total(ProgramVerdict::ToSocket).packets).collect()
}

#[test]
fn early_drops_hold_on_wires_that_come_later_and_after_all_went() {
    let Some(node) = Node::build(2) else { return };
    let room = |ports: &mut portcullis::dataplane::port::xdp::Config| ports.early_drop_capacity = 4;
    let config = Config::idle().with(topology(0)).ports(room);
    let (firewall, other) = (node.start(config.clone()), config);
    assert!(node.passes(0));
    let clients = ["10.80.0.1/32", "10.80.1.1/32"].map(|net| net.parse().unwrap());
    let replaced = firewall.replace_early_drop(&clients).unwrap();
    assert_eq!((replaced.prefixes, replaced.added), (2, 2));
    assert!(!node.passes(0));
    node.add(&firewall, 1).unwrap();
    assert!(!node.passes(1), "a wire that comes later");
    let dropped = firewall.program_counters().unwrap();
    let of = |name: &str| {
        let found = dropped.iter().find(|(interface, _)| *interface == name).unwrap();
        found.1.total(ProgramVerdict::EarlyDropped).packets
    };
    assert!(of("a0") > 0 && of("a1") > 0);

    for number in [0, 1] {
        firewall.remove_wire(&wire(number)).unwrap();
    }
    node.add(&firewall, 1).unwrap();
    assert!(!node.passes(1), "the set is made anew");
    // Another firewall with a clone of the settings has a set of its own.
    let other = node.start(other);
    assert!(node.passes(0));
    drop(other);
    let replaced = firewall.replace_early_drop(&[]).unwrap();
    assert_eq!((replaced.prefixes, replaced.removed), (0, 2));
    assert!(node.passes(1));
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
    run.wait_for_all(["wire a2:b2: a2 is gone", "wire a2:b2 is missing"]);
    assert!(node.passes(0));
    node.server.ip("link del s2").unwrap();
    node.link(2);
    run.wait_for("wire a2:b2: added");
    assert!(node.passes(2) && node.passes(0));
    assert_eq!(run.terminate(), Some(0));
}

/// Three hosts with one link each to the middle, and a network between them.
fn three_hosts() -> Option<(Namespace, Vec<Namespace>)> {
    let namespace = || match Namespace::new() {
        Ok(namespace) => Some(namespace),
        Err(error) => {
            eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN ({error})");
            None
        }
    };
    let middle = namespace()?;
    let hosts: Vec<_> = (0..3).map(|_| namespace()).collect::<Option<_>>()?;
    for (n, host) in hosts.iter().enumerate() {
        host.join("eth0", &middle, &format!("p{n}"), 2).unwrap();
        host.ip(&format!("addr add 10.81.0.{}/24 dev eth0", n + 1)).unwrap();
    }
    Some((middle, hosts))
}

/// Whether a TCP connection from one namespace to another is made and carries data both ways.
fn talks(from: &Namespace, to: &Namespace, address: &str) -> bool {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    let address: SocketAddr = format!("{address}:7001").parse().unwrap();
    let listener = to.run(|| TcpListener::bind(address)).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let patience = Duration::from_millis(1500);
    let connected = from.run(|| TcpStream::connect_timeout(&address, patience)).unwrap();
    let Ok(mut client) = connected else { return false };
    // The end of the handshake may still be on its way.
    let begin = Instant::now();
    let mut server = loop {
        match listener.accept() {
            Ok((server, _)) => break server,
            Err(_) if begin.elapsed() > patience => return false,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    server.set_nonblocking(false).unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(patience)).unwrap();
    }
    let (data, mut there, mut back) = (vec![7; 20_000], vec![0; 20_000], [0; 4]);
    client.write_all(&data).is_ok()
        && server.read_exact(&mut there).is_ok()
        && server.write_all(b"back").is_ok()
        && client.read_exact(&mut back).is_ok()
        && there == data
}

#[test]
fn hosts_on_a_switch_find_each_other() {
    let Some((middle, hosts)) = three_hosts() else { return };
    let start = || {
        let switch = Topology::switch("lan", &["p0", "p1", "p2"]);
        let config = Config::idle().with(switch).workers(2);
        Firewall::start(config, ClusterState::default(), PolicySet::default())
    };
    let firewall = middle.run(start).unwrap().unwrap();
    for (a, b) in [(0, 1), (1, 2), (2, 0), (1, 0)] {
        assert!(talks(&hosts[a], &hosts[b], &format!("10.81.0.{}", b + 1)), "{a} to {b}");
    }
    // One that vanishes leaves the others working.
    hosts[2].ip("link del eth0").unwrap();
    let gone = firewall.port_changes().unwrap();
    assert!(gone.iter().any(|c| c.name == "p2" && c.state == LinkState::Gone), "{gone:?}");
    assert_eq!(firewall.wire_names(), ["lan"]);
    assert!(talks(&hosts[0], &hosts[1], "10.81.0.2"));
    let totals = firewall.totals();
    assert_eq!(totals.received + totals.copied, totals.forwarded + totals.dropped);
    firewall.remove_wire("lan").unwrap();
    assert!(!talks(&hosts[0], &hosts[1], "10.81.0.2"));
}

/// Macvlans in VEPA mode send everything out, also what is for each other: it comes back through a
/// hairpin, or not at all.
#[test]
fn a_hairpin_reflects_what_macvlans_send_each_other() {
    let Some((middle, hosts)) = three_hosts() else { return };
    let [outside, one, two] = &hosts[..] else { unreachable!() };
    for (name, host, address) in [("m1", one, "10.82.0.1"), ("m2", two, "10.82.0.2")] {
        let path = host.path();
        if outside
            .ip(&format!("link add link eth0 name {name} netns {path} type macvlan mode vepa"))
            .is_err()
        {
            eprintln!("skipped: this kernel has no macvlan");
            return;
        }
        host.ip(&format!("addr add {address}/24 dev {name}")).unwrap();
        host.ip(&format!("link set {name} up")).unwrap();
    }
    let start = || {
        let config = Config::idle().with(Topology::hairpin("p0"));
        Firewall::start(config, ClusterState::default(), PolicySet::default())
    };
    let firewall = middle.run(start).unwrap().unwrap();
    assert!(talks(one, two, "10.82.0.2") && talks(two, one, "10.82.0.1"));
    firewall.remove_wire("p0").unwrap();
    assert!(!talks(one, two, "10.82.0.2"), "nothing else joins them");
}
