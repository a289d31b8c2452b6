//! `status`, `capture`, `top` and metrics on a running firewall, and clients of all sorts at its
//! sockets. Needs CAP_NET_ADMIN; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)]
mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

use support::{Running, Wire, privileged};

const PATIENCE: Duration = Duration::from_millis(300);
const ALLOWED: &str = "10.78.0.2:5432";
const DENIED: &str = "10.78.0.2:8080";

/// What the kernel counts of each AF_XDP socket (`struct xdp_statistics`).
const XDP_STATISTICS: [&str; 6] = [
    "rx_dropped",
    "rx_invalid_descs",
    "tx_invalid_descs",
    "rx_ring_full",
    "rx_fill_ring_empty_descs",
    "tx_ring_empty_descs",
];

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// A firewall that runs, with sockets of its own.
struct Stand {
    wire: Wire,
    run: Running,
    control: String,
    metrics: String,
}

impl Stand {
    fn start() -> Self {
        let wire = Wire::build();
        let (control, metrics) = (wire.file("control.sock"), wire.file("metrics.sock"));
        let mut run = wire.run(&["--control", &control, "--metrics", &metrics]);
        run.wait_for("control socket");
        Self { wire, run, control, metrics }
    }

    fn command(&self, arguments: &[&str]) -> Output {
        self.build(arguments).output().unwrap()
    }

    fn build(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).args(["--control", &self.control]);
        command
    }

    fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Waits until `condition` holds of the status.
    fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < end, "never {what}: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A request over HTTP; all of the answer.
    fn http(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.metrics).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Starts a capture and waits until it runs.
    fn capture(&self, arguments: &[&str]) -> Child {
        self.begin(self.build(&["capture"]).args(arguments).stdout(Stdio::null()))
    }

    /// Starts a command that says how to end it, and waits until it has said so.
    fn begin(&self, command: &mut Command) -> Child {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut seen = Vec::new();
        let stderr = child.stderr.as_mut().unwrap();
        while !seen.ends_with(b"ends it\n") {
            let mut byte = [0];
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        child
    }
}

/// What a captured file holds: interface, comment, bytes of each packet.
fn packets(path: &str) -> Vec<(String, String, Vec<u8>)> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let (mut names, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(block) => names.push(format!("{:?}", block.options)),
            Block::EnhancedPacket(block) => {
                let comment = format!("{:?}", block.options);
                let name = names[block.interface_id as usize].clone();
                packets.push((name, comment, block.data.into_owned()));
            }
            other => panic!("{other:?}"),
        }
    }
    packets
}

#[test]
fn status_says_what_is_in_force_and_what_was_dropped() {
    if !privileged() {
        return;
    }
    let mut stand = Stand::start();
    assert!(stand.wire.reaches(at(ALLOWED), PATIENCE) && !stand.wire.reaches(at(DENIED), PATIENCE));
    let status = stand.status();
    assert_eq!(status["policy"]["generation"], 1);
    assert_eq!(status["policy"]["endpoints"], 2);
    assert_eq!(status["ports"][0]["name"], "fw0");
    assert_eq!(status["ports"][1]["queues"].as_array().unwrap().len(), 2);
    let number = |path: &str| status.pointer(path).unwrap().as_u64().unwrap();
    assert!(number("/connections/opened") >= 1 && number("/packets/received_bytes") > 500);
    let denied =
        status["drops"].as_array().unwrap().iter().find(|d| d["reason"] == "policy_denied");
    assert!(denied.unwrap()["bytes"].as_u64().unwrap() >= 54);
    let sum = number("/packets/forwarded") + number("/packets/dropped");
    assert_eq!(number("/packets/received"), sum);

    for port in status["ports"].as_array().unwrap() {
        for queue in port["queues"].as_array().unwrap() {
            for statistic in XDP_STATISTICS {
                assert!(queue[statistic].is_u64(), "{statistic}: {queue}");
            }
        }
    }

    let text = String::from_utf8(stand.command(&["status"]).stdout).unwrap();
    for expected in
        ["generation 1", "fw0: ", "rx_fill_ring_empty_descs", "policy_denied", "half-open"]
    {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    let top = String::from_utf8(stand.command(&["top", "--once"]).stdout).unwrap();
    assert!(top.contains("default/client") && top.contains("tcp/8080"), "{top}");
    assert!(!top.contains('\x1b'), "no colours but on terminals");

    stand.wire.write_policies("kind: [");
    stand.run.wait_for("error:");
    let output = stand.command(&["status"]);
    assert_eq!(output.status.code(), Some(1), "refused documents are a finding");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("last good set stays") && text.contains("policies.yaml:"), "{text}");
    assert_eq!(stand.run.terminate(), Some(0));
    let gone = stand.command(&["status"]);
    assert_eq!(gone.status.code(), Some(2));
    let error = String::from_utf8(gone.stderr).unwrap();
    assert!(error.contains("no firewall runs") && error.lines().count() == 1, "{error}");
}

