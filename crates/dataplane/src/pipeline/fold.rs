//! Dropped packets told together: the first few a second of each kind one by one, the rest as sums.
//!
//! A flood of a million packets a second, with whatever ports and addresses, is of few identities: it
//! ends in few places of a table of fixed size. Nothing is lost by that but single addresses: the sums
//! are exact. If there are more kinds than places, the one that was begun first is told and gives up
//! its place. Nothing here allocates after construction.

use std::num::NonZeroU32;
use std::time::Duration;

use portcullis_identity_table::IdentityId;

use crate::clock::Time;
use crate::event::{Event, EventKind, EventRing, Staged};
use crate::packet::Version;
use crate::reason::Reason;
use crate::verdict::RuleId;

/// Sets of places, and places of a set.
const SETS: usize = 64;
const WAYS: usize = 4;

/// How long packets are told together.
const WINDOW: Duration = Duration::from_secs(1);

/// What packets that are told together have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    source: IdentityId,
    destination: IdentityId,
    rule: RuleId,
    reason: Reason,
    protocol: u8,
    version: u8,
    zone: u16,
    staged: Option<RuleId>,
}

/// One kind, and what was not told of it yet.
#[derive(Clone, Copy)]
struct Place {
    kind: Kind,
    began: Time,
    told: u32,
    /// The last packet not told, its sums in [`EventKind::Folded`]; `None` if there is none.
    kept: Option<Event>,
}

/// See the [module](self).
pub(super) struct Folds {
    burst: u32,
    hasher: ahash::RandomState,
    places: Box<[[Option<Place>; WAYS]; SETS]>,
    looked: Time,
}

impl Kind {
    fn of(event: &Event, reason: Reason) -> Self {
        Self {
            source: event.source,
            destination: event.destination,
            rule: event.rule,
            reason,
            protocol: event.tuple.protocol,
            version: match event.tuple.version {
                Version::V4 => 4,
                Version::V6 => 6,
            },
            zone: event.tuple.zone,
            staged: event.staged.map(|Staged { rule, .. }| rule),
        }
    }
}

impl Folds {
    /// Tells `burst` packets of a kind one by one each second.
    pub(super) fn new(burst: NonZeroU32) -> Self {
        let (hasher, looked) = (ahash::RandomState::new(), Time::default());
        Self { burst: burst.get(), hasher, places: Box::new([[None; WAYS]; SETS]), looked }
    }

    /// Tells of a dropped packet, or keeps it.
    pub(super) fn tell(&mut self, event: Event, reason: Reason, ring: &EventRing) {
        let kind = Kind::of(&event, reason);
        let set = &mut self.places[self.hasher.hash_one(kind) as usize % SETS];
        let at = set.iter().position(|place| place.as_ref().is_some_and(|p| p.kind == kind));
        let at = at.unwrap_or_else(|| {
            // A free place, or that of who was there first.
            let oldest = (0..WAYS).min_by_key(|at| set[*at].as_ref().map(|place| place.began));
            let at = oldest.unwrap_or_default();
            if let Some(kept) = set[at].take().and_then(|place| place.kept) {
                ring.push(kept);
            }
            at
        });
        let new = Place { kind, began: event.time, told: 0, kept: None };
        let place = set[at].get_or_insert(new);
        if event.time.since(place.began) >= WINDOW {
            place.begin(event.time, ring);
        }
        // What the ring has no room for is kept too.
        if place.kept.is_none() && place.told < self.burst && ring.offer(event) {
            place.told += 1;
        } else {
            place.keep(event, reason);
        }
    }

    /// Tells what was kept for long enough. Looks once a window.
    #[inline]
    pub(super) fn look(&mut self, now: Time, ring: &EventRing) {
        if now.since(self.looked) >= WINDOW {
            self.looked = now;
            self.tell_old(now, ring);
        }
    }

    #[cold]
    fn tell_old(&mut self, now: Time, ring: &EventRing) {
        for place in self.places.iter_mut().flatten() {
            let Some(of) = place else { continue };
            if now.since(of.began) >= WINDOW {
                of.begin(now, ring);
                if of.kept.is_none() {
                    *place = None;
                }
            }
        }
    }

    /// Tells everything; what does not fit is counted as lost.
    pub(super) fn finish(&mut self, ring: &EventRing) {
        for place in self.places.iter_mut().flatten() {
            if let Some(kept) = place.take().and_then(|place| place.kept) {
                ring.push(kept);
            }
        }
    }
}

impl Place {
    /// A new window. What was kept is told, or kept on if the ring is full.
    fn begin(&mut self, now: Time, ring: &EventRing) {
        self.kept = self.kept.take().filter(|kept| !ring.offer(*kept));
        (self.began, self.told) = (now, 0);
    }

