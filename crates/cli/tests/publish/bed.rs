//! A firewall between two hosts, traffic through it, and what is counted on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::{Config, Firewall};

use crate::account::{Account, ByStream, transmit_drops};
use crate::documents;
use crate::feed;
use crate::lab::traffic::{Generator, Load, STREAMS, Sink};
use crate::lab::{self, Namespace, Neighbours, Path};

/// Connections, over all streams.
const FLOWS: u32 = 512;

/// Longest wait for packets on their way.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at them.
const LOOK: Duration = Duration::from_micros(50);

/// The hosts, the firewall and the sink.
pub(crate) struct Bed {
    path: Path,
    pub(crate) firewall: Firewall,
    sink: Sink,
    interface: u32,
}

/// Stops the traffic, also when what it is for fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Bed {
    /// Version 0 is in force. `None`, and says so, without the privileges.
    pub(crate) fn build(change: impl FnOnce(Config) -> Config) -> Option<Self> {
        if let Err(error) = Namespace::new() {
            eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN ({error})");
            return None;
        }
        let path = Path::build(Neighbours::EachOther, 1).unwrap();
        // The hosts say nothing on their own account: what is counted is the traffic, to the packet.
        for host in [&path.client, &path.middle, &path.server] {
            let quiet = || std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            // A kernel without IPv6 has nothing to silence.
            let _ = host.run(quiet).unwrap();
        }
        let (fw0, fw1) = Path::MIDDLE;
        let config = change(Config::wire(fw0, fw1));
        let start = || Firewall::start(config, documents::cluster(0), documents::policies(0, 0));
        let firewall = path.middle.run(start).unwrap().unwrap();
        firewall.sets().replace(feed::NAME, feed::prefixes(0, 0)).unwrap();
        let interface = lab::eth0(&path.client).unwrap();
        let mut sink = Sink::new().unwrap();
        let at_server = lab::eth0(&path.server).unwrap();
        path.server.run(|| sink.attach(at_server)).unwrap().unwrap();
        Some(Self { path, firewall, sink, interface })
    }

    /// Does `work` while packets of all streams flow in turn, `rate` a second together (`None`: as
    /// many as the kernel makes). Answers what became of them, and how many a second they were.
    pub(crate) fn under_traffic(&self, rate: Option<u32>, work: impl FnOnce()) -> (Account, f64) {
        let before = self.account(0);
        let generator = Generator::new(&Load {
            interface: self.interface,
            interfaces: 1,
            turn: 1,
            link: [Path::SERVER_LINK, Path::CLIENT_LINK],
            source: Path::CLIENT,
            sources: STREAMS.into(),
            destination: Path::SERVER,
            flows: FLOWS,
            rate,
            stream: 0,
            streams: STREAMS,
        })
        .unwrap();
        let stop = AtomicBool::new(false);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let send = || {
                    while !stop.load(Ordering::Relaxed) {
                        generator.send_for(Duration::from_millis(300)).unwrap();
                    }
                };
                self.path.client.run(send).unwrap();
            });
            let _stop = Stop(&stop);
            // Not before packets flow.
            while generator.packets().unwrap() == 0 && begin.elapsed() < PATIENCE {
                std::thread::sleep(LOOK);
            }
            work();
        });
        let seconds = begin.elapsed().as_secs_f64();
        self.settle();
        let sent = generator.packets().unwrap();
        (self.account(sent).since(&before), sent as f64 / seconds)
    }

    /// Takes the interface towards the server `up` or `down`.
    pub(crate) fn way_out(&self, state: &str) {
        self.path.middle.ip(&format!("link set {} {state}", Path::MIDDLE.1)).unwrap();
    }

    /// The counters as they are.
    fn account(&self, sent: u64) -> Account {
        let drops = |host: &Namespace, interface| host.run(|| transmit_drops(interface)).unwrap();
        let before = drops(&self.path.client, "eth0");
        let account = Account::of(&self.firewall, Path::MIDDLE.0);
        let behind = drops(&self.path.middle, Path::MIDDLE.1);
        Account { sent, before, behind, arrived: self.arrived(), ..account }
    }

    /// Packets that arrived, by stream.
    pub(crate) fn arrived(&self) -> ByStream {
        std::array::from_fn(|stream| self.sink.received(stream as u16).unwrap())
    }

    /// Waits until all packets that the program has seen have gone all their way: those that arrive
    /// later came in after this call.
    pub(crate) fn settle(&self) {
        let now = || Account::of(&self.firewall, Path::MIDDLE.0);
        let (seen, begin) = (now(), Instant::now());
        let mut then = now();
        while then.received + then.no_frame + then.ring_full < seen.steered {
            assert!(begin.elapsed() < PATIENCE, "packets are stuck: {then}");
            std::thread::sleep(LOOK);
            then = now();
        }
        // Should some be lost there, the account says so.
        let begin = Instant::now();
        while self.arrived().iter().sum::<u64>() < then.forwarded && begin.elapsed() < PATIENCE / 20
        {
            std::thread::sleep(LOOK);
        }
    }
}
