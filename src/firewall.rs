//! A running firewall: interfaces and workers around an [`Engine`].

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use portcullis_dataplane::pipeline;
use portcullis_dataplane::port::xdp::{self, FailureMode, LinkState, ModePolicy, Obtained};
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::worker::{self, Handle, Worker};
use portcullis_identity_table::endpoint::ClusterState;
use portcullis_policy::model::PolicySet;

use crate::{Engine, EngineConfig, Error, affinity};

/// How to set up a [`Firewall`].
#[derive(Clone, Debug)]
pub struct Config {
    wire: [String; 2],
    workers: usize,
    cpus: Vec<usize>,
    ports: xdp::Config,
    engine: EngineConfig,
    worker: worker::Config,
}

impl Config {
    /// A transparent wire between two interfaces: what comes in at one leaves, if allowed, at the
    /// other. One worker; failure mode closed; the best mode that both interfaces have.
    pub fn wire(a: &str, b: &str) -> Self {
        Self {
            wire: [a.to_owned(), b.to_owned()],
            workers: 1,
            cpus: Vec::new(),
            ports: xdp::Config::default(),
            engine: EngineConfig::default(),
            worker: worker::Config::default(),
        }
    }

    /// Number of worker threads (at least 1, at most one a queue): they share out the queues.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// CPUs for the workers: the first worker stays on the first, and so on, beginning again where
    /// there are more workers. Empty (the default): they go where the scheduler puts them. Best are
    /// CPUs of the interfaces' NUMA node that take no interrupts of other devices.
    pub fn cpus(mut self, cpus: impl Into<Vec<usize>>) -> Self {
        self.cpus = cpus.into();
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
        change(&mut self.engine.pipeline);
        self
    }

    /// Everything about limits of policies, proofs, how long names are remembered.
    pub fn engine(mut self, change: impl FnOnce(&mut EngineConfig)) -> Self {
        change(&mut self.engine);
        self
    }

    /// How eagerly workers poll, and how often they look around.
    pub fn worker(mut self, change: impl FnOnce(&mut worker::Config)) -> Self {
        change(&mut self.worker);
        self
    }
}

/// A running firewall: an [`Engine`] whose workers take packets off interfaces and put back what may
/// pass. Everything that an engine does (apply, endpoints, sets, explain, diff, events, totals) a
/// firewall does through it.
///
/// All methods may be called from any thread. Dropping it stops the workers and takes the programs
/// off the interfaces. Several in one process work, each with interfaces of its own.
#[derive(Debug)]
pub struct Firewall {
    engine: Engine,
    workers: Vec<Running>,
    ports: Vec<PortInfo>,
    refused: Option<String>,
    guard: xdp::Guard,
    /// What the interfaces were when somebody asked last.
    links: Mutex<Vec<LinkState>>,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    cpu: Option<usize>,
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
    /// The packet memory of it and of the other end of its wire.
    pub memory: xdp::Memory,
}

