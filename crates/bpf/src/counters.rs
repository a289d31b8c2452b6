//! What the program counted: packets and bytes by where they went and what they were.

use std::fmt;

/// Where the program sent a packet. The order is that of `enum verdict` in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Handed to the AF_XDP socket of its queue.
    ToSocket,
    /// Dropped: its queue had no socket, failure mode closed.
    MissDropped,
    /// Passed to the host's stack: its queue had no socket, failure mode open.
    MissPassed,
    /// Dropped: the queue's heartbeat was stale, failure mode closed.
    StaleDropped,
    /// Passed to the host's stack: the queue's heartbeat was stale, failure mode open.
    StalePassed,
    /// Dropped: its source address is in the early-drop set.
    EarlyDropped,
}

/// What a packet was, as far as the program looks. The order is that of `enum kind` in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// IPv4, behind at most two VLAN tags.
    Ipv4,
    /// IPv6, behind at most two VLAN tags.
    Ipv6,
    /// ARP.
    Arp,
    /// Any other EtherType, or too short for its headers.
    Other,
}

impl Verdict {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::ToSocket,
        Self::MissDropped,
        Self::MissPassed,
        Self::StaleDropped,
        Self::StalePassed,
        Self::EarlyDropped,
    ];

    /// The name used in output and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ToSocket => "to_socket",
            Self::MissDropped => "miss_dropped",
            Self::MissPassed => "miss_passed",
            Self::StaleDropped => "stale_dropped",
            Self::StalePassed => "stale_passed",
            Self::EarlyDropped => "early_dropped",
        }
    }
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Ipv4, Self::Ipv6, Self::Arp, Self::Other];
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Packets and bytes (link-layer header included).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A reading of all counters of one port's program, summed over CPUs. Counters only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    counts: [Count; Counters::SLOTS],
}

impl Counters {
    /// Counts that the program keeps of a port.
    const SLOTS: usize = Verdict::ALL.len() * Kind::ALL.len();
    /// Bytes of one of them on one CPU: `struct count` of the program.
    const COUNT_SIZE: usize = 16;

    /// Adds one CPU's counts; what is missing at the end counts nothing.
    pub(crate) fn add(&mut self, counts: &[u8]) {
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
        for (count, value) in self.counts.iter_mut().zip(counts.chunks_exact(Self::COUNT_SIZE)) {
            let (packets, bytes) = value.split_at(Self::COUNT_SIZE / 2);
            count.packets += word(packets);
            count.bytes += word(bytes);
        }
    }

    /// The count of one verdict and kind.
    pub fn of(&self, verdict: Verdict, kind: Kind) -> Count {
        self.counts[verdict as usize * Kind::ALL.len() + kind as usize]
    }

    /// The count of one verdict over all kinds.
    pub fn total(&self, verdict: Verdict) -> Count {
        Kind::ALL.iter().fold(Count::default(), |sum, kind| {
            let count = self.of(verdict, *kind);
            Count { packets: sum.packets + count.packets, bytes: sum.bytes + count.bytes }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_cpus_are_summed_by_verdict_and_kind() {
        let mut counters = Counters::default();
        let cpu = |slot: usize, packets: u64, bytes: u64| {
            let mut words = [0u64; 2 * Counters::SLOTS];
            (words[2 * slot], words[2 * slot + 1]) = (packets, bytes);
            words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>()
        };
        let slot = Verdict::StaleDropped as usize * Kind::ALL.len() + Kind::Arp as usize;
        counters.add(&cpu(slot, 2, 120));
        counters.add(&cpu(slot, 1, 60));
        counters.add(&cpu(slot - 1, 5, 500));
        counters.add(&[1, 2, 3]);
        counters.add(&cpu(slot, 7, 7)[..16 * slot + 15]);
        assert_eq!(counters.of(Verdict::StaleDropped, Kind::Arp), Count { packets: 3, bytes: 180 });
        assert_eq!(counters.total(Verdict::StaleDropped), Count { packets: 8, bytes: 680 });
        assert_eq!(counters.total(Verdict::ToSocket), Count::default());
    }

    #[test]
    fn order_is_that_of_the_program() {
        for (n, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, n);
        }
        for (n, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, n);
        }
    }
}
