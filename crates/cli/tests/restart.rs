//! Connections over a restart of `portcullis run`: real ones go on, forged ones do not, and a file that is
//! not right restores nothing. Needs CAP_NET_ADMIN; says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nix::sys::signal::Signal;
use portcullis::dataplane::packet::{Packet, parse};
use support::pins::Pins;
use support::tap::{self, Tap};
use support::{Running, Wire, privileged};

const PATIENCE: Duration = Duration::from_millis(500);
const SERVER: &str = "10.78.0.2:5432";

/// Whether data comes back within the time.
fn echoes(stream: &mut TcpStream, data: &[u8], patience: Duration) -> bool {
    stream.write_all(data).is_ok() && answers(stream, data, patience)
}

fn answers(stream: &mut TcpStream, data: &[u8], patience: Duration) -> bool {
    let mut answer = vec![0; data.len()];
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.read_exact(&mut answer).is_ok() && answer == data
}

fn connect(wire: &Wire) -> TcpStream {
    let mut stream = wire.connect(SERVER.parse().unwrap(), Duration::from_secs(2));
    assert!(echoes(&mut stream, b"before", Duration::from_secs(2)));
    stream
}

/// A TCP segment of the client's, as whoever knows the addresses can make it.
fn forged(port: u16, seq: u32, syn: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = builder.ipv4([10, 78, 0, 1], [10, 78, 0, 2], 64).tcp(port, 5432, seq, 65535);
    let builder = if syn { builder.syn() } else { builder.ack(77) };
    let mut frame = Vec::new();
    builder.write(&mut frame, if syn { b"" } else { b"forged" }).unwrap();
    frame
}

/// Source ports and sequence numbers of the forged segments that the server's interface received.
fn received(tap: Tap, ports: &[u16]) -> Vec<(u16, u32)> {
    let mut all = Vec::new();
    for captured in tap.close().into_iter().filter(|captured| !captured.sent) {
        let frame = &captured.frame;
        let Ok(Packet::Ip(headers)) = parse(frame, frame.len()) else { continue };
        let at = usize::from(headers.l4) + 4;
        let seq = captured.frame.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().unwrap()));
        let port = headers.tuple.source_port;
        if headers.tuple.protocol == 6 && ports.contains(&port) {
            all.push((port, seq.unwrap()));
        }
    }
    all
}

fn ready(run: &mut Running, expected: &str) -> String {
    let [line, _] = run.wait_for_all([expected, "ready"]);
    line
}

/// Programs stay on the interfaces, connections in the file: who talked goes on talking, and whoever
/// only says so is not let in.
#[test]
fn a_connection_goes_on_after_a_restart_and_a_forged_one_does_not() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let Some(pins) = Pins::mount() else { return };
    let state = wire.file("connections");
    let with_state = ["--pins", pins.folder(), "--state", &state];
    let mut run = wire.run(&with_state);
    ready(&mut run, "is not there yet");
    let mut stream = connect(&wire);

    assert_eq!(run.terminate(), Some(0));
    run.wait_for("connections saved");
    assert!(wire.has_program(), "the programs outlive the process");
    let mode = std::fs::metadata(&state).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "whoever can write it adds connections");
    // Failure mode closed: nothing passes meanwhile, and TCP tries again.
    assert!(!echoes(&mut stream, b"meanwhile", PATIENCE));

    run = wire.run(&with_state);
    let line = ready(&mut run, "connections restored");
    assert!(
        line.contains("state: 1 connections restored") && line.contains("0 left out"),
        "{line}"
    );
    assert!(answers(&mut stream, b"meanwhile", Duration::from_secs(5)), "what was sent meanwhile");
    assert!(echoes(&mut stream, b"after", PATIENCE));

    let own = stream.local_addr().unwrap().port();
    let (unknown, new) = (own ^ 1, own ^ 2);
    let [client, server] = wire.ends();
    let tap = Tap::open(server, "eth0");
    let frames = [
        forged(unknown, 1000, false),
        // The connection is known, its windows too; one of these two numbers is far from them.
        forged(own, 1000, false),
        forged(own, 0x8000_0000, false),
        forged(new, 1000, true),
    ];
    tap::send(client, "eth0", &frames);
    assert!(echoes(&mut stream, b"still", PATIENCE));
    let received = received(tap, &[unknown, own, new]);
    assert!(received.contains(&(new, 1000)), "a SYN passes: {received:?}");
    assert!(received.iter().all(|(port, _)| *port != unknown), "nobody knows it: {received:?}");
    let wrong = received.iter().filter(|from| [(own, 1000), (own, 0x8000_0000)].contains(from));
    assert!(wrong.count() <= 1, "at most one number can be right: {received:?}");
    assert!(received.iter().any(|(port, _)| *port == own), "what is right passes: {received:?}");

    // Without the file it is unknown as well.
    assert_eq!(run.terminate(), Some(0));
    run = wire.run(&["--pins", pins.folder()]);
    run.wait_for("ready");
    assert!(!echoes(&mut stream, b"lost", Duration::from_secs(1)));
    assert!(wire.reaches(SERVER.parse().unwrap(), PATIENCE), "new ones are welcome");
    assert_eq!(run.terminate(), Some(0));
}

