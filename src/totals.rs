//! Numbers over all workers and judges.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_dataplane::counter::{Counted, Counters};
use portcullis_dataplane::event::EventRing;
use portcullis_dataplane::pipeline::Lane;
use portcullis_dataplane::reason::Reason;

use crate::engine::Shared;
use crate::observe::{RoundTimes, RuleSums};

/// Packets since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Received, or handed to a judge.
    pub received: u64,
    /// Bytes of these, from the Ethernet header on.
    pub received_bytes: u64,
    /// Forwarded, or allowed by a judge.
    pub forwarded: u64,
    /// Bytes of these.
    pub forwarded_bytes: u64,
    /// Dropped, for whatever reason.
    pub dropped: u64,
    /// Dropped, by reason; reasons without a packet are left out.
    pub drops: Vec<(Reason, u64)>,
    /// Bytes dropped, by reason, in the order of `drops`.
    pub dropped_bytes: Vec<(Reason, u64)>,
    /// Answers sent to senders of rejected packets.
    pub rejects_sent: u64,
    /// Packets whose unfinished checksum was completed.
    pub checksums_completed: u64,
    /// Copies that switches made of packets for several ports: packets received and copied are
    /// forwarded or dropped.
    pub copied: u64,
    /// Copies sent to the mirror port.
    pub mirrored: u64,
    /// Copies left out because the mirror port could not keep up.
    pub mirror_lost: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections now.
    pub connections: usize,
    /// Of those, TCP connections whose handshake is not finished.
    pub half_open: usize,
    /// Connections that there is room for.
    pub capacity: usize,
    /// Connections that had to go because there was no more room.
    pub evicted: u64,
    /// Events that wait to be read.
    pub events_waiting: usize,
    /// Events that did not fit and were not reported.
    pub events_lost: u64,
    /// The same by what happened: opened, dropped (packets), ended, changed, passed alone.
    pub events_lost_by_kind: [u64; 5],
    /// New connections and denied packets that a staged policy judged too.
    pub staged: u64,
    /// Of these, denied now and allowed by the staged policies.
    pub staged_allows: u64,
    /// Of these, allowed now and denied by the staged policies.
    pub staged_denies: u64,
}

/// What one lane counts and tells.
#[derive(Debug)]
pub(crate) struct LaneTotals {
    counters: Arc<Counters>,
    events: Arc<EventRing>,
    /// Its judge is gone; it goes once its events were read.
    retired: bool,
}

/// All lanes of an engine, and the sum of those that are gone.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Vec<LaneTotals>,
    gone: Totals,
    gone_rules: BTreeMap<Counted, RuleSums>,
    gone_rounds: RoundTimes,
}

impl Totals {
    pub(crate) fn of(shared: &Shared) -> Self {
        let lanes = shared.lanes.lock();
        let mut totals = lanes.gone.clone();
        for lane in &lanes.lanes {
            totals.add(lane);
        }
        totals.drops.sort_by_key(|(reason, _)| *reason);
        totals.dropped_bytes.sort_by_key(|(reason, _)| *reason);
        let table = shared.plane.table();
        totals.connections = table.len();
        totals.half_open = table.half_open();
        totals.capacity = table.capacity();
        totals.evicted = table.evicted();
        totals
    }

    fn add(&mut self, lane: &LaneTotals) {
        let LaneTotals { counters, events, .. } = lane;
        self.received += counters.received.get();
        self.received_bytes += counters.received_bytes.get();
        self.forwarded += counters.forwarded.get();
        self.forwarded_bytes += counters.forwarded_bytes.get();
        self.dropped += counters.dropped_total();
        self.rejects_sent += counters.rejects_sent.get();
        self.checksums_completed += counters.checksums_completed.get();
        self.copied += counters.copied.get();
        self.mirrored += counters.mirrored.get();
        self.mirror_lost += counters.mirror_lost.get();
        self.opened += counters.opened.get();
        self.ended += counters.ended.get();
        self.staged += counters.staged.get();
        self.staged_allows += counters.staged_allows.get();
        self.staged_denies += counters.staged_denies.get();
        self.events_waiting += events.len();
        self.events_lost += events.lost();
        for (sum, lost) in self.events_lost_by_kind.iter_mut().zip(events.lost_by_kind()) {
            *sum += lost;
        }
        for (reason, count) in counters.drops() {
            match self.drops.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += count,
                None => self.drops.push((reason, count)),
            }
            let bytes = counters.dropped_bytes(reason).get();
            match self.dropped_bytes.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += bytes,
                None => self.dropped_bytes.push((reason, bytes)),
            }
        }
    }
}

impl Lanes {
    pub(crate) fn add(&mut self, lane: &Lane) {
        let counters = Arc::clone(lane.counters());
        let events = Arc::clone(lane.events());
        self.lanes.push(LaneTotals { counters, events, retired: false });
    }

    /// What did not fit into the rings, by kind.
    pub(crate) fn lost(&self) -> [u64; 5] {
        let mut lost = self.gone.events_lost_by_kind;
        for lane in &self.lanes {
            let of_lane = lane.events.lost_by_kind();
            lost.iter_mut().zip(of_lane).for_each(|(sum, lost)| *sum += lost);
        }
        lost
    }

    pub(crate) fn rings(&self) -> Vec<Arc<EventRing>> {
        self.lanes.iter().map(|lane| Arc::clone(&lane.events)).collect()
    }

    /// Says that nobody counts in this lane any more.
    pub(crate) fn retire(&mut self, lane: &Lane) {
        for known in &mut self.lanes {
            known.retired |= Arc::ptr_eq(&known.counters, lane.counters());
        }
        self.forget_retired();
    }

    pub(crate) fn rule_sums(&self) -> BTreeMap<Counted, RuleSums> {
        let mut sums = self.gone_rules.clone();
        self.lanes.iter().for_each(|lane| RuleSums::add_all(&mut sums, &lane.counters));
        sums
    }

    pub(crate) fn round_times(&self) -> RoundTimes {
        let mut times = self.gone_rounds;
        self.lanes.iter().for_each(|lane| times.add(&lane.counters));
        times
    }

    /// Adds up lanes that are gone and whose events were read.
    pub(crate) fn forget_retired(&mut self) {
        let Self { lanes, gone, gone_rules, gone_rounds } = self;
        lanes.retain(|lane| {
            let over = lane.retired && lane.events.is_empty();
            if over {
                gone.add(lane);
                RuleSums::add_all(gone_rules, &lane.counters);
                gone_rounds.add(&lane.counters);
            }
            !over
        });
    }
}
