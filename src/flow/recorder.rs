//! Events in, records out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_dataplane::clock::Time;
use portcullis_dataplane::connection::Ended;
use portcullis_dataplane::event::{self, EventKind};
use portcullis_dataplane::pipeline;

use super::choice::{Choices, Chosen};
use super::config::Config;
use super::denied::Denied;
use super::hub::{Hub, Watch};
use super::record::{Event, FlowRecord};
use crate::engine::Engine;

/// Events read in one [`Recorder::poll`] at most: it must come round to what is due.
const MOST: usize = 1 << 16;

/// The connection table is looked through so often within [`Config::update`].
const LOOKS: u32 = 4;

/// Makes records of what an engine tells. One for each engine, and then nobody else reads the engine's
/// events: each goes to one reader only. One thread polls it, whenever
/// [`Engine::event_fd`] is readable and some times a second besides.
#[derive(Debug)]
pub struct Recorder {
    engine: Engine,
    config: Config,
    choices: Choices,
    denied: Denied,
    hub: Hub,
    recorded: Watch<Recorded>,
    /// When denials are recorded next, and when connections that last.
    denied_due: Time,
    look: Time,
    batch: Vec<event::Event>,
    /// Whether those are kept.
    kept: Vec<bool>,
}

/// What a [`Recorder`] did since the start. All counts are exact: of each class of things that
/// happened, `read + lost` is how many there were, and `kept + sampled_out + left_out` of them is
/// `read`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// Connections whose start was read.
    pub started: u64,
    /// Connections whose end was read.
    pub ended: u64,
    /// Packets of which it was read that they were denied.
    pub denied_packets: u64,
    /// Other things read: connections that changed, packets that stand alone.
    pub others: u64,
    /// Things lost before they could be read: starts, denied packets, ends, changes, packets alone.
    pub lost: [u64; 5],
    /// Things (denials: packets) that are of no record because of [`super::Keep::Sampled`].
    pub sampled_out: u64,
    /// Things (denials: packets) that are of no record because [`Config::keep`] leaves them out.
    pub left_out: u64,
    /// Records made of starts, ends, changes and packets that stand alone: one each.
    pub records: u64,
    /// Records of connections that last.
    pub updates: u64,
    /// Records of denials, each of which sums up some.
    pub denied_records: u64,
    /// Denied packets in those.
    pub denied_recorded: u64,
    /// Denied packets that wait to be recorded.
    pub denied_waiting: u64,
}

impl Recorded {
    /// Everything lost before it could be read.
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().sum()
    }
}

impl Recorder {
    /// A recorder of this engine, or of a firewall's.
    ///
    /// Set [`denied_burst`](portcullis_dataplane::pipeline::Config::denied_burst) in the engine's
    /// settings so that floods are summed up by the workers already.
    pub fn new(engine: &Engine, mut config: Config) -> Self {
        config.update = config.update.map(|update| update.max(Duration::from_secs(1)));
        let now = engine.0.clock.now();
        Self {
            engine: engine.clone(),
            choices: Choices::new(config.keep, config.policies.clone()),
            denied: Denied::new(config.denied_kinds),
            hub: Hub::default(),
            recorded: Watch::default(),
            denied_due: now.after(config.denied),
            look: now,
            batch: Vec::new(),
            kept: Vec::new(),
            config,
        }
    }

    /// Where records go: subscribe there.
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// What was done so far. The handle may be kept and read elsewhere.
    pub fn recorded(&self) -> Watch<Recorded> {
        self.recorded.clone()
    }

    /// Reads what happened and records what is due; answers how many events there were. Takes the
    /// lock of changes for some microseconds at a time; looks through the connection table four times
    /// in [`Config::update`].
    pub fn poll(&mut self) -> usize {
        let now = self.engine.0.clock.now();
        self.count_lost();
        let engine = self.engine.clone();
        let count = engine.0.raw_events(MOST, |events| self.take(events));
        self.count_lost();
        if now >= self.denied_due {
            self.denied_due = now.after(self.config.denied);
            self.record_denials();
        }
        if let Some(update) = self.config.update
            && now.since(self.look) >= update / LOOKS
        {
            self.record_lasting(now, update);
        }
        count
    }

    /// Reads and records everything that is there, due or not: at the end.
    pub fn finish(&mut self) {
        while self.poll() > 0 {}
        self.record_denials();
    }

    /// Different denials that wait to be recorded: bounded by [`Config::denied_kinds`] and one for each
    /// reason.
    pub fn denied_kinds(&self) -> usize {
        self.denied.len()
    }

