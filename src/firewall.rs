//! A running firewall: interfaces, workers, one engine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use portcullis_dataplane::counter::Counters;
use portcullis_dataplane::event::{EventKind, EventRing};
use portcullis_dataplane::pipeline::{self, Lane};
use portcullis_dataplane::port::xdp::{self, FailureMode, ModePolicy, Obtained};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::worker::{self, Handle, Worker};
use portcullis_identity_table::endpoint::ClusterState;
use portcullis_policy::model::PolicySet;

use crate::Error;
use crate::glue::World;

/// How to set up a [`Firewall`].
#[derive(Clone, Debug)]
pub struct Config {
    wire: [String; 2],
    workers: usize,
    ports: xdp::Config,
    pipeline: pipeline::Config,
    worker: worker::Config,
}

impl Config {
    /// A transparent wire between two interfaces: what comes in at one leaves, if allowed, at the
    /// other. One worker; failure mode closed; the best mode that both interfaces have.
    pub fn wire(a: &str, b: &str) -> Self {
        Self {
            wire: [a.to_owned(), b.to_owned()],
            workers: 1,
            ports: xdp::Config::default(),
            pipeline: pipeline::Config::default(),
            worker: worker::Config::default(),
        }
    }

    /// Number of worker threads (at least 1, at most one a queue): they share out the queues.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Which AF_XDP mode to ask for, and whether a lesser one will do.
    pub fn mode(mut self, mode: ModePolicy) -> Self {
        self.ports.mode = mode;
        self
    }

    /// What happens to packets when no live worker takes them.
    pub fn failure(mut self, failure: FailureMode) -> Self {
        self.ports.failure = failure;
        self
    }

    /// Everything about rings and packet memory.
    pub fn ports(mut self, change: impl FnOnce(&mut xdp::Config)) -> Self {
        change(&mut self.ports);
        self
    }

    /// Everything about connections, ARP, neighbour discovery and other non-IP frames.
    pub fn pipeline(mut self, change: impl FnOnce(&mut pipeline::Config)) -> Self {
        change(&mut self.pipeline);
        self
    }
}

/// A running firewall. Dropping it stops the workers and takes the programs off the interfaces.
///
/// All methods may be called from any thread.
#[derive(Debug)]
pub struct Firewall {
    engine: Arc<pipeline::Engine>,
    /// What is in force; changed under the lock, read by nobody on the packet path.
    world: Mutex<World>,
    workers: Vec<Running>,
    ports: Vec<PortInfo>,
    refused: Option<String>,
    guard: xdp::Guard,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    counters: Arc<Counters>,
    events: Arc<EventRing>,
    thread: Option<JoinHandle<()>>,
}

/// One interface in use.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// The mode that the kernel reports.
    pub mode: Obtained,
    /// Queues in use: all it has.
    pub queues: usize,
    /// MTU in bytes.
    pub mtu: u32,
}

/// What [`Firewall::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Number of the policy set in force, from 1.
    pub generation: u64,
    /// Policies in it.
    pub policies: usize,
    /// Endpoints it knows.
    pub endpoints: usize,
    /// Identities they make, those of CIDRs included.
    pub identities: usize,
}

/// What happened to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// Who opened the flow; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether it may pass.
    pub allowed: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// The policy that decided, as `Kind/namespace/name`, or `default`.
    pub policy: String,
}

/// Packets since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Received.
    pub received: u64,
    /// Forwarded.
    pub forwarded: u64,
    /// Dropped, for whatever reason.
    pub dropped: u64,
    /// Dropped, by reason; reasons without a packet are left out.
    pub drops: Vec<(Reason, u64)>,
    /// Packets whose unfinished checksum was completed.
    pub checksums_completed: u64,
    /// Connections now.
    pub connections: usize,
    /// Events that did not fit and were not reported.
    pub events_lost: u64,
}

impl Firewall {
    /// Compiles the policies, opens the interfaces in the calling thread's network namespace, and
    /// starts forwarding. Packets flow when this returns.
    ///
    /// # Errors
    /// [`Error`]; nothing is left attached then.
    pub fn start(
        config: Config,
        cluster: ClusterState,
        policies: PolicySet,
    ) -> Result<Self, Error> {
        let world = World::new(cluster, policies)?;
        let engine = pipeline::Engine::new(config.pipeline)
            .map_err(|e| Error::System("cannot make the connection table", e))?;
        let engine = Arc::new(engine);
        engine.publish(world.snapshot());

        let [a, b] = &config.wire;
        let opened = xdp::open(&[a, b], &config.ports)?;
        let ports = opened.interfaces.iter().map(PortInfo::of).collect();
        let refused = opened.refused.as_ref().map(ToString::to_string);
        let mut firewall = Self {
            engine,
            world: Mutex::new(world),
            workers: Vec::new(),
            ports,
            refused,
            guard: opened.guard,
        };
        for worker in share_out(&config, &firewall.engine, opened.interfaces, opened.pool)? {
            firewall.workers.push(Running::start(worker)?);
        }
        Ok(firewall)
    }

