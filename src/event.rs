//! What happened to flows, with names: records as a log wants them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::eventfd::{EfdFlags, EventFd};
use portcullis_dataplane::clock::Time;
use portcullis_dataplane::connection::Traffic;
use portcullis_dataplane::event::{Close, Event, EventKind, EventRing};
use portcullis_dataplane::packet::protocol;
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::Verdict;
use portcullis_identity_table::endpoint::Endpoint;
use portcullis_identity_table::identity::{Identity, Owner};
use portcullis_identity_table::{Generation, IdentityId, Labels};
use portcullis_policy::RuleInfo;

use crate::control::Control;
use crate::engine::Shared;

/// Something that happened to a flow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FlowEvent {
    /// When, by the wall clock as it was at the start.
    pub time: SystemTime,
    /// What.
    pub kind: FlowKind,
    /// Who opened the flow; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether it may pass; of a connection that ended: whether it ended by itself.
    pub allowed: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// The policy that decided, as `Kind/namespace/name`, or `default`.
    pub policy: String,
    /// The rule that decided, with file and line; `None` if none did.
    pub rule: Option<Arc<RuleInfo>>,
    /// Who the source was at that time.
    pub from: Party,
    /// Who the destination was at that time.
    pub to: Party,
    /// A `Log` rule asked for this record.
    pub log: bool,
    /// How many packets this tells of; 0 of a connection that ended.
    pub packets: u64,
    /// Bytes of these IP packets.
    pub bytes: u64,
    /// When the first of them, or the connection, began.
    pub since: SystemTime,
    /// The address space: 0 unless a tunnel has one of its own.
    pub zone: u16,
    /// ICMP or ICMPv6 type and code; the code of a query that ended is 0.
    pub icmp: Option<[u8; 2]>,
    /// TCP flags as in the header: of the packet, or all that the connection saw.
    pub tcp_flags: Option<u8>,
    /// What staged policies say, where they say otherwise: those of
    /// [`Engine::stage`](crate::Engine::stage), else Calico's Staged kinds in the set in force.
    pub staged: Option<StagedVerdict>,
    /// When a packet of it was seen last.
    pub last_seen: SystemTime,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowKind {
    /// A connection was opened.
    Opened,
    /// A packet that stands alone and opens nothing (an ICMP message that is no query) was allowed.
    Passed,
    /// A connection was judged anew, and is allowed by another rule now or is another identity's.
    Changed,
    /// Packets were dropped: [`FlowEvent::packets`], one unless
    /// [`denied_burst`](portcullis_dataplane::pipeline::Config::denied_burst) is set.
    Dropped,
    /// A connection ended.
    Ended {
        /// How long it lasted, the time it was idle before it was forgotten included.
        duration: Duration,
        /// From the opener, and back.
        traffic: [Traffic; 2],
        /// How.
        close: Close,
    },
}

/// What staged policies say where they say otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StagedVerdict {
    /// Whether the flow could pass.
    pub allowed: bool,
    /// The rule that would decide; `None` if none would.
    pub rule: Option<Arc<RuleInfo>>,
}

/// One end of a flow, at the time of the record.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Party {
    /// Its identity's number.
    pub id: IdentityId,
    /// Its identity; `None` if nothing loaded spoke of the address, or it is no longer known.
    pub identity: Option<Arc<Identity>>,
    /// The endpoint that owned the address, if one did.
    pub endpoint: Option<Arc<Endpoint>>,
}

impl FlowEvent {
    /// Its zone is gone, and with it who was who there.
    fn forget_parties(&mut self) {
        for party in [&mut self.from, &mut self.to] {
            (party.identity, party.endpoint) = (None, None);
        }
    }
}

impl Party {
    /// Its labels: of the workload or the node.
    pub fn labels(&self) -> Option<&Labels> {
        match &self.identity.as_ref()?.class.owner {
            Owner::Workload(workload) => Some(&workload.labels),
            Owner::Node { labels, .. } => Some(labels),
            Owner::World => None,
        }
    }

    /// Namespace and name of the endpoint.
    pub fn name(&self) -> Option<(&str, &str)> {
        self.endpoint.as_ref().map(|endpoint| (&*endpoint.namespace, &*endpoint.name))
    }
}

/// Events named under one lock.
const CHUNK: usize = 256;

impl Shared {
    /// Reads events of all lanes, names them and hands them over; answers how many.
    pub(crate) fn events(&self, most: usize, mut take: impl FnMut(FlowEvent)) -> usize {
        self.raw_events(most, |raw| {
            // Without the lock while handing over: whoever takes may ask the engine for more.
            self.named(raw).into_iter().for_each(&mut take);
        })
    }

    /// Finds the names that go with events.
    pub(crate) fn named(&self, raw: &[Event]) -> Vec<FlowEvent> {
        let mut named = Vec::with_capacity(raw.len());
        {
            let control = self.control.lock();
            named.extend(raw.iter().map(|event| name(self.began, &control, event)));
        }
        // Never both locks at once, and one for all: most have no zones.
        if raw.iter().any(|event| event.tuple.zone != 0) {
            let zones = self.zones.lock();
            for (event, named) in raw.iter().zip(&mut named) {
                match zones.get(&event.tuple.zone) {
                    Some(control) => *named = name(self.began, control, event),
                    None if event.tuple.zone != 0 => named.forget_parties(),
                    None => {}
                }
            }
        }
        named
    }