#[test]
fn the_socket_is_private_and_passes_from_the_dead_to_the_living() {
    if !privileged() {
        return;
    }
    let mut stand = Stand::start();
    for socket in [&stand.control, &stand.metrics] {
        assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // A second firewall, elsewhere, does not take the socket of one that lives.
    let other = Wire::build();
    let (cluster, policies) = other.files();
    let arguments = [
        "--wire",
        "fw0:fw1",
        "--cluster",
        &cluster,
        "--policies",
        &policies,
        "--control",
        &stand.control,
    ];
    let (code, error) = other.refused(&arguments);
    assert_eq!(code, Some(2));
    assert!(error.contains("another running firewall"), "{error}");
    stand.run.signal(Signal::SIGKILL);
    stand.run.wait();
    assert!(std::path::Path::new(&stand.control).exists());
    let mut again = other.run(&["--control", &stand.control]);
    again.wait_for("control socket");
    assert_eq!(stand.status()["name"], "fw0:fw1");
    assert_eq!(again.terminate(), Some(0));
    assert!(!std::path::Path::new(&stand.control).exists(), "it is removed in the end");
}

#[test]
fn hostile_clients_are_bounded_and_counted_and_packets_flow() {
    if !privileged() {
        return;
    }
    let mut stand = Stand::start();
    // Answers enough to fill every buffer, never read; and a line that never ends.
    let mut deaf = stand.connect();
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    let requests = "{\"v\":1,\"op\":\"status\"}\n".repeat(2000);
    let _ = deaf.write_all(requests.as_bytes());
    let mut partial = stand.connect();
    partial.write_all(b"{\"v\":1,\"op\"").unwrap();
    let began = Instant::now();

    let mut long = stand.connect();
    long.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = long.write_all(&[b'x'; 256 * 1024]);
    stand.until("sent away for a long line", |s| s["control"]["too_long"] == 1);

    let mut garbage = stand.connect();
    for line in [
        "",
        "{}",
        "\u{0}",
        "{\"v\":1,\"op\":\"halt\"}",
        "{\"v\":1,\"op\":\"capture\",\"snaplen\":1}",
    ] {
        garbage.write_all(line.as_bytes()).unwrap();
        garbage.write_all(b"\n").unwrap();
    }
    garbage.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    garbage.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("\"error\"").count(), 5, "{answers}");

    // More than may be: those beyond are closed at once, the others are served.
    let crowd: Vec<UnixStream> = (0..40).map(|_| stand.connect()).collect();
    assert!(stand.wire.reaches(at(ALLOWED), PATIENCE), "packets flow meanwhile");
    std::thread::sleep(Duration::from_millis(300));
    drop(crowd);
    let status = stand.until("too many", |s| s["control"]["too_many"].as_u64() >= Some(20));
    assert!(status["control"]["now"].as_u64() <= Some(16));

    stand.until("sent away for slowness", |s| s["control"]["too_slow"] == 2);
    assert!(began.elapsed() > Duration::from_secs(8));
    assert!(stand.wire.reaches(at(ALLOWED), PATIENCE));
    let bulk = stand.wire.bulk(at(ALLOWED), 1 << 20);
    assert_eq!(bulk, Ok(1 << 20));
    assert_eq!(stand.run.terminate(), Some(0));
}

