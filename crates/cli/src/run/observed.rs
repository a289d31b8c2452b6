//! A running firewall as others see it: what is counted, what is in force, who asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis::dataplane::port::xdp::{FailureMode, ProgramVerdict};
use portcullis::flow::{FlowRecord, Hub, Recorded, Subscription, Watch, Written};
use portcullis::policy::ask::parse_flow;
use portcullis::{Applied, Firewall, RoundTimes, RuleTotals, Totals};

use super::flows::{self, StagedPairs};
use super::socket::Kind;
use super::state::Keeping;
use super::talkers::Talkers;
use crate::control::status::{
    Clients, Connections, Drop, Events, Flows, Packets, Policy, Port, Queue, Refusal, Staged,
    Status, Steered,
};
use crate::control::top::Top;
use crate::output::Refused;

/// See the [module](self). All methods take short locks; none is called on the packet path.
pub(super) struct Observed {
    firewall: Arc<Firewall>,
    name: String,
    fail: FailureMode,
    machine: String,
    began: Instant,
    policy: Mutex<Policy>,
    clients: Mutex<[Clients; 2]>,
    talkers: Mutex<Talkers>,
    flows: Mutex<Option<FlowCounts>>,
    hub: Mutex<Option<Hub>>,
    staged: Mutex<StagedPairs>,
    state: Mutex<Option<Keeping>>,
    /// Records that the live view did not get.
    missed: AtomicU64,
}

/// What counts flow records, and what writes them if anything does.
type FlowCounts = (Watch<Recorded>, Option<Watch<Written>>);

/// What metrics have beyond [`Status`].
pub(super) struct Details {
    pub(super) rules: Vec<RuleTotals>,
    pub(super) rounds: RoundTimes,
}

impl Observed {
    pub(super) fn new(
        firewall: Arc<Firewall>,
        name: &str,
        fail: FailureMode,
        machine: &str,
    ) -> Self {
        Self {
            firewall,
            name: name.to_owned(),
            fail,
            machine: machine.to_owned(),
            began: Instant::now(),
            policy: Mutex::default(),
            clients: Mutex::default(),
            talkers: Mutex::new(Talkers::default()),
            flows: Mutex::default(),
            hub: Mutex::default(),
            staged: Mutex::default(),
            state: Mutex::default(),
            missed: AtomicU64::new(0),
        }
    }

