//! A client and a server that any number of wires join, and a firewall in the middle.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::{Config, Firewall, Topology};

use super::super::wire::rate::{Run, cpu};
use super::super::wire::{pin, policy};
use crate::lab::traffic::{Generator, Load, Sent, Sink};
use crate::lab::{Namespace, Path, interface};
use crate::output::Refused;

/// How long packets on their way may take to arrive after the last was sent.
const SETTLE: Duration = Duration::from_millis(50);

/// Connections that the packets belong to.
const FLOWS: u32 = 1000;

/// See the [module](self).
pub(super) struct Node {
    client: Namespace,
    middle: Namespace,
    server: Namespace,
    /// Wires that carry packets.
    wires: u32,
    firewall: Option<Firewall>,
    sink: Sink,
}

impl Node {
    /// Builds links for `wires` and for `spare` more, which never carry packets.
    ///
    /// # Errors
    /// Without the privileges or without `ip`.
    pub(super) fn build(wires: u32, spare: u32) -> Result<Self, Refused> {
        let (client, middle, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        for namespace in [&client, &middle, &server] {
            // Interfaces without addresses would ask for neighbours and groups all the same.
            namespace.run(|| {
                std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
                std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            })??;
        }
        for (end, letters) in [(&client, ('c', 'a')), (&server, ('s', 'b'))] {
            let mut commands = String::new();
            let (host, port) = letters;
            let (q, path) = ("numrxqueues 1 numtxqueues 1", middle.path());
            for n in 0..wires + spare {
                // Writing to a string cannot fail.
                let _ = writeln!(
                    commands,
                    "link add {host}{n} {q} type veth peer name {port}{n} netns {path} {q}"
                );
            }
            for n in 0..wires + spare {
                let _ = writeln!(commands, "link set {host}{n} up");
            }
            end.ip_batch(&commands)?;
        }
        let up: String = ["a", "b"]
            .iter()
            .flat_map(|side| (0..wires + spare).map(move |n| format!("link set {side}{n} up\n")))
            .collect();
        middle.ip_batch(&up)?;
        Ok(Self { client, middle, server, wires, firewall: None, sink: Sink::new()? })
    }

    /// Starts a firewall without wires.
    ///
    /// # Errors
    /// It cannot start.
    pub(super) fn start(&mut self) -> Result<(), Refused> {
        let (cluster, policies) = (policy::cluster()?, policy::policies(10)?);
        let start = || {
            pin::worker();
            Firewall::start(Config::idle(), cluster, policies)
        };
        self.firewall = Some(self.middle.run(start)??);
        Ok(())
    }

    fn firewall(&self) -> Result<&Firewall, Refused> {
        self.firewall.as_ref().ok_or_else(|| "error: not started".into())
    }

    /// Adds a wire; answers how long it took. One that is alone has the rings of an uplink.
    ///
    /// # Errors
    /// It cannot be added.
    pub(super) fn add(&self, wire: u32) -> Result<Duration, Refused> {
        let firewall = self.firewall()?;
        let topology = Topology::wire(&format!("a{wire}"), &format!("b{wire}"));
        let topology = if self.wires == 1 { topology } else { topology.small() };
        self.middle.run(|| {
            let begin = Instant::now();
            firewall.add_wire(topology)?;
            Ok(begin.elapsed())
        })?
    }

    /// Removes a wire; answers how long it took.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn remove(&self, wire: u32) -> Result<Duration, Refused> {
        let begin = Instant::now();
        self.firewall()?.remove_wire(&format!("a{wire}:b{wire}"))?;
        Ok(begin.elapsed())
    }

