//! From interface names to bound sockets: loads and attaches the programs, shares one UMEM between
//! the sockets of all queues, reads the modes back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_bpf::{Attach, AttachMode, Counters, EarlyDrop, Interface, Program, Settings};
use xsk_rs::config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig};

use super::config::{Config, Layout, Mode, ModePolicy, Obtained};
use super::ledger::PortId;
use super::queue::QueuePort;
use super::rings::KernelRings;
use super::sys::{self, Statistics};
use super::umem::{SharedUmem, os_error};
use super::{Error, XdpPort};
use crate::frame::FramePool;

/// What [`open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// The interfaces in the order in which they were named.
    pub interfaces: Vec<OpenInterface>,
    /// All frames of the UMEM. Split it among the workers ([`FramePool::split`]); a queue needs a
    /// fill ring's worth to start with.
    pub pool: FramePool,
    /// Why the preferred mode was not to be had, if it was not.
    pub refused: Option<Error>,
    /// Keeps the programs attached.
    pub guard: Guard,
}

/// One interface with a port for each queue.
#[derive(Debug)]
pub struct OpenInterface {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// What the kernel reports.
    pub mode: Obtained,
    /// One port for each receive queue, in order.
    pub ports: Vec<XdpPort>,
}

/// Holds what must live as long as packets are to flow: the programs on the interfaces. Dropping it
/// takes them off, so that packets go to the host's stack again, unless [`Config::pins`] says that
/// they stay. The kernel takes tens of milliseconds for that, so do not drop it on a worker's thread
/// that has other ports to serve.
///
/// A queue is free for others once both its port and the guard are gone. A process that dies takes
/// all of it along, however it dies, except for what is pinned.
#[derive(Debug)]
pub struct Guard {
    interfaces: Vec<Guarded>,
}

#[derive(Debug)]
struct Guarded {
    interface: Interface,
    program: Program,
    sockets: Vec<OwnedFd>,
    _promiscuous: Option<OwnedFd>,
}

impl Guard {
    /// Takes the programs off the interfaces for good, pinned or not.
    pub fn detach(&mut self) {
        for on in &mut self.interfaces {
            on.program.detach();
        }
    }

    /// The interfaces that are gone (from the calling thread's network namespace), as with a pod that
    /// was deleted. Their ports receive and send nothing any more, also if interfaces of their names
    /// come again: drop ports and guard, and [`open`] anew. One system call each.
    pub fn vanished(&self) -> impl Iterator<Item = &str> {
        let gone = |on: &&Guarded| !on.interface.exists();
        self.interfaces.iter().filter(gone).map(|on| on.interface.name())
    }

    /// The early-drop set of an interface's program ([`Config::early_drop_capacity`]); `None` if there
    /// is no such interface.
    pub fn early_drop(&self, interface: &str) -> Option<&EarlyDrop> {
        let on = self.interfaces.iter().find(|on| on.interface.name() == interface)?;
        Some(on.program.early_drop())
    }

    /// What the program on each interface counted.
    ///
    /// # Errors
    /// A failed system call.
    pub fn program_counters(&self) -> Result<Vec<(&str, Counters)>, Error> {
        let mut all = Vec::with_capacity(self.interfaces.len());
        for on in &self.interfaces {
            all.push((on.interface.name(), on.program.counters()?));
        }
        Ok(all)
    }

    /// What the kernel counted on each socket: interface, queue, statistics.
    ///
    /// # Errors
    /// A failed system call.
    pub fn statistics(&self) -> std::io::Result<Vec<(&str, u32, Statistics)>> {
        let mut all = Vec::new();
        for on in &self.interfaces {
            for (queue, socket) in (0..).zip(&on.sockets) {
                all.push((on.interface.name(), queue, sys::statistics(socket.as_fd())?));
            }
        }
        Ok(all)
    }
}

