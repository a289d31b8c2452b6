//! `portcullis replay` on captures made here. Needs no privileges.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etherparse::PacketBuilder;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use serde_json::Value;

const CLUSTER: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client}, status: {podIP: 10.0.0.1}}
";
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: https}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 443}]}]}
";

/// Files of one test, taken away with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("portcullis-replay-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("cluster.yaml"), CLUSTER).unwrap();
        std::fs::write(path.join("policies.yaml"), POLICIES).unwrap();
        Self(path)
    }

    /// Exit code, standard output, standard error.
    fn replay(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .current_dir(&self.0)
            .args(
                "replay --cluster cluster.yaml --policies policies.yaml --pcap in.pcap".split(' '),
            )
            .args(more)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tcp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), flags: &str) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from, to, 64)
        .tcp(ports.0, ports.1, 1000, 64_000);
    let builder = match flags {
        "syn" => builder.syn(),
        "syn-ack" => builder.syn().ack(1001),
        _ => builder.rst(),
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, &[]).unwrap();
    packet
}

/// A denied connection, an allowed one with its answer, ARP, and a frame that is cut short.
fn packets() -> Vec<Vec<u8>> {
    let (client, web) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    vec![
        tcp(client, web, (40000, 80), "syn"),
        tcp(client, web, (40001, 443), "syn"),
        tcp(web, client, (443, 40001), "syn-ack"),
        arp,
        tcp(client, web, (40002, 443), "syn")[..30].to_vec(),
    ]
}

fn write_pcap(path: &Path, packets: &[Vec<u8>]) {
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    for (n, packet) in (0..).zip(packets) {
        let time = Duration::from_millis(1_700_000_000_000 + n);
        writer.write_packet(&PcapPacket::new(time, packet.len() as u32, packet)).unwrap();
    }
}

fn write_pcapng(path: &Path, packets: &[Vec<u8>]) {
    let mut writer = PcapNgWriter::new(File::create(path).unwrap()).unwrap();
    let interface =
        InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options: vec![] };
    writer.write_pcapng_block(interface).unwrap();
    for (n, packet) in (0..).zip(packets) {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            // No resolution given: the number counts microseconds.
            timestamp: Duration::from_nanos(1_700_000_000_000_000 + n * 1000),
            original_len: packet.len() as u32,
            data: Cow::Borrowed(packet),
            options: vec![],
        };
        writer.write_pcapng_block(block).unwrap();
    }
}