    /// Counts packets at the server from here on.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub(super) fn watch(&mut self) -> Result<(), Refused> {
        let Self { server, sink, wires, .. } = self;
        let attach = || -> std::io::Result<()> {
            (0..*wires).try_for_each(|n| sink.attach(interface::index(&format!("s{n}"))?))
        };
        Ok(server.run(attach)??)
    }

    /// Asks after all interfaces, as somebody does who watches them.
    ///
    /// # Errors
    /// One of them changed.
    pub(super) fn ask(&self) -> Result<(), Refused> {
        let gone = portcullis::dataplane::port::xdp::LinkState::Gone;
        match self.firewall()?.port_changes()?.iter().find(|change| change.state == gone) {
            Some(change) => Err(format!("error: {} is gone", change.name).into()),
            None => Ok(()),
        }
    }

    /// AF_XDP modes obtained, each once.
    pub(super) fn modes(&self) -> Vec<String> {
        let ports = self.firewall.as_ref().map(Firewall::ports).unwrap_or_default();
        let mut modes: Vec<_> = ports.iter().map(|port| port.mode.to_string()).collect();
        modes.sort();
        modes.dedup();
        modes
    }

    /// A load over all wires, `turn` packets each.
    ///
    /// # Errors
    /// Without the privileges.
    pub(super) fn load(&self, turn: u32, rate: Option<u32>) -> Result<Generator, Refused> {
        let first = self.client.run(|| interface::index("c0"))??;
        let last = format!("c{}", self.wires - 1);
        let last = self.client.run(|| interface::index(&last))??;
        if last - first + 1 != self.wires {
            return Err("error: the kernel did not number the interfaces in a row".into());
        }
        Ok(Generator::new(&Load {
            interface: first,
            interfaces: self.wires,
            turn,
            link: [Path::SERVER_LINK, Path::CLIENT_LINK],
            source: Path::CLIENT,
            sources: policy::CLIENTS,
            destination: Path::SERVER,
            flows: FLOWS,
            rate,
            stream: 0,
            streams: 1,
        })?)
    }

    /// Sends for so long, each load from a CPU of its own, and counts what arrives.
    ///
    /// # Errors
    /// A failed system call.
    pub(super) fn run(&self, loads: &[Generator], time: Duration) -> Result<Run, Refused> {
        let before = self.sink.received(0)?;
        let process = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
        let send = |n: usize, load: &Generator| -> Result<(Sent, f64), Refused> {
            self.client.run(|| {
                pin::generators(n);
                let begin = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
                let sent = load.send_for(time)?;
                Ok((sent, cpu(libc::CLOCK_THREAD_CPUTIME_ID) - begin))
            })?
        };
        let mut all = Run::default();
        std::thread::scope(|scope| -> Result<(), Refused> {
            let send = &send;
            let senders: Vec<_> = loads
                .iter()
                .enumerate()
                .map(|(n, load)| scope.spawn(move || send(n, load)))
                .collect();
            for sender in senders {
                let (sent, cpu) = sender.join().map_err(|_| "error: a sender died")??;
                all.sent.packets += sent.packets;
                all.sent.seconds = sent.seconds.max(all.sent.seconds);
                all.generator_cpu += cpu;
            }
            Ok(())
        })?;
        let others = cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - process - all.generator_cpu;
        std::thread::sleep(SETTLE);
        Ok(Run { received: self.sink.received(0)? - before, worker_cpu: others.max(0.0), ..all })
    }

    /// Sends as long as `work` takes, and counts what arrives.
    ///
    /// # Errors
    /// A failed system call, or what `work` answers.
    pub(super) fn run_while<A, B>(
        &self,
        load: &Generator,
        work: impl FnOnce() -> Result<(A, B), Refused>,
    ) -> Result<(Run, A, B), Refused> {
        let before = self.sink.received(0)?;
        let done = AtomicBool::new(false);
        let (sent, worked) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<Sent, Refused> {
                self.client.run(|| {
                    pin::generator();
                    let mut all = Sent::default();
                    while !done.load(Ordering::Relaxed) {
                        let sent = load.send_for(Duration::from_millis(100))?;
                        all.packets += sent.packets;
                        all.seconds += sent.seconds;
                    }
                    Ok(all)
                })?
            });
            std::thread::sleep(SETTLE);
            let worked = work();
            done.store(true, Ordering::Relaxed);
            (sender.join(), worked)
        });
        std::thread::sleep(SETTLE);
        let sent = sent.map_err(|_| "error: the sender died")??;
        let (a, b) = worked?;
        let received = self.sink.received(0)? - before;
        Ok((Run { sent, received, ..Run::default() }, a, b))
    }
}
