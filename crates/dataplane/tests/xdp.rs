//! AF_XDP ports in the kernel, end to end: the bare forwarder of `examples/forward.rs` between two
//! veth pairs, with real sockets on both ends. Needs CAP_NET_ADMIN; says `skipped` without. Run alone
//! (`--test xdp`) it needs `cargo build --examples` before.
#![cfg(feature = "xdp")]

mod netns;

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use portcullis_bpf::{Attach, Interface, Program, Settings};

use netns::raw::{EXPERIMENT, RawSocket};
use netns::{Net, PATIENCE, Place, eventually};

const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2));

/// Starts a server that sends every datagram back, until it hears nothing for long.
fn echo(net: &Net, address: IpAddr) -> SocketAddr {
    let (sender, receiver) = channel();
    net.within(Place::Server, move || {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        sender.send(socket.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 10_000];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // The way back may be closed just now.
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    receiver.recv().unwrap()
}

/// A client's end of an echo.
struct Probe {
    socket: UdpSocket,
    next: u64,
}

impl Probe {
    fn new(net: &Net, server: SocketAddr) -> Self {
        let connect = move || {
            let any: IpAddr = if server.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(server).unwrap();
            socket
        };
        Self { socket: net.within(Place::Client, connect).join().unwrap(), next: 0 }
    }

    /// Whether a datagram of `len` bytes comes back unchanged within `patience`.
    fn passes(&mut self, len: usize, patience: Duration) -> bool {
        self.next += 1;
        let mut sent: Vec<u8> = (0..len).map(|n| (n as u64 * 31 + self.next) as u8).collect();
        sent[..8].copy_from_slice(&self.next.to_be_bytes());
        self.socket.set_read_timeout(Some(patience)).unwrap();
        if self.socket.send(&sent).is_err() {
            return false;
        }
        let mut buffer = vec![0; len + 1];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(got) if buffer[..got] == sent[..] => return true,
                // An answer that came too late for its own question.
                Ok(got) if got >= 8 && buffer[..8] < sent[..8] => {}
                Ok(_) => panic!("an answer that was never sent"),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    fn flows(&mut self) -> bool {
        eventually(PATIENCE, || self.passes(64, Duration::from_millis(200)))
    }
}

/// Sends `bytes` over TCP in both directions at once and checks every byte.
fn tcp(net: &Net, address: IpAddr, bytes: usize) {
    fn pattern(n: usize) -> u8 {
        (n * 7 + n / 251) as u8
    }
    fn exchange(mut stream: TcpStream, bytes: usize) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut out = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let data: Vec<u8> = (0..bytes).map(pattern).collect();
            out.write_all(&data).unwrap();
        });
        let mut data = vec![0; bytes];
        stream.read_exact(&mut data).unwrap();
        assert!(data.iter().enumerate().all(|(n, byte)| *byte == pattern(n)));
        writer.join().unwrap();
    }
    let (sender, receiver) = channel();
    let server = net.within(Place::Server, move || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        sender.send(listener.local_addr().unwrap()).unwrap();
        exchange(listener.accept().unwrap().0, bytes);
    });
    let to = receiver.recv().unwrap();
    let client = net.within(Place::Client, move || {
        exchange(TcpStream::connect_timeout(&to, PATIENCE).unwrap(), bytes);
    });
    client.join().unwrap();
    server.join().unwrap();
}

/// What the kernel says is attached to a port of the forwarder.
fn attached(net: &Net, port: &str) -> bool {
    net.ip(Place::Forwarder, &["-details", "link", "show", port]).contains("xdp")
}

fn promiscuous(net: &Net, port: &str) -> bool {
    !net.ip(Place::Forwarder, &["-details", "link", "show", port]).contains("promiscuity 0")
}