/// What was saved last counts: a process that is killed has no time for more.
#[test]
fn a_connection_goes_on_after_a_death() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let Some(pins) = Pins::mount() else { return };
    let settings = wire.file("settings.yaml");
    std::fs::write(&settings, "state: {file: connections, every-seconds: 1}\n").unwrap();
    let more = ["--pins", pins.folder(), "--config", &settings];
    let mut run = wire.run(&more);
    ready(&mut run, "is not there yet");
    let mut stream = connect(&wire);
    let written = || std::fs::read(wire.file("connections")).map_or(0, |file| file.len());
    let until = Instant::now() + Duration::from_secs(10);
    while written() < 16 + 96 + 96 {
        assert!(Instant::now() < until, "{} bytes", written());
        std::thread::sleep(Duration::from_millis(50));
    }
    run.signal(Signal::SIGKILL);
    run.wait();
    run = wire.run(&more);
    ready(&mut run, "state: 1 connections restored");
    assert!(echoes(&mut stream, b"after", Duration::from_secs(5)));
    assert_eq!(run.terminate(), Some(0));
}

/// With failure mode open the bypass carries packets meanwhile, which nobody tracks: far more than a
/// window, and the connection goes on all the same.
#[test]
fn a_connection_that_went_past_goes_on() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let Some(pins) = Pins::mount() else { return };
    let state = wire.file("connections");
    let more = ["--fail", "open", "--pins", pins.folder(), "--state", &state];
    let mut run = wire.run(&more);
    ready(&mut run, "is not there yet");
    let mut stream = connect(&wire);
    assert_eq!(run.terminate(), Some(0));
    let data = vec![7; 16 << 10];
    for _ in 0..512 {
        assert!(echoes(&mut stream, &data, Duration::from_secs(2)), "8 MiB go past");
    }
    run = wire.run(&more);
    ready(&mut run, "state: 1 connections restored");
    assert!(echoes(&mut stream, &data, Duration::from_secs(5)));
    assert_eq!(run.terminate(), Some(0));
}