#[test]
fn every_packet_is_judged_the_same_every_time() {
    let folder = Folder::new("judged");
    write_pcap(&folder.0.join("in.pcap"), &packets());
    let (code, out, error) = folder.replay(&["--json"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(said("verdict"), ["deny", "allow", "allow", "allow", "deny"]);
    assert_eq!(said("state")[..3], ["new", "new", "established"]);
    assert_eq!(lines[0]["reason"], "policy_denied");
    assert_eq!(lines[4]["reason"], "truncated_ip");
    assert_eq!(lines[0]["policy"], "NetworkPolicy/default/https");
    assert_eq!(
        (&lines[0]["source"], &lines[0]["destination"]),
        (&Value::from("default/client"), &Value::from("default/web"),)
    );
    assert_eq!(lines[2]["time"], "0.002000000");
    assert_eq!(folder.replay(&["--json"]).1, out, "bit-identical between runs");

    write_pcapng(&folder.0.join("in.pcap"), &packets());
    assert_eq!(folder.replay(&["--json"]).1, out, "and whatever the format");

    let (_, summary, _) = folder.replay(&[]);
    assert!(summary.contains("policy_denied") && summary.contains("5 packets"), "{summary}");
}

#[test]
fn two_sets_are_compared_on_one_capture() {
    let folder = Folder::new("compared");
    write_pcap(&folder.0.join("in.pcap"), &packets());
    let same = folder.replay(&["--compare", "policies.yaml"]);
    assert_eq!((same.0, same.2.as_str()), (Some(0), ""));
    assert!(same.1.starts_with("0 of 5 packets"), "{}", same.1);

    std::fs::write(folder.0.join("next.yaml"), POLICIES.replace("443", "80")).unwrap();
    let (code, text, error) = folder.replay(&["--compare", "next.yaml"]);
    assert_eq!((code, error.as_str()), (Some(1), ""));
    let expected = "\
allow -> deny  default/client > default/web tcp/443: 1 flows, 2 packets, 108 bytes; first: packet 2
  before: NetworkPolicy/default/https (policies.yaml:5:58)
  after:  NetworkPolicy/default/https (next.yaml:2:1)
deny -> allow  default/client > default/web tcp/80: 1 flows, 1 packets, 54 bytes; first: packet 1
  before: NetworkPolicy/default/https (policies.yaml:2:1)
  after:  NetworkPolicy/default/https (next.yaml:5:58)
3 of 5 packets, of 2 flows, are decided otherwise
";
    assert_eq!(text, expected);
    let (_, json, _) = folder.replay(&["--compare", "next.yaml", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["packets"], &json["changed"]), (&Value::from(5), &Value::from(3)));
    assert_eq!(json["groups"][0]["from"]["verdict"], "allow");
    assert_eq!(json["groups"][0]["packets"], 2);
}

#[test]
fn evidence_is_explained() {
    let folder = Folder::new("evidence");
    write_pcap(&folder.0.join("in.pcap"), &packets());
    let record = r#"{"version":1,"event":"start","time":"1700000000.5","start":"1700000000.5","last_seen":"1700000000.5","verdict":"allow","policy":"default","protocol":6,"zone":0,"source":{"address":"10.0.0.1","port":40000,"identity":4},"destination":{"address":"10.0.0.2","port":80,"identity":5},"sent":{"packets":1,"bytes":60},"received":{"packets":0,"bytes":0},"lost":0}"#;
    std::fs::write(folder.0.join("flows.jsonl"), format!("{{}}\n{record}\n")).unwrap();
    let explain = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .current_dir(&folder.0)
            .args("explain --cluster cluster.yaml --policies policies.yaml --json".split(' '))
            .args(more)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let flow = |more: &[&str]| {
        let (code, out, error) = explain(more);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        let json: Value = serde_json::from_str(&out).unwrap();
        (json["flow"]["text"].as_str().unwrap().to_owned(), json["verdict"].clone())
    };
    let denied = ("tcp 10.0.0.1:40000 > 10.0.0.2:80".to_owned(), Value::from("deny"));
    assert_eq!(flow(&["--record", record]), denied);
    assert_eq!(flow(&["--record", "flows.jsonl:2"]), denied);
    assert_eq!(flow(&["--pcap", "in.pcap", "--packet", "1"]), denied);
    // An answer belongs to the connection that the question opened.
    let allowed = ("tcp 10.0.0.1:40001 > 10.0.0.2:443".to_owned(), Value::from("allow"));
    assert_eq!(flow(&["--pcap", "in.pcap", "--packet", "3"]), allowed);

    for (more, says) in [
        (&["--pcap", "in.pcap", "--packet", "4"][..], "packet 4: ARP"),
        (&["--pcap", "in.pcap", "--packet", "5"], "packet 5: The frame ends within the IP header"),
        (&["--pcap", "in.pcap", "--packet", "6"], "packet 6: there are fewer"),
        (&["--record", "flows.jsonl:1"], "flows.jsonl:1: no version: not a flow record"),
        (&["--record", "flows.jsonl:9"], "fewer than 9 lines"),
        (&["--record", "flows.jsonl"], "FILE:LINE is needed"),
    ] {
        let (code, _, error) = explain(more);
        assert!(code == Some(2) && error.contains(says), "{more:?}: {error}");
    }
}

#[test]
fn the_annotated_capture_carries_verdicts() {
    let folder = Folder::new("annotated");
    write_pcap(&folder.0.join("in.pcap"), &packets());
    assert_eq!(folder.replay(&["--out", "out.pcapng"]).0, Some(0));
    let mut reader = PcapNgReader::new(File::open(folder.0.join("out.pcapng")).unwrap()).unwrap();
    let mut comments = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            assert_eq!(packet.data, packets()[comments.len()]);
            comments.push(format!("{:?}", packet.options));
        }
    }
    assert_eq!(comments.len(), 5);
    assert!(
        comments[0]
            .contains("verdict=deny reason=policy_denied policy=NetworkPolicy/default/https"),
        "{comments:?}"
    );
    assert!(comments[1].contains("verdict=allow"), "{comments:?}");
}

