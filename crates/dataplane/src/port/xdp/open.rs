//! From interface names to bound sockets: loads and attaches the programs, shares one UMEM between
//! the sockets of all queues, reads the modes back.

use std::thread;
use std::time::{Duration, Instant};

use portcullis_bpf::{Attach, AttachMode, Interface, Settings};
use xsk_rs::config::BindFlags;

use super::bind::Binder;
use super::config::{Config, Mode, ModePolicy, Obtained};
use super::guard::{Guard, Guarded};
use super::ledger::PortId;
use super::memory::{self, Memory};
use super::queue::QueuePort;
use super::sys;
use super::umem::SharedUmem;
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
    /// The packet memory, which it shares with the others.
    pub memory: Memory,
    /// One port for each receive queue, in order.
    pub ports: Vec<XdpPort>,
}

/// Opens all queues of `interfaces` in the calling thread's network namespace.
///
/// Takes some milliseconds for each interface, 10 to 30 more if it is the first that needs a program
/// like this ([`Config::programs`]), and up to [`Config::busy_wait`] for one that is being let go of.
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
    let (preferred, last) = attempts(config.mode);
    let refused = match preferred.map(|attempt| attempt.open(&found, config)) {
        Some(Ok((interfaces, pool, guard))) => {
            return Ok(Opened { interfaces, pool, refused: None, guard });
        }
        Some(Err(error)) if error.is_about_mode() => Some(error),
        Some(Err(error)) => return Err(error),
        None => None,
    };
    let (interfaces, pool, guard) = last.open(&found, config)?;
    Ok(Opened { interfaces, pool, refused, guard })
}

/// One way to open.
struct Attempt {
    attach: Attach,
    bind: BindFlags,
    /// The mode that must come of it, if any.
    required: Option<Mode>,
}

/// What to try first, if anything, and what to try last.
fn attempts(policy: ModePolicy) -> (Option<Attempt>, Attempt) {
    let exactly = |mode| {
        let (attach, bind) = match mode {
            Mode::ZeroCopy => (Attach::Native, BindFlags::XDP_ZEROCOPY),
            Mode::Copy => (Attach::Native, BindFlags::XDP_COPY),
            Mode::Generic => (Attach::Generic, BindFlags::XDP_COPY),
        };
        Attempt { attach, bind, required: Some(mode) }
    };
    match policy {
        ModePolicy::Require(mode) | ModePolicy::Prefer(mode @ Mode::Generic) => {
            (None, exactly(mode))
        }
        ModePolicy::Prefer(mode) => {
            let (attach, bind) = (Attach::PreferNative, BindFlags::XDP_COPY);
            (Some(exactly(mode)), Attempt { attach, bind, required: None })
        }
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
        let node = memory::wanted_node(config.numa, interfaces)?;
        let (umem, pool) = SharedUmem::new(config, layout, config.chunks(queues)?, node)?;
        let binder = Binder { config, layout, umem: &umem, mode: self.bind };
        let mut guard = Guard::default();
        let mut next_port = (0..).map(PortId);
        let opened: Result<Vec<_>, _> = interfaces
            .iter()
            .map(|interface| {
                let program = config.programs.load(
                    interface,
                    &Settings {
                        failure: config.failure,
                        stale_after: config.stale_after,
                        early_drop_capacity: config.early_drop_capacity,
                        bypass_to: bypass_to(interface, interfaces),
                    },
                )?;
                let mut on = Guarded::new(interface, program);
                let opened = self.open_one(&mut on, &binder, &pool, &mut next_port, deadline);
                guard.interfaces.push(on);
                opened
            })
            .collect();
        match opened {
            Ok(opened) => Ok((opened, pool, guard)),
            Err(error) => {
                guard.undo();
                Err(error)
            }
        }
    }

    /// Binds all queues of an interface, then attaches its program.
    fn open_one(
        &self,
        on: &mut Guarded,
        binder: &Binder<'_>,
        pool: &FramePool,
        next_port: &mut impl Iterator<Item = PortId>,
        deadline: Instant,
    ) -> Result<OpenInterface, Error> {
        let Guarded { interface, program, sockets, promiscuous, .. } = on;
        let config = binder.config;
        let name = interface.name().to_owned();
        let mut ports = Vec::with_capacity(interface.rx_queues() as usize);
        let mut zero_copy = true;
        for (queue, id) in (0..interface.rx_queues()).zip(next_port) {
            let rings = retry(deadline, || binder.bind(interface, queue))?;
            zero_copy &= rings.zero_copy;
            program.set_socket(queue, rings.socket())?;
            sockets.push(rings.socket().try_clone_to_owned().map_err(|source| Error::Socket {
                interface: name.clone(),
                queue,
                source,
            })?);
            let (memory, ledger) = (pool.umem().clone(), binder.umem.ledger.clone());
            let heartbeat = Some(program.heartbeat(queue)?);
            let fill = config.fill_target() as usize;
            ports.push(QueuePort::new(rings, memory, ledger, id, heartbeat, fill));
        }
        if config.promiscuous {
            let what = || format!("interface {name}: making it promiscuous");
            *promiscuous = Some(
                sys::promiscuous(interface.index())
                    .map_err(|source| Error::NotPermitted { what: what(), source })?,
            );
        }
        // Last, so that whoever holds the queues is not disturbed by an attempt that fails.
        let pins = config.pins.as_deref();
        let attach =
            retry(deadline, || program.attach(interface, self.attach, pins).map_err(Error::from))?;
        let mode = Obtained { attach, zero_copy };
        self.check(&name, mode)?;
        let memory = binder.umem.memory.clone();
        Ok(OpenInterface { name, mtu: interface.mtu(), mode, memory, ports })
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

/// The other port of a wire that no bridge beneath connects: failure mode open has to.
fn bypass_to(interface: &Interface, all: &[Interface]) -> Option<u32> {
    let [one, two] = all else { return None };
    let other = if one == interface { two } else { one };
    (!one.has_master() && !two.has_master()).then(|| other.index())
}

/// Repeats what fails because a predecessor has not quite let go yet.
pub(super) fn retry<T>(
    deadline: Instant,
    mut call: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match call() {
            Err(error) if error.is_busy() && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            answer => return answer,
        }
    }
}
