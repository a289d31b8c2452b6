//! A running firewall: interfaces and workers around an [`Engine`].

mod attached;
mod config;
mod descriptors;
mod topology;

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use portcullis_dataplane::port::xdp::{self, LinkState, Obtained};
use portcullis_dataplane::topology::Wire;
use portcullis_dataplane::worker::{Handle, Worker, prioritise};
use portcullis_identity_table::endpoint::ClusterState;
use portcullis_policy::model::PolicySet;

use crate::{Engine, Error, affinity, mirror_port};
pub(crate) use attached::Attached;
pub use config::Config;
pub use topology::Topology;

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
    /// How interfaces are opened.
    ports: xdp::Config,
    /// In the order in which they were added. Locked for moments, and to ask the kernel.
    pub(crate) wires: RwLock<Vec<Attached>>,
    /// Held while a wire is added or removed, which takes milliseconds.
    pub(crate) changing: Mutex<()>,
    /// Prefixes for the kernel to drop, also on wires to come.
    pub(crate) early_drop: Mutex<Vec<IpNet>>,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    thread: Option<JoinHandle<Vec<Wire>>>,
    cpu: Option<usize>,
    nice: i8,
}

/// One interface in use.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// The name of its wire.
    pub wire: String,
    /// The mode that the kernel reports.
    pub mode: Obtained,
    /// Queues in use: all it has.
    pub queues: usize,
    /// MTU in bytes.
    pub mtu: u32,
    /// The packet memory of it and of the other interfaces of its wire.
    pub memory: xdp::Memory,
}

