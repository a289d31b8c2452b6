//! Counters: written by one worker without locked instructions, read by anybody.

mod histogram;
mod rule;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::reason::Reason;

pub use histogram::{BOUNDS, Histogram};
pub use rule::{Counted, RULES, RuleCounter, RuleCounters};

/// What one worker counted since it began. Cache-line aligned, so that workers do not disturb each
/// other.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    /// Packets received.
    pub received: Counter,
    /// Bytes received.
    pub received_bytes: Counter,
    /// Packets forwarded.
    pub forwarded: Counter,
    /// Bytes forwarded.
    pub forwarded_bytes: Counter,
    /// Copies that switches made of packets for several ports: `received + copied` packets are
    /// forwarded or dropped.
    pub copied: Counter,
    /// Packets forwarded as part of a known connection.
    pub established: Counter,
    /// Connections opened.
    pub opened: Counter,
    /// Connections that ended.
    pub ended: Counter,
    /// Packets whose partial checksum was completed.
    pub checksums_completed: Counter,
    /// Answers sent to senders of rejected packets.
    pub rejects_sent: Counter,
    /// New connections and denied packets that a staged policy judged too.
    pub staged: Counter,
    /// Of these, denied now, and allowed by the staged policy.
    pub staged_allows: Counter,
    /// Of these, allowed now, and denied by the staged policy.
    pub staged_denies: Counter,
    /// Copies of packets sent to the mirror port.
    pub mirrored: Counter,
    /// Copies left out: no free frame, or no room in the mirror port's queue.
    pub mirror_lost: Counter,
    /// Time from the beginning to the end of a worker's round in which packets came: what every one
    /// of them waits within the worker.
    pub rounds: Histogram,
    /// Packets by deciding rule.
    pub rules: RuleCounters,
    dropped_bytes: [Counter; Reason::ALL.len()],
    dropped: [Counter; Reason::ALL.len()],
}

/// One number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `n`. For the one writer: two writers would lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }
}

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Self {
            received: Counter::default(),
            received_bytes: Counter::default(),
            forwarded: Counter::default(),
            forwarded_bytes: Counter::default(),
            copied: Counter::default(),
            established: Counter::default(),
            opened: Counter::default(),
            ended: Counter::default(),
            checksums_completed: Counter::default(),
            rejects_sent: Counter::default(),
            staged: Counter::default(),
            staged_allows: Counter::default(),
            staged_denies: Counter::default(),
            mirrored: Counter::default(),
            mirror_lost: Counter::default(),
            rounds: Histogram::default(),
            rules: RuleCounters::default(),
            dropped_bytes: [const { Counter(AtomicU64::new(0)) }; Reason::ALL.len()],
            dropped: [const { Counter(AtomicU64::new(0)) }; Reason::ALL.len()],
        }
    }

    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: Reason) -> &Counter {
        &self.dropped[reason as usize]
    }

    /// Bytes of the packets dropped for `reason`. Fragments that were held and dropped later are
    /// counted as packets only.
    pub fn dropped_bytes(&self, reason: Reason) -> &Counter {
        &self.dropped_bytes[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }

    /// Reasons for which packets were dropped, with their numbers; reasons without are left out.
    pub fn drops(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|r| (*r, self.dropped(*r).get())).filter(|(_, n)| *n > 0)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