    fn keep(&mut self, event: Event, reason: Reason) {
        let (source, destination) = (event.tuple.source_port, event.tuple.destination_port);
        let (mut packets, mut bytes, mut since) = (1, u64::from(event.bytes), event.time);
        let (mut source_ports, mut destination_ports) = ([source; 2], [destination; 2]);
        let mut log = event.log;
        if let Some(kept) = &self.kept
            && let EventKind::Folded {
                packets: before,
                bytes: bytes_before,
                since: first,
                source_ports: [s0, s1],
                destination_ports: [d0, d1],
                ..
            } = kept.kind
        {
            packets += before;
            bytes += bytes_before;
            since = first;
            source_ports = [s0.min(source), s1.max(source)];
            destination_ports = [d0.min(destination), d1.max(destination)];
            log |= kept.log;
        }
        let kind =
            EventKind::Folded { reason, packets, bytes, since, source_ports, destination_ports };
        self.kept = Some(Event { kind, log, ..event });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::Tuple;

    fn dropped(at: u64, source: u32, port: u16) -> Event {
        Event {
            time: Time::from_nanos(at),
            kind: EventKind::Dropped { reason: Reason::PolicyDenied },
            tuple: Tuple {
                source: source.into(),
                destination: 1,
                source_port: 9,
                destination_port: port,
                zone: 0,
                protocol: 6,
                version: Version::V4,
            },
            icmp: [0; 2],
            bytes: 40,
            tcp_flags: 2,
            rule: RuleId::NONE,
            source: IdentityId::new(source),
            destination: IdentityId::UNKNOWN,
            log: false,
            staged: None,
        }
    }

    /// Packets and bytes by identity, and the number of events.
    fn read(ring: &EventRing) -> (HashMap<u32, (u64, u64)>, usize) {
        let (mut sums, mut count) = (HashMap::<u32, (u64, u64)>::new(), 0);
        while let Some(event) = ring.pop() {
            let (packets, bytes) = match event.kind {
                EventKind::Folded { packets, bytes, source_ports, destination_ports, .. } => {
                    assert_eq!(source_ports, [9, 9]);
                    let [low, high] = destination_ports;
                    assert!((low..=high).contains(&event.tuple.destination_port));
                    (packets, bytes)
                }
                _ => (1, u64::from(event.bytes)),
            };
            let sum = sums.entry(event.source.get()).or_default();
            *sum = (sum.0 + packets, sum.1 + bytes);
            count += 1;
        }
        (sums, count)
    }

    #[test]
    fn a_scan_costs_a_burst_and_a_sum_a_second() {
        let (ring, mut folds) = (EventRing::new(1000), Folds::new(NonZeroU32::new(8).unwrap()));
        for n in 0..1_000_000u64 {
            folds.tell(dropped(n * 3_000, 5, n as u16), Reason::PolicyDenied, &ring);
        }
        folds.finish(&ring);
        let (sums, events) = read(&ring);
        assert_eq!(sums, [(5, (1_000_000, 40_000_000))].into());
        assert_eq!(events, 3 * 9, "three seconds of eight and a sum");
        assert_eq!(ring.lost(), 0);
    }

    proptest! {
        #[test]
        fn every_packet_is_told_once_or_counted_as_lost(
            packets in proptest::collection::vec((0..3u32, 0..600u32, 0..400_000_000u64), 1..3000),
            burst in 1..20u32,
            room in 1..200usize,
        ) {
            let mut folds = Folds::new(NonZeroU32::new(burst).unwrap());
            let ring = EventRing::new(room);
            let (mut now, mut expected) = (0, HashMap::<u32, (u64, u64)>::new());
            let mut sums = HashMap::<u32, (u64, u64)>::new();
            let mut take = |ring: &EventRing| for (source, sum) in read(ring).0 {
                let all = sums.entry(source).or_default();
                *all = (all.0 + sum.0, all.1 + sum.1);
            };
            for (few, many, passed) in &packets {
                now += passed;
                // Some kinds come often, and there are more than places.
                let source = if now % 2 == 0 { *few } else { *many };
                let sum = expected.entry(source).or_default();
                *sum = (sum.0 + 1, sum.1 + 40);
                folds.tell(dropped(now, source, *many as u16), Reason::PolicyDenied, &ring);
                folds.look(Time::from_nanos(now), &ring);
                if now % 7 == 0 {
                    take(&ring);
                }
            }
            folds.finish(&ring);
            take(&ring);
            let told: u64 = sums.values().map(|sum| sum.0).sum();
            prop_assert_eq!(told + ring.lost_by_kind()[1], packets.len() as u64);
            if ring.lost() == 0 {
                prop_assert_eq!(sums, expected);
            }
        }
    }
}