/// An interface is not what it was: see [`Firewall::port_changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// The interface.
    pub name: String,
    /// What it is now.
    pub state: LinkState,
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
        let engine = Engine::new(config.engine.clone())?;
        engine.apply(cluster, policies)?;
        Self::attach(engine, config)
    }

    /// As [`Firewall::start`], with an engine that is there already, and may serve judges and other
    /// firewalls too; the engine's settings in `config` are not used. Until something is applied
    /// every IP packet is dropped.
    ///
    /// # Errors
    /// [`Error`]; nothing is left attached then.
    pub fn attach(engine: Engine, config: Config) -> Result<Self, Error> {
        let [a, b] = &config.wire;
        let opened = xdp::open(&[a, b], &config.ports)?;
        let ports = opened.interfaces.iter().map(PortInfo::of).collect();
        let refused = opened.refused.as_ref().map(ToString::to_string);
        let links = opened.interfaces.iter().map(|_| LinkState::Up).collect();
        let (workers, links) = (Vec::new(), Mutex::new(links));
        let mut firewall = Self { engine, workers, ports, refused, guard: opened.guard, links };
        let mut cpus = config.cpus.iter().copied().cycle();
        for worker in share_out(&config, &firewall.engine, opened.interfaces, opened.pool)? {
            firewall.workers.push(Running::start(worker, cpus.next())?);
        }
        Ok(firewall)
    }

    /// The engine: cheap to clone, and usable for as long as anybody holds it, though nothing flows
    /// once the firewall is gone.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The interfaces in use.
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// The CPU of each worker; `None` for one that goes where the scheduler puts it.
    pub fn cpus(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.workers.iter().map(|worker| worker.cpu)
    }

    pub(crate) fn guard(&self) -> &xdp::Guard {
        &self.guard
    }

    /// Why the preferred mode was not to be had, if it was not.
    pub fn lesser_mode(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Which interfaces went down, came back or vanished since the last call (or the start): only how
    /// it is now, so nothing piles up if nobody asks. Packets of an interface that comes back flow by
    /// themselves; one that is gone needs a new firewall.
    ///
    /// Two system calls an interface: ask every second or so. Any thread.
    ///
    /// # Errors
    /// A failed system call.
    pub fn port_changes(&self) -> std::io::Result<Vec<PortChange>> {
        let mut links = self.links.lock();
        let now = self.guard.link_states()?;
        let changes = now.iter().zip(links.iter()).filter(|((_, now), before)| now != *before);
        let changes = changes
            .map(|((name, state), _)| PortChange { name: (*name).to_owned(), state: *state });
        let changes = changes.collect();
        *links = now.into_iter().map(|(_, state)| state).collect();
        Ok(changes)
    }

    /// What the kernel counted on each socket: interface, queue, statistics.
    ///
    /// # Errors
    /// A failed system call.
    pub fn socket_statistics(&self) -> std::io::Result<Vec<(&str, u32, xdp::Statistics)>> {
        self.guard.statistics()
    }

    /// What the XDP program on each interface counted: interface, counters.
    ///
    /// # Errors
    /// A failed system call.
    pub fn program_counters(&self) -> Result<Vec<(&str, xdp::ProgramCounters)>, Error> {
        Ok(self.guard.program_counters()?)
    }

    /// Stops the workers, lets frames in transmission leave, and takes the programs off.
    pub fn shutdown(self) {}
}

impl Deref for Firewall {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// Readable when events wait; see [`Engine::event_fd`].
impl AsFd for Firewall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.engine.event_fd()
    }
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

impl PortInfo {
    fn of(interface: &xdp::OpenInterface) -> Self {
        Self {
            name: interface.name.clone(),
            mode: interface.mode,
            queues: interface.ports.len(),
            mtu: interface.mtu,
            memory: interface.memory.clone(),
        }
    }
}

impl Running {
    fn start(mut worker: Worker, cpu: Option<usize>) -> Result<Self, Error> {
        // The first round fills the fill rings and beats the hearts: from here on packets flow,
        // whenever the thread gets to run.
        worker.round();
        let handle = worker.handle();
        let (started, is_started) = channel();
        let thread = std::thread::Builder::new()
            .name("portcullis".into())
            .spawn(move || {
                let pinned = cpu.map_or(Ok(()), affinity::pin);
                let go_on = pinned.is_ok();
                // Whoever started it has given up if it does not hear.
                if started.send(pinned).is_ok() && go_on {
                    drop(worker.run());
                }
            })
            .map_err(|e| Error::System("cannot start a worker thread", e))?;
        let running = Self { handle, thread: Some(thread), cpu };
        match is_started.recv() {
            Ok(pinned) => pinned.map(|()| running),
            Err(_) => Err(Error::System("a worker thread ended", std::io::ErrorKind::Other.into())),
        }
    }
}

/// Makes the workers and deals queue pairs and frames to them in turn.
fn share_out(
    config: &Config,
    engine: &Engine,
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
        workers.push(engine.worker(config.worker)?);
    }
    for (queue, (a_port, b_port)) in a.ports.into_iter().zip(b.ports).enumerate() {
        let name = format!("{}:{} queue {queue}", a.name, b.name);
        let wire = Wire::new(name, Box::new(a_port), Box::new(b_port), pool.split(share));
        workers[queue % count]
            .add(wire.with_interfaces(&a.name, &b.name))
            .map_err(|e| Error::System("cannot wait for a port", e))?;
    }
    Ok(workers)
}