    /// Reads events of all lanes and hands them over by the hundreds; answers how many.
    pub(crate) fn raw_events(&self, most: usize, mut take: impl FnMut(&[Event])) -> usize {
        self.bell.silence();
        let rings = self.lanes.lock().rings();
        let mut raw = Vec::with_capacity(CHUNK);
        let mut count = 0;
        // Each worker gets its share, so that a busy one does not hide the others.
        let share = most.div_ceil(rings.len().max(1));
        for ring in &rings {
            let most = share.min(most - count);
            let mut of_ring = 0;
            while of_ring < most {
                raw.extend(std::iter::from_fn(|| ring.pop()).take(CHUNK.min(most - of_ring)));
                if raw.is_empty() {
                    break;
                }
                count += raw.len();
                of_ring += raw.len();
                take(&raw);
                raw.clear();
            }
        }
        if !rings.iter().all(|ring| ring.wait()) {
            self.bell.ring();
        }
        self.lanes.lock().forget_retired();
        count
    }
}

/// A time of the engine's clock, by the wall clock.
pub(crate) fn wall(began: SystemTime, time: Time) -> SystemTime {
    began.checked_add(Duration::from_nanos(time.as_nanos())).unwrap_or(began)
}

/// Finds the names that go with an event.
pub(crate) fn name(began: SystemTime, control: &Control, event: &Event) -> FlowEvent {
    let (kind, reason, since) = match event.kind {
        EventKind::Opened => (FlowKind::Opened, None, None),
        EventKind::Passed => (FlowKind::Passed, None, None),
        EventKind::Changed => (FlowKind::Changed, None, None),
        EventKind::Dropped { reason } | EventKind::Folded { reason, .. } => {
            (FlowKind::Dropped, Some(reason), None)
        }
        EventKind::Ended { reason, opened, traffic, close, .. } => {
            let duration = event.time.since(opened);
            (FlowKind::Ended { duration, traffic, close }, reason, Some(opened))
        }
    };
    // A connection carries the identities under which it was opened, or judged again since.
    let since = since.map(|time| control.generations_at(time)).into_iter().flatten();
    let generations: Vec<Generation> = since.chain(control.generations_at(event.time)).collect();
    let party = |address: IpAddr, id: IdentityId| {
        let history = control.registry().history();
        let mut at = generations.iter().copied();
        let identity = at.find_map(|generation| history.identity_at(id, generation)).cloned();
        let mut at = generations.iter().copied();
        let endpoint = at.find_map(|generation| history.endpoint_at(address, generation)).cloned();
        Party { id, identity, endpoint }
    };
    let tuple = &event.tuple;
    let (source, destination) = (tuple.source_ip(), tuple.destination_ip());
    let rule = control.rule(event.rule);
    let (packets, bytes, first) = match event.kind {
        EventKind::Folded { packets, bytes, since, .. } => (packets, bytes, since),
        EventKind::Ended { opened, .. } => (0, 0, opened),
        _ => (1, event.bytes.into(), event.time),
    };
    let staged = match event.staged {
        Some(staged) => Some(StagedVerdict {
            allowed: staged.verdict == Verdict::Allow,
            rule: control.staged_rule(staged.rule),
        }),
        None => control.staged_otherwise(event),
    };
    FlowEvent {
        time: wall(began, event.time),
        kind,
        source: SocketAddr::new(source, tuple.source_port),
        destination: SocketAddr::new(destination, tuple.destination_port),
        protocol: tuple.protocol,
        allowed: reason.is_none(),
        reason,
        policy: rule.as_ref().map_or("default".to_owned(), |rule| rule.policy.name.to_string()),
        rule,
        from: party(source, event.source),
        to: party(destination, event.destination),
        log: event.log,
        packets,
        bytes,
        since: wall(began, first),
        zone: tuple.zone,
        icmp: matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6).then_some(event.icmp),
        tcp_flags: (tuple.protocol == protocol::TCP).then_some(event.tcp_flags),
        staged,
        last_seen: match event.kind {
            EventKind::Ended { seen, .. } => wall(began, seen),
            _ => wall(began, event.time),
        },
    }
}

/// What tells an event loop that events wait.
#[derive(Debug)]
pub(crate) struct Bell(Arc<EventFd>);

impl Bell {
    pub(crate) fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Rings at the next event of this ring.
    pub(crate) fn hang_on(&self, ring: &EventRing) {
        let fd = Arc::clone(&self.0);
        // A counter that cannot take one more is rung already.
        ring.wake_by(Box::new(move || {
            let _ = fd.write(1);
        }));
        ring.wait();
    }

    fn ring(&self) {
        let _ = self.0.write(1);
    }

    fn silence(&self) {
        // It was silent if there is nothing to read.
        let _ = self.0.read();
    }
}
