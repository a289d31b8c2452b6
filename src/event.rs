//! What happened to flows, with names: records as a log wants them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::eventfd::{EfdFlags, EventFd};
use portcullis_dataplane::connection::Traffic;
use portcullis_dataplane::event::{Event, EventKind, EventRing};
use portcullis_dataplane::reason::Reason;
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
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowKind {
    /// A connection was opened; or a packet that stands alone was allowed.
    Opened,
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
    },
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
        self.bell.silence();
        let rings = self.lanes.lock().rings();
        let mut raw = Vec::new();
        let mut count = 0;
        for ring in &rings {
            while count < most {
                raw.extend(std::iter::from_fn(|| ring.pop()).take(CHUNK.min(most - count)));
                if raw.is_empty() {
                    break;
                }
                count += raw.len();
                let named: Vec<FlowEvent> = {
                    let control = self.control.lock();
                    raw.drain(..).map(|event| name(self.began, &control, &event)).collect()
                };
                // Without the lock: whoever takes may ask the engine for more.
                named.into_iter().for_each(&mut take);
            }
        }
        if !rings.iter().all(|ring| ring.wait()) {
            self.bell.ring();
        }
        self.lanes.lock().forget_retired();
        count
    }
}

/// Finds the names that go with an event.
fn name(began: SystemTime, control: &Control, event: &Event) -> FlowEvent {
    let (kind, reason, since) = match event.kind {
        EventKind::Opened => (FlowKind::Opened, None, None),
        EventKind::Changed => (FlowKind::Changed, None, None),
        EventKind::Dropped { reason } | EventKind::Folded { reason, .. } => {
            (FlowKind::Dropped, Some(reason), None)
        }
        EventKind::Ended { reason, opened, traffic, .. } => {
            let duration = event.time.since(opened);
            (FlowKind::Ended { duration, traffic }, reason, Some(opened))
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
    let rule = control.rule(event.rule).cloned();
    FlowEvent {
        time: began.checked_add(Duration::from_nanos(event.time.as_nanos())).unwrap_or(began),
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
        packets: match event.kind {
            EventKind::Folded { packets, .. } => packets,
            EventKind::Ended { .. } => 0,
            _ => 1,
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
