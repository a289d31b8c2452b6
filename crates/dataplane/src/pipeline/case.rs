//! A packet that needs the policy: which flow it stands for, where that is judged, what is told of it.

use portcullis_identity_table::IdentityId;

use super::engine::{Published, Snapshot};
use crate::clock::Time;
use crate::connection::sctp::SctpPhase;
use crate::connection::state::idle;
use crate::connection::tcp::Phase;
use crate::connection::{Direction, Ended, Grant, Key, Probe, Protocol, Segment};
use crate::event::{Close, Event, EventKind, Staged};
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
    /// What a staged policy says, if there is one.
    pub(super) staged: Option<Decision>,
    /// Bytes of the IP packet.
    pub(super) bytes: u32,
    /// Its TCP flags.
    pub(super) tcp_flags: u8,
}

impl Case {
    /// A packet that opens nothing.
    pub(super) fn alone(n: usize, headers: &Headers) -> Self {
        let mut case = Self::of_tuple(n, headers.tuple);
        case.bytes = headers.ip_len();
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
        case.bytes = probe.bytes;
        if let Segment::Tcp(tcp, _) = probe.segment {
            case.tcp_flags = tcp.flags.0;
        }
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
        Self {
            packet: n as u8,
            member: None,
            tuple,
            flow,
            decision: Decision::default(),
            staged: None,
            bytes: 0,
            tcp_flags: 0,
        }
    }

    /// Decides this case alone: one whose connection changed under its hands, or of a zone of its
    /// own. Without a place it is denied.
    #[cold]
    pub(super) fn decide(&mut self, place: Option<Place<'_>>) {
        self.decision = Decision::default();
        [self.flow.source, self.flow.destination] = [IdentityId::UNKNOWN; 2];
        let Some(place) = place else { return };
        (self.flow, self.decision) = place.decide(&self.tuple, self.flow);
    }

    /// Asks a staged policy too, which has identities of its own.
    #[cold]
    pub(super) fn stage(&mut self, place: Place<'_>) {
        let (_, decision) = place.decide(&self.tuple, self.flow);
        self.staged = Some(decision);
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
            icmp: [self.flow.icmp_kind, self.flow.icmp_code],
            bytes: self.bytes,
            tcp_flags: self.tcp_flags,
            rule: self.decision.rule,
            source: self.flow.source,
            destination: self.flow.destination,
            log: self.decision.log,
            staged: self.otherwise(&kind),
        }
    }

    /// What the staged policy says, if it is not what happened because of the policy in force.
    #[inline]
    fn otherwise(&self, kind: &EventKind) -> Option<Staged> {
        let staged = self.staged?;
        let differs = match kind {
            EventKind::Dropped { reason } => {
                matches!(reason, Reason::PolicyDenied | Reason::PolicyRejected)
                    && staged.verdict == Verdict::Allow
            }
            _ => staged.verdict != Verdict::Allow,
        };
        differs.then_some(Staged { verdict: staged.verdict, rule: staged.rule })
    }
}

/// Where a flow is judged: the identities and the policy of its zone.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    identify: &'a dyn Identify,
    snapshot: &'a Snapshot,
}

impl<'a> Place<'a> {
    /// Where a staged policy is asked.
    pub(super) fn staged(identify: &'a dyn Identify, snapshot: &'a Snapshot) -> Self {
        Self { identify, snapshot }
    }

    /// The flow with its identities here, and what the policy says of it.
    fn decide(&self, tuple: &Tuple, flow: Flow) -> (Flow, Decision) {
        let mut pair = [IdentityId::UNKNOWN; 2];
        let (source, destination) = (tuple.source, tuple.destination);
        let identify = self.identify;
        match tuple.version {
            Version::V4 => identify.identify_v4(&[source as u32, destination as u32], &mut pair),
            Version::V6 => identify.identify_v6(&[source, destination], &mut pair),
        }
        let [source, destination] = pair;
        let flow = Flow { source, destination, ..flow };
        let mut decision = [Decision::default()];
        self.snapshot.policy.decide(&[flow], &mut decision);
        (flow, decision[0])
    }

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

/// How a connection ended of which the table says nothing more than that it is gone.
fn over(connection: &crate::connection::Connection) -> Close {
    match connection.protocol {
        Protocol::Tcp(tcp) => match tcp.phase {
            Phase::LastAck | Phase::TimeWait => Close::Fin,
            Phase::Closed => Close::Reset,
            _ => Close::Timeout,
        },
        Protocol::Sctp(sctp) => match sctp.phase {
            SctpPhase::Closing | SctpPhase::Closed => Close::Fin,
            SctpPhase::Aborted => Close::Reset,
            _ => Close::Timeout,
        },
        Protocol::Datagram { .. } => Close::Timeout,
    }
}

/// The event that tells of the end of a connection that was silent for too long; also what is known of
/// one that lasts.
pub fn end_of(now: Time, ended: &Ended) -> Event {
    end_event(now, ended, None, over(&ended.connection))
}

/// The end of a connection that came of settling a packet of connection `by`, which was dropped for
/// this reason if for any.
pub(super) fn displaced(now: Time, ended: &Ended, by: &Key, dropped: Option<Reason>) -> Event {
    let close = over(&ended.connection);
    match dropped {
        Some(reason) if ended.key == *by => end_event(now, ended, Some(reason), Close::Policy),
        _ if ended.key != *by => end_event(now, ended, None, Close::Evicted),
        _ if close == Close::Timeout => end_event(now, ended, None, Close::Replaced),
        _ => end_event(now, ended, None, close),
    }
}

fn end_event(now: Time, ended: &Ended, reason: Option<Reason>, close: Close) -> Event {
    let Ended { key, connection } = ended;
    let mut tuple = key.tuple(connection.opened);
    let mut icmp = [0; 2];
    if matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6) {
        // Queries carry identifier and type where others carry ports.
        (tuple.source_port, tuple.destination_port) = (0, 0);
        icmp[0] = key.b_port as u8;
    }
    let tcp_flags = match connection.protocol {
        Protocol::Tcp(tcp) => tcp.flags,
        Protocol::Sctp(_) | Protocol::Datagram { .. } => 0,
    };
    let age = (now.as_millis() as u32).wrapping_sub(connection.created);
    let idle = idle(now.as_millis() as u32, connection.seen);
    let before =
        |age: u32| Time::from_nanos(now.as_nanos().saturating_sub(u64::from(age) * 1_000_000));
    let (opened, seen) = (before(age), before(idle));
    Event {
        time: now,
        kind: EventKind::Ended { reason, close, opened, seen, traffic: connection.traffic },
        tuple,
        icmp,
        bytes: 0,
        tcp_flags,
        rule: connection.grant.rule,
        source: connection.grant.source,
        destination: connection.grant.destination,
        log: false,
        staged: None,
    }
}
