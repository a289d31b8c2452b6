//! A full node: many wires opened and closed while others run. Takes long, so it is run by
//! `cargo test --release -p portcullis-dataplane --test many_wires -- --ignored --nocapture`, with
//! PORTCULLIS_WIRES for another number than 250. Needs CAP_NET_ADMIN; says `skipped` without.
#![cfg(feature = "xdp")]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_dataplane::frame::Batch;
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::xdp::{self, Config, Mode, ModePolicy, Opened, RingSizes};

/// Rings for a link to one pod: 512 frames of 2 KiB a queue pair make 1 MiB a wire.
fn small() -> Config {
    Config {
        mode: ModePolicy::Require(Mode::Copy),
        rings: RingSizes { rx: 128, tx: 128, fill: 128, completion: 128 },
        frames_per_queue: Some(256),
        ..Config::default()
    }
}

/// A namespace with pairs of veths, all in one place.
struct Node {
    name: String,
}

impl Node {
    fn new(wires: usize) -> Option<Self> {
        let node = Self { name: format!("pcx-many-{}", std::process::id()) };
        if !ip(&["netns", "add", &node.name]) {
            eprintln!("skipped: needs CAP_NET_ADMIN and iproute2");
            return None;
        }
        let mut commands = String::new();
        for wire in 0..wires {
            for (port, end) in [("a", "c"), ("b", "d")] {
                let queues = "numrxqueues 1 numtxqueues 1";
                commands += &format!(
                    "link add {port}{wire} {queues} type veth peer name {end}{wire} {queues}\n\
                     link set {port}{wire} up\nlink set {end}{wire} up\n"
                );
            }
        }
        let mut batch = Command::new("ip")
            .args(["-n", &node.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        batch.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(batch.wait().unwrap().success());
        Some(node)
    }

    fn enter(&self) {
        let namespace = File::open(format!("/var/run/netns/{}", self.name)).unwrap();
        // SAFETY: the descriptor is open; the test has this thread to itself.
        assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).status().is_ok_and(|status| status.success())
}

fn open(wire: usize, config: &Config) -> Opened {
    let (a, b) = (format!("a{wire}"), format!("b{wire}"));
    xdp::open(&[&a, &b], config).unwrap_or_else(|error| panic!("wire {wire}: {error}"))
}

/// One look at every port, as an idle worker takes.
fn look(wires: &mut [Opened], batch: &mut Batch) {
    for wire in wires {
        for interface in &mut wire.interfaces {
            for port in &mut interface.ports {
                port.receive(&mut wire.pool, batch);
                batch
                    .drain_front(usize::MAX)
                    .for_each(|frame| assert!(wire.pool.put(frame).is_none()));
            }
        }
    }
}

/// Memory that this process has in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "takes a minute and a thousand interfaces"]
fn a_full_node_of_wires_is_small_and_quick() {
    let count = std::env::var("PORTCULLIS_WIRES").map_or(250, |text| text.parse().unwrap());
    let Some(node) = Node::new(count) else { return };
    node.enter();
    let before = resident();
    let config = small();
    let mut wires = Vec::with_capacity(count);
    let mut added = Vec::with_capacity(count);
    for wire in 0..count {
        let start = Instant::now();
        wires.push(open(wire, &config));
        added.push(start.elapsed());
    }
    let slowest = *added.iter().max().unwrap();
    let each = (resident() - before) / count as u64;

    let mut batch = Batch::new(64);
    look(&mut wires, &mut batch);
    let start = Instant::now();
    for _ in 0..100 {
        look(&mut wires, &mut batch);
    }
    let round = start.elapsed() / 100;

    // Some go and come back while the others stay.
    let mut removed = Vec::new();
    for wire in (0..count).rev().step_by(25) {
        let start = Instant::now();
        drop(wires.swap_remove(wire));
        removed.push(start.elapsed());
        wires.push(open(wire, &config));
    }
    println!(
        "{count} wires: {} KiB each, added in {:?} (slowest {slowest:?}), removed in {:?}, \
         a look at all of them {round:?}",
        each / 1024,
        median(added.clone()),
        median(removed),
    );
    assert!(each <= 2 << 20, "{each} bytes a wire");
    assert!(median(added) <= Duration::from_millis(20));
    // Ten looks a second keep all heartbeats alive.
    assert!(round * 10 < Duration::from_millis(20), "more than 2 % of a core: {round:?}");
}