    pub(super) fn firewall(&self) -> &Firewall {
        &self.firewall
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Notes what became of an attempt to put documents in force, and how long it took.
    pub(super) fn applied(&self, result: Result<&Applied, &Refused>, took: Duration) {
        let mut policy = lock(&self.policy);
        match result {
            Ok(applied) => {
                policy.generation = applied.generation;
                policy.applied_at = now();
                policy.apply_seconds = took.as_secs_f64();
                policy.refused = None;
                policy.applied += 1;
            }
            Err(error) => {
                let error = error.message().to_owned();
                policy.refused = Some(Refusal { at: now(), error });
                policy.refusals += 1;
            }
        }
    }

    /// Changes what is counted about clients.
    pub(super) fn clients(&self, kind: Kind, change: impl FnOnce(&mut Clients)) {
        change(&mut lock(&self.clients)[kind as usize]);
    }

    /// Notes a record, for `portcullis top`.
    pub(super) fn note(&self, record: &FlowRecord) {
        lock(&self.talkers).note(self.uptime(), record);
        if record.staged.is_some() {
            lock(&self.staged).note(record);
        }
    }

    /// Says how many records [`Self::note`] never saw.
    pub(super) fn missed(&self, records: u64) {
        self.missed.store(records, Ordering::Relaxed);
    }

    /// Says what counts flow records, and what writes them if anything does.
    pub(super) fn watch_flows(
        &self,
        hub: Hub,
        recorded: Watch<Recorded>,
        written: Option<Watch<Written>>,
    ) {
        *lock(&self.flows) = Some((recorded, written));
        *lock(&self.hub) = Some(hub);
    }

    /// A queue for the records that are kept from now on; `None` before records are made.
    pub(super) fn follow(&self, capacity: usize) -> Option<Subscription> {
        lock(&self.hub).as_ref().map(|hub| hub.subscribe(capacity))
    }

    /// Says what keeps connections over a restart.
    pub(super) fn watch_state(&self, keeping: Keeping) {
        *lock(&self.state) = Some(keeping);
    }

    /// Says that other policies are staged now.
    pub(super) fn staged_anew(&self) {
        lock(&self.staged).clear();
    }

    fn staged(&self, totals: &Totals) -> Option<Staged> {
        let (policies, ended) = match self.firewall.staged() {
            Ok(None) => return None,
            Ok(Some(policies)) => (policies, None),
            Err(why) => (0, Some(why)),
        };
        let (pairs, others) = lock(&self.staged).most();
        Some(Staged {
            policies,
            ended,
            judged: totals.staged,
            would_allow: totals.staged_allows,
            would_deny: totals.staged_denies,
            pairs,
            others,
        })
    }

    fn flows(&self) -> Option<Flows> {
        let flows = lock(&self.flows);
        let (recorded, written) = flows.as_ref()?;
        let written = written.as_ref().map(Watch::now);
        let mut flows = flows::status(&recorded.now(), written.as_ref());
        flows.unseen = self.missed.load(Ordering::Relaxed);
        Some(flows)
    }

    /// Seconds since the start.
    pub(super) fn uptime(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub(super) fn status(&self) -> Status {
        let totals = self.firewall.totals();
        let applied = self.firewall.applied();
        let policy = Policy {
            generation: applied.generation,
            policies: applied.policies,
            endpoints: applied.endpoints,
            identities: applied.identities,
            ..lock(&self.policy).clone()
        };
        let [control, metrics] = lock(&self.clients).clone();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            name: self.name.clone(),
            fail: self.fail.to_string(),
            uptime_seconds: self.uptime(),
            policy,
            ports: self.ports(),
            machine: self.machine.clone(),
            lesser_mode: self.firewall.lesser_mode(),
            packets: packets(&totals),
            drops: drops(&totals),
            connections: Connections {
                now: totals.connections,
                capacity: totals.capacity,
                half_open: totals.half_open,
                opened: totals.opened,
                ended: totals.ended,
                evicted: totals.evicted,
            },
            events: Events { waiting: totals.events_waiting, lost: totals.events_lost },
            control,
            metrics,
            flows: self.flows(),
            staged: self.staged(&totals),
            state: lock(&self.state).as_ref().map(Keeping::now),
        }
    }

    pub(super) fn details(&self) -> Details {
        Details { rules: self.firewall.rule_totals(), rounds: self.firewall.round_times() }
    }

    pub(super) fn top(&self) -> Top {
        let (pairs, forgotten) = lock(&self.talkers).most(self.firewall.engine());
        Top { at: self.uptime(), status: self.status(), pairs, forgotten }
    }

    /// Why a flow is decided as it is.
    ///
    /// # Errors
    /// What is wrong with the flow.
    pub(super) fn explain(&self, flow: &str) -> Result<String, String> {
        let (cluster, policies) = self.firewall.in_force();
        let flow = parse_flow(flow, &cluster).map_err(|e| e.to_string())?;
        Ok(portcullis::policy::explain::explain(&cluster, &policies, &flow).to_string())
    }

    fn ports(&self) -> Vec<Port> {
        // An interface that is gone counts nothing any more; the others are told of all the same.
        let statistics = self.firewall.socket_statistics().unwrap_or_default();
        let programs = self.firewall.program_counters().unwrap_or_default();
        let of = |port: &portcullis::PortInfo| {
            let queues = statistics.iter().filter(|(name, ..)| *name == port.name);
            let program = programs.iter().find(|(name, _)| *name == port.name);
            let steered = |verdict: &ProgramVerdict| {
                let count = program.map(|(_, counters)| counters.total(*verdict));
                let count = count.unwrap_or_default();
                let verdict = verdict.name().to_owned();
                Steered { verdict, packets: count.packets, bytes: count.bytes }
            };
            Port {
                name: port.name.clone(),
                wire: port.wire.clone(),
                mode: port.mode.to_string(),
                mtu: port.mtu,
                queues: queues.map(|(_, queue, s)| self::queue(*queue, s)).collect(),
                program: ProgramVerdict::ALL.iter().map(steered).collect(),
            }
        };
        self.firewall.ports().iter().map(of).collect()
    }
}

fn queue(queue: u32, statistics: &portcullis::dataplane::port::xdp::Statistics) -> Queue {
    Queue {
        queue,
        rx_dropped: statistics.rx_dropped,
        rx_invalid_descs: statistics.rx_invalid_descs,
        tx_invalid_descs: statistics.tx_invalid_descs,
        rx_ring_full: statistics.rx_ring_full,
        rx_fill_ring_empty_descs: statistics.rx_fill_ring_empty_descs,
        tx_ring_empty_descs: statistics.tx_ring_empty_descs,
    }
}

fn packets(totals: &Totals) -> Packets {
    Packets {
        received: totals.received,
        received_bytes: totals.received_bytes,
        forwarded: totals.forwarded,
        forwarded_bytes: totals.forwarded_bytes,
        dropped: totals.dropped,
        dropped_bytes: totals.dropped_bytes.iter().map(|(_, bytes)| bytes).sum(),
        rejects_sent: totals.rejects_sent,
        checksums_completed: totals.checksums_completed,
        mirrored: totals.mirrored,
        mirror_lost: totals.mirror_lost,
    }
}

fn drops(totals: &Totals) -> Vec<Drop> {
    let both = totals.drops.iter().zip(&totals.dropped_bytes);
    both.map(|((reason, packets), (_, bytes))| Drop {
        reason: reason.as_str().to_owned(),
        packets: *packets,
        bytes: *bytes,
    })
    .collect()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