#[test]
fn metrics_are_served_over_http() {
    if !privileged() {
        return;
    }
    let mut stand = Stand::start();
    assert!(stand.wire.reaches(at(ALLOWED), PATIENCE));
    let answer = stand.http("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("openmetrics-text"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    assert!(body.contains("portcullis_policy_generation 1") && body.ends_with("# EOF\n"));
    for (statistic, port) in XDP_STATISTICS.iter().flat_map(|s| [(s, "fw0"), (s, "fw1")]) {
        for queue in ["0", "1"] {
            let series = format!(
                "portcullis_xdp_statistics_total{{interface=\"{port}\",queue=\"{queue}\",statistic=\"{statistic}\"}} "
            );
            assert!(body.contains(&series), "{series}: {body}");
        }
    }
    let rule = "portcullis_rule_packets_total{policy=\"NetworkPolicy/default/only-client\"";
    assert!(body.contains(rule), "{body}");
    let head = stand.http("HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.ends_with("\r\n\r\n"));
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("\u{1}\u{2}\r\n\r\n", "400"),
        ("GET /metrics HTTP/9.9\r\n\r\n", "400"),
    ] {
        let answer = stand.http(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{request:?}: {answer}");
    }
    let headers = "A: b\r\n".repeat(1000);
    assert!(stand.http(&format!("GET /metrics HTTP/1.1\r\n{headers}\r\n")).contains(" 400 "));
    assert_eq!(stand.run.terminate(), Some(0));
}

#[test]
fn captures_hold_what_was_asked_for_and_why_it_was_decided() {
    if !privileged() {
        return;
    }
    let mut stand = Stand::start();
    let (denied, all) = (stand.wire.file("denied.pcapng"), stand.wire.file("all.pcapng"));
    // Two at once, one of which ends by itself and the other by Ctrl-C.
    let endpoint = "default/server";
    let mut first = stand.capture(&[
        "--endpoint",
        endpoint,
        "--verdict",
        "deny",
        "--reason",
        "policy_denied",
        "--count",
        "2",
        "--out",
        &denied,
    ]);
    let second = stand.capture(&["--snaplen", "64", "--out", &all]);
    assert!(stand.wire.reaches(at(ALLOWED), PATIENCE));
    for _ in 0..2 {
        assert!(!stand.wire.reaches(at(DENIED), PATIENCE));
    }
    assert_eq!(first.wait().unwrap().code(), Some(0));
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(second.id() as i32), Signal::SIGINT).unwrap();
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let summary = String::from_utf8(output.stderr).unwrap();
    assert!(
        summary.contains("packets in") && summary.contains(" 0 lost in full rings"),
        "{summary}"
    );

    let packets_denied = packets(&denied);
    assert_eq!(packets_denied.len(), 2);
    for (interface, comment, data) in &packets_denied {
        assert!(interface.contains("fw0"), "{interface}");
        let expected =
            "verdict=deny reason=policy_denied policy=NetworkPolicy/default/only-client rule=";
        assert!(comment.contains(expected) && comment.contains("policies.yaml:"), "{comment}");
        assert_eq!(data[36..38], 8080u16.to_be_bytes());
    }
    let all_packets = packets(&all);
    assert!(all_packets.len() > 6, "{}", all_packets.len());
    assert!(all_packets.iter().any(|(name, comment, _)| {
        name.contains("fw1") && comment.contains("verdict=allow") && comment.contains("established")
    }));
    assert!(all_packets.iter().all(|(_, _, data)| data.len() <= 64));
    assert_eq!(all_packets.iter().filter(|(_, comment, _)| comment.contains("deny")).count(), 2);

    match Command::new("tshark")
        .args(["-r", &denied, "-T", "fields", "-e", "frame.comment"])
        .output()
    {
        Err(_) => {
            eprintln!("skipped: tshark is not installed: the file was read by pcap-file only")
        }
        Ok(output) => {
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success());
            assert_eq!(text.matches("verdict=deny reason=policy_denied").count(), 2, "{text}");
        }
    }
    // What cannot be captured says why, and touches no file.
    let nothing = stand.wire.file("nothing.pcapng");
    for (arguments, expected) in [
        (["--endpoint", "no/where"], "no endpoint no/where"),
        (["--verdict", "maybe"], "expected allow, deny or reject"),
        (["--reason", "bad_luck"], "expected one of"),
        (["--snaplen", "99999"], "snap length 99999"),
    ] {
        let output = stand.build(&["capture", "--out", &nothing]).args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(!std::path::Path::new(&nothing).exists());
    }
    // A firewall that ends leaves a whole file.
    let mut third = stand.capture(&["--out", &nothing]);
    assert!(stand.wire.reaches(at(ALLOWED), PATIENCE));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(stand.run.terminate(), Some(0));
    assert_eq!(third.wait().unwrap().code(), Some(2));
    assert!(packets(&nothing).len() > 6);
}

#[test]
fn records_are_followed_and_policies_recommended_from_them() {
    if !privileged() {
        return;
    }
    let mut stand = Stand::start();
    let follow = ["flows", "--follow", "--format", "json"];
    let mut flows = stand.begin(stand.build(&follow).stdout(Stdio::piped()));
    let recommend = stand.begin(stand.build(&["recommend", "--follow"]).stdout(Stdio::piped()));
    // One that never reads, and one that goes away, are no matter for the others.
    let mut deaf = stand.connect();
    deaf.write_all(b"{\"v\":1,\"op\":\"flows\"}\n{\"v\":1,\"op\":\"flows\"}\n").unwrap();
    drop(stand.begin(stand.build(&follow).stdout(Stdio::null())).kill());

    assert!(stand.wire.reaches(at(ALLOWED), PATIENCE) && !stand.wire.reaches(at(DENIED), PATIENCE));
    let (mut started, mut denied) = (false, false);
    for line in BufReader::new(flows.stdout.take().unwrap()).lines() {
        let record: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let event = |name: &str| record["event"] == name;
        started |= event("start") && record["destination"]["port"] == 5432;
        denied |= event("deny") && record["destination"]["port"] == 8080;
        if started && denied {
            break;
        }
    }
    // Its output is closed now: that ends it at the next record.
    let interrupt = |child: &Child| kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    interrupt(&flows);
    assert_eq!(flows.wait().unwrap().code(), Some(0));
    interrupt(&recommend);
    let output = recommend.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let policies = String::from_utf8(output.stdout).unwrap();
    assert!(policies.contains("port: 5432") && !policies.contains("8080"), "{policies}");
    assert!(policies.contains("app: client"), "{policies}");

    let gone = stand.build(&follow).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(stand.run.terminate(), Some(0));
    let output = gone.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("error: the firewall has ended"), "{error}");
}
