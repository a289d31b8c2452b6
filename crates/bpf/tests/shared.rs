//! Ports that share a loaded program: what they share and what they do not. Needs CAP_NET_ADMIN,
//! CAP_SYS_ADMIN (for network namespaces), CAP_BPF and iproute2.

mod lab;

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lab::{counts, in_a_namespace, ip, link, load, load_in, send};
use portcullis_bpf::{
    Attach, FailureMode, Heartbeat, Interface, Program, Programs, Settings, Verdict,
};

const XDP_DROP: u32 = 1;

fn ip_batch(commands: &str) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}

/// The number of the program that runs on an interface.
fn id(interface: &str) -> u64 {
    let said = ip(&format!("link show dev {interface}"));
    let id = said.split("prog/xdp id ").nth(1).unwrap_or_else(|| panic!("no program: {said}"));
    id.split_whitespace().next().unwrap().parse().unwrap()
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
fn all_ports_of_a_full_node_share_one_program() {
    in_a_namespace(|| {
        let programs = Programs::default();
        let commands: String = (0..250)
            .map(|n| format!("link add a{n} up type veth peer name b{n}\nlink set b{n} up\n"))
            .collect();
        ip_batch(&commands);
        let names: Vec<_> = (0..250).flat_map(|n| [format!("a{n}"), format!("b{n}")]).collect();
        let loaded: Vec<_> =
            names.iter().map(|name| load(&programs, name, &Settings::default())).collect();
        let ids: BTreeSet<_> = names.iter().map(|name| id(name)).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");

        for (n, name) in names.iter().enumerate() {
            send(name, n % 7 + 1);
        }
        for (n, program) in loaded.iter().enumerate() {
            // What is sent on one end arrives at the other.
            let came = (n ^ 1) as u64 % 7 + 1;
            assert_eq!(counts(program, came), [(Verdict::StaleDropped, came)], "{}", names[n]);
        }
    });
}

#[test]
fn when_a_program_is_full_the_next_has_room() {
    in_a_namespace(|| {
        let programs = Programs::default();
        let (queues, names) = ("numrxqueues 2500 numtxqueues 1", ["port-a", "port-b", "port-c"]);
        for (name, queues) in names.into_iter().zip([queues, queues, "numrxqueues 1"]) {
            ip(&format!("link add {name} up {queues} type veth peer name far-{name}"));
            ip(&format!("link set far-{name} up"));
        }
        let generic = |name| load_in(Attach::Generic, &programs, name, &Settings::default());
        let loaded = names.map(generic);
        let [a, b, c] = names.map(id);
        assert!(a != b && a == c, "4,096 queues have room: {a} {b} {c}");
        for (n, name) in names.iter().enumerate() {
            send(&format!("far-{name}"), n + 1);
        }
        for (program, came) in loaded.iter().zip(1..) {
            assert_eq!(counts(program, came), [(Verdict::StaleDropped, came)]);
        }
        // What was full has room again.
        let [full, other, _] = loaded;
        drop((full, other));
        let _again = generic("port-b");
        assert_eq!(id("port-b"), c);
    });
}
