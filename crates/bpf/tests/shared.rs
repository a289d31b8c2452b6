//! Ports that share a loaded program: what they share and what they do not. Needs CAP_NET_ADMIN,
//! CAP_SYS_ADMIN (for network namespaces), CAP_BPF and iproute2.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::CString;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use portcullis_bpf::{
    Attach, Error, FailureMode, Heartbeat, Interface, Kind, Program, Programs, Settings, Verdict,
};

const XDP_DROP: u32 = 1;

/// Runs a test in a network namespace of its own; says so aloud where that is not permitted.
fn in_a_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: no pointers are passed; the thread ends with the test.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                eprintln!("skipped: {}", std::io::Error::last_os_error());
                return;
            }
            let lo = Interface::by_name("lo").unwrap();
            match Programs::default().load(&lo, &Settings::default()) {
                Err(Error::NotPermitted { .. }) => eprintln!("skipped: needs CAP_BPF"),
                answer => {
                    answer.unwrap();
                    test();
                }
            }
        });
    });
}

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A link between two interfaces, up.
fn link(one: &str, other: &str) {
    ip(&format!("link add name {one} type veth peer name {other}"));
    for end in [one, other] {
        ip(&format!("link set {end} up"));
    }
}

fn load(programs: &Programs, interface: &str, settings: &Settings) -> Program {
    let interface = Interface::by_name(interface).unwrap();
    let mut program = programs.load(&interface, settings).unwrap();
    // What another thread starts meanwhile has a predecessor's link open for a moment.
    for _ in 0..100 {
        match program.attach(&interface, Attach::Native, None) {
            Err(Error::Occupied { .. }) => thread::sleep(Duration::from_millis(10)),
            answer => {
                answer.unwrap();
                return program;
            }
        }
    }
    panic!("port {} stays occupied", interface.name());
}

/// The number of the program that runs on an interface.
fn id(interface: &str) -> u64 {
    let said = ip(&format!("link show dev {interface}"));
    let id = said.split("prog/xdp id ").nth(1).unwrap_or_else(|| panic!("no program: {said}"));
    id.split_whitespace().next().unwrap().parse().unwrap()
}

