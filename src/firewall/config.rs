//! What a firewall is started with.

use portcullis_dataplane::pipeline;
use portcullis_dataplane::port::xdp::{self, FailureMode, ModePolicy};
use portcullis_dataplane::worker;

use super::Topology;
use crate::{Engine, EngineConfig, Error};

/// How to set up a [`Firewall`](crate::Firewall).
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) wires: Vec<Topology>,
    pub(super) workers: usize,
    pub(super) cpus: Vec<usize>,
    pub(super) nice: i8,
    pub(super) mirror: Option<String>,
    pub(super) ports: xdp::Config,
    pub(super) engine: EngineConfig,
    pub(super) worker: worker::Config,
}

impl Config {
    /// A transparent wire between two interfaces: what comes in at one leaves, if allowed, at the
    /// other. One worker; failure mode closed; the best mode that both interfaces have.
    pub fn wire(a: &str, b: &str) -> Self {
        Self::idle().with(Topology::wire(a, b))
    }

    /// No interfaces yet: [`Firewall::add_wire`](crate::Firewall::add_wire) gives it some.
    pub fn idle() -> Self {
        Self {
            wires: Vec::new(),
            workers: 1,
            cpus: Vec::new(),
            nice: -20,
            mirror: None,
            ports: xdp::Config::default(),
            engine: EngineConfig::default(),
            worker: worker::Config::default(),
        }
    }

    /// Another wire to begin with.
    pub fn with(mut self, wire: Topology) -> Self {
        self.wires.push(wire);
        self
    }

    /// Number of worker threads (at least 1): they share out the queues of all wires.
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

    /// Nice value of the workers' threads, from -20 (the default) to 19: by default no packet waits
    /// for other work of the machine, a compilation of policies included. An idle worker sleeps.
    /// Where CAP_SYS_NICE is missing they keep that of the calling thread;
    /// [`Firewall::nice`](crate::Firewall::nice) says which they have. Either way they ask for the
    /// shortest slices of CPU time (0.1 ms, Linux 6.12), so that one that wakes does not wait for
    /// those of others to end.
    pub fn nice(mut self, nice: i8) -> Self {
        self.nice = nice;
        self
    }

    /// The interface that copies of packets leave by, which needs a queue for each worker; which
    /// packets those are says [`Engine::mirror`](crate::Engine::mirror). It is only sent to: what
    /// arrives there still goes to the host's stack. Packets longer than it takes are left out.
    pub fn mirror_to(mut self, interface: &str) -> Self {
        self.mirror = Some(interface.to_owned());
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

    /// An engine with these settings, to be prepared (policies, zones, restored connections) before
    /// [`Firewall::attach`](crate::Firewall::attach) lets packets flow.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn make_engine(&self) -> Result<Engine, Error> {
        Engine::new(self.engine.clone())
    }

    /// How eagerly workers poll, and how often they look around.
    pub fn worker(mut self, change: impl FnOnce(&mut worker::Config)) -> Self {
        change(&mut self.worker);
        self
    }
}
