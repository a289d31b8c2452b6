//! Loading the program, attaching it through a link, and reaching its maps.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle, ObjectBuilder, OpenObject, PrintLevel};

use crate::early_drop::EarlyDrop;
use crate::heartbeat::{Beats, Heartbeat};
use crate::link::Link;
use crate::sys;
use crate::{Attach, AttachMode, Counters, Error, FailureMode, Interface, Settings};

/// The compiled program.
static OBJECT: &[u8] = include_bytes!("portcullis.bpf.o");

/// The program behind the XDP program on wires.
const BYPASS: &str = "portcullis_bypass";

/// Above this MTU packets may come in several buffers. Drivers put the limit of one buffer between
/// 3,000 and 3,520 bytes.
const SINGLE_BUFFER_MTU: u32 = 3000;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const GENERIC_FLAG: u32 = 1 << 1;
const NATIVE_FLAG: u32 = 1 << 2;
/// `XDP_ATTACHED_DRV` and `XDP_ATTACHED_SKB` of linux/if_link.h.
const ATTACHED_NATIVE: u8 = 1;
const ATTACHED_GENERIC: u8 = 2;

/// One loaded instance of the program, with maps of its own, attached or not. Dropping it detaches.
#[derive(Debug)]
pub struct Program {
    link: Option<Link>,
    bypass_link: Option<Link>,
    program: OwnedFd,
    bypass: Option<OwnedFd>,
    sockets: MapHandle,
    counters: MapHandle,
    beats: Arc<Beats>,
    early_drop: EarlyDrop,
    queues: u32,
}

impl Program {
    /// Loads an instance for `interface`, with a slot for each of its receive queues. Until the
    /// first heartbeat the failure mode holds. A few milliseconds.
    ///
    /// # Errors
    /// [`Error::NotPermitted`], [`Error::OldKernel`] or, with what the verifier said,
    /// [`Error::Load`].
    pub fn load(interface: &Interface, settings: &Settings) -> Result<Self, Error> {
        let entry =
            if interface.mtu() > SINGLE_BUFFER_MTU { "portcullis_frags" } else { "portcullis" };
        let queues = interface.rx_queues();
        let mut object = open()?;
        configure(&mut object, settings, queues)
            .map_err(|error| load_error(sys::os_error(&error)))?;
        let bypass = settings.failure == FailureMode::Open && settings.bypass_to.is_some();
        for mut program in object.progs_mut() {
            let chosen = program.name() == entry || (bypass && program.name() == BYPASS);
            program.set_autoload(chosen);
        }
        take_log();
        let object = object.load().map_err(|error| load_error(sys::os_error(&error)))?;

        let map = |name: &str| {
            let map = object.maps().find(|map| map.name() == name);
            map.ok_or_else(|| load_error(io::ErrorKind::NotFound.into())).and_then(|map| {
                MapHandle::try_from(&map).map_err(|error| load_error(sys::os_error(&error)))
            })
        };
        let (sockets, counters, beats) = (map("sockets")?, map("counters")?, map("beats")?);
        let early_drop = EarlyDrop::new(
            map("early_drop_ipv4")?,
            map("early_drop_ipv6")?,
            settings.early_drop_capacity,
        );
        let program = |name: &str| {
            let program = object.progs().find(|program| program.name() == name);
            let program = program.ok_or_else(|| load_error(io::ErrorKind::NotFound.into()))?;
            program.as_fd().try_clone_to_owned().map_err(load_error)
        };
        let bypass = if bypass { Some(program(BYPASS)?) } else { None };
        let program = program(entry)?;
        let beats = Arc::new(Beats::map(beats.as_fd(), queues)?);
        Ok(Self {
            link: None,
            bypass_link: None,
            program,
            bypass,
            sockets,
            counters,
            beats,
            early_drop,
            queues,
        })
    }

