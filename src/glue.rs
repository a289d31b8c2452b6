//! Where a compiled policy meets the packet path: its traits, answered by a program and a table.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use portcullis_dataplane::event::Event;
use portcullis_dataplane::packet::Version;
use portcullis_dataplane::pipeline::BATCH;
use portcullis_dataplane::verdict::{self, Identify};
use portcullis_identity_table::{Generation, IdentityId, Reader, Writer};
use portcullis_policy::flow::{Header, protocol};
use portcullis_policy::model::IpVersion;
use portcullis_policy::program::{Decision, FlowKey, Program, Reason};
use portcullis_policy::{Flow, Verdict};

/// One address table, shared by the workers.
#[derive(Debug)]
pub(crate) struct Table {
    /// The handle from which workers' own are cloned.
    reader: Mutex<Reader>,
    /// Held by every handle, so that [`Table::in_use`] sees them.
    handles: Arc<()>,
    /// Changes of the table since it was made.
    changes: AtomicU32,
}

impl Table {
    pub(crate) fn new() -> (Arc<Self>, Writer) {
        let writer = Writer::new();
        let reader = Mutex::new(writer.reader());
        let (handles, changes) = (Arc::default(), AtomicU32::new(0));
        (Arc::new(Self { reader, handles, changes }), writer)
    }

    /// Whether a worker has a handle on it.
    pub(crate) fn in_use(&self) -> bool {
        Arc::strong_count(&self.handles) > 1
    }

    /// Says that answers have changed: connections are judged again.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl verdict::Identities for Table {
    fn handle(&self) -> Box<dyn Identify> {
        Box::new(Handle(self.reader.lock().clone(), Arc::clone(&self.handles)))
    }

    fn generation(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }
}

/// One worker's way into the table.
struct Handle(Reader, #[allow(dead_code)] Arc<()>);

impl Identify for Handle {
    fn identify_v4(&self, addresses: &[u32], out: &mut [IdentityId]) {
        self.0.pin().lookup_v4_batch(addresses, out);
    }

    fn identify_v6(&self, addresses: &[u128], out: &mut [IdentityId]) {
        self.0.pin().lookup_v6_batch(addresses, out);
    }
}

/// A program, with numbers for its rules that outlive it.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) program: Arc<Program>,
    pub(crate) numbers: Arc<[verdict::RuleId]>,
    /// What becomes of a packet that the program denies.
    pub(crate) denied: verdict::Verdict,
}

/// What the packet path asks: the program in force, and those around it.
///
/// While the table changes in place, a batch may meet an identity of before (it looked the address up
/// before the table was changed) or of after (its snapshot was published before the change began). The
/// current program knows neither; one of its neighbours does.
#[derive(Debug)]
pub(crate) struct Judge {
    current: Compiled,
    previous: Option<Compiled>,
    /// What was published next, if it shares the table. Whoever still holds this one holds those
    /// after it too.
    next: OnceLock<Arc<Judge>>,
}

impl Judge {
    /// `previous` is the program that the table was made for, unless it was made for `current`.
    pub(crate) fn new(current: Compiled, previous: Option<Compiled>) -> Self {
        Self { current, previous, next: OnceLock::new() }
    }

    /// Says what is published next over the same table; to be called before the table is changed.
    pub(crate) fn followed_by(&self, next: &Arc<Self>) {
        // There is one writer, and it has one successor for each.
        let _ = self.next.set(Arc::clone(next));
    }

    /// The oldest identities that a lookup may still meet.
    pub(crate) fn oldest(&self) -> Generation {
        let current = self.current.program.generation();
        self.previous.as_ref().map_or(current, |compiled| compiled.program.generation())
    }

