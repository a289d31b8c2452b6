//! Where packets went, step by step. Each step has a counter of its own, kept by somebody else: the
//! generator, the first veth, the program, its socket, the worker, the second veth, the sink.

use std::fmt;

use portcullis::Firewall;
use portcullis::dataplane::port::xdp::{ProgramCounters, ProgramVerdict};
use portcullis::dataplane::reason::Reason;

use crate::lab::traffic::STREAMS;

/// Packets by stream.
pub(crate) type ByStream = [u64; STREAMS as usize];

/// Counters at one moment, or between two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// Made by the generator.
    pub(crate) sent: u64,
    /// Did not fit into the queue of the first veth (its TX drops).
    pub(crate) before: u64,
    /// Seen by the program on the first interface, and given to its socket.
    pub(crate) seen: u64,
    pub(crate) steered: u64,
    /// Dropped by the socket, because no frame was there to receive into or the RX ring was full: the
    /// worker came too late.
    pub(crate) no_frame: u64,
    pub(crate) ring_full: u64,
    /// Taken by the worker, dropped by it and passed on by it.
    pub(crate) received: u64,
    pub(crate) drops: Vec<(Reason, u64)>,
    pub(crate) forwarded: u64,
    /// Did not fit into the queue of the second veth (its TX drops).
    pub(crate) behind: u64,
    /// Arrived at the sink.
    pub(crate) arrived: ByStream,
    /// Hundredths of a second in which the machine's CPUs were somebody else's (steal).
    pub(crate) stolen: u64,
}

impl Account {
    /// The firewall's and the kernel's counters as they are, for traffic that comes in at `interface`.
    pub(crate) fn of(firewall: &Firewall, interface: &str) -> Self {
        // In the direction of the packets, so that none is counted by a later step only.
        let programs = firewall.program_counters().unwrap();
        let (_, program) = programs.iter().find(|(name, _)| name == interface).unwrap();
        let total = |verdict: &ProgramVerdict| program_total(program, *verdict);
        let seen = ProgramVerdict::ALL.iter().map(total).sum();
        let sockets = firewall.socket_statistics().unwrap();
        let sockets = sockets.iter().filter(|(name, ..)| name == interface);
        let (no_frame, ring_full) =
            sockets.fold((0, 0), |(a, b), (.., of)| (a + of.rx_dropped, b + of.rx_ring_full));
        let totals = firewall.totals();
        Self {
            seen,
            steered: total(&ProgramVerdict::ToSocket),
            no_frame,
            ring_full,
            received: totals.received,
            drops: totals.drops,
            forwarded: totals.forwarded,
            stolen: stolen(),
            ..Self::default()
        }
    }

    /// What was counted since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let drops = self.drops.iter().map(|(reason, count)| {
            let was = before.drops.iter().find(|(other, _)| other == reason);
            (*reason, count - was.map_or(0, |(_, count)| *count))
        });
        Self {
            sent: self.sent - before.sent,
            before: self.before - before.before,
            seen: self.seen - before.seen,
            steered: self.steered - before.steered,
            no_frame: self.no_frame - before.no_frame,
            ring_full: self.ring_full - before.ring_full,
            received: self.received - before.received,
            drops: drops.filter(|(_, count)| *count > 0).collect(),
            forwarded: self.forwarded - before.forwarded,
            behind: self.behind - before.behind,
            arrived: std::array::from_fn(|n| self.arrived[n] - before.arrived[n]),
            stolen: self.stolen - before.stolen,
        }
    }

    /// Adds what another slice counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.sent, other.sent),
            (&mut self.before, other.before),
            (&mut self.seen, other.seen),
            (&mut self.steered, other.steered),
            (&mut self.no_frame, other.no_frame),
            (&mut self.ring_full, other.ring_full),
            (&mut self.received, other.received),
            (&mut self.forwarded, other.forwarded),
            (&mut self.behind, other.behind),
            (&mut self.stolen, other.stolen),
        ] {
            *sum += more;
        }
        self.drops.extend(&other.drops);
        self.arrived.iter_mut().zip(other.arrived).for_each(|(sum, more)| *sum += more);
    }

    /// Of those sent, the packets of one stream: they took turns.
    pub(crate) fn sent_of(&self, stream: u16) -> u64 {
        (self.sent + u64::from(STREAMS - 1 - stream)) / u64::from(STREAMS)
    }

    /// Dropped by the worker.
    pub(crate) fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }

    /// Dropped by the worker for another reason than the policy.
    pub(crate) fn dropped_otherwise(&self) -> u64 {
        let others = self.drops.iter().filter(|(reason, _)| *reason != Reason::PolicyDenied);
        others.map(|(_, count)| count).sum()
    }

    /// All that came to no verdict, or not through in spite of it.
    pub(crate) fn lost(&self) -> u64 {
        self.before
            + (self.seen - self.steered)
            + self.no_frame
            + self.ring_full
            + self.dropped_otherwise()
            + self.behind
    }

    /// That each packet is in exactly one place.
    pub(crate) fn assert_adds_up(&self) {
        assert_eq!(self.sent, self.before + self.seen, "between generator and program: {self}");
        let taken = self.no_frame + self.ring_full + self.received;
        assert_eq!(self.steered, taken, "between program and worker: {self}");
        assert_eq!(self.received, self.dropped() + self.forwarded, "in the worker: {self}");
        let arrived: u64 = self.arrived.iter().sum();
        assert_eq!(self.forwarded, self.behind + arrived, "between worker and sink: {self}");
    }
}

fn program_total(program: &ProgramCounters, verdict: ProgramVerdict) -> u64 {
    program.total(verdict).packets
}

/// Packets that an interface of the calling thread's namespace could not hand on: the TX drops of
/// /proc/net/dev.
pub(crate) fn transmit_drops(interface: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let mut lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    let (_, counters) = lines.find(|(name, _)| *name == interface).unwrap();
    // Eight of receiving, then bytes, packets, errors, drops.
    counters.split_ascii_whitespace().nth(8 + 3).unwrap().parse().unwrap()
}

/// From the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
fn stolen() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    text.split_ascii_whitespace().nth(8).and_then(|word| word.parse().ok()).unwrap_or(0)
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} lost (first veth {}, not steered {}, no frame {}, RX ring full {}, worker {}, \
             second veth {}), {} denied, {} arrived; steal {} ms",
            self.sent,
            self.lost(),
            self.before,
            self.seen - self.steered,
            self.no_frame,
            self.ring_full,
            self.dropped_otherwise(),
            self.behind,
            self.dropped() - self.dropped_otherwise(),
            self.arrived.iter().sum::<u64>(),
            self.stolen * 10,
        )
    }
}
