//! Numbers over all workers and judges.

use std::sync::Arc;

use portcullis_dataplane::counter::Counters;
use portcullis_dataplane::event::EventRing;
use portcullis_dataplane::pipeline::Lane;
use portcullis_dataplane::reason::Reason;

use crate::engine::Shared;

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
    /// Packets whose unfinished checksum was completed.
    pub checksums_completed: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections now.
    pub connections: usize,
    /// Events that wait to be read.
    pub events_waiting: usize,
    /// Events that did not fit and were not reported.
    pub events_lost: u64,
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
}

impl Totals {
    pub(crate) fn of(shared: &Shared) -> Self {
        let lanes = shared.lanes.lock();
        let mut totals = lanes.gone.clone();
        for lane in &lanes.lanes {
            totals.add(lane);
        }
        totals.drops.sort_by_key(|(reason, _)| *reason);
        totals.connections = shared.plane.connections();
        totals
    }

    fn add(&mut self, lane: &LaneTotals) {
        let LaneTotals { counters, events, .. } = lane;
        self.received += counters.received.get();
        self.received_bytes += counters.received_bytes.get();
        self.forwarded += counters.forwarded.get();
        self.forwarded_bytes += counters.forwarded_bytes.get();
        self.dropped += counters.dropped_total();
        self.checksums_completed += counters.checksums_completed.get();
        self.opened += counters.opened.get();
        self.ended += counters.ended.get();
        self.events_waiting += events.len();
        self.events_lost += events.lost();
        for (reason, count) in counters.drops() {
            match self.drops.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += count,
                None => self.drops.push((reason, count)),
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

    /// Adds up lanes that are gone and whose events were read.
    pub(crate) fn forget_retired(&mut self) {
        let Self { lanes, gone } = self;
        lanes.retain(|lane| {
            let over = lane.retired && lane.events.is_empty();
            if over {
                gone.add(lane);
            }
            !over
        });
    }
}