    /// The answer of the first program around the current one that knows both identities.
    #[cold]
    fn around(&self, key: &FlowKey) -> verdict::Decision {
        let later = std::iter::successors(self.next.get(), |judge| judge.next.get());
        let programs = self.previous.iter().chain(later.map(|judge| &judge.current));
        let answers = programs.map(|compiled| (compiled, compiled.program.decide_one(key)));
        let mut known = answers.filter(|(_, decision)| decision.reason != Reason::NotReady);
        known.next().map_or_else(verdict::Decision::default, |(by, decision)| by.answer(&decision))
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // One after the other: a long chain must not be dropped by recursion.
        let mut next = self.next.take();
        while let Some(mut judge) = next.and_then(Arc::into_inner) {
            next = judge.next.take();
        }
    }
}

impl verdict::Policy for Judge {
    fn decide(&self, flows: &[verdict::Flow], out: &mut [verdict::Decision]) {
        for (flows, out) in flows.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut keys = [NO_KEY; BATCH];
            let mut decisions = [Decision::NOT_READY; BATCH];
            for (key, flow) in keys.iter_mut().zip(flows) {
                *key = question(flow);
            }
            self.current.program.decide(&keys[..flows.len()], &mut decisions);
            for ((out, decision), key) in out.iter_mut().zip(&decisions[..flows.len()]).zip(&keys) {
                *out = match decision.reason {
                    Reason::NotReady => self.around(key),
                    _ => self.current.answer(decision),
                };
            }
        }
    }
}

impl Compiled {
    fn answer(&self, decision: &Decision) -> verdict::Decision {
        let rule = self.program.deciding_rule(decision);
        let number = rule.and_then(|(id, _)| self.numbers.get(id.0 as usize));
        verdict::Decision {
            verdict: match decision.verdict {
                Verdict::Allow => verdict::Verdict::Allow,
                Verdict::Deny => self.denied,
            },
            rule: number.copied().unwrap_or(verdict::RuleId::NONE),
            log: decision.log,
        }
    }
}

const NO_KEY: FlowKey = FlowKey {
    source: IdentityId::UNKNOWN,
    destination: IdentityId::UNKNOWN,
    header: Header { ip_version: IpVersion::V4, protocol: 0, source_port: 0, destination_port: 0 },
    same_address: false,
};

/// A flow of the packet path as the program asks for it.
fn question(flow: &verdict::Flow) -> FlowKey {
    let (source_port, destination_port) = if protocol::is_icmp(flow.protocol) {
        (flow.icmp_kind.into(), flow.icmp_code.into())
    } else {
        (flow.source_port, flow.destination_port)
    };
    FlowKey {
        source: flow.source,
        destination: flow.destination,
        header: Header {
            ip_version: match flow.version {
                Version::V4 => IpVersion::V4,
                Version::V6 => IpVersion::V6,
            },
            protocol: flow.protocol,
            source_port,
            destination_port,
        },
        same_address: flow.same_address,
    }
}

/// The same the other way: a flow in the policy's words, its identities yet to be looked up.
pub(crate) fn of_policy(flow: &Flow) -> verdict::Flow {
    let header = &flow.header;
    let icmp = header.icmp();
    let (icmp_kind, icmp_code) = icmp.unwrap_or_default();
    let port = |port: u16| if icmp.is_some() { 0 } else { port };
    verdict::Flow {
        source: IdentityId::UNKNOWN,
        destination: IdentityId::UNKNOWN,
        source_port: port(header.source_port),
        destination_port: port(header.destination_port),
        icmp_kind,
        icmp_code,
        protocol: header.protocol,
        version: match header.ip_version {
            IpVersion::V4 => Version::V4,
            IpVersion::V6 => Version::V6,
        },
        same_address: flow.source == flow.destination,
    }
}

/// The flow that an event of the packet path is about, in the policy's words.
pub(crate) fn to_policy(event: &Event) -> Flow {
    let tuple = &event.tuple;
    let ports = match protocol::is_icmp(tuple.protocol) {
        true => (event.icmp[0].into(), event.icmp[1].into()),
        false => (tuple.source_port, tuple.destination_port),
    };
    Flow::new(tuple.source_ip(), tuple.destination_ip(), tuple.protocol, ports)
}