/// Whatever is wrong with the file is said, and nothing is taken from it.
#[test]
fn a_file_that_is_not_right_restores_nothing() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let (state, other) = (wire.file("connections"), wire.file("other"));
    let small = wire.file("small.yaml");
    std::fs::write(&small, "packets: {connections: 1}\n").unwrap();
    let mut run = wire.run(&["--state", &state]);
    ready(&mut run, "is not there yet");
    let mut streams: Vec<TcpStream> = (0..3).map(|_| connect(&wire)).collect();
    assert_eq!(run.terminate(), Some(0));
    let good = std::fs::read(&state).unwrap();
    assert_eq!(good.len(), 16 + 3 * 96 + 96);

    let changed = |at: usize, value: u8| {
        let mut file = good.clone();
        file[at] ^= value;
        file
    };
    type Case<'a> = (&'a str, Vec<u8>, u32, &'a str);
    let cases: &[Case<'_>] = &[
        ("cut off", good[..good.len() - 1].to_vec(), 0o600, ""),
        ("cut off", Vec::new(), 0o600, ""),
        ("not a file of connections", b"something else, quite".to_vec(), 0o600, ""),
        ("in format 2", changed(4, 1), 0o600, ""),
        ("checksum is wrong", changed(16 + 50, 1), 0o600, ""),
        ("in the future", changed(15, 1), 0o600, ""),
        ("more than 2 connections", good.clone(), 0o600, &small),
        ("others can write it", good.clone(), 0o622, ""),
    ];
    for (expected, file, mode, config) in cases {
        std::fs::write(&state, file).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(*mode)).unwrap();
        refused(&wire, &state, expected, config, &mut streams);
    }
    std::fs::write(&other, &good).unwrap();
    std::fs::remove_file(&state).unwrap();
    symlink(&other, &state).unwrap();
    refused(&wire, &state, "symbolic links", "", &mut streams);
    std::fs::remove_file(&state).unwrap();
    nix::unistd::mkfifo(state.as_str(), nix::sys::stat::Mode::S_IRUSR).unwrap();
    refused(&wire, &state, "not a file", "", &mut streams);

    // What could never be written is refused before anything is attached.
    let (cluster, policies) = wire.files();
    for bad in [wire.file("absent/connections"), wire.file("")] {
        let arguments =
            ["--wire", "fw0:fw1", "--cluster", &cluster, "--policies", &policies, "--state", &bad];
        let (code, error) = wire.refused(&arguments);
        assert_eq!((code, error.trim().lines().count()), (Some(2), 1), "{error}");
        assert!(error.contains("state file"), "{error}");
    }

    // The good one is still good.
    std::fs::remove_file(&state).unwrap();
    std::fs::write(&state, &good).unwrap();
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o600)).unwrap();
    let mut run = wire.run(&["--state", &state]);
    ready(&mut run, "state: 3 connections restored");
    // What was written in vain is on its way again and again, ever more rarely.
    std::thread::sleep(Duration::from_millis(100));
    assert!(wire.reaches(SERVER.parse().unwrap(), PATIENCE));
    assert_eq!(run.terminate(), Some(0));
}

/// What cannot be saved is said once, and packets flow on.
#[test]
fn a_file_that_cannot_be_written_is_told_and_nothing_else_suffers() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    let (folder, settings) = (wire.file("state"), wire.file("settings.yaml"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&settings, "state: {file: state/connections, every-seconds: 1}\n").unwrap();
    let control = wire.file("control.sock");
    let mut run = wire.run(&["--config", &settings, "--control", &control]);
    ready(&mut run, "is not there yet");
    run.wait_for("control socket");
    let status = |json: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["status", "--control", &control]).args(json.then_some("--json"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let state =
        || serde_json::from_str::<serde_json::Value>(&status(true)).unwrap()["state"].clone();
    let mut stream = connect(&wire);
    let until = Instant::now() + Duration::from_secs(10);
    while state()["saved"] != 1 {
        assert!(Instant::now() < until, "{}", state());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(state()["saves"].as_u64().unwrap() >= 1 && state()["failed"].is_null(), "{}", state());
    std::fs::remove_dir_all(&folder).unwrap();
    let line = run.wait_for("cannot be saved");
    assert!(line.contains("state/connections") && line.contains("No such file"), "{line}");
    let text = status(false);
    assert!(text.contains("cannot be saved: No such file"), "{text}");
    assert!(state()["failures"].as_u64().unwrap() >= 1, "{}", state());
    assert!(echoes(&mut stream, b"on", PATIENCE));
    // It is there again: so is the file.
    std::fs::create_dir(&folder).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !std::fs::exists(wire.file("state/connections")).unwrap() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(state()["failed"].is_null() && status(false).contains("1 saved"), "{}", state());
    assert_eq!(run.terminate(), Some(0));
    run.wait_for("state: 1 connections saved");
}

/// One run with a file that is refused: it says so, connections from before do not pass, and the file
/// that it leaves is a good one.
fn refused(wire: &Wire, state: &str, expected: &str, config: &str, streams: &mut [TcpStream]) {
    let mut more = vec!["--state", state];
    if !config.is_empty() {
        more.extend(["--config", config]);
    }
    let mut run = wire.run(&more);
    let line = run.wait_for("error: state file");
    assert!(line.contains(expected), "{expected:?} is not in {line:?}");
    ready(&mut run, "no connections restored");
    for stream in streams {
        assert!(!echoes(stream, b"x", Duration::from_millis(100)), "{expected}: it passed");
    }
    assert_eq!(run.terminate(), Some(0));
    run.wait_for("state: 0 connections saved");
    let left = std::fs::read(state).unwrap();
    assert_eq!(left.len(), 16 + 96, "{expected}");
}