/// Opens all queues of `interfaces` in the calling thread's network namespace.
///
/// Takes some milliseconds for each interface, and up to [`Config::busy_wait`] for one that is being
/// let go of.
///
/// # Errors
/// [`Error`] says what was refused and what to do; nothing stays attached or bound.
pub fn open(interfaces: &[&str], config: &Config) -> Result<Opened, Error> {
    if interfaces.is_empty() {
        return Err(Error::Config("no interface".to_owned()));
    }
    let mut found = Vec::with_capacity(interfaces.len());
    for name in interfaces {
        if found.iter().any(|other: &Interface| other.name() == *name) {
            return Err(Error::Config(format!("interface {name}: named twice")));
        }
        let interface = Interface::by_name(name)?;
        if interface.tx_queues() < interface.rx_queues() {
            return Err(Error::UnequalQueues {
                interface: (*name).to_owned(),
                rx: interface.rx_queues(),
                tx: interface.tx_queues(),
            });
        }
        found.push(interface);
    }
    let mut refused = None;
    let attempts = attempts(config.mode);
    for (n, attempt) in attempts.iter().enumerate() {
        match attempt.open(&found, config) {
            Ok((interfaces, pool, guard)) => {
                return Ok(Opened { interfaces, pool, refused, guard });
            }
            Err(error) if error.is_about_mode() && n + 1 < attempts.len() => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the last attempt answers");
}

/// One way to open, from the best to the least.
struct Attempt {
    attach: Attach,
    bind: BindFlags,
    /// The mode that must come of it, if any.
    required: Option<Mode>,
}

fn attempts(policy: ModePolicy) -> Vec<Attempt> {
    let attempt = |attach, bind, required| Attempt { attach, bind, required };
    let (zero, copy) = (BindFlags::XDP_ZEROCOPY, BindFlags::XDP_COPY);
    match policy {
        ModePolicy::Require(mode @ Mode::ZeroCopy) => {
            vec![attempt(Attach::Native, zero, Some(mode))]
        }
        ModePolicy::Require(mode @ Mode::Copy) => vec![attempt(Attach::Native, copy, Some(mode))],
        ModePolicy::Require(Mode::Generic) | ModePolicy::Prefer(Mode::Generic) => {
            vec![attempt(Attach::Generic, copy, Some(Mode::Generic))]
        }
        ModePolicy::Prefer(Mode::ZeroCopy) => vec![
            attempt(Attach::Native, zero, Some(Mode::ZeroCopy)),
            attempt(Attach::PreferNative, copy, None),
        ],
        ModePolicy::Prefer(Mode::Copy) => vec![
            attempt(Attach::Native, copy, Some(Mode::Copy)),
            attempt(Attach::PreferNative, copy, None),
        ],
    }
}

impl Attempt {
    fn open(
        &self,
        interfaces: &[Interface],
        config: &Config,
    ) -> Result<(Vec<OpenInterface>, FramePool, Guard), Error> {
        let deadline = Instant::now() + config.busy_wait;
        let mtu = interfaces.iter().map(Interface::mtu).max().unwrap_or(0);
        let layout = config.layout(mtu)?;
        let queues = interfaces.iter().map(Interface::rx_queues).sum();
        let (umem, pool) = SharedUmem::new(config, layout, config.chunks(queues)?)?;
        let mut opened = Vec::with_capacity(interfaces.len());
        let mut guard = Guard { interfaces: Vec::with_capacity(interfaces.len()) };
        let pins = config.pins.as_deref();
        let mut next_port = 0;
        for interface in interfaces {
            let mut program = Program::load(
                interface,
                &Settings {
                    failure: config.failure,
                    stale_after: config.stale_after,
                    early_drop_capacity: config.early_drop_capacity,
                    bypass_to: bypass_to(interface, interfaces),
                },
            )?;
            let mut ports = Vec::with_capacity(interface.rx_queues() as usize);
            let mut sockets = Vec::with_capacity(interface.rx_queues() as usize);
            let mut zero_copy = true;
            for queue in 0..interface.rx_queues() {
                let rings =
                    retry(deadline, || self.bind(interface.name(), queue, config, layout, &umem))?;
                let socket = rings.socket();
                zero_copy &= read_zero_copy(interface.name(), queue, socket)?;
                program.set_socket(queue, socket)?;
                sockets.push(socket.try_clone_to_owned().map_err(|source| Error::Socket {
                    interface: interface.name().to_owned(),
                    queue,
                    source,
                })?);
                let id = PortId(next_port);
                next_port += 1;
                ports.push(QueuePort::new(
                    rings,
                    pool.umem().clone(),
                    umem.ledger.clone(),
                    id,
                    Some(program.heartbeat(queue)?),
                    config.rings.fill as usize,
                ));
            }
            // Last, so that whoever holds the queues is not disturbed by an attempt that fails.
            let attached = retry(deadline, || {
                program.attach(interface, self.attach, pins).map_err(Error::from)
            })?;
            let promiscuous = match config.promiscuous {
                true => Some(promiscuous(interface)?),
                false => None,
            };
            let mode = Obtained { attach: attached, zero_copy };
            self.check(interface.name(), mode)?;
            let name = interface.name().to_owned();
            guard.interfaces.push(Guarded {
                interface: interface.clone(),
                program,
                sockets,
                _promiscuous: promiscuous,
            });
            opened.push(OpenInterface { name, mtu: interface.mtu(), mode, ports });
        }
        Ok((opened, pool, guard))
    }

    fn bind(
        &self,
        interface: &str,
        queue: u32,
        config: &Config,
        layout: Layout,
        umem: &SharedUmem,
    ) -> Result<KernelRings, Error> {
        let size = |size| {
            QueueSize::new(size).map_err(|error| Error::Config(format!("ring size: {error}")))
        };
        let mut flags = self.bind | BindFlags::XDP_USE_NEED_WAKEUP;
        if layout.multi_buffer {
            flags |= BindFlags::XDP_USE_SG;
        }
        let socket = SocketConfig::builder()
            .rx_queue_size(size(config.rings.rx)?)
            .tx_queue_size(size(config.rings.tx)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let name = interface
            .parse()
            .map_err(|_| Error::Config(format!("interface {interface}: not a name")))?;
        let zero_copy = self.bind.contains(BindFlags::XDP_ZEROCOPY);
        let failed = |source| Error::bind(interface, queue, zero_copy, layout.multi_buffer, source);
        // SAFETY: the program load is inhibited, which is what sharing asks for.
        let (tx, rx, pair) = unsafe { xsk_rs::Socket::new(socket, &umem.xsk, &name, queue) }
            .map_err(|error| failed(os_error(&error)))?;
        // No pair means that this UMEM already is on this queue.
        let pair = pair.ok_or_else(|| failed(std::io::Error::from_raw_os_error(libc::EBUSY)))?;
        let rings = KernelRings::new(
            (tx, rx),
            pair,
            umem.xsk.clone(),
            umem.descriptors.clone(),
            layout.chunk_size,
            config.rings.tx,
            config.busy_poll.is_some(),
        );
        sys::close_on_exec(rings.socket()).map_err(failed)?;
        // Older kernels keep their budget: slower, not wrong.
        let _ = sys::set_tx_budget(rings.socket(), config.rings.tx.min(256));
        if let Some(busy_poll) = config.busy_poll {
            sys::set_busy_poll(rings.socket(), busy_poll).map_err(|source| Error::BusyPoll {
                interface: interface.to_owned(),
                queue,
                source,
            })?;
        }
        Ok(rings)
    }

    fn check(&self, interface: &str, obtained: Obtained) -> Result<(), Error> {
        let Some(required) = self.required else { return Ok(()) };
        let met = match required {
            Mode::ZeroCopy => obtained.attach == AttachMode::Native && obtained.zero_copy,
            Mode::Copy => obtained.attach == AttachMode::Native && !obtained.zero_copy,
            Mode::Generic => obtained.attach == AttachMode::Generic,
        };
        if met {
            return Ok(());
        }
        Err(Error::ModeNotObtained { interface: interface.to_owned(), required, obtained })
    }
}

fn read_zero_copy(interface: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<bool, Error> {
    sys::is_zero_copy(socket).map_err(|source| Error::Socket {
        interface: interface.to_owned(),
        queue,
        source,
    })
}

fn promiscuous(interface: &Interface) -> Result<OwnedFd, Error> {
    sys::promiscuous(interface.index()).map_err(|source| Error::NotPermitted {
        what: format!("interface {}: making it promiscuous", interface.name()),
        source,
    })
}

/// The other port of a wire that no bridge beneath connects: failure mode open has to.
fn bypass_to(interface: &Interface, all: &[Interface]) -> Option<u32> {
    let [one, two] = all else { return None };
    let other = if one == interface { two } else { one };
    (!one.has_master() && !two.has_master()).then(|| other.index())
}

/// Repeats what fails because a predecessor has not quite let go yet.
fn retry<T>(deadline: Instant, mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match call() {
            Err(error) if error.is_busy() && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            answer => return answer,
        }
    }
}
