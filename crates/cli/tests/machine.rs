//! What `portcullis run` asks of the machine: CPUs, memory, busy polling, pinned programs, prefixes
//! dropped in the kernel. Needs CAP_NET_ADMIN; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::pins::Pins;
use support::{POLICIES, Wire, privileged};

const PATIENCE: Duration = Duration::from_millis(500);
const SERVER: &str = "10.78.0.2:5432";
const SERVER_V6: &str = "[fd78::2]:5432";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// Replaces a file as an editor does.
fn write(wire: &Wire, name: &str, text: &str) -> String {
    let (new, path) = (wire.file(".new"), wire.file(name));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, &path).unwrap();
    path
}

#[test]
fn workers_stay_on_their_cpus_poll_and_say_where_their_memory_is() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let cpus = allowed(std::process::id(), std::process::id());
    let last = *cpus.last().unwrap();
    let list = format!("{last},{}", cpus[0]);
    let more = ["--workers", "2", "--cpus", &list, "--huge-pages", "prefer", "--numa", "0"];
    let mut run = wire.run(&[&more[..], &["--busy-poll", "20"]].concat());
    run.wait_for("ready");
    let machine = run.wait_for("machine:");
    for words in [
        &format!("workers on CPU {last}, {}, nice -20;", cpus[0])[..],
        "packet memory",
        "NUMA node",
        "busy polling 20 us",
    ] {
        assert!(machine.contains(words), "{words:?}: {machine}");
    }
    // Huge pages are there or it says why not.
    assert!(machine.contains("in huge pages") || machine.contains("vm.nr_hugepages"), "{machine}");
    assert_eq!(worker_cpus(run.id()), [vec![cpus[0]], vec![last]]);
    for server in [SERVER, SERVER_V6] {
        assert!(wire.reaches(at(server), PATIENCE), "{server}");
    }
    assert_eq!(wire.bulk(at(SERVER), 1 << 20), Ok(1 << 20));
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn what_the_machine_does_not_have_is_refused_in_one_line() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let (cluster, policies) = wire.files();
    let refused = |more: &[&str], words: &[&str]| {
        let files = ["--wire", "fw0:fw1", "--cluster", &cluster, "--policies", &policies];
        let (code, error) = wire.refused(&[&files[..], more].concat());
        assert_eq!(code, Some(2), "{more:?}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
        for words in words {
            assert!(error.contains(words), "{more:?}: {words:?} not in {error:?}");
        }
        assert!(!wire.has_program(), "{more:?} leaves a program");
    };
    refused(&["--cpus", "1000"], &["CPU 1000", "this process may use "]);
    refused(&["--numa", "999"], &["NUMA node 999", "this machine has 0"]);
    refused(&["--huge-pages", "sometimes"], &["never, prefer or require"]);
    let feed = wire.file("feed.txt");
    refused(&["--early-drop", &feed], &["feed.txt", "No such file"]);
    write(&wire, "feed.txt", "10.0.0.0/8\nnonsense\n");
    refused(&["--early-drop", &feed], &["feed.txt:2:1: error", "nonsense"]);
    refused(&["--pins", "/proc/nowhere"], &["/proc/nowhere", "mount -t bpf"]);
}

#[test]
fn prefixes_of_a_file_are_dropped_in_the_kernel_and_follow_it() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let feed = write(&wire, "feed.txt", "# nobody yet\n192.0.2.0/24\n");
    let mut run = wire.run(&["--early-drop", &feed]);
    run.wait_for("early drop: 1 prefixes");
    run.wait_for("ready");
    assert!(wire.reaches(at(SERVER), PATIENCE) && wire.reaches(at(SERVER_V6), PATIENCE));

    write(&wire, "feed.txt", "192.0.2.0/24\n10.78.0.1\n");
    run.wait_for("early drop: 2 prefixes, 1 new, 0 gone");
    assert!(!wire.reaches(at(SERVER), PATIENCE), "its source is in the set");
    assert!(wire.reaches(at(SERVER_V6), PATIENCE), "this one is not");

    write(&wire, "feed.txt", "10.78.0.1\nfd78::/64/1\n");
    run.wait_for("feed.txt:2:1: error");
    run.wait_for("2 early-drop prefixes stay in force");
    assert!(!wire.reaches(at(SERVER), PATIENCE));

    write(&wire, "feed.txt", "fd78::/64\n");
    run.wait_for("early drop: 1 prefixes, 1 new, 2 gone");
    assert!(wire.reaches(at(SERVER), PATIENCE));
    assert!(!wire.reaches(at(SERVER_V6), PATIENCE));
    assert_eq!(run.terminate(), Some(0));
}

/// With failure mode open and pinned programs, a restart lets packets pass all the time: who stops
/// hands over what it has, and until its successor is there the bypass carries packets.
#[test]
fn a_restart_over_pins_loses_nothing_and_a_death_little() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let Some(pins) = Pins::mount() else { return };
    let both = "ports: [{port: 5432}, {port: 8080, protocol: UDP}]";
    wire.write_policies(&POLICIES.replace("ports: [{port: 5432}]", both));
    let more = ["--fail", "open", "--pins", pins.folder()];
    let mut run = wire.run(&more);
    run.wait_for("ready");
    assert!(run.wait_for("machine:").contains("programs pinned at"));
    assert!(wire.reaches(at(SERVER), PATIENCE));

    // What docs/failure-modes.md says: none in order, and on a death those of the time that the
    // kernel takes to let go of the sockets.
    for (end, documented) in [(Signal::SIGTERM, 2), (Signal::SIGTERM, 2), (Signal::SIGKILL, 500)] {
        let echo = wire.udp_stream(8080, Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(300));
        run.signal(end);
        run.wait();
        assert!(wire.has_program(), "the programs outlive the process");
        std::thread::sleep(Duration::from_millis(200));
        run = wire.run(&more);
        run.wait_for("ready");
        std::thread::sleep(Duration::from_millis(300));
        let (sent, lost) = echo.finish();
        println!("{end}: {sent} packets sent one a millisecond, {lost} without an echo");
        assert!(sent > 300, "{sent}");
        assert!(lost <= documented, "{end}: {lost} of {sent} lost");
    }

    assert_eq!(run.terminate(), Some(0));
    assert!(wire.has_program());
    drop(pins);
    let end = Instant::now() + Duration::from_secs(5);
    while wire.has_program() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!wire.has_program(), "without its pins the program goes");
}

/// The CPUs on which a task may run.
fn allowed(process: u32, task: u32) -> Vec<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/task/{task}/status")).unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse::<usize>().unwrap()..=last.parse().unwrap());
    }
    all
}

/// The CPUs of each thread that is a worker, in order.
fn worker_cpus(process: u32) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let task = task.unwrap();
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
        let number: u32 = task.file_name().to_str().unwrap().parse().unwrap();
        // The first thread has the command's name, which is the same.
        if name.trim() == "portcullis" && number != process {
            all.push(allowed(process, number));
        }
    }
    all.retain(|cpus| cpus.len() == 1);
    all.sort();
    all
}
