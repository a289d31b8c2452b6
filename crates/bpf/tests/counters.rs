//! What the program counts of the ports that share it, on all CPUs at once and while ports come and go.
//! Needs CAP_NET_ADMIN, CAP_SYS_ADMIN (for network namespaces), CAP_BPF, iproute2.

mod lab;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use lab::{counts, in_a_namespace, ip, link, load, load_in, send};
use portcullis_bpf::{Attach, Interface, Programs, Settings, Verdict};

#[test]
fn nothing_is_counted_twice_or_not_at_all_by_cpus_that_run_at_once() {
    const THREADS: usize = 4;
    // All of them fit the queue of a veth.
    const BURST: usize = 50;
    for mode in [Attach::Generic, Attach::Native] {
        in_a_namespace(|| {
            link("port-a", "far-a");
            let program = load_in(mode, &Programs::default(), "port-a", &Settings::default());
            let (begin, end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
            thread::scope(|scope| {
                for cpu in 0..THREADS {
                    let (begin, end) = (&begin, &end);
                    scope.spawn(move || {
                        run_on(cpu);
                        for _ in 0..200 {
                            begin.wait();
                            send("far-a", BURST);
                            end.wait();
                        }
                    });
                }
                let mut wrong = None;
                for round in 1..=200 {
                    begin.wait();
                    end.wait();
                    let sent = (round * THREADS * BURST) as u64;
                    let counted = counts(&program, if wrong.is_none() { sent } else { 0 });
                    if counted != [(Verdict::StaleDropped, sent)] && wrong.is_none() {
                        wrong = Some((mode, sent, counted));
                    }
                }
                assert_eq!(wrong, None);
            });
        });
    }
}

/// Keeps the calling thread on one CPU, if there are so many.
fn run_on(cpu: usize) {
    // SAFETY: an empty set is all zeroes.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set has room for 1,024.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set lives through the call and its size is given.
    let _ = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
}

#[test]
fn a_port_in_the_place_of_another_begins_at_zero() {
    in_a_namespace(|| {
        let names: Vec<_> = (0..6).map(|n| format!("port{n}")).collect();
        for name in &names {
            link(name, &format!("far-{name}"));
        }
        let programs = Programs::default();
        let settings = Settings::default();
        // It holds the program; the others come and go in the same slots and the same memory.
        let stays = load(&programs, &names[0], &settings);
        send("far-port0", 3);
        for round in 0..10 {
            let there: Vec<_> = names[1..].iter().skip(round % 3).collect();
            let programs: Vec<_> =
                there.iter().map(|name| load(&programs, name, &settings)).collect();
            for program in &programs {
                assert_eq!(counts(program, 0), [], "round {round}");
            }
            for (n, name) in there.iter().enumerate() {
                send(&format!("far-{name}"), n + round + 1);
            }
            for (n, program) in programs.iter().enumerate() {
                let came = (n + round + 1) as u64;
                assert_eq!(counts(program, came), [(Verdict::StaleDropped, came)]);
            }
            assert_eq!(counts(&stays, 3), [(Verdict::StaleDropped, 3)]);
        }
    });
}

#[test]
fn an_interface_made_anew_under_the_number_of_another_begins_at_zero() {
    in_a_namespace(|| {
        let programs = Programs::default();
        let make = || ip("link add port-a up index 77 type veth peer name far-a");
        for round in 0..5 {
            make();
            ip("link set far-a up");
            assert_eq!(Interface::by_name("port-a").unwrap().index(), 77);
            let program = load(&programs, "port-a", &Settings::default());
            assert_eq!(counts(&program, 0), [], "round {round}");
            send("far-a", round + 1);
            let came = round as u64 + 1;
            assert_eq!(counts(&program, came), [(Verdict::StaleDropped, came)]);
            // Also where the interface goes before its port.
            if round % 2 == 0 {
                drop(program);
                ip("link del port-a");
            } else {
                ip("link del port-a");
                drop(program);
            }
        }
    });
}

/// A queue of a tap named `tap`.
fn tap_queue() -> std::io::Result<File> {
    // Of linux/if_tun.h.
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tap") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the file is open and the request lives through the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn a_tap_counts_what_several_threads_write_at_once_and_what_a_later_queue_gets() {
    in_a_namespace(|| {
        let queue = match tap_queue() {
            Ok(queue) => queue,
            Err(error) => {
                eprintln!("skipped: {error}");
                return;
            }
        };
        ip("link set tap up");
        assert_eq!(Interface::by_name("tap").unwrap().rx_queues(), 1);
        let program = load(&Programs::default(), "tap", &patient());
        program.heartbeat(0).unwrap().beat();
        let mut frame = [0; 60];
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        const EACH: u64 = 30_000;
        thread::scope(|scope| {
            for cpu in 0..4 {
                let (mut queue, frame) = (&queue, &frame);
                scope.spawn(move || {
                    run_on(cpu);
                    for _ in 0..EACH {
                        queue.write_all(frame).unwrap();
                    }
                });
            }
        });
        assert_eq!(counts(&program, 4 * EACH), [(Verdict::MissDropped, 4 * EACH)]);
        let mut later = tap_queue().unwrap();
        for _ in 0..7 {
            later.write_all(&frame).unwrap();
        }
        let expected = [(Verdict::MissDropped, 4 * EACH), (Verdict::StaleDropped, 7)];
        assert_eq!(counts(&program, 4 * EACH + 7), expected);
    });
}

/// So that one heartbeat lasts for a whole test.
fn patient() -> Settings {
    Settings { stale_after: Duration::from_secs(60), ..Settings::default() }
}