#[test]
fn broken_captures_are_refused_where_they_break() {
    let folder = Folder::new("broken");
    let path = folder.0.join("in.pcap");
    let refused = |content: &[u8], expected: &str| {
        std::fs::write(&path, content).unwrap();
        let (code, _, error) = folder.replay(&["--json"]);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains("in.pcap") && error.contains(expected), "{expected:?}: {error}");
    };
    refused(b"", "shorter than a file header");
    refused(b"not a capture at all, but long enough", "neither pcap nor pcapng");
    write_pcap(&path, &packets());
    let whole = std::fs::read(&path).unwrap();
    refused(&whole[..whole.len() - 3], "after packet 4: the file is cut off");
    let mut other_link = whole.clone();
    other_link[20] = 101; // raw IP
    refused(&other_link, "expected Ethernet");
    // Whatever the bytes, an answer: no panic (exit code 101), no signal.
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 0xff;
        std::fs::write(&path, &broken).unwrap();
        if at % 7 == 0 {
            assert!(matches!(folder.replay(&[]).0, Some(0 | 2)), "byte {at}");
        }
    }
}

/// Runs `script` in a network namespace of its own with a veth pair `near` and `far`; nothing where
/// that cannot be made.
fn in_namespace(folder: &Folder, script: &str) -> Option<String> {
    let quiet = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $f; done";
    let setup =
        "ip link add near type veth peer name far && ip link set near up && ip link set far up";
    let output = Command::new("unshare")
        .current_dir(&folder.0)
        .args(["--net", "sh", "-ec", &format!("{setup}\n{quiet}\n{script}")])
        .env("PORTCULLIS", env!("CARGO_BIN_EXE_portcullis"))
        .output()
        .ok()?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, error) = (text(output.stdout), text(output.stderr));
    if error.contains("Operation not permitted") {
        eprintln!("skipped: network namespaces cannot be made here");
        return None;
    }
    Some(out + &error)
}

#[test]
fn what_may_pass_leaves_by_the_interface_when_it_is_due() {
    let folder = Folder::new("onto");
    let replay =
        "$PORTCULLIS replay --cluster cluster.yaml --policies policies.yaml --pcap in.pcap";
    write_pcap(&folder.0.join("in.pcap"), &packets());
    let script =
        format!("{replay} --onto near --speed 0.1 --json > lines\nip -json -stats link show far");
    let Some(said) = in_namespace(&folder, &script) else { return };
    let (_, took) = said.split_once("sent 3 packets (150 bytes) out of near in ").expect(&said);
    let took: f64 = took.split(' ').next().unwrap().parse().unwrap();
    assert!(took >= 0.03, "the last is due after 30 ms: {said}");
    let received = said.lines().find(|line| line.starts_with('[')).expect(&said);
    let received: Value = serde_json::from_str(received).unwrap();
    assert_eq!(received[0]["stats64"]["rx"]["packets"], 3, "{received}");
    assert_eq!(received[0]["stats64"]["rx"]["bytes"], 150, "{received}");
    let lines = std::fs::read_to_string(folder.0.join("lines")).unwrap();
    assert_eq!(lines, folder.replay(&["--json"]).1, "verdicts are those of the capture's time");

    let wrong = format!(
        "{replay} --onto nowhere || echo code $?\nip link set near down
         {replay} --onto near || echo code $?\n{replay} --speed 2 || echo code $?"
    );
    let said = in_namespace(&folder, &wrong).unwrap();
    assert!(said.contains("--onto nowhere: No such device"), "{said}");
    assert!(said.contains("near: Network is down"), "{said}");
    assert_eq!(said.matches("code 2").count(), 3, "{said}");
}

#[test]
fn what_cannot_be_sent_is_counted() {
    let folder = Folder::new("unsent");
    let path = folder.0.join("in.pcap");
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    let mut long = vec![0; 3000];
    long[12..14].copy_from_slice(&[0x08, 0x06]);
    let time = Duration::from_secs(1_700_000_000);
    for (wire_len, data) in [(3000, &long[..]), (90, &long[..60]), (60, &long[..60])] {
        writer.write_packet(&PcapPacket::new(time, wire_len, data)).unwrap();
    }
    drop(writer);
    let replay =
        "$PORTCULLIS replay --cluster cluster.yaml --policies policies.yaml --pcap in.pcap";
    let Some(said) = in_namespace(&folder, &format!("{replay} --onto near --speed max")) else {
        return;
    };
    assert!(said.contains("sent 1 packets (60 bytes)"), "{said}");
    assert!(said.contains("1 not, cut short in the capture; 1 not, longer than"), "{said}");
}