/// Sends frames that no network stack makes by itself.
fn send(interface: &str, count: usize) {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: opened above, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let name = CString::new(interface).unwrap();
    // SAFETY: all zeroes is a valid address.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    // SAFETY: the name is NUL-terminated.
    to.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    let mut frame = [0u8; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for _ in 0..count {
        // SAFETY: frame and address live through the call and their sizes are given.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(sent, 60, "{}", std::io::Error::last_os_error());
    }
}

/// Such frames by where they went, once there are `sum` of them.
fn counts(program: &Program, sum: u64) -> Vec<(Verdict, u64)> {
    let mut all = Vec::new();
    for _ in 0..200 {
        let counters = program.counters().unwrap();
        let count = |verdict| (verdict, counters.of(verdict, Kind::Other).packets);
        all = Verdict::ALL.map(count).into_iter().filter(|(_, packets)| *packets > 0).collect();
        if all.iter().map(|(_, packets)| packets).sum::<u64>() >= sum {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    all
}

#[test]
fn ports_of_one_set_share_the_program_but_neither_heartbeats_nor_counters() {
    in_a_namespace(|| {
        link("port-a", "far-a");
        link("port-b", "far-b");
        let programs = Programs::default();
        let settings = Settings { stale_after: Duration::from_secs(30), ..Settings::default() };
        let a = load(&programs, "port-a", &settings);
        let b = load(&programs.clone(), "port-b", &settings);
        assert_eq!(id("port-a"), id("port-b"));

        a.heartbeat(0).unwrap().beat();
        send("far-a", 3);
        send("far-b", 5);
        assert_eq!(counts(&a, 3), [(Verdict::MissDropped, 3)]);
        assert_eq!(counts(&b, 5), [(Verdict::StaleDropped, 5)]);

        // One goes and comes again: the other does not notice, and it begins anew.
        drop(a);
        send("far-b", 1);
        assert_eq!(counts(&b, 6), [(Verdict::StaleDropped, 6)]);
        let a = load(&programs, "port-a", &settings);
        assert_eq!(id("port-a"), id("port-b"));
        send("far-a", 2);
        assert_eq!(counts(&a, 2), [(Verdict::StaleDropped, 2)]);
    });
}

#[test]
fn the_heartbeat_of_a_port_that_is_gone_speaks_for_no_other() {
    in_a_namespace(|| {
        let programs = Programs::default();
        let lo = Interface::by_name("lo").unwrap();
        let load = || programs.load(&lo, &Settings::default()).unwrap();
        let first = load();
        let stray = first.heartbeat(0).unwrap();
        drop(first);
        let second = load();
        stray.beat();
        assert_eq!(second.test_run(&[0; 60]).unwrap().0, XDP_DROP);
        assert_eq!(counts(&second, 1), [(Verdict::StaleDropped, 1)]);
        second.heartbeat(0).unwrap().beat();
        stray.stop();
        assert_eq!(second.test_run(&[0; 60]).unwrap().0, XDP_DROP);
        assert_eq!(counts(&second, 2), [(Verdict::MissDropped, 1), (Verdict::StaleDropped, 1)]);
    });
}

#[test]
fn an_interface_that_is_opened_twice_gets_a_program_of_its_own() {
    in_a_namespace(|| {
        let programs = Programs::default();
        let lo = Interface::by_name("lo").unwrap();
        let [one, other] = [(); 2].map(|()| programs.load(&lo, &Settings::default()).unwrap());
        one.heartbeat(0).unwrap().beat();
        for program in [&one, &other] {
            program.test_run(&[0; 60]).unwrap();
        }
        assert_eq!(counts(&one, 1), [(Verdict::MissDropped, 1)]);
        assert_eq!(counts(&other, 1), [(Verdict::StaleDropped, 1)]);
    });
}

#[test]
fn other_settings_or_another_namespace_mean_another_program() {
    in_a_namespace(|| {
        for (one, other) in [("port-a", "port-b"), ("port-c", "port-d")] {
            link(one, other);
        }
        let programs = Programs::default();
        let open = Settings { failure: FailureMode::Open, ..Settings::default() };
        let early_drop = Settings { early_drop_capacity: 2, ..Settings::default() };
        let _closed = load(&programs, "port-a", &Settings::default());
        let _open = load(&programs, "port-b", &open);
        let _dropping = load(&programs, "port-c", &early_drop);
        let patient = Settings { stale_after: Duration::from_secs(1), ..Settings::default() };
        let _patient = load(&programs, "port-d", &patient);
        let ids: BTreeSet<_> = ["port-a", "port-b", "port-c", "port-d"].map(id).into();
        assert_eq!(ids.len(), 4, "{ids:?}");

        // Both have the index 1.
        let lo = Interface::by_name("lo").unwrap();
        let here = programs.load(&lo, &Settings::default()).unwrap();
        here.heartbeat(0).unwrap().beat();
        in_a_namespace(|| {
            let lo = Interface::by_name("lo").unwrap();
            let there = programs.load(&lo, &Settings::default()).unwrap();
            there.test_run(&[0; 60]).unwrap();
            assert_eq!(counts(&there, 1), [(Verdict::StaleDropped, 1)]);
        });
        here.test_run(&[0; 60]).unwrap();
        assert_eq!(counts(&here, 1), [(Verdict::MissDropped, 1)]);
    });
}

#[test]
fn the_early_drop_set_is_one_for_all_ports_of_the_same_capacity() {
    in_a_namespace(|| {
        link("port-a", "port-b");
        let programs = Programs::default();
        let of = |early_drop_capacity| Settings { early_drop_capacity, ..Settings::default() };
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let a = load(&programs, "port-a", &of(2));
        a.early_drop().insert(source, 32).unwrap();
        let failing_open = Settings { failure: FailureMode::Open, ..of(2) };
        let lo = Interface::by_name("lo").unwrap();
        let other_program = programs.load(&lo, &failing_open).unwrap();
        let more = load(&programs, "port-b", &of(3));
        let of_others = Programs::default().load(&lo, &of(2)).unwrap();
        assert!(a.early_drop().is(other_program.early_drop()));
        assert!(
            !a.early_drop().is(more.early_drop()) && !a.early_drop().is(of_others.early_drop())
        );
        let packet = [&[0u8; 12][..], &[8, 0, 0x45], &[0; 11], &[192, 0, 2, 1], &[0; 30]].concat();
        let drops = |program: &Program| {
            program.test_run(&packet).unwrap();
            program.counters().unwrap().total(Verdict::EarlyDropped).packets > 0
        };
        assert!(drops(&other_program), "the set is there before the port");
        assert!(!drops(&of_others));
        // It lasts as long as one of its ports.
        drop(a);
        assert_eq!(other_program.early_drop().prefixes().collect::<Vec<_>>(), [(source, 32)]);
        assert!(load(&programs, "port-a", &of(2)).early_drop().is(other_program.early_drop()));
    });
}

/// Tells other threads to end, also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn ports_that_come_and_go_on_several_threads_do_not_meet() {
    in_a_namespace(|| {
        link("port-a", "port-b");
        let programs = Programs::default();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for name in ["port-a", "port-b", "port-a"] {
                let (programs, done) = (&programs, &done);
                scope.spawn(move || {
                    let interface = Interface::by_name(name).unwrap();
                    let mut strays = VecDeque::new();
                    while !done.load(Ordering::Relaxed) {
                        let program = programs.load(&interface, &Settings::default()).unwrap();
                        strays.push_back(program.heartbeat(0).unwrap());
                        // They beat on when their port is gone.
                        strays.iter().for_each(Heartbeat::beat);
                        drop(program);
                        strays.iter().for_each(Heartbeat::beat);
                        if strays.len() == 20 {
                            strays.drain(..10);
                        }
                    }
                });
            }
            let _ends_them = Ends(&done);
            let lo = Interface::by_name("lo").unwrap();
            for _ in 0..500 {
                let program = programs.load(&lo, &Settings::default()).unwrap();
                program.test_run(&[0; 60]).unwrap();
                program.heartbeat(0).unwrap().beat();
                program.test_run(&[0; 60]).unwrap();
                let expected = [(Verdict::MissDropped, 1), (Verdict::StaleDropped, 1)];
                assert_eq!(counts(&program, 2), expected);
            }
        });
    });
}

#[test]
fn when_a_program_is_full_the_next_has_room() {
    in_a_namespace(|| {
        let programs = Programs::default();
        let mut loaded = Vec::new();
        for n in 0..36 {
            let (one, other) = (format!("a{n}"), format!("b{n}"));
            link(&one, &other);
            for name in [one, other] {
                loaded.push((load(&programs, &name, &Settings::default()), name));
            }
        }
        let ids: BTreeSet<_> = loaded.iter().map(|(_, name)| id(name)).collect();
        assert_eq!(ids.len(), 2, "64 ports and 8");
        for (n, (_, name)) in loaded.iter().enumerate() {
            send(name, n + 1);
        }
        for (n, (program, _)) in loaded.iter().enumerate() {
            // What is sent on one end arrives at the other.
            let came = if n % 2 == 0 { n + 2 } else { n } as u64;
            assert_eq!(counts(program, came), [(Verdict::StaleDropped, came)]);
        }
    });
}