    /// Replaces cluster and policies: compiled aside, then put in force with one pointer store, so
    /// that a packet is judged by the old set or the new, never by a mix. Live connections are
    /// judged again at their next packet.
    ///
    /// # Errors
    /// [`Error`]; the old set stays in force.
    pub fn apply(&self, cluster: ClusterState, policies: PolicySet) -> Result<Applied, Error> {
        let mut world = self.world.lock();
        world.replace(cluster, policies)?;
        self.engine.publish(world.snapshot());
        Ok(Applied::of(&world))
    }

    /// What is in force.
    pub fn applied(&self) -> Applied {
        Applied::of(&self.world.lock())
    }

    /// The interfaces in use.
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// Why the preferred mode was not to be had, if it was not.
    pub fn lesser_mode(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// What was counted since the start, over all workers.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { connections: self.engine.connections(), ..Totals::default() };
        for worker in &self.workers {
            let counters = &worker.counters;
            totals.received += counters.received.get();
            totals.forwarded += counters.forwarded.get();
            totals.dropped += counters.dropped_total();
            totals.checksums_completed += counters.checksums_completed.get();
            totals.events_lost += worker.events.lost();
            for (reason, count) in counters.drops() {
                match totals.drops.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, sum)) => *sum += count,
                    None => totals.drops.push((reason, count)),
                }
            }
        }
        totals.drops.sort_by_key(|(reason, _)| *reason);
        totals
    }

    /// Hands over what was recorded since the last call: connections opened and packets dropped.
    /// What did not fit into the rings meanwhile is counted in [`Totals::events_lost`].
    pub fn events(&self, mut take: impl FnMut(FlowEvent)) {
        let world = self.world.lock();
        for worker in &self.workers {
            while let Some(event) = worker.events.pop() {
                let reason = match event.kind {
                    EventKind::Opened => None,
                    EventKind::Dropped { reason } => Some(reason),
                    EventKind::Ended { .. } => continue,
                };
                let tuple = &event.tuple;
                take(FlowEvent {
                    source: SocketAddr::new(tuple.source_ip(), tuple.source_port),
                    destination: SocketAddr::new(tuple.destination_ip(), tuple.destination_port),
                    protocol: tuple.protocol,
                    allowed: reason.is_none(),
                    reason,
                    policy: world.policy(event.rule),
                });
            }
        }
    }

    /// What the kernel counted on each socket: interface, queue, statistics.
    ///
    /// # Errors
    /// A failed system call.
    pub fn socket_statistics(&self) -> std::io::Result<Vec<(&str, u32, xdp::Statistics)>> {
        self.guard.statistics()
    }

    /// Stops the workers, lets frames in transmission leave, and takes the programs off.
    pub fn shutdown(self) {}
}

impl Drop for Firewall {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.handle.stop();
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A worker that died has nothing more to tell.
                let _ = thread.join();
            }
        }
    }
}

impl Applied {
    fn of(world: &World) -> Self {
        let (generation, policies, endpoints, identities) = world.size();
        Self { generation, policies, endpoints, identities }
    }
}

impl PortInfo {
    fn of(interface: &xdp::OpenInterface) -> Self {
        Self {
            name: interface.name.clone(),
            mode: interface.mode,
            queues: interface.ports.len(),
            mtu: interface.mtu,
        }
    }
}

impl Running {
    fn start(mut worker: Worker) -> Result<Self, Error> {
        // The first round fills the fill rings and beats the hearts: from here on packets flow,
        // whenever the thread gets to run.
        worker.round();
        let handle = worker.handle();
        let counters = Arc::clone(worker.lane().counters());
        let events = Arc::clone(worker.lane().events());
        let thread = std::thread::Builder::new()
            .name("portcullis".into())
            .spawn(move || drop(worker.run()))
            .map_err(|e| Error::System("cannot start a worker thread", e))?;
        Ok(Self { handle, counters, events, thread: Some(thread) })
    }
}

/// Makes the workers and deals queue pairs and frames to them in turn.
fn share_out(
    config: &Config,
    engine: &Arc<pipeline::Engine>,
    interfaces: Vec<xdp::OpenInterface>,
    mut pool: portcullis_dataplane::frame::FramePool,
) -> Result<Vec<Worker>, Error> {
    let Ok([a, b]) = <[xdp::OpenInterface; 2]>::try_from(interfaces) else {
        unreachable!("two interfaces were opened");
    };
    if a.ports.len() != b.ports.len() {
        return Err(Error::Queues {
            a_queues: a.ports.len(),
            a: a.name,
            b_queues: b.ports.len(),
            b: b.name,
        });
    }
    let queues = a.ports.len();
    let count = config.workers.clamp(1, queues);
    let share = pool.available() / queues;
    let mut workers = Vec::with_capacity(count);
    for _ in 0..count {
        let lane = Lane::new(Arc::clone(engine));
        let worker = Worker::new(config.worker, lane)
            .map_err(|e| Error::System("cannot make a worker", e))?;
        workers.push(worker);
    }
    for (queue, (a_port, b_port)) in a.ports.into_iter().zip(b.ports).enumerate() {
        let name = format!("{}:{} queue {queue}", a.name, b.name);
        workers[queue % count]
            .add(Wire::new(name, Box::new(a_port), Box::new(b_port), pool.split(share)))
            .map_err(|e| Error::System("cannot wait for a port", e))?;
    }
    Ok(workers)
}
