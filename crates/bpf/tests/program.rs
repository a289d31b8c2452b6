//! The program in the kernel, over exact packets, by BPF_PROG_TEST_RUN. Needs CAP_BPF.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use portcullis_bpf::{
    Count, Error, FailureMode, Interface, Kind, Program, Replaced, Settings, Verdict,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// A program for the loopback interface, whose queue 0 test packets seem to come from; `None`, said
/// aloud, without the privileges.
fn load(settings: &Settings) -> Option<Program> {
    let interface = Interface::by_name("lo").unwrap();
    match Program::load(&interface, settings) {
        Ok(program) => Some(program),
        Err(Error::NotPermitted { .. }) => {
            eprintln!("skipped: needs CAP_NET_ADMIN and CAP_BPF");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// An AF_XDP socket that is bound to nothing: enough for the map to take it.
fn socket() -> OwnedFd {
    const XDP_RX_RING: i32 = 2;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: opened above, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let entries = 64u32;
    // SAFETY: the option is one u32, which lives through the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_RX_RING,
            std::ptr::from_ref(&entries).cast(),
            4,
        )
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    socket
}

fn ethernet(ether_type: [u8; 2], rest: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ether_type[..], rest].concat()
}

fn ipv4() -> Vec<u8> {
    let mut header = [0u8; 40];
    header[0] = 0x45;
    header[3] = 40;
    header[8] = 64;
    header[9] = 6;
    header[12..16].copy_from_slice(&[10, 0, 0, 1]);
    header[16..20].copy_from_slice(&[10, 0, 0, 2]);
    header.to_vec()
}

fn ipv6() -> Vec<u8> {
    let mut header = [0u8; 60];
    header[0] = 0x60;
    header[5] = 20;
    header[6] = 6;
    header.to_vec()
}

/// Packets with the kind that the program must see in them.
fn packets() -> Vec<(Vec<u8>, Kind)> {
    let tag = |next: [u8; 2], rest: &[u8]| [&[0, 7], &next[..], rest].concat();
    vec![
        (ethernet([0x08, 0x00], &ipv4()), Kind::Ipv4),
        (ethernet([0x86, 0xdd], &ipv6()), Kind::Ipv6),
        (ethernet([0x08, 0x06], &[0; 46]), Kind::Arp),
        (ethernet([0x88, 0xcc], &[0; 46]), Kind::Other),
        (ethernet([0x81, 0x00], &tag([0x08, 0x00], &ipv4())), Kind::Ipv4),
        (ethernet([0x88, 0xa8], &tag([0x81, 0x00], &tag([0x86, 0xdd], &ipv6()))), Kind::Ipv6),
        (
            ethernet([0x81, 0x00], &tag([0x81, 0x00], &tag([0x81, 0x00], &tag([8, 0], &ipv4())))),
            Kind::Other,
        ),
        // Shorter than their headers say.
        (ethernet([0x08, 0x00], &ipv4()[..19]), Kind::Other),
        (ethernet([0x86, 0xdd], &ipv6()[..39]), Kind::Other),
        (ethernet([0x81, 0x00], &[0, 7]), Kind::Other),
        (ethernet([0x08, 0x00], &[]), Kind::Other),
    ]
}

/// Runs all packets; checks the action, that the packet is left as it was, and the counters.
fn check(program: &Program, action: u32, verdict: Verdict) {
    let before = program.counters().unwrap();
    let mut expected = [Count::default(); Kind::ALL.len()];
    for (packet, kind) in packets() {
        let (got, left) = program.test_run(&packet).unwrap();
        assert_eq!(got, action, "{kind:?} {packet:02x?}");
        assert_eq!(left, packet, "the packet was changed");
        expected[kind as usize].packets += 1;
        expected[kind as usize].bytes += packet.len() as u64;
    }
    let after = program.counters().unwrap();
    for kind in Kind::ALL {
        let (before, after) = (before.of(verdict, kind), after.of(verdict, kind));
        let counted =
            Count { packets: after.packets - before.packets, bytes: after.bytes - before.bytes };
        assert_eq!(counted, expected[kind as usize], "{verdict} {kind:?}");
    }
}

#[test]
fn without_a_heartbeat_the_failure_mode_holds() {
    for (failure, action, verdict) in [
        (FailureMode::Closed, XDP_DROP, Verdict::StaleDropped),
        (FailureMode::Open, XDP_PASS, Verdict::StalePassed),
    ] {
        let Some(program) = load(&Settings { failure, ..Settings::default() }) else { return };
        program.set_socket(0, socket().as_fd()).unwrap();
        check(&program, action, verdict);
    }
}

#[test]
fn without_a_socket_the_failure_mode_holds() {
    for (failure, action, verdict) in [
        (FailureMode::Closed, XDP_DROP, Verdict::MissDropped),
        (FailureMode::Open, XDP_PASS, Verdict::MissPassed),
    ] {
        let Some(program) = load(&Settings { failure, ..Settings::default() }) else { return };
        program.heartbeat(0).unwrap().beat();
        check(&program, action, verdict);
    }
}

#[test]
fn a_live_socket_gets_every_packet_until_the_heart_stops() {
    let stale_after = Duration::from_millis(100);
    let Some(program) = load(&Settings { stale_after, ..Settings::default() }) else { return };
    let heartbeat = program.heartbeat(0).unwrap();
    let socket = socket();
    program.set_socket(0, socket.as_fd()).unwrap();

    heartbeat.beat();
    check(&program, XDP_REDIRECT, Verdict::ToSocket);
    sleep(stale_after * 2);
    check(&program, XDP_DROP, Verdict::StaleDropped);
    heartbeat.beat();
    check(&program, XDP_REDIRECT, Verdict::ToSocket);
    heartbeat.stop();
    check(&program, XDP_DROP, Verdict::StaleDropped);
}

#[test]
fn sources_in_the_early_drop_set_are_dropped_behind_any_tags() {
    let settings =
        Settings { early_drop_capacity: 3, failure: FailureMode::Open, ..Settings::default() };
    let Some(program) = load(&settings) else { return };
    let set = program.early_drop();
    let run = |packet: &[u8]| program.test_run(packet).unwrap().0;
    let tagged = ethernet([0x81, 0x00], &[&[0, 7, 0x08, 0x00][..], &ipv4()].concat());
    let (v4, v6) = (ethernet([0x08, 0x00], &ipv4()), ethernet([0x86, 0xdd], &ipv6()));
    let any: IpAddr = "::".parse().unwrap();
    let ten = "10.0.0.0".parse().unwrap();
    assert_eq!([run(&v4), run(&tagged), run(&v6)], [XDP_PASS; 3]);

    set.insert(ten, 8).unwrap();
    assert_eq!([run(&v4), run(&tagged), run(&v6)], [XDP_DROP, XDP_DROP, XDP_PASS]);
    set.insert(any, 128).unwrap();
    assert_eq!([run(&v4), run(&v6)], [XDP_DROP; 2]);
    assert_eq!(program.counters().unwrap().total(Verdict::EarlyDropped).packets, 4);
    // Cut short, there is no source to look up.
    assert_eq!(run(&v4[..33]), XDP_PASS);

    assert!(set.remove(ten, 8).unwrap() && !set.remove(ten, 8).unwrap());
    assert_eq!([run(&v4), run(&v6)], [XDP_PASS, XDP_DROP]);
    // The next address is another one.
    set.insert("10.0.0.2".parse().unwrap(), 32).unwrap();
    set.insert("10.0.0.0".parse().unwrap(), 32).unwrap();
    assert_eq!(run(&v4), XDP_PASS);

    assert!(matches!(set.insert(ten, 33), Err(Error::Prefix { .. })));
    set.insert(ten, 9).unwrap();
    assert!(matches!(set.insert(ten, 10), Err(Error::EarlyDropFull { capacity: 3, .. })));
}

#[test]
fn the_early_drop_set_is_replaced_as_a_whole_or_not_at_all() {
    let settings = Settings { early_drop_capacity: 3, ..Settings::default() };
    let Some(program) = load(&settings) else { return };
    let set = program.early_drop();
    let nets = |texts: &[&str]| -> Vec<(IpAddr, u8)> {
        let split = |text: &&str| text.split_once('/').map(|(a, l)| (a.to_owned(), l.to_owned()));
        let parts = texts.iter().filter_map(split);
        parts.map(|(a, l)| (a.parse().unwrap(), l.parse().unwrap())).collect()
    };
    let sorted = || {
        let mut all: Vec<_> = set.prefixes().collect();
        all.sort();
        all
    };
    let did = |replaced: Replaced| (replaced.prefixes, replaced.added, replaced.removed);
    let first = nets(&["10.1.2.3/8", "10.9.9.9/8", "192.0.2.0/24", "2001:db8::1/32", "0.0.0.0/0"]);
    assert_eq!(did(set.replace(first).unwrap()), (4, 4, 0));
    let there = nets(&["0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]);
    assert_eq!(sorted(), there);

    let too_many = nets(&["1.0.0.0/8", "2.0.0.0/8", "3.0.0.0/8", "4.0.0.0/8"]);
    let error = set.replace(too_many).unwrap_err();
    assert!(matches!(error, Error::EarlyDropFull { capacity: 3, .. }), "{error}");
    assert!(matches!(set.replace(nets(&["1.0.0.0/33"])), Err(Error::Prefix { .. })));
    assert_eq!(sorted(), there, "nothing changed");

    // As many as there is room for, none of which was there.
    let others = nets(&["1.0.0.0/8", "2.0.0.0/8", "3.0.0.0/8", "::/0"]);
    assert_eq!(did(set.replace(others.clone()).unwrap()), (4, 4, 4));
    assert_eq!(did(set.replace(others.clone()).unwrap()), (4, 0, 0));
    assert_eq!(sorted(), others);
    assert_eq!(did(set.replace([]).unwrap()), (0, 0, 4));
    assert_eq!(sorted(), []);
}

#[test]
fn without_a_capacity_there_is_no_early_drop_set() {
    let Some(program) = load(&Settings::default()) else { return };
    let error = program.early_drop().insert("10.0.0.0".parse().unwrap(), 8).unwrap_err();
    assert!(matches!(error, Error::EarlyDropFull { capacity: 0, .. }), "{error}");
}

#[test]
fn queues_and_sockets_that_cannot_be_are_refused() {
    let Some(program) = load(&Settings::default()) else { return };
    assert!(matches!(program.heartbeat(1), Err(Error::NoSuchQueue { queue: 1, queues: 1 })));
    let error = program.set_socket(1, socket().as_fd()).unwrap_err();
    assert!(matches!(error, Error::NoSuchQueue { .. }), "{error}");
    let file = File::open("/dev/null").unwrap();
    let error = program.set_socket(0, file.as_fd()).unwrap_err();
    assert!(matches!(error, Error::System { .. }) && error.errno().is_some(), "{error}");
}