#[test]
fn udp_and_tcp_of_both_families_pass_on_all_queues() {
    let Some(net) = Net::new(4, 1500) else { return };
    let forwarder = net.forward(&["require-copy"]);
    for port in ["fw0", "fw1"] {
        assert_eq!(forwarder.mode(port), format!("{port}: native copy, 4 queues"));
    }
    for address in [SERVER_V4, SERVER_V6] {
        let server = echo(&net, address);
        // The sender's socket picks the queue.
        for _ in 0..24 {
            let mut probe = Probe::new(&net, server);
            assert!(probe.flows());
            assert!(probe.passes(1400, PATIENCE));
        }
        tcp(&net, address, 4 << 20);
    }
    let output = forwarder.finish();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    for queue in 0..4 {
        let line = report
            .lines()
            .find(|line| line.starts_with(&format!("fw0 queue {queue}: QueueCounters")));
        let line = line.unwrap_or_else(|| panic!("no queue {queue}: {report}"));
        assert!(!line.contains("received: 0,"), "queue {queue} was not used: {report}");
        assert!(line.contains("bad_descriptors: 0"), "{report}");
    }
    assert!(!attached(&net, "fw0"), "the program stays after a clean end");
}

#[test]
fn generic_mode_passes_too() {
    let Some(net) = Net::new(2, 1500) else { return };
    let forwarder = net.forward(&["require-generic"]);
    assert_eq!(forwarder.mode("fw1"), "fw1: generic copy, 2 queues");
    // Only a native program makes a veth stop its peer from sending segments larger than the MTU.
    for (place, host) in [(Place::Client, "c0"), (Place::Server, "s0")] {
        net.ip(place, &["link", "set", host, "gso_max_segs", "1"]);
    }
    assert!(Probe::new(&net, echo(&net, SERVER_V4)).flows());
    tcp(&net, SERVER_V6, 1 << 20);
}

#[test]
fn busy_polling_passes_too() {
    let Some(net) = Net::new(2, 1500) else { return };
    let _forwarder = net.forward_with("BUSY_POLL", &["require-copy"]);
    assert!(Probe::new(&net, echo(&net, SERVER_V6)).flows());
    tcp(&net, SERVER_V4, 1 << 20);
}

#[test]
fn jumbo_packets_pass_in_several_frames() {
    let Some(net) = Net::new(2, 9000) else { return };
    let forwarder = net.forward(&["require-copy"]);
    let mut probe = Probe::new(&net, echo(&net, SERVER_V4));
    assert!(probe.flows());
    for len in [100, 1472, 3700, 3800, 3900, 7000, 8972] {
        assert!(probe.passes(len, PATIENCE), "{len} bytes");
    }
    tcp(&net, SERVER_V4, 4 << 20);
    tcp(&net, SERVER_V6, 4 << 20);
    drop(forwarder);
}

