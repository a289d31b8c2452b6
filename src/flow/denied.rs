//! Denials summed up: by who, whom and why, in bounded memory, with exact counts.

use std::collections::HashMap;
use std::net::IpAddr;

use portcullis_dataplane::clock::Time;
use portcullis_dataplane::event::{Event, EventKind, Staged};
use portcullis_dataplane::packet::Version;
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::RuleId;
use portcullis_identity_table::IdentityId;

use super::record::{FlowRecord, Spread};
use super::time::Timestamp;
use crate::event::wall;

/// Values kept of each spread.
const SAMPLES: usize = 8;

/// What denials have in common that are summed up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Kind {
        source: IdentityId,
        destination: IdentityId,
        rule: RuleId,
        reason: Reason,
        protocol: u8,
        v4: bool,
        zone: u16,
        staged: Option<RuleId>,
        kept: bool,
    },
    /// Too many kinds: all of one reason.
    Others(Reason, bool),
}

/// What is known of denials of one kind.
#[derive(Debug)]
struct Denials {
    /// The first, which gives the sum its names.
    first: Event,
    packets: u64,
    bytes: u64,
    began: Time,
    last: Time,
    log: bool,
    sources: Values<u128>,
    destinations: Values<u128>,
    source_ports: Values<u16>,
    destination_ports: Values<u16>,
    tcp_flags: u8,
}

/// Lowest, highest, and the first different ones.
#[derive(Debug)]
struct Values<T> {
    low: T,
    high: T,
    samples: [T; SAMPLES],
    count: u8,
}

/// The table.
#[derive(Debug)]
pub(super) struct Denied {
    kinds: usize,
    table: HashMap<Key, Denials, ahash::RandomState>,
}

/// A sum to record: the first event, with the time of the last, and what to write over its record.
pub(super) struct Sums {
    pub(super) event: Event,
    denials: Denials,
    mixed: bool,
    pub(super) kept: bool,
}

impl Denied {
    pub(super) fn new(kinds: usize) -> Self {
        Self { kinds: kinds.max(1), table: HashMap::default() }
    }

    /// Adds an event, which must be a denial, to those of which records are kept or not; answers how
    /// many packets it tells of.
    pub(super) fn add(&mut self, event: &Event, kept: bool) -> u64 {
        let (reason, packets, bytes, since) = match event.kind {
            EventKind::Folded { reason, packets, bytes, since, .. } => {
                (reason, packets, bytes, since)
            }
            EventKind::Dropped { reason } => (reason, 1, event.bytes.into(), event.time),
            _ => return 0,
        };
        let mut key = Key::Kind {
            source: event.source,
            destination: event.destination,
            rule: event.rule,
            reason,
            protocol: event.tuple.protocol,
            v4: event.tuple.version == Version::V4,
            zone: event.tuple.zone,
            staged: event.staged.map(|Staged { rule, .. }| rule),
            kept,
        };
        if self.table.len() >= self.kinds && !self.table.contains_key(&key) {
            key = Key::Others(reason, kept);
        }
        let denials = self.table.entry(key).or_insert_with(|| Denials::new(event, since));
        denials.packets += packets;
        denials.bytes += bytes;
        denials.note(event, since);
        packets
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Sums> + '_ {
        self.table.drain().map(|(key, denials)| {
            let kind = match denials.first.kind {
                EventKind::Folded { reason, .. } => EventKind::Dropped { reason },
                kind => kind,
            };
            let event = Event { kind, ..denials.first };
            let (mixed, kept) = match key {
                Key::Kind { kept, .. } => (false, kept),
                Key::Others(_, kept) => (true, kept),
            };
            Sums { event, denials, mixed, kept }
        })
    }

    /// How many kinds there are: the setting and one for each reason at most.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

impl Sums {
    /// Puts the sums into the record of the first event.
    pub(super) fn complete(&self, began: std::time::SystemTime, record: &mut FlowRecord) {
        let Denials { first, packets, bytes, began: start, last, .. } = &self.denials;
        record.start = Timestamp::from(wall(began, *start));
        record.last_seen = Timestamp::from(wall(began, *last));
        record.time = record.last_seen;
        (record.sent.packets, record.sent.bytes) = (*packets, *bytes);
        record.log = self.denials.log;
        record.mixed = self.mixed;
        if let Some(flags) = &mut record.tcp_flags {
            flags.0 = self.denials.tcp_flags;
        }
        let v4 = first.tuple.version == Version::V4;
        let address = |raw: u128| -> IpAddr {
            if v4 { IpAddr::V4((raw as u32).into()) } else { IpAddr::V6(raw.into()) }
        };
        record.sources = self.denials.sources.spread(address);
        record.destinations = self.denials.destinations.spread(address);
        record.source_ports = self.denials.source_ports.spread(|port| port);
        record.destination_ports = self.denials.destination_ports.spread(|port| port);
    }
}

impl Denials {
    fn new(event: &Event, since: Time) -> Self {
        let tuple = &event.tuple;
        Self {
            first: *event,
            packets: 0,
            bytes: 0,
            began: since,
            last: event.time,
            log: false,
            sources: Values::new(tuple.source),
            destinations: Values::new(tuple.destination),
            source_ports: Values::new(tuple.source_port),
            destination_ports: Values::new(tuple.destination_port),
            tcp_flags: 0,
        }
    }

    fn note(&mut self, event: &Event, since: Time) {
        let tuple = &event.tuple;
        self.began = self.began.min(since);
        self.last = self.last.max(event.time);
        self.log |= event.log;
        self.tcp_flags |= event.tcp_flags;
        if tuple.version == self.first.tuple.version {
            self.sources.note(tuple.source);
            self.destinations.note(tuple.destination);
        }
        self.source_ports.note(tuple.source_port);
        self.destination_ports.note(tuple.destination_port);
        if let EventKind::Folded { source_ports, destination_ports, .. } = event.kind {
            source_ports.into_iter().for_each(|port| self.source_ports.note(port));
            destination_ports.into_iter().for_each(|port| self.destination_ports.note(port));
        }
    }
}

impl<T: Copy + Ord> Values<T> {
    fn new(first: T) -> Self {
        Self { low: first, high: first, samples: [first; SAMPLES], count: 1 }
    }

    fn note(&mut self, value: T) {
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        let count = usize::from(self.count);
        if count < SAMPLES && !self.samples[..count].contains(&value) {
            self.samples[count] = value;
            self.count += 1;
        }
    }

    /// `None` if there is one value only.
    fn spread<U>(&self, to: impl Fn(T) -> U) -> Option<Spread<U>> {
        let samples = &self.samples[..usize::from(self.count)];
        (self.low != self.high).then(|| Spread {
            low: to(self.low),
            high: to(self.high),
            samples: samples.iter().map(|value| to(*value)).collect(),
        })
    }
}
