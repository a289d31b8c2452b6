//! `portcullis run` stopped dead or dying: within one second what the failure mode says holds, with a kernel
//! bridge beneath the wire and without. Needs CAP_NET_ADMIN; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::pins::Pins;
use support::{Wire, privileged};

/// What no firewall lets pass: the policy allows another port.
const DENIED: &str = "10.78.0.2:8080";
const ALLOWED: &str = "10.78.0.2:5432";

fn reaches(wire: &Wire, server: &str, patience: u64) -> bool {
    wire.reaches(server.parse::<SocketAddr>().unwrap(), Duration::from_millis(patience))
}

/// Open: everything passes, also what the policy denies, for nobody judges. Closed: nothing does.
fn check(wire: &Wire, failure: &str, what: &str) {
    let end = Instant::now() + Duration::from_secs(1);
    if failure == "open" {
        // The last try begins when the second is over, also where the machine stood still meanwhile.
        let passes = loop {
            let last = Instant::now() >= end;
            let passes = reaches(wire, DENIED, 100);
            if passes || last {
                break passes;
            }
        };
        assert!(passes, "{what}: not open within a second");
        assert!(reaches(wire, ALLOWED, 500), "{what}");
    } else {
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        for server in [ALLOWED, DENIED] {
            assert!(!reaches(wire, server, 300), "{what}: {server} passes though closed");
        }
    }
}

fn fails(failure: &str, bridge: bool) {
    if !privileged() {
        return;
    }
    let Some(pins) = Pins::mount() else { return };
    let wire = Wire::build();
    if bridge {
        wire.middle().ip("link add br0 type bridge").unwrap();
        for port in ["fw0", "fw1"] {
            wire.middle().ip(&format!("link set {port} master br0")).unwrap();
        }
        wire.middle().ip("link set br0 up").unwrap();
    }
    let more = ["--fail", failure, "--pins", pins.folder()];
    let start = || {
        let mut run = wire.run(&more);
        run.wait_for("ready");
        assert!(reaches(&wire, ALLOWED, 2000), "it forwards");
        assert!(!reaches(&wire, DENIED, 300), "and judges");
        run
    };
    let mut run = start();
    run.signal(Signal::SIGSTOP);
    check(&wire, failure, "stalled");
    run.signal(Signal::SIGCONT);
    let end = Instant::now() + Duration::from_secs(5);
    while !reaches(&wire, ALLOWED, 300) || reaches(&wire, DENIED, 300) {
        assert!(Instant::now() < end, "it does not forward and judge again");
    }

    run.signal(Signal::SIGKILL);
    run.wait();
    check(&wire, failure, "dead");
    let mut run = start();
    assert_eq!(run.terminate(), Some(0));
    check(&wire, failure, "ended");
}

#[test]
fn closed_over_a_bridge() {
    fails("closed", true);
}

#[test]
fn closed_over_nothing() {
    fails("closed", false);
}

#[test]
fn open_over_a_bridge() {
    fails("open", true);
}

#[test]
fn open_over_nothing() {
    fails("open", false);
}
