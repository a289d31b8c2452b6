//! A firewall that nothing passes through costs next to nothing, and is there at once when something
//! comes. Needs CAP_NET_ADMIN; says so and skips without.
//!
//! Figures of a quiet machine: `cargo test --release -p portcullis-cli --test idle -- --nocapture`.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)] // each test uses its own part
mod lab;
#[allow(dead_code)] // each test uses its own part
mod support;

use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use support::{POLICIES, Wire, privileged};

/// Longer than a worker looks around before it sleeps, and no multiple of how long it sleeps.
const PAUSE: Duration = Duration::from_millis(37);

/// From one host's send to the other's interface, from sleep. An unoptimised build has to show only that
/// nothing waits for the worker's next look by the clock.
const AWAKE: Duration = Duration::from_micros(if cfg!(debug_assertions) { 500 } else { 100 });

/// Time on a CPU of all threads of a process.
fn cpu(process: u32) -> Duration {
    let mut all = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let path = task.unwrap().path().join("schedstat");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        all += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Duration::from_nanos(all)
}

#[test]
fn an_idle_firewall_costs_next_to_nothing_and_wakes_at_once() {
    if !privileged() {
        return;
    }
    let wire = Wire::build();
    wire.write_policies(&POLICIES.replace("port: 5432", "port: 5432, protocol: UDP"));
    let mut run = wire.run(&[]);
    run.wait_for("ready");
    let [client, server] = wire.ends();
    let receiver = server.run(|| UdpSocket::bind("10.78.0.2:5432")).unwrap().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    setsockopt(&receiver, sockopt::ReceiveTimestampns, &true).unwrap();
    let sender = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    sender.connect("10.78.0.2:5432").unwrap();

    let once = || {
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        sender.send(b"wake").unwrap();
        let mut data = [0; 16];
        let mut parts = [IoSliceMut::new(&mut data)];
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let fd = receiver.as_raw_fd();
        let got = recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::empty()).unwrap();
        let stamp = got.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => Some(time),
            _ => None,
        });
        // The kernel's, when it came out of the interface: what the receiver does is not the firewall's.
        let stamp = Duration::from(stamp.expect("asked for"));
        stamp.saturating_sub(began)
    };
    once(); // neighbours are asked for, the connection opens
    // The whole way from one host's send to the other's interface. A machine that is busy with other
    // things makes it longer, never shorter: so a quick tenth says what the firewall takes, and on a very
    // busy one several tries do.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let mut times: Vec<Duration> = (0..100)
            .map(|_| {
                std::thread::sleep(PAUSE);
                once()
            })
            .collect();
        times.sort();
        let awake = (0..100).map(|_| once()).min().unwrap();
        println!(
            "from sleep: fastest {:?}, 10 % {:?}, median {:?}, 90 % {:?}, slowest {:?}; one after the \
             other: fastest {awake:?}",
            times[0], times[10], times[50], times[90], times[99],
        );
        if times[10] <= AWAKE {
            break;
        }
        assert!(Instant::now() < end, "{times:?}");
    }

    std::thread::sleep(Duration::from_millis(200));
    let (began, before) = (Instant::now(), cpu(run.id()));
    std::thread::sleep(Duration::from_secs(4));
    let share = (cpu(run.id()) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("idle: {:.2} % of a core", share * 100.0);
    assert!(before > Duration::ZERO && share < 0.01, "{:.2} % of a core", share * 100.0);
    assert_eq!(run.terminate(), Some(0));
}
