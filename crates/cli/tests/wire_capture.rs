//! Captures on both sides of the wire: what passes is bit-identical, checksums that were left to
//! hardware apart, and in order within each flow; what is denied does not pass. Needs CAP_NET_ADMIN;
//! says so and skips without.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use etherparse::PacketBuilder;
use portcullis::dataplane::packet::{Headers, Packet, checksum, parse};
use support::tap::{self, Captured, Tap};
use support::{Wire, privileged};

const PATIENCE: Duration = Duration::from_millis(300);

/// All between the two may pass, except TCP to port 8080.
const POLICIES: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: mixed}
spec:
  selector: all()
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: TCP, destination: {ports: [8080]}}
  - {action: Allow}
";

#[test]
fn what_passes_is_bit_identical_and_in_order() {
    mixed(1500);
}

#[test]
fn what_passes_in_several_buffers_is_bit_identical_and_in_order() {
    mixed(9000);
}

fn mixed(mtu: usize) {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    wire.write_policies(POLICIES);
    let (ends, middle) = (wire.ends(), wire.middle());
    for end in ends {
        end.ip(&format!("link set eth0 mtu {mtu}")).unwrap();
    }
    for port in ["fw0", "fw1"] {
        middle.ip(&format!("link set {port} mtu {mtu}")).unwrap();
    }
    let mut run = wire.run(&["--workers", "2"]);
    run.wait_for("ready");
    let taps = ends.map(|end| Tap::open(end, "eth0"));

    for server in ["10.78.0.2:5432", "[fd78::2]:5432"] {
        assert_eq!(wire.bulk(server.parse().unwrap(), 2 << 20), Ok(2 << 20), "{server}");
    }
    assert!(!wire.reaches("10.78.0.2:8080".parse().unwrap(), PATIENCE), "denied");
    let largest = mtu - 28;
    for server in ["10.78.0.2:5353", "[fd78::2]:5353"] {
        // The largest two are sent in pieces.
        datagrams(&wire, server, &[0, 1, 18, 19, 500, largest - 24, largest, 20_000, 60_000]);
    }
    for (n, end) in ends.into_iter().enumerate() {
        tap::send(end, "eth0", &tagged(n, mtu));
    }
    // ICMP: a port that is closed is answered with an error.
    for server in ["10.78.0.2:9", "[fd78::2]:9"] {
        closed(&wire, server);
    }

    let [client, server] = taps.map(Tap::close);
    let mut kinds = BTreeMap::new();
    for (from, to, frames) in [(0, 1, (&client, &server)), (1, 0, (&server, &client))] {
        // The interfaces in the middle report to IPv6 multicast groups on their own account.
        let chatter = |frame: &&Captured| frame.frame.starts_with(&[0x33, 0x33]);
        let ours = |frames: &'_ Vec<Captured>, sent| -> Vec<Captured> {
            let frames = frames.iter().filter(|frame| frame.sent == sent && !chatter(frame));
            frames.cloned().collect()
        };
        let (sent, received) = (ours(frames.0, true), ours(frames.1, false));
        compare(&sent, &received, &mut kinds, (from, to));
    }
    println!("MTU {mtu}: {kinds:?}");
    for kind in
        ["tcp4", "tcp6", "udp4", "udp6", "vlan udp4", "double vlan udp4", "fragment4", "fragment6"]
    {
        assert!(kinds.get(kind).is_some_and(|count| *count >= 4), "{kind}: {kinds:?}");
    }
    for kind in ["icmp4", "icmp6"] {
        assert!(kinds.contains_key(kind), "{kind}: {kinds:?}");
    }
    if mtu > 4096 {
        assert!(kinds.contains_key("longer than a chunk"), "{kinds:?}");
    }
    assert_eq!(run.terminate(), Some(0));
}

/// Every frame that was received was sent, as it is; in the order in which those of its flow were
/// sent; and every frame that was sent was received, unless it is denied.
fn compare(
    sent: &[Captured],
    received: &[Captured],
    kinds: &mut BTreeMap<String, usize>,
    which: (usize, usize),
) {
    let mut flows: BTreeMap<Vec<u8>, (Vec<&Captured>, Vec<&Captured>)> = BTreeMap::new();
    for frame in sent {
        flows.entry(flow(&frame.frame)).or_default().0.push(frame);
    }
    for frame in received {
        flows.entry(flow(&frame.frame)).or_default().1.push(frame);
    }
    for (sent, received) in flows.values() {
        let mut arrived = received.iter();
        for one in sent {
            if denied(&one.frame) {
                continue;
            }
            let kind = kind(&one.frame);
            let other = arrived.next().unwrap_or_else(|| {
                panic!("{which:?}: {kind}: {} bytes were sent and did not arrive", one.frame.len())
            });
            same(one, other, &kind);
            if one.frame.len() > 4096 {
                *kinds.entry("longer than a chunk".to_owned()).or_default() += 1;
            }
            *kinds.entry(kind).or_default() += 1;
        }
        let more = arrived.next();
        assert_eq!(more, None, "{which:?}: arrived and was not sent, or was to be denied");
    }
}