    /// Attaches the program; answers the mode obtained, as the kernel reports it.
    ///
    /// With `pins`, a folder of a BPF file system, the program outlives the process: it stays on the
    /// interface until [`Program::detach`] or until its files there are removed, and does what the
    /// failure mode says meanwhile. A program that a predecessor left there is replaced without a
    /// packet seeing none.
    ///
    /// # Errors
    /// [`Error::Occupied`], [`Error::MtuTooLarge`], [`Error::NativeUnsupported`],
    /// [`Error::TooFewQueues`], [`Error::NotPermitted`]; [`Error::Pin`] if `pins` is no place to pin.
    /// [`Attach::PreferNative`] answers the error of the native attempt unless the driver merely
    /// lacks native XDP.
    pub fn attach(
        &mut self,
        interface: &Interface,
        attach: Attach,
        pins: Option<&Path>,
    ) -> Result<AttachMode, Error> {
        let link = |flags| self.link(interface, flags, pins);
        let link = match attach {
            Attach::Native => link(NATIVE_FLAG)?,
            Attach::Generic => link(GENERIC_FLAG)?,
            Attach::PreferNative => match link(NATIVE_FLAG) {
                Err(Error::NativeUnsupported { .. }) => link(GENERIC_FLAG)?,
                answer => answer?,
            },
        };
        self.link = Some(link);
        if let Some(bypass) = &self.bypass {
            let attach = || {
                sys::link_tc(bypass.as_fd(), interface.index())
                    .map_err(|source| bypass_error(interface, source))
            };
            self.bypass_link =
                Some(Link::obtain(bypass.as_fd(), interface, "bypass", pins, attach)?);
        }
        let what = || format!("interface {}: reading the attach mode back", interface.name());
        match sys::attached_mode(interface.index()) {
            Ok(ATTACHED_NATIVE) => Ok(AttachMode::Native),
            Ok(ATTACHED_GENERIC) => Ok(AttachMode::Generic),
            Ok(other) => Err(Error::System {
                what: what(),
                source: io::Error::other(format!("the kernel says {other}")),
            }),
            Err(source) => Err(Error::system(what(), source)),
        }
    }

    /// Takes the program off the interface, also where it was to outlive the process.
    pub fn detach(&mut self) {
        for link in [self.link.take(), self.bypass_link.take()].into_iter().flatten() {
            link.remove();
        }
    }

    /// Takes back what [`Program::attach`] did: as [`Program::detach`], except that a link which a
    /// predecessor had pinned stays where it was.
    pub fn undo(&mut self) {
        for link in [self.link.take(), self.bypass_link.take()].into_iter().flatten() {
            link.undo();
        }
    }

    /// Hands the packets of `queue` to `socket` from now on.
    ///
    /// # Errors
    /// [`Error::NoSuchQueue`]; [`Error::System`] if it is no AF_XDP socket with an RX ring.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        if queue >= self.queues {
            return Err(Error::NoSuchQueue { queue, queues: self.queues });
        }
        let value = socket.as_raw_fd().to_ne_bytes();
        self.sockets.update(&queue.to_ne_bytes(), &value, MapFlags::ANY).map_err(|error| {
            Error::system(format!("steering queue {queue} to its socket"), sys::os_error(&error))
        })
    }

    /// The heartbeat of `queue`.
    ///
    /// # Errors
    /// [`Error::NoSuchQueue`].
    pub fn heartbeat(&self, queue: u32) -> Result<Heartbeat, Error> {
        Heartbeat::new(&self.beats, queue)
    }

    /// The set of source prefixes that are dropped at once.
    pub fn early_drop(&self) -> &EarlyDrop {
        &self.early_drop
    }

    /// Number of queues that the program serves.
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Reads all counters. Two dozen system calls.
    ///
    /// # Errors
    /// A failed system call.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        for slot in 0..Counters::SLOTS {
            let key = (slot as u32).to_ne_bytes();
            let values = self.counters.lookup_percpu(&key, MapFlags::ANY).map_err(|error| {
                Error::system("reading the program's counters", sys::os_error(&error))
            })?;
            for value in values.iter().flatten() {
                counters.add(slot, value);
            }
        }
        Ok(counters)
    }

    /// Runs the program once over `packet`, in the kernel but on no interface, as received on queue
    /// 0: for tests. Answers the XDP action and the packet as the program left it.
    ///
    /// # Errors
    /// A failed system call; the kernel takes packets from 14 bytes to about a page.
    pub fn test_run(&self, packet: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        sys::test_run(self.program.as_fd(), packet)
            .map_err(|source| Error::system("running the program on a test packet", source))
    }

    fn link(&self, interface: &Interface, flags: u32, pins: Option<&Path>) -> Result<Link, Error> {
        let program = self.program.as_fd();
        let attach = || {
            sys::link_xdp(program, interface.index(), flags)
                .map_err(|source| attach_error(interface, flags, source))
        };
        Link::obtain(program, interface, "xdp", pins, attach)
    }
}

