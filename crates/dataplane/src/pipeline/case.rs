//! A packet that needs the policy: which flow it stands for, where that is judged, what is told of it.

use portcullis_identity_table::IdentityId;

use super::engine::{Published, Snapshot};
use crate::clock::Time;
use crate::connection::{Direction, Ended, Grant, Probe, Segment};
use crate::event::{Event, EventKind};
use crate::packet::{Headers, Transport, Tuple, Version, protocol};
use crate::reason::Reason;
use crate::verdict::{Decision, Flow, Identify, Verdict};

/// A packet that needs the policy.
#[derive(Clone, Copy)]
pub(super) struct Case {
    /// Which packet of the batch.
    pub(super) packet: u8,
    /// Its part in a connection, unless it stands alone.
    pub(super) member: Option<(Probe, Direction)>,
    /// The flow to judge, by address.
    pub(super) tuple: Tuple,
    /// The same, by identity.
    pub(super) flow: Flow,
    /// What the policy says.
    pub(super) decision: Decision,
}

impl Case {
    /// A packet that opens nothing.
    pub(super) fn alone(n: usize, headers: &Headers) -> Self {
        let mut case = Self::of_tuple(n, headers.tuple);
        if let Transport::Icmp { kind, code, .. } = headers.transport {
            case.flow.icmp_kind = kind;
            case.flow.icmp_code = code;
        }
        case
    }

    /// A packet of a connection opened in direction `opened`.
    pub(super) fn member(
        n: usize,
        probe: &Probe,
        opened: Direction,
        headers: &Option<Headers>,
    ) -> Self {
        let mut tuple = probe.key.tuple(opened);
        let icmp = matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6);
        let mut code = 0;
        if icmp {
            // Queries carry identifier and type where others carry ports.
            tuple.source_port = 0;
            tuple.destination_port = 0;
            if let (Segment::Request, Some(headers)) = (probe.segment, headers)
                && let Transport::Icmp { code: of_packet, .. } = headers.transport
            {
                code = of_packet;
            }
        }
        let mut case = Self::of_tuple(n, tuple);
        if icmp {
            case.flow.icmp_kind = probe.key.b_port as u8;
            case.flow.icmp_code = code;
        }
        case.member = Some((*probe, opened));
        case
    }

    fn of_tuple(n: usize, tuple: Tuple) -> Self {
        let flow = Flow {
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            protocol: tuple.protocol,
            version: tuple.version,
            same_address: tuple.source == tuple.destination,
            ..Flow::default()
        };
        Self { packet: n as u8, member: None, tuple, flow, decision: Decision::default() }
    }

    /// Decides this case alone: one whose connection changed under its hands, or of a zone of its
    /// own. Without a place it is denied.
    #[cold]
    pub(super) fn decide(&mut self, place: Option<Place<'_>>) {
        self.decision = Decision::default();
        [self.flow.source, self.flow.destination] = [IdentityId::UNKNOWN; 2];
        let Some(Place { identify, snapshot }) = place else { return };
        let mut pair = [IdentityId::UNKNOWN; 2];
        let (source, destination) = (self.tuple.source, self.tuple.destination);
        match self.tuple.version {
            Version::V4 => identify.identify_v4(&[source as u32, destination as u32], &mut pair),
            Version::V6 => identify.identify_v6(&[source, destination], &mut pair),
        }
        [self.flow.source, self.flow.destination] = pair;
        let mut decision = [Decision::default()];
        snapshot.policy.decide(&[self.flow], &mut decision);
        [self.decision] = decision;
    }

    pub(super) fn grant(&self) -> Grant {
        Grant {
            rule: self.decision.rule,
            source: self.flow.source,
            destination: self.flow.destination,
        }
    }

    pub(super) fn event(&self, time: Time, kind: EventKind) -> Event {
        Event {
            time,
            kind,
            tuple: self.tuple,
            rule: self.decision.rule,
            source: self.flow.source,
            destination: self.flow.destination,
            log: self.decision.log,
        }
    }
}

/// Where a flow is judged: the identities and the policy of its zone.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    identify: &'a dyn Identify,
    snapshot: &'a Snapshot,
}

impl<'a> Place<'a> {
    /// `identify` is zone 0's, `zones` has those of the others. `None`: the zone has no policy.
    pub(super) fn of(
        zone: u16,
        identify: &'a dyn Identify,
        zones: &'a [(u16, Box<dyn Identify>)],
        published: &'a Published,
    ) -> Option<Self> {
        if zone == 0 {
            return Some(Self { identify, snapshot: &published.snapshot });
        }
        let at = zones.binary_search_by_key(&zone, |(zone, _)| *zone).ok()?;
        let (_, snapshot) = published.zones.get(at)?;
        Some(Self { identify: &*zones[at].1, snapshot })
    }
}

/// Why a decision does not let a packet pass, if it does not.
pub(super) fn refusal(decision: &Decision) -> Option<Reason> {
    match decision.verdict {
        Verdict::Allow => None,
        Verdict::Deny => Some(Reason::PolicyDenied),
        Verdict::Reject => Some(Reason::PolicyRejected),
    }
}

pub(super) fn end_event(now: Time, ended: &Ended, reason: Option<Reason>) -> Event {
    let Ended { key, connection } = ended;
    let age = (now.as_millis() as u32).wrapping_sub(connection.created);
    let opened = Time::from_nanos(now.as_nanos().saturating_sub(u64::from(age) * 1_000_000));
    Event {
        time: now,
        kind: EventKind::Ended { reason, opened, traffic: connection.traffic },
        tuple: key.tuple(connection.opened),
        rule: connection.grant.rule,
        source: connection.grant.source,
        destination: connection.grant.destination,
        log: false,
    }
}
