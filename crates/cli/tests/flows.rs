//! Flow records and staged policies of `portcullis run` on real packets. Needs CAP_NET_ADMIN; says so
//! and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use portcullis::flow::{Action, Event, FlowRecord};
use serde_json::Value;

use support::{POLICIES, Running, Wire, privileged};

const PATIENCE: Duration = Duration::from_millis(300);
const ALLOWED: &str = "10.78.0.2:5432";
const DENIED: &str = "10.78.0.2:8080";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output().unwrap()
}

fn status(control: &str) -> Value {
    let output = command(&["status", "--json", "--control", control]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Waits until `condition` holds of the status.
fn until(control: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let status = status(control);
        if condition(&status) {
            return status;
        }
        assert!(Instant::now() < end, "never {what}: {status:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn records(path: &str) -> Vec<FlowRecord> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| FlowRecord::parse(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

fn ready(wire: &Wire, more: &[&str]) -> (Running, String) {
    let control = wire.file("control.sock");
    let mut arguments = vec!["--control", &control];
    arguments.extend(more);
    let mut run = wire.run(&arguments);
    run.wait_for("control socket");
    (run, control)
}

#[test]
fn staged_policies_are_reported_live_and_in_records_and_change_no_packet() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let (log, staged, metrics) =
        (wire.file("flows.jsonl"), wire.file("staged.yaml"), wire.file("metrics.sock"));
    let next = POLICIES.replace("5432", "8080").replace("only-client", "next");
    std::fs::write(&staged, &next).unwrap();
    let more = ["--flow-log", &log, "--stage", &staged, "--metrics", &metrics];
    let (mut run, control) = ready(&wire, &more);
    assert!(wire.reaches(at(ALLOWED), PATIENCE), "what is in force decides");
    assert!(!wire.reaches(at(DENIED), PATIENCE));
    let status = until(&control, "both pairs", |status| {
        status["staged"]["pairs"].as_array().is_some_and(|pairs| pairs.len() == 2)
    });
    let staged_now = &status["staged"];
    assert_eq!(staged_now["policies"], 1);
    assert_eq!(staged_now["would_deny"], 1);
    assert!(staged_now["would_allow"].as_u64().unwrap() >= 1);
    let pairs = staged_now["pairs"].as_array().unwrap();
    let pair = pairs.iter().find(|pair| pair["service"] == "tcp/5432").unwrap();
    assert_eq!((&pair["verdict"], &pair["staged"]), (&"allow".into(), &"deny".into()));
    assert_eq!(pair["source"], "default/client");
    assert_eq!(pair["policy"], "NetworkPolicy/default/next");
    let text = String::from_utf8(command(&["status", "--control", &control]).stdout).unwrap();
    assert!(text.contains("staged      1 policies") && text.contains("tcp/8080"), "{text}");

    let mut stream = UnixStream::connect(&metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("portcullis_staged_differs_total{would=\"deny\"} 1"), "{text}");
    assert!(text.contains("portcullis_flow_sink_records_total{sink=\"log\",outcome=\"written\"}"));

    // A broken file leaves what is staged; one that says the same as what is in force ends the pairs.
    std::fs::write(&staged, "kind: [").unwrap();
    run.wait_for("stay staged");
    std::fs::write(&staged, POLICIES).unwrap();
    until(&control, "no pairs", |status| {
        status["staged"]["policies"] == 1
            && status["staged"]["pairs"].as_array().unwrap().is_empty()
    });
    assert_eq!(run.terminate(), Some(0));

    let records = records(&log);
    let of = |event: Event| records.iter().find(|record| record.event == event).unwrap();
    let (start, deny) = (of(Event::Start), of(Event::Deny));
    assert_eq!(
        (start.verdict, start.staged.as_ref().unwrap().verdict),
        (Action::Allow, Action::Deny)
    );
    assert_eq!(
        (deny.verdict, deny.staged.as_ref().unwrap().verdict),
        (Action::Deny, Action::Allow)
    );
    assert!(deny.staged.as_ref().unwrap().rule.as_ref().unwrap().contains("staged.yaml:"));
    let text = command(&["flows", "--staged", "--denied", &log]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("staged: allow by NetworkPolicy/default/next"), "{text}");
}

#[test]
fn a_scan_of_many_ports_is_few_records_and_every_packet_is_in_one() {
    if !privileged() {
        return;
    }
    const PORTS: u16 = 20_000;
    let wire = Wire::build();
    let log = wire.file("flows.jsonl");
    let (mut run, control) = ready(&wire, &["--flow-log", &log]);
    let [client, _] = wire.ends();
    client
        .run(|| {
            let socket = UdpSocket::bind("10.78.0.1:0").unwrap();
            for port in 1..=PORTS {
                // A queue that is full is none of the firewall's.
                let _ = socket.send_to(b"x", ("10.78.0.2", port));
            }
        })
        .unwrap();
    let dropped = |status: &Value| {
        let drops = status["drops"].as_array().unwrap();
        let drop = drops.iter().find(|drop| drop["reason"] == "policy_denied");
        drop.map_or(0, |drop| drop["packets"].as_u64().unwrap())
    };
    until(&control, "many denied", |status| dropped(status) > u64::from(PORTS) / 2);
    // Nothing comes any more.
    std::thread::sleep(Duration::from_millis(300));
    let denied = dropped(&status(&control));
    assert_eq!(run.terminate(), Some(0));
    let records = records(&log);
    let told: u64 = records.iter().map(FlowRecord::denied).sum();
    let lost = records.last().unwrap().lost;
    assert_eq!(told + lost, denied, "{} records", records.len());
    assert!(records.len() < 100, "{} records", records.len());
    let widest = records.iter().filter_map(|record| record.destination_ports.as_ref());
    assert!(widest.map(|ports| ports.high - ports.low).max().unwrap() > 1000);
}

#[test]
fn records_go_to_standard_output_rotate_and_are_chosen_by_the_settings_file() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    // What is denied only, as Hubble prints it, to standard output.
    let (mut run, _) =
        ready(&wire, &["--flow-log", "-", "--flow-format", "hubble", "--flow-records", "denied"]);
    assert!(wire.reaches(at(ALLOWED), PATIENCE));
    assert!(!wire.reaches(at(DENIED), PATIENCE));
    let line = run.wait_for("\"flow\"");
    let flow: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(flow["flow"]["verdict"], "DROPPED");
    assert_eq!(flow["flow"]["destination"]["pod_name"], "server");
    assert_eq!(flow["flow"]["l4"]["TCP"]["destination_port"], 8080);
    run.signal(nix::sys::signal::Signal::SIGTERM);
    run.wait_for("flow log: ");
    assert_eq!(run.wait(), Some(0));

    let (settings, log) = (wire.file("portcullis.yaml"), wire.file("flows.jsonl"));
    let text = "flows: {denied-seconds: 1, file: {max-bytes: 2000, keep: 1, fsync-seconds: 1},\n  \
                policies: [{policies: NetworkPolicy/default/*, records: all}], records: none}\n";
    std::fs::write(&settings, text).unwrap();
    let (mut run, control) = ready(&wire, &["--config", &settings, "--flow-log", &log]);
    for _ in 0..20 {
        assert!(wire.reaches(at(ALLOWED), PATIENCE));
    }
    until(&control, "records", |status| status["flows"]["log"]["written"].as_u64() >= Some(20));
    assert_eq!(run.terminate(), Some(0));
    let (newest, older) = (records(&log), records(&format!("{log}.1")));
    assert!(std::fs::metadata(&log).unwrap().len() <= 2000 && !older.is_empty());
    assert!(!std::path::Path::new(&format!("{log}.2")).exists());
    assert!(newest.iter().all(|record| record.policy == "NetworkPolicy/default/only-client"));
}

#[test]
fn records_of_another_version_are_refused_with_their_line() {
    let path = std::env::temp_dir().join(format!("portcullis-old-{}.jsonl", std::process::id()));
    let old = "{\"time\":\"1.0\",\"event\":\"open\",\"verdict\":\"allow\",\"protocol\":6}\n";
    std::fs::write(&path, format!("\n{{\"version\":9}}\n{old}")).unwrap();
    let name = path.to_str().unwrap();
    let cluster = ["--cluster", "/dev/null", "--policies", "/dev/null"];
    let explain = |line: u32| {
        let record = format!("{name}:{line}");
        command(&[&["explain"], &cluster[..], &["--record", &record]].concat())
    };
    for (output, expected) in [
        (command(&["recommend", "--flows", name]), ":2: a flow record of version 9"),
        (command(&["flows", name]), ":2: a flow record of version 9"),
        (explain(2), ":2: a flow record of version 9"),
        (explain(3), ":3: no version"),
    ] {
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
    std::fs::remove_file(&path).unwrap();
}
