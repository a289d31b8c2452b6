//! `portcullis run` end to end: a client and a server in namespaces of their own, the command on the
//! wire between them, real TCP connections. Needs CAP_NET_ADMIN; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{POLICIES, Wire, privileged};

const PATIENCE: Duration = Duration::from_millis(500);

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn policies_decide_follow_the_file_and_survive_a_broken_one() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = wire.run(&[]);
    let ready = run.wait_for("ready");
    assert!(ready.contains("fw0") && ready.contains("copy"), "modes are reported: {ready}");

    for server in ["10.78.0.2:5432", "[fd78::2]:5432"] {
        assert!(wire.reaches(at(server), PATIENCE), "{server} is allowed");
    }
    for server in ["10.78.0.2:8080", "[fd78::2]:8080"] {
        assert!(!wire.reaches(at(server), PATIENCE), "{server} is denied");
    }

    wire.write_policies(&POLICIES.replace("5432", "8080"));
    run.wait_for("applied generation 2");
    assert!(wire.reaches(at("10.78.0.2:8080"), PATIENCE), "now allowed");
    assert!(!wire.reaches(at("10.78.0.2:5432"), PATIENCE), "now denied");

    wire.write_policies("kind: [");
    let refusal = run.wait_for("error:");
    assert!(refusal.contains("policies.yaml:"), "the file and line are named: {refusal}");
    assert!(wire.reaches(at("10.78.0.2:8080"), PATIENCE), "the last good set stays");

    wire.write_policies(POLICIES);
    run.wait_for("applied generation 3");
    assert!(wire.reaches(at("10.78.0.2:5432"), PATIENCE), "and a good one is taken again");

    assert_eq!(run.terminate(), Some(0), "SIGTERM ends it in order");
    assert!(!wire.has_program(), "nothing stays attached");
}

#[test]
fn sighup_reads_the_files_again() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = wire.run(&[]);
    run.wait_for("ready");
    run.signal(nix::sys::signal::Signal::SIGHUP);
    run.wait_for("applied generation 2");
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn a_status_line_says_what_passes() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = wire.run(&["--status-line", "1"]);
    run.wait_for("ready");
    assert!(wire.reaches(at("10.78.0.2:5432"), PATIENCE));
    assert!(!wire.reaches(at("10.78.0.2:8080"), PATIENCE));
    let line = run.wait_for("policy_denied");
    assert!(line.starts_with("status: ") && line.contains("/s forwarded"), "{line}");
    assert!(line.contains("of 262144 connections") && line.ends_with("generation 1"), "{line}");
    run.wait_for("status: ");
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn killed_it_leaves_no_program_and_lets_nothing_pass() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = wire.run(&[]);
    run.wait_for("ready");
    assert!(wire.reaches(at("10.78.0.2:5432"), PATIENCE));
    assert!(wire.has_program());
    run.signal(nix::sys::signal::Signal::SIGKILL);
    run.wait();
    assert!(!wire.has_program(), "the link died with its process");
    // Nothing but the wire joined the two: without it they are apart.
    assert!(!wire.reaches(at("10.78.0.2:5432"), PATIENCE));
    // And the interfaces are free for the next one.
    let mut again = wire.run(&[]);
    again.wait_for("ready");
    assert!(wire.reaches(at("10.78.0.2:5432"), PATIENCE));
    assert_eq!(again.terminate(), Some(0));
}

#[test]
fn bulk_data_passes_with_offloads_as_veths_have_them() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let mut run = wire.run(&[]);
    run.wait_for("ready");
    let sent = wire.bulk(at("10.78.0.2:5432"), 16 << 20);
    assert_eq!(sent, Ok(16 << 20), "16 MiB there and back, byte for byte");
    assert_eq!(run.terminate(), Some(0));
}

#[test]
fn what_cannot_run_says_why_in_one_line() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let refused = |arguments: &[&str], expected: &[&str]| {
        let (code, error) = wire.refused(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
        for text in expected {
            assert!(error.contains(text), "{arguments:?}: {text:?} not in {error:?}");
        }
    };
    let files = wire.files();
    let (cluster, policies) = (files.0.as_str(), files.1.as_str());

    refused(
        &["--wire", "nosuch0:fw1", "--cluster", cluster, "--policies", policies],
        &["error:", "nosuch0", "ip link"],
    );
    refused(
        &["--wire", "fw0:fw1", "--cluster", "absent.yaml", "--policies", policies],
        &["error:", "absent.yaml", "No such file"],
    );
    refused(
        &[
            "--wire",
            "fw0:fw1",
            "--cluster",
            cluster,
            "--policies",
            policies,
            "--mode",
            "require-zerocopy",
        ],
        &["error:", "fw0", "zero-copy"],
    );
    refused(
        &["--wire", "fw0:fw0", "--cluster", cluster, "--policies", policies],
        &["error:", "fw0"],
    );

    let mut first = wire.run(&[]);
    first.wait_for("ready");
    refused(
        &["--wire", "fw0:fw1", "--cluster", cluster, "--policies", policies],
        &["error:", "fw0", "another"],
    );
    assert_eq!(first.terminate(), Some(0));
}

#[test]
fn without_privileges_it_says_which_are_missing() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let (code, error) = wire.refused_to_nobody();
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
    assert!(error.contains("CAP_"), "the capability is named: {error}");
}

#[test]
fn the_flow_log_names_who_policy_and_why() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let log = wire.file("flows.jsonl");
    let mut run = wire.run(&["--flow-log", &log]);
    run.wait_for("ready");
    assert!(wire.reaches(at("10.78.0.2:5432"), PATIENCE));
    assert!(!wire.reaches(at("10.78.0.2:8080"), PATIENCE));
    assert_eq!(run.terminate(), Some(0));
    let text = std::fs::read_to_string(log).unwrap();
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str, port: u16| {
        let found = records
            .iter()
            .find(|r| r["event"] == event && r["destination"]["port"] == port)
            .unwrap_or_else(|| panic!("no {event} of port {port} in {text}"));
        assert_eq!(found["policy"], "NetworkPolicy/default/only-client");
        assert_eq!(found["source"]["name"], "client");
        assert_eq!(found["destination"]["labels"]["app"], "server");
        found.clone()
    };
    assert!(of("start", 5432)["rule"].as_str().unwrap().contains("policies.yaml:"));
    assert_eq!(of("deny", 8080)["reason"], "policy_denied");
}