/// Frames captured behind the wire are those sent before it: every bit, and in order.
#[test]
fn frames_arrive_bit_identical_and_in_order() {
    // Single-buffer, and multi-buffer up to the jumbo MTU.
    for (mtu, largest) in [(1500, 1514), (9000, 9014)] {
        let Some(net) = Net::new(1, mtu) else { return };
        let _forwarder = net.forward(&["require-copy"]);
        let frames: Vec<Vec<u8>> = (0..3000u32)
            .map(|n| {
                let len = 60 + n.wrapping_mul(2_654_435_761) as usize % (largest - 59);
                let mut frame: Vec<u8> = (0..len).map(|at| (at as u32 * 193 + n) as u8).collect();
                frame[..6].fill(0xff);
                frame[12..14].copy_from_slice(&EXPERIMENT.to_be_bytes());
                frame[14..18].copy_from_slice(&n.to_be_bytes());
                frame
            })
            .collect();
        for (from, out, to, into) in
            [(Place::Client, "c0", Place::Server, "s0"), (Place::Server, "s0", Place::Client, "c0")]
        {
            let count = frames.len();
            let (listening, is_listening) = channel();
            let capture = net.within(to, move || {
                let socket = RawSocket::new(into);
                socket.set_timeout(Duration::from_secs(2));
                listening.send(()).unwrap();
                std::iter::from_fn(|| socket.receive()).take(count).collect::<Vec<_>>()
            });
            is_listening.recv().unwrap();
            let sent = frames.clone();
            let send = net.within(from, move || {
                let socket = RawSocket::new(out);
                for (n, frame) in sent.iter().enumerate() {
                    socket.send(frame);
                    // No faster than a busy machine can take.
                    if n % 32 == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            });
            send.join().unwrap();
            let arrived = capture.join().unwrap();
            assert_eq!(arrived.len(), frames.len(), "MTU {mtu}: frames are missing");
            let differs = frames.iter().zip(&arrived).position(|(sent, got)| sent != got);
            assert_eq!(differs, None, "MTU {mtu}: the first frame that differs");
        }
    }
}

#[test]
fn zero_copy_is_refused_where_the_driver_cannot_and_said_where_it_is_only_preferred() {
    let Some(net) = Net::new(1, 1500) else { return };
    let error = net.refused(&["fw0", "fw1", "require-zerocopy"]);
    assert!(error.contains("fw0, queue 0") && error.contains("prefer-zerocopy"), "{error}");
    assert!(!attached(&net, "fw0"));
    let forwarder = net.forward(&["prefer-zerocopy"]);
    assert_eq!(forwarder.mode("fw0"), "fw0: native copy, 1 queues");
    assert!(forwarder.said[0].starts_with("refused: interface fw0"), "{:?}", forwarder.said);
}

#[test]
fn what_cannot_be_is_refused_in_one_line_that_says_what_to_do() {
    let Some(net) = Net::new(2, 1500) else { return };
    let one_line = |args: &[&str], words: &[&str]| {
        let error = net.refused(args);
        assert_eq!(error.lines().count(), 1, "{error}");
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    };
    one_line(&["fw0", "nope"], &["nope", "no such interface", "ip link"]);
    one_line(&["fw0", "fw0"], &["fw0", "twice"]);
    one_line(&["fw0", "fw1", "fastest"], &["fastest", "require-", "zerocopy"]);
    let _program = foreign_program(&net, "fw1");
    one_line(&["fw0", "fw1"], &["fw1", "another XDP program", "ip link set fw1 xdp off"]);
    let nowhere = ["fw0", "fw1", "prefer-copy", "closed", "/proc/nowhere"];
    one_line(&nowhere, &["/proc/nowhere", "mount -t bpf"]);
}

#[test]
fn a_failed_start_leaves_nothing_pinned() {
    let Some(net) = Net::new(1, 1500) else { return };
    let Some(pins) = Pins::mount() else { return };
    // The first interface has been attached and pinned when the second refuses.
    let program = foreign_program(&net, "fw1");
    let args = ["fw0", "fw1", "prefer-copy", "closed", pins.folder.to_str().unwrap()];
    net.refused(&args);
    assert!(eventually(PATIENCE, || !attached(&net, "fw0")));
    // The kernel may put files of its own there.
    let ours = |name: &OsString| name.to_string_lossy().starts_with("fw");
    let left = std::fs::read_dir(&pins.folder).unwrap().map(|pin| pin.unwrap().file_name());
    assert_eq!(left.filter(ours).collect::<Vec<_>>(), [""; 0]);
    drop(program);
    let _forwarder = net.forward(&args[2..]);
    assert!(attached(&net, "fw0") && attached(&net, "fw1"));
}

/// Somebody else's program on an interface.
fn foreign_program(net: &Net, interface: &'static str) -> Program {
    let attach = move || {
        let interface = Interface::by_name(interface).unwrap();
        let mut program = Program::load(&interface, &Settings::default()).unwrap();
        program.attach(&interface, Attach::Native, None).unwrap();
        program
    };
    net.within(Place::Forwarder, attach).join().unwrap()
}

#[test]
fn a_queue_that_another_socket_holds_is_named() {
    let Some(net) = Net::new(2, 1500) else { return };
    let (bound, is_bound) = channel();
    let (done, is_done) = channel::<()>();
    let holder = net.within(Place::Forwarder, move || {
        use xsk_rs::config::{LibxdpFlags, SocketConfig, UmemConfig};
        let (umem, _) =
            xsk_rs::Umem::new(UmemConfig::default(), 64.try_into().unwrap(), false).unwrap();
        let config = SocketConfig::builder()
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build();
        // SAFETY: the UMEM is not shared.
        let socket =
            unsafe { xsk_rs::Socket::new(config, &umem, &"fw1".parse().unwrap(), 1) }.unwrap();
        // SAFETY: no pointers are passed. Forwarders started meanwhile must not inherit the socket.
        unsafe { libc::fcntl(socket.1.fd().as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        bound.send(()).unwrap();
        let _ = is_done.recv();
        drop(socket);
    });
    is_bound.recv().unwrap();
    let error = net.refused(&["fw0", "fw1"]);
    assert!(error.contains("fw1, queue 1: in use by another AF_XDP socket"), "{error}");
    assert!(!attached(&net, "fw0") && !attached(&net, "fw1"), "a failed start leaves something");
    // Freed within the time that a start waits.
    let waiter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(done);
        holder.join().unwrap();
    });
    net.forward(&[]);
    waiter.join().unwrap();
}

#[test]
fn sigkill_leaves_nothing_behind() {
    let Some(net) = Net::new(2, 1500) else { return };
    let mut probe = Probe::new(&net, echo(&net, SERVER_V4));
    for _ in 0..3 {
        let forwarder = net.forward(&[]);
        assert!(attached(&net, "fw0") && attached(&net, "fw1"));
        assert!(promiscuous(&net, "fw0"), "a wire must see packets for any address");
        assert!(probe.flows());
        forwarder.kill();
        assert!(eventually(Duration::from_secs(1), || !attached(&net, "fw0")));
        assert!(eventually(Duration::from_secs(1), || !attached(&net, "fw1")));
        assert!(!promiscuous(&net, "fw0"));
        // Nothing else connects the two interfaces, so nothing passes.
        assert!(!probe.passes(64, Duration::from_millis(200)));
    }
}

#[test]
fn after_sigkill_a_bridge_beneath_carries_the_packets() {
    let Some(net) = Net::new(2, 1500) else { return };
    net.bridge();
    let mut probe = Probe::new(&net, echo(&net, SERVER_V4));
    let forwarder = net.forward(&["prefer-copy", "closed"]);
    assert!(probe.flows());
    forwarder.kill();
    assert!(probe.flows());
}

/// Both failure modes, over a host whose bridge could carry the packets and over one without.
fn stalled(failure: &str, bridge: bool) {
    let Some(net) = Net::new(2, 1500) else { return };
    if bridge {
        net.bridge();
    }
    let forwarder = net.forward(&["prefer-copy", failure]);
    let mut probe = Probe::new(&net, echo(&net, SERVER_V4));
    assert!(probe.flows());

    forwarder.signal(libc::SIGSTOP);
    within_a_second(&mut probe, failure);
    if failure == "open" {
        tcp(&net, SERVER_V6, 1 << 20);
    }
    forwarder.signal(libc::SIGCONT);
    assert!(probe.flows(), "{failure}: not flowing again");
    let report = String::from_utf8(forwarder.finish().stdout).unwrap();
    let verdict = if failure == "open" { "stale_passed" } else { "stale_dropped" };
    assert!(report.contains(verdict), "{report}");
}

#[test]
fn stalled_means_closed_within_a_second_over_a_bridge() {
    stalled("closed", true);
}

#[test]
fn stalled_means_closed_within_a_second_over_nothing() {
    stalled("closed", false);
}

#[test]
fn stalled_means_open_within_a_second_over_a_bridge() {
    stalled("open", true);
}

#[test]
fn stalled_means_open_within_a_second_over_nothing() {
    stalled("open", false);
}

/// As above for a worker that died, where the programs are to outlive it; then a successor.
fn dead_but_pinned(failure: &str, bridge: bool) {
    let Some(net) = Net::new(2, 1500) else { return };
    let Some(pins) = Pins::mount() else { return };
    if bridge {
        net.bridge();
    }
    let args = ["prefer-copy", failure, pins.folder.to_str().unwrap()];
    let mut probe = Probe::new(&net, echo(&net, SERVER_V4));
    for _ in 0..2 {
        let forwarder = net.forward(&args);
        assert!(probe.flows());
        forwarder.kill();
        assert!(attached(&net, "fw0") && attached(&net, "fw1"));
        within_a_second(&mut probe, failure);
    }
    // A clean end leaves the programs as well; a successor that fails does not disturb.
    let forwarder = net.forward(&args);
    net.refused(&[&["fw0", "fw1"][..], &args].concat());
    assert!(probe.flows());
    assert!(forwarder.finish().status.success());
    within_a_second(&mut probe, failure);
    drop(pins);
    assert!(eventually(PATIENCE, || !attached(&net, "fw0") && !attached(&net, "fw1")));
    if bridge {
        assert!(probe.flows(), "the bridge does not carry packets");
    } else {
        assert!(!probe.passes(64, Duration::from_millis(200)), "the bypass stays");
    }
}

#[test]
fn dead_but_pinned_means_closed_within_a_second_over_a_bridge() {
    dead_but_pinned("closed", true);
}

#[test]
fn dead_but_pinned_means_closed_within_a_second_over_nothing() {
    dead_but_pinned("closed", false);
}

#[test]
fn dead_but_pinned_means_open_within_a_second_over_a_bridge() {
    dead_but_pinned("open", true);
}

#[test]
fn dead_but_pinned_means_open_within_a_second_over_nothing() {
    dead_but_pinned("open", false);
}

fn within_a_second(probe: &mut Probe, failure: &str) {
    let short = Duration::from_millis(50);
    if failure == "open" {
        assert!(eventually(Duration::from_secs(1), || probe.passes(64, short)), "not open");
    } else {
        std::thread::sleep(Duration::from_secs(1));
        for _ in 0..10 {
            assert!(!probe.passes(64, short), "passes though closed");
        }
    }
}

/// A BPF file system of a test's own.
struct Pins {
    folder: PathBuf,
}

impl Pins {
    fn mount() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("pcx-{}-{n}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&folder).status();
        let pins = Self { folder };
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: needs to mount a BPF file system");
            return None;
        }
        Some(pins)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for pin in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(pin.path());
        }
        let _ = Command::new("umount").arg(&self.folder).status();
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[test]
fn an_interface_that_goes_down_and_comes_back_carries_packets_again() {
    let Some(net) = Net::new(2, 1500) else { return };
    let _forwarder = net.forward(&[]);
    let mut probe = Probe::new(&net, echo(&net, SERVER_V4));
    assert!(probe.flows());
    net.ip(Place::Forwarder, &["link", "set", "fw1", "down"]);
    for _ in 0..5 {
        assert!(!probe.passes(64, Duration::from_millis(50)));
    }
    net.ip(Place::Forwarder, &["link", "set", "fw1", "up"]);
    assert!(probe.flows());
}

#[test]
fn an_interface_that_vanishes_is_told_of_and_can_be_opened_anew() {
    let Some(net) = Net::new(2, 1500) else { return };
    let forwarder = net.forward(&[]);
    let server = echo(&net, SERVER_V4);
    assert!(Probe::new(&net, server).flows());
    // With the pod, its end of the link goes, and so does ours.
    net.ip(Place::Client, &["link", "del", "c0"]);
    std::thread::sleep(Duration::from_millis(300));
    let output = forwarder.finish();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && report.contains("fw0: vanished"), "{report}");
    assert!(!report.contains("fw1: vanished"), "{report}");

    let peer = ["type", "veth", "peer", "name", "fw0", "netns", &net.name(Place::Forwarder)];
    net.ip(Place::Client, &[&["link", "add", "c0"][..], &peer].concat());
    net.ip(Place::Forwarder, &["link", "set", "fw0", "up"]);
    net.ip(Place::Client, &["link", "set", "c0", "up"]);
    net.ip(Place::Client, &["addr", "add", "10.9.0.1/24", "dev", "c0"]);
    let _forwarder = net.forward(&[]);
    assert!(Probe::new(&net, server).flows());
}

#[test]
fn idle_for_long_the_first_packet_passes() {
    let Some(net) = Net::new(1, 1500) else { return };
    let _forwarder = net.forward(&[]);
    let mut probe = Probe::new(&net, echo(&net, SERVER_V4));
    assert!(probe.flows());
    std::thread::sleep(Duration::from_millis(1500));
    assert!(probe.passes(64, PATIENCE), "the heartbeat stopped while idle");
}