/// An interface is not what it was: see [`Firewall::port_changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// The interface.
    pub name: String,
    /// The name of its wire.
    pub wire: String,
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
        let engine = config.make_engine()?;
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
        let mut firewall = Self {
            engine,
            workers: Vec::new(),
            // Loaded programs and the early-drop set are its own, also if others have the same settings.
            ports: xdp::Config { programs: xdp::Programs::default(), ..config.ports },
            wires: RwLock::default(),
            changing: Mutex::default(),
            early_drop: Mutex::default(),
        };
        descriptors::make_room(firewall.engine.event_fd());
        let mut cpus = config.cpus.iter().copied().cycle();
        let workers = (0..config.workers.max(1)).map(|_| firewall.engine.worker(config.worker));
        let mut workers: Vec<Worker> = workers.collect::<Result<_, Error>>()?;
        if let Some(interface) = &config.mirror {
            mirror_port::open(interface, &mut workers, &config.wires, &firewall.ports)?;
        }
        for worker in workers {
            firewall.workers.push(Running::start(worker, cpus.next(), config.nice)?);
        }
        for wire in config.wires {
            firewall.add_wire(wire)?;
        }
        Ok(firewall)
    }

    /// Opens the interfaces of a wire, hairpin or switch in the calling thread's network namespace and
    /// gives them to the workers. Packets flow through it when this returns; those of other wires do
    /// not wait. Some milliseconds, 10 to 30 more for the first; a wire that is added meanwhile waits.
    ///
    /// Where one of its interfaces has vanished since (its pod was deleted, and another came), a wire
    /// of the same name is replaced.
    ///
    /// # Errors
    /// [`Error::WireExists`], [`Error::InterfaceInUse`], or what is wrong with an interface; nothing
    /// has changed then.
    pub fn add_wire(&self, wire: Topology) -> Result<(), Error> {
        let _changing = self.changing.lock();
        self.make_room(&wire)?;
        let mut opened = wire.open(&self.ports)?;
        let interfaces = std::mem::take(&mut opened.interfaces);
        let mut attached = Attached::new(&wire, &interfaces, opened.refused, opened.guard);
        let dropping = self.drop_early(&attached);
        let joined = dropping.and_then(|_| wire.join(interfaces, opened.pool));
        let wires = joined.inspect_err(|_| attached.guard.detach())?;
        let mut load = self.load();
        for wire in wires {
            let (worker, pieces) =
                load.iter_mut().enumerate().min_by_key(|(_, pieces)| **pieces).expect("a worker");
            *pieces += 1;
            attached.pieces.push((worker, wire.name.clone()));
            self.workers[worker].handle.add(wire);
        }
        self.wires.write().push(attached);
        Ok(())
    }

    /// Takes a wire, hairpin or switch out, by its name: waits a short while for frames in transmission,
    /// takes the programs off its interfaces, pinned or not, and gives back all memory. Connections
    /// that ran through it stay in the table until they time out. 10 to 30 milliseconds, for which the
    /// kernel waits for all CPUs; neither other wires nor those that are added meanwhile wait.
    ///
    /// # Errors
    /// [`Error::NoSuchWire`].
    pub fn remove_wire(&self, name: &str) -> Result<(), Error> {
        match self.remove_wires(&[name]).is_empty() {
            true => Err(Error::NoSuchWire { name: name.to_owned(), known: self.wire_names() }),
            false => Ok(()),
        }
    }

    /// As [`Firewall::remove_wire`], for many in little more time than for one. Answers the names of those
    /// that were there.
    pub fn remove_wires(&self, names: &[&str]) -> Vec<String> {
        self.remove_those(|wire| names.contains(&wire.name.as_str()))
    }

    fn remove_those(&self, which: impl Fn(&Attached) -> bool) -> Vec<String> {
        let changing = self.changing.lock();
        let mut gone: Vec<_> = self.wires.write().extract_if(.., |wire| which(wire)).collect();
        gone.iter_mut().for_each(|wire| self.let_go(wire));
        // The kernel takes its time with the sockets; who adds another wire need not wait for that.
        drop(changing);
        let names = gone.iter().map(|wire| wire.name.clone()).collect();
        xdp::drop_together(gone);
        names
    }

    /// The names of its wires, hairpins and switches, in the order in which they were added.
    pub fn wire_names(&self) -> Vec<String> {
        self.wires.read().iter().map(|wire| wire.name.clone()).collect()
    }

    /// Refuses a wire that cannot be beside those that are there; lets go of one whose place it takes.
    fn make_room(&self, wire: &Topology) -> Result<(), Error> {
        let clash = |other: &Attached| {
            other.name == wire.name() || wire.interfaces().iter().any(|name| other.uses(name))
        };
        loop {
            let mut wires = self.wires.write();
            let Some(place) = wires.iter().position(clash) else { return Ok(()) };
            let other = &wires[place];
            if !other.is_dead() {
                let both = wire.interfaces().iter().find(|name| other.uses(name));
                return Err(match both {
                    Some(interface) if other.name != wire.name() => Error::InterfaceInUse {
                        interface: interface.clone(),
                        wire: other.name.clone(),
                    },
                    _ => Error::WireExists { name: wire.name().to_owned() },
                });
            }
            let mut gone = wires.remove(place);
            drop(wires);
            self.let_go(&mut gone);
        }
    }

    /// Takes a wire from its workers and off its interfaces. No worker waits when it is dropped then, which
    /// takes longer.
    fn let_go(&self, gone: &mut Attached) {
        for (worker, piece) in gone.pieces.drain(..) {
            // A worker that has ended has let go of all.
            drop(self.workers[worker].handle.remove(&piece));
        }
        gone.guard.detach();
    }

    /// Queues that each worker serves.
    fn load(&self) -> Vec<usize> {
        let mut load = vec![0; self.workers.len()];
        for (worker, _) in self.wires.read().iter().flat_map(|wire| &wire.pieces) {
            load[*worker] += 1;
        }
        load
    }

    /// The engine: cheap to clone, and usable for as long as anybody holds it, though nothing flows
    /// once the firewall is gone.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The interfaces in use, wire by wire.
    pub fn ports(&self) -> Vec<PortInfo> {
        self.wires.read().iter().flat_map(|wire| wire.ports.clone()).collect()
    }

    /// The CPU of each worker; `None` for one that goes where the scheduler puts it.
    pub fn cpus(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.workers.iter().map(|worker| worker.cpu)
    }

    /// The nice value that each worker's thread has from the kernel.
    pub fn nice(&self) -> impl Iterator<Item = i8> + '_ {
        self.workers.iter().map(|worker| worker.nice)
    }

    /// Why the preferred mode was not to be had, if it was not: of the first wire where that was so.
    pub fn lesser_mode(&self) -> Option<String> {
        self.wires.read().iter().find_map(|wire| wire.refused.clone())
    }

    /// Which interfaces went down, came back or vanished since the last call (or since they were
    /// added): only how it is now, so nothing piles up if nobody asks. Packets of an interface that
    /// comes back flow by themselves. A wire with an interface that vanished (as when a pod is
    /// deleted) is removed here, and its memory given back; add it again when the interface is back.
    ///
    /// Two system calls an interface: ask every second or so. Any thread.
    ///
    /// # Errors
    /// A failed system call.
    pub fn port_changes(&self) -> std::io::Result<Vec<PortChange>> {
        let mut changes = Vec::new();
        for wire in self.wires.read().iter() {
            wire.changes(&mut changes)?;
        }
        let gone = |change: &&PortChange| change.state == LinkState::Gone;
        let gone: Vec<_> = changes.iter().filter(gone).map(|change| change.wire.as_str()).collect();
        if !gone.is_empty() {
            // Whoever removed or replaced it meanwhile was first.
            self.remove_those(|wire| gone.contains(&wire.name.as_str()) && wire.is_dead());
        }
        Ok(changes)
    }

    /// What the kernel counted on each socket: interface, queue, statistics.
    ///
    /// # Errors
    /// A failed system call.
    pub fn socket_statistics(&self) -> std::io::Result<Vec<(String, u32, xdp::Statistics)>> {
        let mut all = Vec::new();
        for wire in self.wires.read().iter() {
            let found = wire.guard.statistics()?;
            all.extend(found.into_iter().map(|(name, queue, of)| (name.to_owned(), queue, of)));
        }
        Ok(all)
    }

    /// What the XDP program on each interface counted: interface, counters.
    ///
    /// # Errors
    /// A failed system call.
    pub fn program_counters(&self) -> Result<Vec<(String, xdp::ProgramCounters)>, Error> {
        let mut all = Vec::new();
        for wire in self.wires.read().iter() {
            let found = wire.guard.program_counters()?;
            all.extend(found.into_iter().map(|(name, of)| (name.to_owned(), of)));
        }
        Ok(all)
    }

    /// Stops the workers and waits until they have told everything, denials that they sum up included:
    /// what is read from the engine afterwards is complete. From then on no packet passes. Dropping
    /// the firewall takes the programs off.
    pub fn stop(&self) {
        self.workers.iter().for_each(|worker| worker.handle.stop());
        let threads = || self.workers.iter().filter_map(|worker| worker.thread.as_ref());
        while threads().any(|thread| !thread.is_finished()) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
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
        let threads = self.workers.iter_mut().filter_map(|worker| worker.thread.take());
        // A worker that died has nothing more to tell.
        let wires = threads.filter_map(|thread| thread.join().ok()).flatten().collect();
        xdp::drop_together(wires);
        xdp::drop_together(std::mem::take(self.wires.get_mut()));
    }
}

impl Running {
    fn start(worker: Worker, cpu: Option<usize>, nice: i8) -> Result<Self, Error> {
        let handle = worker.handle();
        let (started, is_started) = channel();
        let thread = std::thread::Builder::new()
            .name("portcullis".into())
            .spawn(move || {
                let placed = cpu.map_or(Ok(()), affinity::pin).and_then(|()| {
                    prioritise(nice)
                        .map_err(|e| Error::System("cannot ask for a worker's share of a CPU", e))
                });
                let go_on = placed.is_ok();
                // Whoever started it has given up if it does not hear.
                let go_on = started.send(placed).is_ok() && go_on;
                if go_on { worker.run().into_wires() } else { Vec::new() }
            })
            .map_err(|e| Error::System("cannot start a worker thread", e))?;
        match is_started.recv() {
            Ok(placed) => placed.map(|nice| Self { handle, thread: Some(thread), cpu, nice }),
            Err(_) => Err(Error::System("a worker thread ended", std::io::ErrorKind::Other.into())),
        }
    }
}