/// Bit-identical; if the sender had left the checksum to hardware, all but that, which is right.
fn same(sent: &Captured, received: &Captured, kind: &str) {
    if sent.frame == received.frame && !sent.unfinished {
        return;
    }
    assert_eq!(sent.frame.len(), received.frame.len(), "{kind}");
    let headers = headers(&received.frame).unwrap_or_else(|| panic!("{kind}: not IP"));
    let field = usize::from(headers.l4)
        + match headers.tuple.protocol {
            6 => 16,
            17 => 6,
            other => panic!("{kind}: protocol {other} differs"),
        };
    let without = |frame: &[u8]| [&frame[..field], &frame[field + 2..]].concat();
    assert!(without(&sent.frame) == without(&received.frame), "{kind}: more than its checksum");
    assert!(sent.unfinished, "{kind}: a checksum that was right differs");
    assert_eq!(checksum::verify(&received.frame, &headers), Some(true), "{kind}");
}

fn headers(frame: &[u8]) -> Option<Headers> {
    match parse(frame, frame.len()) {
        Ok(Packet::Ip(headers)) => Some(headers),
        _ => None,
    }
}

/// What is to stay in order: the flow; of fragments, those of one pair of addresses; of other frames,
/// those of one kind.
fn flow(frame: &[u8]) -> Vec<u8> {
    let Some(headers) = headers(frame) else { return frame[12..14].to_vec() };
    let tuple = &headers.tuple;
    let mut flow = frame[12..14].to_vec();
    flow.extend(tuple.source.to_be_bytes());
    flow.extend(tuple.destination.to_be_bytes());
    flow.push(tuple.protocol);
    if headers.fragment.is_none() {
        flow.extend(tuple.source_port.to_be_bytes());
        flow.extend(tuple.destination_port.to_be_bytes());
    } else {
        flow.push(b'f');
    }
    flow
}

/// Denied by the policy, or nothing that a wire passes unless told to.
fn denied(frame: &[u8]) -> bool {
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    match headers(frame) {
        Some(headers) => {
            let tuple = headers.tuple;
            let port = tuple.destination_port;
            tuple.protocol == 6 && port == 8080
        }
        None => ethertype != 0x0806,
    }
}

fn kind(frame: &[u8]) -> String {
    let Some(headers) = headers(frame) else { return "not IP".to_owned() };
    let version = if headers.tuple.source_ip().is_ipv4() { 4 } else { 6 };
    let name = match (headers.fragment.is_some(), headers.tuple.protocol) {
        (true, _) => "fragment",
        (_, 6) => "tcp",
        (_, 17) => "udp",
        (_, 1 | 58) => "icmp",
        _ => "other",
    };
    let vlan = match &frame[12..14] {
        [0x81, 0] => "vlan ",
        [0x88, 0xa8] => "double vlan ",
        _ => "",
    };
    format!("{vlan}{name}{version}")
}

/// UDP behind one VLAN tag, and behind two, from either end; each length once.
fn tagged(from: usize, mtu: usize) -> Vec<Vec<u8>> {
    let ends = [[10, 78, 0, 1], [10, 78, 0, 2]];
    let mut frames = Vec::new();
    for (n, len) in [0, 18, 100, 1000, mtu - 28 - 8].into_iter().enumerate() {
        let vlan = |id| etherparse::VlanId::try_new(id).unwrap();
        for double in [false, true] {
            let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let tagged =
                if double { link.double_vlan(vlan(7), vlan(8)) } else { link.single_vlan(vlan(7)) };
            let ip = tagged.ipv4(ends[from], ends[1 - from], 64);
            let data: Vec<u8> = (0..len).map(|at| (at * 3 + n) as u8).collect();
            let mut frame = Vec::new();
            ip.udp(6000 + from as u16, 7000).write(&mut frame, &data).unwrap();
            frames.push(frame);
        }
    }
    frames
}

/// Sends datagrams of these lengths and waits for each to come back.
fn datagrams(wire: &Wire, server: &str, lengths: &[usize]) {
    let address: SocketAddr = server.parse().unwrap();
    let [client, there] = wire.ends();
    let bind = |namespace: &lab::Namespace, address: SocketAddr| {
        let socket = namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    };
    let echo = bind(there, address);
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = bind(client, any.parse().unwrap());
    socket.connect(address).unwrap();
    let mut buffer = vec![0; 65_536];
    for (n, len) in lengths.iter().enumerate() {
        let data: Vec<u8> = (0..*len).map(|at| (at * 7 + n) as u8).collect();
        socket.send(&data).unwrap();
        let (got, from) =
            echo.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{server} {len}: {e}"));
        assert!(buffer[..got] == data, "{server}: {len} bytes");
        echo.send_to(&buffer[..got], from).unwrap();
        let got = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{server} {len} back: {e}"));
        assert!(buffer[..got] == data, "{server}: {len} bytes back");
    }
}

/// Sends to a port where nobody listens, and is told so.
fn closed(wire: &Wire, server: &str) {
    let address: SocketAddr = server.parse().unwrap();
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let [client, _] = wire.ends();
    let socket = client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.connect(address).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = socket.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{server}: the ICMP error");
}