fn open() -> Result<OpenObject, Error> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_log)));
    });
    take_log();
    ObjectBuilder::default().open_memory(OBJECT).map_err(|error| load_error(sys::os_error(&error)))
}

fn configure(
    object: &mut OpenObject,
    settings: &Settings,
    queues: u32,
) -> Result<(), libbpf_rs::Error> {
    let early_drop = settings.early_drop_capacity;
    for mut map in object.maps_mut() {
        match map.name().to_str() {
            Some("sockets" | "beats") => map.set_max_entries(queues)?,
            Some("early_drop_ipv4" | "early_drop_ipv6") => {
                map.set_max_entries(early_drop.max(1))?
            }
            Some(name) if name.ends_with(".rodata") => {
                let open = u32::from(settings.failure == FailureMode::Open);
                let stale = settings.stale_after.max(Duration::from_millis(10)).as_nanos();
                let stale = i64::try_from(stale).unwrap_or(i64::MAX);
                let mut value = Vec::with_capacity(24);
                value.extend(open.to_ne_bytes());
                value.extend(u32::from(early_drop > 0).to_ne_bytes());
                value.extend(stale.to_ne_bytes());
                value.extend(settings.bypass_to.unwrap_or(0).to_ne_bytes());
                map.set_initial_value(&value)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn attach_error(interface: &Interface, flags: u32, source: io::Error) -> Error {
    let name = interface.name().to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => Error::Occupied { interface: name, source },
        Some(libc::ERANGE) => Error::MtuTooLarge { interface: name, mtu: interface.mtu(), source },
        Some(libc::ENOSPC) => Error::TooFewQueues { interface: name, source },
        Some(libc::ENODEV) => Error::UnknownInterface { name },
        Some(libc::EOPNOTSUPP | libc::EINVAL) if flags == NATIVE_FLAG => {
            Error::NativeUnsupported { interface: name, source }
        }
        _ => Error::system(format!("interface {name}: attaching the XDP program"), source),
    }
}

fn bypass_error(interface: &Interface, source: io::Error) -> Error {
    let what = format!(
        "interface {}: attaching the bypass of failure mode open, which a wire without a bridge needs",
        interface.name()
    );
    match source.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Error::OldKernel { what, source },
        _ => Error::system(what, source),
    }
}

fn load_error(source: io::Error) -> Error {
    let log = take_log();
    match source.raw_os_error() {
        // The verifier's word for a program that it does not like; without CAP_PERFMON it dislikes
        // arithmetic on pointers.
        Some(libc::EACCES) if !log.is_empty() && !log.contains("pointer") => {
            Error::Load { log, source }
        }
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
            Error::system("loading the XDP program", source)
        }
        _ => Error::Load { log, source },
    }
}

thread_local! {
    /// What libbpf said during the call in progress on this thread.
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

fn keep_log(_: PrintLevel, message: String) {
    const LOG_LIMIT: usize = 4096;
    LOG.with_borrow_mut(|log| {
        if log.len() < LOG_LIMIT {
            log.push_str(&message);
        }
    });
}

fn take_log() -> String {
    LOG.take().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_to_attach_are_told_apart() {
        let interface = Interface::by_name("lo").unwrap();
        let said = |errno, flags| {
            let error = attach_error(&interface, flags, io::Error::from_raw_os_error(errno));
            assert!(errno == libc::ENODEV || error.errno() == Some(errno));
            error.to_string()
        };
        for (errno, words) in [
            (libc::EBUSY, "another XDP program"),
            (libc::EEXIST, "another XDP program"),
            (libc::ERANGE, "MTU 65536 is too large"),
            (libc::ENOSPC, "ethtool -L lo"),
            (libc::ENODEV, "no such interface"),
            (libc::EOPNOTSUPP, "use generic mode"),
            (libc::EPERM, "CAP_NET_ADMIN"),
            (libc::EIO, "attaching the XDP program"),
        ] {
            let text = said(errno, NATIVE_FLAG);
            assert!(text.contains(words) && text.contains("lo"), "{errno}: {text}");
        }
        assert!(!said(libc::EOPNOTSUPP, GENERIC_FLAG).contains("use generic mode"));
    }
}