    fn count_lost(&self) {
        let lost = self.engine.0.lanes.lock().lost();
        self.recorded.lock().lost = lost;
    }

    /// Sorts events, and records those that are not summed up.
    fn take(&mut self, events: &[event::Event]) {
        let (wants_all, mut recorded) = (self.hub.wants_all(), self.recorded.lock());
        self.batch.clear();
        self.kept.clear();
        for event in events {
            let chosen = self.choices.choose(event, || self.engine.rule(event.rule));
            let (count, counter) = match event.kind {
                EventKind::Dropped { .. } => (1, &mut recorded.denied_packets),
                EventKind::Folded { packets, .. } => (packets, &mut recorded.denied_packets),
                EventKind::Opened => (1, &mut recorded.started),
                EventKind::Ended { .. } => (1, &mut recorded.ended),
                EventKind::Changed | EventKind::Passed => (1, &mut recorded.others),
            };
            *counter += count;
            let kept = chosen == Chosen::Kept;
            match chosen {
                Chosen::LeftOut => recorded.left_out += count,
                Chosen::SampledOut => recorded.sampled_out += count,
                Chosen::Kept => {}
            }
            if !kept && !wants_all {
                continue;
            }
            let denied = self.denied.add(event, kept);
            if denied == 0 {
                self.batch.push(*event);
                self.kept.push(kept);
                recorded.records += u64::from(kept);
            } else if kept {
                recorded.denied_waiting += denied;
            }
        }
        let lost = recorded.lost_total();
        drop(recorded);
        if self.batch.is_empty() || self.hub.consumers() == 0 {
            return;
        }
        let named = self.engine.0.named(&self.batch);
        let record = |event: &crate::FlowEvent| Arc::new(FlowRecord::of(event, lost));
        let records: Vec<_> = named.iter().map(record).zip(self.kept.iter().copied()).collect();
        self.hub.publish(&records);
    }

    /// Records what was denied since the last time.
    fn record_denials(&mut self) {
        let began = self.engine.0.began;
        let sums: Vec<_> = self.denied.take().collect();
        let lost = {
            let mut recorded = self.recorded.lock();
            recorded.denied_records += sums.iter().filter(|sum| sum.kept).count() as u64;
            recorded.denied_recorded += std::mem::take(&mut recorded.denied_waiting);
            recorded.lost_total()
        };
        for sums in sums.chunks(256) {
            let events: Vec<event::Event> = sums.iter().map(|sum| sum.event).collect();
            let named = self.engine.0.named(&events);
            let complete = |(event, sum): (&crate::FlowEvent, &super::denied::Sums)| {
                let mut record = FlowRecord::of(event, lost);
                sum.complete(began, &mut record);
                (Arc::new(record), sum.kept)
            };
            let records: Vec<_> = named.iter().zip(sums).map(complete).collect();
            self.hub.publish(&records);
        }
    }

    /// Records connections whose age passed a multiple of the interval since the last look.
    fn record_lasting(&mut self, now: Time, update: Duration) {
        let before = std::mem::replace(&mut self.look, now);
        let looks = |at: Time, opened: Time| at.since(opened).as_nanos() / update.as_nanos().max(1);
        let mut due = Vec::new();
        let engine = self.engine.clone();
        engine.0.plane.table().for_each(|key, connection| {
            let event = pipeline::end_of(now, &Ended { key, connection });
            let EventKind::Ended { opened, .. } = event.kind else { return };
            if looks(now, opened) > looks(before.max(opened), opened) {
                due.push(event);
                if due.len() == 256 {
                    self.record_updates(&due);
                    due.clear();
                }
            }
        });
        self.record_updates(&due);
    }

    fn record_updates(&mut self, events: &[event::Event]) {
        let mut kept = Vec::with_capacity(events.len());
        for event in events {
            if self.choices.choose(event, || self.engine.rule(event.rule)) == Chosen::Kept {
                kept.push(*event);
            }
        }
        let lost = {
            let mut recorded = self.recorded.lock();
            recorded.updates += kept.len() as u64;
            recorded.lost_total()
        };
        let update = |event: &crate::FlowEvent| {
            let record = FlowRecord::of(event, lost);
            let record = FlowRecord { event: Event::Update, end: None, close: None, ..record };
            (Arc::new(record), true)
        };
        let records: Vec<_> = self.engine.0.named(&kept).iter().map(update).collect();
        self.hub.publish(&records);
    }

    /// What the wall clock said at the beginning of the engine's.
    pub fn began(&self) -> SystemTime {
        self.engine.0.began
    }
}
